"""Accept connections in batches and hand each to the core.

At most BATCH connections of a listener in one turn, so that a flooded port cannot starve
the others. The address is the one that accept returned: after a reset getpeername fails,
and an access check that then lets the peer in is worse than none (sshd's srclimit).
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from superd.core.events import Accepted, AcceptFailed
from superd.master.opened import BATCH
from superd.master.reserve import GONE, SHORT

if TYPE_CHECKING:
    from superd.master.opened import Open
    from superd.master.shell import Shell

_CREDENTIALS = struct.Struct("iII")


def accept_batch(
    shell: Shell, key: str, opened: Open, limit: int | None = None
) -> None:
    """Accept until there is none, the batch is full, or the core stops polling.

    As many as there were the last time, and twice that if they are there: to ask for one
    more than there is costs a call and an exception, and epoll asks it anyway.
    """
    sock = opened.sock
    for count in range(limit or opened.batch):
        try:
            conn, address = shell.kernel.accept(sock)
        except BlockingIOError:
            opened.batch = max(1, count)
            return
        except OSError as error:
            number = error.errno or 0
            if number in GONE:
                shell.aborted += 1
                continue
            if number in SHORT:
                shell.reserve.shed(sock)
            # Whatever else it is (EINVAL: somebody who shares the socket has shut it
            # down) would come again at once, and again.
            shell.feed(AcceptFailed(key, f"accept: {error.strerror}"))
            return
        shell.next_conn += 1
        number = shell.next_conn
        if isinstance(address, tuple):
            host, port = address[0], address[1]
        else:
            host, port = _unix_peer(conn)
        shell.conns[number] = conn
        shell.feed(Accepted(number, key, host, port))
        if not opened.polled:
            return
    opened.batch = min(BATCH, 2 * opened.batch)


def _unix_peer(conn: socket.socket) -> tuple[str, int]:
    """Name a Unix peer by its user: SO_PEERCRED, unix(7)."""
    raw = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return f"unix:{uid}", pid
