"""Decide whether a stored answer may be given (RFC 9111 4, 5.2.1, RFC 5861).

The rule of the file: what the server forbids nobody can allow, and what the client wants
fresher than that is validated. To answer from here is a favour, never a duty.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING

from superd.handlers.cache.directives import seconds, wishes_of
from superd.handlers.cache.facts import exact_age_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.handlers.cache.directives import Directives
    from superd.handlers.cache.facts import Facts

    Field = tuple[bytes, bytes]


class Verdict(Enum):
    """What is to be done with a stored answer."""

    FRESH = "fresh"
    """Give it."""
    STALE = "stale"
    """Give it: the client takes it as old as it is."""
    STALE_WHILE_REVALIDATE = "stale while revalidate"
    """Give it, and validate it behind that."""
    REVALIDATE = "revalidate"
    """Validate it first."""


class Failure(Enum):
    """Why there is no good answer of the server."""

    UNREACHABLE = "unreachable"
    """There is none: no connection, or it ended or lasted too long."""
    ERROR = "error"
    """Its status is 500, 502, 503 or 504."""


def judge(facts: Facts, request_fields: Sequence[Field], now: float) -> Verdict:
    """Decide what to do with an answer that fits a request."""
    wishes = wishes_of(request_fields)
    if facts.validated or b"no-cache" in wishes:
        return Verdict.REVALIDATE
    age = exact_age_of(facts, now)
    good = facts.lifetime
    pressing = False
    if wishes:
        oldest = seconds(wishes, b"max-age")
        spare = seconds(wishes, b"min-fresh")
        pressing = oldest is not None or spare is not None
        good = min(good, math.inf if oldest is None else oldest) - (spare or 0)
    if age < good:
        return Verdict.FRESH
    if facts.strict:
        return Verdict.REVALIDATE
    if age - good <= _tolerance(wishes):
        return Verdict.STALE
    if age < facts.lifetime + facts.behind and not pressing:
        return Verdict.STALE_WHILE_REVALIDATE
    return Verdict.REVALIDATE


def _tolerance(wishes: Directives) -> float:
    """Return how stale an answer the client takes (5.2.1.2)."""
    if b"max-stale" not in wishes:
        return -1.0
    if wishes[b"max-stale"][0] is None:
        return math.inf
    return float(seconds(wishes, b"max-stale") or 0)


def may_serve_stale(
    facts: Facts,
    request_fields: Sequence[Field],
    now: float,
    *,
    failure: Failure,
    cut_off: float = 0.0,
) -> bool:
    """Tell whether an answer may be given although its validation failed (4.2.4, 4.3.3).

    Where not, the client gets 504, or the error of the server. `cut_off` has the seconds
    for which the operator rather gives a stale answer than none, where nobody says so.
    """
    if facts.validated:
        return False
    wishes = wishes_of(request_fields)
    if not wishes.keys().isdisjoint((b"no-cache", b"max-age", b"min-fresh")):
        # The client wants news, and there are none: it is told so.
        return False
    stale = exact_age_of(facts, now) - facts.lifetime
    if stale < 0:
        return True
    if facts.strict:
        return False
    asked = seconds(wishes, b"stale-if-error")
    if asked is not None and stale <= asked:
        return True
    if facts.on_error is not None:
        return stale <= facts.on_error
    return failure is Failure.UNREACHABLE and stale <= cut_off


def wants_only_cached(request_fields: Sequence[Field]) -> bool:
    """Tell whether a request must not go to the server: 504 where nothing is good."""
    return b"only-if-cached" in wishes_of(request_fields)
