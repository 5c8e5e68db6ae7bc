"""Hold the folder that is served open, once for all connections of a process.

The rule of the file: a connection is served from the folder that its path leads to when
it begins. A folder that was replaced meanwhile (renamed, mounted over) is left to the
connections that began in it.
"""

from __future__ import annotations

import os


def open_root(path: str) -> int:
    """Open the folder that is served; it may be reached by a symbolic link."""
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


class Root:
    """A folder, open, and how many need it."""

    __slots__ = ("fd", "identity", "users")

    def __init__(self, path: str) -> None:
        self.fd = open_root(path)
        # As long as it is open, no other folder gets its number.
        self.identity = _identity(os.fstat(self.fd))
        self.users = 1


class Roots:
    """The folders that are open; one that is still the right one stays so unused."""

    def __init__(self) -> None:
        self._current: dict[str, Root] = {}

    def take(self, path: str) -> Root:
        """Return the folder of this path, for one connection. Raises OSError."""
        root = self._current.get(path)
        if root is None or root.identity != _identity(os.stat(path)):
            self._forget(path)
            root = self._current[path] = Root(path)
        root.users += 1
        return root

    def give_back(self, root: Root) -> None:
        """Say that a connection is over."""
        root.users -= 1
        if not root.users:
            os.close(root.fd)

    def close(self) -> None:
        """Keep nothing open that no connection needs."""
        for path in list(self._current):
            self._forget(path)

    def _forget(self, path: str) -> None:
        root = self._current.pop(path, None)
        if root is not None:
            self.give_back(root)


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
