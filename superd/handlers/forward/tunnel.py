"""Copy bytes between a peer and a host, both ways (RFC 9110 9.3.6).

The rule of the file: what one side says as its end is passed on as an end, after
everything before it, and the other direction goes on (ssh and `nc -N` need it); a reset
of one side is a reset for the other. A tunnel in which nothing moves ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from superd.handlers import exits
from superd.handlers.forward.asking import Asking, Question
from superd.handlers.forward.pages import Failed
from superd.handlers.relay import resetting
from superd.handlers.relay.both_ways import both_ways
from superd.handlers.relay.story import (
    BACKEND_RESET,
    CLOSED,
    IDLE,
    PEER_RESET,
    PEER_STALLED,
    Tally,
)

if TYPE_CHECKING:
    import socket

    from superd.handlers.forward.asking import Route
    from superd.handlers.forward.client import Client
    from superd.handlers.forward.record import Record
    from superd.handlers.forward.target import Target
    from superd.handlers.forward.upstream import Upstream

_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n"
"""No Content-Length and no Transfer-Encoding (9.3.6)."""
_NOTES: Final = {
    CLOSED: "",
    IDLE: "nothing moved in the tunnel",
    PEER_STALLED: "the peer takes nothing more out of the tunnel",
    PEER_RESET: "the peer has gone",
    BACKEND_RESET: "the host has gone",
}


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
    idle = client.plan.timeouts.tunnel
    tally = Tally()
    peer, host = _socket_of(client.writer), _socket_of(upstream.writer)
    resetting.arm(host)
    try:
        # What came with the heads, before the sockets are no longer the streams'.
        early, late = client.heads.take(), upstream.take()
        await _send(upstream.writer, early, idle)
        await _send(client.writer, late, idle)
        client.sent += len(late)
        record.note = _NOTES[await both_ways(peer, host, tally, idle, idle)]
    except BaseException:
        # Who ends us cuts it short, for both sides.
        resetting.reset_peer(peer)
        raise
    finally:
        client.received += tally.up
        client.sent += tally.down
        upstream.close()


async def _send(writer: Any, data: bytes, stall: float) -> None:
    writer.write(data)
    await writer.flush(stall)


def _socket_of(writer: Any) -> socket.socket:
    sock: socket.socket = writer.get_extra_info("socket")
    return sock
