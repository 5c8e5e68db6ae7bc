"""Serve as a launcher: take connections, start their handlers, reap, report, linger.

One loop, one thread, nothing in it blocks but the start of a handler itself. When it is
told to retire, or the channel ends because the master has, the launcher takes no more,
finishes what it has, and leaves.
"""

from __future__ import annotations

import gc
import heapq
import importlib
import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from superd.launcher.become import BecomeError
from superd.launcher.channel import Channel
from superd.launcher.jobs import Job, Jobs
from superd.launcher.lent import Lent
from superd.launcher.linger import Linger
from superd.launcher.resolve import Resolver
from superd.launcher.seats import Place, Seats
from superd.launcher.spawn import Spawner
from superd.launcher.spec import CHANNEL_FD, SPEC_FD, Spec, read_spec
from superd.launcher.worker import become_worker, prepare

if TYPE_CHECKING:
    from collections.abc import Callable

TURN = 16
"""Chunks of stderr thrown away in one turn, when the master is gone."""

SWEEP = 1.0
"""Seconds between looks for handlers that closed their connection and live on."""

SPARE_DEADLINES = 1024
"""Deadlines of ended handlers that may lie about before somebody clears up."""

KILL_AFTER = 5.0
"""Seconds between TERM and KILL at the end of timeouts.lifetime."""

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


def main(name: str) -> None:
    """Become ready, serve, leave. Every way out is a report or a status."""
    channel = Channel(CHANNEL_FD)
    try:
        spec = read_spec(name)
        os.close(SPEC_FD)
        launcher = Launcher(spec, channel)
    except BecomeError as error:
        channel.refuse(error.stage, str(error))
        sys.exit(1)
    launcher.run()


