"""Hold the channels to the workers of pools and loops: connections go, reports come.

A worker is its launcher's child and speaks with the same right: what it says is judged by
core/protocol.py, and a word that is not in the protocol ends its launcher and the channel.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from superd.core import commands as cmd
from superd.core import events as ev
from superd.core import protocol
from superd.master.launching import CHOKED
from superd.master.loop import READ, WRITE
from superd.master.outbox import MARK, Outbox

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from superd.core.supervisor import Supervisor
    from superd.master.eventlog import EventLog
    from superd.master.kernel import Kernel
    from superd.master.launching import LauncherProcess
    from superd.master.loop import Loop

AT_ONCE = 0.0
"""A time that has passed: at the end of this turn."""

SHORT_RETRY = 0.1
"""Seconds until what failed for want of memory or descriptors is tried again."""


class Seat(Outbox):
    """The master's end of the channel to one worker, and to the one after it."""

    __slots__ = (
        "choked",
        "launcher",
        "number",
        "one_by_one",
        "retiring",
        "service",
    )

    def __init__(
        self,
        kernel: Kernel,
        sock: socket.socket,
        command: cmd.AddSeat,
        launcher: LauncherProcess,
    ) -> None:
        # One by one: a record stays in the channel until its connection has ended.
        most = 1 if command.one_by_one else protocol.MAX_DATAGRAM
        super().__init__(kernel, sock, most)
        self.number = command.seat
        self.one_by_one = command.one_by_one
        self.launcher = launcher
        self.service = launcher.service
        self.choked = False
        self.retiring = False

    def receive(self) -> list[protocol.SeatReport] | None:
        """Take one datagram's reports; [] is the channel's end, None: nothing now.

        Raises ProtocolError for anything that is not in the protocol.
        """
        try:
            data = self.sock.recv(protocol.MAX_DATAGRAM)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            # It ended with something of ours unread; its last words come after this.
            return self.receive()
        except OSError:
            return []
        if not data:
            return []
        reports = protocol.parse_seat_reports(data)
        if not reports:
            raise protocol.ProtocolError("an empty datagram")
        return reports


