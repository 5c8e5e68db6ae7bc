"""Play the master to a real launcher: a socket pair, a memfd, a process.

`launcher(exec=[...])` starts one as master/launching.py does and waits until it is ready;
what it says is kept in `records`, waiting is on its descriptors, with a deadline.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from daemon_under_test import DEADLINE, read_all, ready

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
RUN = str(ROOT / "superd" / "launcher" / "run.py")

SPEC: dict[str, Any] = {
    "program": {"exec": ["/bin/cat"]},
    "user": None,
    "uid": None,
    "gid": None,
    "groups": None,
    "umask": 0o22,
    "nice": 0,
    "directory": "/",
    "environment": {"PATH": "/usr/bin:/bin"},
    "rlimits": {"core": [0, 0], "nofile": [1024, None]},
    "stderr": "log",
    "resolve": False,
    "banner": "",
    "lifetime": None,
    "mode": "process",
    "path": [],
}

# The same launcher with limits set before it starts, or with shorter constants: a test
# must not take a minute because a socket is idle after one.
_SHIM = """
import importlib, json, resource, runpy, sys
how = json.loads(sys.argv[1])
for number, pair in how["limits"]:
    resource.setrlimit(number, pair)
sys.path.insert(0, how["root"])
for place, value in how["constants"].items():
    module, _, name = place.rpartition(".")
    setattr(importlib.import_module(module), name, value)
del sys.path[0]
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _shim(limits: dict[int, Any], constants: dict[str, Any]) -> list[str]:
    how = {
        "limits": list(limits.items()),
        "constants": constants,
        "root": str(ROOT),
    }
    return ["-c", _SHIM, json.dumps(how), RUN]


class Seat:
    """The master's end of a worker's channel."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.records: list[str] = []
        self.sock, self.theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )

    def put(self, record: str, fds: tuple[int, ...] = ()) -> None:
        """Send one record, as the master does for a pool."""
        socket.send_fds(self.sock, [record.encode()], fds)

    def wait(self, pattern: str, *, count: int = 1) -> str:
        """Wait until `count` records match; returns the last of them."""
        until = time.monotonic() + DEADLINE
        while True:
            found = [one for one in self.records if re.search(pattern, one)]
            if len(found) >= count:
                return found[count - 1]
            left = until - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.records[-20:]}"
            assert self.take(left), f"it ended: {self.records[-20:]}"

    def take(self, wait: float) -> bool:
        """Take one datagram; False: none came, or the end."""
        if not ready([self.sock.fileno()], wait):
            return False
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionResetError:
            data = self.sock.recv(1 << 16)
        self.records += data.decode().split("\n") if data else []
        return bool(data)

    def worker(self, count: int = 1) -> int:
        """Return the pid of the worker, the `count`th."""
        return int(self.wait("^hello ", count=count).split()[1])

    def wait_gone(self) -> None:
        """Wait for the end of the channel."""
        until = time.monotonic() + DEADLINE
        while self.take(max(0.0, until - time.monotonic())):
            pass
        assert ready([self.sock.fileno()], 0), "the channel is still open"


class Launched:
    """One launcher and the master's end of its channel."""

    def __init__(
        self,
        spec: dict[str, Any],
        limits: dict[int, Any],
        constants: dict[str, Any],
        prefix: list[str],
    ) -> None:
        self.records: list[str] = []
        self.pipe: int | None = None
        self.status: int | None = None
        self.stderr = b""
        self._conns = 0
        self._peers: list[socket.socket] = []
        self._seats: list[Seat] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        memory = os.memfd_create("superd-service")
        os.write(memory, json.dumps(spec).encode())
        argv = [sys.executable, "-I", "-S", RUN, "become", "probe"]
        if constants:
            # Where the second half is another program, it goes through the shim as well.
            serve = _shim({}, constants)
            again = {"superd.launcher.become.SERVE": [*argv[:3], *serve, "serve"]}
            constants = {**constants, **again}
        if limits or constants:
            argv[3:4] = _shim(limits, constants)
        argv = [*prefix, *argv]
        # Above 3 and 4, so that no dup2 hits another: as the master does.
        high = [_dup_high(fd) for fd in (theirs.fileno(), memory)]
        null = os.devnull
        self.pid = os.posix_spawn(
            argv[0],
            argv,
            {"LC_CTYPE": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, high[0], 3),
                (os.POSIX_SPAWN_DUP2, high[1], 4),
            ],
            setsid=True,
            setsigdef=set(range(1, signal.NSIG)) - {9, 19, 32, 33},
        )
        self._pidfd = os.pidfd_open(self.pid)
        for fd in (*high, memory):
            os.close(fd)
        theirs.close()

    # -- the channel -------------------------------------------------------------------

    def put(self, *records: str, fds: tuple[int, ...] = ()) -> None:
        """Send records in one datagram."""
        socket.send_fds(self.sock, ["\n".join(records).encode()], fds)

    def take(self, wait: float = 0.0) -> bool:
        """Take one datagram; False: none came, or the end."""
        if not ready([self.sock.fileno()], wait):
            return False
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, 1 << 16, 4)
        except ConnectionResetError:
            # It ended with something of ours unread; its last words come after this.
            data, fds, _, _ = socket.recv_fds(self.sock, 1 << 16, 4)
        self.records += data.decode().split("\n") if data else []
        for fd in fds:
            assert self.pipe is None
            self.pipe = fd
            os.set_blocking(fd, False)
        return bool(data)

    def wait(self, pattern: str, *, count: int = 1) -> str:
        """Wait until `count` records match; returns the last of them."""
        until = time.monotonic() + DEADLINE
        while True:
            found = [one for one in self.records if re.search(pattern, one)]
            if len(found) >= count:
                return found[count - 1]
            left = until - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.records[-20:]}"
            if not self.take(left):
                assert not ready([self._pidfd], 0), f"ended: {self.records[-20:]}"

    def hang_up(self) -> None:
        """End as the master does when it is killed."""
        self.sock.close()

    # -- connections -------------------------------------------------------------------

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Make a TCP connection; returns the peer's end and the accepted one."""
        peer = socket.create_connection(self._listener.getsockname(), DEADLINE)
        self._peers.append(peer)
        accepted, _ = self._listener.accept()
        return peer, accepted

    def record(self, host: str = "127.0.0.1", port: int = 4711) -> str:
        self._conns += 1
        return f"conn {self._conns} 1 {host} {port}"

    def connect(self, host: str = "127.0.0.1") -> socket.socket:
        """Give the launcher a connection, the next number; returns the peer's end."""
        peer, accepted = self.pair()
        with accepted:
            self.put(self.record(host), fds=(accepted.fileno(),))
        return peer

    def seat(self) -> Seat:
        """Give the launcher a seat: it forks a worker for it."""
        seat = Seat(len(self._seats) + 1)
        self._seats.append(seat)
        self.put(f"seat {seat.number}", fds=(seat.theirs.fileno(),))
        seat.theirs.close()
        return seat

    def sit(self, seat: Seat, host: str = "127.0.0.1") -> socket.socket:
        """Give a worker a connection, the next number; returns the peer's end."""
        peer, accepted = self.pair()
        with accepted:
            seat.put(f"{self.record(host)} -", fds=(accepted.fileno(),))
        return peer

    def talk(self, data: bytes = b"", host: str = "127.0.0.1") -> bytes:
        """Send, half-close, return everything up to the end, and wait for the report."""
        with self.connect(host) as peer:
            conn = self._conns
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            answer = read_all(peer)
        self.wait(rf"^(end|fail) {conn} ")
        return answer

    def handler(self, conn: int) -> int:
        """Return the pid of a connection's handler."""
        return int(self.wait(rf"^start {conn} ").split()[2])

    # -- the process -------------------------------------------------------------------

    def wait_stderr(self, text: bytes) -> None:
        """Wait until the handlers' stderr has this."""
        assert self.pipe is not None
        until = time.monotonic() + DEADLINE
        while text not in self.stderr:
            left = until - time.monotonic()
            assert left > 0, f"no {text!r} in {self.stderr!r}"
            if ready([self.pipe], left):
                self.stderr += os.read(self.pipe, 1 << 16)

    def wait_end(self) -> int:
        """Wait until the process has ended; returns its wait status as an exit code."""
        if self.status is None:
            assert ready([self._pidfd], DEADLINE), "the launcher did not end"
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
            while self.sock.fileno() >= 0 and self.take():
                pass
        return self.status

    def is_alive(self) -> bool:
        return not ready([self._pidfd], 0)

    def fds(self) -> dict[str, str]:
        """Return its descriptors."""
        folder = f"/proc/{self.pid}/fd"
        found = {}
        for fd in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                found[fd] = os.readlink(f"{folder}/{fd}")
        return found

    def cpu(self) -> float:
        """Return the CPU seconds it has used."""
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def finish(self) -> None:
        """Kill what runs still, take everything down."""
        for peer in self._peers:
            peer.close()
        for seat in self._seats:
            seat.sock.close()
        if self.status is None and self.sock.fileno() >= 0 and self.is_alive():
            over = {one.split()[1] for one in self.records if one.startswith("end ")}
            live = {one.split()[1] for one in self.records if one.startswith("start ")}
            with contextlib.suppress(OSError):
                self.put(*(f"kill {conn} KILL" for conn in live - over), "retire")
            while not ready([self._pidfd], 0) and self.take(2.0):
                pass
        if self.status is None:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.sock.close()
        self._listener.close()
        os.close(self._pidfd)
        if self.pipe is not None:
            os.close(self.pipe)


