"""The parts of the relay that need no connection: addresses, order, headers."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inetd import DEADLINE
from relays import UNKNOWN, listening, silent_listener

from superd.handlers.exits import SetupError
from superd.handlers.relay import lookup, opening, proxy_protocol
from superd.handlers.relay.addresses import Target, numeric, parse, parse_all
from superd.handlers.relay.backends import Backends, Search

# -- addresses ------------------------------------------------------------------------

PORTS = st.integers(1, 65535)
LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)


@given(st.one_of(NAMES, V4), PORTS)
def test_a_host_and_a_port_are_read_as_they_are_written(host, port):
    backend = parse(f"{host}:{port}")
    assert (backend.host, backend.port, backend.path) == (host, port, "")


@given(V6, PORTS)
def test_an_ipv6_address_stands_in_brackets(host, port):
    backend = parse(f"[{host}]:{port}")
    assert (backend.host, backend.port) == (host, port)
    assert numeric(host, port) == Target(socket.AF_INET6, (host, port, 0, 0))
    with pytest.raises(SetupError, match="write IPv6 as"):
        parse(f"{host}:{port}")


@given(
    st.text(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80
    )
)
def test_the_path_of_a_unix_socket_is_absolute_and_fits(path):
    text = f"unix:/{path}"
    if len(os.fsencode(f"/{path}")) > 107:
        with pytest.raises(SetupError, match="107 bytes"):
            parse(text)
    else:
        assert parse(text).path == f"/{path}"


@given(st.text(max_size=40))
def test_any_other_text_is_an_error_that_repeats_it(text):
    problem = None
    try:
        backend = parse(text)
    except SetupError as error:
        problem = str(error)
    if problem is not None:
        assert text in problem
    else:
        assert backend.path.startswith("/") or 0 < backend.port < 65536
        assert backend.host or backend.path


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("80", "no port"),
        ("localhost", "no port"),
        (":80", "no port"),
        ("localhost:", "nothing is no port"),
        ("localhost:http", "http is no port"),
        ("localhost:0", "a port is 1 to 65535"),
        ("localhost:65536", "a port is 1 to 65535"),
        ("localhost:8_0", "8_0 is no port"),
        ("localhost:\u0662", "is no port"),
        ("::1:80", "write IPv6 as"),
        ("[::1]", "no port"),
        ("[::g]:80", "is no IPv6 address"),
        ("[1.2.3.4]:80", "is no IPv6 address"),
        ("[fe80::1%]:80", "is no IPv6 address"),
        ("a b:80", "is no name of a host"),
        ("a..b:80", "is no name of a host"),
        (".a:80", "is no name of a host"),
        ("user@host:80", "is no name of a host"),
        ("http://host:80", "write IPv6 as"),
        ("127.1:80", "is no IPv4 address"),
        ("1:80", "is no IPv4 address"),
        ("0x7f.1:80", "is no IPv4 address"),
        ("1.2.3.256:80", "is no IPv4 address"),
        ("unix:run/x", "the path must begin with /"),
        ("unix:/a\0b", "107 bytes at most"),
        ("unix:/\ud800", "that is no path"),
    ],
)
def test_an_address_that_is_none_is_refused_with_what_is_wrong(text, problem):
    with pytest.raises(SetupError, match="option --to: ") as caught:
        parse(text)
    assert problem in str(caught.value)


def test_the_same_backend_twice_is_a_slip():
    with pytest.raises(SetupError, match="a:1 is there twice"):
        parse_all(["a:1", "b:1", "a:1"])


def test_a_zone_is_for_the_kernel_and_not_for_the_name_server():
    target = numeric("fe80::1%lo", 80)
    assert target is not None
    assert target.address[3] == socket.if_nametoindex("lo")


# -- lookup ---------------------------------------------------------------------------


def v4(number):
    return Target(socket.AF_INET, (f"192.0.2.{number}", 80))


def v6(number):
    return Target(socket.AF_INET6, (f"2001:db8::{number}", 80, 0, 0))


def test_the_families_of_a_name_take_turns():
    mixed = lookup.interleave([v6(1), v6(2), v6(3), v4(1), v6(1)])
    assert mixed == [v6(1), v4(1), v6(2), v6(3)]
    assert lookup.interleave([v4(1), v6(1)]) == [v4(1), v6(1)]
    assert lookup.interleave([]) == []


def test_a_process_looks_a_name_up_and_is_gone():
    backend = parse("localhost:80")
    assert lookup.targets_of(backend, time.monotonic() + DEADLINE) == lookup.ask(
        backend
    )


def test_a_name_that_is_unknown_says_so():
    with pytest.raises(OSError, match=r"[a-z]{4}"):
        lookup.targets_of(parse(f"{UNKNOWN}:80"), time.monotonic() + DEADLINE)


# -- order ----------------------------------------------------------------------------

A, B, C = (parse(f"{name}:1") for name in "abc")


def test_the_first_is_first_until_it_fails_and_again_when_that_is_past():
    backends = Backends([A, B, C], "first", 10.0)
    assert backends.in_order(0.0) == [A, B, C]
    backends.note_down(A, 1.0)
    assert backends.in_order(10.9) == [B, C, A]
    assert backends.in_order(11.0) == [A, B, C]
    backends.note_down(A, 20.0)
    backends.note_up(A)
    assert backends.in_order(20.0) == [A, B, C]


def test_all_are_tried_though_all_have_failed():
    backends = Backends([A, B], "first", 10.0)
    for one in (A, B):
        backends.note_down(one, 0.0)
    assert backends.in_order(1.0) == [A, B]


def test_random_spreads_and_still_tries_the_failed_ones_last():
    backends = Backends([A, B, C], "random", 10.0)
    first = [backends.in_order(0.0)[0].text for _ in range(600)]
    for one in (A, B, C):
        assert 120 < first.count(one.text) < 280  # 200 each: seven deviations away
    backends.note_down(B, 0.0)
    assert all(backends.in_order(1.0)[-1] is B for _ in range(50))


def test_each_backend_has_an_equal_share_of_the_time_that_is_left():
    search = Search(Backends([A, B, C], "first", 10.0), 0.0, 9.0)
    shares = search.backends()
    assert next(shares) == (A, 3.0)
    search.failed(A, ConnectionRefusedError(errno.ECONNREFUSED, "refused"), 1.0)
    assert next(shares) == (B, 5.0)
    search.failed(B, TimeoutError("it did not answer in time"), 5.0)
    assert next(shares) == (C, 9.0)
    assert str(search) == (
        "a:1: ECONNREFUSED (refused); b:1: it did not answer in time"
    )


def test_a_lack_of_our_own_is_not_held_against_a_backend():
    backends = Backends([A, B], "first", 10.0)
    search = Search(backends, 0.0, 9.0)
    search.failed(A, OSError(errno.EMFILE, "Too many open files"), 1.0)
    assert backends.in_order(2.0) == [A, B]
    search.failed(A, OSError(errno.ECONNREFUSED, "refused"), 1.0)
    assert backends.in_order(2.0) == [B, A]


# -- connecting -----------------------------------------------------------------------


def target(address):
    return Target(socket.AF_INET, address)


def race(targets, seconds):
    return opening._race(targets, time.monotonic() + seconds)


def test_an_address_that_is_silent_costs_a_quarter_of_a_second():
    with silent_listener() as silent, listening() as (listener, _):
        began = time.monotonic()
        with race([target(silent), target(listener.getsockname())], 10.0) as sock:
            assert sock.getpeername() == listener.getsockname()
        assert 0.2 < time.monotonic() - began < 5.0


def test_an_address_that_refuses_costs_nothing():
    with listening() as (listener, _), socket.socket() as gone:
        good = listener.getsockname()
        gone.bind(("127.0.0.1", 0))
        dead = gone.getsockname()
        began = time.monotonic()
        race([target(dead), target(good)], 10.0).close()
        assert time.monotonic() - began < 0.2


def test_a_connection_with_itself_is_none():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        with pytest.raises(ConnectionRefusedError, match="nobody listens there"):
            opening.settle(sock)


def test_a_unix_socket_whose_backlog_is_full_is_asked_again(tmp_path):
    path = tmp_path / "full"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))
            one = Target(socket.AF_UNIX, str(path))
            with pytest.raises(TimeoutError):
                race([one], 0.2)
            running = opening._Race([one], time.monotonic() + DEADLINE)
            assert running.step() is None
            listener.accept()[0].close()
            won = None
            while won is None:
                won = running.step()
            won.close()
            running.close()


# -- the header of the PROXY protocol -------------------------------------------------


def ends(source, destination):
    return proxy_protocol.ends_of({}, source, destination)


@given(V4, PORTS, V4, PORTS)
def test_both_versions_tell_what_another_program_reads_of_ipv4(a, p, b, q):
    _check(ends((a, p), (b, q)), (a, p), (b, q))


@given(V6, PORTS, V6, PORTS)
def test_both_versions_tell_what_another_program_reads_of_ipv6(a, p, b, q):
    if a.startswith("::ffff:") or b.startswith("::ffff:"):
        return
    _check(ends((a, p, 0, 0), (b, q, 0, 0)), (a, p), (b, q))


def _check(told, source, destination):
    v1 = pytest.importorskip("proxyprotocol.v1").ProxyProtocolV1()
    v2 = pytest.importorskip("proxyprotocol.v2").ProxyProtocolV2()
    for version, reader in (("v1", v1), ("v2", v2)):
        header = proxy_protocol.header(version, told)
        assert len(header) <= (107 if version == "v1" else 232)
        read = reader.unpack(header)
        for got, wanted in ((read.source, source), (read.dest, destination)):
            assert got == (ipaddress.ip_address(wanted[0]), wanted[1])


@given(st.from_regex(r"/[a-z]{0,99}", fullmatch=True))
def test_version_2_tells_the_paths_of_unix_sockets_and_version_1_cannot(path):
    v2 = pytest.importorskip("proxyprotocol.v2").ProxyProtocolV2()
    told = ends("", path)
    read = v2.unpack(proxy_protocol.header("v2", told))
    assert (read.source, read.dest) == ("", path)
    assert proxy_protocol.header("v1", told) == b"PROXY UNKNOWN\r\n"


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (None, None),
        (None, ("127.0.0.1", 80)),
        (("127.0.0.1", 80), ("::1", 80, 0, 0)),
        (("nonsense", 80), ("127.0.0.1", 80)),
        (("127.0.0.1", 80), ("127.0.0.1", 65536)),
    ],
)
def test_what_is_not_known_is_said_to_be_unknown(source, destination):
    told = ends(source, destination)
    assert proxy_protocol.header("v1", told) == b"PROXY UNKNOWN\r\n"
    assert proxy_protocol.header("v2", told) == proxy_protocol.SIGNATURE + b"\x21\0\0\0"
    v2 = pytest.importorskip("proxyprotocol.v2").ProxyProtocolV2()
    read = v2.unpack(proxy_protocol.header("v2", told))
    assert type(read).__name__ == "ProxyResultUnknown"


def test_the_environment_counts_before_the_socket():
    environment = {
        "TCPREMOTEIP": "192.0.2.7",
        "TCPREMOTEPORT": "4711",
        "TCPLOCALIP": "192.0.2.1",
        "TCPLOCALPORT": "80",
    }
    other = ("127.0.0.1", 1)
    told = proxy_protocol.ends_of(environment, other, other)
    line = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n"
    assert proxy_protocol.header("v1", told) == line
    del environment["TCPLOCALIP"]
    told = proxy_protocol.ends_of(environment, other, other)
    assert b"127.0.0.1" in proxy_protocol.header("v1", told)


def test_ipv4_in_the_clothes_of_ipv6_is_ipv4():
    told = ends(("::ffff:192.0.2.7", 1, 0, 0), ("::ffff:192.0.2.1", 2, 0, 0))
    line = b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n"
    assert proxy_protocol.header("v1", told) == line
