"""Relay between two sockets in an event loop, as copying.py does in a process.

The rule of the file: there is no task and no stream, and nothing of the bytes is kept here.
What is ready is moved at once, a piece each turn of the loop, and whoever called waits for
the end alone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from superd.handlers.relay import resetting
from superd.handlers.relay.copying import Copying
from superd.handlers.relay.flow import End, Pipes
from superd.handlers.relay.story import BACKEND_RESET, CLOSED, PEER_RESET, Reset
from superd.handlers.relay.watching import Watcher

if TYPE_CHECKING:
    import socket

    from superd.handlers.relay.story import Tally

_PIPES: Final = 64
"""Of all connections of the process: a pipe is held by a flow that is held back."""


async def both_ways(
    peer: socket.socket,
    backend: socket.socket,
    tally: Tally,
    idle: float,
    half_closed: float,
) -> str:
    """Relay up to the end; returns how it ended, a word of story.EXITS.

    Both are non-blocking, and nobody else reads from them or has something unsent for them
    meanwhile. Neither is closed. But for CLOSED, the peer has been reset; `backend` is to
    be armed before, and is disarmed for CLOSED only, so that its close says the rest.
    """
    ends = End(peer.fileno(), PEER_RESET), End(backend.fileno(), BACKEND_RESET)
    relaying = _Relaying(peer, (ends[0], *ends), idle, half_closed)
    copying = relaying.copying
    _PARTIES.append(relaying)
    try:
        how = await relaying.run()
        if how == CLOSED:
            resetting.disarm(backend)
        else:
            for pause in copying.last_words(how):
                await asyncio.sleep(pause)
    finally:
        copying.tell(tally)
        copying.close()
        _PARTIES.remove(relaying)
        if not _PARTIES:
            _LENT.close()
    return how


class _Relaying:
    """A copying whose events come from a loop."""

    __slots__ = ("_done", "_is_half", "_loop", "_peer", "_timer", "_watcher", "copying")

    def __init__(
        self,
        peer: socket.socket,
        ends: tuple[End, End, End],
        idle: float,
        half_closed: float,
    ) -> None:
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._watcher = Watcher(self._turn)
        self.copying = Copying(ends, _LENT, self._watcher, idle, half_closed)
        self._done: asyncio.Future[str] = self._loop.create_future()
        self._is_half = False
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> str:
        """Wait for the end; returns how."""
        try:
            self.copying.ask()
            self._look()
            return await self._done
        finally:
            self._watcher.close()
            if self._timer is not None:
                self._timer.cancel()

    def _turn(self, fd: int, events: int) -> None:
        copying = self.copying
        # A worker that was told KILL closes the peer's socket before our task hears of it,
        # and its number may be another peer's already.
        if self._done.done() or self._peer.fileno() < 0:
            return
        try:
            copying.turn(fd, events)
            if copying.is_over:
                self._done.set_result(CLOSED)
                return
            copying.ask()
        except Reset as reset:
            self._done.set_result(str(reset))
        except Exception as error:  # noqa: BLE001  it is raised where it is waited for
            self._done.set_exception(error)
        if copying.is_half != self._is_half:
            self._is_half = copying.is_half
            self._look()

    def _look(self) -> None:
        """See whether it has been too long; else look again when it may be."""
        if self._done.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        left = self.copying.left
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._done.set_result(self.copying.late)


_LENT: Final = Pipes(_PIPES)
_PARTIES: Final[list[_Relaying]] = []
"""Who may need a pipe; the last one closes them."""
