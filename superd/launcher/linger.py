"""Close connections so that nothing written is lost to a reset.

Closing a TCP socket with unread bytes in it, or with bytes still arriving, sends RST, and
a RST makes the kernel throw away what it had not delivered yet (RFC 9293, 3.10.7.4; RFC
2525, 2.17). So the end of a connection is: shut down for writing (the peer sees the end
after the last byte), take in and throw away what the peer still sends, close when the peer
closes or has nothing more to get. All of it bounded in time and in number.

A peer that has acknowledged everything and was silent for IDLE has nothing more to get,
whether that time has passed before our end or after it.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import termios
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE = 2.0
"""Seconds without a byte from the peer, nothing left to send: closing is safe enough."""

LIMIT = 30.0
"""Seconds in all, whatever the peer does: nginx's lingering_time."""

ROOM = 512
"""Connections that linger at once; the oldest makes room. A peer pays for it, not we."""

_INFO = struct.Struct("@B43xI4xI")
"""tcpi_state, tcpi_last_data_sent and tcpi_last_data_recv of linux/tcp.h. The latter two
are milliseconds; an end (FIN) and an acknowledgement are no data."""

_FIN_UNACKED = frozenset({4, 9, 11})
"""FIN_WAIT1, LAST_ACK and CLOSING of net/tcp_states.h."""

CHUNK = 1 << 16
TURN = 16
"""Chunks of one connection in one turn, so that a flood does not hold up the others."""


class Entry(NamedTuple):
    """One lingering connection: when it must end, when its peer was last heard."""

    sock: socket.socket
    until: float
    heard: float


class Linger:
    """The connections whose handlers have ended and whose peers have not."""

    def __init__(self, forget: Callable[[int], None]) -> None:
        self.entries: dict[int, Entry] = {}
        self._forget = forget
        """Called with a descriptor before it is closed: stop watching it."""

    def add(self, sock: socket.socket, now: float) -> list[int]:
        """Begin the end of a connection; returns descriptors that are closed to make room.

        What is in `entries` afterwards is to be watched for reading.
        """
        try:
            if not sock.recv(CHUNK, socket.MSG_DONTWAIT):
                sock.close()  # the peer's end is read, nothing is left: this is a FIN
                return []
            settled = False
        except BlockingIOError:
            settled = has_everything(sock, IDLE)
        except OSError:
            sock.close()  # the peer has reset it, there is nobody to lose for
            return []
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()  # ENOTCONN
            return []
        if settled:
            sock.close()
            return []
        fd = sock.fileno()
        self.entries[fd] = Entry(sock, now + LIMIT, now)
        if not self.read(fd, now):
            return []
        if len(self.entries) <= ROOM:
            return []
        oldest = next(iter(self.entries))
        self.drop(oldest)
        return [oldest]

    def read(self, fd: int, now: float) -> bool:
        """Throw away what has come; False: the connection is closed and forgotten."""
        entry = self.entries[fd]
        heard = False
        for _ in range(TURN):
            try:
                data = entry.sock.recv(CHUNK, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                data = b""  # reset by the peer
            if not data:
                self.drop(fd)
                return False
            heard = True
        if heard:
            self.entries[fd] = entry._replace(heard=now)
        return True

    def expire(self, now: float) -> list[int]:
        """Close what has lingered long enough; returns their descriptors."""
        gone = [
            fd
            for fd, entry in self.entries.items()
            if now >= entry.until
            or (now >= entry.heard + IDLE and _unsent(entry.sock) == 0)
        ]
        for fd in gone:
            self.drop(fd)
        return gone

    def drop(self, fd: int) -> None:
        """Close one for good."""
        # epoll(7), Q6: a process that left its handler's group may still have the
        # socket open, and then closing our descriptor does not end the watch.
        self._forget(fd)
        self.entries.pop(fd).sock.close()


def _unsent(sock: socket.socket) -> int:
    """Count bytes that the peer has not acknowledged: SIOCOUTQ, tcp(7) and unix(7)."""
    count = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)
    return count[0]


def has_everything(sock: socket.socket, quiet: float = 0.0) -> bool:
    """Tell whether the peer has all data, and none went either way for so long."""
    if sock.family == socket.AF_UNIX:
        return quiet == 0.0 and _unsent(sock) == 0  # nobody counts the time there
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    state, sent, received = _INFO.unpack(info)
    if min(sent, received) < quiet * 1000:
        return False
    # An end that was sent and is not acknowledged counts as a byte of its own.
    return _unsent(sock) <= (state in _FIN_UNACKED)
