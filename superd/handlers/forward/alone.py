"""Serve one connection in a process of its own: an event loop over the socket on fd 0.

The rule of the file: the flags of the socket are not ours to change, since O_NONBLOCK is
shared with whoever started us; each call says itself that it does not wait.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any, Final, Self

from superd.handlers import exits, stdio
from superd.handlers.forward.session import Session
from superd.handlers.forward.upstream import Upstreams
from superd.handlers.relay.story import peer_of
from superd.handlers.wire import Wire
from superd.streams.reader import Reader
from superd.streams.writer import Writer

if TYPE_CHECKING:
    from superd.handlers.forward.plan import Plan

_MSG_DONTWAIT: Final = int(socket.MSG_DONTWAIT)
_STALL: Final = 30.0
"""Seconds without progress after which the rest of an answer is given up: the worker of a
loop has the same."""


class _Unblocked:
    """The socket on fd 0, of which no call waits."""

    def __init__(self) -> None:
        self._sock = socket.socket(fileno=os.dup(0))
        self.family = self._sock.family
        self.fileno = self._sock.fileno
        self.getpeername = self._sock.getpeername
        self.getsockname = self._sock.getsockname
        self.setsockopt = self._sock.setsockopt
        self.shutdown = self._sock.shutdown

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Call recv(2)."""
        return self._sock.recv(size, flags | _MSG_DONTWAIT)

    def send(self, data: Any, flags: int = 0) -> int:
        """Call send(2)."""
        return self._sock.send(data, flags | _MSG_DONTWAIT)


class _Writer(Writer):
    """The peer's writer; sendfile(2) has no flag for not waiting."""

    __slots__ = ()

    async def sendfile(
        self, fd: int, offset: int, count: int, deadline: float | None = None
    ) -> int:
        """Send a piece of a file; returns how much of it there was."""
        done = 0
        while done < count:
            data = os.pread(fd, min(count - done, stdio.CHUNK), offset + done)
            if not data:
                break
            self.write(data)
            done += len(data)
            if not self.is_drained():
                await self.drain(deadline)
        return done


def serve_stdin(plan: Plan) -> int:
    """Serve the connection on fd 0; returns the exit code."""
    _check()
    loop = asyncio.SelectorEventLoop()
    try:
        with _Unblocked() as sock:
            return loop.run_until_complete(_serve(plan, sock, loop))
    except ConnectionError:
        return exits.OK
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def _check() -> None:
    """Raise SetupError where fd 0 is no connection."""
    with Wire():
        pass
    try:
        sock = socket.SocketType(fileno=0)
    except OSError:
        raise exits.SetupError("fd 0 is no socket; a proxy needs one") from None
    sock.detach()


async def _serve(plan: Plan, sock: Any, loop: asyncio.AbstractEventLoop) -> int:
    reader = Reader(sock, loop)
    writer = _Writer(sock, loop, reader, lambda: dict(os.environ))
    upstreams = Upstreams()
    try:
        peer = peer_of(os.environ, writer.get_extra_info("peername"))
        own = own_of(writer.get_extra_info("sockname"))
        session = Session(plan, upstreams, reader, writer, peer, own)
        try:
            code = await session.run()
        except (exits.TooSlow, exits.PeerError):
            await writer.flush(_STALL)
            raise
        await writer.flush(_STALL)
    except TimeoutError:
        raise exits.TooSlow("the peer was too slow to take the rest") from None
    finally:
        upstreams.close()
        writer.release()
    with Wire() as wire:
        wire.linger()
    if plan.desk is not None:
        await plan.desk.finish()
    return code


def own_of(name: Any) -> tuple[str, int] | None:
    """Return the address and port of our end; None of a Unix socket."""
    return (name[0], name[1]) if isinstance(name, tuple) else None
