"""Serve the requests of one connection.

The rule of the file: every request that arrives whole gets one answer, and whatever
leaves doubt about where the next request begins ends the connection after it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers import exits, stdio
from superd.handlers.http import files, media, response
from superd.handlers.http.refusal import MALFORMED, Refused
from superd.handlers.http.request import HeadReader, Request, parse_head
from superd.handlers.http.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.handlers.wire import Wire

ALLOW: Final = "GET, HEAD, OPTIONS"
_ALLOWED: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_KNOWN: Final = frozenset({b"POST", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"CONNECT"})
_HTML: Final = "text/html; charset=utf-8"
_SMALL: Final = 16384
"""A file up to here goes out with its head in one packet or two; more by sendfile."""
_SEND_TIME: Final = 30.0
_SLOWEST: Final = 1024
"""Bytes a second: a peer that reads more slowly holds a process for nothing."""


class Settings(NamedTuple):
    """What the operator chose."""

    root: int
    index_names: tuple[bytes, ...]
    world_readable: bool
    head_timeout: float
    idle_timeout: float
    max_requests: int


class Answer(NamedTuple):
    """A status with its fields, and a page or an open file for a body."""

    status: int
    fields: Sequence[tuple[str, str]] = ()
    page: bytes = b""
    file: files.File | None = None


class Connection:
    """One peer's requests, one after the other."""

    __slots__ = ("_reader", "_settings", "_wire")

    def __init__(self, wire: Wire, settings: Settings) -> None:
        self._wire = wire
        self._settings = settings
        self._reader = HeadReader()

    def serve(self) -> int:
        """Answer until one side wants no more; returns the exit code."""
        self._wire.send_at_once()
        most = self._settings.max_requests
        for number in range(1, most + 1):
            try:
                request = self._read_request(first=number == 1)
            except Refused as refused:
                return self._refuse(refused)
            except exits.TooSlow:
                self._refuse(Refused(408, "no request in time"))
                raise
            if request is None:
                return exits.OK
            bare = request.method == b"HEAD"
            # A body is not read: where it ends, the next request would begin.
            keep = number < most and request.keep_alive and not request.body
            try:
                answer = answer_to(request, self._settings)
            except Refused as refused:
                if refused.status in MALFORMED:
                    return self._refuse(refused, bare=bare)
                answer = _explain(refused)
            except Exception:
                self._refuse(Refused(500, "something is wrong here"), bare=bare)
                raise
            keep = (
                self._send(answer, keep=keep, minor=request.minor, bare=bare) and keep
            )
            if not keep:
                # RFC 9112 9.6: a server that closes first does so in two steps.
                self._wire.linger()
                return exits.OK
        return exits.OK

    def _read_request(self, *, first: bool) -> Request | None:
        """Read the next head; None if the peer has no further request.

        The time for a head runs from the moment the peer may begin, for the first one,
        or has begun; it is the time of the whole head, not of a byte.
        """
        if not first and not self._reader.pending:
            idle = time.monotonic() + self._settings.idle_timeout
            try:
                data = self._wire.read(stdio.CHUNK, idle, "its next request")
            except exits.TooSlow:
                return None
            if not data:
                return None
            self._reader.feed(data)
        deadline = time.monotonic() + self._settings.head_timeout
        while (head := self._reader.next_head()) is None:
            data = self._wire.read(stdio.CHUNK, deadline, "its request")
            if not data:
                if self._reader.pending:
                    raise Refused(400, "the request ends in the middle")
                return None
            self._reader.feed(data)
        return parse_head(head)

    def _refuse(self, refused: Refused, *, bare: bool = False) -> int:
        """Say why, end the connection; returns the exit code."""
        self._send(_explain(refused), keep=False, minor=1, bare=bare)
        self._wire.linger()
        if refused.status not in MALFORMED:
            return exits.OK
        stdio.log(f"httpd: {refused.status}: {refused}")
        return exits.PEER

    def _send(self, answer: Answer, *, keep: bool, minor: int, bare: bool) -> bool:
        """Send head and body; False if the body came out shorter than announced."""
        file = answer.file
        try:
            body = answer.page
            if file is not None and file.size <= _SMALL:
                body = os.pread(file.fd, file.size, 0)
                file = None
            now = time.time()
            size = len(body) if file is None else file.size
            fields = answer.fields
            if answer.status != 204:  # noqa: PLR2004  RFC 9110 8.6: not in a 204
                fields = [*fields, ("Content-Length", str(size))]
            head = response.head_of(
                answer.status, fields, now=now, keep=keep, minor=minor
            )
            deadline = time.monotonic() + _SEND_TIME + size / _SLOWEST
            if file is None or bare:
                message = head if bare else head + body
                self._wire.write(message, deadline, "the answer")
                return True
            self._wire.write(head, deadline, "the answer", more=True)
            sent = self._wire.write_file(file.fd, file.size, deadline, "the file")
            if sent < file.size:
                # No padding: the end of the connection tells the peer that it is cut.
                stdio.log(f"httpd: a file shrank from {file.size} to {sent} bytes")
            return sent == file.size
        finally:
            if answer.file is not None:
                os.close(answer.file.fd)


def answer_to(request: Request, settings: Settings) -> Answer:
    """Find what a request asks for. Raises Refused."""
    if request.options(b"expect") - {b"100-continue"}:
        raise Refused(417, "this expectation cannot be met")
    if request.method not in _ALLOWED:
        if request.method in _KNOWN:
            raise Refused(405, "files can be read here and nothing else")
        raise Refused(501, "this method is not known here")
    if request.method == b"OPTIONS" and request.target == b"*":
        return Answer(204, [("Allow", ALLOW)])
    path = parse_target(request.target)
    if request.method == b"OPTIONS":
        return Answer(204, [("Allow", ALLOW)])
    if path.hidden:
        raise Refused(404, "there is no such file")
    root, everybody = settings.root, settings.world_readable
    file = files.open_path(root, path.names, world_readable=everybody)
    if file is None:
        if not path.slash:
            where = path.as_directory().decode("ascii")
            text = f"The document is at {where}"
            fields = [("Location", where), ("Content-Type", _HTML)]
            return Answer(301, fields, response.page_of(301, text))
        name, file = files.open_index(
            root, path.names, settings.index_names, world_readable=everybody
        )
    elif path.slash:
        os.close(file.fd)
        raise Refused(404, "there is no such file")
    else:
        name = path.names[-1]
    return Answer(200, _describe(name, file), file=file)


def _describe(name: bytes, file: files.File) -> list[tuple[str, str]]:
    fields = [("Content-Type", media.type_of(name))]
    if file.mtime >= 0:
        # Never later than Date (RFC 9110 8.8.2.1).
        modified = response.date_of(min(file.mtime, time.time()))
        fields.append(("Last-Modified", modified))
    return fields


def _explain(refused: Refused) -> Answer:
    fields = [("Content-Type", _HTML)]
    if refused.status == 405:  # noqa: PLR2004
        fields.append(("Allow", ALLOW))
    return Answer(
        refused.status, fields, response.page_of(refused.status, str(refused))
    )
