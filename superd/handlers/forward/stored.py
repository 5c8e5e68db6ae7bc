"""Answer a peer from the store.

The rule of the file: an answer whose body is gone or damaged is a miss, found out before a
byte of it is sent.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from superd.handlers.cache import record as records
from superd.handlers.cache.facts import Facts, age_of, facts_of
from superd.handlers.cache.serving import answer
from superd.handlers.exits import TooSlow
from superd.handlers.forward.fields import lines_of

if TYPE_CHECKING:
    from superd.handlers.cache.keyfile import Entry, Variant
    from superd.handlers.cache.serving import Served
    from superd.handlers.forward.fields import Field
    from superd.handlers.forward.passing import Passing
    from superd.handlers.http.request import Request

_ASKED: Final = frozenset(
    {b"if-modified-since", b"if-none-match", b"if-range", b"range"}
)
"""Fields without which a request asks for all of an answer, whatever its state."""
_WITHOUT_LENGTH: Final = frozenset({204, 304})


class Found(NamedTuple):
    """A stored answer, and what follows from it."""

    variant: Variant
    facts: Facts


class Ready(NamedTuple):
    """What the shelf keeps beside an answer."""

    facts: Facts
    head: bytes
    """All of the head but Age, Via and what belongs to the connection."""


def ready(variant: Variant) -> Ready | None:
    """Read what is known of a variant, once for each time it is loaded; None: damaged."""
    made: Ready | None = variant.facts
    if made is None:
        try:
            facts = facts_of(records.from_bytes(variant.meta))
        except ValueError:
            return None
        stored = facts.stored
        length = (
            b""
            if stored.status in _WITHOUT_LENGTH
            else b"Content-Length: %d\r\n" % variant.size
        )
        made = variant.facts = Ready(
            facts,
            b"HTTP/1.1 %d %b\r\n%b%b"
            % (stored.status, stored.reason, lines_of(facts.lines), length),
        )
    return made


def asks_plainly(request: Request) -> bool:
    """Tell whether a request asks for all of an answer, whatever its state."""
    return _ASKED.isdisjoint(request.fields)


async def serve(
    passing: Passing,
    found: Found,
    fields: list[Field],
    now: float,
    *,
    keep: bool,
    told: bytes,
) -> bool:
    """Answer from the store; False where the body is gone: nothing was sent then.

    `told` is the line that says what the cache has done.
    """
    variant, facts = found
    entry = variant.open()
    if entry is None:
        return False
    with entry:
        name = passing.route.plan.identity.name
        end = told + b"Via: 1.1 %b\r\n" % name
        if not keep:
            end += b"Connection: close\r\n"
        if asks_plainly(passing.request) and entry.data is not None:
            made = ready(variant)
            assert made is not None
            head = b"%bAge: %d\r\n%b\r\n" % (made.head, age_of(facts, now), end)
            passing.record.status = facts.stored.status
            bare = passing.question.method == b"HEAD"
            await passing.client.send(head if bare else head + entry.data)
            return True
        served = answer(facts, passing.question.method, fields, now)
        await _send(passing, served, entry, end)
    return True


async def _send(passing: Passing, served: Served, entry: Entry, end: bytes) -> None:
    """Send all of an answer, or parts of it."""
    client = passing.client
    length = b"" if served.length is None else b"Content-Length: %d\r\n" % served.length
    head = b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (
        served.status,
        served.reason,
        lines_of(served.fields),
        length,
        end,
    )
    passing.record.status = served.status
    if entry.data is not None:
        parts = [head]
        for piece in served.pieces:
            parts += [piece.head, entry.data[piece.start : piece.start + piece.size]]
        await client.send(b"".join([*parts, served.end]))
        return
    for piece in served.pieces:
        await client.send(head + piece.head)
        head = b""
        await _send_file(client, entry.fd, piece.start, piece.size)
    if head or served.end:
        await client.send(head + served.end)


async def _send_file(client: Any, fd: int, start: int, size: int) -> None:
    """Let the kernel copy a part of a body; its length was found to be right."""
    timeouts = client.plan.timeouts
    # What is passed on waits for as much at a time: a slow peer has as long for it.
    step = 1 << 16
    done = 0
    while done < size:
        deadline = monotonic() + timeouts.send
        wanted = min(step, size - done)
        try:
            sent = await client.writer.sendfile(fd, start + done, wanted, deadline)
        except TimeoutError:
            raise TooSlow("the peer was too slow to read the answer") from None
        client.sent += sent
        done += sent
        if sent < wanted:
            # Somebody has cut the file since: the peer sees that it is not whole.
            raise ConnectionAbortedError("a stored body is shorter than it was")


def has_precondition(request: Request) -> bool:
    """Tell whether a request is one for the server alone (RFC 9110 13.1.1, 13.1.4)."""
    return b"if-match" in request.fields or b"if-unmodified-since" in request.fields


def status_line(name: bytes, text: bytes) -> bytes:
    """Spell the field that says what the cache has done (RFC 9211)."""
    return b"Cache-Status: %b; %b\r\n" % (name, text)
