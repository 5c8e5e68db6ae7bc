"""Write the log: one line an event, never waiting for whoever reads it.

The rule of this file: no call here blocks. A reader that stalls costs lines, which are
counted and reported when it reads again, and costs nothing else. (With stdlib logging a
stopped reader of stderr wedges the whole daemon in write.)
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from typing import TYPE_CHECKING

from superd.master.logsink import Datagram, Descriptor, Sink, open_file

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3}
PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""Syslog severities (RFC 5424, 6.2.1), also sd-daemon(3)'s <N> prefixes."""

_PLAIN = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    "-_.,:;/@%+()[]{}*!?#$&|^~<>"
)
MAX_VALUE = 2048
"""Characters of one value: a peer decides how long some of them are."""


class EventLog:
    """Formats events and hands them to a sink that never blocks."""

    def __init__(
        self, sink: Sink, *, text_format: str = "text", level: str = "info"
    ) -> None:
        self._sink = sink
        self._json = text_format == "json"
        self._level = LEVELS[level]
        self._second = -1
        self._date = ""
        """The second that was spelt last: most lines share it with another."""

    def configure(self, sink: Sink, text_format: str, level: str) -> None:
        """Go over to another sink; the old one is flushed and closed."""
        self._sink.flush()
        if sink is not self._sink:
            self._sink.close()
        self._sink = sink
        self._json = text_format == "json"
        self._level = LEVELS[level]

    @property
    def sink(self) -> Sink:
        """Where lines go now."""
        return self._sink

    def write(
        self, level: str, verb: str, fields: Sequence[tuple[str, object]] = ()
    ) -> None:
        """Write one event; below the level it costs a comparison."""
        if LEVELS[level] < self._level:
            return
        lost = self._sink.take_lost()
        if lost:
            self._write("warning", "log", (("dropped", lost),))
        self._write(level, verb, fields)

    def _write(
        self, level: str, verb: str, fields: Sequence[tuple[str, object]]
    ) -> None:
        stamp = "" if self._sink.stamps else self._timestamp()
        if self._json:
            record: dict[str, object] = {"ts": self._timestamp(), "level": level}
            record["event"] = verb
            record.update((key, _json_value(value)) for key, value in fields)
            text = json.dumps(record, separators=(",", ":"))
        else:
            words = [f"{key}={escape(value)}" for key, value in fields]
            text = " ".join([*([stamp, level] if stamp else []), verb, *words])
        self._sink.put(text, PRIORITY[level], verb, fields)

    def _timestamp(self) -> str:
        milliseconds = time.time_ns() // 1_000_000
        second, rest = divmod(milliseconds, 1000)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._date}.{rest:03d}Z"

    def flush(self) -> None:
        """Send what is queued, as far as it goes now."""
        self._sink.flush()

    def is_waiting(self) -> bool:
        """Say whether lines wait for a slow reader."""
        return self._sink.is_waiting()


def escape(value: object) -> str:
    """Spell a value so that nothing a peer sent can end a line or a field."""
    if isinstance(value, int | float):
        return str(value)
    text = value if isinstance(value, str) else str(value)
    if text and _PLAIN.issuperset(text) and len(text) <= MAX_VALUE:
        return text
    return json.dumps(text[:MAX_VALUE], ensure_ascii=True)


def _json_value(value: object) -> object:
    if isinstance(value, int | float) or value is None:
        return value
    return str(value)[:MAX_VALUE]


def open_sink(to: str) -> Sink:
    """Open where `log.to` points: stderr, syslog, journal, or a file to append to."""
    if to == "stderr":
        return stderr_sink()
    if to == "syslog":
        return Datagram("/dev/log", syslog=True)
    if to == "journal":
        return Datagram("/run/systemd/journal/socket", syslog=False)
    return Descriptor(open_file(to), owned=True, path=to)


def is_journal() -> bool:
    """Say whether fd 2 is journald's stream (systemd.exec(5), JOURNAL_STREAM)."""
    here = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{here.st_dev}:{here.st_ino}"


def stderr_sink() -> Sink:
    """Write to fd 2 without ever setting O_NONBLOCK on it: others share it.

    Opening it anew through /proc gives a description of our own; a socket (journald's
    stream) cannot be opened like that, but can be sent to with MSG_DONTWAIT.
    """
    stamped = is_journal()
    if stat.S_ISREG(os.fstat(2).st_mode):
        # A description of our own would have its own offset, and we would write over
        # what others write through the shared one.
        return Descriptor(2, owned=False, stamps=stamped)
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = os.open("/proc/self/fd/2", flags)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.EACCES, errno.ENOENT, errno.EPERM):
            raise
        return Descriptor(2, owned=False, stamps=stamped)
    return Descriptor(fd, owned=True, stamps=stamped)
