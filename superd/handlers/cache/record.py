"""What a cache knows of an answer, without its body, and how that is written down.

The rule of the file: what is read back was perhaps written by another version, or by half:
it is exactly what was written, or it is nothing.
"""

from __future__ import annotations

import math
import struct
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    Fields = list[tuple[bytes, bytes]]

_VERSION: Final = 1
_HEAD: Final = struct.Struct("!BHQddHH")
_STATUSES: Final = range(200, 1000)
_BREAKING: Final = b"\r\n\0"
"""Bytes that no line of a head can have."""


class Stored(NamedTuple):
    """An answer as it was received, with what validations have changed since."""

    url: bytes
    status: int
    reason: bytes
    fields: Fields
    """Those that go from end to end, in order and spelling as received."""
    request: Fields
    """Those of the request that Vary names: the answer is for requests like it."""
    requested: float
    """When the request was sent, in seconds of Unix."""
    received: float
    """When the head arrived."""
    size: int
    """Bytes of the body."""


def to_bytes(stored: Stored) -> bytes:
    """Write it down."""
    texts = [stored.url, stored.reason]
    texts += chain.from_iterable(stored.fields)
    texts += chain.from_iterable(stored.request)
    head = _HEAD.pack(
        _VERSION,
        stored.status,
        stored.size,
        stored.requested,
        stored.received,
        len(stored.fields),
        len(stored.request),
    )
    lengths = struct.pack(f"!{len(texts)}I", *map(len, texts))
    return b"".join([head, lengths, *texts])


def from_bytes(data: bytes) -> Stored:
    """Read it back. Raises ValueError where it is not what to_bytes writes."""
    try:
        version, status, size, requested, received, many, few = _HEAD.unpack_from(data)
        count = 2 + 2 * (many + few)
        lengths = struct.unpack_from(f"!{count}I", data, _HEAD.size)
    except struct.error as error:
        raise ValueError("a record that is cut short") from error
    start = _HEAD.size + 4 * count
    if version != _VERSION or len(data) != start + sum(lengths):
        raise ValueError("no record of this version")
    if status not in _STATUSES or not math.isfinite(requested + received):
        raise ValueError("a record that makes no sense")
    if len(data[start:].translate(None, _BREAKING)) != len(data) - start:
        raise ValueError("a record with line ends in its fields")
    texts = []
    for length in lengths:
        texts.append(data[start : start + length])
        start += length
    fields = _paired(texts[2:])
    return Stored(
        texts[0],
        status,
        texts[1],
        fields[:many],
        fields[many:],
        requested,
        received,
        size,
    )


def _paired(texts: Sequence[bytes]) -> Fields:
    return list(zip(texts[::2], texts[1::2], strict=True))
