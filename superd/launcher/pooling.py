"""Work in a pool: serve one connection at a time with the handler's main, for ever.

The rule of this file: a connection finds the process as the first one did. What a handler
may have changed (standard streams, directory, umask, signals, timers, environment) is put
back after each; what cannot be put back (a thread, a child process, a bug) ends the
worker, and a fresh one follows.

The record of a connection stays in the seat's channel, with a descriptor in flight, until
the connection has ended: a worker that dies leaves it there for the launcher to close with
care (seats.py).
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from superd.core.exitcodes import BUG
from superd.launcher import finish
from superd.launcher.channel import descriptors
from superd.launcher.child import call
from superd.launcher.environment import add_peer, stream_environment
from superd.launcher.holders import held_by_others, socket_id
from superd.launcher.ledger import RENEW, RETIRED, Ledger
from superd.launcher.pristine import Pristine

if TYPE_CHECKING:
    from collections.abc import Callable

    from superd.launcher.spec import Spec

    Kept = list[tuple[list[str], int]]

RECORD = 4096
"""Bytes of a record, far more than it has."""

MOMENT_MS = 100
"""How long an idle worker waits for a peer to close before the launcher does."""

FD_SPACE = socket.CMSG_SPACE(4)
PEEK = socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC
SEQPACKET = (socket.AF_UNIX, socket.SOCK_SEQPACKET)


class PoolWorker:
    """One worker: its seat, its ledger, and what it must look like."""

    def __init__(
        self,
        spec: Spec,
        main: Callable[[list[str]], int],
        fds: tuple[int, int, int],
        ledger: Ledger,
    ) -> None:
        seat, back, directory = fds
        self._spec = spec
        self._main = main
        self._seat = socket.socket(*SEQPACKET, 0, fileno=seat)
        self._back = socket.socket(*SEQPACKET, 0, fileno=back)
        self._ledger = ledger
        self._pid = os.getpid()
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._log = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, self._null)
        self._pristine = Pristine(spec, directory)
        self._cpu_limit = spec.rlimits.get("cpu")
        self._used = time.process_time_ns()
        self._faults = 0
        self._ending: tuple[socket.socket, str] | None = None
        """Shut down, and its peer is not done."""
        self._poll = select.poll()
        self._poll.register(self._seat, select.POLLIN)
        self._spent = False
        """A fresh worker must follow: something cannot be put back."""

    def run(self, kept: Kept) -> int:
        """Serve until there is a reason to end; returns the exit status."""
        self._seat.setblocking(True)
        self._seat.send(f"hello {self._pid}".encode())
        for words, fd in kept:
            self._serve(words, fd, queued=False)
        while not self._spent:
            self._let_end(MOMENT_MS)
            try:
                data, ancillary, _, _ = self._seat.recvmsg(RECORD, FD_SPACE, PEEK)
            except ConnectionResetError:
                continue  # the master is gone: said once, ahead of what it had sent
            words = data.decode("ascii").split(" ")
            if words[0] == "conn":
                fds = descriptors(ancillary)
                self._serve(words, fds[0] if fds else None, queued=True)
                continue
            self._seat.recv(1)  # a datagram is taken whole, with what is in flight
            if not data or words[0] == "retire":
                self._ledger.leave(RETIRED)
                return 0
        self._let_end(0)
        self._ledger.leave(RENEW)
        return 0

    def _let_end(self, patience_ms: int) -> None:
        """Close the last connection when its peer does; the launcher, if that takes long.

        Most peers close within a fraction of a millisecond, and handing over costs 60 us.
        No other handler runs meanwhile: what comes on the seat ends the wait.
        """
        if self._ending is None:
            return
        sock, conn = self._ending
        self._ending = None
        if patience_ms:
            self._poll.register(sock, select.POLLIN)
            self._poll.poll(patience_ms)
            self._poll.unregister(sock)
        if not finish.has_ended(sock):
            finish.finish(sock, conn, self._back)

    def _serve(self, words: list[str], fd: int | None, *, queued: bool) -> None:
        self._let_end(0)
        conn, number, host, port, name = words[1:]
        if fd is None:
            # recvmsg has dropped what went over the limit of open files (cmsg(3)).
            self._seat.recv(1)
            self._report(f"fail {conn} descriptor no descriptor is left")
            return
        self._ledger.begin(int(conn))
        # Told these two, the constructor asks the kernel for the family alone: a peer's
        # address does not tell it, and getsockname(2) needs the room for the right one.
        sock = socket.socket(type=socket.SOCK_STREAM, proto=0, fileno=fd)
        environment = stream_environment(
            self._spec.environment, self._spec.name, conn, sock, host
        )
        if sock.family != socket.AF_UNIX:
            add_peer(environment, host, port, number, "" if name == "-" else name)
        status = self._call(sock, environment)
        if self._left_children() or self._left_strangers(sock):
            finish.leave(sock, self._pid, self._back)
            self._spent = True
        elif not finish.end(sock):
            self._ending = (sock, conn)
        if queued:
            self._seat.recv(1)
        self._ledger.end()
        if self._ledger.served >= self._spec.requests:
            self._spent = True
        # Until the next connection this process does nothing that would count.
        used = time.process_time_ns()
        cpu, self._used = (used - self._used) // 1000, used
        last = "\nleave" if self._spent else ""
        self._report(f"end {conn} 0 {status} {cpu}{last}")

    def _call(self, sock: socket.socket, environment: dict[str, str]) -> int:
        """Have the connection as fd 0 and 1, call main, and be as before."""
        fd = sock.fileno()
        os.dup2(fd, 0)
        os.dup2(fd, 1)
        if self._spec.stderr == "peer":
            os.dup2(fd, 2)
        if self._spec.banner:
            self._greet(sock)
        if self._cpu_limit is not None:
            self._limit_cpu(self._cpu_limit)
        self._pristine.prepare(environment)
        status = call(self._main, self._spec.handler, list(self._spec.argv))
        if os.getpid() != self._pid:
            os._exit(status)  # a child that the handler forked, on its way out
        if status == BUG or not self._pristine.restore():
            self._spent = True
        os.dup2(self._null, 0)
        os.dup2(self._null, 1)
        os.dup2(self._log, 2)
        return status & 0xFF

    def _greet(self, sock: socket.socket) -> None:
        """Send the banner; a fresh socket's buffer takes it, or the peer goes without."""
        try:
            sock.send(self._spec.banner, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return  # the peer is gone: its handler will see that as well

    def _limit_cpu(self, limit: tuple[int, int | None]) -> None:
        """Allow so many seconds from now on: what earlier connections took is theirs."""
        used = int(time.process_time()) + 1
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        soft = used + limit[0]
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))

    def _left_children(self) -> bool:
        """Reap what the handler started; True: some of it lives on."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return False
        return True

    def _left_strangers(self, sock: socket.socket) -> bool:
        """Say whether a child of a child, now the launcher's, holds the connection.

        Its parent was reaped, and a process does not live without a page fault: where none
        was added to those of our reaped children, there is nobody to look for.
        """
        faults = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
        if faults == self._faults:
            return False
        self._faults = faults
        return bool(held_by_others({socket_id(sock.fileno())}))

    def _report(self, record: str) -> None:
        try:
            self._seat.send(record.encode("ascii"))
        except (BrokenPipeError, ConnectionResetError):
            self._spent = False  # the master is gone: the next record says so


def work(
    spec: Spec,
    main: Callable[[list[str]], int],
    fds: tuple[int, int, int],
    ledger: Ledger,
    kept: Kept,
) -> int:
    """Be a worker of a pool; returns the exit status."""
    signal.set_wakeup_fd(-1)
    sys.argv = [spec.handler, *spec.argv]
    return PoolWorker(spec, main, fds, ledger).run(kept)
