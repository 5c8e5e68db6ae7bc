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
from superd.handlers.http.refusal import MALFORMED, Refused
from superd.handlers.http.request import HeadReader, Request, parse_head

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from superd.handlers.conversation import Conversation, Step

_SMALL: Final = 16384
"""A file up to here goes out with its head in one packet or two; more by sendfile."""
_SEND_TIME: Final = 30.0
_SLOWEST: Final = 1024
"""Bytes a second: a peer that reads more slowly holds a process for nothing."""


def converse(settings: Settings) -> Conversation:
    """Answer until one side wants no more; returns the exit code."""
    reader = HeadReader()
    most = settings.max_requests
    for number in range(1, most + 1):
        if number == 2:  # noqa: PLR2004
            # One answer leaves at once anyhow. Of two, Nagle's algorithm would hold the
            # second back until the first is acknowledged, which a peer that waits puts
            # off for 40 ms (RFC 1122 4.2.3.2, 4.2.3.4).
            yield SendAtOnce()
        try:
            request = yield from _read_request(reader, settings, first=number == 1)
        except Refused as refused:
            return (yield from _refuse(refused))
        except exits.TooSlow:
            yield from _refuse(Refused(408, "no request in time"))
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
                return (yield from _refuse(refused, bare=bare))
            answer = explain(refused)
        except Exception:
            yield from _refuse(Refused(500, "something is wrong here"), bare=bare)
            raise
        whole = yield from _send(answer, keep=keep, minor=request.minor, bare=bare)
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


def _refuse(refused: Refused, *, bare: bool = False) -> Generator[Step, Any, int]:
    """Say why, end the connection; returns the exit code."""
    yield from _send(explain(refused), keep=False, minor=1, bare=bare)
    yield Linger()
    if refused.status not in MALFORMED:
        return exits.OK
    stdio.log(f"httpd: {refused.status}: {refused}")
    return exits.PEER


def _send(
    answer: Answer, *, keep: bool, minor: int, bare: bool
) -> Generator[Step, Any, bool]:
    """Send head and body; False if the body came out shorter than announced."""
    file = answer.file
    try:
        body = answer.page
        if file is not None and file.size <= _SMALL:
            body = os.pread(file.fd, file.size, 0)
            file = None
        size = len(body) if file is None else file.size
        fields = answer.fields
        if answer.status != 204:  # noqa: PLR2004  RFC 9110 8.6: not in a 204
            fields = [*fields, ("Content-Length", str(size))]
        head = response.head_of(
            answer.status, fields, now=time.time(), keep=keep, minor=minor
        )
        deadline = time.monotonic() + _SEND_TIME + size / _SLOWEST
        if file is None or bare:
            message = head if bare else head + body
            yield Write(message, deadline, "the answer")
            return True
        yield SendAtOnce()
        yield Write(head, deadline, "the answer", more=True)
        sent: int = yield SendFile(file.fd, file.size, deadline, "the file")
        if sent < file.size:
            # No padding: the end of the connection tells the peer that it is cut.
            stdio.log(f"httpd: a file shrank from {file.size} to {sent} bytes")
        return sent == file.size
    finally:
        if answer.file is not None:
            os.close(answer.file.fd)
