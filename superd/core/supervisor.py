"""Decide everything: take one event, return the commands that it leads to.

The rule of this file: it is a function of its tables, the event and `now`. Policy for a
single number is elsewhere (admission, throttle); here is who does what next. `_reconcile`
compares what should be polled with what is: every change of state just calls it, so that
no place can forget to pause or to resume.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from superd.core import commands as cmd
from superd.core import events as ev
from superd.core.admission import Reason, Verdict
from superd.core.exitcodes import describe, effect_of
from superd.core.launchers import Launchers
from superd.core.lifecycle import State, Step
from superd.core.seats import Seats
from superd.core.source import source_of, unmap
from superd.core.stopping import Stopping
from superd.core.tables import (
    Conn,
    Deadlines,
    Launcher,
    Listener,
    Seat,
    Service,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ACCEPT_PAUSE = 0.25
"""Seconds a listener is not polled after EMFILE and its like: between sshd's 100 ms and
nginx's 500 ms; short against a human's patience, long against a spin."""


class Supervisor(Launchers, Seats, Stopping):
    """The tables of the running generation and the rules that change them."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.leaving: list[Service] = []
        self.listeners: dict[str, Listener] = {}
        self.launchers: dict[int, Launcher] = {}
        self.seats: dict[int, Seat] = {}
        self.conns: dict[int, Conn] = {}
        self.deadlines = Deadlines()
        self.generation = 0
        self.stopping = False
        self.hasty = False
        self.give_up_at: float | None = None
        self._launchers_made = 0
        self._seats_made = 0
        self._out: list[cmd.Command] = []
        self._on: dict[type, Callable[..., None]] = {
            ev.Accepted: self._accepted,
            ev.AcceptFailed: self._accept_failed,
            ev.Readable: self._readable,
            ev.LauncherReady: self._launcher_ready,
            ev.LauncherRefused: self._launcher_refused,
            ev.LauncherGone: self._launcher_gone,
            ev.LauncherChoked: self._launcher_choked,
            ev.Started: self._started,
            ev.NotStarted: self._not_started,
            ev.Ended: self._ended,
            ev.Named: self._named,
            ev.SeatTaken: self._seat_taken,
            ev.SeatLeft: self._seat_left,
            ev.SeatCrashed: self._seat_crashed,
            ev.SeatKept: self._seat_kept,
            ev.SeatGone: self._seat_gone,
            ev.OrphanGone: self._orphan_gone,
            ev.Reloaded: self._reloaded,
            ev.StopAsked: self._stop_asked,
        }

    def handle(self, event: ev.Event, now: float) -> list[cmd.Command]:
        """Take one event; returns what the shell must do, in this order."""
        self._on[type(event)](event, now)
        return self._flush()

    def tick(self, now: float) -> list[cmd.Command]:
        """Act on every deadline that has passed."""
        for kind, key in self.deadlines.due(now):
            if kind == "release":
                self._release(key, now)
            elif kind == "resume":
                self._resume(key, now)
            elif kind == "idle":
                self._idle(key, now)
            elif kind == "ready":
                self._late(key)
            elif kind == "answer":
                self._answers(key, now)
            elif kind == "stop":
                self._stop_stage(key, now)
            elif kind == "shrink":
                self._shrink(key, now)
            elif kind == "refill":
                self._refill(key)
            else:
                self._give_up()
        return self._flush()

    def next_deadline(self) -> float | None:
        """When `tick` must be called at the latest."""
        return self.deadlines.next()

    def _flush(self) -> list[cmd.Command]:
        out, self._out = self._out, []
        return out

    def _log(self, level: str, verb: str, *fields: tuple[str, object]) -> None:
        self._out.append(cmd.Log(level, verb, fields))

    # -- connections ------------------------------------------------------------------

    def _accepted(self, event: ev.Accepted, now: float) -> None:
        listener = self.listeners[event.listener]
        service = listener.service
        host = unmap(event.host)
        limits = service.spec.limits
        source = source_of(host, limits.ipv4_prefix, limits.ipv6_prefix)
        conn = Conn(event.conn, service, event.listener, now)
        conn.host, conn.port = host, event.port
        verdict = service.admission.decide(source)
        if isinstance(verdict, Reason):
            self._refuse(conn, verdict)
            return
        self.conns[conn.id] = conn
        conn.source = source
        if verdict is Verdict.WAIT:
            service.admission.park(source, conn.id)
        else:
            self._admit(conn, now)
        self._reconcile(service, now)

    def _admit(self, conn: Conn, now: float) -> None:
        service = conn.service
        assert conn.source is not None
        conn.number = service.admission.take(conn.source)
        launcher = self._launcher_for(service, now)
        self._attach(conn, launcher)
        if service.spec.workers and not (
            service.spec.resolve and not conn.host.startswith("unix:")
        ):
            self._seat(conn, launcher, now)
            return
        self._expect_answer(launcher, conn.id, now)
        if service.spec.workers:
            self._out.append(cmd.Look(launcher.id, conn.id))
        else:
            self._out.append(cmd.Send(launcher.id, conn.id, conn.number))

    def _attach(self, conn: Conn, launcher: Launcher) -> None:
        conn.launcher = launcher.id
        conn.service.conns.add(conn.id)
        launcher.conns.add(conn.id)
        launcher.idle_at = None

    def _refuse(self, conn: Conn, reason: Reason) -> None:
        service = conn.service
        limits = service.spec.limits
        used = {
            Reason.SERVICE_LIMIT: f"{service.admission.live}/{limits.connections}",
            Reason.SOURCE_LIMIT: f"{limits.per_source}/{limits.per_source}",
            Reason.WAITING_LIMIT: f"{limits.connections}/{limits.connections}",
        }.get(reason, "-")
        self._log(
            "info",
            "refuse",
            ("service", service.name),
            ("conn", conn.id),
            ("peer", conn.peer()),
            ("reason", reason.value),
            ("used", used),
        )
        self._out.append(cmd.Refuse(conn.id, limits.message))

    def _accept_failed(self, event: ev.AcceptFailed, now: float) -> None:
        listener = self.listeners[event.listener]
        until = now + ACCEPT_PAUSE
        if listener.paused_until is None:
            self._log(
                "warning",
                "throttle",
                ("service", listener.service.name),
                ("listener", listener.key),
                ("reason", event.error),
                ("delay", ACCEPT_PAUSE),
            )
        listener.paused_until = until
        self.deadlines.add(until, "resume", listener.key)
        self._reconcile(listener.service, now)

    def _resume(self, key: str, now: float) -> None:
        listener = self.listeners.get(key)
        if listener is None or listener.paused_until is None:
            return
        if now >= listener.paused_until:
            listener.paused_until = None
            self._reconcile(listener.service, now)

    def _readable(self, event: ev.Readable, now: float) -> None:
        listener = self.listeners[event.listener]
        service = listener.service
        conn = Conn(event.conn, service, listener.key, now)
        self.conns[conn.id] = conn
        launcher = self._launcher_for(service, now)
        self._attach(conn, launcher)
        listener.lent = conn.id
        verb = "serve" if listener.kind == "datagram" else "wait"
        if verb == "wait":  # a datagram handler is started already
            self._expect_answer(launcher, conn.id, now)
        self._out.append(cmd.Lend(launcher.id, conn.id, listener.key, verb))
        self._reconcile(service, now)

    def _started(self, event: ev.Started, _now: float) -> None:
        conn = self._conn_of(event.launcher, event.conn)
        if conn is None or conn.pid is not None:
            return
        self.launchers[event.launcher].unanswered.pop(conn.id, None)
        conn.pid = event.pid
        conn.name = event.name
        self._log_accept(conn)

    def _log_accept(self, conn: Conn) -> None:
        fields: list[tuple[str, object]] = [
            ("service", conn.service.name),
            ("conn", conn.id),
            conn.far_end(),
        ]
        if conn.name:
            fields.append(("name", conn.name))
        fields.append(("pid", conn.pid))
        self._log("info", "accept" if conn.host else "spawn", *fields)

    def _not_started(self, event: ev.NotStarted, now: float) -> None:
        conn = self._conn_of(event.launcher, event.conn, event.seat)
        if conn is None:
            return
        service = conn.service
        reason = f"{event.stage}: {event.error}"
        self._log_lost(conn, reason)
        self._finish(conn, now)
        self._throttle(service, now, reason)
        self._after_end(service, now)

    def _ended(self, event: ev.Ended, now: float) -> None:
        conn = self._conn_of(event.launcher, event.conn, event.seat)
        if conn is None:
            return
        service = conn.service
        fields: list[tuple[str, object]] = [
            ("service", service.name),
            ("conn", conn.id),
            conn.far_end(),
            ("pid", conn.pid or "-"),
            ("status", describe(event.signal, event.status)),
            ("duration", round(now - conn.since, 3)),
        ]
        if event.cpu is not None:
            fields.append(("cpu", round(event.cpu, 3)))
        self._log("info", "end", *fields)
        self._finish(conn, now)
        effect = effect_of(event.signal, event.status)
        if not event.progress:
            self._throttle(service, now, "the program ended and took nothing")
        elif effect == "throttle":
            self._throttle(service, now, describe(event.signal, event.status))
        elif effect == "plain":
            delay = service.throttle.plain(now)
            if delay is not None:
                self._throttled(service, delay, describe(event.signal, event.status))
        elif effect == "success":
            service.throttle.success()
        self._after_end(service, now)

    def _orphan_gone(self, event: ev.OrphanGone, now: float) -> None:
        conn = self.conns.get(event.conn)
        # A connection that waits for its source has no launcher either, and no slot.
        if conn is None or conn.launcher is not None or conn.pid is None:
            return
        if conn.seat is not None:
            return
        self._log_unknown_end(conn, now)
        self._finish(conn, now)
        self._after_end(conn.service, now)

    def _log_unknown_end(self, conn: Conn, now: float) -> None:
        self._log(
            "info",
            "end",
            ("service", conn.service.name),
            ("conn", conn.id),
            conn.far_end(),
            ("pid", conn.pid or "-"),
            ("status", "unknown"),
            ("duration", round(now - conn.since, 3)),
        )

    def _conn_of(self, launcher: int, number: int, seat: int = 0) -> Conn | None:
        """Find a connection by a launcher's or worker's word.

        Which may be a lie about another's.
        """
        conn = self.conns.get(number)
        if conn is None:
            return None
        if conn.seat is not None:
            return conn if conn.seat.id == seat else None
        return conn if not seat and conn.launcher == launcher else None

    def _finish(self, conn: Conn, now: float) -> None:
        """Take a connection out of every table: the one place where a slot is freed."""
        del self.conns[conn.id]
        service = conn.service
        service.conns.discard(conn.id)
        if conn.launcher is not None:
            launcher = self.launchers[conn.launcher]
            launcher.conns.discard(conn.id)
            launcher.unanswered.pop(conn.id, None)
        if conn.seat is not None:
            del conn.seat.conns[conn.id]
            if not conn.seat.conns:
                self._free(conn.seat, now)
        if conn.source is not None:
            service.admission.give(conn.source)
            return
        listener = self.listeners.get(conn.listener)
        if listener is not None and listener.lent == conn.id:
            listener.lent = None
            if listener.service is not service:  # a reload moved it meanwhile
                self._reconcile(listener.service, now)

    def _after_end(self, service: Service, now: float) -> None:
        """Use what an end has freed: the slot, the launcher's time, the lent listener."""
        self._admit_waiting(service, now)
        self._rest(service, now)
        self._reconcile(service, now)
        self._gone(service)

    def _admit_waiting(self, service: Service, now: float) -> None:
        if service.state is State.THROTTLED or service.state is State.DRAINING:
            return
        while (number := service.admission.next_waiting()) is not None:
            self._admit(self.conns[number], now)

    # -- polling ----------------------------------------------------------------------

    def _reconcile(self, service: Service, now: float) -> None:
        """Poll what should be polled and nothing else; may be called at any time."""
        if service.state is State.LISTENING and not service.admission.wants_poll():
            service.take(Step.FULL)
        elif service.state is State.FULL and service.admission.wants_poll():
            service.take(Step.ROOM)
        open_ = service.state is State.LISTENING and not service.choked
        for spec in service.spec.listeners:
            listener = self.listeners.get(spec.key)
            if listener is None or listener.service is not service:
                continue
            want = (
                open_
                and listener.lent is None
                and (listener.paused_until is None or now >= listener.paused_until)
            )
            if want != listener.polled:
                listener.polled = want
                self._out.append(
                    cmd.Poll(listener.key) if want else cmd.Unpoll(listener.key)
                )

    def _throttle(self, service: Service, now: float, reason: str) -> None:
        # What fails while a throttle runs was started before it, and is one with it.
        known = not service.throttle.is_over(now)
        delay = service.throttle.structural(now)
        if not known:
            self._throttled(service, delay, reason)
        self._reconcile(service, now)
        self._gone(service)

    def _log_lost(self, conn: Conn, reason: str) -> None:
        """Say what became of a connection that was accepted and got no handler."""
        self._log(
            "info",
            "refuse",
            ("service", conn.service.name),
            ("conn", conn.id),
            conn.far_end(),
            ("reason", reason),
        )

    def _throttled(self, service: Service, delay: float, reason: str) -> None:
        if service.state is State.DRAINING or service.state is State.STOPPED:
            return
        service.take(Step.THROTTLE)
        assert service.throttle.until is not None
        self.deadlines.add(service.throttle.until, "release", service)
        self._log(
            "warning",
            "throttle",
            ("service", service.name),
            ("reason", reason),
            ("delay", round(delay, 3)),
            ("place", service.spec.place),
        )

    def _release(self, service: Service, now: float) -> None:
        if service.state is not State.THROTTLED or not service.throttle.is_over(now):
            return
        service.take(Step.RELEASE)
        self._log("info", "release", ("service", service.name))
        if service.spec.warm:
            self._launcher_for(service, now)
        self._admit_waiting(service, now)
        self._reconcile(service, now)
