"""Run a program the inetd way: its fd 0 and 1 are the server's end of a connection.

Two ways to the same contract: `spawn` starts a program, as any inetd does; `fork` calls
a handler's `main` in a forked process, as superd's warm launcher does, and costs 2 ms
where an interpreter costs 50. Both give a `Served`, the peer's end of it.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import select
import signal
import socket
import sys
import tempfile
import time
from contextlib import contextmanager, suppress

DEADLINE = 10.0
"""Seconds after which a test that waits for something has failed."""


class Served:
    """One connection and the process that serves it, seen by the peer."""

    def __init__(self, sock, pid, log):
        self.sock = sock
        self.pid = pid
        self._log = log
        self._status = None
        self._pidfd = os.pidfd_open(pid)
        sock.settimeout(DEADLINE)

    def send(self, data):
        """Send; a handler that has ended already is no failure of the sender."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)
        return self

    def end(self):
        """Half-close: no more is sent, the answer is still wanted."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        return self

    def read(self):
        """Read until the handler closes."""
        parts = []
        while data := self.sock.recv(1 << 18):
            parts.append(data)
        return b"".join(parts)

    def read_until(self, end):
        data = b""
        while end not in data:
            more = self.sock.recv(65536)
            assert more, f"closed after {data!r}"
            data += more
        return data

    def talk(self, *pieces):
        """Send the pieces, half-close, and return the whole answer."""
        for piece in pieces:
            self.send(piece)
        return self.end().read()

    def reset(self):
        """Vanish with an RST."""
        linger = (1).to_bytes(4, sys.byteorder) + bytes(4)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()

    def wait(self):
        """Return the exit code; a death by signal is its negative number."""
        if self._status is None:
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            assert poller.poll(DEADLINE * 1000), f"still running; log: {self.log!r}"
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    @property
    def log(self):
        """What it wrote to fd 2."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode()

    def close(self):
        self.sock.close()
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._pidfd)


def connection(kind="tcp"):
    """Return the peer's and the handler's end of one connection."""
    if kind == "pair":
        return socket.socketpair()
    if kind == "records":
        # Each send is one read at the other side: the only way to cut bytes reliably.
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        return peer, listener.accept()[0]


@contextmanager
def _serving(kind, start, early=b""):
    peer, end = connection(kind)
    if early:
        peer.sendall(early)
    with tempfile.TemporaryFile() as log, peer:
        with end:
            pid = start(end.fileno(), log.fileno())
        served = Served(peer, pid, log)
        try:
            yield served
        finally:
            served.close()


def spawn(argv, *, kind="tcp", env=None, cwd=None):
    """Start a program with the connection as fd 0 and 1."""

    def start(end, log):
        where = cwd or "."
        program = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', where, *argv]
        return os.posix_spawn(
            program[0],
            program,
            {"PATH": os.environ["PATH"], **(env or {})},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, end, 0),
                (os.POSIX_SPAWN_DUP2, end, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            setsid=True,
        )

    return _serving(kind, start)


def spawn_handler(name, *flags, kind="tcp"):
    """Start a handler as other inetds do: `python -m superd.handlers.NAME`."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    argv = [sys.executable, "-m", f"superd.handlers.{name}", *flags]
    return spawn(argv, kind=kind, env={"PYTHONPATH": root}, cwd=root)


def fork(main, *flags, kind="tcp", early=b""):
    """Call a handler's main in a forked process, as a warm launcher does.

    `early` is what the peer has sent before the handler begins.
    """

    def start(end, log):
        pid = os.fork()
        if pid:
            return pid
        try:
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            for target, fd in ((0, end), (1, end), (2, log)):
                os.dup2(fd, target)
            os.closerange(3, 256)
            before = _open_files()
            code = main(list(flags))
            if _open_files() != before:
                os.write(2, b"LEAK: descriptors left open, or their flags changed\n")
        except BaseException as error:  # noqa: BLE001  nothing crosses a fork
            os.write(2, f"CRASH: {error!r}\n".encode())
            code = 99
        finally:
            os._exit(code)

    return _serving(kind, start, early)


def open_fds():
    """Return the numbers of the open descriptors."""
    return sorted(fd for fd in range(64) if _is_open(fd))


def _open_files():
    return [(fd, fcntl.fcntl(fd, fcntl.F_GETFL)) for fd in open_fds()]


def _is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def reached(condition):
    """Wait for a state that no descriptor announces; for /proc and the like."""
    limit = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


def cuts(data, how, rnd=None):
    """Cut bytes the way a network may: whole, line, byte, or at random."""
    if how == "whole":
        return [data] if data else []
    if how == "line":
        return data.splitlines(keepends=True)
    if how == "byte":
        return [data[i : i + 1] for i in range(len(data))]
    points = sorted({0, len(data), *(rnd.randrange(len(data) + 1) for _ in range(8))})
    return [data[a:b] for a, b in itertools.pairwise(points) if a < b]
