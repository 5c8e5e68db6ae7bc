"""Perform the core's commands: the master's hands, without an opinion of their own."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

from superd.core import commands as cmd
from superd.core import events as ev
from superd.core import protocol
from superd.core.supervisor import Supervisor
from superd.master import listen, orphans, progress
from superd.master.accept import accept_batch
from superd.master.launching import CHOKED, MAX_NOTES, LauncherProcess
from superd.master.loop import READ, WRITE, Loop
from superd.master.output import Output
from superd.master.refuse import Refusals
from superd.master.reserve import Reserve
from superd.master.seating import AT_ONCE, SHORT_RETRY, Seat, Seating

if TYPE_CHECKING:
    from collections.abc import Callable

    from superd.master.eventlog import EventLog
    from superd.master.kernel import Kernel
    from superd.master.opened import Open

HEARD = 16
"""Datagrams of one launcher that are taken in one turn."""

REPORTS = 1000
"""Records of one launcher in one turn, about: no flood of them holds up the others."""

LAST = 40_000
"""More of either than a channel holds (net.core.wmem_default, 208 KiB): what a launcher
that has ended left there. A handler that has its end may write on for ever."""

LOG_RETRY = 0.25
"""Seconds until lines that a slow reader left waiting are tried again."""


class Shell(Seating):
    """Everything that has a descriptor, and the core that says what to do with it."""

    def __init__(self, kernel: Kernel, loop: Loop, log: EventLog) -> None:
        self.kernel = kernel
        self.loop = loop
        self.log = log
        self.core = Supervisor()
        self.reserve = Reserve(kernel)
        self.refusals = Refusals()
        self.listeners: dict[str, Open] = {}
        self.kept: dict[str, Open] = {}
        """Inherited sockets that no service names now: closing them is not ours."""
        self.conns: dict[int, socket.socket] = {}
        self.launchers: dict[int, LauncherProcess] = {}
        self.seats: dict[int, Seat] = {}
        self.specs: dict[str, dict[str, Any]] = {}
        """The launcher's part of the plan, by service."""
        self.next_conn = 0
        self.aborted = 0
        self._log_retried = False
        self._dirty: set[int] = set()
        self._dirty_seats: set[int] = set()
        self._orphans: dict[int, int] = {}
        self._do: dict[type, Callable[[Any], None]] = {
            cmd.Poll: self._poll,
            cmd.Unpoll: self._unpoll,
            cmd.CloseListener: self._close_listener,
            cmd.StartLauncher: self._start_launcher,
            cmd.RetireLauncher: self._retire_launcher,
            cmd.KillLauncher: self._kill_launcher,
            cmd.Send: self._send,
            cmd.Lend: self._lend,
            cmd.Refuse: self._refuse,
            cmd.Close: self._close,
            cmd.Signal: self._signal,
            cmd.WatchOrphan: self._watch_orphan,
            cmd.Log: self._log,
            cmd.Exit: self._exit,
            **self.seat_commands(),
        }
        loop.after_turn.append(self.flush)

    # -- the way through the core -----------------------------------------------------

    def feed(self, event: ev.Event) -> None:
        """Tell the core what happened and do what it says."""
        self.perform(self.core.handle(event, time.monotonic()))

    def perform(self, commands: list[cmd.Command]) -> None:
        """Do each command in its turn."""
        for command in commands:
            self._do[type(command)](command)

    def tick(self) -> None:
        """Let the core act on its deadlines."""
        now = time.monotonic()
        deadline = self.core.next_deadline()
        if deadline is not None and deadline <= now:
            self.perform(self.core.tick(now))

    def next_deadline(self) -> float | None:
        """When `tick` has something to do."""
        return self.core.next_deadline()

    def flush(self) -> None:
        """At the end of a turn: send the launchers what was collected for them."""
        while self._dirty or self._dirty_seats:
            self._flush_seats()
            launcher = self.launchers.get(self._dirty.pop()) if self._dirty else None
            if launcher is not None:
                self._flush(launcher)
        self.log.flush()
        if self.log.is_waiting() and not self._log_retried:
            # The next event may be an hour away; the end of that turn flushes again.
            self._log_retried = True
            self.loop.later(time.monotonic() + LOG_RETRY, self._retry_log)

    def _retry_log(self) -> None:
        self._log_retried = False

    # -- listeners --------------------------------------------------------------------

    def _poll(self, command: cmd.Poll) -> None:
        key = command.listener
        opened = self.listeners[key]
        opened.polled = True
        kind = self.core.listeners[key].kind
        # A wait program finds its socket blocking, as under every inetd. Here and not at
        # a reload: while the socket is lent its flags are the program's, who shares them.
        opened.sock.setblocking(kind == "wait")
        if kind == "stream":
            call = self._accepting(key, opened)
        else:
            call = self._lending(key, opened)
        self.loop.watch(opened.sock.fileno(), READ, call)

    def _accepting(self, key: str, opened: Open) -> Callable[[int], None]:
        return lambda _events: accept_batch(self, key, opened)

    def _lending(self, key: str, opened: Open) -> Callable[[int], None]:
        def readable(_events: int) -> None:
            self.next_conn += 1
            before = progress.mark(opened.sock, thorough=opened.suspect)
            opened.lent = (before, time.monotonic())
            self.feed(ev.Readable(key, self.next_conn))

        return readable

    def _unpoll(self, command: cmd.Unpoll) -> None:
        opened = self.listeners[command.listener]
        opened.polled = False
        self.loop.forget(opened.sock.fileno())

    def _close_listener(self, command: cmd.CloseListener) -> None:
        opened = self.listeners.pop(command.listener)
        if opened.polled:
            opened.polled = False
            self.loop.forget(opened.sock.fileno())
        if opened.spec["family"] == "fd":
            self.kept[command.listener] = opened
            return
        opened.close()

    # -- connections ------------------------------------------------------------------

    def _send(self, command: cmd.Send) -> None:
        if command.seat:
            self._send_to_seat(command)
            return
        conn = self.core.conns[command.conn]
        launcher = self.launchers.get(command.launcher)
        sock = self.conns.pop(command.conn)
        if launcher is None:  # it could not even be started; LauncherGone is on its way
            sock.close()
            return
        record = f"conn {conn.id} {command.number} {conn.host} {conn.port}"
        launcher.put(record, sock.detach(), close=True)
        self._dirty.add(launcher.number)

    def _lend(self, command: cmd.Lend) -> None:
        launcher = self.launchers.get(command.launcher)
        if launcher is None:
            return
        record = f"{command.verb} {command.conn}"
        if command.verb == "serve":
            record += f" {self._own_ports()}"
        try:
            fd = self.kernel.dup(self.listeners[command.listener].sock.fileno())
        except OSError as error:
            number, text = command.conn, f"dup: {error.strerror}"
            event = ev.NotStarted(launcher.number, number, "lend", text)
            self.loop.later(AT_ONCE, lambda: self.feed(event))
            return
        launcher.put(record, fd, close=True)
        self._dirty.add(launcher.number)

    def _own_ports(self) -> str:
        ports = {
            listen.reported_port(opened.sock)
            for opened in self.listeners.values()
            if opened.sock.type == socket.SOCK_DGRAM
        }
        return ",".join(map(str, sorted(ports)))

    def _refuse(self, command: cmd.Refuse) -> None:
        sock = self.conns.pop(command.conn)
        now = time.monotonic()
        fd = sock.fileno()
        if not self.refusals.add(sock, command.message.encode(), now):
            return
        self.loop.watch(fd, READ, lambda _events: self._discard(fd))
        self.loop.later(self.refusals.entries[fd].until, self._expire_refusals)
        oldest = self.refusals.excess()
        if oldest is not None:
            self.loop.forget(oldest)
            self.refusals.drop(oldest)

    def _discard(self, fd: int) -> None:
        entry = self.refusals.entries[fd]
        self.loop.forget(fd)
        if not self.refusals.discard(fd):
            self.loop.watch(
                entry.sock.fileno(), READ, lambda _events: self._discard(fd)
            )

    def _expire_refusals(self) -> None:
        now = time.monotonic()
        for fd, entry in list(self.refusals.entries.items()):
            if now >= entry.until:
                self.loop.forget(fd)
        self.refusals.expire(now)

    def _close(self, command: cmd.Close) -> None:
        sock = self.conns.pop(command.conn, None)
        if sock is not None:
            sock.close()

    # -- launchers --------------------------------------------------------------------

    def _start_launcher(self, command: cmd.StartLauncher) -> None:
        number, service = command.launcher, command.service
        try:
            launcher = LauncherProcess(
                self.kernel, number, service, self.specs[service]
            )
        except OSError as error:
            status = f"spawn: {error.strerror}"
            self.loop.later(AT_ONCE, lambda: self.feed(ev.LauncherGone(number, status)))
            return
        self.launchers[number] = launcher
        self.loop.watch(
            launcher.sock.fileno(), READ, lambda events: self._talk(launcher, events)
        )
        self.log.write(
            "debug",
            "spawn",
            (("service", service), ("launcher", number), ("pid", launcher.pid)),
        )

    def _talk(self, launcher: LauncherProcess, events: int) -> None:
        if events & WRITE:
            self._flush(launcher)
        if not events & READ:
            return
        self._hear(launcher, HEARD, REPORTS)
        if launcher.ended:
            self._hung_up(launcher)

    def _hear(self, launcher: LauncherProcess, datagrams: int, records: int) -> None:
        """Take what a launcher says, so many datagrams and about so many records."""
        heard = 0
        for _ in range(datagrams):
            try:
                reports = launcher.receive()
            except protocol.ProtocolError as error:
                self.log.write(
                    "error",
                    "kill",
                    (
                        ("service", launcher.service),
                        ("launcher", launcher.number),
                        ("reason", f"it broke the protocol: {error}"),
                    ),
                )
                launcher.kill()
                return
            if reports is None:
                return
            for report in reports:
                self._report(launcher, report)
            heard += len(reports)
            if heard >= records:
                return

    def _report(self, launcher: LauncherProcess, report: protocol.Report) -> None:
        number = launcher.number
        match report:
            case protocol.Start(conn, pid, name):
                self.feed(ev.Started(number, conn, pid, name))
            case protocol.End(conn, signal, status, cpu):
                progressed = self._progressed(number, conn)
                self.feed(ev.Ended(number, conn, signal, status, cpu, progressed))
            case protocol.Fail(conn, stage, text):
                self.feed(ev.NotStarted(number, conn, stage, text))
            case protocol.Ready():
                self._ready(launcher)
            case protocol.Name(conn, name):
                self.feed(ev.Named(number, conn, name))
            case protocol.Refuse(stage, text):
                self.feed(ev.LauncherRefused(number, stage, text))
            case protocol.Note(text):
                self._note(launcher, text)

    def _note(self, launcher: LauncherProcess, text: str) -> None:
        count = launcher.count_note(time.monotonic())
        if count > MAX_NOTES:
            return
        if count == MAX_NOTES:
            text = "too many notes: the rest of this second is not logged"
        fields = (("service", launcher.service), ("text", text))
        self.log.write("warning", "note", fields)

    def _ready(self, launcher: LauncherProcess) -> None:
        if launcher.ready:
            return
        launcher.ready = True
        if launcher.pipe is not None:
            Output(self.loop, self.log, launcher.service, launcher.pipe)
        self.feed(ev.LauncherReady(launcher.number))
        self._dirty.add(launcher.number)

    def _progressed(self, launcher: int, number: int) -> bool:
        conn = self.core.conns.get(number)
        if conn is None or conn.launcher != launcher:
            return True
        opened = self.listeners.get(conn.listener)
        if opened is None or opened.lent is None or conn.host:
            return True
        before, since = opened.lent
        opened.lent = None
        lasted = time.monotonic() - since
        took = progress.took_something(before, opened.sock, lasted)
        doubt = not took and before.waiting is not None
        opened.suspect = not took
        return took or doubt

    def _flush(self, launcher: LauncherProcess) -> None:
        tried = launcher.short
        sent = launcher.flush()
        if launcher.short and not tried:
            # The channel may be writable all the while: watched for that, it would spin.
            self.loop.later(
                time.monotonic() + SHORT_RETRY, lambda: self._try_again(launcher)
            )
        full = not sent and not launcher.short
        fd = launcher.sock.fileno()
        if full != launcher.full and self.loop.is_watched(fd):
            launcher.full = full
            events = READ | WRITE if full else READ
            self.loop.change(fd, events, lambda events: self._talk(launcher, events))
        choked = launcher.waiting() >= CHOKED
        if choked != launcher.choked:
            launcher.choked = choked
            self._choke(launcher)

    def _try_again(self, launcher: LauncherProcess) -> None:
        launcher.short = False
        self._dirty.add(launcher.number)

    def _retire_launcher(self, command: cmd.RetireLauncher) -> None:
        launcher = self.launchers.get(command.launcher)
        if launcher is not None:
            launcher.retire()
            self._dirty.add(launcher.number)

    def _kill_launcher(self, command: cmd.KillLauncher) -> None:
        launcher = self.launchers.get(command.launcher)
        if launcher is not None:
            launcher.kill()

    def _signal(self, command: cmd.Signal) -> None:
        if command.seat:
            self._signal_seat(command)
            return
        launcher = self.launchers.get(command.launcher)
        if launcher is not None:
            launcher.put(f"kill {command.conn} {command.signal}")
            self._dirty.add(launcher.number)

    def reaped(self, pid: int, status: str) -> bool:
        """Take a reaped pid if it is a launcher's; what it had said is heard first."""
        for launcher in self.launchers.values():
            if launcher.pid == pid:
                launcher.status = status
                self._hear(launcher, LAST, LAST)
                self._hung_up(launcher)
                return True
        return False

    def _hung_up(self, launcher: LauncherProcess) -> None:
        """Its channel has ended: when it is reaped as well, the core may know."""
        if launcher.status is None:
            fd = launcher.sock.fileno()
            if self.loop.is_watched(fd):
                self.loop.forget(fd)
            if not launcher.retiring:
                launcher.kill()  # it cannot be talked to any more
            return
        del self.launchers[launcher.number]
        if self.loop.is_watched(launcher.sock.fileno()):
            self.loop.forget(launcher.sock.fileno())
        launcher.close()
        self.feed(ev.LauncherGone(launcher.number, launcher.status))

    def _watch_orphan(self, command: cmd.WatchOrphan) -> None:
        number = command.conn
        try:
            fd = orphans.watch(command.pid)
        except OSError:
            self.loop.later(
                time.monotonic() + SHORT_RETRY, lambda: self._watch_orphan(command)
            )
            return
        if fd is None:
            # Later: the commands that this one came with are not all done yet.
            self.loop.later(AT_ONCE, lambda: self.feed(ev.OrphanGone(number)))
            return
        self._orphans[number] = fd
        self.loop.watch(fd, READ, lambda _events: self._orphan_gone(number))

    def _orphan_gone(self, number: int) -> None:
        fd = self._orphans.pop(number)
        self.loop.forget(fd)
        os.close(fd)
        self.feed(ev.OrphanGone(number))

    # -- the rest ---------------------------------------------------------------------

    def _log(self, command: cmd.Log) -> None:
        self.log.write(command.level, command.verb, command.fields)

    def _exit(self, command: cmd.Exit) -> None:
        self.loop.status = command.status
