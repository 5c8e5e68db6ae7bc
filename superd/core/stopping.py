"""Reload and stop: the two ways in which services come and go.

Half of the Supervisor, in a file of its own because its rule is its own: nothing here
ends a running handler before its service's deadline, and a reload never does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from superd.core import commands as cmd
from superd.core.admission import Reason
from superd.core.diff import diff
from superd.core.lifecycle import State, Step
from superd.core.tables import Listener, Service

if TYPE_CHECKING:
    from superd.core import events as ev
    from superd.core.spec import ServiceSpec
    from superd.core.tables import Conn, Deadlines, Launcher

KILL_AFTER = 2.0
"""Seconds between TERM and KILL of a handler that did not end, as in Postfix's haste."""

GIVE_UP_AFTER = 2.0
"""Seconds between KILL and leaving: what a KILL does not end, nothing of ours will."""


class Stopping:
    """What the Supervisor does at reload and stop."""

    services: dict[str, Service]
    leaving: list[Service]
    listeners: dict[str, Listener]
    launchers: dict[int, Launcher]
    conns: dict[int, Conn]
    deadlines: Deadlines
    generation: int
    stopping: bool
    hasty: bool
    """Stop at once: launchers that only linger over closed connections are not awaited."""
    give_up_at: float | None
    _out: list[cmd.Command]

    if TYPE_CHECKING:

        def _log(self, level: str, verb: str, *fields: tuple[str, object]) -> None: ...
        def _reconcile(self, service: Service, now: float) -> None: ...
        def _admit_waiting(self, service: Service, now: float) -> None: ...
        def _launcher_for(self, service: Service, now: float) -> Launcher: ...
        def _retire(self, service: Service, now: float) -> None: ...
        def _rest(self, service: Service, now: float) -> None: ...
        def _refuse(self, conn: Conn, reason: Reason) -> None: ...

    # -- reload -----------------------------------------------------------------------

    def _reloaded(self, event: ev.Reloaded, now: float) -> None:
        old = [service.spec for service in self.services.values()]
        changes = diff(old, event.services)
        before = self.services
        self.generation = event.generation
        self.services = {}
        for spec in event.services:
            service = before.get(spec.name)
            if service is None:
                service = Service(spec)
            else:
                self._adopt(service, spec, now, renewed=spec.name in changes.renewed)
            self.services[spec.name] = service
        self._move_listeners(event.services)
        for name in changes.removed:
            self._drain(before[name], now)
        for service in self.services.values():
            if service.spec.warm and service.state is not State.THROTTLED:
                self._launcher_for(service, now)
            self._rest(service, now)  # a reload may have made it warm no more
            self._admit_waiting(service, now)
            self._reconcile(service, now)
        self._log(
            "info",
            "reload",
            ("generation", event.generation),
            ("services", len(self.services)),
            ("listeners", len(self.listeners)),
            ("added", len(changes.added)),
            ("removed", len(changes.removed)),
            ("renewed", len(changes.renewed)),
            ("adjusted", len(changes.adjusted)),
        )

    def _adopt(
        self, service: Service, spec: ServiceSpec, now: float, *, renewed: bool
    ) -> None:
        service.spec = spec
        service.admission.limits = spec.limits
        if renewed:
            self._retire(service, now)
            service.throttle.renewed()
            if service.state is State.THROTTLED:
                service.take(Step.RELEASE)

    def _move_listeners(self, specs: tuple[ServiceSpec, ...]) -> None:
        """Give every open listener to the service that names it now; close the rest.

        A listener whose key stays is never closed, whichever service names it.
        """
        wanted = {one.key: (one.kind, spec) for spec in specs for one in spec.listeners}
        for key in [key for key in self.listeners if key not in wanted]:
            del self.listeners[key]
            self._out.append(cmd.CloseListener(key))
        for key, (kind, spec) in wanted.items():
            service = self.services[spec.name]
            listener = self.listeners.get(key)
            if listener is None:
                self.listeners[key] = Listener(key, kind, service)
                continue
            if listener.kind != kind and listener.polled:
                # Somebody else will accept on it: it is watched for another purpose.
                listener.polled = False
                self._out.append(cmd.Unpoll(key))
            listener.service, listener.kind = service, kind

    def _drain(self, service: Service, now: float) -> None:
        """Let a service go: no new connection, the running ones finish."""
        service.take(Step.DRAIN)
        for number in service.admission.forget_waiting():
            conn = self.conns.pop(number)
            self._refuse(conn, Reason.STOPPING)
        self._log(
            "info", "drain", ("service", service.name), ("live", len(service.conns))
        )
        self.leaving.append(service)
        self._retire(service, now)
        self._gone(service)

    def _gone(self, service: Service) -> None:
        """Forget a draining service whose last handler has ended; leave with the last."""
        if service.state is not State.DRAINING or service.conns:
            return
        theirs = [one.id for one in self.launchers.values() if one.service is service]
        if theirs and not self.hasty:
            return
        for number in theirs:  # it lingers on by itself, and ends
            del self.launchers[number]
        service.take(Step.GONE)
        self.leaving.remove(service)
        if self.stopping and not self.leaving and not self.services:
            self._out.append(cmd.Exit(0))

    # -- stop -------------------------------------------------------------------------

    def _stop_asked(self, event: ev.StopAsked, now: float) -> None:
        if self.stopping:
            if event.at_once:
                self._stop_now(now)
            return
        self.stopping = True
        self._log(
            "info",
            "stop",
            ("services", len(self.services)),
            ("live", len(self.conns)),
        )
        for key in self.listeners:
            self._out.append(cmd.CloseListener(key))
        self.listeners = {}
        services = list(self.services.values())
        everyone = [*self.leaving, *services]
        for service in services:
            # One by one: as long as one is left here, no other is the last to go.
            del self.services[service.name]
            self._drain(service, now)
        last = now
        for service in everyone:
            when = now + service.spec.stop
            last = max(last, when)
            self.deadlines.add(when, "stop", service)
        self.give_up_at = last + KILL_AFTER + GIVE_UP_AFTER
        self.deadlines.add(self.give_up_at, "give up", None)
        if not everyone:
            self._out.append(cmd.Exit(0))
        elif event.at_once:
            self._stop_now(now)

    def _stop_now(self, now: float) -> None:
        self.hasty = True
        for service in list(self.leaving):
            service.stop_stage = 1
            self._stop_stage(service, now)
            self._gone(service)
        self.deadlines.add(now + GIVE_UP_AFTER, "give up", None)

    def _stop_stage(self, service: Service, now: float) -> None:
        """TERM at the service's deadline, KILL a little later."""
        if service.state is not State.DRAINING or service.stop_stage > 1:
            return
        signal = ("TERM", "KILL")[service.stop_stage]
        service.stop_stage += 1
        if not service.conns:
            return
        self._log(
            "warning",
            "kill",
            ("service", service.name),
            ("signal", signal),
            ("live", len(service.conns)),
        )
        for number in sorted(service.conns):
            conn = self.conns[number]
            if conn.seat is not None:
                at = conn.seat
                self._out.append(cmd.Signal(at.launcher, number, signal, at.id))
            elif conn.launcher is not None:
                self._out.append(cmd.Signal(conn.launcher, number, signal))
        if service.stop_stage == 1:
            self.deadlines.add(now + KILL_AFTER, "stop", service)

    def _give_up(self) -> None:
        if not self.stopping:
            return
        for service in self.leaving:
            if service.conns:
                self._log(
                    "error",
                    "stop",
                    ("service", service.name),
                    ("left", len(service.conns)),
                )
        self._out.extend(cmd.KillLauncher(number) for number in sorted(self.launchers))
        self._out.append(cmd.Exit(0))
