"""Pass the body of a request on, beside the answer.

The rule of the file: a body that is cut short, malformed or too large never reaches the
host as a whole one: the connection to the host is closed in the middle of it.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from superd.handlers.forward.client import CHUNK, MORSEL
from superd.handlers.forward.framing import BadFraming, Body, chunk, last_chunk
from superd.handlers.forward.upstream import Lost
from superd.handlers.http.refusal import Refused

if TYPE_CHECKING:
    from superd.handlers.forward.client import Client
    from superd.handlers.forward.upstream import Upstream


class Upload:
    """The body of a peer's request, on its way to the host beside the answer."""

    __slots__ = ("_body", "_client", "_size", "_upstream", "moved", "task")

    def __init__(self, client: Client, body: Body, upstream: Upstream) -> None:
        """Begin with it."""
        self._client = client
        self._body = body
        self._upstream = upstream
        self._size = 0
        client.begun = True
        self.moved = monotonic()
        """When a piece of it was passed on last."""
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._pass_on()
        except Lost:
            # The host may have answered before it ended: that is what the peer is told.
            pass
        except BaseException:
            # Who waits for the answer is woken by this and asks judge().
            self._upstream.close()
            raise

    async def _pass_on(self) -> None:
        body, client, upstream = self._body, self._client, self._upstream
        timeouts = client.plan.timeouts
        chunked = body.length is None
        data = client.heads.take()
        while True:
            payload = self._decode(data)
            if payload:
                await upstream.send(
                    chunk(payload) if chunked else payload,
                    monotonic() + timeouts.send,
                )
                self.moved = monotonic()
            if body.done:
                break
            most = MORSEL if body.costly else CHUNK
            data = await client.read(
                monotonic() + timeouts.body, "the body of its request", most
            )
            if not data:
                raise Refused(400, "the body of the request ends before its end")
        client.heads.feed(body.rest)
        if chunked:
            await upstream.send(last_chunk(body.trailers), monotonic() + timeouts.send)

    def _decode(self, data: bytes) -> bytes:
        try:
            payload = self._body.feed(data)
        except BadFraming as error:
            raise Refused(400, str(error)) from None
        most = self._client.plan.bounds.body
        self._size += len(payload)
        if most and self._size > most:
            raise Refused(413, f"a body of more than {most} bytes")
        return payload

    async def is_whole(self) -> bool:
        """Tell whether all of it was passed on; it is stopped if not."""
        if self.task.done() and self._body.done:
            return self.task.exception() is None
        await self.stop()
        return False

    async def stop(self) -> BaseException | None:
        """End it where it is; returns what was wrong with it, if anything was."""
        self.task.cancel()
        await asyncio.wait({self.task})
        return None if self.task.cancelled() else self.task.exception()
