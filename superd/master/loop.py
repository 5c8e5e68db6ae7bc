"""Wait for descriptors, signals and deadlines, and call who asked for them.

Signals first, then descriptors, then deadlines, then the ends of turns: a TERM is never
behind a flood of connections, and what a turn produced (log lines, connections for the
launchers) leaves together.
"""

from __future__ import annotations

import heapq
import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE = 1, 4
"""EPOLLIN and EPOLLOUT (linux/eventpoll.h): what a caller asks for and is told."""

_EITHER = READ | WRITE
IDLE = 3600.0


class Loop:
    """One epoll, one heap of deadlines.

    epoll itself and not the selectors module: that makes objects for each event, and
    there are four for a connection.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._first: int | None = None
        self.after_turn: list[Callable[[], None]] = []
        self.status: int | None = None

    def watch(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """Call with the ready events whenever there are some."""
        self._epoll.register(fd, events)
        self._calls[fd] = call

    def change(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """Watch for something else from now on."""
        self._epoll.modify(fd, events)
        self._calls[fd] = call

    def forget(self, fd: int) -> None:
        """Stop watching: always before the descriptor is closed.

        epoll watches the description, not the number: one that a child still holds goes
        on reporting after our close, and cannot be unregistered any more.
        """
        del self._calls[fd]
        self._epoll.unregister(fd)

    def is_watched(self, fd: int) -> bool:
        """Say whether a descriptor is watched."""
        return fd in self._calls

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
        ready = self._epoll.poll(wait)
        if len(ready) > 1:
            calls = [(fd, events, self._calls.get(fd)) for fd, events in ready]
            calls.sort(key=lambda item: item[0] != self._first)
            for fd, events, call in calls:
                # An earlier one may have closed it, and its number be another's by now.
                if call is not None and self._calls.get(fd) is call:
                    call(_told(events))
        else:
            for fd, events in ready:
                self._calls[fd](_told(events))
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        for after in self.after_turn:
            after()

    def close(self) -> None:
        """Let go of the selector."""
        self._epoll.close()


def _told(events: int) -> int:
    """Make an error or a hang-up a reason to read and to write, as selectors does."""
    return min(events, _EITHER)
