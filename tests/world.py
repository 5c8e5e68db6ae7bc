"""Play the world to a core: events that could really happen, and a count of one's own.

The World believes nothing that the core's tables say: it knows only the commands, and
holds them against what the configuration promises. `pick` chooses among possibilities,
so that a seed or hypothesis can drive it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from playbook import service
from world_seats import STATUSES, Peer, Place, Process, Workers, any_mode

from superd.core import commands as cmd
from superd.core import events as ev
from superd.core.audit import check
from superd.core.seats import REFILL_AFTER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from superd.core.spec import ServiceSpec
    from superd.core.supervisor import Supervisor

    Pick = Callable[[Sequence[Any]], Any]

HOSTS = [*(f"192.0.2.{n}" for n in range(4)), "2001:db8::1", "unix:1000"]
FINAL = ("refused", "closed", "failed", "ended")


@dataclass
class World(Workers):
    """Kernel, launchers, peers and operator of one core."""

    core: Supervisor
    audit: Callable[[Supervisor], None] = check
    now: float = 1000.0
    specs: dict[str, ServiceSpec] = field(default_factory=dict)
    serials: dict[str, int] = field(default_factory=dict)
    open: dict[str, str] = field(default_factory=dict)
    """Listeners, and what each is polled for: a kind, or nothing."""
    lent: dict[str, int] = field(default_factory=dict)
    peers: dict[int, Peer] = field(default_factory=dict)
    launchers: dict[int, Process] = field(default_factory=dict)
    seats: dict[int, Place] = field(default_factory=dict)
    looks: list[tuple[int, int]] = field(default_factory=list)
    pids: int = 7000
    crowd: int = 0
    told: set[int] = field(default_factory=set)
    """Whose end is in the log."""
    final: set[int] = field(default_factory=set)
    """Whose end has come."""
    exited: bool = False
    _made: int = 0
    _generation: int = 0

    # -- what the core says -----------------------------------------------------------

    def tell(self, event: ev.Event) -> None:
        """Let something happen, obey, and compare the promises with the count."""
        self._obey(self.core.handle(event, self.now))

    def pass_time(self, seconds: float) -> None:
        """Let time go by, deadline by deadline."""
        until = self.now + seconds
        while (when := self.core.next_deadline()) is not None and when <= until:
            self.now = max(self.now, when)
            self._obey(self.core.tick(self.now))
        self.now = until
        if seconds >= REFILL_AFTER:
            self.check_filled()

    def _obey(self, commands: list[cmd.Command]) -> None:
        for command in commands:
            getattr(self, f"_on_{type(command).__name__.lower()}")(command)
        self.audit(self.core)
        assert self.told == self.final, (self.told ^ self.final, commands)
        for key, polled in self.open.items():
            name, kind = self._owner(key)
            limits = self.specs[name].limits
            if polled and kind == "stream" and limits.when_full == "queue":
                assert self.live(self.serials[name]) < limits.connections, key
            assert polled in ("", kind), key

    def _owner(self, key: str) -> tuple[str, str]:
        for spec in self.specs.values():
            for one in spec.listeners:
                if one.key == key:
                    return spec.name, one.kind
        raise AssertionError(f"{key} is open and nobody names it")

    def live(self, serial: int, host: str = "") -> int:
        """Count the slots of one service, or of one source there."""
        return sum(
            peer.is_live and peer.serial == serial and host in ("", peer.host)
            for peer in self.peers.values()
        )

    def waiting(self, serial: int) -> int:
        """Count who was neither served nor refused yet."""
        return sum(
            peer.fate == "new" and peer.serial == serial for peer in self.peers.values()
        )

    def _on_log(self, command: cmd.Log) -> None:
        assert command.level in ("debug", "info", "warning", "error")
        conn = dict(command.fields).get("conn")
        if command.verb in ("end", "refuse") and isinstance(conn, int):
            assert conn not in self.told, f"{command.verb} of {conn} was told before"
            self.told.add(conn)

    def _on_poll(self, command: cmd.Poll) -> None:
        assert not self.open[command.listener], "polled twice"
        assert command.listener not in self.lent, "polled while it is lent"
        self.open[command.listener] = self._owner(command.listener)[1]

    def _on_unpoll(self, command: cmd.Unpoll) -> None:
        assert self.open[command.listener], "unpolled twice"
        self.open[command.listener] = ""

    def _on_closelistener(self, command: cmd.CloseListener) -> None:
        del self.open[command.listener]
        self.lent.pop(command.listener, None)

    def _on_startlauncher(self, command: cmd.StartLauncher) -> None:
        serial = self.serials[command.service]
        assert command.launcher not in self.launchers
        for other in self.launchers.values():
            assert other.retired or other.serial != serial, "two launchers at once"
        self.launchers[command.launcher] = Process(serial, self.specs[command.service])

    def _on_retirelauncher(self, command: cmd.RetireLauncher) -> None:
        assert not self.launchers[command.launcher].retired, "retired twice"
        self.launchers[command.launcher].retired = True

    def _on_killlauncher(self, command: cmd.KillLauncher) -> None:
        assert command.launcher in self.launchers

    def _on_send(self, command: cmd.Send) -> None:
        peer = self.peers[command.conn]
        launcher = self.launchers[command.launcher]
        before = ("looked up", "new") if command.seat else ("new",)
        assert peer.fate in before, f"sent, but it was {peer.fate}"
        assert launcher.serial == peer.serial
        assert not launcher.retired
        assert bool(command.seat) == bool(launcher.spec.workers)
        fresh = peer.fate == "new"
        if command.seat:
            self._seat_peer(command)
        else:
            peer.fate = "sent"
        peer.launcher = command.launcher
        if fresh:
            self._admitted(peer)
        assert 0 <= command.number - peer.number <= peer.crowd

    def _admitted(self, peer: Peer) -> None:
        """Compare a fresh slot with the limits."""
        peer.number = self.live(peer.serial, peer.host)
        peer.crowd = self.crowd
        [limits] = [
            spec.limits
            for name, spec in self.specs.items()
            if self.serials[name] == peer.serial
        ]
        assert self.live(peer.serial) <= limits.connections
        if limits.per_source is not None:
            assert peer.number <= limits.per_source

    def _on_lend(self, command: cmd.Lend) -> None:
        assert command.listener not in self.lent, "lent twice"
        self.lent[command.listener] = command.conn
        peer = self.peers[command.conn]
        peer.fate, peer.launcher = "sent", command.launcher

    def _on_refuse(self, command: cmd.Refuse) -> None:
        peer = self.peers[command.conn]
        assert peer.fate == "new", f"refused, but it was {peer.fate}"
        self._end(command.conn, "refused")

    def _on_close(self, command: cmd.Close) -> None:
        peer = self.peers[command.conn]
        known = ("sent", "looked up")
        assert peer.fate in known, f"closed, but it was {peer.fate}"
        assert peer.launcher not in self.launchers, "its launcher lives"
        self._end(command.conn, "closed")

    def _on_signal(self, command: cmd.Signal) -> None:
        peer = self.peers[command.conn]
        assert (peer.launcher, peer.seat) == (command.launcher, command.seat)
        assert peer.fate in (("seated",) if command.seat else ("sent", "started"))

    def _on_watchorphan(self, command: cmd.WatchOrphan) -> None:
        peer = self.peers[command.conn]
        assert (peer.fate, command.pid) == ("started", 9000 + command.conn)
        peer.fate = "orphan"

    def _on_exit(self, command: cmd.Exit) -> None:
        self.exited = True

    def _end(self, conn: int, fate: str) -> None:
        self.peers[conn].fate = fate
        self.final.add(conn)
        for key in [key for key, number in self.lent.items() if number == conn]:
            del self.lent[key]

    # -- what happens -----------------------------------------------------------------

    def accept(self, pick: Pick) -> None:
        """Let somebody connect to whatever is polled."""
        keys = sorted(key for key, kind in self.open.items() if kind == "stream")
        if not keys:
            return
        key = pick(keys)
        name, _ = self._owner(key)
        serial, limits = self.serials[name], self.specs[name].limits
        peer = Peer(serial, pick(HOSTS))
        full = self.live(serial) >= limits.connections
        allowed = limits.per_source
        crowd = allowed is not None and self.live(serial, peer.host) >= allowed
        room = self.waiting(serial) < limits.connections
        self._made += 1
        self.peers[self._made] = peer
        self.tell(ev.Accepted(self._made, key, peer.host, 50000))
        if not (full or crowd):
            assert peer.fate in ("sent", "seated", "looked up"), peer
        elif limits.when_full == "refuse" or not room:
            assert peer.fate == "refused", peer
        else:
            assert peer.fate == "new", peer

    def fail_accept(self, pick: Pick) -> None:
        """Let the system be out of something for a moment."""
        keys = sorted(key for key, kind in self.open.items() if kind == "stream")
        if keys:
            self.tell(ev.AcceptFailed(pick(keys), "accept: too many open files"))

    def send_datagram(self, pick: Pick) -> None:
        """Make a listener that is lent whole readable."""
        keys = sorted(k for k, kind in self.open.items() if kind not in ("", "stream"))
        if not keys:
            return
        key = pick(keys)
        self._made += 1
        self.peers[self._made] = Peer(self.serials[self._owner(key)[0]], "")
        self.tell(ev.Readable(key, self._made))

    def _with(self, *fates: str) -> list[int]:
        return [number for number, peer in self.peers.items() if peer.fate in fates]

    def start(self, pick: Pick) -> None:
        """Let a launcher start a handler."""
        if conns := self._with("sent"):
            conn = pick(conns)
            self.peers[conn].fate = "started"
            self.tell(ev.Started(self.peers[conn].launcher, conn, 9000 + conn, ""))

    def fail_start(self, pick: Pick) -> None:
        """Let a launcher fail to start a handler."""
        if conns := self._with("sent"):
            conn = pick(conns)
            self._end(conn, "failed")
            launcher = self.peers[conn].launcher
            self.tell(ev.NotStarted(launcher, conn, "exec", "no such file"))

    def end(self, pick: Pick) -> None:
        """Let a handler end somehow."""
        if conns := self._with("started", "sent"):
            conn = pick(conns)
            self._end(conn, "ended")
            signal = pick([0, 0, 0, 13, 9, 11])
            status = 0 if signal else pick(STATUSES)
            eaten = bool(self.peers[conn].host) or pick([True, True, False])
            launcher = self.peers[conn].launcher
            self.tell(ev.Ended(launcher, conn, signal, status, 0.0, eaten))

    def end_orphan(self, pick: Pick) -> None:
        """Let a handler end whose launcher has died."""
        if conns := self._with("orphan"):
            conn = pick(conns)
            self._end(conn, "ended")
            self.tell(ev.OrphanGone(conn))

    def lie(self, pick: Pick) -> None:
        """Let a launcher speak of what is not, or no longer, its own."""
        conn = pick([*self.peers, 10**9])
        launcher = pick([*self.launchers, 10**9])
        peer = self.peers.get(conn)
        mine = peer is not None and peer.launcher == launcher
        if mine and peer.fate in ("sent", "looked up"):
            return
        lies: list[ev.Event] = [ev.Started(launcher, conn, 1, "liar")]
        if peer is None or peer.launcher != launcher or peer.fate != "started":
            lies += [
                ev.Ended(launcher, conn, 0, 100, 0.0, True),
                ev.NotStarted(launcher, conn, "exec", "a lie"),
            ]
        event = pick([pick(lies), self.lie_of_seats(pick)])
        said = self.core.handle(event, self.now)
        assert said == [], f"{event} changed something: {said}"

    def get_ready(self, pick: Pick) -> None:
        """Let a launcher become its service."""
        if waiting := [n for n, one in self.launchers.items() if not one.ready]:
            number = pick(waiting)
            self.launchers[number].ready = True
            self.tell(ev.LauncherReady(number))

    def choke(self, pick: Pick) -> None:
        """Let a launcher be slow, or fast again."""
        if self.launchers:
            number, choked = pick(sorted(self.launchers)), pick([True, False, False])
            self.tell(ev.LauncherChoked(number, choked))

    def unchoke(self) -> None:
        """Let every launcher be fast."""
        for launcher in sorted(self.launchers):
            self.tell(ev.LauncherChoked(launcher, False))

    def crash(self, pick: Pick) -> None:
        """Let a launcher die, whatever it does."""
        if self.launchers:
            number = pick(sorted(self.launchers))
            ended = self.empty_seats(number)
            early = pick([0, len(ended)])
            for seat in ended[:early]:
                self.lose_seat(seat)
            self._gone(number, "signal:9")
            # While it lived it was given seats for who waited for those that ended.
            for seat in self.empty_seats(number):
                self.lose_seat(seat)

    def finish(self, pick: Pick) -> None:
        """Let retired launchers without a handler or a worker end, as they do."""
        busy = self.with_workers()
        busy |= {self.peers[conn].launcher for conn in self._with("sent", "started")}
        for number in sorted(self.launchers):
            if self.launchers[number].retired and number not in busy:
                self._gone(number, "exit:0")

    def _gone(self, number: int, status: str) -> None:
        del self.launchers[number]
        self.looks = [look for look in self.looks if look[0] != number]
        for peer in self.peers.values():
            assert peer.fate != "orphan" or peer.launcher != number
        self.tell(ev.LauncherGone(number, status))

    def wait(self, pick: Pick) -> None:
        """Let some time go by."""
        self.pass_time(pick([0.01, 0.25, 1.0, 5.0, 70.0]))

    def reload(self, pick: Pick) -> None:
        """Bring another configuration: up to four services share eight listeners."""
        free = [f"k{number}" for number in range(8)]
        specs = []
        for name in "abcd":
            keys = [free.pop(pick(range(len(free)))) for _ in range(pick([0, 1, 1, 2]))]
            if not keys:
                continue
            kind = pick(["stream"] * 6 + ["wait", "datagram"])
            specs.append(
                service(
                    name,
                    keys=tuple(keys),
                    kind=kind,
                    connections=pick([1, 2, 3, 5]),
                    per_source=pick([None, 1, 2]),
                    when_full=pick(["queue", "queue", "refuse"]),
                    warm=pick([False, False, True]),
                    stop=pick([0.0, 1.0, 5.0]),
                    launcher_idle=pick([1.0, 60.0]),
                    **any_mode(pick, kind),
                    user=pick(["nobody", "somebody"]),
                )
            )
        self.apply(specs)

    def apply(self, specs: Sequence[ServiceSpec]) -> None:
        """Open what is new and tell the core: as the master does."""
        before = self.serials
        self._generation += 1
        self.specs = {spec.name: spec for spec in specs}
        self.serials = {
            name: before.get(name, self._generation * 10 + number)
            for number, name in enumerate(self.specs)
        }
        wanted = {one.key for spec in specs for one in spec.listeners}
        for key in sorted(wanted - set(self.open)):
            self.open[key] = ""
        gone = set(self.open) - wanted
        commands = self.core.handle(
            ev.Reloaded(tuple(specs), self._generation), self.now
        )
        closed = {
            one.listener for one in commands if isinstance(one, cmd.CloseListener)
        }
        assert closed == gone, "a reload closes what nobody names, and nothing else"
        self._obey(commands)

    # -- the end ----------------------------------------------------------------------

    def settle(self) -> None:
        """Stop all faults, let everybody finish; then nothing may be left."""
        first: Pick = lambda options: options[0]  # noqa: E731
        for _ in range(1000):
            if not self._with(
                "new", "looked up", "seated", "sent", "started", "orphan"
            ):
                break
            self.unchoke()
            self.start(first)
            for conn in self._with("started"):
                self._end(conn, "ended")
                self.tell(ev.Ended(self.peers[conn].launcher, conn, 0, 0, 0.0, True))
            self.end_orphan(first)
            self.get_ready(first)
            self.settle_seats()
            self.finish(first)
            self.pass_time(1.0)
        self.unchoke()
        for _ in self.launchers:
            self.get_ready(first)
        self.settle_seats()
        self.pass_time(120.0)
        self.settle_seats()
        self.finish(first)

    def check_rest(self) -> None:
        """All that was accepted has had its end; everything is zero and is polled."""
        left = {peer.fate for peer in self.peers.values()}
        assert left <= set(FINAL), left
        assert self.core.conns == {}
        assert set(self.core.seats) == set(self.seats)
        self.check_seats()
        assert self.core.leaving == []
        for one in self.core.services.values():
            assert (one.admission.live, one.admission.sources) == (0, {}), one.name
            assert one.admission.waiting_count == 0, one.name
        assert all(self.open.values()), self.open
        assert len(self.core.deadlines._heap) < 20 + 2 * len(self.launchers)

    def stop(self, *, at_once: bool = False) -> None:
        """Stop; who does not end by itself is left behind after the last deadline."""
        self.specs, self.serials = {}, {}
        self.tell(ev.StopAsked(at_once))
        assert self.open == {}
        self.pass_time(60.0)
        assert self.exited
