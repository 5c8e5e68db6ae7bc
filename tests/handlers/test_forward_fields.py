"""What of a message goes on, and what a proxy adds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.forward.fields import (
    END_TO_END,
    HOP_BY_HOP,
    Identity,
    Trace,
    end_to_end,
    has_passed,
    max_forwards,
    members,
    request_fields,
    response_fields,
    values,
    with_max_forwards,
)

ME = Identity(b"here")
PEER = "192.0.2.7"


def going(*fields, identity=ME, minor=1, peer=PEER):
    return request_fields(fields, identity, host=b"a.example", minor=minor, peer=peer)


def test_what_is_between_two_hosts_ends_here():
    fields = [
        (b"Host", b"evil.example"),
        (b"Accept", b"*/*"),
        (b"Connection", b"X-Private, keep-alive"),
        (b"X-Private", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"Proxy-Authorization", b"Basic c2VjcmV0"),
        (b"TE", b"trailers"),
        (b"Trailer", b"X"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"websocket"),
        (b"X-Two", b"1"),
        (b"x-two", b"2"),
    ]
    assert going(*fields) == [
        (b"Host", b"a.example"),
        (b"Accept", b"*/*"),
        (b"X-Two", b"1"),
        (b"x-two", b"2"),
        (b"Via", b"1.1 here"),
    ]


@pytest.mark.parametrize("name", sorted(END_TO_END))
def test_no_peer_takes_away_what_the_far_end_needs(name):
    fields = [(b"Connection", name + b", close"), (name, b"5")]
    assert end_to_end(fields) == [(name, b"5")]


def test_via_has_everybody_it_came_through_in_order():
    fields = [(b"Via", b"1.0 first"), (b"A", b"b"), (b"via", b"1.1 second (x)")]
    assert values(going(*fields, minor=0), b"via") == [
        *(b"1.0 first", b"1.1 second (x)", b"1.0 here"),
    ]
    answer = response_fields([*fields, (b"Connection", b"close")], ME, minor=1)
    assert answer == [*fields, (b"Via", b"1.1 here")]


@pytest.mark.parametrize(
    ("via", "passed"),
    [
        (b"1.1 here", True),
        (b"1.1 HERE", True),
        (b"HTTP/1.1 here (superd)", True),
        (b"1.1 other, 1.0 here:8080", True),
        (b"1.1 there", False),
        (b"1.1 here2", False),
        (b"here", False),
        (b"1.1 x (1.1 here)", False),
        (b"", False),
        (b",,", False),
    ],
)
def test_a_message_that_has_been_here_is_known(via, passed):
    assert has_passed([(b"VIA", via)], b"here") == passed
    assert not has_passed([], b"here")


def test_the_peer_is_told_hidden_or_left_as_it_was():
    came = [(b"X-Forwarded-For", b"198.51.100.1"), (b"Forwarded", b"for=198.51.100.1")]
    kept = going(*came)
    assert came == [field for field in kept if field in came]
    assert PEER.encode() not in b"".join(value for _, value in kept)
    added = going(*came, identity=Identity(b"here", Trace.ADD))
    assert values(added, b"x-forwarded-for") == [b"198.51.100.1, 192.0.2.7"]
    assert values(added, b"forwarded") == [b"for=198.51.100.1", b"for=192.0.2.7"]
    six = going(identity=Identity(b"here", Trace.ADD), peer="2001:db8::1")
    assert values(six, b"forwarded") == [b'for="[2001:db8::1]"']
    removed = going(*came, (b"Via", b"1.1 a"), identity=Identity(b"here", Trace.REMOVE))
    assert values(removed, b"x-forwarded-for") == values(removed, b"forwarded") == []
    # Or a message could go round for ever.
    assert values(removed, b"via") == [b"1.1 a", b"1.1 here"]


def test_fields_that_tell_of_a_person_can_be_left_out():
    identity = Identity(
        b"here", hidden=frozenset({b"cookie", b"user-agent", b"referer"})
    )
    fields = [
        (b"Cookie", b"a"),
        (b"User-Agent", b"b"),
        (b"REFERER", b"c"),
        (b"D", b"e"),
    ]
    assert going(*fields, identity=identity)[1:-1] == [(b"D", b"e")]


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ([(b"Max-Forwards", b"0")], 0),
        ([(b"max-forwards", b"12")], 12),
        ([], None),
        ([(b"Max-Forwards", b"-1")], None),
        ([(b"Max-Forwards", b"+1")], None),
        ([(b"Max-Forwards", b"1_0")], None),
        ([(b"Max-Forwards", b"\xd9\xa3")], None),
        ([(b"Max-Forwards", b"1" * 10)], None),
        ([(b"Max-Forwards", b"1"), (b"Max-Forwards", b"1")], None),
    ],
)
def test_max_forwards_is_a_number_or_nothing(fields, number):
    assert max_forwards(fields) == number
    if number:
        assert max_forwards(with_max_forwards(fields, number - 1)) == number - 1


names = st.one_of(
    st.sampled_from(sorted(HOP_BY_HOP | END_TO_END)),
    st.from_regex(rb"\A[a-zA-Z-]{1,8}\Z"),
)
lists = st.lists(
    st.tuples(names, st.one_of(names, st.binary(max_size=9), st.just(b"a, b ,,c"))),
    max_size=12,
)


@given(lists)
def test_whatever_comes_only_good_fields_go_on_in_their_order(fields):
    found = end_to_end(fields)
    nominated = set(members(fields, b"connection")) - END_TO_END
    for name, _ in found:
        assert name.lower() not in HOP_BY_HOP | nominated
    rest = iter(fields)
    assert all(field in rest for field in found)
    lost = [field for field in fields if field not in found]
    assert all(name.lower() in HOP_BY_HOP | nominated for name, _ in lost)
    assert values(going(*fields), b"host") == [b"a.example"]
    assert values(going(*fields), b"via")[-1] == b"1.1 here"
