"""Read Cache-Control (RFC 9111 5.2).

The rule of the file: what can be read in two ways is read in the way that keeps less. A
number that is none means stale at once (4.2.1), of two numbers the first one counts, and
a list of fields that is none means the whole answer.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from superd.handlers.forward.fields import members, values
from superd.handlers.http.request import is_token

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Field = tuple[bytes, bytes]
    Directives = Mapping[bytes, list[bytes | None]]

FAR: Final = 2**31
"""Seconds that stand for every larger number (1.2.2)."""
PROTECTED: Final = frozenset(
    {
        b"cache-control",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"date",
        b"etag",
        b"expires",
        b"last-modified",
        b"vary",
    }
)
"""Without these an answer is another one: they are not taken out of it."""
_DIGITS: Final = b"0123456789"
_LONGEST: Final = 10
"""Digits of FAR."""
_REMEMBERED: Final = 256
"""Bytes of a field up to which it is worth remembering how it reads."""
_STOP: Final = re.compile(rb'[",]')
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_NOTHING: Final[Directives] = {}
_NO_CACHE: Final[Directives] = {b"no-cache": [None]}


def directives_of(fields: Iterable[Field]) -> Directives:
    """Return the directives, in lower case, each with its arguments in order."""
    lines = tuple(values(fields, b"cache-control"))
    if not lines:
        return _NOTHING
    if sum(map(len, lines)) <= _REMEMBERED:
        return _remembered(lines)
    return _read(lines)


def wishes_of(fields: Sequence[Field]) -> Directives:
    """Return the directives of a request.

    Pragma is the Cache-Control of clients who do not know that field (5.4).
    """
    found = directives_of(fields)
    if not found and b"no-cache" in members(fields, b"pragma"):
        return _NO_CACHE
    return found


def seconds(directives: Directives, name: bytes) -> int | None:
    """Return the number of a directive; None where it is not there, 0 for none."""
    arguments = directives.get(name)
    if arguments is None:
        return None
    return number(arguments[0] or b"") or 0


def number(text: bytes) -> int | None:
    """Read a number of seconds, of digits alone (1.2.2); None: it is none."""
    if not text or text.translate(None, _DIGITS):
        return None
    digits = text.lstrip(b"0") or b"0"
    return min(int(digits), FAR) if len(digits) <= _LONGEST else FAR


def named(directives: Directives, name: bytes) -> frozenset[bytes]:
    """Return the fields that `private` or `no-cache` is about, where it is about some."""
    found: set[bytes] = set()
    for argument in directives.get(name, ()):
        found.update(_names(argument))
    return frozenset(found - PROTECTED)


def whole(directives: Directives, name: bytes) -> bool:
    """Tell whether `private` or `no-cache` is about the answer and not about fields."""
    for argument in directives.get(name, ()):
        names = _names(argument)
        if not names or names & PROTECTED or not all(map(is_token, names)):
            return True
    return False


def _names(argument: bytes | None) -> set[bytes]:
    parts = (argument or b"").lower().split(b",")
    return {name for part in parts if (name := part.strip(b" \t"))}


def _read(lines: Iterable[bytes]) -> Directives:
    # Each line for itself: a quote that one leaves open hides nothing in the next.
    found: dict[bytes, list[bytes | None]] = {}
    for line in lines:
        for part in _split(line):
            name, equals, argument = part.strip(b" \t").partition(b"=")
            if spaced := name.rstrip(b" \t"):
                # A space beside `=` stays in the argument, which is no number then.
                before = name[len(spaced) :]
                read = _unquoted(before + argument) if equals else None
                found.setdefault(spaced.lower(), []).append(read)
    return found


_remembered = lru_cache(maxsize=256)(_read)


def _split(line: bytes) -> list[bytes]:
    """Split at the commas that are not quoted."""
    if b'"' not in line:
        return line.split(b",")
    parts = []
    start = at = 0
    while stop := _STOP.search(line, at):
        if stop[0] == b",":
            parts.append(line[start : stop.start()])
            start = at = stop.end()
        elif quoted := _QUOTED.match(line, stop.start()):
            at = quoted.end()
        else:
            # Never closed: it is no quote, and hides no directive.
            return parts + line[start:].split(b",")
    parts.append(line[start:])
    return parts


def _unquoted(text: bytes) -> bytes:
    """Take the quotes off: both forms of an argument are read (5.2)."""
    quoted = _QUOTED.fullmatch(text)
    return _ESCAPED.sub(rb"\1", quoted[1]) if quoted else text
