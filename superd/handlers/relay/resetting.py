"""End a connection by a reset, so that what was cut short never looks whole.

The rule of the file: a reset of one side becomes a reset of the other. A FIN says "that
was all", and a peer must not hear it of an answer that was lost.

The peer's socket is not ours alone: superd's launcher has it as well, and as long as it
is open there, no close(2) of ours ends the connection, with or without SO_LINGER. But
connect(2) with the address AF_UNSPEC dissolves the association of the socket itself
(tcp_disconnect() in the kernel): RST at once, whoever else holds it. Python's connect()
cannot say AF_UNSPEC, so the C library is asked, which is loaded when the first reset is
sent. A Unix socket knows neither: its peer sees an end.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import termios
from contextlib import contextmanager, suppress
from importlib import import_module

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_NOBODY: Final = bytes(16)
"""A sockaddr of the family AF_UNSPEC."""
_RESET: Final = struct.pack("ii", 1, 0)
_LINGER_NOT: Final = struct.pack("ii", 0, 0)

LAST: Final = 2.0
"""Seconds that what came before a reset has to arrive: a reset overtakes what is unsent."""
LOOK: Final = 0.01
"""Seconds between two looks whether it has: no event tells."""


def reset(fd: int) -> None:
    """Send RST and forget what is unsent; the descriptor stays open.

    To be called for a connection, never for a listening socket, which would end too.
    """
    try:
        ctypes = import_module("ctypes")
    except ImportError:  # a Python that was built without libffi
        return
    ctypes.CDLL(None).connect(fd, _NOBODY, len(_NOBODY))


def reset_peer(sock: socket.socket) -> None:
    """Reset a peer's connection; nothing where it is closed, or is a Unix socket."""
    if sock.family != socket.AF_UNIX and sock.fileno() >= 0:
        reset(sock.fileno())


def arm(sock: socket.socket) -> None:
    """Let every close of this socket be a reset, also that of a process that is killed."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def disarm(sock: socket.socket) -> None:
    """Let the close be an orderly end: both sides have said all."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


def unsent(fd: int) -> int:
    """Count bytes that a living peer has not acknowledged: SIOCOUTQ, tcp(7)."""
    try:
        with _borrowed(fd) as sock:
            sock.getpeername()  # ENOTCONN: it is gone, and the count stands still
        count = array.array("i", [0])
        fcntl.ioctl(fd, termios.TIOCOUTQ, count)
    except OSError:
        return 0
    return count[0]


@contextmanager
def _borrowed(fd: int) -> Iterator[socket.SocketType]:
    sock = socket.SocketType(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()
