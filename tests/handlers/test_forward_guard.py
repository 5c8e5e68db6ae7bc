"""Which addresses a proxy connects to, however they are spelt."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.forward.guard import Guard, carried, is_public

PUBLIC = [
    *("8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.255.255"),
    *("100.128.0.1", "169.253.0.1", "223.255.255.1", "2606:4700:4700::1111"),
    *("2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"),
]
PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1"),
    *("127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255"),
    *("192.0.0.1", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.0.1"),
    *("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255"),
    *("240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::808:808", "100::1"),
    *("2001:0:7f00:1::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1"),
    *("2002:808:808::1", "fc00::1", "fd00::1", "fe80::1", "fec0::1", "ff02::1"),
    *("ff0e::1",),
]
SPELLINGS = [
    *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1"),
    *("0x7f.0.0.1", "0177.0.0.1", "017700000001", "0177.1", "127.0.0.2", "0"),
    *("0.0.0.0", "0x0", "10.1", "0xa.1", "012.0.0.1", "167772161", "192.168.1"),
    *("0xc0a80001", "3232235521", "169.254.169.254", "2852039166", "0xa9fea9fe"),
    *("0251.0376.0251.0376", "169.254.43518", "::1", "0:0:0:0:0:0:0:1", "::"),
    *("::ffff:127.0.0.1", "::ffff:7f00:1", "::127.0.0.1", "64:ff9b::127.0.0.1"),
    *("localhost",),
]


@pytest.mark.parametrize("text", PUBLIC)
def test_a_host_of_the_internet_is_connected_to(text):
    assert is_public(ipaddress.ip_address(text))
    assert Guard().objection(text) == ""


@pytest.mark.parametrize("text", PRIVATE)
def test_an_address_that_is_no_host_of_the_internet_is_not(text):
    assert not is_public(ipaddress.ip_address(text))
    assert Guard().objection(text) == "a private address"


@pytest.mark.parametrize("host", SPELLINGS)
def test_no_spelling_leads_to_a_private_address(host):
    """The resolver takes more spellings than anybody thinks of: so it is asked first."""
    found = socket.getaddrinfo(host, 80, type=socket.SOCK_STREAM)
    assert found
    for *_, address in found:
        assert Guard().objection(address[0])
    assert Guard(allow_private=True).objection("10.0.0.1") == ""


def test_private_addresses_can_be_allowed_but_no_group_of_hosts():
    guard = Guard(allow_private=True)
    for text in ("127.0.0.1", "10.0.0.1", "::1", "fe80::1%lo", "fc00::1", "0.1.2.3"):
        assert guard.objection(text) == ""
    for text in ("224.0.0.1", "ff02::1", "0.0.0.0", "::", "::ffff:0.0.0.0"):
        assert guard.objection(text) == "no address of a host"


def test_one_network_can_be_allowed_and_another_denied():
    guard = Guard(allow=["10.1.0.0/16", "fd00::/8"], deny=["8.8.8.0/24", "2600::/12"])
    assert guard.objection("10.1.2.3") == ""
    assert guard.objection("::ffff:10.1.2.3") == ""
    assert guard.objection("fd12::1") == ""
    assert guard.objection("10.2.0.1") == "a private address"
    assert guard.objection("8.8.8.8") == "a denied network"
    assert guard.objection("::ffff:8.8.8.8") == "a denied network"
    assert guard.objection("64:ff9b::808:808") == "a denied network"
    assert guard.objection("2606:4700:4700::1111") == "a denied network"
    assert guard.objection("8.8.4.4") == ""


def test_to_deny_comes_before_to_allow():
    guard = Guard(allow_private=True, allow=["10.0.0.0/8"], deny=["10.1.0.0/16"])
    assert guard.objection("10.1.0.1") == "a denied network"
    assert guard.objection("10.2.0.1") == ""


def test_the_proxy_does_not_connect_to_itself_even_where_private_is_allowed():
    own = [("127.0.0.1", 3128), ("::1", 3128), ("203.0.113.5", 80), ("fe80::1%lo", 80)]
    guard = Guard(allow_private=True, own=own)
    for text in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"):
        assert guard.objection(text, 3128) == "the proxy's own address"
    for text in ("203.0.113.5", "fe80::1", "fe80::1%lo"):
        assert guard.objection(text, 80) == "the proxy's own address"
    assert guard.objection("127.0.0.2", 3128) == ""


def test_other_services_of_the_same_host_are_connected_to():
    guard = Guard(allow_private=True, own=[("127.0.0.1", 3128)])
    assert guard.objection("127.0.0.1", 8080) == ""
    # Which port it would be is not known, so it may be ours.
    assert guard.objection("127.0.0.1") == "the proxy's own address"


def test_where_a_connection_came_in_is_not_connected_to_by_that_connection():
    guard = Guard(allow_private=True, own=[("127.0.0.1", 1)])
    inside = guard.called_at("127.0.0.1", 3128)
    assert inside.objection("::ffff:127.0.0.1", 3128) == "the proxy's own address"
    assert inside.objection("127.0.0.1", 1) == "the proxy's own address"
    assert inside.objection("127.0.0.1", 8080) == ""
    assert guard.objection("127.0.0.1", 3128) == ""


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "127.0.0.1:80", "1.2.3.4/8", "::g"])
def test_what_is_no_address_is_not_connected_to(text):
    assert Guard(allow_private=True).objection(text) == "no address"


@given(st.integers(0, 2**32 - 1))
def test_an_address_within_another_is_judged_as_itself(number):
    inner = ipaddress.IPv4Address(number)
    text = f"{number >> 16:x}:{number & 0xFFFF:x}"
    outer = [
        f"::ffff:{text}",
        f"64:ff9b::{text}",
        f"2002:{text}::1",
        f"::ffff:0:{text}",
    ]
    for one in map(ipaddress.ip_address, outer):
        assert carried(one) == inner
        assert not is_public(one) or is_public(inner)


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public(address):
    private = address.is_private or address.is_loopback or address.is_link_local
    if private and carried(address) == address:
        assert not is_public(address)
