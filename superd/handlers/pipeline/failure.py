"""Name the exit statuses of a pipeline, and judge what a program's status says.

The rule of the file: whether a stream may end cleanly is decided here alone. A program
that ran to its own end has written all it had to say, whatever it thinks of it: grep
without a match (1), diff with a difference (1), sort with a bad flag (2) end plainly,
with a status. A program that something ended has not, and its stream is cut short.
"""

from __future__ import annotations

import signal
from typing import Final

USAGE: Final = 64
UNREACHABLE: Final = 69
SYSTEM: Final = 71
CUT: Final = 74
"""A stream was cut short, or a host was lost: EX_IOERR of sysexits."""
REFUSED: Final = 77
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
BROKEN_PIPE: Final = 128 + signal.SIGPIPE

FIRST_CRASH: Final = 124
"""The least status that says a program did not come to its own end: timeout(1) and
xargs(1) begin at 124, env(1) and nohup(1) at 125, shells have 126, 127 and 128 + signal
of what they ran, ssh(1) and a perl that dies end with 255."""


class Failure(Exception):  # noqa: N818  what ends a command, not a mistake in it
    """What ends a role or a stage: one line for its user, and the exit status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def is_crash(status: int, *, strict: bool) -> bool:
    """Tell whether a stream must not end cleanly after this status of its program."""
    return status >= FIRST_CRASH or (strict and status != 0)


def describe(status: int) -> str:
    """Spell a status as a sentence's end: `exit 1`, `killed by SIGKILL`."""
    if status > 128:  # noqa: PLR2004  as a shell tells a signal
        try:
            return f"killed by {signal.Signals(status - 128).name}"
        except ValueError:
            return f"exit {status}"
    return f"exit {status}"
