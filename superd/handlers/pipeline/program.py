"""Start a program with pipes for its stdin and stdout, and end it.

The rule of the file: a program does not outlive us. When we are killed it dies by
PR_SET_PDEATHSIG, and where its stdin is ours a guardian sees to it that it does not see a
false end of its input first (guardian.py). That call, made by the child itself between
fork and exec, is why this is no posix_spawn. What the program started is in its process
group, which ends with it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from superd.handlers.pipeline.failure import (
    NOT_EXECUTABLE,
    NOT_FOUND,
    SYSTEM,
    Failure,
)
from superd.handlers.pipeline.guardian import Guardian

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PR_SET_PDEATHSIG: Final = 1
_F_SETPIPE_SZ: Final = 1031
_F_GETPIPE_SZ: Final = 1032
_ROOM: Final = 1 << 20
"""Bytes a pipe holds: what an ordinary user may have (pipe-max-size)."""
_DEFAULTS: Final = (
    *(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM),
    *(signal.SIGHUP, signal.SIGTSTP, signal.SIGUSR1, signal.SIGCHLD),
)
_libc = ctypes.CDLL(None)


class Program:
    """One running program; `status` is None while it runs."""

    def __init__(self, argv: Sequence[str], pid: int, *, own_group: bool) -> None:
        self.name = os.path.basename(argv[0])
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.status: int | None = None
        self._own_group = own_group
        self._guardian: Guardian | None = None

    def guard(self, stdin: int) -> None:
        """Hold its stdin open should we be killed, until it is dead: see guardian.py."""
        self._guardian = Guardian(self.pid, self.pidfd, stdin)

    def let_go(self) -> None:
        """The end of its stdin is a true one now."""
        if self._guardian is not None:
            self._guardian.dismiss()
            self._guardian = None

    def send(self, number: int) -> None:
        """Signal it, and with its own group all that it started."""
        if self.status is not None:
            return
        with suppress(ProcessLookupError, PermissionError):
            if self._own_group:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    def reap(self, *, cut_off: bool) -> int:
        """Collect the status, once pidfd is readable: that of a shell, 128 + signal.

        `cut_off`: what it left behind must not read on, and is killed.
        """
        if self.status is None:
            # Before the wait: until then its number is no other group's.
            if cut_off:
                self.send(signal.SIGKILL)
            self.let_go()
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.status = code if code >= 0 else 128 - code
            os.close(self.pidfd)
        return self.status

    def kill(self) -> int:
        """End it now, with all that it started."""
        self.send(signal.SIGKILL)
        return self.reap(cut_off=True)


def start(
    argv: Sequence[str],
    fds: tuple[int, int, int],
    *,
    own_group: bool,
    environment: Mapping[str, str] | None = None,
) -> Program:
    """Start a program on three descriptors, each above 2 or in its own place."""
    read, write = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(read)
        os.close(write)
        raise Failure(SYSTEM, f"{argv[0]}: cannot fork: {error.strerror}") from None
    if not pid:
        _become(argv, fds, environment, write, parent if own_group else -parent)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        word = pipe.read()
    if word:
        os.waitpid(pid, 0)
        raise _not_started(argv[0], int(word))
    return Program(argv, pid, own_group=own_group)


def _become(
    argv: Sequence[str],
    fds: tuple[int, int, int],
    environment: Mapping[str, str] | None,
    report: int,
    parent: int,
) -> None:
    """Be the program; what fails goes to `report`. A negative parent: in its group."""
    number = errno.EIO
    try:
        if parent > 0:
            os.setpgid(0, 0)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != abs(parent):
            os._exit(NOT_FOUND)  # it was killed before the call
        # CPython ignores SIGPIPE: every `head` would make its producer complain.
        for one in _DEFAULTS:
            signal.signal(one, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for target, fd in enumerate(fds):
            if fd != target:
                os.dup2(fd, target)
        os.execvpe(argv[0], list(argv), environment or os.environ)
    except OSError as error:
        number = error.errno or errno.EIO
    finally:
        os.write(report, b"%d" % number)
        os._exit(NOT_FOUND)


def _not_started(name: str, number: int) -> Failure:
    text = os.strerror(number)
    # A folder of PATH that is closed to us makes it EACCES; a shell says not found.
    hidden = number == errno.EACCES and "/" not in name and not _is_in_path(name)
    if number == errno.ENOENT or hidden:
        return Failure(NOT_FOUND, f"{name}: no such program; check its name and PATH")
    if number == errno.ENOEXEC:
        text += ": no program, and no #! line that names an interpreter"
    return Failure(NOT_EXECUTABLE, f"{name}: cannot start: {text}")


def _is_in_path(name: str) -> bool:
    return any(os.path.lexists(f"{place}/{name}") for place in os.get_exec_path())


def pipe_to_write() -> tuple[int, int]:
    """Make a pipe: the program's end to read, and ours to write, which never blocks."""
    read, write = _pipe()
    os.set_blocking(write, False)
    return read, write


def pipe_to_read() -> tuple[int, int]:
    """Make a pipe: our end to read, which never blocks, and the program's to write."""
    read, write = _pipe()
    os.set_blocking(read, False)
    return read, write


def _pipe() -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    widen(write)
    return read, write


def widen(fd: int) -> None:
    """Let a pipe hold 1 MiB; what is no pipe stays as it is.

    A shell's holds 64 KiB: so much is moved in one turn at most.
    """
    # EPERM: a user's pipes hold 64 MiB together. EBADF, EBUSY: no pipe, or more in it.
    with suppress(OSError):
        if fcntl.fcntl(fd, _F_GETPIPE_SZ) < _ROOM:
            fcntl.fcntl(fd, _F_SETPIPE_SZ, _ROOM)
