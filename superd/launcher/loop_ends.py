"""End the connections of a loop: here for the moment that most peers take, then elsewhere.

A peer that has read to the end closes its side within a fraction of a millisecond. Handing
its connection to the launcher for that costs 50 us of both; a look after MOMENT costs one
call. Who has not closed by PATIENCE is the launcher's to wait for (linger.py), but for a
peer that was idle: it has had its answer and asked nothing, and nobody waits for it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from superd.launcher.finish import end, hand, has_ended
from superd.launcher.linger import has_everything

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

MOMENT = 0.01
"""Seconds between looks."""

PATIENCE = 0.1
"""Seconds after which the launcher takes over, ten looks."""

ROOM = 1000
"""Connections that are looked at; of more the oldest go to the launcher at once."""


class Ends:
    """The connections that are shut down and whose peers are not done."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        back: socket.socket,
        changed: Callable[[], None],
    ) -> None:
        self.waiting: deque[tuple[socket.socket, str, float, bool]] = deque()
        self._loop = loop
        self._back = back
        self._changed = changed
        """Called when there is none left."""
        self._looking = False

    def add(self, sock: socket.socket, conn: str, *, idle: bool = False) -> None:
        """Shut down a connection, and close it as soon as nothing can be lost.

        `idle`: the peer was between two requests.
        """
        if end(sock):
            return
        self.waiting.append((sock, conn, self._loop.time(), idle))
        if not self._looking:
            self._looking = True
            self._loop.call_later(MOMENT, self._look)

    def _look(self) -> None:
        late = self._loop.time() - PATIENCE
        for _ in range(len(self.waiting)):
            sock, conn, since, idle = self.waiting.popleft()
            if has_ended(sock):
                continue
            over = since <= late or len(self.waiting) >= ROOM
            if over and idle and has_everything(sock):
                # A request that meets this close on its way is answered by RST instead of
                # our end alone, and the peer sends it again in both cases (RFC 9112 9.3.1
                # and 9.5). What else RST could cost, the last answer, is acknowledged.
                sock.close()
            elif not over or not hand(sock, conn, self._back):
                self.waiting.append((sock, conn, since, idle))
        self._looking = bool(self.waiting)
        if self._looking:
            self._loop.call_later(MOMENT, self._look)
        else:
            self._changed()
