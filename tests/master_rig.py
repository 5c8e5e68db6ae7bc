"""Run the master's shell in the process of a test, and play its launchers.

The kernel is the real one, but where a launcher would be started a process that does
nothing is, and its end of the channel stays with the test: `Played` says and hears there
what a launcher would, or what a hostile one might.
"""

from __future__ import annotations

import array
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, Self

from fakeos import FaultyKernel

from superd.core.audit import check
from superd.core.events import StopAsked
from superd.master.eventlog import EventLog
from superd.master.generations import Generations
from superd.master.kernel import Kernel
from superd.master.loop import READ, Loop
from superd.master.notify import Inherited
from superd.master.output import Output
from superd.master.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from superd.master.launching import LauncherProcess

DEADLINE = 10.0


class PlayedKernel(Kernel):
    """Starts a process that only waits, and keeps the launcher's end for the test."""

    argv = ("/bin/sleep", "600")

    def socketpair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = super().socketpair()
        kept = self.__dict__.setdefault("ends", [])
        kept.append(theirs.dup())
        self.__dict__.setdefault("pairs", []).append((ours, kept[-1]))
        return ours, theirs

    def spawn(self, argv, environment, actions, **flags) -> int:
        # Only the test holds the launcher's end.
        opens = [one for one in actions if one[0] == os.POSIX_SPAWN_OPEN]
        pid = super().spawn(list(self.argv), environment, opens, **flags)
        started = self.__dict__.setdefault("started", [])
        started.append((pid, self.__dict__["ends"][-1]))
        return pid


class FaultyPlayed(PlayedKernel, FaultyKernel):
    """The same, and one of its calls fails."""


class Lines:
    """A sink that keeps what it is given."""

    stamps = False

    def __init__(self) -> None:
        self.lines: list[str] = []

    def put(self, text: str, priority: int, verb: str, fields: Any) -> None:
        self.lines.append(text.partition("Z ")[2])

    def flush(self) -> None: ...
    def close(self) -> None: ...
    def reopen(self) -> None: ...

    def is_waiting(self) -> bool:
        return False

    def take_lost(self) -> int:
        return 0


class Played:
    """The launcher's end of one channel."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.sock = sock
        self.pid = pid
        self.sock.settimeout(DEADLINE)

    def say(self, *records: str | bytes, fds: Iterable[int] = ()) -> None:
        """Send one datagram of these records."""
        data = b"\n".join(
            one.encode() if isinstance(one, str) else one for one in records
        )
        socket.send_fds(self.sock, [data], list(fds))

    def hear(self) -> list[list[str]]:
        """Take everything that has come; the descriptors are closed."""
        heard = []
        self.sock.setblocking(False)
        while True:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(1 << 16, 4096)
            except BlockingIOError:
                return heard
            except ConnectionResetError:
                return heard
            if not data:
                return heard
            for _, _, raw in ancillary:
                fds = array.array("i")
                fds.frombytes(raw)
                for fd in fds:
                    os.close(fd)
            heard += [line.split(" ") for line in data.decode().split("\n")]

    def die(self, number: int = signal.SIGKILL) -> None:
        """End its process."""
        os.kill(self.pid, number)


class Rig:
    """A shell, its loop and the way to a plan; closed, nothing of it is left."""

    def __init__(self, kernel: Kernel | None = None) -> None:
        self.kernel: Any = kernel or PlayedKernel()
        self.loop = Loop()
        self.sink = Lines()
        self.log = EventLog(self.sink, level="debug")
        self.shell = Shell(self.kernel, self.loop, self.log)
        self.inherited = Inherited({})
        self.generations = Generations(
            self.shell, self.log, self.inherited, daemon=False
        )
        self.played: list[Played] = []
        self._peers: list[socket.socket] = []
        self.pidfds: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def lines(self) -> list[str]:
        return self.sink.lines

    def logged(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]

    def apply(self, *services: dict[str, Any], **log: str) -> None:
        """Bring a plan into force."""
        self.generations.apply(plan(*services, **log))
        self.meet()

    def turn(self, wait: float = 0.0) -> None:
        """Let the loop turn once, as the master does; the books balance afterwards."""
        until = time.monotonic() + wait
        deadline = self.shell.next_deadline()
        self.loop.turn(until if deadline is None else min(until, deadline))
        self.shell.tick()
        self.shell.flush()
        self.meet()
        check(self.shell.core)

    def until(self, holds: Callable[[], Any], wait: float = DEADLINE) -> Any:
        """Turn until a condition holds."""
        late = time.monotonic() + wait
        while not (value := holds()):
            assert time.monotonic() < late, "\n".join(self.lines[-30:])
            self.turn(0.02)
        return value

    def settle(self, turns: int = 10) -> None:
        """Turn a few times: what is ready is done."""
        for _ in range(turns):
            self.turn()

    def meet(self) -> None:
        """Take over the ends of launchers that were started meanwhile."""
        for pid, end in self.kernel.__dict__.get("started", [])[len(self.played) :]:
            self.played.append(Played(end, pid))
            fd = os.pidfd_open(pid)
            self.pidfds[pid] = fd
            self.loop.watch(fd, READ, lambda _events, pid=pid: self._reap(pid))

    def launcher(self, number: int = 1, *, ready: bool = True) -> Played:
        """Wait for the launcher with this number; by default it has become ready."""
        self.until(lambda: len(self.played) >= number)
        launcher = self.played[number - 1]
        if ready:
            launcher.say("ready")
            self.until(lambda: self.process(launcher).ready)
        return launcher

    def process(self, launcher: Played) -> LauncherProcess:
        """Find the master's end of a played launcher."""
        return next(
            one for one in self.shell.launchers.values() if one.pid == launcher.pid
        )

    def seat(self, number: int = 1) -> Played:
        """Find the worker's end of a seat; close it, and the channel has ended."""
        ours = self.shell.seats[number].sock
        [end] = [end for one, end in self.kernel.__dict__["pairs"] if one is ours]
        return Played(end, 0)

    def worker(self, number: int = 1, pid: int = 4711) -> Played:
        """Let a worker sit on a seat."""
        seat = self.seat(number)
        seat.say(f"hello {pid}")
        self.until(lambda: self.shell.core.seats[number].pid == pid)
        return seat

    def _reap(self, pid: int) -> None:
        fd = self.pidfds.pop(pid)
        self.loop.forget(fd)
        os.close(fd)
        _, status = os.waitpid(pid, 0)
        number = os.waitstatus_to_exitcode(status)
        text = f"signal:{-number}" if number < 0 else f"exit:{number}"
        self.shell.reaped(pid, text)

    def address(self, key: str) -> Any:
        """Where a listener is bound."""
        return self.shell.listeners[key].sock.getsockname()

    def connect(self, key: str) -> socket.socket:
        """Connect to a listener; the end of the rig closes at the latest."""
        sock = socket.socket(self.shell.listeners[key].sock.family)
        self._peers.append(sock)
        sock.settimeout(DEADLINE)
        sock.connect(self.address(key))
        return sock

    def close(self) -> None:
        """Stop at once; end and close everything, whatever state it is in."""
        shell = self.shell
        if not shell.core.stopping:
            shell.feed(StopAsked(at_once=False))
        for pid, fd in self.pidfds.items():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self.loop.forget(fd)
            os.close(fd)
        for launcher in shell.launchers.values():
            launcher.close()
        for end in self.kernel.__dict__.get("ends", []):
            end.close()
        for seat in shell.seats.values():
            seat.drop()
            seat.sock.close()
        for opened in shell.kept.values():
            opened.sock.close()
        for conn in shell.conns.values():
            conn.close()
        for fd in shell._orphans.values():
            os.close(fd)
        for fd, call in list(self.loop._calls.items()):
            if isinstance(getattr(call, "__self__", None), Output):
                os.close(fd)
        for peer in self._peers:
            peer.close()
        shell.refusals.close()
        shell.reserve.close()
        self.loop.close()


