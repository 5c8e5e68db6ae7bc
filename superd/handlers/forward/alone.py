"""Serve one connection in a process of its own: an event loop over the socket on fd 0.

The rule of the file: the flags of the socket are not ours to change, since O_NONBLOCK is
shared with whoever started us; each call says itself that it does not wait.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from superd.handlers import exits, stdio
from superd.handlers.forward import apart, reach
from superd.handlers.forward.session import Session
from superd.handlers.forward.upstream import Upstreams
from superd.handlers.relay.stopping import die
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


class _Place:
    """What a process keeps from one connection to the next, where it has more than one."""

    def __init__(self) -> None:
        self.loop = asyncio.SelectorEventLoop()
        self.upstreams = Upstreams()


_places: list[_Place] = []


def serve_stdin(plan: Plan) -> int:
    """Serve the connection on fd 0; returns the exit code."""
    _check()
    # As in the worker of a loop: a file's limit is an error of its call.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if not _places:
        _places.append(_Place())
    loop = _places[0].loop
    with _Unblocked() as sock:
        task = loop.create_task(_serve(plan, sock, _places[0]))
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            return loop.run_until_complete(task)
        except ConnectionError:
            return exits.OK
        except asyncio.CancelledError:
            die()
            return exits.OK
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            # A worker of a pool that has threads is replaced.
            apart.rest()
            reach.NAMES.rest()


def _check() -> None:
    """Raise SetupError where fd 0 is no connection."""
    with Wire():
        pass
    try:
        sock = socket.SocketType(fileno=0)
    except OSError:
        raise exits.SetupError("fd 0 is no socket; a proxy needs one") from None
    sock.detach()


async def _serve(plan: Plan, sock: Any, place: _Place) -> int:
    try:
        code = await _converse(plan, sock, place)
    except Exception:
        await _finish(plan)
        raise
    await _finish(plan)
    return code


async def _finish(plan: Plan) -> None:
    """End what runs with nobody waiting: a loop that stands still would keep its claims."""
    if plan.desk is not None:
        await plan.desk.finish()


async def _converse(plan: Plan, sock: Any, place: _Place) -> int:
    reader = Reader(sock, place.loop)
    writer = _Writer(sock, place.loop, reader)
    try:
        peer = peer_of(os.environ, writer.get_extra_info("peername"))
        session = Session(plan, place.upstreams, reader, writer, peer)
        try:
            code = await session.run()
        finally:
            # What was said to a peer that was refused or too slow is for it to read.
            with suppress(ConnectionError):
                await writer.flush(_STALL)
    except TimeoutError:
        raise exits.TooSlow("the peer was too slow to take the rest") from None
    finally:
        writer.release()
    with Wire() as wire:
        wire.linger()
    return code
