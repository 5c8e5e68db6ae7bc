"""Serve the requests of one connection, one after the other.

The rule of the file: every request that arrives whole gets one answer, and whatever
leaves doubt about where the next request begins ends the connection after it. It is a
conversation (superd/handlers/conversation.py): it asks for bytes and gives bytes, and how
they come and go is not its business.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from superd.handlers import exits, stdio
from superd.handlers.conversation import Linger, Read, SendAtOnce, SendFile, Write
from superd.handlers.http import response
from superd.handlers.http.answer import Answer, Settings, answer_to, explain
from superd.handlers.http.part import SendPart
from superd.handlers.http.refusal import MALFORMED, Refused
from superd.handlers.http.request import HeadReader, Request, parse_head

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import Any

    from superd.handlers.conversation import Conversation, Step
    from superd.handlers.http.files import File

_SMALL: Final = 16384
"""A file up to here goes out with its head in one packet or two; more by sendfile."""
_WITHOUT_BODY: Final = frozenset({204, 304})
"""No Content-Length either (RFC 9110 8.6)."""
_SEND_TIME: Final = 30.0
_SLOWEST: Final = 1024
"""Bytes a second: a peer that reads more slowly holds a process for nothing."""


def converse(settings: Settings) -> Conversation:
    """Answer until one side wants no more; returns the exit code."""
    reader = HeadReader()
    most, extra = settings.max_requests, settings.headers
    for number in range(1, most + 1):
        if number == 2:  # noqa: PLR2004
            # One answer leaves at once anyhow. Of two, Nagle's algorithm would hold the
            # second back until the first is acknowledged, which a peer that waits puts
            # off for 40 ms (RFC 1122 4.2.3.2, 4.2.3.4).
            yield SendAtOnce()
        try:
            request = yield from _read_request(reader, settings, first=number == 1)
        except Refused as refused:
            return (yield from _refuse(refused, extra))
        except exits.TooSlow:
            yield from _refuse(Refused(408, "no request in time"), extra)
            raise
        if request is None:
            return exits.OK
        bare = request.method == b"HEAD"
        # A body is not read: where it ends, the next request would begin.
        keep = number < most and request.keep_alive and not request.body
        try:
            answer = answer_to(request, settings)
        except Refused as refused:
            if refused.status in MALFORMED:
                return (yield from _refuse(refused, extra, bare=bare))
            answer = explain(refused)
        except Exception:
            wrong = Refused(500, "something is wrong here")
            yield from _refuse(wrong, extra, bare=bare)
            raise
        minor = request.minor
        whole = yield from _send(answer, extra, keep=keep, minor=minor, bare=bare)
        if not (keep and whole):
            # RFC 9112 9.6: a server that closes first does so in two steps.
            yield Linger()
            return exits.OK
    return exits.OK


def _read_request(
    reader: HeadReader, settings: Settings, *, first: bool
) -> Generator[Step, Any, Request | None]:
    """Read the next head; None if the peer has no further request.

    The time for a head runs from the moment the peer may begin, for the first one, or
    has begun; it is the time of the whole head, not of a byte.
    """
    if not first and not reader.pending:
        idle = time.monotonic() + settings.idle_timeout
        try:
            data = yield Read(stdio.CHUNK, idle, "its next request")
        except exits.TooSlow:
            return None
        if not data:
            return None
        reader.feed(data)
    deadline = time.monotonic() + settings.head_timeout
    while (head := reader.next_head()) is None:
        data = yield Read(stdio.CHUNK, deadline, "its request")
        if not data:
            if reader.pending:
                raise Refused(400, "the request ends in the middle")
            return None
        reader.feed(data)
    return parse_head(head)


def _refuse(
    refused: Refused, extra: Sequence[str], *, bare: bool = False
) -> Generator[Step, Any, int]:
    """Say why, end the connection; returns the exit code."""
    yield from _send(explain(refused), extra, keep=False, minor=1, bare=bare)
    yield Linger()
    if refused.status not in MALFORMED:
        return exits.OK
    stdio.log(f"httpd: {refused.status}: {refused}")
    return exits.PEER


def _send(
    answer: Answer, extra: Sequence[str], *, keep: bool, minor: int, bare: bool
) -> Generator[Step, Any, bool]:
    """Send head and body; False if the body came out shorter than announced."""
    file = answer.file
    try:
        body, size = answer.page, _size_of(answer)
        whole = True
        if file is not None and size <= _SMALL:
            body, file = _read_body(answer, file), None
            if answer.pieces:
                whole = _is_whole(len(body), size)
            else:
                size = len(body)
        fields = answer.fields
        if answer.status not in _WITHOUT_BODY:
            fields = [*fields, ("Content-Length", str(size))]
        head = response.head_of(
            answer.status, fields, now=time.time(), keep=keep, minor=minor, extra=extra
        )
        deadline = time.monotonic() + _SEND_TIME + size / _SLOWEST
        if file is None or bare:
            message = head if bare else head + body
            yield Write(message, deadline, "the answer")
            return whole
        yield SendAtOnce()
        if answer.pieces:
            return (yield from _send_pieces(answer, file.fd, head, deadline))
        yield Write(head, deadline, "the answer", more=True)
        sent: int = yield SendFile(file.fd, file.size, deadline, "the file")
        return _is_whole(sent, file.size)
    finally:
        if answer.file is not None:
            os.close(answer.file.fd)


def _send_pieces(
    answer: Answer, fd: int, head: bytes, deadline: float
) -> Generator[Step, Any, bool]:
    """Send the pieces of a file, the head of the answer before the first."""
    for piece in answer.pieces:
        before = head + piece.head
        head = b""
        yield Write(before, deadline, "the answer", more=True)
        sent: int = yield SendPart(fd, piece.start, piece.size, deadline, "the file")
        if not _is_whole(sent, piece.size):
            return False
    if answer.page:
        yield Write(answer.page, deadline, "the answer")
    return True


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
    if not answer.pieces:
        return os.pread(file.fd, file.size, 0)
    parts = []
    for piece in answer.pieces:
        parts += [piece.head, os.pread(file.fd, piece.size, piece.start)]
    return b"".join([*parts, answer.page])
