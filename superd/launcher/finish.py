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
    if not try_to_finish(sock, conn, back):
        poller = select.poll()
        poller.register(back, select.POLLOUT)
        poller.poll(PATIENCE_MS)
        try_to_finish(sock, conn, back)
    sock.close()


def try_to_finish(sock: socket.socket, conn: str, back: socket.socket) -> bool:
    """Do the same without waiting; False: the launcher has no room for it just now."""
    try:
        at_end = _at_end(sock)
        # Not left to the close: a handler of a process that lives on may have leaked a
        # copy, and its peer would wait for that one's end.
        sock.shutdown(socket.SHUT_WR)
        if not at_end:
            # Not socket.send_fds: it takes flags and drops them (cpython 3.11).
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, _INT.pack(sock.fileno()))
            back.sendmsg([b"linger %s" % conn.encode()], [rights], socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass  # the peer has reset it, or the launcher has died: nobody can do better
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
