"""Write a test of the core as a dialogue: `tell` it an event, `expect` its commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from superd.core import commands as cmd
from superd.core import events as ev
from superd.core.audit import check
from superd.core.spec import Limits, ListenerSpec, ServiceSpec
from superd.core.supervisor import Supervisor

if TYPE_CHECKING:
    from superd.core.lifecycle import State


def service(name: str = "echo", **given: Any) -> ServiceSpec:
    """Make a service's spec; what a test does not name does not matter to it."""
    limits = Limits(
        connections=given.pop("connections", 40),
        per_source=given.pop("per_source", None),
        ipv4_prefix=32,
        ipv6_prefix=64,
        when_full=given.pop("when_full", "queue"),
        message=given.pop("message", ""),
    )
    keys = given.pop("keys", (f"tcp {name}",))
    kind = given.pop("kind", "stream")
    mode, workers = given.get("mode", "process"), given.get("workers", 0)
    return ServiceSpec(
        name=name,
        place=f"x.yaml:1:1:{name}",
        listeners=tuple(ListenerSpec(key, kind) for key in keys),
        limits=limits,
        warm=given.pop("warm", False),
        stop=given.pop("stop", 5.0),
        launcher_idle=given.pop("launcher_idle", 600.0),
        launcher={"exec": ["/bin/cat"], **given},
        mode=mode,
        workers=workers,
        max_workers=given.get("max_workers", workers),
        resolve=given.get("resolve", False),
    )


def accepted(
    conn: int, host: str = "192.0.2.1", listener: str = "tcp echo"
) -> ev.Accepted:
    """Let a peer come."""
    return ev.Accepted(conn, listener, host, 50000 + conn)


def started(conn: int, launcher: int = 1, name: str = "") -> ev.Started:
    """Let a launcher start the handler of a connection."""
    return ev.Started(launcher, conn, 9000 + conn, name)


def not_started(conn: int, launcher: int = 1) -> ev.NotStarted:
    """Let a launcher fail to start it."""
    return ev.NotStarted(launcher, conn, "exec", "no such file")


def ended(
    conn: int,
    status: int = 0,
    launcher: int = 1,
    signal: int = 0,
    *,
    progress: bool = True,
) -> ev.Ended:
    """Let a handler end."""
    return ev.Ended(launcher, conn, signal, status, 0.01, progress)


def pool(name: str = "echo", **given: Any) -> ServiceSpec:
    """Make the spec of a service with one worker that serves one connection at a time."""
    return service(name, **{"mode": "pool", "workers": 1, **given})


def loop(name: str = "echo", **given: Any) -> ServiceSpec:
    """Make the spec of a service with two event loops."""
    return service(name, **{"mode": "loop", "workers": 2, **given})


def taken(seat: int, pid: int = 0) -> ev.SeatTaken:
    """Let a worker sit down."""
    return ev.SeatTaken(seat, pid or 7000 + seat)


def served(conn: int, seat: int, status: int = 0, launcher: int = 1) -> ev.Ended:
    """Let the worker of a seat be done with a connection."""
    return ev.Ended(launcher, conn, 0, status, 0.01, True, seat)


class Playbook:
    """A core, its clock, and what it said; the books are audited after every event."""

    def __init__(self, *services: ServiceSpec) -> None:
        self.core = Supervisor()
        self.now = 1000.0
        self.said: list[cmd.Command] = []
        self.log: list[cmd.Log] = []
        if services:
            self.tell(ev.Reloaded(services, 1))

    def tell(self, event: ev.Event) -> Playbook:
        """Let something happen."""
        return self._take(self.core.handle(event, self.now))

    def pass_time(self, seconds: float) -> Playbook:
        """Let time go by, deadline by deadline."""
        until = self.now + seconds
        while (when := self.core.next_deadline()) is not None and when <= until:
            self.now = max(self.now, when)
            self._take(self.core.tick(self.now))
        self.now = until
        return self

    def expect(self, *commands: cmd.Command) -> Playbook:
        """Compare what was asked for since the last time; log lines are apart."""
        said, self.said = self.said, []
        assert said == list(commands)
        return self

    def forget(self) -> Playbook:
        """Go on: what was asked for so far does not matter."""
        self.said = []
        return self

    def state(self, name: str = "echo") -> State:
        """Look up where a service is."""
        return self.core.services[name].state

    def logged(self, verb: str) -> list[dict[str, object]]:
        """Return the fields of every line with this verb."""
        return [dict(line.fields) for line in self.log if line.verb == verb]

    def _take(self, commands: list[cmd.Command]) -> Playbook:
        self.log += [one for one in commands if isinstance(one, cmd.Log)]
        self.said += [one for one in commands if not isinstance(one, cmd.Log)]
        check(self.core)
        return self


def manned(spec: ServiceSpec, seats: int, conns: int = 0) -> Playbook:
    """Serve with a launcher that is ready and so many workers; connections may wait."""
    book = Playbook(spec).tell(accepted(1)).tell(ev.LauncherReady(1))
    for seat in range(1, seats + 1):
        book.tell(taken(seat))
    for conn in range(2, conns + 1):
        book.tell(accepted(conn))
    return book


def ends(book: Playbook) -> dict[object, object]:
    """Return the status of every connection whose end is in the log."""
    return {line["conn"]: line["status"] for line in book.logged("end")}
