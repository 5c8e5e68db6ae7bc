"""What follows from a stored answer alone, worked out once.

The rule of the file: nothing here depends on a request or on the time, so that a shelf in
memory keeps it beside the answer. A hit is then a few comparisons.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers.cache.directives import directives_of, seconds, whole
from superd.handlers.cache.freshness import (
    date_of_answer,
    initial_age,
    lifetime_of,
    moment_of,
)
from superd.handlers.cache.vary import language_of, selection_of
from superd.handlers.forward.fields import values, without

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.handlers.cache.record import Stored
    from superd.handlers.cache.vary import Selection

    Field = tuple[bytes, bytes]
    Fields = list[Field]

_TAG: Final = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_OWN: Final = frozenset({b"age", b"content-length"})
"""Fields that are written anew for each answer."""


class Facts(NamedTuple):
    """A stored answer, read."""

    stored: Stored
    date: int
    """When it was made."""
    initial: float
    """Its age when it came."""
    lifetime: float
    """Seconds from then on that it is good."""
    validated: bool
    """It must not be given to anybody without asking the server."""
    strict: bool
    """It must not be given when it is stale (RFC 9111 4.2.4)."""
    behind: int
    """Seconds for which it may be given stale while it is validated (RFC 5861 3)."""
    on_error: int | None
    """Seconds for which it may be given stale because of an error (RFC 5861 4)."""
    selection: Selection | None
    language: bytes
    tag: bytes
    """Its entity tag; empty without a good one."""
    modified: int | None
    """The second of Last-Modified."""
    lines: Fields
    """Its fields, as they are given."""


def facts_of(stored: Stored) -> Facts:
    """Work out what there is to know of an answer."""
    fields, received = stored.fields, stored.received
    directives = directives_of(fields)
    return Facts(
        stored=stored,
        date=date_of_answer(fields, received),
        initial=initial_age(fields, stored.requested, received),
        lifetime=lifetime_of(stored.status, fields, received),
        # Of no-store and private there is nothing to give: a validation may have
        # brought them, and then this is what is left until the answer is removed.
        validated=whole(directives, b"no-cache")
        or whole(directives, b"private")
        or (b"no-store" in directives and b"must-understand" not in directives),
        strict=not directives.keys().isdisjoint(_STRICT),
        behind=seconds(directives, b"stale-while-revalidate") or 0,
        on_error=seconds(directives, b"stale-if-error"),
        selection=selection_of(stored),
        language=language_of(fields),
        tag=tag_of(fields),
        modified=moment_of(fields, b"last-modified", received),
        lines=without(fields, _OWN),
    )


_STRICT: Final = frozenset({b"must-revalidate", b"proxy-revalidate", b"s-maxage"})
"""Directives that forbid stale answers of a shared cache (5.2.2)."""


def tag_of(fields: Sequence[Field]) -> bytes:
    """Return the entity tag of an answer; empty where it has none, or a malformed one."""
    found = values(fields, b"etag")
    return found[0] if len(found) == 1 and _TAG.fullmatch(found[0]) else b""


def age_of(facts: Facts, now: float) -> int:
    """Return the age of an answer, in whole seconds: current_age (4.2.3)."""
    return int(exact_age_of(facts, now))


def exact_age_of(facts: Facts, now: float) -> float:
    """Return the age of an answer; it is never less than 0, nor less later on."""
    return facts.initial + max(0.0, now - facts.stored.received)
