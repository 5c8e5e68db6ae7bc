"""For which requests an answer was made (RFC 9111 4.1).

The rule of the file: two values are one only where that is sure of every field: lists are
compared without their spaces, those of preferences without their order, and what names a
person as it is.

The fields of a request are those that the server was sent: what the proxy takes out of a
request cannot have made a difference.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from superd.handlers.forward.fields import members, values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.handlers.cache.record import Stored

    Field = tuple[bytes, bytes]
    Fields = list[Field]
    Selection = tuple[tuple[bytes, tuple[bytes, ...]], ...]

_PREFERENCES: Final = frozenset(
    {b"accept", b"accept-charset", b"accept-encoding", b"accept-language"}
)
"""Lists in which order says nothing (RFC 9110 12.5)."""
_ANY_CASE: Final = frozenset(
    {b"accept-charset", b"accept-encoding", b"accept-language"}
)
_AS_IT_IS: Final = frozenset({b"authorization", b"cookie", b"user-agent"})
"""No lists: a comma in them is a letter."""
_MOST: Final = 16
"""Names in one Vary: each is looked for in every request, for every variant. A head has
room for ten thousand, and those would hold up a loop for seconds."""
_REMEMBERED: Final = 256
"""Bytes of a value up to which it is worth remembering how it is spelt."""


def is_unselectable(reply_fields: Sequence[Field]) -> bool:
    """Tell whether no request is ever like the one before: Vary has a `*`, or too much."""
    names = members(reply_fields, b"vary")
    return b"*" in names or len(names) > _MOST


def selecting(reply_fields: Sequence[Field], request_fields: Sequence[Field]) -> Fields:
    """Return those fields of a request that Vary names, as they are."""
    names = set(members(reply_fields, b"vary"))
    return [field for field in request_fields if field[0].lower() in names]


def selection_of(stored: Stored) -> Selection | None:
    """Return what a request must have to be given this answer; None: no request has it."""
    names = members(stored.fields, b"vary")
    if b"*" in names:
        return None
    return tuple(
        (name, normalised(stored.request, name)) for name in dict.fromkeys(names)
    )


def normalised(fields: Sequence[Field], name: bytes) -> tuple[bytes, ...]:
    """Spell the values of a field so that equal ones are equal; empty: it is not there."""
    found = tuple(values(fields, name))
    if not found or name in _AS_IT_IS:
        return found
    if sum(map(len, found)) <= _REMEMBERED:
        return _remembered(name, found)
    return _spelt(name, found)


def _spelt(name: bytes, found: tuple[bytes, ...]) -> tuple[bytes, ...]:
    joined = b",".join(found)
    if name in _ANY_CASE:
        joined = joined.lower()
    parts = [part.strip(b" \t") for part in joined.split(b",")]
    if name in _PREFERENCES:
        parts = sorted({_without_spaces(part) for part in parts if part}) or [b""]
    return tuple(parts)


_remembered = lru_cache(maxsize=512)(_spelt)


def _without_spaces(preference: bytes) -> bytes:
    return b";".join(part.strip(b" \t") for part in preference.split(b";"))


def fits(
    selection: Selection | None, request_fields: Sequence[Field], language: bytes
) -> bool:
    """Tell whether a request is like the one that was answered.

    `language` is that of the answer. A request that wants it before all others cannot be
    answered better, whatever the first one wanted.
    """
    if selection is None:
        return False
    for name, wanted in selection:
        if normalised(request_fields, name) != wanted and not (
            name == b"accept-language"
            and language
            and language == _favourite(request_fields)
        ):
            return False
    return True


def language_of(fields: Sequence[Field]) -> bytes:
    """Return the one language of an answer, in lower case; empty: none, or several."""
    found = members(fields, b"content-language")
    return found[0] if len(found) == 1 else b""


def _favourite(request_fields: Sequence[Field]) -> bytes:
    """Return the language that is preferred to all others; empty where there is none."""
    weights: list[tuple[float, bytes]] = []
    for preference in members(request_fields, b"accept-language"):
        name, semicolon, weight = _without_spaces(preference).partition(b";q=")
        if b";" in name:
            return b""
        weights.append((_weight(weight) if semicolon else 1.0, name))
    weights.sort(reverse=True)
    if not weights or weights[0][0] <= 0 or weights[0][1] == b"*":
        return b""
    if len(weights) > 1 and weights[1][0] == weights[0][0]:
        return b""
    return weights[0][1]


def _weight(text: bytes) -> float:
    """Read a weight (RFC 9110 12.4.2), 0 where it is none."""
    whole, _, rest = text.partition(b".")
    if whole not in (b"0", b"1") or len(rest) > 3 or rest.strip(b"0123456789"):  # noqa: PLR2004
        return 0.0
    return min(1.0, float(whole + b"." + (rest or b"0")))
