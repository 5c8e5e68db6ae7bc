"""Start handlers: posix_spawn for a program, fork for a Python handler.

posix_spawn copies no page tables (0.6 ms against 1.5 ms for fork and exec, and no growth
with our memory), but it cannot set limits or tell a program its own pid. So a program with
limits of its own (spec.PER_PROCESS) and a `wait` program take the way of fork, with the
error of a failed exec coming back on a pipe.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
from typing import TYPE_CHECKING

from superd.launcher.child import run_program, run_python
from superd.launcher.spec import PER_PROCESS

if TYPE_CHECKING:
    from collections.abc import Callable

    from superd.launcher.spec import Spec

ALL_SIGNALS = sorted(
    set(range(1, signal.NSIG)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}
)
"""Every signal whose disposition can be set; 32 and 33 are the C library's own. (glibc's
posix_spawn leaves those two ignored; its sigaction lets no program set them.)"""

BUSY_TRIES = 3
"""Tries of a program that is being written (ETXTBSY): the writer is about to close."""


class SpawnError(Exception):
    """A handler could not be started; `stage` says where, the text why."""

    def __init__(self, stage: str, text: str) -> None:
        super().__init__(text)
        self.stage = stage


class Spawner:
    """Starts the one handler of this service, again and again."""

    def __init__(self, spec: Spec, main: Callable[[list[str]], int] | None) -> None:
        self._spec = spec
        self._main = main
        self._own_limits: list[tuple[int, tuple[int, int]]] = [
            (getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard))
            for name, (soft, hard) in spec.rlimits.items()
            if name in PER_PROCESS and hard is not None
        ]
        self._low_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._soft_nofile = self._nofile
        if "nofile" in spec.rlimits:
            hard = self._nofile[1]
            soft = spec.rlimits["nofile"][0]
            if hard != resource.RLIM_INFINITY:
                soft = min(soft, hard)
            self._soft_nofile = (soft, hard)

    def raise_own_limit(self) -> None:
        """Let the launcher itself hold as many descriptors as it may."""
        hard = self._nofile[1]
        self._nofile = (hard, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._nofile)

    def stream(self, fd: int, stderr_fd: int, environment: dict[str, str]) -> int:
        """Start the handler of a connection; returns its pid or raises SpawnError."""
        spec = self._spec
        if spec.exec is None:
            assert self._main is not None
            return self._fork(lambda: self._python(fd, stderr_fd, environment))
        if self._own_limits:
            return self._fork_exec(fd, stderr_fd, environment, listen=False)
        return self._posix_spawn(fd, stderr_fd, environment)

    def wait(self, fd: int, stderr_fd: int, environment: dict[str, str]) -> int:
        """Start a wait program on a listener: fd 0, 1 and (systemd's way) 3."""
        return self._fork_exec(fd, stderr_fd, environment, listen=True)

    def _posix_spawn(self, fd: int, stderr_fd: int, environment: dict[str, str]) -> int:
        argv = self._spec.exec
        assert argv is not None
        if fd >= self._soft_nofile[0]:
            # The C library refuses actions on numbers above the soft limit.
            os.dup2(fd, self._low_fd, inheritable=False)
            fd = self._low_fd
        actions = [
            (os.POSIX_SPAWN_DUP2, fd, 0),
            (os.POSIX_SPAWN_DUP2, fd, 1),
            (os.POSIX_SPAWN_DUP2, stderr_fd, 2),
        ]
        for left in reversed(range(BUSY_TRIES)):
            resource.setrlimit(resource.RLIMIT_NOFILE, self._soft_nofile)
            try:
                return os.posix_spawn(
                    argv[0],
                    argv,
                    environment,
                    file_actions=actions,
                    setsid=True,
                    setsigmask=[],
                    setsigdef=ALL_SIGNALS,
                )
            except OSError as error:
                if error.errno != errno.ETXTBSY or not left:
                    raise self._exec_error(error.errno or 0) from error
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, self._nofile)
                if fd == self._low_fd:
                    os.dup2(stderr_fd, fd, inheritable=False)  # let the socket go
        raise AssertionError("the last try returns or raises")

    def _python(self, fd: int, stderr_fd: int, environment: dict[str, str]) -> None:
        assert self._main is not None
        run_python(
            self._main,
            self._spec.handler,
            self._spec.argv,
            (fd, fd, stderr_fd),
            environment,
            self._limits(),
        )

    def _limits(self) -> list[tuple[int, tuple[int, int]]]:
        """What a forked child sets: our own soft nofile is the launcher's, not its."""
        return [(resource.RLIMIT_NOFILE, self._soft_nofile), *self._own_limits]

    def _fork(self, child: Callable[[], None]) -> int:
        try:
            pid = os.fork()
        except OSError as error:
            raise SpawnError("fork", os.strerror(error.errno or 0)) from error
        if pid:
            return pid
        try:
            child()
        finally:
            os._exit(101)

    def _fork_exec(
        self, fd: int, stderr_fd: int, environment: dict[str, str], *, listen: bool
    ) -> int:
        argv = self._spec.exec
        assert argv is not None
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            pid = self._fork(
                lambda: run_program(
                    argv,
                    (fd, fd, stderr_fd),
                    environment,
                    self._limits(),
                    write,
                    listen=listen,
                )
            )
        except SpawnError:
            os.close(read)
            raise
        finally:
            os.close(write)
        # Blocks until the exec has closed the pipe or failed: what vfork does as well.
        with os.fdopen(read, "rb") as pipe:
            word = pipe.read()
        if not word:
            return pid
        os.waitpid(pid, 0)
        raise self._exec_error(int(word))

    def _exec_error(self, number: int) -> SpawnError:
        argv = self._spec.exec
        assert argv is not None
        return SpawnError("exec", f"{argv[0]}: {_explain(argv[0], number)}")


def _explain(path: str, number: int) -> str:
    """Say what an exec's errno means for the operator."""
    text = os.strerror(number)
    if number == errno.ENOENT and os.path.exists(path):
        return f"{text}: the file is there, so its #! line names a missing interpreter"
    if number == errno.ENOEXEC:
        return f"{text}: no program, and no #! line that names an interpreter"
    if number == errno.EAGAIN:
        return f"{text}: the user has as many processes as its limit allows"
    return text
