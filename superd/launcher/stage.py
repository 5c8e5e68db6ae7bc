"""Make ahead, in the launcher, what each forked Python handler needs.

A forked child pays for every page that it writes to: a fault and a copy, 3 us each where
there is a hypervisor below, and the first run of a function writes to its code (PEP 659).
Done in the child, all this is 530 faults and 2 ms of CPU; done here once, rehearsed until
the interpreter has made up its mind, a child has 210 and 0.7 ms left to it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from superd.launcher.spec import Spec

    Limits = list[tuple[int, tuple[int, int]]]

REHEARSALS = 40
"""Runs after which CPython has specialized a function: 8 to warm up, and some more."""

MAX_FD = (1 << 31) - 1

_RESET = tuple(
    int(one)
    for one in (
        signal.SIGCHLD,
        signal.SIGPIPE,
        signal.SIGXFSZ,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGTERM,
        signal.SIGQUIT,
    )
)
_signal: Any = importlib.import_module("_signal")
"""What signal wraps: the wrappers make enums, and that is more pages to copy."""


def reset_signals() -> None:
    """Have every signal at its default and unblocked, as after an exec."""
    _signal.set_wakeup_fd(-1)
    for number in _RESET:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


@contextlib.contextmanager
def on_sockets() -> Iterator[None]:
    """Have sockets as fd 0 and 1 for a while.

    A stream asks once whether its descriptor can seek, and remembers: /dev/null can.
    """
    one, other = socket.socketpair()
    with one, other:
        saved = [os.dup(0), os.dup(1)]
        try:
            os.dup2(one.fileno(), 0)
            os.dup2(other.fileno(), 1)
            yield
        finally:
            for number, fd in enumerate(saved):
                os.dup2(fd, number)
                os.close(fd)


class Stage:
    """What is ready when a connection comes."""

    def __init__(self, spec: Spec, setrlimit: Any, call: Any) -> None:
        self.argv = list(spec.argv)
        self.name = spec.handler
        self._setrlimit = setrlimit
        # What the import of the handler left in it is not what the contract promises.
        os.environ.clear()
        os.environ.update(spec.environment)
        self._described = dict(spec.environment)
        """What os.environ holds."""
        with on_sockets():
            self._streams = (
                open(0, closefd=False, errors="replace"),  # noqa: SIM115
                open(1, "w", closefd=False),  # noqa: SIM115
                open(2, "w", closefd=False, buffering=1),  # noqa: SIM115
            )
        self._rehearse(call)

    def _rehearse(self, call: Any) -> None:
        before = (sys.stdin, sys.stdout, sys.stderr, sys.argv)
        base = self._described
        for number in range(REHEARSALS):
            self.describe({**base, "TCPREMOTEPORT": str(number)})
            reset_signals()
            self.place((0, 1, 2))
            self.install()
            call(lambda _argv: 0, self.name, self.argv)
        self.describe(base)
        sys.stdin, sys.stdout, sys.stderr, sys.argv = before
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as CPython begins

    def enter(self, fds: tuple[int, int, int], limits: Limits) -> None:
        """Turn a forked child into the process that the contract describes.

        But for its environment: see `describe`. Its name in ps is the launcher's, which
        is the service's.
        """
        os.setsid()
        reset_signals()
        self.place(fds)
        os.closerange(3, MAX_FD)
        for number, pair in limits:
            self._setrlimit(number, pair)
        self.install()

    def place(self, fds: tuple[int, int, int]) -> None:
        """Have the connection as fd 0 and 1, and what takes errors as 2."""
        os.dup2(fds[0], 0)
        os.dup2(fds[1], 1)
        os.dup2(fds[2], 2)

    def describe(self, environment: dict[str, str]) -> None:
        """Have this environment, in the launcher and before the fork.

        What it needs not itself, and the child would copy 40 pages for.
        """
        before = self._described
        for name, value in environment.items():
            if before.get(name) != value:
                os.environ[name] = value
        for name in before.keys() - environment.keys():
            del os.environ[name]
        self._described = environment

    def install(self) -> None:
        """Give the handler its streams and arguments."""
        sys.stdin, sys.stdout, sys.stderr = self._streams
        sys.argv = [self.name, *self.argv]
