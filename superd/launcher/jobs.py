"""Keep the handlers that run: start, find by pid, reap, and give back their sockets."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING

from superd.core.protocol import clean
from superd.launcher.environment import add_peer, stream_environment
from superd.launcher.holders import (
    can_look,
    children,
    group_lives,
    held_by_others,
    holds_still,
    socket_id,
)
from superd.launcher.spawn import Spawner, SpawnError

if TYPE_CHECKING:
    from superd.launcher.channel import Channel
    from superd.launcher.spec import Spec

SIGNALS = {"TERM": signal.SIGTERM, "KILL": signal.SIGKILL}


class Job:
    """One connection and its handler. `sock` is None once the peer has seen the end."""

    __slots__ = ("conn", "number", "pid", "sock")

    def __init__(self, conn: str, sock: socket.socket | None) -> None:
        self.conn = conn
        self.sock = sock
        self.number = 0
        self.pid = 0


class Jobs:
    """The running handlers of this service."""

    def __init__(
        self,
        spec: Spec,
        spawner: Spawner,
        stderr_fd: int,
        channel: Channel,
        lookups: set[int],
    ) -> None:
        self.running: dict[int, Job] = {}
        self.left: list[tuple[int, socket.socket]] = []
        """Sockets whose handler (its pid) has ended and left processes behind."""
        self.others: list[tuple[int, int]] = []
        """Reaped children that were no handlers: pid and status."""
        self._lookups = lookups
        """The resolver's processes that are not reaped."""
        self._started = 0
        self._strangers: dict[int, int] = {}
        """Processes that handlers left to us (capabilities.py), with the number of the
        newest handler when they were first seen: those started later left them not."""
        self._by_conn: dict[str, Job] = {}
        self._spec = spec
        self._spawner = spawner
        self._stderr_fd = stderr_fd
        self._channel = channel

    def greet(self, job: Job) -> None:
        """Send the banner; a fresh socket's buffer takes it, or the peer goes without."""
        assert job.sock is not None
        try:
            job.sock.send(self._spec.banner, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return  # the peer is gone: its handler will see that as well

    def start(self, job: Job, peer: list[str]) -> bool:
        """Start the handler of a connection; False: reported as failed."""
        sock = job.sock
        assert sock is not None
        host, port, number, name = peer
        environment = stream_environment(
            self._spec.environment, self._spec.name, job.conn, sock, host
        )
        if sock.family != socket.AF_UNIX:
            add_peer(environment, host, port, number, name)
        fd = sock.fileno()
        stderr_fd = fd if self._spec.stderr == "peer" else self._stderr_fd
        try:
            job.pid = self._spawner.stream(fd, stderr_fd, environment)
        except SpawnError as error:
            self._fail(job.conn, error)
            return False
        self._running(job, name)
        return True

    def is_running(self, conn: str) -> bool:
        """Say whether a connection's handler was started and not reaped."""
        return conn in self._by_conn

    def start_wait(self, fd: int, conn: str) -> bool:
        """Start a wait program on a listener."""
        environment = dict(self._spec.environment)
        environment["SUPERD_SERVICE"] = self._spec.name
        environment["SUPERD_CONNECTION"] = conn
        stderr_fd = fd if self._spec.stderr == "peer" else self._stderr_fd
        job = Job(conn, None)
        try:
            job.pid = self._spawner.wait(fd, stderr_fd, environment)
        except SpawnError as error:
            self._fail(conn, error)
            return False
        finally:
            os.close(fd)
        self._running(job, "")
        return True

    def _running(self, job: Job, name: str) -> None:
        self._started += 1
        job.number = self._started
        self.running[job.pid] = job
        self._by_conn[job.conn] = job
        record = f"start {job.conn} {job.pid} {name or '-'}"
        self._channel.report_start(record, time.monotonic())

    def _fail(self, conn: str, error: SpawnError) -> None:
        text = str(error).encode("ascii", "backslashreplace").decode()
        self._channel.report(f"fail {conn} {error.stage} {clean(text)}")

    def reap(self) -> list[socket.socket]:
        """Collect every child that has ended; returns the sockets to close with care.

        SIGCHLD does not count: 500 ends may be one signal. So: until there is none.
        """
        ended: list[Job] = []
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            job = self.running.pop(pid, None)
            if job is None:
                self._lookups.discard(pid)
                self._strangers.pop(pid, None)
                self.others.append((pid, status))
                continue
            del self._by_conn[job.conn]
            number, code = _split(status)
            cpu = round((usage.ru_utime + usage.ru_stime) * 1e6)
            self._channel.report(f"end {job.conn} {number} {code} {cpu}")
            if job.sock is None:
                continue
            if group_lives(pid):
                self.left.append((pid, job.sock))
            else:
                ended.append(job)
        return self._released(ended) if ended else []

    def _released(self, ended: list[Job]) -> list[socket.socket]:
        """Keep back in `left` the sockets that a process of another session holds.

        What a handler leaves behind becomes our child, or a child of one that did. So
        without a stranger that is younger than the handler there is nothing to look for.
        """
        strangers = children() - self.running.keys() - self._lookups
        seen = {pid: self._strangers.get(pid, self._started) for pid in strangers}
        self._strangers = seen
        newest = max(seen.values(), default=0)
        names = {
            socket_id(job.sock.fileno())
            for job in ended
            if job.sock is not None and job.number <= newest
        }
        held = held_by_others(names) if names else names
        done = []
        for job in ended:
            assert job.sock is not None
            if held and socket_id(job.sock.fileno()) in held:
                self.left.append((job.pid, job.sock))
            else:
                done.append(job.sock)
        return done

    def sweep(self) -> list[socket.socket]:
        """Find the connections that nobody but us holds any more; returns them."""
        closed = [
            job
            for pid, job in self.running.items()
            if job.sock is not None
            and not holds_still(pid, socket_id(job.sock.fileno()))
        ]
        if not closed and not self.left:
            return []
        if not can_look():
            return self._sweep_blind()
        names = {socket_id(job.sock.fileno()): job for job in closed if job.sock}
        left = {socket_id(entry[1].fileno()): entry for entry in self.left}
        held = held_by_others({*names, *left})
        done = []
        for name, job in names.items():
            if name not in held and job.sock is not None:
                done.append(job.sock)
                job.sock = None
        self.left = [entry for name, entry in left.items() if name in held]
        done.extend(entry[1] for name, entry in left.items() if name not in held)
        return done

    def _sweep_blind(self) -> list[socket.socket]:
        """Sweep without /proc: all that can be asked is whether a group has ended."""
        left, self.left = self.left, []
        done = []
        for pid, sock in left:
            if group_lives(pid):
                self.left.append((pid, sock))
            else:
                done.append(sock)
        return done

    def kill(self, conn: str, name: str) -> bool:
        """Signal the process group of a handler; False if it has ended.

        A pid that we have not reaped cannot have become somebody else's.
        """
        job = self._by_conn.get(conn)
        if job is None:
            return False
        try:
            os.killpg(job.pid, SIGNALS[name])
        except ProcessLookupError:
            # It has not made its session yet; later, no leader can leave its group.
            os.kill(job.pid, SIGNALS[name])
        except PermissionError:
            self._channel.note(f"conn {conn}: not ours to signal: it changed its user")
            return False
        return True


def _split(status: int) -> tuple[int, int]:
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status), 0
    return 0, os.WEXITSTATUS(status)
