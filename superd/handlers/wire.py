"""Talk over fd 0 and fd 1 with deadlines.

The rule of the file: no call here waits past the deadline it is given, and a deadline
is a moment of the monotonic clock for the whole of a thing (a line, a head, a body),
not a pause between two bytes: a peer that sends a byte a second would else stay.

Every write to a socket carries MSG_DONTWAIT, because after POLLOUT a blocking send of
more than the free room still blocks. What is no socket (a pipe, a terminal) takes
PIPE_BUF bytes after POLLOUT without blocking.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from select import POLLIN, POLLOUT
from time import monotonic

from superd.handlers import stdio
from superd.handlers.exits import PeerGone, SetupError, TooSlow

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Final, Self

# As numbers: `|` of two enumerated flags takes as long as a system call, and so does the
# class that makes them, socket.socket; SocketType is what is below it.
_MSG_DONTWAIT: Final = int(socket.MSG_DONTWAIT)
_MSG_MORE: Final = int(socket.MSG_MORE)
_PIPE_BUF: Final = 4096
_TIMEVAL: Final = struct.Struct("@ll")
_SEND_STEP: Final = 1.0
"""Seconds one sendfile may block, so that the deadline is looked at once a second."""
_SENDFILE_STEP: Final = 1 << 20
LINGER_TIME: Final = 1.0
"""Seconds a closing handler waits for the peer to see it and close: nginx takes 5."""
LINGER_BYTES: Final = 65536


class Wire:
    """The connection, as a context manager that closes neither fd 0 nor fd 1."""

    __slots__ = ("_out",)

    def __init__(self) -> None:
        self._out = _socket(1)
        if self._out is not None and not _is_connection(self._out):
            self._out.detach()
            raise SetupError(stdio.NO_CONNECTION)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._out is not None:
            self._out.detach()
            self._out = None

    def read(self, size: int, deadline: float, what: str) -> bytes:
        """Return what the peer sent; empty at its end; TooSlow names what was late."""
        if not stdio.wait(0, POLLIN, deadline - monotonic()):
            raise TooSlow(f"the peer was too slow with {what}")
        return stdio.read(size)

    def send_at_once(self) -> None:
        """Switch Nagle's algorithm off.

        It holds a short last packet back until the one before is acknowledged, which
        a peer that waits for the rest puts off for 40 ms (RFC 1122 4.2.3.2, 4.2.3.4).
        """
        if self._out is not None:
            with suppress(OSError):  # EOPNOTSUPP: no TCP
                self._out.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def write(
        self, data: bytes, deadline: float, what: str, *, more: bool = False
    ) -> None:
        """Write all of `data` before the deadline; `more` follows at once."""
        view = memoryview(data)
        while view:
            sent = self.write_some(view, _MSG_MORE if more else 0)
            view = view[sent:]
            if not sent and not stdio.wait(1, POLLOUT, deadline - monotonic()):
                raise TooSlow(f"the peer was too slow to read {what}")

    def write_some(self, data: memoryview, flags: int = 0) -> int:
        """Write what fits now, without waiting; 0 if nothing does."""
        try:
            if self._out is not None:
                return self._out.send(data, _MSG_DONTWAIT | flags)
            if not stdio.wait(1, POLLOUT, 0.0):
                return 0
            return os.write(1, data[:_PIPE_BUF])
        except BlockingIOError:
            return 0
        except OSError as error:
            raise stdio.gone_or(error) from None

    def write_file(
        self, fd: int, start: int, size: int, deadline: float, what: str
    ) -> int:
        """Write `size` bytes of a file from `start`; returns how many it really had."""
        if self._out is None:
            return self._copy_file(fd, start, size, deadline, what)
        # sendfile has no flag for not waiting; the socket's own limit stands in.
        step = _TIMEVAL.pack(int(_SEND_STEP), 0)
        self._out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, step)
        sent = 0
        while sent < size:
            try:
                count = os.sendfile(
                    1, fd, start + sent, min(size - sent, _SENDFILE_STEP)
                )
            except BlockingIOError:
                count = -1
            except OSError as error:
                raise stdio.gone_or(error) from None
            if count == 0:
                break
            sent += max(count, 0)
            if sent < size and monotonic() >= deadline:
                raise TooSlow(f"the peer was too slow to read {what}")
            if count < 0:
                stdio.wait(1, POLLOUT, min(_SEND_STEP, deadline - monotonic()))
        return sent

    def linger(self) -> None:
        """End our side and wait a moment for the peer to end its own.

        A close over unread input sends RST, and the peer loses the answer it was about
        to read. So: FIN, then read and drop, bounded in time and bytes.
        """
        if self._out is None or stdio.is_closed_for_us():
            return
        with suppress(OSError):  # ENOTCONN: the peer is gone already
            self._out.shutdown(socket.SHUT_WR)
        deadline = monotonic() + LINGER_TIME
        dropped = 0
        with suppress(TooSlow, PeerGone):
            while dropped < LINGER_BYTES:
                data = self.read(stdio.CHUNK, deadline, "its end")
                if not data:
                    return
                dropped += len(data)

    def _copy_file(
        self, fd: int, start: int, size: int, deadline: float, what: str
    ) -> int:
        sent = 0
        while sent < size:
            data = os.pread(fd, min(size - sent, stdio.CHUNK), start + sent)
            if not data:
                break
            self.write(data, deadline, what)
            sent += len(data)
        return sent


def _socket(fd: int) -> socket.SocketType | None:
    """Wrap a descriptor that stays open, by detach(); None if it is no socket."""
    try:
        return socket.SocketType(fileno=fd)
    except OSError as error:
        if error.errno == errno.ENOTSOCK:
            return None
        raise


def _is_connection(sock: socket.SocketType) -> bool:
    """Tell whether it is one; a listening socket would be waited on for ever."""
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return not listening and sock.type != socket.SOCK_DGRAM


def peer_of_stdin() -> str:
    """Return the address of the peer of fd 0; empty where it has none.

    As superd and tcpserver tell it, else as the kernel does: inetd says nothing.
    """
    told = os.environ.get("TCPREMOTEIP") or os.environ.get("REMOTE_ADDR")
    if told:
        return told
    sock = _socket(0)
    if sock is None:
        return ""
    try:
        name = sock.getpeername()
    except OSError:
        return ""  # ENOTCONN: it has gone
    finally:
        sock.detach()
    # A unix socket's name is a text, and the peer has mostly none.
    return str(name[0]) if isinstance(name, tuple) else ""
