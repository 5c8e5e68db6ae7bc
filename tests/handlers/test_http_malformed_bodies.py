"""A body is never taken for a request, and one that cannot be read is the end.

httpd has no use for any body, but where it ends the next request begins: what looks like
a request within it must never be answered, and a good request behind it must be. The
numbers are those of the http-garden project's list "Server Bugs", T for "Transducer".
"""

from __future__ import annotations

import itertools
import re

import pytest
from http_answers import answers_in, the_answer_in
from httpd_root import make_root
from httpd_talk import main_for
from inetd import cuts, fork

REFUSED = {400, 413, 431, 501}
INSIDE = b"GET /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n"
BEHIND = b"GET /sub/ HTTP/1.1\r\nHost: a\r\n\r\n"
X65 = b"X" * 0x41

# Each stands behind a head with `Transfer-Encoding: chunked`, and before a good request.
CHUNKS = {
    "underscore_in_a_size": b"0_2e\r\n\r\n",  # 1, 22
    "no_size_at_all": b"\r\n\r\n",  # 17
    "no_chunk_but_a_request": b"",  # 25
    "size_negative": b"-1\r\nZ\r\n0\r\n\r\n",  # 25
    "size_with_a_sign": b"+1\r\nZ\r\n0\r\n\r\n",  # 25
    "size_with_0x": b"0x1\r\nZ\r\n0\r\n\r\n",  # 25
    "returns_before_an_extension": b"5\r\r;ABCD\r\n34\r\nE\r\n0\r\n\r\n",  # 31
    "returns_behind_an_extension": b"41;a=b\r\r" + X65 + b"\r\n0\r\n\r\n",  # 36
    "word_for_a_size": b"INVALID!!!\r\n",  # 47
    "letters_for_sizes": b"Z\r\nZZ\r\nZZZ\r\n\r\n",  # T2
    "return_and_extension_behind_2": b"2\r\r;a\r\n02\r\n41\r\n0\r\n\r\n",  # T3
    "return_and_digit_behind_a_size": b"1\r0\n",  # T4
    "size_with_a_tail": b"1these-bytes-never-get-validated\r\nZ\r\n0\r\n\r\n",  # T7
    "line_feed_behind_the_bytes": b"a\r\n0123456789\n0\r\n\r\n",  # T13
    "empty_line_between_chunks": b"1\r\nZ\r\n\r\n0\r\n\r\n",  # T17
    "line_feed_behind_the_last_size": b"0\n\r\n",
    "line_feeds_only": b"1\nZ\n0\n\n",
    "line_feed_behind_an_extension": b"1;a\nZ\r\n0\r\n\r\n",
    "line_feed_behind_a_semicolon": b"1;\nZ\r\n0\r\n\r\n",
    "line_feed_in_a_quoted_extension": b'1;a="\n"\r\nZ\r\n0\r\n\r\n',
    "return_in_an_extension": b"1;a\rb\r\nZ\r\n0\r\n\r\n",
    "nul_in_an_extension": b"1;a=\x00\r\nZ\r\n0\r\n\r\n",
    "control_in_an_extension": b"1;\x01\r\nZ\r\n0\r\n\r\n",
    "space_before_a_size": b" 1\r\nZ\r\n0\r\n\r\n",
    "tab_before_a_size": b"\t1\r\nZ\r\n0\r\n\r\n",
    "vertical_tab_behind_a_size": b"1\x0b\r\nZ\r\n0\r\n\r\n",
    "size_in_quotes": b'"1"\r\nZ\r\n0\r\n\r\n',
    "size_as_a_list": b"1,1\r\nZ\r\n0\r\n\r\n",
    "size_with_a_point": b"1.0\r\nZ\r\n0\r\n\r\n",
    "size_in_arabic_digits": b"\xd9\xa1\r\nZ\r\n0\r\n\r\n",
    "size_in_wide_digits": b"\xef\xbc\x91\r\nZ\r\n0\r\n\r\n",
    "size_of_2_to_the_64_and_1": b"10000000000000001\r\nZ\r\n0\r\n\r\n",
    "size_of_100_digits": b"F" * 100 + b"\r\nZ\r\n0\r\n\r\n",
    "more_bytes_than_announced": b"1\r\nZZ\r\n0\r\n\r\n",
    "fewer_bytes_than_announced": b"2\r\nZ\r\n0\r\n\r\n",
    "no_line_end_behind_the_bytes": b"1\r\nZ0\r\n\r\n",
    "return_alone_behind_the_bytes": b"1\r\nZ\r0\r\n\r\n",
    "two_returns_behind_the_bytes": b"1\r\nZ\r\r\n0\r\n\r\n",
    "line_feed_before_return": b"1\r\nZ\n\r0\r\n\r\n",
    "return_at_the_end": b"0\r\n\rX",
    "trailer_without_a_colon": b"0\r\nX\r\n\r\n",
    "trailer_without_a_name": b"0\r\n: a\r\n\r\n",
    "trailer_with_a_space_before_the_colon": b"0\r\nX : a\r\n\r\n",
    "trailer_with_a_nul": b"0\r\nX: \x00\r\n\r\n",
    "trailer_with_a_line_feed": b"0\r\nX: a\nY: b\r\n\r\n",
    "trailer_with_a_return": b"0\r\nX: a\rY: b\r\n\r\n",
    "line_feed_at_the_end": b"0\r\n\n",
    "line_feed_behind_a_trailer": b"0\r\nX: a\n\r\n",
}

