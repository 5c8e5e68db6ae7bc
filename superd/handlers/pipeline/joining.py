"""Connect a joint between two stages, each of which has the same one-time token.

The listener sends a nonce, the connector its own with its proof of the token, the
listener its proof. So neither sends the token, a stranger who comes first is turned away
and takes nobody's place, and whoever listens on the way has nothing to come again with.

The rule of the file: a listener takes one peer that proves itself, within the life of
the token, and is closed.
"""

from __future__ import annotations

import select
import zlib
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

from superd.handlers.pipeline import auth, joint
from superd.handlers.pipeline.failure import REFUSED, UNREACHABLE, Failure

if TYPE_CHECKING:
    import socket

    from superd.handlers.pipeline.channel import Channel

_PROOF: Final = 32
_STRANGER: Final = 1.0
"""Seconds a peer has to prove itself; others wait in the backlog."""


def dial(
    address: joint.Address, token: bytes, dead: float, channel: Channel | None = None
) -> socket.socket:
    """Connect to the stage that listens, unless the channel tells us to stop."""
    until = monotonic() + auth.TOKEN_LIFE
    sock = joint.dial(address, auth.TOKEN_LIFE, dead, again=False)
    try:
        theirs = _read(sock, auth.NONCE, until, channel)
        mine = auth.nonce()
        sock.send(mine + auth.prove(token, auth.CALLER, mine, theirs))
        proof = _read(sock, _PROOF, until, channel)
    except OSError as error:
        sock.close()
        raise Failure(UNREACHABLE, f"{address}: {error.strerror or error}") from None
    except BaseException:
        sock.close()
        raise
    if not auth.is_proof(proof, token, auth.AGENT, mine, theirs):
        sock.close()
        raise Failure(REFUSED, f"{address}: has not the token of this pipeline")
    return sock


def accept(
    listeners: list[socket.socket], token: bytes, dead: float, channel: Channel
) -> socket.socket:
    """Take the one peer that has the token, unless the channel tells us to stop."""
    until = monotonic() + auth.TOKEN_LIFE
    poller = select.poll()
    for one in listeners:
        poller.register(one, select.POLLIN)
    channel.watch(poller)
    while (left := until - monotonic()) > 0:
        ready = dict(poller.poll(left * 1000))
        channel.heed(ready)
        for one in listeners:
            if one.fileno() not in ready:
                continue
            with suppress(BlockingIOError, ConnectionAbortedError):
                sock = one.accept()[0]
                if _is_expected(sock, token, dead):
                    return sock
                sock.close()
    raise Failure(
        UNREACHABLE, f"the stage before has not come in {auth.TOKEN_LIFE:g} s"
    )


def _is_expected(sock: socket.socket, token: bytes, dead: float) -> bool:
    until = monotonic() + _STRANGER
    mine = auth.nonce()
    try:
        joint.guard(sock, dead)
        sock.send(mine)
        answer = _read(sock, auth.NONCE + _PROOF, until)
        theirs, proof = answer[: auth.NONCE], answer[auth.NONCE :]
        if not auth.is_proof(proof, token, auth.CALLER, theirs, mine):
            return False
        sock.send(auth.prove(token, auth.AGENT, theirs, mine))
    except OSError:
        # Every errno: whatever it was, it has gone.
        return False
    return True


def seed(token: bytes) -> int:
    """Return what the checksums of a joint begin with."""
    return zlib.crc32(token)


def _read(
    sock: socket.socket, size: int, until: float, channel: Channel | None = None
) -> bytes:
    data = b""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    if channel is not None:
        channel.watch(poller)
    while len(data) < size:
        ready = dict(poller.poll(max(0.0, until - monotonic()) * 1000))
        if not ready:
            raise TimeoutError("no proof came in time")
        if channel is not None:
            channel.heed(ready)
        if sock.fileno() not in ready:
            continue
        more = sock.recv(size - len(data))
        if not more:
            raise ConnectionResetError("it has closed the joint")
        data += more
    return data
