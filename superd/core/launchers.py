"""Launchers: start one, take its word, lose it, let it go.

The part of the Supervisor that knows processes. The rule of this file: a launcher that
ends takes with it only what it had not started; a handler that runs keeps its slot until
it has ended, whoever watches it then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from superd.core import commands as cmd
from superd.core.tables import Launcher

if TYPE_CHECKING:
    from superd.core import events as ev
    from superd.core.tables import Conn, Deadlines, Service

READY_DEADLINE = 20.0
"""Seconds a launcher may take to become its service: an import from a cold disk."""

ANSWER_DEADLINE = 30.0
"""Seconds from a connection to the start of its handler: the resolver's 2 and a full
queue are far less. A launcher that is stopped, or hangs in an exec (a dead file server),
would otherwise keep its connections, and their peers, for ever."""


class Launchers:
    """What the Supervisor does about the processes that start handlers."""

    launchers: dict[int, Launcher]
    conns: dict[int, Conn]
    deadlines: Deadlines
    stopping: bool
    _launchers_made: int
    _out: list[cmd.Command]

    if TYPE_CHECKING:

        def _log(self, level: str, verb: str, *fields: tuple[str, object]) -> None: ...
        def _reconcile(self, service: Service, now: float) -> None: ...
        def _throttle(self, service: Service, now: float, reason: str) -> None: ...
        def _log_lost(self, conn: Conn, reason: str) -> None: ...
        def _finish(self, conn: Conn, now: float) -> None: ...
        def _after_end(self, service: Service, now: float) -> None: ...
        def _add_seats(self, launcher: Launcher) -> None: ...
        def _retire_seats(self, launcher: Launcher) -> None: ...
        def _seat_nameless(self, launcher: Launcher, now: float) -> None: ...

    def _launcher_for(self, service: Service, now: float) -> Launcher:
        if service.launcher is not None:
            return self.launchers[service.launcher]
        self._launchers_made += 1
        launcher = Launcher(self._launchers_made, service)
        self.launchers[launcher.id] = launcher
        service.launcher = launcher.id
        self._out.append(cmd.StartLauncher(launcher.id, service.name))
        self.deadlines.add(now + READY_DEADLINE, "ready", launcher.id)
        self._add_seats(launcher)
        return launcher

    def _launcher_ready(self, event: ev.LauncherReady, _now: float) -> None:
        launcher = self.launchers.get(event.launcher)
        if launcher is not None:
            launcher.state = "ready"

    def _late(self, number: int) -> None:
        launcher = self.launchers.get(number)
        if launcher is None or launcher.state != "starting":
            return
        self._end(launcher, f"not ready after {READY_DEADLINE:g} s")

    def _end(self, launcher: Launcher, reason: str) -> None:
        """End a launcher that does not do its part; the rest follows from its end."""
        self._log(
            "error",
            "kill",
            ("service", launcher.service.name),
            ("launcher", launcher.id),
            ("reason", reason),
        )
        self._out.append(cmd.KillLauncher(launcher.id))

    def _expect_answer(self, launcher: Launcher, conn: int, now: float) -> None:
        """Start to wait for the start of a handler."""
        launcher.unanswered[conn] = now
        # One deadline for each launcher, and not one for each start.
        if not launcher.answer_due:
            launcher.answer_due = True
            self.deadlines.add(now + ANSWER_DEADLINE, "answer", launcher.id)

    def _answers(self, number: int, now: float) -> None:
        """End a launcher that was given a connection long ago and says nothing of it."""
        launcher = self.launchers.get(number)
        if launcher is None:
            return
        launcher.answer_due = False
        if not launcher.unanswered:
            return
        due = next(iter(launcher.unanswered.values())) + ANSWER_DEADLINE
        if now < due:
            launcher.answer_due = True
            self.deadlines.add(due, "answer", number)
            return
        self._end(launcher, f"no answer for {ANSWER_DEADLINE:g} s")

    def _launcher_refused(self, event: ev.LauncherRefused, _now: float) -> None:
        launcher = self.launchers.get(event.launcher)
        if launcher is None:
            return
        self._log(
            "error",
            "throttle",
            ("service", launcher.service.name),
            ("launcher", event.launcher),
            ("reason", f"{event.stage}: {event.error}"),
            ("place", launcher.service.spec.place),
        )

    def _launcher_choked(self, event: ev.LauncherChoked, now: float) -> None:
        launcher = self.launchers.get(event.launcher)
        if launcher is not None and launcher.service.launcher == launcher.id:
            launcher.service.choked = event.choked
            self._reconcile(launcher.service, now)

    def _launcher_gone(self, event: ev.LauncherGone, now: float) -> None:
        launcher = self.launchers.get(event.launcher)
        if launcher is None:
            return
        service = launcher.service
        for number in sorted(launcher.conns):
            conn = self.conns[number]
            if conn.seat is not None:
                # Its worker lives on, or its channel tells of the end (_seat_gone).
                conn.launcher = None
            elif conn.pid is None:
                self._log_lost(conn, f"launcher ended: {event.status}")
                self._out.append(cmd.Close(number))
                self._finish(conn, now)
            else:
                conn.launcher = None
                self._out.append(cmd.WatchOrphan(number, conn.pid))
        self._retire_seats(launcher)
        del self.launchers[launcher.id]
        expected = launcher.retired or self.stopping
        self._log(
            "debug" if expected else "error",
            "reap",
            ("service", service.name),
            ("launcher", launcher.id),
            ("status", event.status),
        )
        if service.launcher == launcher.id:
            service.launcher = None
            service.choked = False
        if not expected:
            self._throttle(service, now, f"launcher ended: {event.status}")
        self._after_end(service, now)

    # -- idle -------------------------------------------------------------------------

    def _rest(self, service: Service, now: float) -> None:
        """Let a launcher without a handler end after a while; called when it has none."""
        launcher = self.launchers.get(service.launcher or 0)
        if launcher is None or launcher.conns or service.spec.warm:
            return
        launcher.idle_at = now + service.spec.launcher_idle
        # One deadline for each launcher and not one for each end: a thousand short
        # connections a second would leave as many, and each for launcher_idle seconds.
        if launcher.idle_due is None or launcher.idle_at < launcher.idle_due:
            self._look_at(launcher, launcher.idle_at)

    def _look_at(self, launcher: Launcher, when: float) -> None:
        launcher.idle_due = when
        self.deadlines.add(when, "idle", launcher.id)

    def _retire(self, service: Service, now: float) -> None:
        """Let the current launcher finish; the next connection gets a new one."""
        if service.launcher is None:
            return
        launcher = self.launchers[service.launcher]
        self._seat_nameless(launcher, now)
        launcher.retired = True
        service.launcher = None
        service.choked = False
        self._retire_seats(launcher)
        self._out.append(cmd.RetireLauncher(launcher.id))

    def _idle(self, number: int, now: float) -> None:
        launcher = self.launchers.get(number)
        if launcher is None or launcher.idle_due is None or now < launcher.idle_due:
            return
        launcher.idle_due = None
        service = launcher.service
        if launcher.idle_at is None or launcher.retired or service.spec.warm:
            return
        if now < launcher.idle_at:  # it has worked since
            self._look_at(launcher, launcher.idle_at)
        else:
            self._retire(service, now)
            self._reconcile(service, now)  # a choked launcher chokes nobody now
