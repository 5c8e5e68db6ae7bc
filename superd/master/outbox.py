"""Collect records for a launcher or a worker, and send them without ever waiting.

Records queued during a turn of the main loop leave together, up to MAX_FDS descriptors in
one datagram. What cannot go now stays, in order.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from superd.core.protocol import MAX_DATAGRAM, MAX_FDS

if TYPE_CHECKING:
    import socket

    from superd.master.kernel import Kernel

_SHORT = (errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
"""Errors of sendmsg that say "not now" of a channel that is writable: unix(7)."""

MARK = "mark"
"""The last of its datagram: who reads up to it (superd/launcher/seats.py) reads whole
datagrams, and what came behind it in one would be lost."""

_GONE = (errno.EPIPE, errno.ECONNRESET)


class Outbox:
    """What waits for the other end of one channel."""

    __slots__ = ("_kernel", "_most", "_out", "broken", "full", "short", "sock")

    def __init__(
        self, kernel: Kernel, sock: socket.socket, most: int = MAX_DATAGRAM
    ) -> None:
        self._kernel = kernel
        self._most = most
        """Records of one datagram."""
        # (record, descriptor, close it when it is sent)
        self._out: list[tuple[str, int | None, bool]] = []
        self.sock = sock
        self.full = False
        """The channel takes no more for now: it is watched for writing."""
        self.short = False
        """The kernel had no room for what was to be sent: to be tried again later."""
        self.broken = False
        """What was queued is dropped, and nobody else will tell of it."""

    def put(self, record: str, fd: int | None = None, *, close: bool = False) -> None:
        """Queue a record; with `close` the descriptor is ours to close when it is sent."""
        self._out.append((record, fd, close))

    def waiting(self) -> int:
        """Count the records that are not sent yet."""
        return len(self._out)

    def flush(self) -> bool:
        """Send what is queued; False: it cannot go now."""
        self.short = False
        while self._out:
            count, fds, data = self._batch()
            try:
                self._kernel.send(self.sock, data, fds)
            except OSError as error:
                self.short = error.errno in _SHORT
                if self.short or error.errno == errno.EAGAIN:
                    return False
                self.drop()  # it has died: what was meant for it is closed
                self.broken = error.errno not in _GONE
                return True
            for _, fd, close in self._out[:count]:
                if close and fd is not None:
                    os.close(fd)
            del self._out[:count]
        return True

    def _batch(self) -> tuple[int, list[int], bytes]:
        if len(self._out) == 1 or self._most == 1:
            record, fd, _ = self._out[0]
            return 1, [] if fd is None else [fd], record.encode("ascii")
        fds: list[int] = []
        records: list[str] = []
        size = 0
        for record, fd, _ in self._out[: self._most]:
            size += len(record) + 1
            if records and (
                size > MAX_DATAGRAM or (fd is not None and len(fds) == MAX_FDS)
            ):
                break
            records.append(record)
            if fd is not None:
                fds.append(fd)
            if record == MARK:
                break
        return len(records), fds, "\n".join(records).encode("ascii")

    def drop(self) -> None:
        """Close what was not sent."""
        for _, fd, close in self._out:
            if close and fd is not None:
                os.close(fd)
        self._out.clear()