class Launcher:
    """The loop and what it watches."""

    def __init__(self, spec: Spec, channel: Channel) -> None:
        self.spec = spec
        self.channel = channel
        _name_process(f"superd: {spec.name}")
        _enter(spec.directory)
        self.stderr_fd, pipe = _open_stderr(spec.stderr)
        module = self._import_handler()
        self.module: Any = module
        self.spawner = Spawner(spec, getattr(module, "main", None))
        self.spawner.raise_own_limit()
        self.linger = Linger(self._unwatch)
        self.resolver = Resolver()
        self.jobs = Jobs(
            spec,
            self.spawner,
            self.stderr_fd,
            channel,
            self.resolver.pids,
        )
        self.seats = Seats(spec, channel, self._work, self._watch_seat)
        self.asking: dict[str, list[Callable[[str], None]]] = {}
        self.deadlines: list[tuple[float, int, str, str]] = []
        self._count = 0
        self._lingering: set[int] = set()
        self._retired = False
        self._swept = 0.0
        self._epoll = select.epoll()
        self.lent = Lent(spec, module, channel, self._epoll)
        self._wake = self._catch_signals()
        self._full = self._watched = False
        self._watch_channel()
        gc.collect()
        gc.freeze()  # a forked handler's collector leaves our objects, and pages, alone
        channel.ready([pipe] if pipe is not None else [])
        self.pipe = pipe

    def run(self) -> None:
        """Serve until the master is gone and the last handler has ended."""
        while self._is_wanted() or self._is_busy() or self._full:
            now = time.monotonic()
            for fd, _ in self._epoll.poll(self._timeout(now)):
                self._handle(fd, time.monotonic())
            self._tick(time.monotonic())
            self._flush()
            if not self._is_wanted():
                self.lent.end_all()
                self._flush()
            if not self.channel.open:
                self._drain_stderr()

    def _is_wanted(self) -> bool:
        return self.channel.open and not self._retired

    def _is_busy(self) -> bool:
        jobs = self.jobs
        waiting = jobs.running or jobs.left or self.linger.entries or self.asking
        return bool(waiting) or self.seats.busy()

    def _handle(self, fd: int, now: float) -> None:
        if fd == self.channel.fileno():
            self._take(now)
        elif fd == self._wake:
            os.read(fd, 4096)
            self._reap(now)
        elif fd in self.linger.entries:
            if not self.linger.read(fd, now):
                return
        elif fd in self.lent.services:
            self.lent.services[fd].read(now)
        elif fd in self.resolver.running:
            self._named(fd, now)
        elif fd in self.seats.marked:
            for left in self.seats.read(fd, now):
                self._end(left.sock, now)
        elif fd == self.seats.back:
            self._take_back(now)

    # -- the master's requests --------------------------------------------------------

    def _take(self, now: float) -> None:
        while (got := self.channel.receive()) is not None:
            records, fds = got
            queue = iter(fds)
            for words in records:
                if words[0] == "kill" and len(words) > 3:  # noqa: PLR2004
                    self.seats.kill(words[1], words[2], words[3])
                elif words[0] == "kill":
                    self.jobs.kill(words[1], words[2])
                elif words[0] == "look":
                    self._look(words[1], words[2], now)
                elif words[0] == "retire":
                    self._retired = True
                else:
                    self._job(words, next(queue, None), now)
        if not self.channel.open:
            self._watch_channel()
            if self.pipe is not None:
                self._epoll.register(self.pipe, READ)

    def _job(self, words: list[str], fd: int | None, now: float) -> None:
        if words[0] == "seat":
            if fd is not None:
                self.seats.add(int(words[1]), fd)
            # Without one the master sees the end of the channel.
        elif fd is None:
            # recvmsg has dropped what went over our limit of open files (cmsg(3)).
            self.channel.report(f"fail {words[1]} descriptor no descriptor is left")
        elif words[0] == "conn":
            self._connection(fd, words[1:], now)
        elif words[0] == "wait":
            self._wait(fd, words[1], now)
        elif words[0] == "serve":
            self.lent.take(fd, words[1:], now)

    def _connection(self, fd: int, words: list[str], now: float) -> None:
        conn, number, host, port = words
        # Told these two, the constructor asks the kernel for the family alone. That must
        # be the true one: for IPv4's, getsockname has no room for an address of IPv6.
        sock = socket.socket(type=socket.SOCK_STREAM, proto=0, fileno=fd)
        job = Job(conn, sock)
        if self.spec.banner:
            self.jobs.greet(job)
        if not self.spec.resolve or sock.family == socket.AF_UNIX:
            self._start(job, [host, port, number, ""], now)
            return
        words = [host, port, number]
        self._ask(
            host,
            lambda name: self._start(job, [*words, name], time.monotonic()),
            now,
        )

    def _look(self, conn: str, host: str, now: float) -> None:
        """Tell the master a name: the connection will go to a worker with it."""
        self._ask(
            host, lambda name: self.channel.report(f"name {conn} {name or '-'}"), now
        )

    def _ask(self, host: str, then: Callable[[str], None], now: float) -> None:
        known = self.resolver.known(host, now)
        if known is not None:
            then(known)
            return
        asking = self.asking.setdefault(host, [])
        asking.append(then)
        if len(asking) == 1:
            pipe = self.resolver.start(host, now)
            if pipe is None:
                self._answer(host, "")
            else:
                self._epoll.register(pipe, READ)

    def _named(self, fd: int, now: float) -> None:
        self._epoll.unregister(fd)
        host, name = self.resolver.finish(fd, now)
        self._answer(host, name)

    def _answer(self, host: str, name: str) -> None:
        for then in self.asking.pop(host, ()):
            then(name)

    # -- workers ----------------------------------------------------------------------

    def _work(self, place: Place, back: int) -> int:
        """Be a worker: in the forked child."""
        limits = self.spawner.worker_limits()
        return become_worker(self.spec, self.module, place, back, limits)

    def _watch_seat(self, fd: int, *, wanted: bool) -> None:
        if wanted:
            self._epoll.register(fd, READ)
        else:
            self._epoll.unregister(fd)

    def _take_back(self, now: float) -> None:
        for _ in range(TURN):
            left = self.seats.take_back()
            if left is None:
                return
            if left.pid:
                self.jobs.left.append((left.pid, left.sock))
            else:
                self._end(left.sock, now)

    def _start(self, job: Job, peer: list[str], now: float) -> None:
        if not self.jobs.start(job, peer):
            assert job.sock is not None
            self._end(job.sock, now)
        elif self.spec.lifetime is not None:
            self._deadline(now + self.spec.lifetime, "TERM", job.conn)

    def _wait(self, fd: int, conn: str, now: float) -> None:
        if self.jobs.start_wait(fd, conn) and self.spec.lifetime is not None:
            self._deadline(now + self.spec.lifetime, "TERM", conn)

    # -- time -------------------------------------------------------------------------

    def _deadline(self, when: float, what: str, conn: str) -> None:
        self._count += 1
        if len(self.deadlines) > 2 * len(self.jobs.running) + SPARE_DEADLINES:
            # Handlers end long before their lifetime does: theirs are dead weight.
            running = self.jobs.is_running
            self.deadlines = [one for one in self.deadlines if running(one[3])]
            heapq.heapify(self.deadlines)
        heapq.heappush(self.deadlines, (when, self._count, what, conn))

    def _timeout(self, now: float) -> float:
        until = now + 3600.0
        due = self.channel.due(now)
        if due is not None and not self._full:
            until = min(until, due)
        if self._is_busy():
            until = min(until, self._swept + SWEEP)
        if self.resolver.running:
            until = min(until, *(one.until for one in self.resolver.running.values()))
        if self.lent.services:
            until = min(until, now + SWEEP)
        if self.deadlines:
            until = min(until, self.deadlines[0][0])
        if self.seats.busy():
            until = min(until, self.seats.timeout(now))
        return max(0.0, until - now)

    def _tick(self, now: float) -> None:
        while self.deadlines and self.deadlines[0][0] <= now:
            _, _, what, conn = heapq.heappop(self.deadlines)
            if self.jobs.kill(conn, what) and what == "TERM":
                self.channel.note(f"conn {conn}: timeouts.lifetime is over: TERM")
                self._deadline(now + KILL_AFTER, "KILL", conn)
        for fd in self.resolver.late(now):
            self._named(fd, now)
        self.seats.tick(now)
        if now - self._swept >= SWEEP:
            self._swept = now
            self.linger.expire(now)
            for sock in [
                *self.jobs.sweep(),
                *self.seats.closed_by_handlers(now, SWEEP),
            ]:
                self._end(sock, now)
            self.lent.sweep(now)

    # -- ends -------------------------------------------------------------------------

    def _reap(self, now: float) -> None:
        for sock in self.jobs.reap():
            self._end(sock, now)
        for pid, status in self.jobs.others:
            self.seats.reaped(pid, status, now)
        self.jobs.others.clear()

    def _end(self, sock: socket.socket, now: float) -> None:
        fd = sock.fileno()
        self.linger.add(sock, now)
        if fd in self.linger.entries:
            self._epoll.register(fd, READ)
            self._lingering.add(fd)

    def _unwatch(self, fd: int) -> None:
        if fd in self._lingering:
            self._lingering.remove(fd)
            self._epoll.unregister(fd)

    # -- the channel and the pipe -----------------------------------------------------

    def _flush(self) -> None:
        due = self.channel.due(time.monotonic())
        if due is None or due > time.monotonic():
            return
        full = not self.channel.flush()
        if full != self._full:
            self._full = full
            self._watch_channel()

    def _watch_channel(self) -> None:
        fd = self.channel.fileno()
        events = (READ if self.channel.open else 0) | (WRITE if self._full else 0)
        if self._watched and events:
            self._epoll.modify(fd, events)
        elif events:
            self._epoll.register(fd, events)
        elif self._watched:
            # Not even watched for its end: that is level-triggered and would spin.
            self._epoll.unregister(fd)
        self._watched = bool(events)

    def _drain_stderr(self) -> None:
        """Keep the handlers' stderr writable when nobody reads the log any more."""
        if self.pipe is None:
            return
        try:
            for _ in range(TURN):
                os.read(self.pipe, 1 << 16)
        except BlockingIOError:
            return

    def _catch_signals(self) -> int:
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)
        self._epoll.register(read, READ)
        return read

    def _import_handler(self) -> Any:
        spec = self.spec
        if spec.exec is not None:
            return None
        sys.path.extend(entry for entry in spec.path if entry not in sys.path)
        os.environ.clear()
        os.environ.update(spec.environment)
        try:
            module = importlib.import_module(spec.module)
        except BaseException as error:  # whatever a module does, sys.exit() as well
            raise BecomeError(
                "import", f"{spec.module}: {type(error).__name__}: {error}"
            ) from error
        prepare(spec, module)
        return module


def _enter(directory: str) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        raise BecomeError("directory", f"{directory}: {error.strerror}") from error


def _open_stderr(where: str) -> tuple[int, int | None]:
    """Open what handlers get as fd 2; returns it and the read end for the master.

    The pipe is made after the identity was taken: /dev/stderr is opened anew through
    /proc, which asks for the permissions of the pipe's owner.
    """
    if where == "log":
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read, False)
        os.dup2(write, 2)
        return write, read
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 2)
    return null, None


def _name_process(name: str) -> None:
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write(name[:15])
    except OSError:
        return  # no /proc: the name is a comfort, not a need
