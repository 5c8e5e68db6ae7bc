"""The guards of UDP answers: who gets none, and how many the others get."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.core.dgramguard import SourceRate, refuse_reason

OWN = frozenset({7007, 53000})
hosts = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda n: str(IPv4Address(n))),
    st.integers(0, 2**128 - 1).map(lambda n: str(IPv6Address(n))),
    st.integers(0, 2**32 + 1).map(lambda n: str(IPv6Address(n))),
)


def refused(host, port=40000, **known):
    return refuse_reason(host, port, OWN, **{"allow_loopback": True, **known})


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "127.0.0.1", "2001:db8::1", "::1", "fe80::1%eth0"]
)
def test_an_ordinary_client_gets_its_answer(host):
    assert refused(host) is None


@pytest.mark.parametrize("port", [0, 1, 7, 13, 19, 37, 53, 1023])
def test_a_source_port_of_the_services_is_refused(port):
    assert refused("192.0.2.1", port) == "port-reserved"


def test_the_first_port_above_the_reserved_ones_is_a_clients():
    assert refused("192.0.2.1", 1024) is None


def test_the_port_of_nfs_is_refused():
    assert refused("192.0.2.1", 2049) == "port-nfs"


@pytest.mark.parametrize("port", sorted(OWN))
def test_the_port_of_any_own_service_is_refused(port):
    assert refused("192.0.2.1", port) == "port-own"
    assert refuse_reason("192.0.2.1", port, frozenset(), allow_loopback=True) is None


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("255.255.255.255", "broadcast"),
        ("255.0.0.1", "broadcast"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("ff02::1", "multicast"),
        ("::ffff:192.0.2.1", "mapped"),
        ("::255.1.2.3", "broadcast"),
        ("::224.0.0.1", "multicast"),
        ("nonsense", "no-address"),
        ("", "no-address"),
    ],
)
def test_a_source_that_is_no_single_machine_is_refused(host, reason):
    assert refused(host) == reason


def test_a_broadcast_address_of_an_own_interface_is_refused():
    known = frozenset({"192.0.2.255"})
    assert refused("192.0.2.255", broadcasts=known) == "broadcast"
    assert refused("192.0.2.255") is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::127.0.0.1"])
def test_loopback_is_refused_unless_it_is_allowed(host):
    assert refused(host, allow_loopback=False) == "loopback"
    assert refused(host, allow_loopback=True) is None


@pytest.mark.parametrize("host", ["192.0.2.9", "2001:db8::9"])
def test_an_own_address_is_like_loopback(host):
    own = frozenset({host})
    assert refused(host, own_addresses=own, allow_loopback=False) == "loopback"
    assert refused(host, own_addresses=own) is None


@given(hosts, st.integers(0, 65535))
def test_no_answer_ever_goes_to_a_forbidden_place(host, port):
    if refused(host, port) is not None:
        return
    assert port >= 1024
    assert port != 2049
    assert port not in OWN
    address = ip_address(host)
    assert not address.is_multicast
    assert not address.is_unspecified
    if address.version == 4:
        assert int(address) >> 24 not in (0, 255)


@given(st.integers(1 << 24, 223 << 24), st.integers(1024, 65535))
def test_every_unicast_client_is_answered(number, port):
    if port != 2049 and port not in OWN:
        assert refused(str(IPv4Address(number)), port) is None


def test_a_source_gets_its_burst_and_then_its_rate():
    rate = SourceRate(2.0, 3.0)
    assert [rate.admit("a", 0.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert not rate.admit("a", 0.4)
    assert rate.admit("a", 0.5)
    assert not rate.admit("a", 0.6)
    assert rate.admit("b", 0.6)


@given(st.lists(st.floats(0, 5), max_size=200), st.floats(0.1, 50), st.floats(1, 20))
def test_no_source_gets_more_than_burst_and_rate(pauses, rate, burst):
    buckets = SourceRate(rate, burst)
    now = 0.0
    admitted = 0
    for pause in pauses:
        now += pause
        admitted += buckets.admit("a", now)
    assert admitted <= burst + rate * now + 1e-6


@given(st.lists(st.integers(0, 50), max_size=300))
def test_the_table_never_grows_past_its_size(sources):
    buckets = SourceRate(1.0, 1.0, size=8)
    for now, source in enumerate(sources):
        buckets.admit(str(source), float(now))
        assert len(buckets) <= 8


def test_a_source_that_keeps_sending_is_not_forgotten():
    buckets = SourceRate(0.001, 1.0, size=8)
    assert buckets.admit("flood", 0.0)
    for turn in range(100):
        for other in range(7):
            buckets.admit(f"{turn}-{other}", 0.0)
        assert not buckets.admit("flood", 0.0)


def test_forged_sources_share_one_limit():
    buckets = SourceRate(10.0, 10.0, total=5.0)
    assert sum(buckets.admit(str(n), 0.0) for n in range(100)) == 5
    assert sum(buckets.admit(str(n), 1.0) for n in range(100)) == 5


def test_a_source_refused_by_the_common_limit_keeps_its_token():
    buckets = SourceRate(0.001, 1.0, total=1.0)
    assert buckets.admit("a", 0.0)
    assert not buckets.admit("b", 0.0)
    assert buckets.admit("b", 1.0)


@pytest.mark.parametrize("bad", [(0.0, 1.0), (1.0, 0.5), (-1.0, 1.0)])
def test_a_rate_that_lets_nothing_pass_is_refused(bad):
    with pytest.raises(ValueError, match="something"):
        SourceRate(*bad)
