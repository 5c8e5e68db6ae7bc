"""Seats: the places of the workers of a pool or a loop, and who gets which connection.

The part of the Supervisor that knows workers. A seat is a channel; its worker may die or
be renewed, and what was sent to the seat waits there for the next one. The rule of this
file: a dead worker costs what it had begun and nothing else. What it had begun is what is
not in the channel any more: so its launcher, asked by a mark behind all that was sent
before, says what is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from superd.core import commands as cmd
from superd.core import events as ev
from superd.core.tables import Seat

if TYPE_CHECKING:
    from superd.core.tables import Conn, Deadlines, Launcher, Service

SHRINK_AFTER = 30.0
"""Seconds without a connection after which a worker above `workers` leaves: long against
the pauses of a busy hour, short against a day of idle memory."""

REFILL_AFTER = 1.0
"""Seconds until a seat whose channel could not be made, or was lost, is made anew."""

NO_WORKER = "its worker could not be started"


class Seats:
    """What the Supervisor does about the workers of pools and loops."""

    seats: dict[int, Seat]
    launchers: dict[int, Launcher]
    conns: dict[int, Conn]
    deadlines: Deadlines
    _seats_made: int
    _out: list[cmd.Command]

    if TYPE_CHECKING:

        def _log_accept(self, conn: Conn) -> None: ...
        def _throttle(self, service: Service, now: float, reason: str) -> None: ...
        def _log_lost(self, conn: Conn, reason: str) -> None: ...
        def _log_unknown_end(self, conn: Conn, now: float) -> None: ...
        def _expect_answer(self, launcher: Launcher, conn: int, now: float) -> None: ...
        def _finish(self, conn: Conn, now: float) -> None: ...
        def _ended(self, event: ev.Ended, now: float) -> None: ...
        def _conn_of(self, launcher: int, number: int, seat: int) -> Conn | None: ...
        def _after_end(self, service: Service, now: float) -> None: ...

    # -- a connection's way -----------------------------------------------------------

    def _seat(self, conn: Conn, launcher: Launcher, now: float) -> None:
        """Give a connection to a worker: to one with nothing to do, or the least."""
        seat = self._pick(launcher)
        conn.seat = seat
        seat.conns[conn.id] = None
        if seat.pid is None:
            self._expect_answer(launcher, conn.id, now)
        else:
            self._begin(conn, seat.pid)
        self._out.append(cmd.Send(launcher.id, conn.id, conn.number, seat.id))

    def _begin(self, conn: Conn, pid: int) -> None:
        conn.pid = pid
        self._log_accept(conn)

    def _pick(self, launcher: Launcher) -> Seat:
        if launcher.spec.mode == "pool":
            if launcher.free:
                return launcher.free.pop()
            if len(launcher.seats) < launcher.spec.max_workers:
                seat = self._add_seat(launcher)
                launcher.free.remove(seat)
                return seat
        if not launcher.seats:  # none could be made
            return self._add_seat(launcher)
        if launcher.spec.mode == "pool":
            return min(launcher.seats, key=_queue)
        return min(launcher.seats, key=_load)

    def _add_seats(self, launcher: Launcher) -> None:
        """Have `workers`; none where a process is started for each connection."""
        for _ in range(launcher.spec.workers - len(launcher.seats)):
            self._add_seat(launcher)

    def _refill(self, number: int) -> None:
        launcher = self.launchers.get(number)
        if launcher is not None and not launcher.retired:
            self._add_seats(launcher)

    def _add_seat(self, launcher: Launcher) -> Seat:
        self._seats_made += 1
        seat = Seat(self._seats_made, launcher.id, launcher.service)
        self.seats[seat.id] = seat
        launcher.seats.append(seat)
        launcher.free.append(seat)
        one_by_one = launcher.spec.mode == "pool"
        self._out.append(cmd.AddSeat(launcher.id, seat.id, one_by_one))
        return seat

    def _free(self, seat: Seat, now: float) -> None:
        """Note that a seat has nothing to do any more."""
        launcher = self.launchers.get(seat.launcher)
        if launcher is None or seat.retired or seat.pid is None:
            return
        if launcher.spec.mode != "pool":
            return
        seat.idle_since = now
        launcher.free.append(seat)
        if len(launcher.seats) > launcher.spec.workers:
            self._shrink_at(launcher, now + SHRINK_AFTER)

    def _named(self, event: ev.Named, now: float) -> None:
        conn = self._conn_of(event.launcher, event.conn, 0)
        if conn is None or not conn.host:
            return
        launcher = self.launchers[event.launcher]
        if not launcher.spec.workers:
            return
        launcher.unanswered.pop(conn.id, None)
        conn.name = event.name
        self._seat(conn, launcher, now)

    def _seat_nameless(self, launcher: Launcher, now: float) -> None:
        """Seat who waits for a name while there are seats: a name is a comfort."""
        if not launcher.spec.workers:
            return
        for number in sorted(launcher.conns):
            conn = self.conns[number]
            if conn.seat is None and conn.host:
                launcher.unanswered.pop(number, None)
                self._seat(conn, launcher, now)

    # -- workers come and go ----------------------------------------------------------

    def _seat_taken(self, event: ev.SeatTaken, now: float) -> None:
        seat = self.seats.get(event.seat)
        if seat is None or seat.crash is not None:
            return
        before = seat.pid
        seat.pid = event.pid
        launcher = self.launchers.get(seat.launcher)
        for number in seat.conns:
            conn = self.conns[number]
            if launcher is not None:
                launcher.unanswered.pop(number, None)
            if conn.pid is None:
                self._begin(conn, event.pid)
            else:
                conn.pid = event.pid
        known = before is not None or launcher is None or seat in launcher.free
        if not seat.conns and not known:
            self._free(seat, now)

    def _seat_left(self, event: ev.SeatLeft, _now: float) -> None:
        seat = self.seats.get(event.seat)
        if seat is not None:
            self._vacate(seat)

    def _vacate(self, seat: Seat) -> None:
        seat.pid = None
        launcher = self.launchers.get(seat.launcher)
        if launcher is not None and seat in launcher.free:
            launcher.free.remove(seat)

    def _seat_crashed(self, event: ev.SeatCrashed, _now: float) -> None:
        seat = self.seats.get(event.seat)
        if seat is None or seat.crash is not None:
            return
        self._vacate(seat)
        seat.crash = (event.signal, event.status)
        seat.doubtful = frozenset(seat.conns)
        self._out.append(cmd.MarkSeat(seat.id))

    def _seat_kept(self, event: ev.SeatKept, now: float) -> None:
        seat = self.seats.get(event.seat)
        if seat is None or seat.crash is None:
            return
        signal, status = seat.crash
        lost = seat.doubtful.difference(event.conns)
        seat.crash, seat.doubtful = None, frozenset()
        for number in [one for one in seat.conns if one in lost]:
            self._ended(
                ev.Ended(
                    seat.launcher, number, signal, status, None, True, seat=seat.id
                ),
                now,
            )
        # What is kept, and what came meanwhile, waits for the next worker: not for ever.
        launcher = self.launchers.get(seat.launcher)
        if launcher is not None and seat.pid is None:
            for number in seat.conns:
                self._expect_answer(launcher, number, now)

    def _seat_gone(self, event: ev.SeatGone, now: float) -> None:
        seat = self.seats.pop(event.seat, None)
        if seat is None:
            return
        expected = seat.retired
        self._withdraw(seat)
        if not expected:
            self.deadlines.add(now + REFILL_AFTER, "refill", seat.launcher)
        lost = 0
        for number in list(seat.conns):
            conn = self.conns[number]
            if conn.pid is None:
                lost += 1
                self._log_lost(conn, NO_WORKER)
            else:
                self._log_unknown_end(conn, now)
            self._finish(conn, now)
        if lost and not expected:
            # Who comes next would meet the same: the backlog keeps them meanwhile.
            self._throttle(seat.service, now, NO_WORKER)
        self._after_end(seat.service, now)

    # -- fewer ------------------------------------------------------------------------

    def _withdraw(self, seat: Seat) -> None:
        """Give a seat no further connection."""
        seat.retired = True
        launcher = self.launchers.get(seat.launcher)
        if launcher is None:
            return
        if seat in launcher.seats:
            launcher.seats.remove(seat)
        if seat in launcher.free:
            launcher.free.remove(seat)

    def _retire_seat(self, seat: Seat) -> None:
        if not seat.retired:
            self._withdraw(seat)
            self._out.append(cmd.RetireSeat(seat.id))

    def _retire_seats(self, launcher: Launcher) -> None:
        for seat in list(launcher.seats):
            self._retire_seat(seat)

    def _shrink_at(self, launcher: Launcher, when: float) -> None:
        # One deadline for each launcher, not one for each connection.
        if not launcher.shrink_due:
            launcher.shrink_due = True
            self.deadlines.add(when, "shrink", launcher.id)

    def _shrink(self, number: int, now: float) -> None:
        launcher = self.launchers.get(number)
        if launcher is None:
            return
        launcher.shrink_due = False
        spare = len(launcher.seats) - launcher.spec.workers
        idle = sorted(launcher.free, key=lambda seat: seat.idle_since)
        for seat in idle[: max(0, spare)]:
            if now < seat.idle_since + SHRINK_AFTER:
                self._shrink_at(launcher, seat.idle_since + SHRINK_AFTER)
                return
            self._retire_seat(seat)


def _load(seat: Seat) -> tuple[bool, int]:
    return seat.pid is None, len(seat.conns)


def _queue(seat: Seat) -> tuple[int, bool]:
    # A worker that is about to start is soon there; one with a connection may never be.
    return len(seat.conns), seat.pid is None
