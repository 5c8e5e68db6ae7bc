"""Pass one request on and its answer back.

The rule of the file: the peer is told of everything that goes wrong, by a status as long
as nothing of the answer was sent, and after that by an end that no peer takes for a good
one: a missing last chunk, missing bytes, a reset.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from superd.handlers.forward import fields as fieldwork
from superd.handlers.forward import tunnel
from superd.handlers.forward.asking import Asking, Cut, Question
from superd.handlers.forward.framing import chunk, last_chunk, request_body
from superd.handlers.forward.pages import Failed
from superd.handlers.forward.upload import Upload
from superd.handlers.http.response import date_of
from superd.handlers.relay import resetting

if TYPE_CHECKING:
    from collections.abc import Callable

    from superd.handlers.forward.asking import Route
    from superd.handlers.forward.client import Client
    from superd.handlers.forward.record import Record
    from superd.handlers.forward.reply import Reply
    from superd.handlers.forward.upstream import Upstream
    from superd.handlers.http.request import Request

_SWITCHING: Final = 101
_NO_CONTENT: Final = 204
_PROXY_AUTHENTICATION: Final = 407
_LENGTH: Final = frozenset({b"content-length"})
_COVER: Final = 8192
"""Bytes up to which a body that is here already leaves together with its head."""


class Passing:
    """A request of a peer, and what there is to carry it out with."""

    __slots__ = ("client", "question", "record", "request", "route")

    def __init__(
        self,
        client: Client,
        record: Record,
        request: Request,
        question: Question,
        route: Route,
    ) -> None:
        self.client = client
        self.record = record
        self.request = request
        self.question = question
        self.route = route

    async def run(self, *, keep: bool) -> bool:
        """Pass it on and the answer back; returns whether a next request may come."""
        asking = Asking(self.route, self.question, self.client)
        reply = await self.ask(asking)
        return await self.answer(asking, reply, keep=keep)

    async def ask(self, asking: Asking) -> Reply:
        """Ask the host, the peer's body on the way. Raises Failed, Refused."""
        request = self.request
        if request.length == 0:
            reply = await asking.ask(self._interim)
        else:
            reply = await asking.ask(self._interim, self._upload)
        if reply.status == _SWITCHING:
            await asking.abandon()
            raise Failed(502, "the host switched to a protocol that nobody asked for")
        if reply.status == _PROXY_AUTHENTICATION:
            # Of a parent: the peer would take it for ours, and it is the operator's.
            await asking.abandon()
            raise Failed(
                502, "the proxy behind this one wants a password that it was not given"
            )
        return reply

    def _upload(self, upstream: Upstream) -> Upload:
        return Upload(self.client, request_body(self.request), upstream)

    async def _interim(self, reply: Reply) -> None:
        """Pass an interim answer on, where the peer knows such (RFC 9110 15.2)."""
        if self.request.minor:
            fields = fieldwork.without(reply.fields, _LENGTH)
            lines, dated = fieldwork.response_lines(
                fields, self.route.plan.identity, minor=reply.minor
            )
            await self.client.send(head_of(reply, lines, b"", dated=dated))

    async def answer(
        self,
        asking: Asking,
        reply: Reply,
        *,
        keep: bool,
        told: bytes = b"",
        copy: Callable[[bytes], None] | None = None,
        finish: Callable[[], None] | None = None,
    ) -> bool:
        """Pass an answer back; returns whether a next request may come.

        `told` are further lines of its head; `copy` is given every piece of the body, and
        `finish` is called when that was all of it, before the peer has the last piece.
        """
        try:
            whole = await self._answer(asking, reply, told, copy, finish, keep=keep)
        except BaseException:
            await asking.abandon()
            raise
        return await asking.end(reply) and whole and keep

    async def _answer(
        self,
        asking: Asking,
        reply: Reply,
        told: bytes,
        copy: Callable[[bytes], None] | None,
        finish: Callable[[], None] | None,
        *,
        keep: bool,
    ) -> bool:
        client, body, record = self.client, asking.body, self.record
        received = reply.fields
        if body.doubtful or reply.status == _NO_CONTENT:
            # A length beside chunks is nobody's, and 204 has none (RFC 9110 8.6).
            received = fieldwork.without(received, _LENGTH)
        lines, dated = fieldwork.response_lines(
            received, self.route.plan.identity, minor=reply.minor
        )
        chunked = body.length is None and self.request.minor == 1
        unframed = body.length is None and not chunked
        end = b"Transfer-Encoding: chunked\r\n" if chunked else b""
        if unframed or not keep:
            end += b"Connection: close\r\n"
        record.status = reply.status
        if unframed:
            # Also for a process that is killed in the middle of it.
            resetting.arm(client.writer.get_extra_info("socket"))
        head = head_of(reply, lines + told, end, dated=dated)
        try:
            data = b"" if body.done else await asking.read()
        except Cut as cut:
            # Not a byte has left: it can still be said in words.
            record.status = 0
            raise Failed(502, str(cut), "http_response_incomplete") from None
        if data and copy:
            copy(data)
        if body.done and finish:
            finish()
            finish = None
        first = chunk(data) if chunked and data else data
        try:
            if len(first) <= _COVER:
                await client.send(head + first)
            else:
                await client.send(head)
                await client.send(first)
            while not body.done:
                data = await asking.read()
                if data and copy:
                    copy(data)
                if body.done and finish:
                    finish()
                    finish = None
                if not data:
                    break
                await client.send(chunk(data) if chunked else data)
        except Cut as cut:
            record.note = str(cut)
            if unframed:
                self._reset()
            return False
        except BaseException:
            # Who ends us, or the peer itself: an end must not look like that of the body.
            if unframed:
                self._reset()
            raise
        if chunked:
            await client.send(last_chunk(body.trailers))
        if unframed:
            resetting.disarm(client.writer.get_extra_info("socket"))
        return not unframed

    def _reset(self) -> None:
        """End so that the peer knows that it was not all: its only mark is the end."""
        resetting.reset_peer(self.client.writer.get_extra_info("socket"))

    async def switch(self) -> bool:
        """Pass a wish to switch protocols on (RFC 9110 7.8); a tunnel if it is granted."""
        request, route = self.request, self.route
        wish = b", ".join(request.values(b"upgrade"))
        extra = b"Connection: upgrade\r\nUpgrade: %b\r\n" % wish
        asking = Asking(route, self.question, self.client, extra)
        reply = await asking.ask(self._interim)
        if reply.status != _SWITCHING:
            return await self.answer(asking, reply, keep=False)
        chosen = b", ".join(reply.values(b"upgrade"))
        lines, dated = fieldwork.response_lines(
            reply.fields, route.plan.identity, minor=reply.minor
        )
        end = b"Connection: upgrade\r\nUpgrade: %b\r\n" % chosen
        self.record.status = reply.status
        await self.client.send(head_of(reply, lines, end, dated=dated))
        await tunnel.relay(self.client, self.record, asking.upstream)
        return False


def head_of(reply: Reply, lines: bytes, end: bytes, *, dated: bool) -> bytes:
    """Write the head of an answer that came from a host, in our version (2.5)."""
    if not dated and reply.status >= 200:  # noqa: PLR2004
        # RFC 9110 6.6.1: who receives an answer without Date adds one.
        lines = b"Date: %b\r\n%b" % (date_of(time.time()).encode("ascii"), lines)
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (reply.status, reply.reason, lines, end)
