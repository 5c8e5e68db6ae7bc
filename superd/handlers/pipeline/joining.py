"""Connect a joint between two stages, each of which has the same one-time token.

The listener sends a nonce, the connector its own with its proof of the token, the
listener its proof. So neither sends the token, a stranger who comes first is turned away
and takes nobody's place, and whoever listens on the way has nothing to come again with.

With TLS the same is said inside of it, once the other end has shown the very certificate
that the caller has seen on that host: one of the same CA is not enough.

The rule of the file: a listener takes one peer that proves itself, within the life of
the token, and is closed.
"""

from __future__ import annotations

import select
import zlib
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers.pipeline import auth, joint
from superd.handlers.pipeline.failure import REFUSED, UNREACHABLE, Failure

if TYPE_CHECKING:
    import socket

    from superd.handlers.pipeline.channel import Channel
    from superd.handlers.pipeline.identity import Identity

_PROOF: Final = 32
_STRANGER: Final = 1.0
"""Seconds a peer has to prove itself; others wait in the backlog."""


class Pin(NamedTuple):
    """The TLS of a joint: what we show, and the certificate that the other end has."""

    identity: Identity
    fingerprint: str


def dial(
    address: joint.Address,
    token: bytes,
    dead: float,
    channel: Channel | None = None,
    pin: Pin | None = None,
    life: float = auth.TOKEN_LIFE,
) -> joint.Stream:
    """Connect to the stage that listens, unless the channel tells us to stop."""
    until = monotonic() + life
    raw = joint.dial(address, life, dead, again=False)
    try:
        sock = _secured(raw, pin, until, channel, server=False)
        theirs = _read(sock, auth.NONCE, until, channel)
        mine = auth.nonce()
        sock.send(mine + auth.prove(token, auth.CALLER, mine, theirs))
        proof = _read(sock, _PROOF, until, channel)
    except OSError as error:
        raw.close()
        raise Failure(UNREACHABLE, f"{address}: {error.strerror or error}") from None
    except BaseException:
        raw.close()
        raise
    if not auth.is_proof(proof, token, auth.AGENT, mine, theirs):
        sock.close()
        raise Failure(REFUSED, f"{address}: has not the token of this pipeline")
    return sock


def accept(
    listeners: list[socket.socket],
    token: bytes,
    dead: float,
    channel: Channel,
    pin: Pin | None = None,
    life: float = auth.TOKEN_LIFE,
) -> joint.Stream:
    """Take the one peer that has the token, unless the channel tells us to stop."""
    until = monotonic() + life
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
                raw = one.accept()[0]
                sock = _expected(raw, token, dead, pin)
                if sock is not None:
                    return sock
                raw.close()
    raise Failure(UNREACHABLE, f"the stage before has not come in {life:g} s")


def _expected(
    raw: socket.socket, token: bytes, dead: float, pin: Pin | None
) -> joint.Stream | None:
    """Return the joint by the peer that has come, or None for a stranger."""
    until = monotonic() + (_STRANGER if pin is None else 2 * _STRANGER)
    mine = auth.nonce()
    try:
        joint.guard(raw, dead)
        sock = _secured(raw, pin, until, None, server=True)
        sock.send(mine)
        answer = _read(sock, auth.NONCE + _PROOF, until)
        theirs, proof = answer[: auth.NONCE], answer[auth.NONCE :]
        if not auth.is_proof(proof, token, auth.CALLER, theirs, mine):
            return None
        sock.send(auth.prove(token, auth.AGENT, theirs, mine))
    except OSError:
        # Every errno: whatever it was, it has gone.
        return None
    return sock


def _secured(
    raw: socket.socket,
    pin: Pin | None,
    until: float,
    channel: Channel | None,
    *,
    server: bool,
) -> joint.Stream:
    """Return the joint by TLS where there is a pin, with the right one at its end."""
    if pin is None:
        return raw
    from superd.handlers.pipeline.tls import TlsError, TlsStream  # noqa: PLC0415

    own = pin.identity
    context = own.server() if server else own.client(check_name=False)
    sock = TlsStream(raw, context, server=server)
    sock.shake_hands(until, channel)
    if sock.fingerprint != pin.fingerprint:
        raise TlsError("it has not the certificate that the caller has seen there")
    return sock


def seed(token: bytes) -> int:
    """Return what the checksums of a joint begin with."""
    return zlib.crc32(token)


def _read(
    sock: joint.Stream, size: int, until: float, channel: Channel | None = None
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
        try:
            more = sock.recv(size - len(data))
        except BlockingIOError:
            continue
        if not more:
            raise ConnectionResetError("it has closed the joint")
        data += more
    if len(data) > size:
        # By TLS more may come than was asked for; nobody has more to say as yet.
        raise ConnectionResetError("it says more than its proof")
    return data
