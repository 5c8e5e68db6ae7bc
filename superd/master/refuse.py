"""Tell a refused peer why, and close without losing the message to a reset.

The message goes into the fresh socket's empty buffer: it fits or it does not, nobody
waits. Then the connection is shut down for writing and kept until its peer has closed,
for a second at most: a close with unread bytes would send RST, and the peer would lose
the message. The bytes themselves are discarded in the kernel (MSG_TRUNC, tcp(7)): the
master never sees one.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

LINGER = 1.0
"""Seconds: a refused peer is not worth more."""

ROOM = 256
"""Refused connections kept at once; past that the oldest is closed."""

CHUNK = 1 << 16
TURN = 8


class Entry(NamedTuple):
    """One refused connection and when it is closed at the latest."""

    sock: socket.socket
    until: float


class Refusals:
    """The refused connections whose peers have not closed yet."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}

    def add(self, sock: socket.socket, message: bytes, now: float) -> bool:
        """Send, shut down, keep; False: the peer has gone before us, and so have we."""
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            if message:
                sock.send(message, flags)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return False
        self.entries[sock.fileno()] = Entry(sock, now + LINGER)
        return True

    def excess(self) -> int | None:
        """Name the oldest, to be dropped, when there are too many."""
        return next(iter(self.entries)) if len(self.entries) > ROOM else None

    def discard(self, fd: int) -> bool:
        """Throw away what came; True: the peer has closed and so have we."""
        entry = self.entries[fd]
        flags = socket.MSG_DONTWAIT | socket.MSG_TRUNC
        for _ in range(TURN):
            try:
                if not entry.sock.recv(CHUNK, flags):
                    break
            except BlockingIOError:
                return False
            except OSError:
                break  # reset by the peer
        else:
            return False
        self.drop(fd)
        return True

    def expire(self, now: float) -> list[int]:
        """Close what is over its time; returns the descriptors."""
        gone = [fd for fd, entry in self.entries.items() if now >= entry.until]
        for fd in gone:
            self.discard(fd)
            if fd in self.entries:
                self.drop(fd)
        return gone

    def drop(self, fd: int) -> None:
        """Close one for good."""
        self.entries.pop(fd).sock.close()

    def close(self) -> None:
        """Close them all: superd ends."""
        for fd in list(self.entries):
            self.drop(fd)
