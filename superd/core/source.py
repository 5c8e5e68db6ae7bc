"""Mask a peer's address to the source that limits count."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv6Address

_MAPPED = "::ffff:"


def unmap(host: str) -> str:
    """Give an IPv4 peer of a dual-stack socket its IPv4 spelling.

    ::ffff:127.0.0.1 is not in 127.0.0.0/8 for anybody who compares text or networks,
    so the mapped form never passes this point.
    """
    if host.startswith(_MAPPED) and "." in host:
        return host[len(_MAPPED) :]
    return host


def source_of(host: str, ipv4_prefix: int, ipv6_prefix: int) -> str:
    """Name the source of a peer: its address, or its network when masked.

    One IPv6 host usually owns a /64, so a limit by full address would be no limit.
    An address that is none (a Unix peer's `uid:1000`) is its own source.
    """
    if ":" not in host:
        if ipv4_prefix == 32:  # noqa: PLR2004  every bit counts: the address is the source
            return host
        try:
            number = int(IPv4Address(host))
        except AddressValueError:
            return host
        shift = 32 - ipv4_prefix
        return f"{IPv4Address(number >> shift << shift)}/{ipv4_prefix}"
    try:
        number = int(IPv6Address(host.partition("%")[0]))
    except AddressValueError:
        return host
    shift = 128 - ipv6_prefix
    return f"{IPv6Address(number >> shift << shift)}/{ipv6_prefix}"
