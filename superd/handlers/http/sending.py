"""Send an answer: head and body in one write where that is little, by sendfile else.

The rule of the file: the file of an answer is closed here, whatever happens, and nothing
is sent that its head did not announce.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers import stdio
from superd.handlers.conversation import SendAtOnce, SendFile, Write
from superd.handlers.http import response
from superd.handlers.http.ranges import Piece
from superd.handlers.http.shelf import LARGEST, SHELF

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from superd.handlers.conversation import Step
    from superd.handlers.http.answer import Answer
    from superd.handlers.http.files import File
    from superd.handlers.http.site import Site

_WITHOUT_BODY: Final = frozenset({204, 304})
"""No Content-Length either (RFC 9110 8.6)."""


class Sent(NamedTuple):
    """Bytes of the body, and whether they are as many as were announced."""

    size: int
    whole: bool


def send(
    answer: Answer, site: Site, *, keep: bool, minor: int, bare: bool
) -> Generator[Step, Any, Sent]:
    """Send head and body, or for HEAD, which is `bare`, the head."""
    file = answer.file
    try:
        body, size = answer.page, _size_of(answer)
        whole = True
        if file is not None and (size <= LARGEST or file.content is not None):
            body, file = _read_body(answer, file), None
            if answer.pieces:
                whole = _is_whole(len(body), size)
            else:
                size = len(body)
        lines = answer.lines
        if not lines:
            fields = answer.fields
            if answer.status not in _WITHOUT_BODY:
                fields = [*fields, ("Content-Length", str(size))]
            lines = response.lines_of(fields, site.headers)
        now = time.time()
        head = response.head_of(answer.status, lines, now=now, keep=keep, minor=minor)
        deadline = time.monotonic() + site.timeouts.send + size / site.bounds.rate
        if bare:
            yield Write(head, deadline, "the answer")
            return Sent(0, whole)
        if file is None:
            yield Write(head + body, deadline, "the answer")
            return Sent(len(body), whole)
        yield SendAtOnce()
        return (yield from _send_pieces(answer, file, head, deadline))
    finally:
        if answer.file is not None:
            answer.file.close()


def _send_pieces(
    answer: Answer, file: File, head: bytes, deadline: float
) -> Generator[Step, Any, Sent]:
    """Send a file or pieces of it, the head of the answer before the first."""
    total = 0
    for piece in answer.pieces or (Piece(b"", 0, file.size),):
        yield Write(head + piece.head, deadline, "the answer", more=True)
        total += len(piece.head)
        head = b""
        step = SendFile(file.fd, piece.start, piece.size, deadline, "the file")
        sent: int = yield step
        total += sent
        if not _is_whole(sent, piece.size):
            return Sent(total, whole=False)
    if answer.page:
        yield Write(answer.page, deadline, "the answer")
    return Sent(total + len(answer.page), whole=True)


def _is_whole(sent: int, size: int) -> bool:
    if sent < size:
        # No padding: the end of the connection tells the peer that it is cut.
        stdio.log(f"httpd: a file shrank from {size} to {sent} bytes")
    return sent == size


def _size_of(answer: Answer) -> int:
    if answer.file is None:
        return len(answer.page)
    if not answer.pieces:
        return answer.file.size
    parts = sum(len(piece.head) + piece.size for piece in answer.pieces)
    return parts + len(answer.page)


def _read_body(answer: Answer, file: File) -> bytes:
    """Put a small body together."""
    content = file.content
    if not answer.pieces:
        if content is None:
            content = os.pread(file.fd, file.size, 0)
            SHELF.keep(file, content)
        return content
    parts = []
    for head, start, size in answer.pieces:
        if content is None:
            parts += [head, os.pread(file.fd, size, start)]
        else:
            parts += [head, content[start : start + size]]
    return b"".join([*parts, answer.page])
