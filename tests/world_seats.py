"""Play the workers of pools and loops to a core: the part of the World that has seats.

A Place is a seat as its launcher and its worker know it: what is in the channel, what was
begun, who died. Here as well nothing is believed of the core's tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from superd.core import commands as cmd
from superd.core import events as ev

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from superd.core.spec import ServiceSpec

    Pick = Callable[[Sequence[Any]], Any]

STATUSES = [0, 0, 0, 0, 1, 1, 100, 101, 110, 111, 112, 7]


@dataclass
class Peer:
    """One connection (or lending), and how far it has come."""

    serial: int
    host: str
    fate: str = "new"
    launcher: int = 0
    seat: int = 0
    number: int = 0
    """How many of its source had a slot when it got its own, itself included."""
    crowd: int = 0
    """How many of these the core may have heard of as still there."""

    @property
    def is_live(self) -> bool:
        """It holds a slot."""
        live = ("sent", "started", "orphan", "looked up", "seated")
        return self.fate in live and bool(self.host)


@dataclass
class Process:
    """One launcher."""

    serial: int
    spec: ServiceSpec
    retired: bool = False
    ready: bool = False


@dataclass
class Place:
    """One seat: its channel, and the worker on it if there is one."""

    launcher: int
    one_by_one: bool
    worker: int | None = None
    crashed: bool = False
    """Its worker's death was told, and the mark is not read yet."""
    retired: bool = False
    channel: list[int | str] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)

    def conns(self) -> list[int]:
        """Name what was given to it and has not ended."""
        return [*self.begun, *(one for one in self.channel if isinstance(one, int))]

    def is_idle(self) -> bool:
        """It has a worker, and that has nothing to do."""
        return self.worker is not None and not self.conns()


def any_mode(pick: Pick, kind: str) -> dict[str, Any]:
    """Choose a mode for listeners of this kind, and the workers that it has."""
    if kind != "stream":
        return {"mode": "wait" if kind == "wait" else "process"}
    mode = pick(["process", "pool", "loop", "pool"])
    workers = 0 if mode == "process" else pick([1, 1, 2])
    return {
        "mode": mode,
        "workers": workers,
        "max_workers": workers + (pick([0, 1, 2]) if mode == "pool" else 0),
        "resolve": pick([False, False, True]),
    }