class LauncherFactory:
    """Starts launchers; a keyword is a key of the plan's launcher object."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launched: list[Launched] = []

    def __call__(
        self,
        *,
        ready: bool = True,
        limits: dict[int, Any] | None = None,
        constants: dict[str, Any] | None = None,
        prefix: list[str] | None = None,
        **keys: Any,
    ) -> Launched:
        spec = {**SPEC, **keys}
        if "exec" in keys:
            spec["program"] = {"exec": spec.pop("exec")}
        launched = Launched(spec, limits or {}, constants or {}, prefix or [])
        self.launched.append(launched)
        if ready:
            launched.wait("^ready$")
        return launched

    def python(self, source: str, **keys: Any) -> Launched:
        """Start the launcher of a Python handler with this source."""
        name = f"handler{len(self.launched)}"
        (self.folder / f"{name}.py").write_text(source)
        program = {"handler": "probe", "module": name, "argv": keys.pop("argv", [])}
        return self(program=program, path=[str(self.folder)], **keys)

    def shell(self, script: str, **keys: Any) -> Launched:
        """Start the launcher of a shell script."""
        return self(exec=["/bin/sh", "-c", script], **keys)


@pytest.fixture
def launcher(tmp_path) -> Iterator[LauncherFactory]:
    """Start real launchers: `launcher(exec=[...])`; they are ended afterwards."""
    # The master's rule: what is not meant for a child is close-on-exec. What pytest was
    # started with may not be.
    with os.scandir("/proc/self/fd") as opened:
        for fd in [int(entry.name) for entry in opened if int(entry.name) > 2]:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)
    factory = LauncherFactory(tmp_path)
    yield factory
    with contextlib.ExitStack() as ends:
        for launched in factory.launched:
            ends.callback(launched.finish)


@pytest.fixture
def many_files() -> Iterator[int]:
    """Raise our own limit of open files; gives the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _dup_high(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20)
