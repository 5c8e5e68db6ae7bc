"""The strict reader of request heads, fed anything."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.http.refusal import Refused
from superd.handlers.http.request import HeadReader, Limits, is_host, parse_head

LIMITS = Limits()
GOOD = b"GET /a HTTP/1.1\r\nHost: x\r\nX: 1\r\n\r\n"
alphabet = st.sampled_from(
    [
        b"GET",
        b" ",
        b"/",
        b"HTTP/1.1",
        b"\r\n",
        b"\n",
        b"\r",
        b"\x00",
        b"Host: x",
        b":",
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
        b"\t",
        b"\xff",
        b"%2e",
    ]
)
nearly = st.lists(alphabet, max_size=30).map(b"".join)
requests = st.one_of(st.binary(max_size=200), nearly, st.just(GOOD)).flatmap(
    lambda first: nearly.map(lambda second: first + second)
)


def read_all(pieces):
    """Feed pieces; return the heads and refusals in order."""
    reader = HeadReader(LIMITS)
    found = []
    for piece in pieces:
        reader.feed(piece)
        try:
            while (head := reader.next_head()) is not None:
                found.append(head)
        except Refused as refused:
            return [*found, (refused.status, str(refused))]
    return found


def cut(data, points):
    edges = [0, *sorted(p % (len(data) + 1) for p in points), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(requests, st.lists(st.integers(0, 10_000), max_size=10))
def test_the_cut_into_packets_changes_nothing(data, points):
    assert read_all(cut(data, points)) == read_all([data])


@pytest.mark.parametrize("length", range(8180, 8200))
def test_the_limit_of_the_line_does_not_depend_on_the_cut(length):
    line = b"GET /" + b"a" * (length - 14) + b" HTTP/1.1"
    data = line + b"\r\nHost: x\r\n\r\n"
    whole = read_all([data])
    assert whole == read_all(cut(data, [length, length + 1]))
    assert whole == read_all([data[:length], data[length:]])
    assert isinstance(whole[0], bytes) == (len(line) <= 8192)


@pytest.mark.parametrize("extra", range(-4, 5))
def test_the_limit_of_the_head_does_not_depend_on_the_cut(extra):
    start = b"GET / HTTP/1.1\r\nHost: x\r\nX: "
    data = start + b"a" * (32768 - len(start) + extra) + b"\r\n\r\n"
    byte_by_byte = [data[:32700], *(data[i : i + 1] for i in range(32700, len(data)))]
    assert read_all([data]) == read_all(byte_by_byte)


@given(requests)
def test_any_head_is_a_request_or_a_refusal(data):
    for head in read_all([data]):
        if isinstance(head, tuple):
            assert head[0] in (400, 414, 431)
            continue
        try:
            request = parse_head(head, LIMITS)
        except Refused:
            continue
        assert request.target.isascii()
        assert request.minor in (0, 1)
        # Whatever is accepted has one meaning.
        assert len(request.values(b"host")) in ((1,) if request.minor else (0, 1))
        assert len(request.values(b"content-length")) <= 1
        lengths = request.values(b"content-length")
        assert not (lengths and request.values(b"transfer-encoding"))
        assert not any(
            b"\r" in v or b"\n" in v
            for values in request.fields.values()
            for v in values
        )


def test_what_follows_a_head_is_kept_for_the_next():
    reader = HeadReader(LIMITS)
    reader.feed(GOOD + GOOD[:5])
    assert reader.next_head() == GOOD[:-4]
    assert reader.pending
    assert reader.next_head() is None
    reader.feed(GOOD[5:])
    assert reader.next_head() == GOOD[:-4]
    assert not reader.pending


def test_fields_are_found_whatever_their_case():
    request = parse_head(
        b"GET / HTTP/1.1\r\nHOST: x\r\nConnection: Foo\r\ncOnnection:CLOSE", LIMITS
    )
    assert request.values(b"host") == [b"x"]
    assert request.options(b"connection") == {b"foo", b"close"}
    assert not request.keep_alive


@pytest.mark.parametrize(
    "host",
    [b"a", b"a:80", b"a.b.", b"1.2.3.4:65535", b"[::1]", b"[::1]:80", b"a_b", b"a:"],
)
def test_a_host_is_accepted(host):
    assert is_host(host)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b":80",
        b".",
        b"..",
        b"a..b",
        b".a",
        b"a b",
        b"a:b",
        b"a:65536",
        b"a:+80",
        b"a/b",
        b"a@b",
        b"[::1",
        b"[]",
        b"[::1]x",
        b"[::1]80",
        b"a:000080",
        b"a\xff",
        b"a:\xd9\xa3",
        b"[g::1]",
        b"a,b",
        b"%61",
    ],
)
def test_what_is_no_host_is_refused(host):
    assert not is_host(host)


@given(st.lists(st.sampled_from(range(6)), min_size=2, max_size=6))
def test_fields_that_come_again_are_what_they_were(order):
    heads = [
        b"GET /a HTTP/1.1\r\nHost: x\r\nX: 1",
        b"HEAD /b HTTP/1.1\r\nHost: x\r\nX: 1",
        b"GET /a HTTP/1.0\r\nHost: x\r\nX: 1",
        b"GET /a HTTP/1.1\r\nHost: y\r\nX: 1",
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5",
        b"GET / HTTP/1.0",
    ]
    reader = HeadReader(LIMITS)
    for number in order:
        assert reader.parse(heads[number]) == parse_head(heads[number], LIMITS)


def test_fields_that_come_again_need_a_good_line_too():
    reader = HeadReader(LIMITS)
    reader.parse(GOOD[:-4])
    for line in (b"GET  / HTTP/1.1", b"GET / HTTP/2.0", b"get"):
        with pytest.raises(Refused):
            reader.parse(line + GOOD[len(b"GET /a HTTP/1.1") : -4])
