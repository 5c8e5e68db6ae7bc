"""Hold a pid file by lock: its content is for people, the lock is what counts.

A file that a dead superd left is no obstacle, a second start is; and the process that
holds the lock is the one that the file names.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat


class AlreadyRunningError(Exception):
    """Another superd holds the file."""


class PidFileError(Exception):
    """The file cannot be had."""


class PidFile:
    """The open, locked file."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._empty = False
        try:
            self.fd = self._lock()
        except OSError as error:
            raise PidFileError(f"{self.path}: {error.strerror}") from error

    def _lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            fd = os.open(self.path, flags, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "?"
                os.close(fd)
                if error.errno != errno.EWOULDBLOCK:
                    raise
                raise AlreadyRunningError(
                    f"already running (pid {pid} holds {self.path})"
                ) from error
            if self._is_mine(fd):
                self._check(fd)
                return fd
            os.close(fd)  # its holder removed it between our open and our lock

    def _is_mine(self, fd: int) -> bool:
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(fd))

    def _check(self, fd: int) -> None:
        """Refuse a file with anything else in it: a mixed-up command line, perhaps."""
        there = os.pread(fd, 32, 0)
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        if regular and (not there or there.strip().isdigit()):
            self._empty = not there
            return
        os.close(fd)
        raise PidFileError(f"{self.path}: holds something that is no pid; left alone")

    def write(self) -> None:
        """Name this process."""
        self._empty = True  # of anything that is not ours
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)

    def remove(self) -> None:
        """Remove what we made, while the lock is ours, then let go; again is nothing."""
        if self.fd < 0:
            return
        try:
            if self._empty:
                os.unlink(self.path)
        except OSError:
            pass  # tidied up before us, or a folder we may not write: the lock counts
        finally:
            os.close(self.fd)
            self.fd = -1
