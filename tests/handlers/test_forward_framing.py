"""Where bodies end, in both directions, however the bytes come."""

from __future__ import annotations

import itertools

import pytest
from httptools import HttpParserError, HttpRequestParser
from hypothesis import example, given
from hypothesis import strategies as st

from superd.handlers.forward.framing import (
    BadFraming,
    Chunked,
    NoBody,
    Sized,
    Truncated,
    UntilEnd,
    announced_length,
    chunk,
    last_chunk,
    reply_body,
    request_body,
    sendable_trailers,
)
from superd.handlers.forward.reply import BadReply, Reply
from superd.handlers.http.request import Limits, parse_head

PIECES = [
    *(b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"0", b"1", b"3", b"a", b"F", b"g"),
    *(b"abc", b"3\r\nabc\r\n", b"1\r\nx\r\n", b"0\r\n\r\n", b"0\r\n", b" ", b"\t"),
    *(b";a", b";a=b", b';a="', b'"', b"\\", b";", b"=", b"+", b"0x", b"_", b"-"),
    *(b"A: b\r\n", b"A : b\r\n", b"A", b":", b"\0", b"\xff", b"\x7f", b"f" * 16),
]
nearly = st.lists(st.sampled_from(PIECES), max_size=16).map(b"".join)
extensions = st.sampled_from([b"", b"", b";a", b";a=b;c", b';a="b;\\" \xff"'])
endings = st.sampled_from([b"0\r\n\r\n", b"000;a\r\nA: b\r\nX-B:\r\n\r\n"])
chunks = st.builds(
    lambda data, extension, form: form % (len(data), extension, data),
    st.binary(min_size=1, max_size=40),
    extensions,
    st.sampled_from([b"%x%b\r\n%b\r\n", b"%04X%b\r\n%b\r\n", b"%016x%b\r\n%b\r\n"]),
)
good = st.tuples(st.lists(chunks, max_size=6).map(b"".join), endings).map(b"".join)
bodies = nearly | st.tuples(good, nearly).map(b"".join)
cuts = st.lists(st.integers(0, 10_000), max_size=8)


