"""Start a real superd for a test, wait for events with deadlines, stop and judge it.

No port is guessed: services listen on 127.0.0.1:0 and the daemon is asked (its `listen`
lines), or the test binds and hands the socket over (`inherit`). Waiting is on the pipe of
its log or on a descriptor, never on the clock.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 20.0
F_SETPIPE_SZ = 1031

# Runs in the child: LISTEN_PID must be the daemon's own pid, known only after the fork.
_SHIM = """
import os, sys
names, fds, argv = sys.argv[1], sys.argv[2], sys.argv[3:]
fds = [int(fd) for fd in fds.split(",") if fd]
if fds:
    high = [os.dup(fd) for fd in fds]
    for fd in fds:
        os.close(fd)
    for number, fd in enumerate(high):
        os.dup2(fd, 3 + number, inheritable=True)
        os.set_inheritable(3 + number, True)
        if fd != 3 + number:
            os.close(fd)
    os.environ.update(LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names,
                      LISTEN_PID=str(os.getpid()))
os.execv(argv[0], argv)
"""


class Daemon:
    """One running superd and what it said."""

    def __init__(
        self,
        folder: Path,
        *,
        arguments: list[str],
        inherit: dict[str, socket.socket],
        environment: dict[str, str],
        prefix: list[str],
        limits: dict[int, tuple[int, int]],
    ) -> None:
        self.folder = folder
        self.file = folder / "superd.yaml"
        self.lines: list[str] = []
        self.expected_errors: list[str] = []
        self._rest = b""
        self._read, write = os.pipe2(os.O_CLOEXEC)
        fcntl.fcntl(write, F_SETPIPE_SZ, 1 << 20)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(folder / "notify"))
        self.states: list[str] = []
        names = ":".join(inherit)
        fds = [sock.fileno() for sock in inherit.values()]
        shim = [sys.executable, "-I", "-S", "-c", _SHIM, names]
        shim.append(",".join(map(str, fds)))
        command = [sys.executable, "-m", "superd", *arguments]
        self.process = subprocess.Popen(
            [*prefix, *shim, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=write,
            pass_fds=fds,
            cwd=ROOT,
            env={
                **os.environ,
                "NOTIFY_SOCKET": str(folder / "notify"),
                "PYTHONPATH": str(ROOT),
                **environment,
            },
            start_new_session=True,
            preexec_fn=(lambda: _set_limits(limits)) if limits else None,  # noqa: PLW1509
        )
        os.close(write)

    @property
    def pid(self) -> int:
        return self.process.pid

    # -- what it says ------------------------------------------------------------------

    def read_log(self, wait: float = 0.0) -> None:
        """Take what the log has now, waiting at most `wait` seconds for something."""
        while ready([self._read], wait):
            data = os.read(self._read, 1 << 20)
            if not data:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.lines.extend(line.decode() for line in lines)
            wait = 0.0

    def shrink_log(self) -> None:
        """Make the pipe of its log one page: a reader that is soon behind."""
        self.read_log()
        fcntl.fcntl(self._read, F_SETPIPE_SZ, 4096)

    def wait_log(
        self, pattern: str, *, count: int = 1, deadline: float = DEADLINE
    ) -> str:
        """Wait until `count` lines match; returns the last of them."""
        until = time.monotonic() + deadline
        while True:
            matching = self.log(pattern)
            if len(matching) >= count:
                return matching[count - 1]
            left = until - time.monotonic()
            assert left > 0, (
                f"no {pattern!r} ({len(matching)}/{count}) in:\n{self.text()}"
            )
            assert self.process.poll() is None or self._more(), self.text()
            self.read_log(min(left, 0.2))

    def _more(self) -> bool:
        before = len(self.lines)
        self.read_log(0.2)
        return len(self.lines) > before

    def log(self, pattern: str) -> list[str]:
        """Return every line so far that matches."""
        self.read_log()
        return [line for line in self.lines if re.search(pattern, line)]

    def text(self) -> str:
        return "\n".join(self.lines[-60:])

    def wait_state(self, pattern: str, *, deadline: float = DEADLINE) -> str:
        """Wait for a datagram to the service manager."""
        until = time.monotonic() + deadline
        while True:
            for state in self.states:
                if re.search(pattern, state):
                    self.states.remove(state)
                    return state
            left = until - time.monotonic()
            assert left > 0, f"no state {pattern!r} in {self.states}\n{self.text()}"
            fds = ready([self.notify.fileno(), self._read], left)
            if self._read in fds:
                self.read_log()
                if self.process.poll() is not None:
                    self.read_log(0.2)
                    raise AssertionError(
                        f"ended {self.process.returncode}:\n{self.text()}"
                    )
            if self.notify.fileno() in fds:
                self.states.append(self.notify.recv(65536).decode())

    # -- asking it ---------------------------------------------------------------------

    def address(self, service: str, kind: str = "tcp") -> tuple[str, int]:
        """Ask for the address a service listens on (its first of that kind)."""
        line = self.wait_log(rf'listen service={service} listener="?{kind} ')
        host, _, port = line.rpartition("address=")[2].strip('"').rpartition(":")
        return host.strip("[]"), int(port)

    def connect(self, service: str, *, timeout: float = DEADLINE) -> socket.socket:
        """Connect to a service; the caller closes."""
        return socket.create_connection(self.address(service), timeout=timeout)

    def talk(
        self, service: str, data: bytes = b"", *, half_close: bool = True
    ) -> bytes:
        """Send, half-close, and return everything up to the end."""
        with self.connect(service) as sock:
            if data:
                sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    def children(self) -> list[int]:
        """Return the pids of its direct children."""
        path = f"/proc/{self.pid}/task/{self.pid}/children"
        return [int(pid) for pid in Path(path).read_text().split()]

    def fds(self) -> dict[str, str]:
        """Return its descriptors."""
        folder = f"/proc/{self.pid}/fd"
        found = {}
        for fd in os.listdir(folder):
            try:
                found[fd] = os.readlink(f"{folder}/{fd}")
            except FileNotFoundError:
                continue
        return found

    def cpu(self) -> float:
        """Return the CPU seconds it has used."""
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    # -- changing it -------------------------------------------------------------------

    def write(self, config: dict[str, Any] | str) -> None:
        """Write its file: a mapping as YAML's JSON subset, or text as it is."""
        text = config if isinstance(config, str) else json.dumps(config, indent=1)
        self.file.write_text(text)

    def reload(self, config: dict[str, Any] | str | None = None) -> None:
        """Write, HUP, and wait until it is in force (or refused)."""
        if config is not None:
            self.write(config)
        self.process.send_signal(signal.SIGHUP)
        self.wait_state("RELOADING=1")
        self.wait_state("READY=1")

    def stop(self, *, status: int = 0, deadline: float = DEADLINE) -> None:
        """TERM, wait, and judge: the status, and no line that was not expected."""
        if self.process.poll() is None:
            self.process.terminate()
        self.wait_end(deadline)
        assert self.process.returncode == status, self.text()
        self.judge()

    def wait_end(self, deadline: float = DEADLINE) -> None:
        """Wait for the process, reading its log so that it can write."""
        until = time.monotonic() + deadline
        fd = os.pidfd_open(self.pid) if self.process.returncode is None else None
        try:
            while fd is not None and self.process.poll() is None:
                left = until - time.monotonic()
                if left <= 0:
                    self.kill()
                    raise AssertionError(f"did not end:\n{self.text()}")
                ready([fd, self._read], left)
                self.read_log()
        finally:
            if fd is not None:
                os.close(fd)
        self.read_log(0.05)

    def kill(self) -> None:
        """SIGKILL, as the out-of-memory killer does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def judge(self) -> None:
        """Fail on what must never be in a log: golden silence."""
        for line in self.lines:
            assert "Traceback" not in line, self.text()
            if re.search(r"Z (error|warning) ", line):
                assert any(
                    re.search(pattern, line) for pattern in self.expected_errors
                ), f"unexpected: {line}\n{self.text()}"

    def close(self) -> None:
        self.kill()
        os.close(self._read)
        self.notify.close()
        (self.folder / "notify").unlink(missing_ok=True)


class DaemonFactory:
    """Makes daemons in one temporary folder, and ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: list[Daemon] = []
        self.path = folder / "superd.yaml"

    def __call__(
        self,
        config: dict[str, Any] | str,
        *,
        ready: bool = True,
        arguments: list[str] | None = None,
        inherit: dict[str, socket.socket] | None = None,
        environment: dict[str, str] | None = None,
        prefix: list[str] | None = None,
        limits: dict[int, tuple[int, int]] | None = None,
        expect: list[str] | None = None,
        constants: dict[str, float] | None = None,
    ) -> Daemon:
        """Start a daemon on this configuration and wait until it serves.

        `constants` are other values for those of the master, by full name: a test must
        not take a minute because a worker is idle after half of one.
        """
        folder = self.folder / f"daemon{len(self.daemons)}"
        folder.mkdir(mode=0o755)
        file = folder / "superd.yaml"
        text = config if isinstance(config, str) else json.dumps(config, indent=1)
        file.write_text(text)
        environment = dict(environment or {})
        if constants:
            path = environment.get("PYTHONPATH", str(ROOT))
            environment["PYTHONPATH"] = f"{_set_constants(folder, constants)}:{path}"
        daemon = Daemon(
            folder,
            arguments=arguments or ["-c", str(file)],
            inherit=inherit or {},
            environment=environment,
            prefix=prefix or [],
            limits=limits or {},
        )
        daemon.expected_errors = expect or []
        self.daemons.append(daemon)
        if ready:
            daemon.wait_state("READY=1")
        return daemon

    def finish(self) -> None:
        """Stop and judge what still runs; end the rest without mercy."""
        try:
            for daemon in self.daemons:
                if daemon.process.poll() is None:
                    daemon.stop()
        finally:
            for daemon in self.daemons:
                daemon.close()