# The same, but good: the request behind each is the next one.
GOOD_CHUNKS = {
    "nothing": b"0\r\n\r\n",
    "many_zeros": b"0000\r\n\r\n",
    "zeros_before_a_size": b"0001\r\nZ\r\n0\r\n\r\n",
    "sizes_in_any_case": b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
    "extensions": b'1;a=b;c="d;e"\r\nZ\r\n0;f\r\n\r\n',
    "trailers": b"0\r\nX: a\r\nY:\r\nHost: b\r\nConnection: close\r\n\r\n",
    "trailer_like_a_request": b"0\r\nX:POST / HTTP/1.1\r\n\r\n",  # 39
    "bytes_like_the_end": b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
    "a_request": b"%x\r\n%b\r\n0\r\n\r\n" % (len(INSIDE), INSIDE),
    "a_request_in_two": b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n"
    % (INSIDE[:5], len(INSIDE) - 5, INSIDE[5:]),
}

METHODS = {
    "GET": 200,
    "HEAD": 200,
    "OPTIONS": 204,
    "POST": 405,
    "PUT": 405,
    "DELETE": 405,
    "PATCH": 405,
    "BREW": 501,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("httpd"))


@pytest.fixture
def serve(request, folder):
    main = main_for(request)

    def start(*, kind="tcp"):
        return fork(main, "--root", str(folder), kind=kind)

    return start


def head(method, *fields):
    return "\r\n".join([f"{method} / HTTP/1.1", "Host: a", *fields, "", ""]).encode()


def chunked(body, size=None):
    size = size or len(body)
    pieces = [
        b"%x\r\n%b\r\n" % (len(part), part)
        for at in range(0, len(body), size)
        if (part := body[at : at + size])
    ]
    return b"".join([*pieces, b"0\r\n\r\n"])


@pytest.mark.parametrize(("method", "how"), [("POST", "whole"), ("GET", "byte")])
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS.keys())
def test_bad_chunks_are_refused_and_nothing_behind_them_is_answered(
    serve, method, how, chunks
):
    data = head(method, "Transfer-Encoding: chunked") + chunks + INSIDE
    with serve(kind="records") as served:
        for piece in cuts(data, how):
            served.send(piece)
        stream = served.read()
        assert served.end().wait() in (0, 110)
        assert not re.search("bug|LEAK|CRASH|Traceback", served.log), served.log
    answer = the_answer_in(stream)
    assert answer.status in REFUSED
    assert answer.fields["connection"] == "close"
    assert b"hello\n" not in stream