def cut(data, points):
    edges = [0, *sorted(p % (len(data) + 1) for p in points), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def read(body, pieces):
    """Return payload, rest and trailers, or what is wrong."""
    try:
        payload = b"".join([body.feed(piece) for piece in pieces])
    except BadFraming as bad:
        return str(bad)
    return payload, body.rest, body.trailers, body.done


def spoilt(data, **limits):
    with pytest.raises(BadFraming) as bad:
        Chunked(**limits).feed(data)
    # Byte by byte it is the same.
    assert read(Chunked(**limits), cut(data, range(len(data)))) == str(bad.value)
    return str(bad.value)


def reply(*fields, status=200, minor=1):
    pairs = [tuple(field.split(b": ")) for field in fields]
    return Reply(status, b"", minor, pairs)


class TestWhichBody:
    @pytest.mark.parametrize(
        ("lines", "kind", "length"),
        [
            (b"", NoBody, 0),
            (b"\r\nContent-Length: 0", NoBody, 0),
            (b"\r\nContent-Length: 5", Sized, 5),
            (b"\r\nTransfer-Encoding: chunked", Chunked, None),
        ],
    )
    def test_of_a_request(self, lines, kind, length):
        head = b"POST / HTTP/1.1\r\nHost: a" + lines
        body = request_body(parse_head(head, Limits()))
        assert isinstance(body, kind)
        assert body.length == length
        assert body.lasting

    @pytest.mark.parametrize(
        ("answer", "method"),
        [
            (reply(b"Content-Length: 5"), b"HEAD"),
            (reply(b"Transfer-Encoding: chunked"), b"HEAD"),
            (reply(b"Content-Length: 5", status=304), b"GET"),
            (reply(b"Transfer-Encoding: chunked", status=304), b"GET"),
            (reply(status=204), b"GET"),
            (reply(b"Content-Length: 0", status=204), b"GET"),
            (reply(status=100), b"POST"),
            (reply(status=101), b"GET"),
            (reply(b"Content-Length: 5", status=200), b"CONNECT"),
            (reply(b"Transfer-Encoding: chunked", status=299), b"CONNECT"),
        ],
    )
    def test_of_an_answer_that_has_none(self, answer, method):
        body = reply_body(answer, method)
        assert isinstance(body, NoBody)
        assert body.done
        assert body.length == 0
        assert not body.doubtful

    @pytest.mark.parametrize("status", [100, 199, 204])
    @pytest.mark.parametrize(
        "field", [b"Content-Length: 5", b"Transfer-Encoding: chunked"]
    )
    def test_an_answer_that_announces_what_it_cannot_have_is_doubtful(
        self, status, field
    ):
        body = reply_body(reply(field, status=status), b"GET")
        assert isinstance(body, NoBody)
        assert body.doubtful

    @pytest.mark.parametrize(
        ("fields", "length"),
        [
            ([b"Content-Length: 5"], 5),
            ([b"content-length: 0"], 0),
            ([b"Content-Length: 5, 5"], 5),
            ([b"Content-Length: 5", b"content-length: 5"], 5),
            ([b"Content-Length: 5 ,\t5", b"Content-Length: 5"], 5),
            ([b"Content-Length: 007"], 7),
            ([b"Content-Length: %d" % (2**63 - 1)], 2**63 - 1),
        ],
    )
    def test_of_an_answer_with_a_length(self, fields, length):
        body = reply_body(reply(*fields), b"GET")
        assert isinstance(body, Sized)
        assert body.length == length
        assert body.done == (not length)
        assert announced_length(reply(*fields)) == length

    @pytest.mark.parametrize(
        "value",
        [
            *(b"", b"5, 6", b"5,", b",5", b"5,,5", b"5 5", b"+5", b"-5", b"0x5"),
            *(b"5_0", b"5.0", b"5;", b"\xd9\xa5", b"five", b"05, 5", b"%d" % 2**63),
            *(b"9" * 20, b"9" * 5000, b"5, five"),
        ],
    )
    def test_of_an_answer_with_a_length_that_is_none(self, value):
        with pytest.raises(BadReply, match="Content-Length"):
            reply_body(reply(b"Content-Length: " + value), b"GET")

    def test_of_an_answer_with_two_lengths(self):
        with pytest.raises(BadReply, match="more than one"):
            reply_body(reply(b"Content-Length: 5", b"Content-Length: 6"), b"GET")

    def test_of_an_answer_that_says_nothing(self):
        body = reply_body(reply(), b"GET")
        assert isinstance(body, UntilEnd)
        assert not body.lasting
        assert body.length is None
        # To refuse a tunnel is an answer like others.
        assert isinstance(reply_body(reply(status=403), b"CONNECT"), UntilEnd)

    @pytest.mark.parametrize("coding", [b"chunked", b"CHUNKED"])
    def test_of_an_answer_in_chunks(self, coding):
        body = reply_body(reply(b"Transfer-Encoding: " + coding), b"GET")
        assert isinstance(body, Chunked)
        assert body.length is None
        assert not body.doubtful

    def test_chunks_win_over_a_length_and_leave_a_doubt(self):
        fields = [b"Content-Length: 5", b"Transfer-Encoding: chunked"]
        for order in (fields, fields[::-1]):
            body = reply_body(reply(*order), b"GET")
            assert isinstance(body, Chunked)
            assert body.doubtful

    @pytest.mark.parametrize(
        "value",
        [
            *(b"", b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked"),
            *(b"identity", b"xchunked", b"chunked;q=1", b"chunked,", b'"chunked"'),
            b"\x0bchunked",
        ],
    )
    def test_of_an_answer_in_another_coding(self, value):
        with pytest.raises(BadReply, match="one chunked"):
            reply_body(reply(b"Transfer-Encoding: " + value), b"GET")

    def test_of_an_answer_with_two_codings(self):
        field = b"Transfer-Encoding: chunked"
        with pytest.raises(BadReply):
            reply_body(reply(field, field), b"GET")

    def test_there_are_no_chunks_in_http_1_0(self):
        fields = (b"Transfer-Encoding: chunked", b"Content-Length: 5")
        with pytest.raises(BadReply, match=r"HTTP/1\.0"):
            reply_body(reply(*fields, minor=0), b"GET")


@given(st.integers(0, 30), st.binary(max_size=40), cuts)
def test_a_sized_body_is_its_first_bytes(length, data, points):
    body = Sized(length)
    payload, rest, _, done = read(body, cut(data, points))
    assert (payload, rest) == (data[:length], data[length:])
    assert done == (len(data) >= length)
    if done:
        body.end()
    else:
        with pytest.raises(Truncated):
            body.end()


def test_a_body_until_the_end_is_whole_when_its_sender_says_so():
    body = UntilEnd()
    assert body.feed(b"abc") == b"abc"
    assert not body.done
    body.end()
    assert body.done


def test_where_no_body_is_everything_is_behind_it():
    body = NoBody()
    assert body.feed(b"abc") == body.feed(b"def") == b""
    assert body.rest == b"abcdef"
    body.end()


@pytest.mark.parametrize(
    ("data", "payload", "trailers"),
    [
        (b"0\r\n\r\n", b"", []),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc", []),
        (b"A\r\n0123456789\r\n000\r\n\r\n", b"0123456789", []),
        (b"1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n", b"\r\n", []),
        (b"0000000000000003\r\nabc\r\n0\r\n\r\n", b"abc", []),
        (b'3;a;b=c;d="e\\"; f"\r\nabc\r\n0;g\r\n\r\n', b"abc", []),
        (b"0\r\nA: b\r\nA:c \r\n\r\n", b"", [(b"A", b"b"), (b"A", b"c")]),
        (b"0\r\nHost: b\r\nX: c\r\nContent-Length: 3\r\n\r\n", b"", [(b"X", b"c")]),
    ],
)
def test_a_chunked_body_is_read(data, payload, trailers):
    for points in ((), range(len(data))):
        found = read(Chunked(), cut(data + b"GET", points))
        assert found == (payload, b"GET", trailers, True)


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b" 3", b"3 ", b"\t3", b"+3", b"-3", b"0x3", b"3_0", b"3h", b"g", b"3\0"),
        *(b"3 ;a", b"3; a", b"3;", b"3;a=", b"3;=b", b'3;a="', b'3;a="b"c', b"3,3"),
        *(b"3;a\rb", b"3;a\0", b"3\r", b"\xd9\xa3", b"00000000000000003", b"f" * 17),
        *(b'3;a="\r"', b"3;a b", b"3;a;;b", b"3;a\x7f"),
    ],
)
def test_what_is_no_size_is_no_chunk(line):
    assert "malformed" in spoilt(line + b"\r\nabc\r\n0\r\n\r\n")


