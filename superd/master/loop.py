"""Wait for descriptors, signals and deadlines, and call who asked for them.

Signals first, then descriptors, then deadlines, then the ends of turns: a TERM is never
behind a flood of connections, and what a turn produced (log lines, connections for the
launchers) leaves together.
"""

from __future__ import annotations

import heapq
import selectors
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
IDLE = 3600.0


class Loop:
    """One selector, one heap of deadlines."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._first: int | None = None
        self.after_turn: list[Callable[[], None]] = []
        self.status: int | None = None

    def watch(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """Call with the ready events whenever there are some."""
        self._selector.register(fd, events, call)

    def change(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """Watch for something else from now on."""
        self._selector.modify(fd, events, call)

    def forget(self, fd: int) -> None:
        """Stop watching: always before the descriptor is closed.

        epoll watches the description, not the number: one that a child still holds goes
        on reporting after our close, and cannot be unregistered any more.
        """
        self._selector.unregister(fd)

    def is_watched(self, fd: int) -> bool:
        """Say whether a descriptor is watched."""
        return fd in self._selector.get_map()

    def first(self, fd: int) -> None:
        """Name the descriptor that is served before all others: that of the signals."""
        self._first = fd

    def later(self, when: float, call: Callable[[], None]) -> None:
        """Call once at `when` (monotonic) or soon after."""
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, call))

    def turn(self, until: float | None) -> None:
        """Wait for something, at most until `until`, and serve what came."""
        deadline = until
        if self._timers and (deadline is None or self._timers[0][0] < deadline):
            deadline = self._timers[0][0]
        wait = IDLE if deadline is None else max(0.0, deadline - time.monotonic())
        ready = self._selector.select(wait)
        if len(ready) > 1 and self._first is not None:
            ready.sort(key=lambda item: item[0].fd != self._first)
        watched = self._selector.get_map()
        for key, events in ready:
            # An earlier one may have closed it, and its number may be another's by now.
            if watched.get(key.fd) is key:
                key.data(events)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        for call in self.after_turn:
            call()

    def close(self) -> None:
        """Let go of the selector."""
        self._selector.close()
