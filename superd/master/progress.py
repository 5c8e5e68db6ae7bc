"""Find out whether a wait program took anything from its listening socket.

A wait program that ends without reading leaves the socket readable, and starting it again
at once is the loop that every inetd falls into. How much waits does not tell: more may have
come meanwhile. So a datagram socket is asked when something was last read from it
(SIOCGSTAMP, socket(7)), and a stream listener who is in its accept queue (sock_diag(7),
/proc/net/unix: the connections that have no inode yet). Nothing is read to find out.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import NamedTuple

from superd.master.sockdiag import waiting

SIOCGSTAMP = 0x8906
SO_MEMINFO = 55  # asm-generic/socket.h; first word: SK_MEMINFO_RMEM_ALLOC
_CONNECTED = ("01", "08")  # ESTABLISHED, or CLOSE_WAIT: the peer has half-closed
_CONNECTING = "02"
"""In /proc/net/unix: connected, and not accepted yet."""

SHORT = 1.0
"""Seconds: a program that ran longer has done something, or cannot be spun."""


class Mark(NamedTuple):
    """What a socket looked like: when it was last read, and what waited in it."""

    stamp: bytes
    memory: int | None
    queue: frozenset[str]
    waiting: int | None = None
    """How many are in the accept queue; None: `queue` says who."""


def mark(sock: socket.socket, *, thorough: bool = True) -> Mark:
    """Look at a socket before it is lent.

    Thorough is who waits: the kernel looks at each connection of the system. Otherwise
    it is only how many, and `took_something` may deny wrongly.
    """
    if sock.type == socket.SOCK_DGRAM:
        return Mark(_stamp(sock), _memory(sock), frozenset())
    if not thorough and sock.family != socket.AF_UNIX:
        return Mark(b"", None, frozenset(), _backlog(sock))
    return Mark(b"", None, _queue(sock))


def took_something(before: Mark, sock: socket.socket, lasted: float) -> bool:
    """Judge the run of a wait program that has just ended."""
    if lasted >= SHORT:
        return True
    if sock.type == socket.SOCK_DGRAM:
        memory = _memory(sock)
        if memory is not None and before.memory is not None and memory < before.memory:
            return True
        return _stamp(sock) != before.stamp
    if before.waiting is not None:
        return _backlog(sock) < before.waiting
    return bool(before.queue - _queue(sock))


def _stamp(sock: socket.socket) -> bytes:
    """Ask when the last datagram that was read had come; the first call switches it on."""
    try:
        return fcntl.ioctl(sock.fileno(), SIOCGSTAMP, bytes(16))
    except OSError:
        return b""  # ENOENT: none was read yet


def _memory(sock: socket.socket) -> int | None:
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 64)
        return int(struct.unpack_from("=I", raw)[0])
    except OSError:
        return None  # a kernel before 4.12


def _backlog(sock: socket.socket) -> int:
    """Count who waits to be accepted: of a listener tcpi_unacked is that, tcp(7)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    return int(struct.unpack_from("=I", info, 24)[0])


def _queue(sock: socket.socket) -> frozenset[str]:
    if sock.family == socket.AF_UNIX:
        return _unix_queue(sock)
    port: int = sock.getsockname()[1]
    told = waiting(port)
    if told is not None:
        return frozenset(one.hex() for one in told)
    return _tcp_queue(f":{port:04X}")


def _tcp_queue(port: str) -> frozenset[str]:
    """Find the same in /proc/net/tcp: where sock_diag is not to be had."""
    found: set[str] = set()
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{table}", encoding="ascii") as file:
                rows = [line.split(None, 10) for line in file]
        except OSError:
            continue  # no /proc, or no such family
        found.update(
            row[2]
            for row in rows
            if row[1].endswith(port) and row[3] in _CONNECTED and row[9] == "0"
        )
    return frozenset(found)


def _unix_queue(sock: socket.socket) -> frozenset[str]:
    """Name who waits in a Unix listener's queue: they bear its address."""
    name = os.fsdecode(sock.getsockname()).replace("\0", "@")
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as file:
            rows = [line.split(None, 7) for line in file]
    except OSError:
        return frozenset()
    waiting = [
        row[0]
        for row in rows
        if row[5:7] == [_CONNECTING, "0"] and row[7:] == [f"{name}\n"]
    ]
    return _tell_apart(waiting)


def _tell_apart(words: list[str]) -> frozenset[str]:
    """Take pointers as names; where kernel.kptr_restrict blanks them, count."""
    if len(set(words)) < len(words):
        return frozenset(map(str, range(len(words))))
    return frozenset(words)
