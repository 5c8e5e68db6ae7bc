"""Count the bytes that the cache has on the disk, for all of its processes.

The rule of the file: bytes are added before they are written and taken off after they are
removed. So a process that is killed leaves a number that is too large, never too small,
and the next sweep, which counts anew, puts it right. What would go beyond the limit is
refused here, as a full disk refuses it: with ENOSPC.

A number per process would not do: with a process for each connection none of them writes
enough to notice that all of them together have filled the disk.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from typing import TYPE_CHECKING, Final

from superd.handlers.cache import locks

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

NAME: Final = "ledger"
BLOCK: Final = 4096
"""What the usual file system rounds a file's size up to."""
OVERSHOOT: Final = 8
"""An eighth of the size may be written while a sweep makes room."""
COUNT: Final = 0
"""The number that is locked while the count is changed."""
SWEEP: Final = 1
"""The number that is locked for as long as a sweep takes."""
_LINE: Final = struct.Struct("<qqI")
"""Bytes in use, bytes added since the folder was made, checksum of both."""


def rounded(size: int) -> int:
    """Return how much of the disk a file of this size takes."""
    return -(-size // BLOCK) * BLOCK


class Ledger:
    """The count of one folder; the file's other numbers are the locks of keys."""

    def __init__(self, folder: str, size: int) -> None:
        """Take the size that the operator allows."""
        self.path = os.path.join(folder, NAME)
        self.size = size
        self.limit = size + size // OVERSHOOT
        self.used = 0
        """As it was when this process last looked."""

    def begin(self) -> None:
        """Say that the folder is new and empty."""
        with self._open() as fd:
            self._write(fd, 0, 0)

    def look(self) -> int:
        """Return the bytes in use. Raises OSError."""
        with self._open() as fd:
            return self._read(fd)[0]

    def key(self, digest: str) -> AbstractContextManager[int]:
        """Hold the lock of a key for as long as its record is changed."""
        return locks.held(self.path, locks.number_of(digest))

    def add(self, amount: int, fd: int = -1) -> None:
        """Count bytes that are about to be written, or those removed as a negative.

        `fd` is the ledger where it is open already. Raises OSError: ENOSPC for too many.
        """
        if fd == -1:
            with self._open() as own:
                self._add(own, amount)
            return
        locks.wait(fd, COUNT)
        try:
            self._add(fd, amount)
        finally:
            locks.release(fd, COUNT)

    def added(self) -> int:
        """Return how many bytes were ever added, for replace()."""
        with self._open() as fd:
            return self._read(fd)[1]

    def replace(self, found: int, since: int) -> None:
        """Put what a walk found in place of what was counted.

        `since` is what added() said before the walk: what was added during it may be in
        what it found or not, and is counted on top.
        """
        with self._open() as fd:
            _, added = self._read(fd)
            self._write(fd, found + max(added - since, 0), added)

    def _add(self, fd: int, amount: int) -> None:
        used, added = self._read(fd)
        if amount > 0 and used + amount > self.limit:
            raise OSError(errno.ENOSPC, "the cache has its size")
        self._write(fd, max(used + amount, 0), added + max(amount, 0))

    def _read(self, fd: int) -> tuple[int, int]:
        data = os.pread(fd, _LINE.size, 0)
        if len(data) == _LINE.size:
            used, added, check = _LINE.unpack(data)
            if check == zlib.crc32(data[:16]):
                self.used = used
                return used, added
        # Unknown is full: so somebody sweeps, and then it is known.
        self.used = self.size + 1
        return self.used, 0

    def _write(self, fd: int, used: int, added: int) -> None:
        data = _LINE.pack(used, added, 0)[:16]
        os.pwrite(fd, data + zlib.crc32(data).to_bytes(4, "little"), 0)
        self.used = used

    def _open(self) -> AbstractContextManager[int]:
        return locks.held(self.path, COUNT)