def test_a_size_is_below_2_to_the_63():
    body = Chunked()
    assert body.feed(b"7fffffffffffffff\r\nab") == b"ab"
    assert body.feed(b"c") == b"c"
    assert "no size" in spoilt(b"8000000000000000\r\n")
    assert "no size" in spoilt(b"FFFFFFFFFFFFFFFF\r\n")
    assert "no size" in spoilt(b"1\r\na\r\n8000000000000000\r\n")


def test_only_crlf_ends_a_line():
    assert "malformed" in spoilt(b"3\nabc\r\n0\r\n\r\n")
    assert "longer" in spoilt(b"3\r\nabc\n0\r\n\r\n")
    assert "longer" in spoilt(b"3\r\nabc\r0\r\n\r\n")
    assert "malformed" in spoilt(b"3\r\nabc\r\n0\n\r\n")
    assert "without CR" in spoilt(b"0\r\n\n")
    assert "without CR" in spoilt(b"0\r\nA: b\n\r\n")
    assert "malformed" in spoilt(b"3;a\nabc\r\n0\r\n\r\n")


def test_a_chunk_is_as_long_as_its_size():
    assert "longer" in spoilt(b"2\r\nabc\r\n0\r\n\r\n")
    assert "longer" in spoilt(b"3\r\nabcd")
    assert "longer" in spoilt(b"3\r\nabc" + b"x" * 70_000)
    assert "longer" in spoilt(b"1\r\na\r\n2\r\nabc\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "line", [b"A", b": b", b" A: b", b"A : b", b"A: \0", b"A b: c"]
)
def test_a_trailer_section_is_of_fields(line):
    assert "in the trailer section" in spoilt(b"0\r\n" + line + b"\r\n\r\n")
    assert "in the trailer section" in spoilt(b"0\r\nB: c\r\n" + line + b"\r\n\r\n")


@pytest.mark.parametrize("extra", range(-2, 3))
def test_a_line_with_a_size_has_its_limit(extra):
    line = b"1;" + b"a" * (27 + extra)
    data = line + b"\r\nx\r\n0\r\n\r\n"
    if extra > 0:
        assert "too long" in spoilt(data, most_line=31)
        assert "too long" in spoilt(line, most_line=30)
    else:
        for points in ((), range(len(data))):
            assert read(Chunked(most_line=31), cut(data, points))[0] == b"x"


@pytest.mark.parametrize("extra", range(-2, 3))
def test_a_trailer_section_has_its_limit(extra):
    data = b"0\r\nA: b\r\nC: " + b"d" * (19 + extra) + b"\r\n\r\n"
    size = len(data) - 3
    assert size == 32 + extra
    if extra > 0:
        assert "too long" in spoilt(data, most_trailer=32)
    else:
        for points in ((), range(len(data))):
            assert read(Chunked(most_trailer=32), cut(data, points))[3]


