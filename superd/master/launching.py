"""Start a launcher and talk to it: connections and descriptors go, reports come.

What a launcher says is judged by core/protocol.py before anything is believed; one that
breaks the protocol is killed. Connections are collected during a turn of the main loop
and sent together, up to MAX_FDS in one datagram.
"""

from __future__ import annotations

import array
import errno
import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from superd.core.protocol import MAX_DATAGRAM, MAX_FDS, Ready, Report, parse_reports
from superd.master.compiling import import_path

if TYPE_CHECKING:
    from superd.master.kernel import Kernel

CHOKED = 64
"""Connections that wait for a launcher before its service is not polled."""

HIGH_FD = 20
"""Above the numbers 3 and 4 that the launcher gets, so that no dup2 hits another."""

_AGAIN = (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS)
_LATER = errno.EINTR
_SPACE = socket.CMSG_SPACE(4 * 4)
_RUN = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "launcher", "run.py"
)
ALL_SIGNALS = sorted(
    set(range(1, signal.NSIG)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}
)


class LauncherProcess:
    """The master's end of one launcher."""

    def __init__(
        self, kernel: Kernel, number: int, service: str, spec: dict[str, Any]
    ) -> None:
        self._kernel = kernel
        self.number = number
        self.service = service
        self.ready = False
        self.choked = False
        self.full = False
        """Its channel takes no more for now: it is watched for writing."""
        self.retiring = False
        self.status: str | None = None
        """How it ended, once it was reaped."""
        self.pipe: int | None = None
        """The read end of its handlers' stderr, when it is ready."""
        self.ended = False
        """The channel has come to its end."""
        # (record, descriptor, close it when it is sent)
        self._out: list[tuple[str, int | None, bool]] = []
        self.sock, theirs = kernel.socketpair()
        self.sock.setblocking(False)
        try:
            self.pid = _spawn(kernel, service, theirs, spec)
        except OSError:
            self.sock.close()
            raise
        finally:
            theirs.close()

    def put(self, record: str, fd: int | None = None, *, close: bool = False) -> None:
        """Queue a record; with `close` the descriptor is ours to close when it is sent."""
        self._out.append((record, fd, close))

    def waiting(self) -> int:
        """Count the records that are not sent yet."""
        return len(self._out)

    def flush(self) -> bool:
        """Send what is queued; False: it cannot go now, watch for writing."""
        if not self.ready:
            return True
        while self._out:
            batch = self._batch()
            fds = [fd for _, fd, _ in batch if fd is not None]
            data = "\n".join(record for record, _, _ in batch).encode("ascii")
            try:
                self._kernel.send(self.sock, data, fds)
            except OSError as error:
                if error.errno in _AGAIN:
                    return False
                self.drop()  # it has died: what was meant for it is closed
                return True
            for _, fd, close in batch:
                if close and fd is not None:
                    os.close(fd)
            del self._out[: len(batch)]
        return True

    def _batch(self) -> list[tuple[str, int | None, bool]]:
        fds = size = 0
        batch = []
        for item in self._out:
            size += len(item[0]) + 1
            fds += item[1] is not None
            if fds > MAX_FDS or size > MAX_DATAGRAM:
                break
            batch.append(item)
        return batch

    def retire(self) -> None:
        """Tell it that nothing more comes, behind what is queued; `kill` still may."""
        if not self.retiring:
            self.retiring = True
            self.put("retire")

    def drop(self) -> None:
        """Close what was not sent."""
        for _, fd, close in self._out:
            if close and fd is not None:
                os.close(fd)
        self._out.clear()

    def forget(self, fd: int) -> bool:
        """Take a connection that is not sent yet out of the queue and close it."""
        for index, (_, other, close) in enumerate(self._out):
            if other == fd and close:
                del self._out[index]
                os.close(fd)
                return True
        return False

    def receive(self) -> list[Report] | None:
        """Take one datagram's reports; None: nothing now. `ended` tells of the end.

        Raises ProtocolError for anything that is not in the protocol.
        """
        try:
            # Not socket.recv_fds: it takes flags and drops them (cpython 3.11).
            data, ancillary, _, _ = self.sock.recvmsg(
                MAX_DATAGRAM, _SPACE, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            if error.errno in (*_AGAIN, _LATER):
                return None
            data, ancillary = b"", []
        received = array.array("i")
        for _, _, raw in ancillary:
            received.frombytes(raw[: len(raw) - len(raw) % received.itemsize])
        fds = list(received)
        if not data:
            self.ended = True
            _close_all(fds)
            return None
        reports: list[Report] = []
        try:
            reports = parse_reports(data)
        finally:
            if fds and self.pipe is None and reports[:1] == [Ready()]:
                self.pipe = fds.pop(0)
                os.set_blocking(self.pipe, False)
            _close_all(fds)
        return reports

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


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
