"""Read the head of an upstream's answer strictly (RFC 9112).

The rule of the file: what two readers could read differently is an upstream's fault (502),
not guessed. So is a bare LF, which 2.2 lets a recipient take for the end of a line: a
cache or a peer that does not take it so would see another answer. Of the lenient rules
only those are followed that a proxy MUST follow.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers.forward import fields as of_fields
from superd.handlers.http.request import is_token, is_value

if TYPE_CHECKING:
    from superd.handlers.forward.fields import Field
    from superd.handlers.http.request import Limits

_START: Final = b"HTTP/1."
_LINE: Final = re.compile(
    # 4 has the SP before the reason as a MUST, and many leave it out.
    rb"HTTP/1\.([0-9]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?"
)


class BadReply(Exception):  # noqa: N818  what is wrong, not an error of ours
    """An upstream's answer cannot be read; the text never holds bytes of it."""


class Reply(NamedTuple):
    """One head."""

    status: int
    reason: bytes
    minor: int
    """0 or 1: a higher one is read as the highest we know (RFC 9110 2.5)."""
    fields: list[Field]
    """In order, in the spelling of the upstream."""

    def values(self, name: bytes) -> list[bytes]:
        """Return every value of a field; `name` is in lower case."""
        return of_fields.values(self.fields, name)


class ReplyReader:
    """Collects bytes until a head is whole; keeps what follows it.

    Lines are judged one by one, in the order of the bytes: how they were cut into packets
    changes nothing.
    """

    __slots__ = ("_buffer", "_fields", "_limits", "_line", "_seen")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._begin()

    def _begin(self) -> None:
        self._seen = 0
        self._line: tuple[int, bytes, int] | None = None
        self._fields: list[Field] = []

    def feed(self, data: bytes) -> None:
        """Take bytes of the upstream."""
        self._buffer += data

    @property
    def pending(self) -> bool:
        """Bytes have come that no head was made of."""
        return bool(self._buffer)

    def take(self) -> bytes:
        """Take out all that has come behind the head."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def next_head(self) -> Reply | None:
        """Take the next head out; None: more bytes needed.

        Raises BadReply with the first line that cannot be of a good head.
        """
        buffer = self._buffer
        if not self._seen and (reply := self._whole_head()) is not None:
            return reply
        if not _START.startswith(buffer[: len(_START)]):
            raise BadReply("no answer in HTTP/1.0 or HTTP/1.1")
        while (end := buffer.find(b"\n", self._seen)) >= 0:
            self._check_limits(end + 1)
            line = bytes(buffer[self._seen : end])
            if not line.endswith(b"\r"):
                raise BadReply("a line ends without CR")
            self._seen = end + 1
            if self._line is None:
                self._line = read_status_line(line[:-1])
            elif line == b"\r":
                reply = Reply(*self._line, self._fields)
                del buffer[: end + 1]
                self._begin()
                return reply
            else:
                self._take_field(line[:-1])
        self._check_limits(len(buffer))
        return None

    def _whole_head(self) -> Reply | None:
        """Take the next head out if it is here as a whole and there is nothing to say.

        What it gives is what going line by line would give.
        """
        buffer, limits = self._buffer, self._limits
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or end + 4 > limits.head:
            return None
        line, *lines = bytes(buffer[:end]).split(b"\r\n")
        found = _LINE.fullmatch(line)
        if not found or len(line) + 2 > limits.line or len(lines) > limits.fields:
            return None
        fields = []
        names = b""
        values = b""
        for one in lines:
            name, colon, value = one.partition(b":")
            if not name or not colon:
                return None
            names += name
            values += value
            fields.append((name, value.strip(b" \t")))
        if lines and not (is_token(names) and is_value(values)):
            return None
        del buffer[: end + 4]
        self._begin()
        return Reply(*_of_match(found), fields)

    def _take_field(self, line: bytes) -> None:
        if len(self._fields) >= self._limits.fields:
            raise BadReply(f"more than {self._limits.fields} header fields")
        name, colon, value = line.partition(b":")
        # RFC 9112 5.1: whitespace before the colon MUST be removed from an answer.
        try:
            self._fields.append(read_field(name.rstrip(b" \t") + colon + value))
        except ValueError as error:
            raise BadReply(str(error)) from None

    def _check_limits(self, length: int) -> None:
        """`length` bytes have come, up to the end of the line that is looked at."""
        if self._line is None and length > self._limits.line:
            raise BadReply(f"the status line is over {self._limits.line} bytes")
        if length > self._limits.head:
            raise BadReply(f"the head is over {self._limits.head} bytes")


def read_status_line(line: bytes) -> tuple[int, bytes, int]:
    """Return status, reason and minor version. Raises BadReply."""
    found = _LINE.fullmatch(line)
    if not found:
        raise BadReply("the status line is not HTTP/1.1 STATUS REASON")
    return _of_match(found)


def _of_match(found: re.Match[bytes]) -> tuple[int, bytes, int]:
    return int(found[2]), found[3] or b"", min(int(found[1]), 1)


def read_field(line: bytes) -> Field:
    """Read one line of a header or trailer section. Raises ValueError: what is wrong.

    A line that goes on with the one before (obs-fold) is refused: RFC 9112 5.2 lets a
    proxy choose, and lines that were joined are another message than the one received.
    """
    if line.startswith((b" ", b"\t")):
        raise ValueError("a field goes on in a second line")
    name, colon, value = line.partition(b":")
    if not colon:
        raise ValueError("a field line has no colon")
    if not is_token(name):
        raise ValueError("the name of a field is no token")
    if not is_value(value):
        raise ValueError("control bytes in the value of a field")
    return name, value.strip(b" \t")