def test_a_line_without_an_end_is_not_collected_for_ever():
    for start in (b"1;", b"0\r\nA: "):
        assert "too long" in read(Chunked(), [start, *[b"a"] * 20_000])


def test_extensions_without_payload_come_to_an_end():
    tiny = b"1;" + b"a" * 1000 + b"\r\nx\r\n"
    assert "more extensions" in spoilt(tiny * 20)


def test_extensions_of_big_chunks_are_no_fault():
    signed = b"1000;signature=" + b"a" * 64 + b"\r\n" + bytes(4096) + b"\r\n"
    body = Chunked()
    for _ in range(1000):
        assert len(body.feed(signed)) == 4096


@given(bodies, cuts)
@example(b"3\r\nabc\r\n0\r\nA: b\r\n\r\nrest", [2, 5, 7, 9, 12])
def test_the_cut_into_packets_changes_nothing(data, points):
    whole = read(Chunked(), [data])
    assert read(Chunked(), cut(data, points)) == whole
    assert read(Chunked(), cut(data, range(len(data)))) == whole


@given(good, st.data())
def test_a_body_that_was_cut_short_is_known_as_such(data, draw):
    body = Chunked()
    body.feed(data[: draw.draw(st.integers(0, len(data) - 1))])
    assert not body.done
    with pytest.raises(Truncated):
        body.end()
    # The whole one is not.
    body = Chunked()
    body.feed(data)
    body.end()


class Llhttp:
    """What the parser of Node.js makes of the same bytes."""

    def __init__(self):
        self.payload = b""
        self.fields = []
        self.done = False

    def on_body(self, data):
        self.payload += data

    def on_header(self, name, value):
        self.fields.append((name, value.strip(b" \t")))

    def on_message_complete(self):
        self.done = True


@given(bodies)
def test_what_is_accepted_is_what_llhttp_reads(data):
    """The other way round is no fault: it takes more sizes, and other whitespace.

    It refuses a trailer that is about framing, which is dropped here.
    """
    found = read(Chunked(), [data])
    if isinstance(found, str):
        return
    payload, rest, trailers, done = found
    theirs = Llhttp()
    parser = HttpRequestParser(theirs)
    parser.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    theirs.fields.clear()
    try:
        parser.feed_data(data[: len(data) - len(rest)])
    except HttpParserError as error:
        # Only a line that has not ended, and so was not judged, can be wrong.
        if done:
            pytest.fail(f"llhttp: {error}: {data!r}")
        return
    assert theirs.payload == payload
    assert theirs.done == done
    if done:
        assert theirs.fields == trailers


@given(
    st.lists(st.binary(max_size=50), max_size=6),
    st.lists(st.sampled_from([(b"X", b"y"), (b"Z", b"")]), max_size=3),
    cuts,
)
def test_what_is_written_is_read(payloads, trailers, points):
    data = b"".join(map(chunk, payloads)) + last_chunk(trailers)
    found = read(Chunked(), cut(data, points))
    assert found == (b"".join(payloads), b"", trailers, True)


def test_nothing_is_written_as_no_chunk():
    assert chunk(b"") == b""
    assert chunk(bytes(26)) == b"1a\r\n" + bytes(26) + b"\r\n"
    assert last_chunk() == b"0\r\n\r\n"


@pytest.mark.parametrize(
    "name",
    [
        *("Transfer-Encoding", "content-length", "HOST", "Trailer", "Connection"),
        *("Authorization", "Proxy-Authorization", "WWW-Authenticate", "Set-Cookie"),
        *("Cookie", "Cache-Control", "Age", "Date", "Expires", "Vary", "Location"),
        *("Pragma", "Range", "If-Match", "If-None-Match", "Expect", "Max-Forwards"),
        *("Content-Type", "Content-Encoding", "Content-Range", "TE", "Upgrade", "Via"),
        *("Retry-After", "X-Forwarded-For", "Forwarded", "Keep-Alive", "Warning"),
        *("Access-Control-Allow-Origin", "Content-Security-Policy"),
    ],
)
def test_a_field_that_has_to_be_known_before_the_body_is_no_trailer(name):
    fields = [(name.encode(), b"x"), (b"X", b"y")]
    assert sendable_trailers(fields) == [(b"X", b"y")]


@pytest.mark.parametrize(
    "name", ["ETag", "Content-Digest", "Repr-Digest", "Server-Timing", "grpc-status"]
)
def test_a_field_that_is_known_only_at_the_end_is_a_trailer(name):
    assert sendable_trailers([(name.encode(), b"x")])
