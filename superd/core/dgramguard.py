"""Decide whether a datagram gets an answer.

Everything that keeps two UDP services from answering each other for ever, and us from
being the amplifier of an attack with a forged source, is in this file. Nothing here
knows what time it is.

The attack: one datagram with the forged source "port 7 of B" sent to port 19 of A makes
echo and chargen talk until somebody pulls a plug (CVE-1999-0103, CERT CA-1996-01; in
2024 again as CVE-2024-2169). The guards are the union of what the BSDs have: FreeBSD's
check_loop (the source port is one of our own UDP services), OpenBSD's dg_badinput and
port_good_dg (the source port is reserved or NFS; the source is no single machine).
Debian's inetd dropped the port test, xinetd and inetutils have none at all.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Address, IPv6Address, ip_address

RESERVED = 1024
"""Ports below are the services' (IPPORT_RESERVED): nobody asks from there."""

NFS = 2049
"""The one classic UDP service above: OpenBSD's port_good_dg names it too."""

TABLE = 4096
"""Sources remembered: about half a megabyte; forged sources cannot make it more."""


def refuse_reason(
    host: str,
    port: int,
    own_ports: frozenset[int],
    *,
    allow_loopback: bool,
    own_addresses: frozenset[str] = frozenset(),
    broadcasts: frozenset[str] = frozenset(),
) -> str | None:
    """Say why a datagram from here gets no answer; None: answer it.

    `own_ports` are the ports of every UDP service of this superd, not of one alone.
    `own_addresses` and `broadcasts` are those of this machine's interfaces, if known; a
    datagram from an own address is like one from loopback.
    """
    if port in own_ports:
        return "port-own"
    if port < RESERVED:
        return "port-reserved"
    if port == NFS:
        return "port-nfs"
    text = host.partition("%")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return "no-address"
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            # Whoever gave us the address has not unmapped it, or somebody forged it on
            # an IPv6 wire, where it has no place (RFC 4942 2.2).
            return "mapped"
        if not 1 < int(address) < 1 << 32:
            return _refuse_v6(address, allow_loopback, text in own_addresses)
        # ::a.b.c.d, "v4-compatible": as good or bad as a.b.c.d (RFC 4291 2.5.5.1).
        address = IPv4Address(int(address))
    if text in broadcasts or str(address) in broadcasts:
        return "broadcast"
    own = text in own_addresses or str(address) in own_addresses
    return _refuse_v4(address, allow_loopback, own)


def _refuse_v4(address: IPv4Address, allow_loopback: bool, own: bool) -> str | None:  # noqa: FBT001
    first = int(address) >> 24
    if first == 0:
        return "unspecified"
    if first == 255:  # noqa: PLR2004  255/8, after BSD: the limited broadcast and kin
        return "broadcast"
    if address.is_multicast:
        return "multicast"
    if (own or address.is_loopback) and not allow_loopback:
        return "loopback"
    return None


def _refuse_v6(address: IPv6Address, allow_loopback: bool, own: bool) -> str | None:  # noqa: FBT001
    if address.is_unspecified:
        return "unspecified"
    if address.is_multicast:
        return "multicast"
    if (own or address.is_loopback) and not allow_loopback:
        return "loopback"
    return None


class SourceRate:
    """A token bucket for each source, in a table of fixed size.

    `admit` also takes a token of the bucket for all sources together, where `total` is
    given: forged sources are free, so a limit by source alone limits nothing.
    """

    __slots__ = ("_all", "_buckets", "_burst", "_rate", "_size", "_total")

    def __init__(
        self,
        rate: float,
        burst: float,
        *,
        total: float | None = None,
        size: int = TABLE,
    ) -> None:
        if rate <= 0 or burst < 1 or size < 1 or (total is not None and total <= 0):
            raise ValueError("a rate, a burst and a table have to let something pass")
        self._rate = rate
        self._burst = burst
        self._total = total
        self._size = size
        self._all: tuple[float, float] | None = None
        # source -> (tokens, when they were counted), in the order last seen.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, source: str, now: float) -> bool:
        """Take a token for a datagram of this source; False: there is none."""
        tokens = _refill(self._buckets.get(source), self._rate, self._burst, now)
        admitted = tokens >= 1 and self._take_total(now)
        # Refused datagrams count as seen: a flood keeps its own empty bucket in the
        # table, and cannot get a full one by waiting to be forgotten.
        self._buckets[source] = (tokens - admitted, now)
        self._buckets.move_to_end(source)
        if len(self._buckets) > self._size:
            self._buckets.popitem(last=False)
        return admitted

    def __len__(self) -> int:
        return len(self._buckets)

    def _take_total(self, now: float) -> bool:
        if self._total is None:
            return True
        # A second's worth is the burst of all together.
        tokens = _refill(self._all, self._total, max(1.0, self._total), now)
        self._all = (tokens - (tokens >= 1), now)
        return tokens >= 1


def _refill(
    bucket: tuple[float, float] | None, rate: float, burst: float, now: float
) -> float:
    if bucket is None:
        return burst
    tokens, then = bucket
    return min(burst, tokens + max(0.0, now - then) * rate)
