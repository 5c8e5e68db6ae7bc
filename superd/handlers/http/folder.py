"""Find what a directory has to show.

The rule of the file: an entry is there only if asking for it would be answered. What is
hidden, what is neither file nor directory, what may not be read and what leads out of
the root is left out, so that a listing tells nothing that the files do not.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers.http import files
from superd.handlers.http.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST: Final = 10_000
"""Entries looked at: a page of them takes a tenth of a second, and nobody reads more."""
_GONE: Final = frozenset({errno.ENOENT, errno.EACCES, errno.EPERM})


class Entry(NamedTuple):
    """One line: a file, or a directory, whose size says nothing and is 0."""

    name: bytes
    folder: bool
    size: int
    mtime: int


def read_folder(
    root: int, names: Sequence[bytes], rules: files.Rules, *, hidden: bool
) -> tuple[list[Entry], bool]:
    """List a directory in no order; True if it has more. Raises Refused."""
    fd = files.open_directory(root, names, rules)
    found: list[Entry] = []
    try:
        seen = 0
        with os.scandir(fd) as entries:
            for one in entries:
                name = os.fsencode(one.name)
                if name.startswith(b".") and not hidden:
                    continue
                seen += 1
                if seen > MOST:
                    return found, True
                info = _stat(fd, name)
                if info is None:
                    continue
                if stat.S_ISLNK(info.st_mode):
                    entry = _follow(root, [*names, name], info, rules)
                else:
                    entry = _describe(fd, name, info, rules.world_readable)
                if entry is not None:
                    found.append(entry)
    finally:
        os.close(fd)
    return found, False


def _stat(fd: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def _describe(
    fd: int,
    name: bytes,
    info: os.stat_result,
    everybody: bool,  # noqa: FBT001
) -> Entry | None:
    folder = stat.S_ISDIR(info.st_mode)
    if not folder and not stat.S_ISREG(info.st_mode):
        return None
    if everybody and not info.st_mode & (stat.S_IXOTH if folder else stat.S_IROTH):
        return None
    mode = os.X_OK if folder else os.R_OK
    if not os.access(name, mode, dir_fd=fd, effective_ids=True):
        return None
    return Entry(name, folder, 0 if folder else info.st_size, int(info.st_mtime))


def _follow(
    root: int,
    names: list[bytes],
    info: os.stat_result,
    rules: files.Rules,
) -> Entry | None:
    """Describe what a link leads to, found the way that a request would find it."""
    try:
        file = files.open_path(root, names, rules)
    except Refused:
        return None
    if file is None:
        return Entry(names[-1], True, 0, int(info.st_mtime))
    file.close()
    return Entry(names[-1], False, file.size, file.mtime_ns // 1_000_000_000)
