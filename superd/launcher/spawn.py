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
import time
from typing import TYPE_CHECKING, Any

from superd.launcher.child import call, run_program, run_python
from superd.launcher.spec import PER_PROCESS
from superd.launcher.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from superd.launcher.spec import Spec

IGNORED = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
)
"""What a launcher ignores: two by CPython's choice, three by serve.py's. What it catches
is at its default after the exec by itself (execve(2))."""

BUSY_WAITS = (0.001, 0.01, 0.05, None)
"""Seconds after each try of a program that is being written (ETXTBSY): whoever writes it
is about to close. None: that was the last try."""


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
        self._stage: Stage | None = None
        if spec.exec is None and spec.mode == "process":
            self._stage = Stage(spec, resource.setrlimit, call)
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._low_fd = os.dup(self._null)
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
            assert self._stage is not None
            self._stage.describe(environment)
            return self._fork(lambda: self._python(fd, stderr_fd))
        if self._own_limits:
            return self._retry(self._fork_exec, fd, stderr_fd, environment)
        if fd < self._soft_nofile[0]:
            return self._retry(self._posix_spawn, fd, stderr_fd, environment)
        # The C library refuses actions on numbers above the soft limit.
        low = os.dup2(fd, self._low_fd, inheritable=False)
        if stderr_fd == fd:
            stderr_fd = low
        try:
            return self._retry(self._posix_spawn, low, stderr_fd, environment)
        finally:
            os.dup2(self._null, low, inheritable=False)  # let the socket go

    def wait(self, fd: int, stderr_fd: int, environment: dict[str, str]) -> int:
        """Start a wait program on a listener: fd 0, 1 and (systemd's way) 3."""
        return self._retry(self._fork_exec, fd, stderr_fd, environment, listen=True)

    def _retry(self, start: Callable[..., int], *how: Any, **more: Any) -> int:
        """Try again while the program is being written; SpawnError for all else."""
        argv = self._spec.exec
        assert argv is not None
        for wait in BUSY_WAITS:
            try:
                return start(argv, *how, **more)
            except OSError as error:
                number = error.errno or 0
                if number != errno.ETXTBSY or wait is None:
                    text = f"{argv[0]}: {_explain(argv[0], number)}"
                    raise SpawnError("exec", text) from error
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _posix_spawn(
        self, argv: list[str], fd: int, stderr_fd: int, environment: dict[str, str]
    ) -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._soft_nofile)
        try:
            return os.posix_spawn(
                argv[0],
                argv,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, fd, 0),
                    (os.POSIX_SPAWN_DUP2, fd, 1),
                    (os.POSIX_SPAWN_DUP2, stderr_fd, 2),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=IGNORED,
            )
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._nofile)

    def _python(self, fd: int, stderr_fd: int) -> None:
        assert self._main is not None
        assert self._stage is not None
        fds = (fd, fd, stderr_fd)
        run_python(self._stage, self._main, fds, self._limits())

    def worker_limits(self) -> list[tuple[int, tuple[int, int]]]:
        """What a worker of a pool or a loop sets.

        Seconds of CPU are counted for each connection (pooling.py); a loop holds many
        connections and needs a descriptor for each.
        """
        limits = [one for one in self._limits() if one[0] != resource.RLIMIT_CPU]
        if self._spec.mode == "loop" and "nofile" not in self._spec.rlimits:
            return [one for one in limits if one[0] != resource.RLIMIT_NOFILE]
        return limits

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
        self,
        argv: list[str],
        fd: int,
        stderr_fd: int,
        environment: dict[str, str],
        *,
        listen: bool = False,
    ) -> int:
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
        raise OSError(int(word), os.strerror(int(word)))


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
