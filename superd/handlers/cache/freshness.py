"""How old an answer is and how long it is good (RFC 9111 4.2).

The rule of the file: an answer never seems younger than it is. A clock that was set back
makes it no younger, and a lifetime that cannot be read is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from superd.handlers.cache.directives import FAR, directives_of, number, seconds
from superd.handlers.forward.fields import has, members, values
from superd.handlers.http.conditional import parse_date

if TYPE_CHECKING:
    from collections.abc import Sequence

    Field = tuple[bytes, bytes]

HEURISTIC: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
"""Statuses of which may be guessed how long they hold (RFC 9110 15.1), without 206."""
_SHARE: Final = 0.1
"""Of the time that it was left alone: the usual guess (4.2.2)."""
_LONGEST_GUESS: Final = 86400.0
"""Nobody is told of a guess since Warning is gone: so it ends within a day."""


def moment_of(fields: Sequence[Field], name: bytes, now: float) -> int | None:
    """Return the moment in a field of a date; None where there is no good one.

    A cache takes the names of days and months in any case (4.2); GMT is the only zone.
    """
    found = values(fields, name)
    if not found:
        return None
    return parse_date(found[0].title().replace(b"Gmt", b"GMT"), now)


def date_of_answer(fields: Sequence[Field], received: float) -> int:
    """Return when an answer was made: Date, or else when it came (RFC 9110 6.6.1)."""
    date = moment_of(fields, b"date", received)
    return int(received) if date is None else date


def initial_age(fields: Sequence[Field], requested: float, received: float) -> float:
    """Return how old an answer was when it came: corrected_initial_age (4.2.3)."""
    delay = max(0.0, received - requested)
    apparent = int(received) - date_of_answer(fields, received)
    return max(0.0, float(apparent), _told_age(fields) + delay)


def _told_age(fields: Sequence[Field]) -> int:
    """Return what Age says: of several values the first one (5.1).

    One that is no number might be ignored (5.1 SHOULD); but it is as bad as a malformed
    max-age, which makes an answer stale (4.2.1), and that harms nobody.
    """
    told = members(fields, b"age")
    if not told:
        return FAR if has(fields, b"age") else 0
    age = number(told[0])
    return FAR if age is None else age


def lifetime_of(status: int, fields: Sequence[Field], received: float) -> float:
    """Return how many seconds an answer is good: freshness_lifetime (4.2.1)."""
    directives = directives_of(fields)
    for name in (b"s-maxage", b"max-age"):
        told = seconds(directives, name)
        if told is not None:
            return float(told)
    date = date_of_answer(fields, received)
    if has(fields, b"expires"):
        # One that is no date, "0" above all, is past (5.3).
        expires = moment_of(fields, b"expires", received)
        return 0.0 if expires is None else float(max(0, expires - date))
    return _guess(status, fields, date, b"public" in directives)


def is_explicit(fields: Sequence[Field]) -> bool:
    """Tell whether an answer says how long it is good."""
    directives = directives_of(fields)
    return (
        b"s-maxage" in directives or b"max-age" in directives or has(fields, b"expires")
    )


def _guess(
    status: int,
    fields: Sequence[Field],
    date: int,
    public: bool,  # noqa: FBT001
) -> float:
    """Guess how long an answer holds that does not say so (4.2.2)."""
    if not public and status not in HEURISTIC:
        return 0.0
    if has(fields, b"set-cookie"):
        # Allowed (7.3), but a cookie that nobody meant to be shared is a session.
        return 0.0
    modified = moment_of(fields, b"last-modified", date)
    if modified is None or modified >= date:
        return 0.0
    return min(_LONGEST_GUESS, (date - modified) * _SHARE)
