"""Work in a loop: serve many connections at once with the handler's async serve().

One process, one event loop, one task for each connection. The rule of this file: whatever
a handler does, its connection ends with exactly one report, and the others do not notice.
The exceptions to the second half (a call that blocks, a crash of the interpreter) are the
launcher's business: it watches the beat, and starts the next worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any

from superd.core.exitcodes import DONE, SETUP, SLOW
from superd.launcher.environment import add_peer, stream_environment
from superd.launcher.loop_ends import Ends
from superd.launcher.loop_status import CAUGHT, Judge
from superd.streams.reader import Reader
from superd.streams.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from superd.launcher.channel import Channel
    from superd.launcher.spec import Spec

    Kept = list[tuple[list[str], int]]

TURN = 64
"""Connections taken in one turn of the loop, so that those that run are not held up."""

BEAT = 1.0
"""Seconds between signs of life while there are connections."""

KILL_AFTER = 5.0
"""Seconds that a cancelled task has to end: as a process has between TERM and KILL."""

FLUSH_STALL = 30.0
"""Seconds in which a peer must take something of what its handler left unsent."""

FD_SETSIZE = 1024
"""select(2) takes descriptors below it, glibc's FD_SETSIZE."""

NURSERY = 10_000
"""New objects between two collections, and five times as many between those that look at
what survived one: 1 and 10 ms. CPython's 700 is some 40 connections; nothing of ours is in
circles, so there is little to find."""

SIGNALS = {"TERM": signal.SIGTERM, "KILL": signal.SIGKILL}


class Facts:
    """What is known of a connection besides its bytes.

    Apart from Conn, so that nothing a finished connection consists of refers to itself in
    a circle: it is gone without the collector.
    """

    __slots__ = ("_made", "_sock", "_spec", "_words")

    def __init__(self, words: list[str], sock: socket.socket, spec: Spec) -> None:
        self._words = words
        self._sock = sock
        self._spec = spec
        self._made: dict[str, str] | None = None

    def environment(self) -> dict[str, str]:
        """Return the variables that a process would have got; made when asked for."""
        if self._made is None:
            _, conn, number, host, port, name = self._words
            spec, sock = self._spec, self._sock
            made = stream_environment(spec.environment, spec.name, conn, sock, host)
            if sock.family != socket.AF_UNIX:
                add_peer(made, host, port, number, "" if name == "-" else name)
            self._made = made
        return self._made


