"""Read and write the chunked transfer coding (RFC 9112 7.1).

The rule of the file: a body ends where its letters say, in the one way they can be read;
the lenient readers are how bodies are smuggled (CVE-2023-46846), and a size is a number
only after its digits were counted (CVE-2026-3945). Extensions are read and dropped: they
are of one connection (7.1.1).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from superd.handlers.forward.fields import END_TO_END, HOP_BY_HOP
from superd.handlers.forward.reply import read_field

if TYPE_CHECKING:
    from collections.abc import Iterable

    from superd.handlers.forward.fields import Field

MOST_SIZE: Final = 2**63 - 1
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SIZE: Final = re.compile(
    # 16 digits are 64 bits. The whitespace that 7.1.1 lets stand around an extension is
    # left out: nothing sends it, and readers do not agree on it. No possessive repeats:
    # those of Python 3.11.2 take `3;` for a size with an extension.
    rb"([0-9A-Fa-f]{1,16})(?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb'|"(?:'
    rb"[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff]"
    rb')*"))?)*\r'
)
_PLAIN: Final = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})\r\n")
"""What is usually between two chunks."""
_SPARE: Final = 16384
"""Bytes of extensions that need no payload to go with them: Go's net/http, too, which had
a reader busy with nothing else (CVE-2023-39326)."""
_PER_CHUNK: Final = 16
_CHEAP: Final = 64
"""Bytes of a chunk and its line from which on they cost no more than any bytes. 64 KiB of
the smallest take 10 ms, and 28 ms with extensions."""
_NO_TRAILERS: Final = (
    # Of RFC 9110 6.5.1: framing, routing, modifiers of a request, authentication, control
    # data of an answer, how content is to be read. END_TO_END is a list of the same.
    (
        HOP_BY_HOP
        | END_TO_END
        | {b"accept-ranges", b"authentication-info", b"retry-after"}
    )
    | {b"clear-site-data", b"strict-transport-security", b"warning", b"x-real-ip"}
) - {b"etag"}
_MAY_FOLLOW: Final = frozenset({b"content-digest", b"content-md5"})
"""What can be known only at the end is what trailers are for (RFC 9530 2)."""


class BadFraming(Exception):  # noqa: N818  what is wrong, not an error of ours
    """The bytes are no body; the text never holds any of them."""


class Truncated(Exception):  # noqa: N818  the sender's doing, not an error of ours
    """The sender has ended in the middle of a body."""


class Chunked:
    """A chunked body. Raises BadFraming with the first line that is wrong."""

    __slots__ = (
        *("_behind", "_held", "_left", "_most_line", "_most_trailer", "_spare"),
        *("_trailing", "costly", "done", "doubtful", "length", "rest", "trailers"),
    )

    lasting: Final = True

    def __init__(
        self,
        most_line: int = 4096,
        most_trailer: int = 16384,
        *,
        doubtful: bool = False,
    ) -> None:
        """Take the most bytes of a line with a size, and of the trailer section."""
        self.length: int | None = None
        self.costly = False
        """The last bytes were mostly lines: of more at once others would notice."""
        self.done = False
        self.doubtful = doubtful
        self.rest = b""
        self.trailers: list[Field] = []
        self._most_line = most_line
        self._most_trailer = most_trailer
        self._spare = _SPARE
        self._held = b""
        self._left = 0
        # Where no payload is expected, one of three lines is: the end of a chunk, a size,
        # or one of the trailer section.
        self._behind = False
        self._trailing = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the sender; returns the payload in them.

        Where it raises BadFraming, what came before the fault in the same bytes is lost.
        """
        if self._left > len(data):
            self._left -= len(data)
            self.costly = False
            return data
        if self.done:
            self.rest += data
            return b""
        if self._held:
            data = self._held + data
            self._held = b""
        pieces: list[bytes] = []
        at = 0
        while at < len(data):
            if self._left:
                at = self._take_payload(data, at, pieces)
                continue
            end = data.find(b"\n", at)
            self._check_line(data, at, end)
            if end < 0:
                self._held = data[at:]
                break
            if self._behind:
                self._behind = False
            elif self._trailing:
                self._take_trailer(data[at:end])
            else:
                self._take_size(data, at, end)
            at = end + 1
            if self.done:
                self.rest = data[at:]
                break
        self.costly = len(pieces) * _CHEAP > len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take_payload(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Take the payload from here on, of further chunks too; returns where it ends.

        Chunks that are here as a whole and plain are taken in one go. It changes nothing
        but the time: 64 KiB of the smallest ones would hold up a loop for 20 ms.
        """
        end = at + self._left
        while (
            # A size may be beyond what an index can be.
            end < len(data)
            and (found := _PLAIN.match(data, end))
            and (size := int(found[1], 16))
        ):
            pieces.append(data[at:end])
            at = found.end()
            end = at + size
        pieces.append(data[at:end])
        self._left = max(0, end - len(data))
        self._behind = True
        return min(end, len(data))

    def end(self) -> None:
        """Take the end of the sender. Raises Truncated before that of the body."""
        if not self.done:
            raise Truncated("the chunks end in the middle")

    def _check_line(self, data: bytes, at: int, end: int) -> None:
        """Refuse a line, whole or not (`end` < 0), that is not wanted or too long."""
        length = (len(data) if end < 0 else end) - at
        if self._behind:
            if not b"\r\n".startswith(data[at : at + 2]):
                raise BadFraming("a chunk is longer than its size")
        elif self._trailing:
            if length >= self._most_trailer:
                raise BadFraming("the trailer section is too long")
        elif length >= self._most_line:
            raise BadFraming("the line with the size of a chunk is too long")

    def _take_size(self, data: bytes, at: int, end: int) -> None:
        found = _SIZE.fullmatch(data, at, end)
        if not found:
            raise BadFraming("the size of a chunk is malformed")
        size = int(found[1], 16)
        if size > MOST_SIZE:
            raise BadFraming("the size of a chunk is no size")
        self._left = size
        self._trailing = not size
        if found.end(1) + 1 < found.end():
            spare = self._spare - (end - at) + _PER_CHUNK + 2 * size
            if spare < 0:
                raise BadFraming("the chunks are more extensions than payload")
            self._spare = min(spare, _SPARE)

    def _take_trailer(self, line: bytes) -> None:
        if line == b"\r":
            self.trailers = sendable_trailers(self.trailers)
            self.done = True
            return
        if not line.endswith(b"\r"):
            raise BadFraming("a line of the trailer section ends without CR")
        self._most_trailer -= len(line) + 1
        try:
            self.trailers.append(read_field(line[:-1]))
        except ValueError as error:
            raise BadFraming(f"in the trailer section: {error}") from None


def sendable_trailers(fields: Iterable[Field]) -> list[Field]:
    """Return the fields that mean the same behind a body (RFC 9110 6.5.1)."""
    return [(name, value) for name, value in fields if _may_trail(name.lower())]


def _may_trail(name: bytes) -> bool:
    if name.startswith((b"content-", b"access-control-", b"if-", b"x-forwarded-")):
        return name in _MAY_FOLLOW
    return name not in _NO_TRAILERS


def chunk(data: bytes) -> bytes:
    """Spell payload as a chunk; nothing is no chunk, for an empty one is the last."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def last_chunk(trailers: Iterable[Field] = ()) -> bytes:
    """Spell the end of a body."""
    lines = (b"%b: %b\r\n" % field for field in trailers)
    return b"0\r\n" + b"".join(lines) + b"\r\n"
