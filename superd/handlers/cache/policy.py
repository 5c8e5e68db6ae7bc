"""Decide what is kept, under which key, and what is no longer true (RFC 9111 2, 3, 4.4).

The rule of the file: this cache is shared. What is meant for one person is not kept, and
what is not sure to be meant for everybody neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

from superd.handlers.cache.directives import directives_of, whole
from superd.handlers.cache.facts import tag_of
from superd.handlers.cache.freshness import (
    HEURISTIC,
    is_explicit,
    lifetime_of,
    moment_of,
)
from superd.handlers.cache.record import Stored
from superd.handlers.cache.validation import dated, kept
from superd.handlers.cache.vary import fits, is_unselectable, selecting
from superd.handlers.forward.fields import has, values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.handlers.cache.facts import Facts

    Field = tuple[bytes, bytes]

UNDERSTOOD: Final = frozenset(
    {
        *(200, 203, 204, 300, 301, 302, 303, 307, 308),
        *range(400, 418),
        *(421, 422, 426),
        *range(500, 506),
    }
)
"""Statuses of which RFC 9110 15 says nothing that this cache would have to do."""
_INCOMPLETE: Final = frozenset({206, 304})
_LETS_SHARE: Final = (b"public", b"must-revalidate", b"s-maxage")
"""Answers to a request with Authorization are for others too, with one of these (3.5)."""
_SAFE: Final = frozenset(
    {
        *(b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT"),
        *(b"PROPFIND", b"QUERY", b"REPORT", b"SEARCH"),
    }
)
"""Methods that change nothing, of the registry of RFC 9110 18.2; CONNECT is no request."""
_PORTS: Final = {b"http": b":80", b"https": b":443"}


def key_of(method: bytes, url: bytes) -> bytes:
    """Return what an answer to a request is looked up by; empty: nothing can be stored.

    Two URLs that are one by RFC 9110 4.2.3 have one key; a query is part of it.
    """
    if method not in (b"GET", b"HEAD"):
        return b""
    scheme, mark, rest = url.partition(b"#")[0].partition(b"://")
    if not mark:
        return b""
    scheme = scheme.lower()
    host = rest.partition(b"/")[0].partition(b"?")[0]
    path = rest[len(host) :]
    host = host.lower().removesuffix(_PORTS.get(scheme, b":")).removesuffix(b":")
    return scheme + b"://" + host + (path if path[:1] == b"/" else b"/" + path)


def may_store(
    method: bytes,
    request_fields: Sequence[Field],
    status: int,
    reply_fields: Sequence[Field],
    *,
    now: float,
) -> bool:
    """Tell whether the answer to a request may be kept, and is worth it (3)."""
    if method != b"GET" or status < 200 or status in _INCOMPLETE:  # noqa: PLR2004
        return False
    directives = directives_of(reply_fields)
    if b"no-store" in directives_of(request_fields) or not _may_be_kept(
        status, reply_fields
    ):
        return False
    if has(request_fields, b"authorization") and not any(
        name in directives for name in _LETS_SHARE
    ):
        return False
    if not (
        is_explicit(reply_fields) or b"public" in directives or status in HEURISTIC
    ):
        return False
    # One that is stale at once is of use only if it can be validated.
    return (
        lifetime_of(status, reply_fields, now) > 0
        or bool(tag_of(reply_fields))
        or moment_of(reply_fields, b"last-modified", now) is not None
    )


def may_keep(stored: Stored) -> bool:
    """Tell whether an answer may stay stored, after a validation has changed it."""
    return _may_be_kept(stored.status, stored.fields)


def _may_be_kept(status: int, reply_fields: Sequence[Field]) -> bool:
    """Tell whether nothing in an answer forbids to keep it."""
    directives = directives_of(reply_fields)
    if b"must-understand" in directives:
        # Who understands the status need not heed no-store, which is there for those
        # who do not know must-understand (5.2.2.3).
        if status not in UNDERSTOOD:
            return False
    elif b"no-store" in directives:
        return False
    return not whole(directives, b"private") and not is_unselectable(reply_fields)


def to_store(
    url: bytes,
    request_fields: Sequence[Field],
    status: int,
    reason: bytes,
    reply_fields: Sequence[Field],
    *,
    requested: float,
    received: float,
    size: int = 0,
) -> Stored:
    """Return what is to be kept of an answer that may_store is for."""
    fields = dated(kept(reply_fields), received)
    selected = selecting(fields, request_fields)
    return Stored(url, status, reason, fields, selected, requested, received, size)


def selects(facts: Facts, request_fields: Sequence[Field]) -> bool:
    """Tell whether an answer was made for a request like this (4.1)."""
    return facts.selection == () or fits(
        facts.selection, request_fields, facts.language
    )


def choose(
    candidates: Sequence[Facts], request_fields: Sequence[Field]
) -> Facts | None:
    """Return the answer for a request: of those that fit, the most recent one (4)."""
    return max(
        (facts for facts in candidates if selects(facts, request_fields)),
        key=lambda facts: (facts.date, facts.stored.received),
        default=None,
    )


def invalidated(
    method: bytes, status: int, url: bytes, reply_fields: Sequence[Field]
) -> list[bytes]:
    """Return the keys of what is no longer true after this answer (4.4).

    Of other servers nothing is believed: they could empty the cache of anybody.
    """
    if method in _SAFE or not 200 <= status < 400:  # noqa: PLR2004
        return []
    keys = [key_of(b"GET", url)]
    for name in (b"location", b"content-location"):
        for value in values(reply_fields, name):
            key = _resolved(url, value)
            if key and _origin(key) == _origin(keys[0]) and key not in keys:
                keys.append(key)
    return keys


def _resolved(url: bytes, reference: bytes) -> bytes:
    """Return the key of what a reference leads to; empty where that is nothing."""
    try:
        found = urljoin(url.decode("latin-1"), reference.decode("latin-1"))
    except ValueError:
        return b""
    return key_of(b"GET", found.encode("latin-1"))


def _origin(key: bytes) -> bytes:
    return b"/".join(key.split(b"/")[:3])