def read_all(sock: socket.socket) -> bytes:
    """Read up to the end of the stream."""
    parts = []
    while data := sock.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


def in_namespace(hosts: str, resolv: str = "") -> list[str]:
    """Run with another /etc/hosts and resolv.conf, in a mount namespace of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (Debian package util-linux)")
    script = (
        "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt && "
        f"printf '{hosts}' >/mnt/hosts && mount --bind /mnt/hosts /etc/hosts && "
        f"printf '{resolv}' >/mnt/resolv && mount --bind /mnt/resolv /etc/resolv.conf && "
        "printf 'hosts: files dns\\n' >/mnt/nss && "
        "mount --bind /mnt/nss /etc/nsswitch.conf; "
        'exec "$@"'
    )
    return ["unshare", "-m", "sh", "-c", script, "sh"]


def eventually(check, what: str, *, deadline: float = DEADLINE) -> Any:
    """Poll a condition that has no descriptor (/proc, say) until it holds."""
    until = time.monotonic() + deadline
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < until, f"never: {what}"
        ready([], 0.01)


def ready(fds: list[int], wait: float) -> list[int]:
    """Wait until one of them is readable; select(2) ends at descriptor 1024."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(wait * 1000)]


def unsent(sock: socket.socket) -> int:
    """Count bytes in a socket's send buffer (SIOCOUTQ)."""
    count = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), 0x5411, count)
    return count[0]


def _set_constants(folder: Path, constants: dict[str, float]) -> Path:
    """Write a sitecustomize that sets them, imported before superd begins."""
    lines = []
    for place, value in constants.items():
        module, _, name = place.rpartition(".")
        lines.append(f"import {module}\n{module}.{name} = {value!r}\n")
    path = folder / "constants"
    path.mkdir()
    (path / "sitecustomize.py").write_text("".join(lines))
    return path


def _set_limits(limits: dict[int, tuple[int, int]]) -> None:
    for number, pair in limits.items():
        resource.setrlimit(number, pair)
