"""Talk to the master: take connections with their descriptors, report what became of them.

Reports are collected and sent together at the end of a turn; what does not fit waits for
the channel to be writable. When the master is gone the reports go nowhere and the
launcher finishes what it has.
"""

from __future__ import annotations

import array
import errno
import os
import socket

from superd.core.protocol import MAX_DATAGRAM, MAX_FDS, clean

COMPANY = 0.005
"""Seconds that the report of a start waits for others: at a thousand connections a second
that halves what wakes the master up, and nobody reads a log within that time."""

_AGAIN = (errno.EAGAIN, errno.ENOBUFS, errno.EINTR)
_ROOM = MAX_DATAGRAM - 4096
_SPACE = socket.CMSG_SPACE(MAX_FDS * 4)


class Channel:
    """The launcher's end of the pair."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
        self._sock.setblocking(False)
        os.set_inheritable(fd, False)
        self._out: list[str] = []
        self.since: float | None = None
        """Since when nothing but starts waits; None: nothing does, or it is urgent."""
        self._urgent = False
        self.open = True
        """The master is there; False after its end."""
        self._heard = True

    def fileno(self) -> int:
        """The descriptor to watch."""
        return self._sock.fileno()

    def receive(self) -> tuple[list[list[str]], list[int]] | None:
        """Take one datagram: its records as words, its descriptors; None: nothing now.

        The end of the master shows as `open` turning False.
        """
        try:
            data, ancillary = self._recvmsg()
        except OSError as error:
            if error.errno in _AGAIN:
                return None
            self.open = False
            return None
        if not data:
            self.open = False
            return None
        records = [line.split(" ") for line in data.decode("ascii").split("\n")]
        return records, descriptors(ancillary)

    def _recvmsg(self) -> tuple[bytes, list[tuple[int, int, bytes]]]:
        # Not socket.recv_fds: it takes flags and drops them (cpython 3.11), and a
        # descriptor without close-on-exec would end up in the next handler.
        flags = socket.MSG_CMSG_CLOEXEC
        try:
            return self._sock.recvmsg(MAX_DATAGRAM, _SPACE, flags)[:2]
        except ConnectionResetError:
            # The master ended with reports unread. The kernel says so once, and ahead
            # of the connections that the master had sent before: they are still there.
            return self._sock.recvmsg(MAX_DATAGRAM, _SPACE, flags)[:2]

    def report(self, record: str) -> None:
        """Queue one record; it leaves with the next flush."""
        self._out.append(record)
        self._urgent = True

    def report_start(self, record: str, now: float) -> None:
        """Queue one that may wait for COMPANY: most handlers have ended by then."""
        self._out.append(record)
        if self.since is None:
            self.since = now

    def due(self, now: float) -> float | None:
        """Say when to flush: now, later, or (None) there is nothing to send."""
        if not self._out:
            return None
        if self._urgent or self.since is None:
            return now
        return self.since + COMPANY

    def note(self, text: str) -> None:
        """Queue a line for the log."""
        ascii_text = text.encode("ascii", "backslashreplace").decode()
        self.report(f"note {clean(ascii_text)}")

    def flush(self) -> bool:
        """Send what is queued; False: the channel is full, watch it for writing."""
        while self._out and self._heard:
            size = taken = 0
            for record in self._out:
                size += len(record) + 1
                if size > _ROOM and taken:
                    break
                taken += 1
            try:
                self._sock.send("\n".join(self._out[:taken]).encode("ascii"))
            except OSError as error:
                if error.errno in _AGAIN:
                    return False
                self._heard = False
                break
            del self._out[:taken]
        if not self._heard:
            self._out.clear()
        self.since, self._urgent = None, False
        return True

    def ready(self, fds: list[int]) -> None:
        """Tell the master that the service stands; the stderr pipe rides along."""
        self._sock.setblocking(True)
        socket.send_fds(self._sock, [b"ready"], fds)
        self._sock.setblocking(False)

    def refuse(self, stage: str, text: str) -> None:
        """Tell the master why this launcher ends."""
        self._sock.setblocking(True)
        ascii_text = text.encode("ascii", "backslashreplace").decode()
        try:
            self._sock.send(f"refuse {stage} {clean(ascii_text)}".encode("ascii"))
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """List what came with a datagram: SCM_RIGHTS, unix(7); all else is not asked for."""
    fds = array.array("i")
    for _, _, raw in ancillary:
        fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
    return fds.tolist()