class Seating:
    """What the Shell does for the seats of the core."""

    kernel: Kernel
    loop: Loop
    log: EventLog
    core: Supervisor
    conns: dict[int, socket.socket]
    launchers: dict[int, LauncherProcess]
    seats: dict[int, Seat]
    _dirty: set[int]
    _dirty_seats: set[int]

    if TYPE_CHECKING:

        def feed(self, event: ev.Event) -> None:
            """Tell the core what happened and do what it says."""

        def _note(self, launcher: LauncherProcess, text: str) -> None: ...

    def seat_commands(self) -> dict[type, Callable[..., None]]:
        """Name who performs which command."""
        return {
            cmd.AddSeat: self._add_seat,
            cmd.RetireSeat: self._retire_seat,
            cmd.MarkSeat: self._mark_seat,
            cmd.Look: self._look,
        }

    def _add_seat(self, command: cmd.AddSeat) -> None:
        launcher = self.launchers.get(command.launcher)
        number = command.seat
        if launcher is None:  # it could not even be started
            self._seat_lost(number)
            return
        try:
            ours, theirs = self.kernel.socketpair()
        except OSError as error:
            fields = (("service", launcher.service), ("text", f"seat: {error}"))
            self.log.write("warning", "note", fields)
            self._seat_lost(number)
            return
        ours.setblocking(False)
        seat = self.seats[number] = Seat(self.kernel, ours, command, launcher)
        self.loop.watch(ours.fileno(), READ, lambda events: self._attend(seat, events))
        launcher.put(f"seat {number}", theirs.detach(), close=True)
        self._dirty.add(launcher.number)

    def _seat_lost(self, number: int) -> None:
        self.loop.later(AT_ONCE, lambda: self.feed(ev.SeatGone(number)))

    def _retire_seat(self, command: cmd.RetireSeat) -> None:
        seat = self.seats.get(command.seat)
        if seat is not None and not seat.retiring:
            seat.retiring = True
            self._tell(seat, "retire")

    def _mark_seat(self, command: cmd.MarkSeat) -> None:
        seat = self.seats.get(command.seat)
        if seat is not None:
            self._tell(seat, MARK)

    def _tell(self, seat: Seat, record: str) -> None:
        seat.put(record)
        self._dirty_seats.add(seat.number)

    def _look(self, command: cmd.Look) -> None:
        launcher = self.launchers.get(command.launcher)
        if launcher is not None:
            conn = self.core.conns[command.conn]
            launcher.put(f"look {conn.id} {conn.host}")
            self._dirty.add(launcher.number)

    def _send_to_seat(self, command: cmd.Send) -> None:
        sock = self.conns.pop(command.conn)
        seat = self.seats.get(command.seat)
        if seat is None:  # SeatGone is on its way
            sock.close()
            return
        conn = self.core.conns[command.conn]
        seat.put(
            f"conn {conn.id} {command.number} {conn.host} {conn.port} {conn.name or '-'}",
            sock.detach(),
            close=True,
        )
        self._dirty_seats.add(seat.number)

    def _signal_seat(self, command: cmd.Signal) -> None:
        """Tell both: a loop's worker ends the connection, a pool's launcher the worker."""
        record = f"kill {command.conn} {command.signal}"
        seat = self.seats.get(command.seat)
        if seat is None:
            return
        if not seat.one_by_one:
            self._tell(seat, record)
        launcher = self.launchers.get(command.launcher)
        if launcher is not None:
            launcher.put(f"{record} {command.seat}")
            self._dirty.add(launcher.number)

    # -- what is heard ----------------------------------------------------------------

    def _attend(self, seat: Seat, events: int) -> None:
        if events & WRITE:
            self._flush_seat(seat)
        # What could not be sent may have been the end of it.
        if not events & READ or seat.number not in self.seats:
            return
        # One datagram: what else there is comes with the next turn, as with the others.
        try:
            reports = seat.receive()
        except protocol.ProtocolError as error:
            fields = (
                ("service", seat.service),
                ("launcher", seat.launcher.number),
                ("reason", f"a worker broke the protocol: {error}"),
            )
            self.log.write("error", "kill", fields)
            seat.launcher.kill()
            reports = []
        if reports is None:
            return
        if not reports:
            self._close_seat(seat)
            return
        for report in reports:
            self._seat_report(seat, report)

    def _seat_report(self, seat: Seat, report: protocol.SeatReport) -> None:
        number, launcher = seat.number, seat.launcher.number
        match report:
            case protocol.End(conn, signal, status, cpu):
                event = ev.Ended(launcher, conn, signal, status, cpu, True, number)
                self.feed(event)
            case protocol.Hello(pid):
                self.feed(ev.SeatTaken(number, pid))
            case protocol.Leave():
                self.feed(ev.SeatLeft(number))
            case protocol.Crash(signal, status):
                self.feed(ev.SeatCrashed(number, signal, status))
            case protocol.Kept(conns):
                self.feed(ev.SeatKept(number, conns))
            case protocol.Fail(conn, stage, text):
                self.feed(ev.NotStarted(launcher, conn, stage, text, number))
            case protocol.Note(text):
                self._note(seat.launcher, text)

    def _close_seat(self, seat: Seat) -> None:
        del self.seats[seat.number]
        self.loop.forget(seat.sock.fileno())
        seat.drop()
        seat.sock.close()
        if seat.choked:
            self._choke(seat.launcher)
        self.feed(ev.SeatGone(seat.number))

    # -- what is sent -----------------------------------------------------------------

    def _flush_seats(self) -> None:
        while self._dirty_seats:
            seat = self.seats.get(self._dirty_seats.pop())
            if seat is not None:
                self._flush_seat(seat)

    def _flush_seat(self, seat: Seat) -> None:
        tried = seat.short
        sent = seat.flush()
        if seat.short and not tried:
            # The channel may be writable all the while: watched for that, it would spin.
            self.loop.later(
                time.monotonic() + SHORT_RETRY, lambda: self._try_seat_again(seat)
            )
        full = not sent and not seat.short
        if full != seat.full:
            seat.full = full
            events = READ | WRITE if full else READ
            self.loop.change(
                seat.sock.fileno(), events, lambda events: self._attend(seat, events)
            )
        if seat.broken:
            seat.launcher.kill()  # what was dropped gets no report
            self._close_seat(seat)
            return
        choked = seat.waiting() >= CHOKED
        if choked != seat.choked:
            seat.choked = choked
            self._choke(seat.launcher)

    def _choke(self, launcher: LauncherProcess) -> None:
        """Tell whether it, or one of its workers, takes slower than what comes."""
        seats = [one for one in self.seats.values() if one.launcher is launcher]
        choked = launcher.choked or any(seat.choked for seat in seats)
        self.feed(ev.LauncherChoked(launcher.number, choked))

    def _try_seat_again(self, seat: Seat) -> None:
        seat.short = False
        self._dirty_seats.add(seat.number)
