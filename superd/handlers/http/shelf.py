"""Keep the content of small files, and what lies beside them, while nobody touches them.

The rule of the file: what is kept is served only for a file that stat(2) has just found
to be the very same: device, inode, size, and both its times to the nanosecond. A change
that is younger than two seconds could fall into one tick of the file system's clock with
the next, so such a file is not kept. Who may read it shows in ctime: chmod changes it.
(Who writes through mmap changes its times late, for our tags as for everybody's.)
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from superd.handlers.http.files import File

LARGEST: Final = 16384
"""A body up to here goes out with its head in one packet or two; more by sendfile."""
ROOM: Final = 1 << 22
"""Bytes of all that is kept. A worker has one shelf for all its connections."""
NAMES: Final = 4096
"""Files of which is known what lies beside them."""
SETTLED_NS: Final = 2_000_000_000


class State(NamedTuple):
    """What makes a file the very same."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def state_of(info: os.stat_result) -> State:
    """Take it from a stat."""
    return State(
        info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
    )


class Shelf:
    """Contents by state; the oldest goes when there is no room."""

    def __init__(
        self, room: int = ROOM, clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._room = self._free = room
        self._kept: dict[State, bytes] = {}
        self._beside: dict[tuple[State, bytes], Sequence[bytes]] = {}

    def find(self, info: os.stat_result) -> bytes | None:
        """Return the content of a file that is still in this state."""
        return self._kept.get(state_of(info)) if info.st_size <= LARGEST else None

    def keep(self, file: File, content: bytes) -> None:
        """Keep what was read of an open file, if that is all and it has settled."""
        info = os.fstat(file.fd)
        if (
            len(content) != file.size
            or len(content) > min(LARGEST, self._room)
            or not self._is_settled(info)
            # Of the state that was read: it may have changed meanwhile.
            or info.st_mtime_ns != file.mtime_ns
            or info.st_size != file.size
        ):
            return
        state = state_of(info)
        self._drop(state)
        while self._free < len(content):
            self._drop(next(iter(self._kept)))
        self._kept[state] = content
        self._free -= len(content)

    def siblings(
        self, name: bytes, folder: int, endings: Sequence[bytes]
    ) -> Sequence[bytes]:
        """Return those of the endings with which there is a name beside this one.

        Whatever is made, renamed or removed in a folder changes its times.
        """
        if not endings:
            return endings
        info = os.fstat(folder)
        key = state_of(info), name
        found = self._beside.get(key)
        if found is None:
            found = [one for one in endings if _is_there(name + one, folder)]
            if self._is_settled(info):
                if len(self._beside) >= NAMES:
                    self._beside.clear()
                self._beside[key] = found
        return found

    def _is_settled(self, info: os.stat_result) -> bool:
        latest = max(info.st_mtime_ns, info.st_ctime_ns)
        return self._clock() * 1e9 - latest >= SETTLED_NS

    def _drop(self, state: State) -> None:
        self._free += len(self._kept.pop(state, b""))


def _is_there(name: bytes, folder: int) -> bool:
    """Tell whether a name exists, without the exception of a stat."""
    return os.access(name, os.F_OK, dir_fd=folder, follow_symlinks=False)


SHELF: Final = Shelf()
"""Of this process."""
