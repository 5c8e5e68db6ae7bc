"""Decide whether a connection of one service gets a handler.

Everything that decides whether a peer gets a handler is in this file. Nothing here knows
what time it is. A slot is taken by `take` and freed by `give` and nowhere else, and `give`
is called from the reaping of a handler alone: systemd's counters were tied to success
paths and never freed the slots of failed instances (systemd#20685).
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from superd.core.spec import Limits


class Reason(Enum):
    """Why a connection was refused; the value is what the log says."""

    SERVICE_LIMIT = "connections"
    """limits.connections are in use and when_full is refuse."""
    SOURCE_LIMIT = "per_source"
    """limits.per_source of this source are in use and when_full is refuse."""
    WAITING_LIMIT = "waiting"
    """The source is full, and so is the room for connections that wait for it."""
    STOPPING = "stopping"
    """The service is draining."""


class Verdict(Enum):
    """What becomes of a connection that is not refused."""

    ADMIT = "admit"
    WAIT = "wait"


class Admission:
    """The slots of one service: live connections, and those waiting for their source."""

    __slots__ = ("limits", "live", "sources", "waiting", "waiting_count")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.live = 0
        self.sources: dict[str, int] = {}
        # Connections over per_source with when_full: queue. The backlog cannot hold them
        # (it would stall every other source), so they wait here, first come first served
        # within a source, at most limits.connections of them.
        self.waiting: dict[str, deque[int]] = {}
        self.waiting_count = 0

    def is_full(self) -> bool:
        """No slot is free."""
        return self.live >= self.limits.connections

    def wants_poll(self) -> bool:
        """The listener is worth watching: a full service that queues is not."""
        return self.limits.when_full == "refuse" or not self.is_full()

    def decide(self, source: str) -> Reason | Verdict:
        """Judge a new connection; changes nothing."""
        limits = self.limits
        if self.is_full():
            if limits.when_full == "refuse":
                return Reason.SERVICE_LIMIT
            return self._may_wait()
        if (
            limits.per_source is not None
            and self.sources.get(source, 0) >= limits.per_source
        ):
            if limits.when_full == "refuse":
                return Reason.SOURCE_LIMIT
            return self._may_wait()
        return Verdict.ADMIT

    def _may_wait(self) -> Reason | Verdict:
        if self.waiting_count >= self.limits.connections:
            return Reason.WAITING_LIMIT
        return Verdict.WAIT

    def take(self, source: str) -> int:
        """Take a slot; returns how many the source has now (TCPCONNNUM)."""
        self.live += 1
        number = self.sources.get(source, 0) + 1
        self.sources[source] = number
        return number

    def give(self, source: str) -> None:
        """Free a slot: from reaping only."""
        self.live -= 1
        left = self.sources[source] - 1
        if left:
            self.sources[source] = left
        else:
            del self.sources[source]

    def park(self, source: str, conn: int) -> None:
        """Let a connection wait for a slot of its source."""
        self.waiting.setdefault(source, deque()).append(conn)
        self.waiting_count += 1

    def next_waiting(self) -> int | None:
        """Take out the first waiting connection that has a slot now, if any."""
        if not self.waiting_count or self.is_full():
            return None
        allowed = self.limits.per_source
        for source, queue in self.waiting.items():
            if allowed is None or self.sources.get(source, 0) < allowed:
                conn = queue.popleft()
                del self.waiting[source]
                if queue:  # to the end of the line: sources take turns
                    self.waiting[source] = queue
                self.waiting_count -= 1
                return conn
        return None

    def forget_waiting(self) -> list[int]:
        """Empty the room: the service stops."""
        conns = [conn for queue in self.waiting.values() for conn in queue]
        self.waiting.clear()
        self.waiting_count = 0
        return conns

    def check(self) -> None:
        """Audit the books: the sums agree and nothing is negative or left at zero."""
        assert self.live == sum(self.sources.values()), (self.live, self.sources)
        assert all(count > 0 for count in self.sources.values()), self.sources
        assert self.waiting_count == sum(map(len, self.waiting.values()))
        assert all(self.waiting.values()), self.waiting
