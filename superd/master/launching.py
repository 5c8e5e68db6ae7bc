"""Start a launcher and talk to it: connections and descriptors go, reports come.

What a launcher says is judged by core/protocol.py before anything is believed; one that
breaks the protocol is killed. Connections are collected during a turn of the main loop
and sent together, up to MAX_FDS in one datagram.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from superd.core.protocol import (
    MAX_DATAGRAM,
    ProtocolError,
    Ready,
    Report,
    parse_reports,
)
from superd.master.compiling import import_path
from superd.master.outbox import Outbox

if TYPE_CHECKING:
    from superd.master.kernel import Kernel

CHOKED = 64
"""Connections that wait for a launcher before its service is not polled."""

HIGH_FD = 20
"""Above the numbers 3 and 4 that the launcher gets, so that no dup2 hits another."""

_SPACE = socket.CMSG_SPACE(4 * 4)
_RUN = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "launcher", "run.py"
)
ALL_SIGNALS = sorted(
    set(range(1, signal.NSIG)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}
)


MAX_NOTES = 500
"""Notes of one launcher in a second; what it says past that is not logged."""


class LauncherProcess(Outbox):
    """The master's end of one launcher."""

    def __init__(
        self, kernel: Kernel, number: int, service: str, spec: dict[str, Any]
    ) -> None:
        ours, theirs = kernel.socketpair()
        ours.setblocking(False)
        super().__init__(kernel, ours)
        self.number = number
        self.service = service
        self.ready = False
        self.choked = False
        self.retiring = False
        self.status: str | None = None
        """How it ended, once it was reaped."""
        self._noted = (0.0, 0)
        self.pipe: int | None = None
        """The read end of its handlers' stderr, when it is ready."""
        self.ended = False
        """The channel has come to its end."""
        try:
            self.pid = _spawn(kernel, service, theirs, spec)
        except OSError:
            self.sock.close()
            raise
        finally:
            theirs.close()

    def flush(self) -> bool:
        """Send what is queued; False: it cannot go now, watch for writing.

        A launcher that is not ready gets nothing: its channel is for its own start.
        """
        if not self.ready:
            self.short = False
            return True
        sent = super().flush()
        if self.broken:
            self.broken = False
            self.kill()  # what was dropped gets no report
        return sent

    def retire(self) -> None:
        """Tell it that nothing more comes, behind what is queued; `kill` still may."""
        if not self.retiring:
            self.retiring = True
            self.put("retire")

    def receive(self) -> list[Report] | None:
        """Take one datagram's reports; None: nothing now. `ended` tells of the end.

        Raises ProtocolError for anything that is not in the protocol.
        """
        # A launcher that is ready has no descriptor to give: without room for them the
        # kernel discards them, and none of a stranger's files is ever ours to close.
        space = 0 if self.ready else _SPACE
        try:
            data, ancillary = self._recvmsg(space)
        except BlockingIOError:
            return None
        except OSError:
            data, ancillary = b"", []
        received = array.array("i")
        for _, _, raw in ancillary:
            received.frombytes(raw[: len(raw) - len(raw) % received.itemsize])
        fds = list(received)
        if not data:
            self.ended = True
            _close_all(fds)
            return None
        try:
            reports = parse_reports(data)
            if fds and self.pipe is None and reports[:1] == [Ready()]:
                self.pipe = _open_pipe(fds[0])
        finally:
            _close_all(fds)
        return reports

    def _recvmsg(self, space: int) -> tuple[bytes, list[tuple[int, int, bytes]]]:
        # Not socket.recv_fds: it takes flags and drops them (cpython 3.11).
        flags = socket.MSG_CMSG_CLOEXEC
        try:
            return self.sock.recvmsg(MAX_DATAGRAM, space, flags)[:2]
        except ConnectionResetError:
            # It ended with something of ours unread. The kernel says so once, and ahead
            # of the last reports that it had sent before: they are still there.
            return self.sock.recvmsg(MAX_DATAGRAM, space, flags)[:2]

    def count_note(self, now: float) -> int:
        """Count a note; returns how often it has spoken in this second."""
        since, count = self._noted
        if now - since >= 1.0:
            since, count = now, 0
        self._noted = (since, count + 1)
        return count + 1

    def kill(self) -> None:
        """End the process; it is our child and not reaped, so the pid is its own."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the channel; the pipe has a life of its own."""
        self.drop()
        self.sock.close()


def _spawn(
    kernel: Kernel, service: str, channel: socket.socket, spec: dict[str, Any]
) -> int:
    spec = dict(spec, path=import_path().split("\n"))
    memory = kernel.memfd("superd-service")
    opened = [memory]
    try:
        os.write(memory, json.dumps(spec).encode())
        for fd in (channel.fileno(), memory):
            opened.append(kernel.dup(fd, HIGH_FD))  # noqa: PERF401  the 2nd may fail
        return kernel.spawn(
            [sys.executable, "-I", "-S", _RUN, "become", service],
            {"LC_CTYPE": "C.UTF-8"},
            [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, opened[1], 3),
                (os.POSIX_SPAWN_DUP2, opened[2], 4),
            ],
            setsid=True,
            setsigdef=ALL_SIGNALS,
        )
    finally:
        _close_all(opened)


def _open_pipe(fd: int) -> int:
    """Open the read end of a pipe for ourselves; ProtocolError for anything else.

    Of anything else epoll, read or even close may fail or wait. The pipe is opened anew
    because O_NONBLOCK belongs to a description: the launcher could switch it off on one
    that it shares with us, and our next read would wait for ever.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    except OSError as error:
        raise ProtocolError("its handlers' stderr is no pipe") from error
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
        raise ProtocolError("its handlers' stderr is not to be read")
    try:
        return os.open(
            f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except OSError:  # no /proc, or the pipe is another user's
        own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
        os.set_blocking(own, False)
        return own


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