class Conn:
    """One connection and its task."""

    __slots__ = ("begun", "id", "reader", "signal", "since", "sock", "task", "writer")

    def __init__(
        self,
        words: list[str],
        sock: socket.socket,
        spec: Spec,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.id = words[1]
        self.sock = sock
        self.since = loop.time()
        self.signal = 0
        """What it was cancelled with."""
        self.begun = False
        self.reader = Reader(sock, loop)
        facts = Facts(words, sock, spec)
        self.writer = Writer(sock, loop, self.reader, facts.environment)
        self.task: asyncio.Task[None]


class LoopWorker:
    """The loop and what it serves."""

    def __init__(
        self,
        spec: Spec,
        channel: Channel,
        back: socket.socket,
        beat: Callable[[int], None],
        judge: Judge,
        handler: tuple[Callable[..., Any], Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.conns: dict[str, Conn] = {}
        """What is served, the oldest first."""
        self._spec = spec
        self._channel = channel
        self._beat = beat
        self._judge = judge
        self._serve, self._options = handler
        self._loop = loop
        self._done = loop.create_future()
        self._retired = self._full = False
        self._ends = Ends(loop, back, self._flush_soon)
        # What is on its way already: one flush, one beat, one look at lifetimes.
        self._flushing = self._beating = self._expiring = False
        self._bound = FD_SETSIZE if spec.selector == "select" else sys.maxsize

    def run(self, kept: Kept) -> None:
        """Serve until told to retire, and until the last connection has ended."""
        for words, fd in kept:
            self._connect(words, fd)
        self._loop.add_reader(self._channel.fileno(), self._take)
        self._run_until(self._done)
        self._loop.remove_reader(self._channel.fileno())
        self._run_until(self._loop.create_task(self._end_the_others()))

    def _run_until(self, done: asyncio.Future[None]) -> None:
        while not done.done():
            try:
                self._loop.run_until_complete(done)
            except (SystemExit, KeyboardInterrupt) as error:
                # Of a task that a handler started: asyncio lets these two through.
                self._judge.judge(error)

    async def _end_the_others(self) -> None:
        """End the tasks that handlers left behind; they belong to no connection."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=KILL_AFTER)

    # -- the master's requests --------------------------------------------------------

    def _take(self) -> None:
        taken = 0
        while taken < TURN and (got := self._channel.receive()) is not None:
            records, fds = got
            queue = iter(fds)
            for words in records:
                if words[0] == "conn":
                    self._connect(words, next(queue, None))
                elif words[0] == "kill":
                    self._kill(words[1], words[2])
                elif words[0] == "retire":
                    self._retire()
            taken += len(records)
        if not self._channel.open:
            # It would be readable for ever.
            self._loop.remove_reader(self._channel.fileno())
            self._retire()

    def _connect(self, words: list[str], fd: int | None) -> None:
        if fd is None:
            # recvmsg has dropped what went over our limit of open files (cmsg(3)).
            self._report(f"fail {words[1]} descriptor no descriptor is left")
            return
        if fd >= self._bound:
            os.close(fd)
            self._report(
                f"fail {words[1]} descriptor select() takes descriptors below"
                f" {self._bound} only"
            )
            return
        # Told these two, the constructor asks the kernel for the family alone.
        sock = socket.socket(type=socket.SOCK_STREAM, proto=0, fileno=fd)
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            # As asyncio does: a handler that writes twice would wait 40 ms for the
            # acknowledgement of the first (RFC 1122, 4.2.3.2 and 4.2.3.4).
            with contextlib.suppress(OSError):  # ENOTCONN, EINVAL: the peer has gone
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn = Conn(words, sock, self._spec, self._loop)
        if self._retired:
            conn.reader.retire()
        if self._spec.banner:
            conn.writer.write(self._spec.banner)
        self.conns[conn.id] = conn
        conn.task = self._loop.create_task(self._run(conn))
        if not self._beating:
            self._beating = True
            self._tick()
        lifetime = self._spec.lifetime
        if lifetime is not None and not self._expiring:
            self._expiring = True
            self._loop.call_at(conn.since + lifetime, self._expire, lifetime)

    def _kill(self, number: str, name: str) -> None:
        conn = self.conns.get(number)
        if conn is None:
            return
        conn.signal = SIGNALS[name]
        conn.task.cancel()
        if name == "KILL" or not conn.begun:
            # A task that is cancelled before its first step ends without one.
            self._end(conn, conn.signal, DONE)

    def _retire(self) -> None:
        """Serve what is under way; who only might ask again is let go (RFC 9112 9.5)."""
        self._retired = True
        for conn in self.conns.values():
            conn.reader.retire()
        self._flush_soon()

    # -- a connection's life ----------------------------------------------------------

    async def _run(self, conn: Conn) -> None:
        conn.begun = True
        status = DONE
        try:
            try:
                result = await self._serve(conn.reader, conn.writer, self._options)
                status = (result or DONE) & 0xFF
            except CAUGHT as error:
                if conn.signal and isinstance(error, CancelledError):
                    raise
                status = self._judge.judge(error)
            await conn.writer.flush(FLUSH_STALL)
        except CancelledError as error:
            if not conn.signal:
                status = self._judge.judge(error)
            self._end(conn, conn.signal, status)
            return
        except TimeoutError:
            self._judge.log("the peer was too slow to take the rest")
            status = SLOW
        except ConnectionError:
            pass  # the peer has gone: what was left for it is nobody's
        self._end(conn, 0, status)

    def _end(self, conn: Conn, number: int, status: int) -> None:
        """Report a connection, once; what its task does after that is its own affair."""
        if self.conns.pop(conn.id, None) is None:
            return
        conn.writer.release()
        self._ends.add(conn.sock, conn.id, idle=conn.reader.dismissed)
        self._report(f"end {conn.id} {number} {status} -")

    def _expire(self, lifetime: float) -> None:
        """End what has lived long enough: they stand in the order of their ages."""
        now = self._loop.time()
        over = []
        self._expiring = False
        for conn in self.conns.values():
            if conn.since + lifetime > now:
                self._expiring = True
                self._loop.call_at(conn.since + lifetime, self._expire, lifetime)
                break
            if not conn.signal:
                over.append(conn)
        for conn in over:
            self._channel.note(f"conn {conn.id}: timeouts.lifetime is over: TERM")
            self._flush_soon()
            self._kill(conn.id, "TERM")
            self._loop.call_later(KILL_AFTER, self._kill, conn.id, "KILL")

    def _tick(self) -> None:
        """Show that the loop turns, as long as somebody depends on it."""
        self._beat(len(self.conns))
        self._beating = bool(self.conns)
        if self._beating:
            self._loop.call_later(BEAT, self._tick)

    # -- reports ----------------------------------------------------------------------

    def _report(self, record: str) -> None:
        self._channel.report(record)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        full = not self._channel.flush()
        if full != self._full:
            self._full = full
            if full:
                self._loop.add_writer(self._channel.fileno(), self._flush)
            else:
                self._loop.remove_writer(self._channel.fileno())
        busy = self.conns or self._ends.waiting or full
        if self._retired and not busy and not self._done.done():
            self._done.set_result(None)


def work(
    spec: Spec,
    module: Any,
    channel: Channel,
    back: socket.socket,
    beat: Callable[[int], None],
    kept: Kept,
) -> int:
    """Be a worker of a loop; returns the exit status of the process, which must end.

    To be called in a fresh process that has said `hello`: descriptors placed, signals at
    their default, limits set. `beat` is told how many connections there are, once a
    second while there are any; 0 after the last. `kept` are the `conn` records (all
    words) and descriptors that a predecessor left. The event loop is left as it is: what
    a handler's task holds it with may not end.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        # One peer's end, one file's limit: an error of its call, not the end of all.
        signal.signal(number, signal.SIG_IGN)
    judge = Judge(spec.handler)
    try:
        handler = (module.serve, judge.options(spec.argv, module))
        loop = make_loop(spec.selector)
    except Exception as error:  # noqa: BLE001  whatever its table makes of its flags
        judge.judge(error)
        return SETUP
    loop.set_exception_handler(judge.unasked)
    worker = LoopWorker(spec, channel, back, beat, judge, handler, loop)
    gc.freeze()
    gc.set_threshold(NURSERY, 5, 10)
    worker.run(kept)
    return DONE


def make_loop(selector: str) -> asyncio.AbstractEventLoop:
    """Make an event loop that waits as told: auto, uvloop, epoll, poll or select."""
    if selector in ("auto", "uvloop"):
        try:
            uvloop: Any = importlib.import_module("uvloop")
        except ImportError:
            if selector == "uvloop":
                raise
        else:
            made: asyncio.AbstractEventLoop = uvloop.new_event_loop()
            return made
    kinds = {
        "auto": "DefaultSelector",
        "epoll": "EpollSelector",
        "poll": "PollSelector",
        "select": "SelectSelector",
    }
    return asyncio.SelectorEventLoop(getattr(selectors, kinds[selector])())
