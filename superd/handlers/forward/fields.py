"""Rewrite the fields of a message on its way through a proxy (RFC 9110 7.6).

The rule of the file: what is between two hosts ends at the next one, whatever its peer
calls it; and no peer can have a field taken away that the far end needs, by naming it in
Connection. Order and spelling of what goes on stay.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    Field = tuple[bytes, bytes]

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Of one connection (7.6.1; proxy fields are ours: 11.7; RFC 7540 3.2.1)."""
END_TO_END: Final = frozenset(
    {
        b"age",
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-length",
        b"content-location",
        b"content-range",
        b"content-type",
        b"cookie",
        b"date",
        b"etag",
        b"expect",
        b"expires",
        b"forwarded",
        b"host",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"last-modified",
        b"location",
        b"max-forwards",
        b"origin",
        b"pragma",
        b"range",
        b"referer",
        b"set-cookie",
        b"vary",
        b"via",
        b"www-authenticate",
        b"x-forwarded-for",
    }
)
"""A sender must not name these in Connection (7.6.1); one that does is not obeyed."""


class Trace(Enum):
    """What is said of the peer in Forwarded and X-Forwarded-For."""

    KEEP = "keep"
    """Nothing is added or removed."""
    ADD = "add"
    REMOVE = "remove"


class Identity(NamedTuple):
    """How the proxy names itself, and what it tells of its peers."""

    name: bytes
    """The pseudonym in Via."""
    trace: Trace = Trace.KEEP
    hidden: frozenset[bytes] = frozenset()
    """Fields of requests that are not passed on, in lower case."""


def values(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """Return every value of a field; `name` is in lower case."""
    size = len(name)
    return [value for key, value in fields if len(key) == size and key.lower() == name]


def has(fields: Iterable[Field], name: bytes) -> bool:
    """Tell whether there is a field of this name, which is in lower case."""
    return any(key.lower() == name for key, _ in fields)


def members(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """Return the members of a list field, in lower case, in order (5.6.1)."""
    joined = b",".join(values(fields, name)).lower()
    return [word for part in joined.split(b",") if (word := part.strip(b" \t"))]


def end_to_end(fields: Iterable[Field]) -> list[Field]:
    """Return the fields that go on."""
    fields = list(fields)
    named = set(members(fields, b"connection")) - END_TO_END
    return without(fields, HOP_BY_HOP | named)


def without(fields: Iterable[Field], names: Container[bytes]) -> list[Field]:
    """Return the fields but those of these names, which are in lower case."""
    return [field for field in fields if field[0].lower() not in names]


def via_line(minor: int, name: bytes) -> Field:
    """Say through whom a message came that was received in HTTP/1.`minor` (7.6.3)."""
    return b"Via", b"1.%d %b" % (minor, name)


def has_passed(fields: Iterable[Field], name: bytes) -> bool:
    """Tell whether a message has been here before: it would go round for ever (7.6)."""
    for member in members(fields, b"via"):
        received_by = member.split(b" ")[1:2]
        if received_by and received_by[0].partition(b":")[0] == name.lower():
            return True
    return False


def request_fields(
    fields: Iterable[Field],
    identity: Identity,
    *,
    host: bytes,
    minor: int,
    peer: str,
) -> list[Field]:
    """Return the fields of a request for the next host; framing is the caller's.

    Host comes first, and is that of the target: the one received is ignored (9112 3.2.2).
    """
    going = without(end_to_end(fields), identity.hidden | {b"host", b"via"})
    via = [field for field in fields if field[0].lower() == b"via"]
    if identity.trace is Trace.REMOVE:
        # Via stays: without it a message could go round between two proxies for ever.
        going = without(going, {b"forwarded", b"x-forwarded-for"})
    elif identity.trace is Trace.ADD and peer:
        going = _with_peer(going, peer)
    return [(b"Host", host), *going, *via, via_line(minor, identity.name)]


def response_fields(
    fields: Iterable[Field], identity: Identity, *, minor: int
) -> list[Field]:
    """Return the fields of an answer for the peer; framing is the caller's."""
    return [*end_to_end(fields), via_line(minor, identity.name)]


def response_lines(
    fields: Iterable[Field], identity: Identity, *, minor: int
) -> tuple[bytes, bool]:
    """Write what response_fields gives, as lines, and tell whether a Date is among it."""
    lines = []
    dated = False
    for name, value in fields:
        low = name.lower()
        if low == b"connection" and value.lower() not in _ONLY_OURS:
            # It names further fields.
            going = response_fields(fields, identity, minor=minor)
            return lines_of(going), has(going, b"date")
        if low in HOP_BY_HOP:
            continue
        if low == b"date":
            dated = True
        lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(b"Via: 1.%d %b\r\n" % (minor, identity.name))
    return b"".join(lines), dated


_ONLY_OURS: Final = frozenset({b"close", b"keep-alive"})


def lines_of(fields: Iterable[Field]) -> bytes:
    """Write fields, each with its line end."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def _with_peer(fields: list[Field], peer: str) -> list[Field]:
    """Add the peer behind those who came before it (RFC 7239 4)."""
    node = f'"[{peer}]"' if ":" in peer else peer
    before = values(fields, b"x-forwarded-for")
    chain = b", ".join([*before, peer.encode("ascii")])
    others = without(fields, {b"x-forwarded-for"})
    told = (b"Forwarded", b"for=" + node.encode("ascii"))
    return [*others, told, (b"X-Forwarded-For", chain)]


def max_forwards(fields: Iterable[Field]) -> int | None:
    """Return the number in Max-Forwards, None without a good one (7.6.2)."""
    found = values(fields, b"max-forwards")
    if len(found) != 1 or not found[0].isdigit() or len(found[0]) > 9:  # noqa: PLR2004
        return None
    return int(found[0])


def with_max_forwards(fields: Iterable[Field], number: int) -> list[Field]:
    """Put the number in its place."""
    return [
        (name, b"%d" % number) if name.lower() == b"max-forwards" else (name, value)
        for name, value in fields
    ]