class Workers:
    """What the World knows of seats."""

    seats: dict[int, Place]
    peers: dict[int, Peer]
    launchers: dict[int, Process]
    looks: list[tuple[int, int]]
    """Who is looked up: launcher and connection."""
    pids: int
    crowd: int
    """How many ends one event tells of: the core takes them one by one."""

    if TYPE_CHECKING:

        def tell(self, event: ev.Event) -> None: ...
        def _end(self, conn: int, fate: str) -> None: ...
        def _admitted(self, peer: Peer) -> None: ...

    # -- what the core says -----------------------------------------------------------

    def _on_look(self, command: cmd.Look) -> None:
        peer, launcher = self.peers[command.conn], self.launchers[command.launcher]
        assert peer.fate == "new"
        assert launcher.spec.resolve
        assert not launcher.retired
        peer.fate, peer.launcher = "looked up", command.launcher
        self.looks.append((command.launcher, command.conn))
        self._admitted(peer)

    def _on_addseat(self, command: cmd.AddSeat) -> None:
        launcher = self.launchers[command.launcher]
        assert command.seat not in self.seats
        assert not launcher.retired, "a worker for a launcher that goes"
        spec = launcher.spec
        assert command.one_by_one == (spec.mode == "pool")
        open_ = self._open_seats(command.launcher)
        assert len(open_) < max(spec.workers, spec.max_workers), "too many workers"
        if len(open_) >= spec.workers:
            assert not any(one.is_idle() for one in open_), "and one has nothing to do"
        self.seats[command.seat] = Place(command.launcher, command.one_by_one)

    def _open_seats(self, launcher: int) -> list[Place]:
        return [
            place
            for place in self.seats.values()
            if place.launcher == launcher and not place.retired
        ]

    def _seat_peer(self, command: cmd.Send) -> None:
        """Take what goes to a seat; the best one there was."""
        peer, place = self.peers[command.conn], self.seats[command.seat]
        assert place.launcher == command.launcher
        assert not place.retired
        others = self._open_seats(command.launcher)
        if place.one_by_one and place.conns():
            assert not any(one.is_idle() for one in others), "one has nothing to do"
            spec = self.launchers[command.launcher].spec
            assert len(others) >= spec.max_workers, "there could be one more"
            assert len(place.conns()) == min(len(one.conns()) for one in others)
        elif not place.one_by_one:
            able = [one for one in others if one.worker is not None] or others
            assert place in able, "another one has a worker"
            assert len(place.conns()) == min(len(one.conns()) for one in able)
        peer.fate, peer.seat = "seated", command.seat
        place.channel.append(command.conn)

    def _on_retireseat(self, command: cmd.RetireSeat) -> None:
        place = self.seats[command.seat]
        assert not place.retired, "retired twice"
        place.retired = True
        place.channel.append("retire")

    def _on_markseat(self, command: cmd.MarkSeat) -> None:
        assert self.seats[command.seat].crashed, "a mark for the living"
        assert "mark" not in self.seats[command.seat].channel
        self.seats[command.seat].channel.append("mark")

    # -- what happens -----------------------------------------------------------------

    def name(self, pick: Pick) -> None:
        """Let a launcher find a name, even one that nobody waits for any more."""
        if self.looks:
            look = pick(self.looks)
            self.looks.remove(look)
            self.tell(ev.Named(*look, pick(["", "host.example"])))
            peer = self.peers[look[1]]
            assert peer.fate != "looked up", "named, and nobody serves it"

    def sit(self, pick: Pick) -> None:
        """Let a launcher fork a worker for a seat that has none."""
        free = [
            number
            for number, place in self.seats.items()
            if place.worker is None
            and not place.crashed
            and place.launcher in self.launchers
            and self.launchers[place.launcher].ready
        ]
        if free:
            number = pick(free)
            self.pids += 1
            self.seats[number].worker = self.pids
            self.tell(ev.SeatTaken(number, self.pids))

    def _manned(self) -> list[int]:
        return [n for n, place in self.seats.items() if place.worker is not None]

    def take(self, pick: Pick) -> None:
        """Let a worker take what is in its channel."""
        if not (manned := self._manned()):
            return
        number = pick(manned)
        place = self.seats[number]
        while place.channel and not (place.one_by_one and place.begun):
            if place.channel[0] == "retire" and place.begun:
                return
            record = place.channel.pop(0)
            if record == "retire":
                assert not place.channel, "something behind the last record"
                self.lose_seat(number)
                return
            assert isinstance(record, int), "a mark is its launcher's"
            place.begun.append(record)

    def serve(self, pick: Pick) -> None:
        """Let a worker be done with a connection, and perhaps with its life."""
        busy = [n for n in self._manned() if self.seats[n].begun]
        if not busy:
            return
        number = pick(busy)
        place = self.seats[number]
        conn = pick(place.begun)
        place.begun.remove(conn)
        self._end(conn, "ended")
        if pick([True, True, True, False]):
            signal = 0 if place.one_by_one else pick([0, 0, 0, 15])
            status = 0 if signal else pick(STATUSES)
            cpu = 0.0 if place.one_by_one else None
            self.tell(ev.Ended(place.launcher, conn, signal, status, cpu, True, number))
        else:
            text = "no descriptor is left"
            self.tell(ev.NotStarted(place.launcher, conn, "descriptor", text, number))
        if place.one_by_one and number in self.seats and pick([True, False, False]):
            self._leave(number)

    def _leave(self, number: int) -> None:
        place = self.seats[number]
        if place.launcher not in self.launchers:
            self.lose_seat(number)
            return
        place.worker = None
        self.tell(ev.SeatLeft(number))

    def kill_worker(self, pick: Pick) -> None:
        """Let a worker die, whatever it does."""
        if not (manned := self._manned()):
            return
        number = pick(manned)
        place = self.seats[number]
        if place.launcher not in self.launchers:
            self.lose_seat(number)  # nobody speaks for it
            return
        place.worker, place.crashed = None, True
        signal = pick([9, 11, 0])
        self.tell(ev.SeatCrashed(number, signal, 0 if signal else 1))

    def read_mark(self, pick: Pick) -> None:
        """Let a launcher take in what its dead worker left."""
        marked = [n for n, place in self.seats.items() if "mark" in place.channel]
        if not marked:
            return
        number = pick(marked)
        place = self.seats[number]
        at = place.channel.index("mark")
        before, after = place.channel[:at], place.channel[at + 1 :]
        kept = [one for one in before if isinstance(one, int)]
        place.crashed = False
        lost, place.begun = place.begun, []
        place.channel = [*before, *after]
        for conn in lost:
            self._end(conn, "ended")
        self.crowd = len(lost)
        self.tell(ev.SeatKept(number, tuple(kept)))
        self.crowd = 0
        if "retire" in before and not kept:
            self.lose_seat(number)

    def break_seat(self, pick: Pick) -> None:
        """Let a channel end, or never have come to be."""
        if self.seats:
            self.lose_seat(pick(sorted(self.seats)))

    def lose_seat(self, number: int) -> None:
        """End a channel, and everything that is there."""
        for conn in self.seats.pop(number).conns():
            self._end(conn, "ended")
        self.tell(ev.SeatGone(number))

    def with_workers(self) -> set[int]:
        """Name the launchers that have a seat, or a name to find."""
        seats = {place.launcher for place in self.seats.values()}
        return seats | {number for number, _ in self.looks}

    def empty_seats(self, launcher: int) -> list[int]:
        """Name the seats of a launcher whose channels nobody else holds."""
        return [
            number
            for number, place in self.seats.items()
            if place.launcher == launcher and place.worker is None
        ]

    def settle_seats(self) -> None:
        """Let every worker take, serve and go as it should."""
        first: Pick = lambda options: options[0]  # noqa: E731
        while self.looks:
            self.name(first)
        for number in list(self.seats):
            at: Pick = lambda options, number=number: (  # noqa: E731
                number if number in options else options[0]
            )
            self.read_mark(at)
            self.sit(at)
            self.take(at)
        for number in [n for n, place in self.seats.items() if place.begun]:
            place = self.seats[number]
            for conn in place.begun if place.worker is not None else ():
                place.begun = [one for one in place.begun if one != conn]
                self._end(conn, "ended")
                done = ev.Ended(place.launcher, conn, 0, 0, None, True, number)
                self.tell(done)

    def check_filled(self) -> None:
        """A while after a loss every service has the workers that it is to have."""
        for number, launcher in self.launchers.items():
            open_ = len(self._open_seats(number))
            assert launcher.retired or open_ >= launcher.spec.workers, number

    def check_seats(self) -> None:
        """Every launcher has the workers of its service, and no more."""
        for number, launcher in self.launchers.items():
            workers = 0 if launcher.retired else launcher.spec.workers
            assert len(self._open_seats(number)) == workers, number

    # -- lies -------------------------------------------------------------------------

    def lie_of_seats(self, pick: Pick) -> ev.Event:
        """Say something of a seat that cannot be true."""
        conn = pick([*self.peers, 10**9])
        peer = self.peers.get(conn)
        seat = pick([*self.seats, 10**9])
        launcher = pick([*self.launchers, 10**9])
        sound = [n for n, place in self.seats.items() if not place.crashed]
        lies: list[ev.Event] = [
            ev.SeatTaken(10**9, 1),
            ev.SeatLeft(10**9),
            ev.SeatCrashed(10**9, 9, 0),
            ev.SeatKept(10**9, (conn,)),
            ev.SeatKept(pick([*sound, 10**9]), (conn, 10**9)),
            ev.SeatGone(10**9),
        ]
        if peer is None or peer.seat != seat or peer.fate != "seated":
            lies += [
                ev.Ended(launcher, conn, 0, 100, None, True, seat),
                ev.NotStarted(launcher, conn, "exec", "a lie", seat),
            ]
        if (launcher, conn) not in self.looks:
            lies.append(ev.Named(launcher, conn, "a.lie"))
        return pick(lies)
