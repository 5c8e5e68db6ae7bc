"""Tell how a stage is doing and how it went: a line, a table of stages.

The rule of the file: everything here goes to stderr; stdout is the stream's.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

PERIOD: Final = 0.5
"""Seconds between two lines of progress."""
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_THOUSAND: Final = 1000


class Row(NamedTuple):
    """One stage; None where there is nothing to count."""

    stage: int
    host: str
    command: str
    end: str
    taken: int | None
    given: int | None
    seconds: float
    note: str = ""
    sent: int | None = None
    """The bytes of `given` as they were sent, where they are compressed."""


_HEAD: Final = ("stage", "host", "command", "exit", "in", "out", "sent", "time", "note")
_SENT: Final = _HEAD.index("sent")


def say(text: str) -> None:
    """Write one line to stderr; where nobody reads it, there is nobody to tell."""
    try:
        os.write(2, f"superd-pipe: {text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        return


def table(rows: Sequence[Row]) -> str:
    """Lay out the stages in columns."""
    texts = [_HEAD, *(_texts(row) for row in rows)]
    if all(row.sent is None for row in rows):
        texts = [text[:_SENT] + text[_SENT + 1 :] for text in texts]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = (
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        for row in texts
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _texts(row: Row) -> tuple[str, ...]:
    return (
        str(row.stage),
        row.host,
        row.command,
        row.end,
        size(row.taken),
        size(row.given),
        size(row.sent),
        f"{row.seconds:.2f} s",
        row.note,
    )


def size(count: float | None) -> str:
    """Spell a number of bytes with a unit of 1000: 33.4 MB."""
    if count is None:
        return "-"
    for unit in _UNITS:
        if count < _THOUSAND or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _THOUSAND
    raise AssertionError("the last unit returns")


class Progress:
    """The line on a terminal: bytes, rate, time. Where stderr is no terminal, nothing."""

    def __init__(self, *, wanted: bool, now: float) -> None:
        self.shown = wanted and sys.stderr.isatty()
        self._start = now
        self._last = (now, 0)

    def update(self, moved: int, now: float) -> None:
        """Write the line anew."""
        if not self.shown:
            return
        before, bytes_before = self._last
        rate = (moved - bytes_before) / max(now - before, 0.001)
        self._last = (now, moved)
        self._write(moved, rate, now, "\r")

    def finish(self, moved: int, now: float) -> None:
        """Write it for the last time: the rate is that of the whole."""
        if self.shown:
            rate = moved / max(now - self._start, 0.001)
            self._write(moved, rate, now, "\n")

    def _write(self, moved: int, rate: float, now: float, end: str) -> None:
        minutes, seconds = divmod(int(now - self._start), 60)
        # ESC [ K clears what a longer line has left.
        line = f"\r{size(moved)}  {size(rate)}/s  {minutes}:{seconds:02d}\x1b[K{end}"
        os.write(2, line.encode())