@pytest.mark.parametrize("chunks", GOOD_CHUNKS.values(), ids=GOOD_CHUNKS.keys())
@pytest.mark.parametrize("how", ["whole", "line", "byte"])
def test_behind_good_chunks_is_the_next_request(serve, chunks, how):
    data = head("POST", "Transfer-Encoding: Chunked") + chunks + BEHIND
    with serve(kind="records") as served:
        first, second = answers_in(served.talk(*cuts(data, how)))
        assert served.wait() == 0
        assert served.log == ""
    assert first.status == 405
    assert (second.status, second.body) == (200, b"<h1>sub</h1>\n")


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "GZIP ,\tchunked"])
def test_a_coding_that_is_not_known_is_told_as_such(serve, coding):
    """RFC 9112 6.1: 501; lighttpd and nginx say so as well."""
    with serve() as served:
        stream = served.send(
            head("POST", f"Transfer-Encoding: {coding}") + INSIDE
        ).read()
        assert served.end().wait() in (0, 110)
    assert the_answer_in(stream).status == 501


@pytest.mark.parametrize(
    "trailer",
    [
        b"Content-Length: 5",
        b"Content-Length: %d" % len(BEHIND),
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: x",
    ],
)
def test_a_trailer_does_not_say_where_a_body_ends(serve, trailer):
    """No sender may write such a trailer (RFC 9110 6.5.1): ignore it, or refuse."""
    data = head("POST", "Transfer-Encoding: chunked") + b"0\r\n" + trailer
    with serve() as served:
        stream = served.talk(data + b"\r\n\r\n" + BEHIND)
        assert served.wait() in (0, 110)
    statuses = [answer.status for answer in answers_in(stream)]
    assert statuses in ([400], [405, 200])


def _bodies():
    size = len(INSIDE)
    yield "length", [f"Content-Length: {size}"], INSIDE
    yield "length_with_zeros", [f"Content-Length: 000{size}"], INSIDE  # 32
    yield "chunked", ["Transfer-Encoding: chunked"], chunked(INSIDE)
    yield "chunked_by_bytes", ["transfer-encoding:CHUNKED"], chunked(INSIDE, 1)
    yield "length_of_many", [f"Content-Length: {size * 50}"], INSIDE * 50


@pytest.mark.parametrize(("method", "status"), METHODS.items())
@pytest.mark.parametrize(
    ("fields", "body"),
    [pytest.param(fields, body, id=name) for name, fields, body in _bodies()],
)
def test_a_body_that_looks_like_a_request_is_none(serve, method, status, fields, body):
    with serve() as served:
        stream = served.talk(head(method, *fields) + body + BEHIND)
        first, second = answers_in(stream, [method])
        assert served.wait() == 0
        assert served.log == ""
    assert first.status == status
    assert ("allow" in first.fields) == (status in (204, 405))
    assert (second.status, second.body) == (200, b"<h1>sub</h1>\n")
    assert b"hello\n" not in stream


@pytest.mark.parametrize("how", ["whole", "line", "byte"])
def test_a_body_in_pieces_is_still_none(serve, how):
    data = b"".join(
        head("POST", *fields) + body + BEHIND
        for name, fields, body in _bodies()
        if name != "length_of_many"
    )
    with serve(kind="records") as served:
        found = answers_in(served.talk(*cuts(data, how)))
        assert served.wait() == 0
    assert [answer.status for answer in found] == [405, 200] * 4


def test_a_body_that_comes_later_is_waited_for(serve):
    with serve() as served:
        served.send(head("POST", f"Content-Length: {len(INSIDE)}"))
        served.send(INSIDE[:10])
        served.send(INSIDE[10:])
        stream = served.read_until(b"\r\n\r\n")
        served.send(BEHIND)
        first, second = answers_in(stream + served.end().read())
        assert served.wait() == 0
    assert (first.status, second.status) == (405, 200)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (["If-None-Match: *"], 304),
        (['If-Match: "x"'], 412),
        (["Range: bytes=0-1"], 206),
        (["Range: bytes=99-"], 416),
        (["Expect: tea"], 417),
    ],
)
def test_no_other_answer_makes_a_body_a_request(serve, fields, status):
    with serve() as served:
        fields = [*fields, f"Content-Length: {len(INSIDE)}"]
        stream = served.talk(head("GET", *fields) + INSIDE + BEHIND)
        statuses = [answer.status for answer in answers_in(stream)]
        assert served.wait() == 0
    assert statuses == [status, 200]
    assert b"hello\n" not in stream


