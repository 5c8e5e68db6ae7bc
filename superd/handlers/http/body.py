"""Read the body of a request away: no file has a use for one (RFC 9110 9.3.1).

The rule of the file: the next request begins where the body ends by the letter, or there
is none. Chunks are llhttp's business; that a message ends with the end of a line is what
tells us where, for httptools does not say.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from httptools import HttpParserError, HttpRequestParser

from superd.handlers import stdio
from superd.handlers.conversation import Read
from superd.handlers.http.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from superd.handlers.conversation import Step
    from superd.handlers.http.request import HeadReader, Request


def drop_body(
    request: Request, reader: HeadReader, most: int, patience: float
) -> Generator[Step, Any, None]:
    """Read the body away, `most` bytes of it in `patience` seconds.

    Raises Refused, after which the connection is good for nothing more, and TooSlow.
    """
    left = request.length
    if left is not None and left > most:
        raise Refused(413, f"a body of more than {most} bytes")
    chunks = Chunks(most) if left is None else None
    deadline = time.monotonic() + patience
    data = reader.take()
    while True:
        if chunks is not None:
            rest = chunks.feed(data)
            if rest is not None:
                reader.feed(rest)
                return
        elif left is not None:
            if len(data) >= left:
                reader.feed(data[left:])
                return
            left -= len(data)
        data = yield Read(stdio.CHUNK, deadline, "the body of its request")
        if not data:
            raise Refused(400, "the body ends in the middle")


class Chunks:
    """Reads a chunked body up to its end, at most `most` bytes, sizes and all."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._ended = False
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")

    def on_message_complete(self) -> None:
        """Take the end."""
        self._ended = True

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes of the peer; returns what follows the end, None before it.

        Raises Refused for what is no chunked body, or is too long: whichever shows
        first, so that how the bytes were cut into packets changes nothing.
        """
        at = 0
        while at < len(data):
            if not self._left:
                raise Refused(413, f"a body of more than {self._most} bytes")
            end = min(data.find(b"\n", at) + 1 or len(data), at + self._left)
            try:
                self._parser.feed_data(data[at:end])
            except HttpParserError as error:
                text = "the chunks of the body are malformed"
                raise Refused(400, text, detail=str(error)) from None
            self._left -= end - at
            at = end
            if self._ended:
                return data[at:]
        return None
