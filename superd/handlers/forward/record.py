"""Tell one line of each request, and count them.

The rule of the file: what a peer or a host sent is written so that it can be no line and
no field of its own, and no query of a URL is left out: who has a log has all of it.
"""

from __future__ import annotations

import re
import time
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Final

from superd.handlers import stdio
from superd.handlers.http.accesslog import moment_of, quoted, text_of, word_of

if TYPE_CHECKING:
    from superd.handlers.forward.counters import Counters

_USER: Final = re.compile(rb"(//|^CONNECT |^)[^/?# ]*@|()[^/?# ]+:[^/?# ]*@")
LINE: Final = "line"
JSON: Final = "json"


class Record:
    """One request and what became of it."""

    __slots__ = (
        "_began",
        "cache",
        "method",
        "note",
        "received",
        "sent",
        "status",
        "url",
        "user",
    )

    def __init__(self) -> None:
        self._began = monotonic()
        self.method = b""
        self.url = b""
        self.user = b""
        self.status = 0
        self.received = self.sent = 0
        """Bytes from the peer and to it, heads included."""
        self.cache = ""
        """What the cache had: hit, miss, stale, revalidated; empty without a cache."""
        self.note = ""
        """Why it failed, or was cut short."""

    def tell(self, peer: str, form: str, counters: Counters | None) -> None:
        """Write the line and count the request."""
        seconds = monotonic() - self._began
        if counters is not None:
            counters.add(self, seconds)
        if form == LINE:
            stdio.log(self._line(peer, seconds))
        elif form == JSON:
            stdio.log(self._json(peer, seconds))

    def _line(self, peer: str, seconds: float) -> str:
        words = [word for word in (self.method, self.url) if word]
        line = (
            f"proxy: peer={peer or '-'} user={word_of(self.user)}"
            f' request="{quoted(b" ".join(words) or b"-")}" status={self.status}'
            f" in={self.received} out={self.sent} cache={self.cache or '-'}"
            f" seconds={seconds:.3f}"
        )
        return f'{line} note="{quoted(self.note.encode())}"' if self.note else line

    def _json(self, peer: str, seconds: float) -> str:
        record = {
            "time": moment_of(time.time()),
            "peer": peer,
            "user": text_of(self.user),
            "method": text_of(self.method),
            "url": text_of(self.url),
            "status": self.status,
            "in": self.received,
            "out": self.sent,
            "cache": self.cache,
            "seconds": round(seconds, 6),
            "note": self.note,
        }
        # By name: who writes plain lines need not load it.
        text: str = import_module("json").dumps(record)
        return text


def shown(target: bytes) -> bytes:
    """Return a target without the user and the password that may be in it."""
    return _USER.sub(_masked, target) if b"@" in target else target


def _masked(found: re.Match[bytes]) -> bytes:
    return (found[1] or b"") + b"***@"
