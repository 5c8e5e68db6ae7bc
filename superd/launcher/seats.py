"""Keep the workers of a pool or a loop: fork them, replace them, mind what they leave.

A seat is a channel to the master that outlives its workers. The rule of this file: a
worker that dies costs what it had begun. The launcher has a descriptor of the channel as
well: it tells the master of the death (`crash`), takes in what is there up to the master's
`mark`, says what of that was not begun (`kept`), and forks a worker that starts with it.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING, NamedTuple, Protocol

from superd.core.protocol import MAX_DATAGRAM, MAX_FDS
from superd.launcher.channel import descriptors
from superd.launcher.holders import holds_besides, socket_id
from superd.launcher.ledger import RENEW, RETIRED, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from superd.launcher.channel import Channel
    from superd.launcher.spec import Spec

SIGNALS = {"TERM": signal.SIGTERM, "KILL": signal.SIGKILL}

KILL_AFTER = 5.0
"""Seconds between TERM and KILL at the end of timeouts.lifetime."""

HUNG = 30.0
"""Seconds an event loop may stand still, with connections, before its worker is ended: no
deadline of a connection can pass in it. The systemd watchdogs of servers have 30 s too."""

FREE = 2
FIRST_DELAY = 0.1
TOP_DELAY = 5.0
"""Seconds before a worker is forked where those before it died without serving anybody:
doubling from the first to the top, and nothing for the first FREE deaths."""

TOP_DELAY_PEER = 1.0
"""The top where they died of a connection: a peer may have its hand in that, and others
wait for the same seat."""

LATER = 0.05
"""Seconds until a report is tried again that the master had no room for."""

_SPACE = socket.CMSG_SPACE(MAX_FDS * 4)
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


class Watch(Protocol):
    """Begin or end to watch a descriptor for reading."""

    def __call__(self, fd: int, *, wanted: bool) -> None:
        """Watch `fd` from now on, or no longer."""


class Left(NamedTuple):
    """A connection that a worker gave back: to linger over, or still held (`pid`)."""

    sock: socket.socket
    pid: int


class Place:
    """One seat, as its launcher sees it."""

    __slots__ = (
        "begun",
        "closed",
        "death",
        "due",
        "failures",
        "hunted",
        "kept",
        "ledger",
        "number",
        "pid",
        "retired",
        "sock",
    )

    def __init__(self, number: int, fd: int) -> None:
        self.number = number
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
        self.ledger = Ledger()
        self.pid = 0
        self.failures = 0
        self.due: float | None = 0.0
        """When a worker is to be forked; None: there is one, or a mark is awaited."""
        self.death: tuple[int, int] | None = None
        """How the worker died, until the master has answered with a mark."""
        self.kept: list[tuple[list[str], int]] = []
        self.begun: list[Left] = []
        """Of those: what it died in."""
        self.retired = False
        self.hunted: tuple[int, float] = (0, 0.0)
        """The connection whose worker got TERM for its lifetime, and when KILL follows."""
        self.closed = 0
        """The connection whose handler has closed it and goes on."""


class Seats:
    """The workers of this service."""

    def __init__(
        self,
        spec: Spec,
        channel: Channel,
        work: Callable[[Place, int], int],
        watch: Watch,
    ) -> None:
        self.places: dict[int, Place] = {}
        self.marked: dict[int, Place] = {}
        """Places whose channel is watched, by descriptor: a mark is to come."""
        self._spec = spec
        self._channel = channel
        self._work = work
        self._watch = watch
        self.back = -1
        """Where workers give connections back, once there is a seat."""
        self._pair: tuple[socket.socket, socket.socket] | None = None

    def add(self, number: int, fd: int) -> None:
        """Take a seat from the master; its worker is forked in this turn."""
        if self._pair is None:
            kind = socket.SOCK_SEQPACKET
            self._pair = socket.socketpair(socket.AF_UNIX, kind)
            self.back = self._pair[0].fileno()
            self._watch(self.back, wanted=True)
        self.places[number] = Place(number, fd)

    def busy(self) -> bool:
        """Say whether there is a worker, or a seat that waits for one."""
        return bool(self.places)

    def tick(self, now: float) -> None:
        """Fork who is due, end who is overdue."""
        for place in list(self.places.values()):
            if place.death is not None and place.sock.fileno() not in self.marked:
                self._tell_death(place)
            if place.due is not None and place.due <= now:
                self._fork(place, now)
            elif place.pid:
                self._hunt(place, now)
                if place.kept and place.ledger.served >= len(place.kept):
                    self._drop_kept(place, len(place.kept))

    def timeout(self, now: float) -> float:
        """When `tick` must be called at the latest."""
        until = now + 3600.0
        lifetime = self._spec.lifetime if self._spec.mode == "pool" else None
        for place in self.places.values():
            if place.kept and place.pid:
                until = min(until, now + 1.0)
            if place.due is not None:
                until = min(until, place.due)
            elif not place.pid:
                until = min(until, now + LATER)
            elif self._spec.mode == "loop":
                until = min(until, now + HUNG / 3)
            elif lifetime is not None:
                # One that begins right now is due then; we are not told of its begin.
                left = lifetime - place.ledger.age(now) if place.ledger.conn else None
                until = min(until, now + (lifetime if left is None else max(0.0, left)))
                if place.hunted[0]:
                    until = min(until, max(now, place.hunted[1]))
        return until

    # -- workers ----------------------------------------------------------------------

    def _fork(self, place: Place, now: float) -> None:
        place.ledger.clear()
        try:
            pid = os.fork()
        except OSError as error:
            self._channel.note(f"no worker could be forked: {error.strerror}")
            place.failures += 1
            place.due = now + _delay(place.failures, TOP_DELAY)
            return
        if not pid:
            try:
                assert self._pair is not None
                os._exit(self._work(place, self._pair[1].fileno()) & 0xFF)
            finally:
                os._exit(101)
        place.pid, place.due = pid, None
        if self._spec.mode == "loop":
            self._drop_kept(place, len(place.kept))  # it begins with all of them

    def _drop_kept(self, place: Place, count: int) -> None:
        """Forget the first of what a worker was started with: it is done with them."""
        for _, fd in place.kept[:count]:
            os.close(fd)
        del place.kept[:count]

    def reaped(self, pid: int, status: int, now: float) -> None:
        """Take a dead child if it was a worker."""
        for place in self.places.values():
            if place.pid == pid:
                break
        else:
            return
        place.pid, place.hunted = 0, (0, 0.0)
        if place.ledger.served:
            place.failures = 0
        if place.ledger.left in (RENEW, RETIRED):
            self._drop_kept(place, len(place.kept))
        if place.ledger.left == RENEW:
            place.due = now
        elif place.ledger.left == RETIRED:
            self._forget(place)
        else:
            place.death = _split(status)
            # What it was started with: it served them one by one, in this order.
            self._drop_kept(place, place.ledger.served)
            before, place.kept = place.kept, []
            for words, fd in before:
                self._sort(place, words, fd, place.begun)
            place.failures += not place.ledger.served
            self._tell_death(place)

    def _forget(self, place: Place) -> None:
        del self.places[place.number]
        place.sock.close()
        place.ledger.close()

    def _tell_death(self, place: Place) -> None:
        """Report a death; where the master has no room for that now, `tick` tries again."""
        assert place.death is not None
        number, code = place.death
        try:
            place.sock.send(f"crash {number} {code}".encode(), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            pass  # the master has died: what is in the channel ends without a mark
        self.marked[place.sock.fileno()] = place
        self._watch(place.sock.fileno(), wanted=True)

    def read(self, fd: int, now: float) -> list[Left]:
        """Take in what a dead worker left; returns what it had begun."""
        place = self.marked[fd]
        begun, place.begun = place.begun, []
        while True:
            try:
                data, ancillary, _, _ = place.sock.recvmsg(MAX_DATAGRAM, _SPACE, _FLAGS)
            except BlockingIOError:
                return begun
            except ConnectionResetError:
                continue
            except OSError:
                data, ancillary = b"", []
            queue = iter(descriptors(ancillary))
            ended = not data
            place.retired = place.retired or ended
            for line in data.decode("ascii").split("\n"):
                words = line.split(" ")
                if words[0] == "conn":
                    self._sort(place, words, next(queue, None), begun)
                elif words[0] == "retire":
                    place.retired = True
                elif words[0] == "mark":
                    ended = True
            if ended:
                self._resume(place, now)
                return begun

    def _sort(
        self, place: Place, words: list[str], fd: int | None, begun: list[Left]
    ) -> None:
        if fd is None:
            self._say(place, f"fail {words[1]} descriptor no descriptor is left")
        elif int(words[1]) == place.ledger.conn:
            begun.append(Left(socket.socket(fileno=fd), 0))
        else:
            place.kept.append((words, fd))

    def _resume(self, place: Place, now: float) -> None:
        """The mark has come: say what is kept, and let a worker go on with it."""
        self._watch(place.sock.fileno(), wanted=False)
        del self.marked[place.sock.fileno()]
        place.death = None
        numbers = ",".join(words[1] for words, _ in place.kept) or "-"
        self._say(place, f"kept {numbers}")
        if place.retired and not place.kept:
            self._forget(place)
            return
        top = TOP_DELAY_PEER if place.ledger.conn else TOP_DELAY
        place.due = now + _delay(place.failures, top)

    def _say(self, place: Place, record: str) -> None:
        try:
            place.sock.send(record.encode("ascii"), socket.MSG_DONTWAIT)
        except OSError as error:
            # Room for `crash` was there a moment ago: the master has died.
            self._channel.note(f"seat {place.number}: {record}: {error.strerror}")

    # -- ends -------------------------------------------------------------------------

    def kill(self, conn: str, name: str, number: str) -> None:
        """Signal the worker of a seat for the sake of a connection, by the master's wish.

        A loop's worker ends a connection itself; it is killed where it did not.
        """
        place = self.places.get(int(number))
        if place is None or not place.pid:
            return
        one_of_many = self._spec.mode == "loop"
        if (one_of_many and name == "KILL") or place.ledger.conn == int(conn):
            self._signal(place, name)

    def _signal(self, place: Place, name: str) -> None:
        try:
            os.killpg(place.pid, SIGNALS[name])
        except ProcessLookupError:
            os.kill(place.pid, SIGNALS[name])  # it has not made its session yet

    def _hunt(self, place: Place, now: float) -> None:
        """End a worker whose connection is too old, or whose loop stands still."""
        if self._spec.mode == "loop":
            if place.ledger.silence(now) > HUNG:
                self._channel.note(f"worker {place.pid} stands still: KILL")
                self._signal(place, "KILL")
                place.ledger.clear()
            return
        lifetime, conn = self._spec.lifetime, place.ledger.conn
        if lifetime is None or not conn:
            place.hunted = (0, 0.0)
        elif place.hunted[0] == conn:
            if now >= place.hunted[1]:
                self._signal(place, "KILL")
                place.hunted = (conn, now + KILL_AFTER)
        elif place.ledger.age(now) >= lifetime and place.ledger.conn == conn:
            self._channel.note(f"conn {conn}: timeouts.lifetime is over: TERM")
            self._signal(place, "TERM")
            place.hunted = (conn, now + KILL_AFTER)

    # -- what comes back --------------------------------------------------------------

    def take_back(self) -> Left | None:
        """Take one connection that a worker has given back; None: there is none now."""
        assert self._pair is not None
        space = socket.CMSG_SPACE(4)
        try:
            data, ancillary, _, _ = self._pair[0].recvmsg(64, space, _FLAGS)
        except BlockingIOError:
            return None
        fds = descriptors(ancillary)
        if not fds:
            return self.take_back()  # over our limit: the kernel has closed it
        verb, _, number = data.decode("ascii").partition(" ")
        return Left(socket.socket(fileno=fds[0]), int(number) if verb == "left" else 0)

    def closed_by_handlers(self, now: float, age: float) -> list[socket.socket]:
        """Find what the handlers of a pool closed while they go on, each once.

        The worker itself has one descriptor of it, and one is in flight.
        """
        done = []
        for place in self.places.values():
            conn = place.ledger.conn
            if conn in (0, place.closed) or place.ledger.age(now) < age:
                continue
            if not place.pid or self._spec.mode != "pool":
                continue
            sock = self._peek(place, conn)
            if sock is None:
                continue
            if holds_besides(place.pid, socket_id(sock.fileno()), 1):
                sock.close()
            else:
                place.closed = conn
                done.append(sock)
        return done

    def _peek(self, place: Place, conn: int) -> socket.socket | None:
        try:
            data, ancillary, _, _ = place.sock.recvmsg(
                4096, socket.CMSG_SPACE(4), _FLAGS | socket.MSG_PEEK
            )
        except OSError:
            return None
        fds = descriptors(ancillary)
        if not fds:
            return None
        sock = socket.socket(fileno=fds[0])
        if data.startswith(b"conn %d " % conn) and place.ledger.conn == conn:
            return sock
        sock.close()
        return None


def _delay(failures: int, top: float) -> float:
    if failures <= FREE:
        return 0.0
    return min(top, FIRST_DELAY * 2.0 ** min(failures - FREE - 1, 16))


def _split(status: int) -> tuple[int, int]:
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status), 0
    return 0, os.WEXITSTATUS(status)
