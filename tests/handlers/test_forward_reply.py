"""The strict reader of the heads of answers, fed anything."""

from __future__ import annotations

import itertools

import pytest
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.forward.reply import BadReply, Reply, ReplyReader
from superd.handlers.http.request import Limits

LIMITS = Limits()
GOOD = b"HTTP/1.1 200 OK\r\nDate: x\r\nSet-Cookie: a\r\nset-cookie:  b \r\n\r\n"
PIECES = [
    *(b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/1.2 ", b"HTTP/2 ", b"200", b" OK", b" "),
    *(b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b"A: b", b"A : b", b":"),
    *(b"\t", b" c", b"\xff", b"\x7f", b"Content-Length: 5", b"100 Continue"),
]
nearly = st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join)
status_lines = st.sampled_from(
    [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 404\r\n", b"HTTP/1.1 100 Continue\r\n", GOOD]
)
replies = st.tuples(st.just(b"") | status_lines, nearly).map(b"".join)
cuts = st.lists(st.integers(0, 10_000), max_size=8)


def read_all(pieces, limits=LIMITS):
    """Feed pieces; return heads and what was wrong, in order."""
    reader = ReplyReader(limits)
    found = []
    for piece in pieces:
        reader.feed(piece)
        try:
            while (reply := reader.next_head()) is not None:
                found.append(reply)
        except BadReply as bad:
            return [*found, str(bad)]
    return [*found, reader.take()]


def read(data, limits=LIMITS):
    return read_all([data], limits)[0]


def cut(data, points):
    edges = [0, *sorted(p % (len(data) + 1) for p in points), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def test_a_head_is_read_in_its_order_and_spelling():
    reply = read(GOOD)
    assert reply == Reply(
        200,
        b"OK",
        1,
        [(b"Date", b"x"), (b"Set-Cookie", b"a"), (b"set-cookie", b"b")],
    )
    assert reply.values(b"set-cookie") == [b"a", b"b"]
    assert reply.values(b"age") == []


@pytest.mark.parametrize(
    ("line", "status", "reason", "minor"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK", 1),
        (b"HTTP/1.0 200 OK", 200, b"OK", 0),
        (b"HTTP/1.9 200 OK", 200, b"OK", 1),
        (b"HTTP/1.1 200 ", 200, b"", 1),
        (b"HTTP/1.1 200", 200, b"", 1),
        (b"HTTP/1.1 101 Switching Protocols", 101, b"Switching Protocols", 1),
        (b"HTTP/1.1 599  a\tb \xe9", 599, b" a\tb \xe9", 1),
    ],
)
def test_a_status_line_is_read(line, status, reason, minor):
    assert read(line + b"\r\n\r\n") == Reply(status, reason, minor, [])
    assert read_all(cut(line + b"\r\n\r\n", range(80)))[0].reason == reason


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"ICY 200 OK", b"<html>", b"HTTP/0.9 200 OK", b"HTTP/2 200", b"HTTP/"),
        *(b"http/1.1 200 OK", b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1  200 OK"),
        *(b"HTTP/1.1 099 X", b"HTTP/1.1 600 X", b"HTTP/1.1 000 X", b"HTTP/1.1 20 X"),
        *(b"HTTP/1.1 2000 X", b"HTTP/1.1 200OK", b"HTTP/1.1 +20 X", b"HTTP/1.1 2_0 X"),
        *(b"HTTP/1.1 200\tOK", b"HTTP/1.10 200 OK", b"HTTP/1.1 200 O\0K", b" "),
        *(b"HTTP/1.1 200 O\rK", b"HTTP/1.1 200 O\x7fK", b"\r\nHTTP/1.1 200 OK"),
        *(b"HTTP/01.1 200 OK", b"HTTP/1.1 \xd9\xa2\xd9\xa0\xd9\xa0", b"SSH-2.0-x"),
    ],
)
def test_what_is_no_status_line_is_no_answer(line):
    assert isinstance(read(line + b"\r\n\r\n"), str)


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        (b"A:", [(b"A", b"")]),
        (b"A: \t b c \t", [(b"A", b"b c")]),
        (b"A: b:c", [(b"A", b"b:c")]),
        (b"A : b", [(b"A", b"b")]),
        (b"A \t:b", [(b"A", b"b")]),
        (b"A: \xe9\x80", [(b"A", b"\xe9\x80")]),
        (b"!#$%&'*+-.^_`|~1: b", [(b"!#$%&'*+-.^_`|~1", b"b")]),
    ],
)
def test_a_field_is_read(lines, fields):
    data = b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n"
    assert read(data).fields == fields
    assert read_all(cut(data, range(80)))[0].fields == fields


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (b"A", "no colon"),
        (b": b", "no token"),
        (b" : b", "no token"),
        (b"A b: c", "no token"),
        (b"A\0: b", "no token"),
        (b"A\xe9: b", "no token"),
        (b"(A): b", "no token"),
        (b"A: b\r\n c", "second line"),
        (b"A: b\r\n\tc: d", "second line"),
        (b" A: b", "second line"),
        (b"A: b\0", "control"),
        (b"A: b\rc", "control"),
        (b"A: \x7f", "control"),
        (b"A: \x1b[1m", "control"),
        (b"A: b\nC: d", "without CR"),
        (b"A: b\n", "without CR"),
        (b"A: b\r\r", "control"),
    ],
)
def test_a_malformed_field_is_said_in_words(lines, problem):
    data = b"HTTP/1.1 200 OK\r\nB: c\r\n" + lines + b"\r\n\r\n"
    assert problem in read(data)


