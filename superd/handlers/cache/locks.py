"""Lock numbers of a file between processes and threads.

The rule of the file: a lock belongs to an open file description (F_OFD_SETLK of fcntl(2),
Linux 3.15), so each taker opens the file for itself, and the kernel gives the lock back
when the taker dies. Any number up to 2**62 can be locked, whether the file has such a byte
or not: one file is enough for a lock per key, and no two keys share one by accident.
flock(2) would need a file per lock, and cannot be asked without being taken.

After fork(2) parent and child have the same description, so the same lock: it is given
back by name (release) or when both have closed it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLOCK: Final = struct.Struct("hhqqi0q")
"""struct flock: type, whence, start, length, pid; the pid is 0 for these locks."""
_TAKEN: Final = frozenset({errno.EACCES, errno.EAGAIN})
PATIENCE: Final = 0.25
"""Seconds for a lock that is held for microseconds: its holder was stopped by somebody."""
FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW
MODE: Final = 0o600


class Busy(OSError):  # noqa: N818  it is what the lock is
    """A lock that is never held for long was held for long."""


def number_of(digest: str) -> int:
    """Return the number that stands for a key, from its hash in hexadecimal digits.

    62 bits of SHA-256, with room for a few locks of other kinds below.
    """
    return (int(digest[:16], 16) >> 2) | (1 << 61)


def take(fd: int, number: int) -> bool:
    """Lock a number if nobody has it, without waiting."""
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def release(fd: int, number: int) -> None:
    """Give a number back, for everybody who has this description."""
    free = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, number, 1, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, free)


def is_taken(fd: int, number: int) -> bool:
    """Tell whether another description has it; nobody is disturbed by the question."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def wait(fd: int, number: int, patience: float = PATIENCE) -> None:
    """Lock a number that is held for microseconds only. Raises Busy.

    F_OFD_SETLKW has no deadline: a holder stopped by SIGSTOP would stop every event loop.
    """
    if take(fd, number):
        return
    delay, end = 0.00005, time.monotonic() + patience
    while not take(fd, number):
        if time.monotonic() >= end:
            raise Busy(errno.EBUSY, "a lock is held by a process that does not go on")
        time.sleep(delay)
        delay = min(delay * 2, 0.005)


@contextmanager
def held(path: str, number: int) -> Iterator[int]:
    """Hold a number of a file; gives the descriptor. Raises OSError, Busy among them."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | FLAGS, MODE)
    try:
        wait(fd, number)
        try:
            yield fd
        finally:
            # By name: a process forked meanwhile has the description as well.
            release(fd, number)
    finally:
        os.close(fd)
