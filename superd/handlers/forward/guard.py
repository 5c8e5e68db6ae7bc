"""Decide which addresses a proxy connects to for strangers.

The rule of the file: what is judged is the address that will be connected to, after the
name was looked up, and never the text that the peer sent: `0x7f.1`, `2130706433` and a
name that answers 127.0.0.1 are all the same to a resolver. An IPv6 address that carries
an IPv4 one is judged as that.
"""

from __future__ import annotations

import ipaddress
from copy import copy
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_CARRIERS: Final = (
    # Prefix, and how many bits behind it the IPv4 address begins.
    (ipaddress.IPv6Network("::ffff:0:0/96"), 96),  # mapped, RFC 4291 2.5.5.2
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 96),  # translated, RFC 2765 2.1
    (ipaddress.IPv6Network("::/96"), 96),  # compatible, RFC 4291 2.5.5.1
    (ipaddress.IPv6Network("64:ff9b::/96"), 96),  # NAT64, RFC 6052 2.1
    (ipaddress.IPv6Network("2002::/16"), 16),  # 6to4, RFC 3056 2
)
_LOCAL: Final = (
    # What ipaddress calls global in some of its versions, and is nobody's on the Internet.
    ipaddress.IPv6Network("2002::/16"),  # 6to4, whose relays are gone, RFC 7526
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # local NAT64, RFC 8215
    ipaddress.IPv6Network("2001::/32"),  # Teredo: its IPv4 addresses are obfuscated
    ipaddress.IPv6Network("fec0::/10"),  # site-local, RFC 3879
    ipaddress.IPv6Network("100::/64"),  # discard only, RFC 6666
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments, RFC 6890
    ipaddress.IPv4Network("192.88.99.0/24"),  # the relays of 6to4, RFC 7526
    ipaddress.IPv4Network("0.0.0.0/8"),  # this network, which Linux takes for loopback
)


def carried(address: Address) -> Address:
    """Return the IPv4 address within an IPv6 one, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        for prefix, bits in _CARRIERS:
            if address in prefix:
                inner = (int(address) >> (96 - bits)) & 0xFFFFFFFF
                return ipaddress.IPv4Address(inner)
    return address


def is_public(address: Address) -> bool:
    """Tell whether this is one host of the Internet.

    Not: loopback, private (RFC 1918, 4193), link-local (the metadata of clouds), shared
    (RFC 6598), multicast, unspecified, reserved, or any of these within an IPv6 address.
    """
    inner = carried(address)
    if inner.is_multicast or not inner.is_global or inner.is_reserved:
        return False
    return not (_is_in(inner, _LOCAL) or _is_in(address, _LOCAL))


class Guard:
    """Which addresses are connected to."""

    def __init__(
        self,
        *,
        allow_private: bool = False,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        own: Iterable[tuple[str, int]] = (),
    ) -> None:
        """Take networks as text; `own`: addresses and ports where this proxy listens.

        Raises ValueError for what is no network.
        """
        self._allow_private = allow_private
        self._allow = [ipaddress.ip_network(one) for one in allow]
        self._deny = [ipaddress.ip_network(one) for one in deny]
        self._own = frozenset((_plain(text), port) for text, port in own)

    def called_at(self, text: str, port: int) -> Guard:
        """Return the guard of a connection that came in at this address.

        A listener on a wildcard has no other address to be known by.
        """
        guard = copy(self)
        guard._own |= {(_plain(text), port)}  # noqa: SLF001  it is one of us
        return guard

    def objection(self, text: str, port: int = 0) -> str:
        """Say why this address is not connected to; empty where it is.

        `text` is what getaddrinfo gives: a scope may stand behind a `%`. The proxy's own
        address has other services on other ports; without a port it is objected to.
        """
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return "no address"
        inner = carried(address)
        if any(inner == own and port in (0, at) for own, at in self._own):
            return "the proxy's own address"
        if _is_in(inner, self._deny) or _is_in(address, self._deny):
            return "a denied network"
        if self._allow_private or _is_in(inner, self._allow):
            # Of these a connection can still be to one host only.
            if inner.is_multicast or inner.is_unspecified:
                return "no address of a host"
            return ""
        return "" if is_public(address) else "a private address"


def _plain(text: str) -> Address:
    return carried(ipaddress.ip_address(text.partition("%")[0]))


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(
        address in network for network in networks if network.version == address.version
    )
