"""End a connection in a worker: at once where nothing can be lost, else by the launcher.

The end of a connection may take half a minute (linger.py says why). A worker has better
things to do: what cannot be closed at once goes to the launcher, over the socket that all
its workers share.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct

CHUNK = 1 << 16
_INT = struct.Struct("i")
TURNS = 16
"""Reads of what the peer still sends before the launcher takes over: 1 MiB."""

PATIENCE_MS = 100
"""How long the launcher's socket may be full before a connection is closed as it is."""


def finish(sock: socket.socket, conn: str, back: socket.socket) -> None:
    """Shut down for writing and close, here or in the launcher; `sock` is closed here."""
    if end(sock) or hand(sock, conn, back):
        return
    poller = select.poll()
    poller.register(back, select.POLLOUT)
    poller.poll(PATIENCE_MS)
    hand(sock, conn, back)
    sock.close()


def end(sock: socket.socket) -> bool:
    """Shut down for writing; True: the peer has ended as well, and it is closed."""
    try:
        at_end = _at_end(sock)
        # Not left to the close: a handler of a process that lives on may have leaked a
        # copy, and its peer would wait for that one's end.
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        at_end = True  # the peer has reset it, there is nobody to lose for
    if at_end:
        sock.close()
    return at_end


def has_ended(sock: socket.socket) -> bool:
    """Look at one that is shut down; True: the peer has ended, and it is closed."""
    try:
        at_end = _at_end(sock)
    except OSError:
        at_end = True
    if at_end:
        sock.close()
    return at_end


def hand(sock: socket.socket, conn: str, back: socket.socket) -> bool:
    """Give one that is shut down to the launcher; False: it has no room just now."""
    # Not socket.send_fds: it takes flags and drops them (cpython 3.11).
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, _INT.pack(sock.fileno()))
    try:
        back.sendmsg([b"linger %s" % conn.encode()], [rights], socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass  # the launcher has died: nobody can do better
    sock.close()
    return True


def _at_end(sock: socket.socket) -> bool:
    """Throw away what has come; True: the peer's end as well, so the close is a FIN."""
    try:
        for _ in range(TURNS):
            if not sock.recv(CHUNK, socket.MSG_DONTWAIT):
                return True
    except BlockingIOError:
        pass
    return False


def leave(sock: socket.socket, pid: int, back: socket.socket) -> None:
    """Give up a connection that processes of group `pid` may still hold."""
    with sock, contextlib.suppress(OSError):  # the launcher has died: they go on alone
        socket.send_fds(back, [f"left {pid}".encode("ascii")], [sock.fileno()])
