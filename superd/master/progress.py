"""Measure how much waits in a listening socket, to see what a wait program took.

A wait program that ends without reading leaves the socket readable, and starting it again
at once is the loop that every inetd falls into. Nothing is read to find out.
"""

from __future__ import annotations

import socket
import struct

SO_MEMINFO = 55  # asm-generic/socket.h; first word: SK_MEMINFO_RMEM_ALLOC
_UNACKED = 24  # struct tcp_info.tcpi_unacked: the accept queue of a listening socket


def waiting(sock: socket.socket) -> int | None:
    """Count bytes (datagrams) or connections (streams) that wait; None: unknown."""
    try:
        if sock.family == socket.AF_UNIX:
            return None
        if sock.type == socket.SOCK_DGRAM:
            raw = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 64)
            return int(struct.unpack_from("=I", raw)[0])
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return int(struct.unpack_from("=I", raw, _UNACKED)[0])
    except OSError:
        return None


def took_something(before: int | None, after: int | None, lasted: float) -> bool:
    """Judge a wait program's run: less waits than before, or nothing waits at all.

    More may have come meanwhile; so only a short run that ends with as much waiting as
    it began with has taken nothing. Where it cannot be measured, time alone speaks.
    """
    if lasted >= 1.0:
        return True
    if before is None or after is None:
        return False
    return after == 0 or after < before
