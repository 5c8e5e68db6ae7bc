"""Read fd 0 and write fd 1 by plain system calls, whatever they are.

The rule of the file: a peer that is gone is PeerGone, never a traceback. Nothing here
changes the flags of a file: O_NONBLOCK belongs to the open file description, which is
shared with whoever started us (a shell would find its terminal non-blocking). Where
somebody else has set it, a call that would block waits in poll and tries again.
"""

from __future__ import annotations

import errno
import os
from select import POLLIN, POLLOUT, poll

from superd.handlers.exits import PeerGone, SetupError

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from typing import Final

CHUNK: Final = 65536
"""Bytes of one read: what a pipe holds, and more than most sockets deliver at once."""

DROPS: Final = 16
"""Reads of input nobody wants before we end all the same: 1 MiB."""

ERRNO_PEER_GONE: Final = frozenset(
    {
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
    }
)

ERRNO_NO_CONNECTION: Final = frozenset({errno.ENOTCONN, errno.EDESTADDRREQ})
"""Of a listening socket, and of a UDP socket: what inetd gives with `wait`."""

NO_CONNECTION: Final = "fd 0 is no connection (UDP, or an inetd's wait mode?)"


def read(size: int = CHUNK) -> bytes:
    """Return what the peer sent, at most `size` bytes; empty when it sends no more."""
    while True:
        try:
            return os.read(0, size)
        except BlockingIOError:
            wait(0, POLLIN)
        except OSError as error:
            raise gone_or(error) from None


def write(data: bytes) -> None:
    """Write all of `data`, however long the peer takes."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(1, view) :]
        except BlockingIOError:
            wait(1, POLLOUT)
        except OSError as error:
            raise gone_or(error) from None


def drop_input() -> None:
    """Read away what the peer has sent so far, without waiting for more.

    A socket closed over unread bytes sends RST, and an RST throws away what the peer
    has not read yet: the answer (RFC 1122 4.2.2.13).
    """
    if is_closed_for_us():
        return
    for _ in range(DROPS):
        if not wait(0, POLLIN, 0.0) or not read():
            return


def is_closed_for_us() -> bool:
    """Tell whether whoever started us lingers over the end of the connection.

    superd's launcher does, better than a handler can, and while we wait a worker serves
    nobody else.
    """
    return "SUPERD_SERVICE" in os.environ


def log(text: str) -> None:
    """Write one line to fd 2, the log of the service.

    Control bytes become escapes, so that no peer writes a line of its own.
    """
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    try:
        os.write(2, line.encode("utf-8", "backslashreplace") + b"\n")
    except OSError:
        # Every errno: where the log itself is gone there is nobody left to tell.
        return


def wait(fd: int, events: int, timeout: float | None = None) -> bool:
    """Wait until a descriptor is ready, at most `timeout` seconds; False if not."""
    poller = poll()
    poller.register(fd, events)
    return bool(poller.poll(None if timeout is None else max(0.0, timeout) * 1000))


def gone_or(error: OSError) -> Exception:
    """Name a failed call by who caused it: the peer, the operator, or the system."""
    if error.errno in ERRNO_PEER_GONE:
        return PeerGone(errno.errorcode[error.errno])
    if error.errno in ERRNO_NO_CONNECTION:
        return SetupError(NO_CONNECTION)
    return error
