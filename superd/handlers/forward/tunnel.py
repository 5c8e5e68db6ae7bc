"""Copy bytes between a peer and a host, both ways (RFC 9110 9.3.6).

The rule of the file: what one side says as its end is passed on as an end, after
everything before it, and the other direction goes on (ssh and `nc -N` need it); a reset
of one side is a reset for the other. A tunnel in which nothing moves ends.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from superd.handlers import exits
from superd.handlers.forward.asking import Asking, Question
from superd.handlers.forward.pages import Failed
from superd.handlers.relay import resetting

if TYPE_CHECKING:
    from superd.handlers.forward.asking import Route
    from superd.handlers.forward.client import Client
    from superd.handlers.forward.record import Record
    from superd.handlers.forward.target import Target
    from superd.handlers.forward.upstream import Upstream

_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n"
"""No Content-Length and no Transfer-Encoding (9.3.6)."""
CHUNK: Final = 65536


async def connect(client: Client, record: Record, route: Route, target: Target) -> int:
    """Connect and copy until both sides have ended; returns the exit code."""
    upstream = await _open(client, route, target)
    via = b"Via: 1.1 %b\r\n\r\n" % route.plan.identity.name
    record.status = 200
    try:
        await client.send(_ESTABLISHED + via)
    except BaseException:
        upstream.close()
        raise
    await relay(client, record, upstream)
    return exits.OK


async def _open(client: Client, route: Route, target: Target) -> Upstream:
    """Connect to the host, or have the parent do so. Raises Failed."""
    parent = route.parent_of(target)
    if parent is None:
        return await route.connect(target, None)
    via = b"Via: 1.1 %b\r\n" % route.plan.identity.name
    # The target of a CONNECT is host and port, to a parent too.
    asking = Asking(route, Question(b"CONNECT", target, via), client)
    reply = await asking.ask()
    if reply.status // 100 != 2:  # noqa: PLR2004
        asking.upstream.close()
        raise Failed(
            502, f"the proxy behind this one refused the tunnel: {reply.status}"
        )
    return asking.upstream


async def relay(client: Client, record: Record, upstream: Upstream) -> None:
    """Copy both ways until both have ended, one has failed, or nothing moves."""
    flow = _Flow(client, upstream)
    try:
        record.note = await flow.run()
    finally:
        upstream.close()


class _Flow:
    """The two directions."""

    def __init__(self, client: Client, upstream: Upstream) -> None:
        self._client = client
        self._upstream = upstream
        self._moved = monotonic()
        resetting.arm(_socket_of(upstream.writer))

    async def run(self) -> str:
        """Copy; returns why it ended early, empty where both sides have ended."""
        client, upstream = self._client, self._upstream
        loop = asyncio.get_running_loop()
        up = loop.create_task(self._up())
        down = loop.create_task(self._down())
        pending = {up, down}
        how = ""
        try:
            while pending and not how:
                left = self._moved + client.plan.timeouts.tunnel - monotonic()
                if left <= 0:
                    how = "nothing moved in the tunnel"
                    break
                # One timer for both, and not one for each read.
                done, pending = await asyncio.wait(
                    pending, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    error = task.exception()
                    if isinstance(error, OSError):
                        how = how or f"a side has gone: {error.strerror or error}"
                    elif error is not None:
                        raise error  # noqa: TRY301  it is another task's
        except BaseException:
            # Who ends us cuts it short, for both sides.
            _reset(client.writer)
            raise
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
        if how:
            await self._deliver()
            _reset(client.writer)
            return how
        with suppress(OSError, TimeoutError):
            await upstream.writer.flush(client.plan.timeouts.tunnel)
        resetting.disarm(_socket_of(upstream.writer))
        return ""

    async def _deliver(self) -> None:
        """Give the peer what the host had said: what is unsent dies with a reset."""
        sock = _socket_of(self._client.writer)
        if sock.family == socket.AF_UNIX or sock.fileno() < 0:
            return
        deadline = monotonic() + resetting.LAST
        while resetting.unsent(sock.fileno()) and monotonic() < deadline:  # noqa: ASYNC110  no event tells
            await asyncio.sleep(resetting.LOOK)

    async def _up(self) -> None:
        client, writer = self._client, self._upstream.writer
        data = client.heads.take()
        while True:
            if data:
                writer.write(data)
                if not writer.is_drained():
                    await writer.drain()
                self._moved = monotonic()
            data = await client.reader.read(CHUNK)
            client.received += len(data)
            if not data:
                break
        writer.write_eof()

    async def _down(self) -> None:
        upstream, client = self._upstream, self._client
        writer, reader = client.writer, upstream.reader
        data = upstream.take()
        while True:
            if data:
                writer.write(data)
                client.sent += len(data)
                if not writer.is_drained():
                    await writer.drain()
                self._moved = monotonic()
            data = await reader.read(CHUNK)
            if not data:
                break
        writer.write_eof()


def _socket_of(writer: Any) -> socket.socket:
    sock: socket.socket = writer.get_extra_info("socket")
    return sock


def _reset(writer: Any) -> None:
    sock = _socket_of(writer)
    if sock.family != socket.AF_UNIX and sock.fileno() >= 0:
        resetting.reset(sock.fileno())
