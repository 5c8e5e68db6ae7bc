"""Find where the body of a message ends, in both directions (RFC 9112 6.3).

The rule of the file: a body is what its head announced, and one that was cut short is
known as such. What goes on is framed anew from what was understood here, never with the
framing fields that were received.

All bodies have the same face: `feed(data)` gives the payload in data, `end()` takes the
end of the sender, `done` tells that the body is whole, `rest` is what came behind it.
`lasting`: a further message can follow; `doubtful`: none may be believed. `costly`: to be
given little at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from superd.handlers.forward.chunks import (
    MOST_SIZE,
    BadFraming,
    Chunked,
    Truncated,
    chunk,
    last_chunk,
    sendable_trailers,
)
from superd.handlers.forward.reply import BadReply

if TYPE_CHECKING:
    from superd.handlers.forward.fields import Field
    from superd.handlers.forward.reply import Reply
    from superd.handlers.http.request import Request

__all__ = [
    "BadFraming",
    "Body",
    "Chunked",
    "NoBody",
    "Sized",
    "Truncated",
    "UntilEnd",
    "announced_length",
    "chunk",
    "last_chunk",
    "reply_body",
    "request_body",
    "sendable_trailers",
]

_DIGITS: Final = b"0123456789"
_MOST_DIGITS: Final = 19
"""Of 2**63."""
_NO_CONTENT: Final = 204
_NOT_MODIFIED: Final = 304


class NoBody:
    """A message that ends with its head; whatever it says of a length."""

    __slots__ = ("done", "doubtful", "length", "rest", "trailers")
    lasting: Final = True
    costly: Final = False

    def __init__(self, *, doubtful: bool = False) -> None:
        """Take whether another reader could find a body: no next message is safe then."""
        self.length: int | None = 0
        self.done = True
        self.doubtful = doubtful
        self.rest = b""
        self.trailers: list[Field] = []

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the sender, none of which is payload."""
        self.rest += data
        return b""

    def end(self) -> None:
        """Take the end of the sender."""


class Sized:
    """A body of so many bytes."""

    __slots__ = ("_left", "done", "doubtful", "length", "rest", "trailers")
    lasting: Final = True
    costly: Final = False

    def __init__(self, length: int) -> None:
        self.length: int | None = length
        self.done = not length
        self.doubtful = False
        self.rest = b""
        self.trailers: list[Field] = []
        self._left = length

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the sender; returns the payload in them."""
        left = self._left
        if left > len(data):
            self._left = left - len(data)
            return data
        self._left = 0
        self.done = True
        self.rest += data[left:]
        return data[:left]

    def end(self) -> None:
        """Take the end of the sender. Raises Truncated before that of the body."""
        if not self.done:
            raise Truncated(f"the body ends {self._left} bytes too early")


class UntilEnd:
    """A body that ends with its sender: nobody can tell whether it was cut short."""

    __slots__ = ("done", "doubtful", "length", "rest", "trailers")
    lasting: Final = False
    costly: Final = False

    def __init__(self) -> None:
        self.length: int | None = None
        self.done = False
        self.doubtful = False
        self.rest = b""
        self.trailers: list[Field] = []

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the sender, all of which are payload."""
        return data

    def end(self) -> None:
        """Take the end of the sender, which is that of the body."""
        self.done = True


Body = NoBody | Sized | Chunked | UntilEnd


def request_body(request: Request) -> Body:
    """Return the reader of a request's body; its framing was judged with its head."""
    if request.length is None:
        return Chunked()
    return Sized(request.length) if request.length else NoBody()


def reply_body(reply: Reply, method: bytes) -> Body:
    """Return the reader of an answer's body (RFC 9112 6.3). Raises BadReply.

    `method` is that of the request that it answers. What makes an answer `doubtful` is
    still an answer, but no other may be read from its connection.
    """
    codings = reply.values(b"transfer-encoding")
    status = reply.status
    if method == b"HEAD" or status == _NOT_MODIFIED:
        # The fields are those that a GET would have got.
        return NoBody()
    if method == b"CONNECT" and status // 100 == 2:  # noqa: PLR2004
        return NoBody()
    if status // 100 == 1 or status == _NO_CONTENT:
        return NoBody(doubtful=bool(codings) or bool(announced_length(reply)))
    if not codings:
        length = announced_length(reply)
        return UntilEnd() if length is None else Sized(length)
    if not reply.minor:
        # 6.1: the framing is faulty, even with a Content-Length beside it.
        raise BadReply("Transfer-Encoding in HTTP/1.0")
    if b",".join(codings).lower() != b"chunked":
        raise BadReply("Transfer-Encoding other than one chunked")
    return Chunked(doubtful=bool(reply.values(b"content-length")))


def announced_length(reply: Reply) -> int | None:
    """Return the number in Content-Length, None without one. Raises BadReply.

    The same one may stand there more than once (RFC 9110 8.6).
    """
    lines = reply.values(b"content-length")
    if not lines:
        return None
    found = {one.strip(b" \t") for line in lines for one in line.split(b",")}
    if len(found) > 1:
        raise BadReply("more than one Content-Length")
    (text,) = found
    if not text or len(text) > _MOST_DIGITS or text.translate(None, _DIGITS):
        raise BadReply("the Content-Length is no length")
    if (length := int(text)) > MOST_SIZE:
        raise BadReply("the Content-Length is no length")
    return length
