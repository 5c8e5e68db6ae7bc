"""Answer datagrams of a UDP listener with a handler's `datagram` function.

Every answer leaves from the address that was asked (IP_PKTINFO), and every question
passes the guards first: an answer to a forged source is somebody else's trouble.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

from superd.core.dgramguard import SourceRate, refuse_reason
from superd.core.source import source_of

if TYPE_CHECKING:
    from collections.abc import Callable

TURN = 64
"""Datagrams of one turn, so that a flood does not hold up the launcher's other work."""

IDLE = 60.0
"""Seconds without a datagram after which the socket goes back to the master."""

RATE, BURST, TOTAL = 100.0, 200.0, 5000.0
"""Answers a second to one source, at once, and to all together: a small service's use,
and too little to be an amplifier's."""

IP_PKTINFO = 8  # linux/in.h; the socket module has the IPv6 one only
_MAX = 65535


class DatagramService:
    """One UDP socket that the master lent us, until it is idle or we are retired."""

    def __init__(
        self,
        sock: socket.socket,
        conn: str,
        answer: Callable[[bytes, Any, Any], bytes | None],
        options: Any,
        own_ports: frozenset[int],
        now: float,
    ) -> None:
        self.sock = sock
        self.conn = conn
        self.heard = now
        self.refused: dict[str, int] = {}
        self.faults = 0
        self._answer = answer
        self._options = options
        self._ports = own_ports
        self._rate = SourceRate(RATE, BURST, total=TOTAL)
        self._inet6 = sock.family == socket.AF_INET6
        sock.setblocking(False)
        if self._inet6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)

    def read(self, now: float) -> None:
        """Answer what has come, at most a turn's worth."""
        for _ in range(TURN):
            try:
                data, ancillary, _, peer = self.sock.recvmsg(_MAX, 128)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier answer, consumed by this call
            self.heard = now
            reason = self._refusal(peer[0], peer[1], now)
            if reason:
                self.refused[reason] = self.refused.get(reason, 0) + 1
                continue
            try:
                answer = self._answer(data, (peer[0], peer[1]), self._options)
            except (Exception, SystemExit):  # noqa: BLE001  a bug costs its datagram
                self.faults += 1
                continue
            if isinstance(answer, bytes | bytearray):
                self._send(answer, ancillary, peer)
            elif answer is not None:
                self.faults += 1

    def _refusal(self, host: str, port: int, now: float) -> str | None:
        reason = refuse_reason(host, port, self._ports, allow_loopback=True)
        if reason is None and not self._rate.admit(source_of(host, 32, 64), now):
            return "rate"
        return reason

    def _send(self, answer: bytes | bytearray, ancillary: list[Any], peer: Any) -> None:
        control = [
            (level, kind, self._reply_from(data))
            for level, kind, data in ancillary
            if (level, kind)
            in ((socket.IPPROTO_IP, IP_PKTINFO), (socket.IPPROTO_IPV6, 50))
        ]
        try:
            self.sock.sendmsg([answer], control, 0, peer)
        except OSError:
            # A full buffer or an address that cannot be reached: a datagram is allowed
            # to be lost, and waiting for one peer would hold up the others.
            self.refused["unsent"] = self.refused.get("unsent", 0) + 1

    def _reply_from(self, info: bytes) -> bytes:
        if self._inet6:
            return info
        # struct in_pktinfo: interface, local address, destination. The reply leaves from
        # the destination of the question; the interface is the routing table's choice.
        # A question to a broadcast address thus gets no answer: no socket may send it.
        _, _, destination = struct.unpack("=I4s4s", info)
        return struct.pack("=I4s4s", 0, destination, b"\0\0\0\0")
