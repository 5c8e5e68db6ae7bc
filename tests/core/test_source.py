"""Which peers count as one source."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.core.source import source_of, unmap

v4 = st.integers(0, 2**32 - 1).map(IPv4Address)
v6 = st.integers(0, 2**128 - 1).map(IPv6Address)


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("2001:db8::ffff:1", "2001:db8::ffff:1"),
        ("::ffff", "::ffff"),
        ("unix:1000", "unix:1000"),
    ],
)
def test_a_mapped_ipv4_peer_gets_its_ipv4_spelling(host, plain):
    assert unmap(host) == plain


def test_an_ipv4_peer_is_its_own_source():
    assert source_of("192.0.2.1", 32, 64) == "192.0.2.1"


def test_an_ipv6_64_is_one_source():
    one = source_of("2001:db8:0:1::1", 32, 64)
    assert one == source_of("2001:db8:0:1:ffff::2", 32, 64) == "2001:db8:0:1::/64"
    assert one != source_of("2001:db8:0:2::1", 32, 64)


def test_the_scope_of_a_link_local_peer_is_no_other_source():
    assert source_of("fe80::1%eth0", 32, 64) == source_of("fe80::2", 32, 64)


@pytest.mark.parametrize(
    ("prefix", "source"),
    [
        (24, "192.0.2.0/24"),
        (8, "192.0.0.0/8"),
        (0, "0.0.0.0/0"),
        (31, "192.0.2.128/31"),
    ],
)
def test_an_ipv4_prefix_masks(prefix, source):
    assert source_of("192.0.2.129", prefix, 64) == source


@pytest.mark.parametrize("host", ["unix:1000", "", "fd", "not:an:address", "1.2.3"])
def test_what_is_no_address_is_its_own_source(host):
    assert source_of(host, 24, 64) == host


@given(v4, st.integers(0, 31))
def test_ipv4_sources_are_networks(address, prefix):
    expected = str(ip_network((int(address), prefix), strict=False))
    assert source_of(str(address), prefix, 64) == expected


@given(v6, st.integers(0, 128))
def test_ipv6_sources_are_networks(address, prefix):
    network = source_of(str(address), 32, prefix)
    assert address in ip_network(network)
    assert network.endswith(f"/{prefix}")


@given(st.text())
def test_every_text_has_a_source(host):
    assert isinstance(source_of(host, 24, 64), str)
    assert isinstance(source_of(unmap(host), 32, 64), str)
