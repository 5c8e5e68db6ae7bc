"""Ask the kernel who waits in a TCP listener's accept queue: sock_diag(7).

/proc/net/tcp tells the same and writes a line for each connection of the system, those in
TIME_WAIT as well: 5 us each, and a busy machine has tens of thousands. Here the kernel
picks by state and port.
"""

from __future__ import annotations

import socket
import struct

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST_DUMP = 0x301
"""NLM_F_REQUEST and NLM_F_DUMP, netlink(7)."""

CONNECTED = 1 << 1 | 1 << 8
"""ESTABLISHED, or CLOSE_WAIT: the peer has half-closed."""

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI2s2s16s16sI8s")  # struct inet_diag_req_v2
_ANSWER = struct.Struct("=BBBB2s2s16s16sI8sIIIII")  # struct inet_diag_msg


def waiting(port: int) -> frozenset[bytes] | None:
    """Name the connections to a port that nobody has accepted; None: it cannot be told.

    The name is the peer's address and port, and the address that it came to.
    """
    found: set[bytes] = set()
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
        ) as link:
            for family in (socket.AF_INET, socket.AF_INET6):
                link.send(_request(family, port))
                while not _read(link.recv(1 << 16, socket.MSG_DONTWAIT), found):
                    pass
    except OSError:
        return None  # a kernel without inet_diag, or a sandbox without netlink
    return frozenset(found)


def _request(family: int, port: int) -> bytes:
    body = _REQUEST.pack(
        family,
        socket.IPPROTO_TCP,
        0,
        CONNECTED,
        port.to_bytes(2, "big"),
        bytes(2),
        bytes(16),
        bytes(16),
        0,
        b"\xff" * 8,
    )
    size = _HEADER.size + len(body)
    return _HEADER.pack(size, SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, 1, 0) + body


def _read(data: bytes, found: set[bytes]) -> bool:
    """Take one datagram of answers; True: it was the last. Raises OSError."""
    while data:
        size, kind, _, _, _ = _HEADER.unpack_from(data)
        if kind == NLMSG_DONE:
            return True
        if kind == NLMSG_ERROR:
            number = -int.from_bytes(data[16:20], "little", signed=True)
            raise OSError(number, "sock_diag")
        fields = _ANSWER.unpack_from(data, _HEADER.size)
        port, source, peer, inode = fields[5], fields[6], fields[7], fields[-1]
        if inode == 0:  # none until it is accepted
            found.add(peer + port + source)
        data = data[(size + 3) & ~3 :]
    return False