def test_line_ends_without_cr_are_refused():
    assert read(b"HTTP/1.1 200 OK\nA: b\n\n") == "a line ends without CR"


@pytest.mark.parametrize("data", [b"S", b"HTTQ", b"HTTP/2", b"\x15\x03\x01\0\2", b"\n"])
def test_what_cannot_become_an_answer_is_not_waited_for(data):
    assert isinstance(read(data), str)
    assert read(b"HTTP/1") == b"HTTP/1"


@pytest.mark.parametrize(
    ("start", "more", "problem"),
    [
        (b"HTTP/1.1 200 ", b"a" * 10, "the status line is over 8192 bytes"),
        (b"HTTP/1.1 200 OK\r\nA: ", b"a" * 10, "the head is over 32768 bytes"),
        (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", "more than 100 header fields"),
    ],
)
def test_an_endless_head_ends_at_its_limit(start, more, problem):
    assert read_all([start, *[more] * 4000]) == [problem]


@pytest.mark.parametrize("extra", range(-3, 4))
def test_no_limit_depends_on_the_cut(extra):
    limits = Limits(line=30, head=60, fields=3)
    heads = [
        b"HTTP/1.1 200 " + b"a" * (15 + extra) + b"\r\n\r\n",
        b"HTTP/1.1 200\r\nA: " + b"a" * (39 + extra) + b"\r\n\r\n",
        b"HTTP/1.1 200\r\n" + b"A:b\r\n" * (3 + extra) + b"\r\n",
    ]
    for head in heads:
        whole = read(head, limits)
        assert isinstance(whole, Reply) == (extra <= 0)
        for size in (1, 2, 7):
            pieces = [head[at : at + size] for at in range(0, len(head), size)]
            assert read_all(pieces, limits)[0] == whole


def test_interim_answers_are_heads_and_what_follows_is_kept():
    reader = ReplyReader(LIMITS)
    reader.feed(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + GOOD + b"body")
    assert reader.next_head().status == 103
    assert reader.next_head().status == 200
    assert reader.pending
    assert reader.take() == b"body"
    assert not reader.pending


@given(replies, cuts)
def test_the_cut_into_packets_changes_nothing(data, points):
    assert read_all(cut(data, points)) == read_all([data])


@given(replies, cuts)
def test_any_answer_has_one_meaning_or_is_refused(data, points):
    for reply in read_all(cut(data, points)):
        if isinstance(reply, Reply):
            assert 100 <= reply.status <= 599
            assert reply.minor in (0, 1)
            texts = [reply.reason, *itertools.chain(*reply.fields)]
            assert not any(set(text) & set(b"\r\n\0\x7f") for text in texts)
            assert all(name.strip() == name != b"" for name, _ in reply.fields)
        elif isinstance(reply, str):
            assert reply.isascii()
            assert reply.isprintable()


class Llhttp:
    """What the parser of Node.js makes of the same bytes."""

    def __init__(self):
        self.fields = []
        self.reason = b""
        self.whole = False

    def on_status(self, reason):
        self.reason += reason

    def on_header(self, name, value):
        self.fields.append((name, value.strip(b" \t")))

    def on_headers_complete(self):
        self.whole = True


@given(replies)
def test_what_is_accepted_is_what_llhttp_reads(data):
    reply = read_all([data])[0]
    # It refuses what RFC 9112 5.1 has a proxy take, HTTP/1.2, and bad framing, too.
    if not isinstance(reply, Reply) or any(
        text in data for text in (b" :", b"\t:", b"HTTP/1.2", b"Content-Length")
    ):
        return
    theirs = Llhttp()
    parser = HttpResponseParser(theirs)
    end = data.index(b"\r\n\r\n") + 4
    try:
        parser.feed_data(data[:end])
    except HttpParserUpgrade:
        pass
    except HttpParserError as error:
        pytest.fail(f"llhttp: {error}: {data!r}")
    assert theirs.whole
    assert parser.get_status_code() == reply.status
    assert theirs.reason == reply.reason
    assert theirs.fields == reply.fields
