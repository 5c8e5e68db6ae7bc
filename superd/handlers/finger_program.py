"""Run the system's finger program and take what it says.

The rule of the file: the program gets nothing of the connection. Its stdin is /dev/null
(a finger that reads stdin would eat the connection), stdout and stderr are a pipe, the
environment is fixed, and it runs in a session of its own, which ends with it.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from select import POLLIN
from time import monotonic
from typing import Final

from superd.handlers import stdio
from superd.handlers.exits import SetupError

PLACES: Final = ("/usr/bin/finger", "/bin/finger", "/usr/local/bin/finger")
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
    reader, writer = os.pipe()
    # The program is no longer in our group: whoever stops us stops it through us.
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        try:
            pid = os.posix_spawn(
                program,
                [program, *flags],
                _ENVIRONMENT,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, writer, 1),
                    (os.POSIX_SPAWN_DUP2, writer, 2),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        finally:
            os.close(writer)
        try:
            return _collect(reader, deadline, cap)
        finally:
            # Before the wait: while the leader is unreaped, its number cannot become
            # somebody else's group.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(reader)


def _leave(number: int, _frame: object) -> None:
    """Turn a signal into the way out that passes every `finally`."""
    raise SystemExit(128 + number)


def _collect(reader: int, deadline: float, cap: int) -> tuple[bytes, str]:
    output = b""
    while len(output) < cap:
        if not stdio.wait(reader, POLLIN, deadline - monotonic()):
            return output, "the program took too long"
        data = os.read(reader, cap - len(output))
        if not data:
            return output, ""
        output += data
    return output, f"the program said more than {cap} bytes"
