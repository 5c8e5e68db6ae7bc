"""Ask the server whether a stored answer still holds, and take in what it says.

RFC 9111 3.2, 4.3. The rule of the file: a validation changes what is said of a body, never
what the body is: fields that describe its bytes stay those that came with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from superd.handlers.cache.directives import directives_of, named, number
from superd.handlers.cache.vary import selecting
from superd.handlers.forward.fields import end_to_end, has, values, without
from superd.handlers.http.response import date_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.handlers.cache.facts import Facts
    from superd.handlers.cache.record import Stored

    Field = tuple[bytes, bytes]
    Fields = list[Field]

REPLACED: Final = frozenset(
    {
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"range",
    }
)
"""Fields of the client that do not go with a validation: they are answered from what the
validation brings, and If-Match is a question for the server of a change (RFC 9110
13.1.1)."""
_OF_THE_BYTES: Final = frozenset(
    {
        b"content-digest",
        b"content-encoding",
        b"content-length",
        b"content-md5",
        b"content-range",
        b"digest",
        b"etag",
        b"repr-digest",
    }
)
"""What a 304 says of these is of a body that it does not have (3.2). ETag: that of a
compressed body is weak, and nginx sends the strong one of the file with its 304s."""
_OF_THE_ASKER: Final = frozenset({b"set-cookie"})
"""Meant for the peer whose request has validated the answer, and not for the next."""
_OF_THE_MESSAGE: Final = frozenset({b"age", b"date"})
"""Fields of one message: those of the old one say nothing of the new one."""


def conditions(facts: Facts) -> Fields:
    """Return the fields that make a request validate this answer (4.3.1).

    They go in place of those in REPLACED. Empty: there is nothing to validate it by.
    """
    found = []
    if facts.tag:
        found.append((b"If-None-Match", facts.tag))
    if facts.modified is not None:
        told = values(facts.stored.fields, b"last-modified")[0]
        found.append((b"If-Modified-Since", told))
    return found


def kept(reply_fields: Sequence[Field]) -> Fields:
    """Return those fields of an answer that are kept (3.1).

    `private` and `no-cache` may be about single fields: these are for the first client.
    """
    fields = end_to_end(reply_fields)
    directives = directives_of(fields)
    secret = named(directives, b"private") | named(directives, b"no-cache")
    return without(fields, secret) if secret else fields


def for_all(reply_fields: Sequence[Field]) -> Fields:
    """Return what a validation says to everybody: what a stored answer may take from it."""
    return without(reply_fields, _OF_THE_ASKER)


def dated(fields: Fields, received: float) -> Fields:
    """Return the fields with a Date, that of arrival where there was none (9110 6.6.1)."""
    if has(fields, b"date"):
        return fields
    return [*fields, (b"Date", date_of(received).encode("ascii"))]


def freshened(
    stored: Stored,
    reply_fields: Sequence[Field],
    request_fields: Sequence[Field],
    requested: float,
    received: float,
    *,
    head: bool = False,
) -> Stored | None:
    """Return the answer as a 304 has made it, or a 200 to a HEAD (4.3.4, 4.3.5).

    None: that was about another state of the resource. After a 304 the request has to be
    sent again without conditions; after a HEAD the stored answer is to be removed.
    `request_fields` are those of the request that is answered: Vary may name others now.
    """
    if not _is_about(stored, reply_fields, head=head):
        return None
    new = without(dated(end_to_end(reply_fields), received), _OF_THE_BYTES)
    replaced = {name.lower() for name, _ in new} | _OF_THE_MESSAGE
    fields = kept([*without(stored.fields, replaced), *new])
    return stored._replace(
        fields=fields,
        request=selecting(fields, request_fields),
        requested=requested,
        received=received,
    )


def _is_about(stored: Stored, reply_fields: Sequence[Field], *, head: bool) -> bool:
    """Tell whether validators say that this is the answer that is stored.

    The weak comparison, as If-None-Match was answered by it. A 304 without any validator
    is malformed (RFC 9110 15.4.5) and common; the request named one answer only.
    """
    if head:
        lengths = values(reply_fields, b"content-length")
        if lengths and number(lengths[0]) != stored.size:
            return False
    tags = values(reply_fields, b"etag")
    if tags:
        return _opaque(tags) == _opaque(values(stored.fields, b"etag"))
    moments = values(reply_fields, b"last-modified")
    return not moments or moments == values(stored.fields, b"last-modified")


def _opaque(tags: Sequence[bytes]) -> list[bytes]:
    return [tag.removeprefix(b"W/") for tag in tags]
