"""Write a line for each request: the combined form of Apache, or JSON.

The rule of the file: what a peer sent is written so that it can be no line and no field
of its own: whatever is not printing ASCII, and quotes, are escaped.
"""

from __future__ import annotations

import os
import time
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers import stdio
from superd.handlers.http.response import MONTHS

if TYPE_CHECKING:
    from superd.handlers.http.request import Request

_CREATE: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
_MODE: Final = 0o640
_LONGEST: Final = 2048
"""Bytes of what a peer sent, in each field: a target may have 8 KiB."""


class Entry(NamedTuple):
    """One request, and what became of it."""

    peer: str
    user: bytes
    line: bytes
    """The request line as it came."""
    request: Request | None
    """None: it could not be read."""
    status: int
    size: int
    """Bytes of the body that were sent."""
    seconds: float


class AccessLog:
    """Writes to the log of the service, or to a file of its own."""

    def __init__(self, form: str, path: str | None) -> None:
        self._form = _json if form == "json" else _combined
        self._path = path

    def write(self, entry: Entry, now: float) -> None:
        """Write the line. A file is opened for each: it may have been rotated."""
        line = self._form(entry, now)
        if not self._path:
            stdio.log(line)
            return
        try:
            fd = os.open(self._path, _CREATE, _MODE)
            try:
                os.write(fd, line.encode("ascii") + b"\n")
            finally:
                os.close(fd)
        except OSError as error:
            # The request is served; the line is not lost where the other log is.
            stdio.log(f"httpd: {self._path}: {error.strerror}: {line}")


def _combined(entry: Entry, now: float) -> str:
    t = time.gmtime(now)
    moment = (
        f"{t.tm_mday:02}/{MONTHS[t.tm_mon - 1]}/{t.tm_year}"
        f":{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000"
    )
    referer, agent = _field(entry, b"referer"), _field(entry, b"user-agent")
    return (
        f"{entry.peer or '-'} - {word_of(entry.user)} [{moment}] "
        f'"{quoted(entry.line)}" {entry.status} {entry.size} '
        f'"{quoted(referer or b"-")}" "{quoted(agent or b"-")}"'
    )


def _json(entry: Entry, now: float) -> str:
    record = {
        "time": moment_of(now),
        "peer": entry.peer,
        "user": text_of(entry.user),
        "request": text_of(entry.line),
        "host": text_of(_field(entry, b"host")),
        "status": entry.status,
        "bytes": entry.size,
        "seconds": round(entry.seconds, 6),
        "referer": text_of(_field(entry, b"referer")),
        "user_agent": text_of(_field(entry, b"user-agent")),
    }
    # By name: nobody else here needs it, and under an inetd each connection imports.
    text: str = import_module("json").dumps(record)
    return text


def moment_of(now: float) -> str:
    """Spell a moment as RFC 3339 does, to the millisecond."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    return f"{moment}.{int(now * 1000) % 1000:03}Z"


def _field(entry: Entry, name: bytes) -> bytes:
    return b", ".join(entry.request.values(name)) if entry.request else b""


def text_of(data: bytes) -> str:
    """Spell bytes for JSON, which does the quoting."""
    return data[:_LONGEST].decode("utf-8", "backslashreplace")


def word_of(data: bytes) -> str:
    """Spell bytes as one word: a space would move the fields behind it."""
    return quoted(data).replace(" ", "\\x20") or "-"


def quoted(data: bytes) -> str:
    """Spell bytes between quotes, as Apache does."""
    text = data[:_LONGEST].decode("latin-1")
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(
        char if " " <= char <= "~" and char not in '"\\' else f"\\x{ord(char):02x}"
        for char in text
    )
