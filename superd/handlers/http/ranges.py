"""Find the pieces of a file that a Range field asks for (RFC 9110 14).

The rule of the file: Range is a wish. One that cannot be read, that is in another unit
or that would make the answer longer than the file is ignored, and the peer gets the file
(14.2); only a good one that lies wholly behind the end is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST: Final = 10
"""Ranges in one request: an honest peer asks for one or two."""
_DIGITS: Final = b"0123456789"
_LONGEST: Final = 18
"""Digits of a position: no file has an exabyte."""
_FAR: Final = 10**_LONGEST


class Span(NamedTuple):
    """Bytes of a file, from `start` to before `end`."""

    start: int
    end: int


class Piece(NamedTuple):
    """Bytes of a file, and what is sent before them."""

    head: bytes
    start: int
    size: int


def parse_range(value: bytes, size: int) -> list[Span] | None:
    """Read a Range field for a file of `size` bytes, in the order of the request.

    None: it is to be ignored. Empty: none of it lies in the file (416).
    """
    if not size:
        # No range of nothing can be said by Content-Range: send the nothing.
        return None
    unit, equals, text = value.partition(b"=")
    if not equals or unit.lower() != b"bytes":
        return None
    specs = [spec for part in text.split(b",") if (spec := part.strip(b" \t"))]
    if not 1 <= len(specs) <= MOST:
        return None
    spans = []
    for spec in specs:
        span = _parse_spec(spec, size)
        if span is None:
            return None
        if span.start < span.end:
            spans.append(span)
    if sum(span.end - span.start for span in spans) > size:
        return None
    return spans


def _parse_spec(spec: bytes, size: int) -> Span | None:
    """Read `2-5`, `2-` or `-5`; an empty span lies behind the end."""
    first, dash, last = spec.partition(b"-")
    if not dash or (first + last).translate(None, _DIGITS) or not first + last:
        return None
    if not first:
        return Span(max(0, size - _number(last)), size)
    start = _number(first)
    if not last:
        return Span(start, max(start, size))
    if _number(last) < start:
        return None
    return Span(start, max(start, min(_number(last) + 1, size)))


def _number(digits: bytes) -> int:
    digits = digits.lstrip(b"0")
    return int(digits or b"0") if len(digits) <= _LONGEST else _FAR


def content_range(span: Span, size: int) -> str:
    """Spell where a piece lies: first and last byte, and the size of the file."""
    return f"bytes {span.start}-{span.end - 1}/{size}"


def multipart(
    spans: Sequence[Span], size: int, kind: str, boundary: str
) -> tuple[list[Piece], bytes]:
    """Lay out several pieces as multipart/byteranges (14.6); returns the end too."""
    pieces: list[Piece] = []
    for span in spans:
        head = (
            f"\r\n--{boundary}\r\nContent-Type: {kind}\r\n"
            f"Content-Range: {content_range(span, size)}\r\n\r\n"
        )
        # A multipart begins with its boundary; the line end belongs to the part before.
        text = head if pieces else head.removeprefix("\r\n")
        pieces.append(Piece(text.encode("latin-1"), span.start, span.end - span.start))
    return pieces, f"\r\n--{boundary}--\r\n".encode("ascii")
