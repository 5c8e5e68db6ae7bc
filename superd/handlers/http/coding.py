"""Choose among compressed files by Accept-Encoding (RFC 9110 12.5.3).

The rule of the file: a field that cannot be read asks for nothing, and the file as it is
does for everybody.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NAMES: Final = {b".br": "br", b".zst": "zstd", b".gz": "gzip"}
"""The content coding of each ending (RFC 9110 8.4.1, RFC 7932, RFC 8878)."""

_MEMBER: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9a-z-]+)(?:[ \t]*;[ \t]*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?"
)
_OLD: Final = {b"x-gzip": b"gzip"}


def choose(accepted: Iterable[bytes], endings: Sequence[bytes]) -> list[bytes]:
    """Sort the endings by how much the peer wants them; those it does not are left out.

    Of two that it wants alike the first of `endings` comes first; what it wants less
    than the file as it is, is not wanted.
    """
    weights: dict[bytes, float] = {}
    for member in b",".join(accepted).lower().split(b","):
        found = _MEMBER.fullmatch(member.strip(b" \t"))
        if found:
            name = _OLD.get(found[1], found[1])
            weights[name] = float(found[2]) if found[2] is not None else 1.0
    if not weights:
        return []
    others = weights.get(b"*", 0.0)
    plain = weights.get(b"identity", 0.0)
    wanted = [
        (weights.get(NAMES[ending].encode("ascii"), others), ending)
        for ending in endings
    ]
    wanted.sort(key=lambda pair: -pair[0])
    return [ending for weight, ending in wanted if weight > 0 and weight >= plain]
