"""Answer a request from a stored answer (RFC 9111 4.3.2, RFC 9110 13.2.2 and 14).

The rule of the file: a stored answer is told as it came, with its own Date. Only Age, the
length and what a range needs are written here, and If-Match is left to the server, as it
may be (RFC 9110 13.1.1).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers.cache.facts import age_of
from superd.handlers.forward.fields import values, without
from superd.handlers.http import conditional, ranges
from superd.handlers.http.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from superd.handlers.cache.facts import Facts

    Field = tuple[bytes, bytes]
    Fields = list[Field]

_ASKED: Final = frozenset(
    {b"if-modified-since", b"if-none-match", b"if-range", b"range"}
)
_OF_THE_BODY: Final = frozenset(
    {
        b"content-digest",
        b"content-encoding",
        b"content-language",
        b"content-length",
        b"content-md5",
        b"content-range",
        b"content-type",
        b"digest",
        b"repr-digest",
    }
)
"""Not said in a 304, whose reader has the body (RFC 9110 15.4.5)."""
_BODILESS: Final = frozenset({204, 304})
_SUCCESSES: Final = range(200, 300)


class Served(NamedTuple):
    """What a client is answered."""

    status: int
    reason: bytes
    fields: Fields
    """Without those of the connection, and without Content-Length."""
    pieces: tuple[ranges.Piece, ...]
    """Of the stored body, each behind its head."""
    end: bytes
    """What follows the last piece."""
    length: int | None
    """The value of Content-Length, the same for HEAD; None: there is no such field."""


def _boundary() -> str:
    # No body has 128 bits of chance in it, so that no part can end another.
    return os.urandom(16).hex()


def answer(
    facts: Facts,
    method: bytes,
    request_fields: Sequence[Field],
    now: float,
    *,
    boundary: Callable[[], str] = _boundary,
) -> Served:
    """Answer GET or HEAD from what is stored: all of it, parts of it, or no need of it."""
    stored = facts.stored
    age = (b"Age", b"%d" % age_of(facts, now))
    asked = [field for field in request_fields if field[0].lower() in _ASKED]
    if asked and stored.status in _SUCCESSES:
        request = _request_of(asked)
        if _is_known(facts, request, now):
            fields = [*without(facts.lines, _OF_THE_BODY), age]
            return Served(304, b"Not Modified", fields, (), b"", None)
        if stored.status == 200 and method == b"GET":  # noqa: PLR2004
            spans = _spans(facts, request, now)
            if spans is not None:
                return _parts(facts, spans, age, boundary)
    length = None if stored.status in _BODILESS else stored.size
    pieces: tuple[ranges.Piece, ...] = ()
    if length and method == b"GET":
        pieces = (ranges.Piece(b"", 0, length),)
    return Served(
        stored.status, stored.reason, [*facts.lines, age], pieces, b"", length
    )


def _request_of(fields: Sequence[Field]) -> Request:
    """Return the fields as conditions are read."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        found.setdefault(name.lower(), []).append(value)
    return Request(b"GET", b"/", 1, found, 0)


def _is_known(facts: Facts, request: Request, now: float) -> bool:
    """Tell whether the client has this state already.

    Without Last-Modified the moment that counts is that of Date (4.3.2).
    """
    moment = facts.date if facts.modified is None else facts.modified
    there = conditional.Validators(facts.tag.decode("latin-1"), moment)
    return conditional.judge(request, there, now) == 304  # noqa: PLR2004


def _spans(facts: Facts, request: Request, now: float) -> list[ranges.Span] | None:
    """Return the parts that are asked for; None: it is the whole that is to be sent."""
    wanted = request.values(b"range")
    there = conditional.Validators(facts.tag.decode("latin-1"), facts.modified)
    if len(wanted) != 1 or not conditional.may_use_range(request, there, now):
        return None
    return ranges.parse_range(wanted[0], facts.stored.size)


def _parts(
    facts: Facts, spans: list[ranges.Span], age: Field, boundary: Callable[[], str]
) -> Served:
    size = facts.stored.size
    if not spans:
        told = values(facts.lines, b"date")[:1]
        fields = [(b"Content-Range", b"bytes */%d" % size), age]
        fields += [(b"Date", date) for date in told]
        return Served(416, b"Range Not Satisfiable", fields, (), b"", 0)
    if len(spans) == 1:
        start, end = spans[0]
        where = ranges.content_range(spans[0], size).encode("ascii")
        fields = without(facts.lines, {b"content-range"})
        fields += [(b"Content-Range", where), age]
        piece = ranges.Piece(b"", start, end - start)
        return Served(206, b"Partial Content", fields, (piece,), b"", end - start)
    mark = boundary()
    told = values(facts.lines, b"content-type")
    kind = told[0] if told else b"application/octet-stream"
    pieces, tail = ranges.multipart(spans, size, kind.decode("latin-1"), mark)
    fields = without(facts.lines, {b"content-range", b"content-type"})
    whole = b"multipart/byteranges; boundary=" + mark.encode("ascii")
    fields += [(b"Content-Type", whole), age]
    length = sum(len(piece.head) + piece.size for piece in pieces) + len(tail)
    return Served(206, b"Partial Content", fields, tuple(pieces), tail, length)