def listener(key: str = "tcp 127.0.0.1:0", **given: Any) -> dict[str, Any]:
    """Make one `listeners` entry of a plan from its key: "tcp 127.0.0.1:0 name"."""
    family, _, rest = key.partition(" ")
    entry: dict[str, Any] = {
        "key": key, "family": family, "type": "stream", "address": None, "port": None,
        "path": None, "name": None, "optional": False, "text": key, "place": "x:1:1",
    }  # fmt: skip
    if family in ("tcp", "udp"):
        address, _, port = rest.split(" ")[0].rpartition(":")
        entry["family"] = "inet6" if "[" in address else "inet"
        entry["type"] = "stream" if family == "tcp" else "dgram"
        entry["address"], entry["port"] = address.strip("[]"), int(port)
    elif family == "unix":
        entry["path"] = rest
    else:
        entry["name"] = rest
    return {**entry, **given}


def entry(name: str = "echo", *listeners: Any, **given: Any) -> dict[str, Any]:
    """Make one service of a plan; without a listener it has a TCP one, its port 0."""
    keys = listeners or (f"tcp 127.0.0.1:0 {name}",)
    return {
        "name": name,
        "place": f"x.yaml:1:1:{name}",
        "mode": given.get("mode", "process"),
        "warm": given.get("warm", False),
        "listeners": [one if isinstance(one, dict) else listener(one) for one in keys],
        "admission": {
            "connections": given.get("connections", 40),
            "per_source": given.get("per_source"),
            "ipv4_prefix": 32,
            "ipv6_prefix": 64,
            "when_full": given.get("when_full", "queue"),
            "message": given.get("message", ""),
        },
        "timeouts": {"stop": 5.0, "launcher_idle": 600.0},
        "launcher": {
            "program": {"exec": given.get("exec", ["/bin/cat"])},
            "resolve": given.get("resolve", False),
            "workers": given.get("workers"),
            "max_workers": given.get("max_workers", given.get("workers")),
        },
    }


def pool(name: str = "echo", **given: Any) -> dict[str, Any]:
    """Make the plan of a pool, which has one worker if a test does not say otherwise."""
    return entry(name, **{"mode": "pool", "workers": 1, **given})


def loop(name: str = "echo", **given: Any) -> dict[str, Any]:
    """Make the plan of a service with one event loop."""
    return pool(name, **{"mode": "loop", **given})


def plan(*services: dict[str, Any], **log: str) -> dict[str, Any]:
    """Make a plan of these services."""
    where = {"format": "text", "level": "debug", "to": "stderr", **log}
    return {"version": 1, "files": [], "log": where, "services": list(services)}


def fds() -> set[str]:
    """Name every descriptor of this process."""
    return set(os.listdir("/proc/self/fd"))
