"""Move log lines out: to a descriptor, or as datagrams to syslog or the journal."""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOM = 1 << 16
"""Bytes that wait for a slow reader; the next line is dropped and counted."""

PIECE = 4096
"""PIPE_BUF: a write of no more is whole or not at all (pipe(7))."""

FACILITY_DAEMON = 3
_LATER = (errno.EAGAIN, errno.ENOBUFS)


class Sink(Protocol):
    """Where lines go."""

    stamps: bool
    """The other side puts the time on each line itself."""

    def put(
        self,
        text: str,
        priority: int,
        verb: str,
        fields: Sequence[tuple[str, object]],
    ) -> None:
        """Take one line."""

    def flush(self) -> None:
        """Send what is queued, as far as it goes now."""

    def is_waiting(self) -> bool:
        """Say whether lines are queued that could not be sent yet."""

    def take_lost(self) -> int:
        """Return, once, how many lines were dropped, when lines go through again."""

    def close(self) -> None:
        """Let go of descriptors that are ours."""

    def reopen(self) -> None:
        """Open a file anew (a log was rotated)."""


class Descriptor:
    """Lines to a pipe, a file, a terminal or a stream socket."""

    def __init__(
        self, fd: int, *, owned: bool, stamps: bool = False, path: str = ""
    ) -> None:
        self.stamps = stamps
        self._fd = fd
        self._owned = owned
        self._path = path
        self._queue = bytearray()
        self._lost = 0
        self._broken = False
        """The last write failed: a report of what was lost would be lost as well."""
        mode = os.fstat(fd).st_mode
        self._is_socket = stat.S_ISSOCK(mode)
        # A description that we share may block: then poll is asked before each piece.
        self._ask = not owned and not self._is_socket

    def put(
        self,
        text: str,
        priority: int,
        verb: str,  # noqa: ARG002
        fields: Sequence[tuple[str, object]],  # noqa: ARG002
    ) -> None:
        """Queue one line, or count it as dropped."""
        line = (f"<{priority}>{text}\n" if self.stamps else f"{text}\n").encode()
        if len(self._queue) + len(line) > ROOM:
            self.flush()
        if len(self._queue) + len(line) > ROOM:
            self._lost += 1
        else:
            self._queue += line

    def flush(self) -> None:
        """Write in pieces of whole lines, as far as it goes without waiting."""
        while self._queue:
            end = self._queue.rfind(b"\n", 0, PIECE) + 1 or self._queue.find(b"\n") + 1
            try:
                sent = self._write(bytes(self._queue[:end]))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EINTR:
                    continue
                # EPIPE, ENOSPC, EIO: nobody can be told but the next reader.
                self._lost += self._queue.count(b"\n")
                self._queue.clear()
                self._broken = True
                return
            del self._queue[:sent]
            self._broken = False

    def _write(self, piece: bytes) -> int:
        if self._is_socket:
            flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
            sock = socket.socket(fileno=os.dup(self._fd))
            with sock:
                return sock.send(piece, flags)
        if self._ask:
            if not _writable(self._fd):
                raise BlockingIOError
            piece = piece[:PIECE]  # poll promised room for that, and for no more
        return os.write(self._fd, piece)

    def is_waiting(self) -> bool:
        """Say whether lines are queued that could not be sent yet."""
        return bool(self._queue)

    def take_lost(self) -> int:
        """Return the number of dropped lines once there is room again."""
        if not self._lost or self._broken or len(self._queue) > ROOM // 2:
            return 0
        lost, self._lost = self._lost, 0
        return lost

    def close(self) -> None:
        """Close the descriptor if it is ours."""
        if self._owned:
            os.close(self._fd)

    def reopen(self) -> None:
        """Open the file anew; where that fails the old one goes on being written."""
        if not self._path:
            return
        fd = open_file(self._path)
        self.flush()
        os.close(self._fd)
        self._fd = fd


class Datagram:
    """Lines to /dev/log (RFC 3164, as every local syslogd reads it) or to the journal."""

    def __init__(self, path: str, *, syslog: bool) -> None:
        self.stamps = True
        self._path = path
        self._syslog = syslog
        self._lost = 0
        self._sock: socket.socket | None = None
        self._retry_at = 0.0

    def put(
        self,
        text: str,
        priority: int,
        verb: str,
        fields: Sequence[tuple[str, object]],
    ) -> None:
        """Send one datagram, or count it as dropped."""
        sock = self._connected()
        if sock is None:
            self._lost += 1
            return
        if self._syslog:
            code = FACILITY_DAEMON * 8 + priority
            data = f"<{code}>superd[{os.getpid()}]: {text}".encode()
        else:
            data = _journal(text, priority, verb, fields)
        try:
            sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            self._lost += 1
            if error.errno not in _LATER:
                self.close()  # the daemon restarted: its socket is another one now

    def _connected(self) -> socket.socket | None:
        if self._sock is None and time.monotonic() >= self._retry_at:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sock.setblocking(False)
            try:
                sock.connect(self._path)
            except OSError:
                sock.close()
                self._retry_at = time.monotonic() + 1.0
            else:
                self._sock = sock
        return self._sock

    def flush(self) -> None:
        """Nothing is ever queued here."""

    def is_waiting(self) -> bool:
        """Nothing is ever queued here."""
        return False

    def take_lost(self) -> int:
        """Return the number of dropped lines once there is a receiver again."""
        if not self._lost or self._connected() is None:
            return 0
        lost, self._lost = self._lost, 0
        return lost

    def close(self) -> None:
        """Forget the connection; the next line makes a new one."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def reopen(self) -> None:
        """Connect anew with the next line."""
        self.close()


def _journal(
    text: str, priority: int, verb: str, fields: Sequence[tuple[str, object]]
) -> bytes:
    """Spell an entry of the native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""
    lines = [
        f"MESSAGE={text}",
        f"PRIORITY={priority}",
        "SYSLOG_IDENTIFIER=superd",
        f"SUPERD_EVENT={verb}",
    ]
    for key, value in fields:
        name = "".join(c if c.isalnum() and c.isascii() else "_" for c in key.upper())
        plain = " ".join(str(value).split())
        lines.append(f"SUPERD_{name}={plain}")
    return ("\n".join(lines) + "\n").encode()


def open_file(path: str) -> int:
    """Open a log file to append to; a FIFO that nobody reads is ENXIO, not a wait."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o640)


def _writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))
