"""Read what the handlers of a launcher write to stderr: a line becomes a log line.

The pipe outlives its launcher: handlers may. Whoever writes more than RATE is read no
faster, so it is the handler that waits, never the master.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from superd.master.loop import READ, Loop

if TYPE_CHECKING:
    from superd.master.eventlog import EventLog

CHUNK = 1 << 14
RATE = 1 << 17
"""Bytes a second of one service: some thousand lines, more than anybody reads."""

LINE = 2048
"""Bytes after which a line is one, newline or not: the log cuts longer values off."""


QUIET = 0.5
"""Seconds after which what came without a newline is a line: its writer may be gone."""


class Output:
    """One pipe; closes itself when the last writer has gone."""

    def __init__(self, loop: Loop, log: EventLog, service: str, fd: int) -> None:
        self._loop = loop
        self._log = log
        self._service = service
        self._fd = fd
        self._rest = b""
        self._came = 0.0
        self._armed = False
        self._window = time.monotonic()
        self._seen = 0
        loop.watch(fd, READ, self._readable)

    def _readable(self, _events: int) -> None:
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return
        if not data:
            if self._rest:
                self._line(self._rest)
                self._rest = b""
            self._loop.forget(self._fd)
            os.close(self._fd)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)
        while len(self._rest) > LINE:
            self._line(self._rest[:LINE])
            self._rest = self._rest[LINE:]
        self._came = time.monotonic()
        self._watch_rest()
        self._account(len(data))

    def _watch_rest(self) -> None:
        if self._rest and not self._armed:
            self._armed = True
            self._loop.later(self._came + QUIET, self._quiet)

    def _quiet(self) -> None:
        """Log what has waited for its newline, before another handler's words join it."""
        self._armed = False
        if time.monotonic() < self._came + QUIET:
            self._watch_rest()
        elif self._rest:
            self._line(self._rest)
            self._rest = b""

    def _line(self, line: bytes) -> None:
        text = line.rstrip(b"\r").decode("utf-8", "backslashreplace")
        for start in range(0, len(text) or 1, LINE):
            part = text[start : start + LINE]
            fields = (("service", self._service), ("text", part))
            self._log.write("info", "stderr", fields)

    def _account(self, size: int) -> None:
        now = time.monotonic()
        if now - self._window >= 1.0:
            self._window, self._seen = now, 0
        self._seen += size
        if self._seen >= RATE:
            self._loop.forget(self._fd)
            self._loop.later(self._window + 1.0, self._resume)

    def _resume(self) -> None:
        self._loop.watch(self._fd, READ, self._readable)
