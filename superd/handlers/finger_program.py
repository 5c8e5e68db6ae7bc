"""Run the system's finger program and take what it says.

The rule of the file: the program hears nothing of the connection. Its stdin is /dev/null
(a finger that reads stdin would eat the connection), stdout and stderr are a pipe, or the
connection where that is wanted, the environment is fixed, and it runs in a session of its
own, which ends with it.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from select import POLLIN
from time import monotonic
from typing import TYPE_CHECKING, Final

from superd.handlers import stdio
from superd.handlers.exits import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLACES: Final = ("/usr/bin/finger", "/bin/finger", "/usr/local/bin/finger")
TOO_LONG: Final = "the program took too long"
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LANG": "C", "LC_ALL": "C"}


def find(wanted: str) -> str | None:
    """Return the program to run; None if no finger is installed.

    Raises SetupError if the one the operator named cannot be run.
    """
    if wanted:
        if not (os.path.isfile(wanted) and os.access(wanted, os.X_OK)):
            raise SetupError(f"option --program: {wanted} is no program we may run")
        return wanted
    for place in PLACES:
        if os.access(place, os.X_OK):
            return place
    return None


def ask(program: str, flags: list[str], deadline: float, cap: int) -> tuple[bytes, str]:
    """Run the program; returns `cap` bytes of output at most, and what cut it short.

    Whatever the program started is dead when this returns.
    """
    with stoppable() as allow_stop:
        pid, reader = start(program, flags)
        try:
            allow_stop()
            return collect(reader, deadline, cap)
        finally:
            end(pid)


def speak(program: str, flags: list[str], fd: int, deadline: float) -> str:
    """Let the program itself write to `fd`; returns what cut it short.

    Whatever the program started is dead when this returns.
    """
    with stoppable() as allow_stop:
        pid = start_on(program, flags, fd)
        try:
            allow_stop()
            pidfd = os.pidfd_open(pid)
            try:
                ended = stdio.wait(pidfd, POLLIN, deadline - monotonic())
            finally:
                os.close(pidfd)
        finally:
            end(pid)
    return "" if ended else TOO_LONG


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Take SIGTERM as the way out that passes every `finally`.

    What we start is not in our group: whoever stops us stops it through us. So SIGTERM
    waits until the call that this gives: it is made where what was started will be ended.
    """
    before = signal.signal(signal.SIGTERM, _leave)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))

    def allow_stop() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    try:
        yield allow_stop
    finally:
        signal.signal(signal.SIGTERM, before)
        allow_stop()


def start(program: str, flags: list[str]) -> tuple[int, int]:
    """Start the program; returns its pid and a descriptor with what it says."""
    reader, writer = os.pipe()
    try:
        return start_on(program, flags, writer), reader
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)


def start_on(program: str, flags: list[str], fd: int) -> int:
    """Start the program with `fd`, which is not 0, as its stdout and stderr."""
    return os.posix_spawn(
        program,
        [program, *flags],
        _ENVIRONMENT,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, fd, 1),
            (os.POSIX_SPAWN_DUP2, fd, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )


def end(pid: int) -> None:
    """Kill the program with all it started."""
    # Before the wait: while the leader is unreaped, its number cannot become somebody
    # else's group.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def collect(
    reader: int, deadline: float, cap: int, who: str = "the program"
) -> tuple[bytes, str]:
    """Read what the program says, and close the descriptor."""
    output = b""
    try:
        while len(output) < cap:
            if not stdio.wait(reader, POLLIN, deadline - monotonic()):
                return output, f"{who} took too long"
            data = os.read(reader, cap - len(output))
            if not data:
                return output, ""
            output += data
        return output, f"{who} said more than {cap} bytes"
    finally:
        os.close(reader)


def _leave(number: int, _frame: object) -> None:
    """Turn a signal into the way out that passes every `finally`."""
    raise SystemExit(128 + number)