def test_a_body_that_looks_like_a_body_and_a_request(serve):
    """The body of the first is a head with a body: one level is read, and no more."""
    inner = head("POST", f"Content-Length: {len(INSIDE)}")
    data = head("POST", f"Content-Length: {len(inner)}") + inner + INSIDE
    with serve() as served:
        found = answers_in(served.talk(data))
        assert served.wait() == 0
    assert [answer.status for answer in found] == [405, 200]
    assert found[1].body == b"hello\n"


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (["Content-Length: 50"], INSIDE),
        (["Content-Length: 50"], b""),
        (["Transfer-Encoding: chunked"], b""),
        (["Transfer-Encoding: chunked"], b"5"),
        (["Transfer-Encoding: chunked"], b"50\r\n" + INSIDE),
        (["Transfer-Encoding: chunked"], b"25\r\n" + INSIDE),
        (["Transfer-Encoding: chunked"], b"0\r\n"),
        (["Transfer-Encoding: chunked"], b"0\r\nX: a\r\n"),
    ],
)
def test_a_body_that_ends_in_the_middle_is_refused(serve, fields, body):
    with serve() as served:
        stream = served.talk(head("GET", *fields) + body)
        assert served.wait() in (0, 110)
        assert "Traceback" not in served.log
    answer = the_answer_in(stream)
    assert answer.status == 400
    assert answer.fields["connection"] == "close"


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("size", [1 << 30, 1 << 40, (1 << 63) - 1, 1 << 63])
def test_a_body_longer_than_the_bound_is_the_end(serve, method, size):
    with serve() as served:
        stream = served.send(head(method, f"Content-Length: {size}") + INSIDE).read()
        assert served.end().wait() == 0
    answer = the_answer_in(stream)
    assert answer.status == 413
    assert answer.fields["connection"] == "close"


@pytest.mark.parametrize(
    "endless",
    [
        b"400\r\n" + b"x" * 1024 + b"\r\n",
        b"1\r\nx\r\n",
        b"1;" + b"x" * 1000 + b"\r\nx\r\n",
        b"0" * 1000,
    ],
)
def test_endless_chunks_have_an_end(serve, endless):
    repeated = itertools.repeat(endless, 400_000 // len(endless))
    with serve() as served:
        served.send(head("POST", "Transfer-Encoding: chunked") + b"".join(repeated))
        answer = the_answer_in(served.read())
        assert served.end().wait() in (0, 110)
    assert answer.status in REFUSED
    assert answer.fields["connection"] == "close"


def test_endless_trailers_have_an_end(serve):
    body = b"0\r\n" + b"X: a\r\n" * 60_000
    with serve() as served:
        served.send(head("POST", "Transfer-Encoding: chunked") + body)
        answer = the_answer_in(served.read())
        assert served.end().wait() in (0, 110)
    assert answer.status in REFUSED


@pytest.mark.parametrize("method", ["POST", "GET", "HEAD"])
def test_who_waits_for_100_gets_an_answer(serve, method):
    """Nobody wants the body: the last answer comes at once (RFC 9110 10.1.1)."""
    with serve() as served:
        served.send(head(method, "Content-Length: 5", "Expect: 100-continue"))
        stream = served.read()
        assert served.end().wait() == 0
    first = answers_in(stream, [method])[-1]
    assert first.status == METHODS[method]


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
@pytest.mark.parametrize("method", ["POST", "GET", "HEAD"])
def test_who_does_not_wait_for_100_smuggles_nothing(serve, method, expect):
    fields = [f"Content-Length: {len(INSIDE)}", f"Expect: {expect}"]
    with serve() as served:
        stream = served.talk(head(method, *fields) + INSIDE)
        assert served.wait() == 0
    assert the_answer_in(stream, method).status == METHODS[method]
    assert b"hello\n" not in stream


def test_100_is_not_for_http_1_0(serve):
    """RFC 9110 10.1.1: there the expectation is ignored, the body is read."""
    first = head("POST", f"Content-Length: {len(INSIDE)}", "Expect: 100-continue")
    with serve() as served:
        stream = served.talk(first.replace(b"HTTP/1.1", b"HTTP/1.0") + INSIDE)
        assert served.wait() == 0
    assert the_answer_in(stream).status == 405


def test_an_expectation_without_a_body_ends_nothing(serve):
    with serve() as served:
        found = answers_in(served.talk(head("GET", "Expect: 100-continue") + INSIDE))
        assert served.wait() == 0
    assert [answer.status for answer in found] == [200, 200]
