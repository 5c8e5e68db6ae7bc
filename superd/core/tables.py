"""Keep the records of the core: services, listeners, launchers, connections.

Each table has one owner (the Supervisor) and one key. Every other number is derived, or
audited by core/audit.py.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from superd.core.admission import Admission
from superd.core.lifecycle import State, step
from superd.core.throttle import Throttle

if TYPE_CHECKING:
    from superd.core.lifecycle import Step
    from superd.core.spec import ServiceSpec


class Service:
    """One service of the running generation, or one that still drains."""

    __slots__ = (
        "admission",
        "choked",
        "conns",
        "launcher",
        "spec",
        "state",
        "stop_stage",
        "throttle",
    )

    def __init__(self, spec: ServiceSpec) -> None:
        self.spec = spec
        self.state = State.LISTENING
        self.admission = Admission(spec.limits)
        self.throttle = Throttle()
        self.launcher: int | None = None
        self.conns: set[int] = set()
        self.choked = False
        self.stop_stage = 0

    @property
    def name(self) -> str:
        """The name that the configuration gives it."""
        return self.spec.name

    def take(self, by: Step) -> None:
        """Take one step of the life cycle."""
        self.state = step(self.state, by)


class Listener:
    """One open listening socket, and who it is with."""

    __slots__ = ("key", "kind", "lent", "paused_until", "polled", "service")

    def __init__(self, key: str, kind: str, service: Service) -> None:
        self.key = key
        self.kind = kind
        self.service = service
        self.polled = False
        self.paused_until: float | None = None
        self.lent: int | None = None


class Launcher:
    """One launcher process: starting, ready, or retired (finishing its handlers)."""

    __slots__ = (
        "answer_due",
        "conns",
        "free",
        "id",
        "idle_at",
        "idle_due",
        "retired",
        "seats",
        "service",
        "shrink_due",
        "spec",
        "state",
        "unanswered",
    )

    def __init__(self, number: int, service: Service) -> None:
        self.id = number
        self.service = service
        self.spec = service.spec
        """What it was started for: after a reload its service may be of another mode."""
        self.state = "starting"
        self.retired = False
        self.conns: set[int] = set()
        self.unanswered: dict[int, float] = {}
        """What it was given and has not started, and since when: the oldest is first."""
        self.answer_due = False
        """Its one entry among the deadlines for that is there."""
        self.idle_at: float | None = None
        """When it ends if nothing comes; None: it has handlers."""
        self.idle_due: float | None = None
        """When it is looked at next for that: its one entry among the deadlines."""
        self.seats: list[Seat] = []
        """Those that get connections: a retired one is not among them."""
        self.free: list[Seat] = []
        """Of a pool: who has nothing to do, the last to have worked is the last."""
        self.shrink_due = False


class Seat:
    """The place of one worker of a pool or a loop; who sits on it may change."""

    __slots__ = (
        "conns",
        "crash",
        "doubtful",
        "id",
        "idle_since",
        "launcher",
        "pid",
        "retired",
        "service",
    )

    def __init__(self, number: int, launcher: int, service: Service) -> None:
        self.id = number
        self.launcher = launcher
        self.service = service
        self.conns: dict[int, None] = {}
        """What it was given and has not ended, the oldest first."""
        self.pid: int | None = None
        """Its worker; None: there is none just now, and what comes waits."""
        self.idle_since = 0.0
        self.retired = False
        self.crash: tuple[int, int] | None = None
        """How its worker died (signal, status), until it is known what that cost."""
        self.doubtful: frozenset[int] = frozenset()
        """What it had been given when that was heard."""


class Conn:
    """One connection (or one lending of a listener) that has, or gets, a handler."""

    __slots__ = (
        "host",
        "id",
        "launcher",
        "listener",
        "name",
        "number",
        "pid",
        "port",
        "seat",
        "service",
        "since",
        "source",
    )

    def __init__(
        self, number: int, service: Service, listener: str, since: float
    ) -> None:
        self.id = number
        self.service = service
        self.listener = listener
        self.since = since
        self.host = ""
        self.port = 0
        self.name = ""
        # None: it counts for no limit (a lent listener).
        self.source: str | None = None
        self.number = 0
        """How many its source had when it was admitted, itself included."""
        self.launcher: int | None = None
        self.seat: Seat | None = None
        self.pid: int | None = None

    def far_end(self) -> tuple[str, object]:
        """Name who is served: a peer, or everybody who comes to a lent listener."""
        return ("peer", self.peer()) if self.host else ("listener", self.listener)

    def peer(self) -> str:
        """Spell the far end for the log."""
        if not self.host:
            return ""
        if self.host.startswith("unix:"):
            return self.host
        if ":" in self.host:
            return f"[{self.host}]:{self.port}"
        return f"{self.host}:{self.port}"


class Deadlines:
    """A heap of (when, kind, key). Stale entries are harmless: the taker looks again."""

    __slots__ = ("_count", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str, Any]] = []
        self._count = 0

    def add(self, when: float, kind: str, key: Any) -> None:
        """Ask to be told at `when` (monotonic seconds)."""
        self._count += 1  # keeps the heap from comparing keys
        heapq.heappush(self._heap, (when, self._count, kind, key))

    def next(self) -> float | None:
        """When the earliest is due."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[tuple[str, Any]]:
        """Take out everything that is due."""
        taken = []
        while self._heap and self._heap[0][0] <= now:
            _, _, kind, key = heapq.heappop(self._heap)
            taken.append((kind, key))
        return taken
