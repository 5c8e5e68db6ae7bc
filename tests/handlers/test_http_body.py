"""Where a body ends, by the letter, however it is cut."""

from __future__ import annotations

import itertools
import time

import pytest
from httpd_talk import MAINS, split, write
from hypothesis import given
from hypothesis import strategies as st
from inetd import cuts, fork

from superd.handlers.exits import TooSlow
from superd.handlers.http.body import Chunks, drop_body
from superd.handlers.http.refusal import Refused
from superd.handlers.http.request import HeadReader, Limits, Request

NEXT = b"GET /f HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
pieces = st.lists(st.binary(min_size=1, max_size=40), max_size=5)


def chunked(parts, *, extension=b"", trailer=b""):
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(one), extension, one) for one in parts)
    return body + b"0\r\n" + trailer + b"\r\n"


def end_of(data, most, points=()):
    """Feed Chunks; returns what follows the body, None without an end, or the status."""
    chunks = Chunks(most)
    edges = [0, *sorted(point % (len(data) + 1) for point in points), len(data)]
    for at, (start, end) in enumerate(itertools.pairwise(edges)):
        try:
            rest = chunks.feed(data[start:end])
        except Refused as refused:
            return refused.status
        if rest is not None:
            return rest + data[edges[at + 1] :]
    return None


@given(
    pieces,
    st.sampled_from([b"", b";a=b", b';a="b c"']),
    st.sampled_from([b"", b"X: y\r\n"]),
    st.binary(max_size=60),
    st.lists(st.integers(0, 10_000), max_size=6),
)
def test_what_follows_the_chunks_is_left_to_the_last_byte(
    parts, extension, trailer, rest, points
):
    body = chunked(parts, extension=extension, trailer=trailer)
    assert end_of(body + rest, 10_000, points) == rest
    assert end_of(body[:-1], 10_000, points) is None
    assert end_of(body + rest, len(body), points) == rest
    assert end_of(body + rest, len(body) - 1, points) == 413


@given(st.binary(max_size=80), st.lists(st.integers(0, 10_000), max_size=6))
def test_any_bytes_end_alike_however_they_are_cut(data, points):
    assert end_of(data, 50, points) == end_of(data, 50)


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5_0\r\n",
        b"-1\r\n",
        b"\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"ffffffffffffffff0\r\n",
        b"5\r\nhelloo\r\n0\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n X: y\r\n\r\n",
        b"5;\x00\r\nhello\r\n0\r\n\r\n",
        b"5\rX\nhello\r\n0\r\n\r\n",
    ],
)
def test_chunks_that_two_could_read_differently_are_refused(body):
    assert end_of(body, 1000) == 400


class TestDropBody:
    """The body of a request, without a connection."""

    def play(self, length, data, *answers, most=100):
        """Returns what is left for the next request, or what was raised."""
        reader = HeadReader(Limits())
        reader.feed(data)
        request = Request(b"POST", b"/", 1, {}, length)
        dropping = drop_body(request, reader, most, 5.0)
        waiting = list(answers)
        try:
            step = next(dropping)
            while True:
                assert step.deadline <= time.monotonic() + 5
                answer = waiting.pop(0)
                step = (
                    dropping.throw(answer)
                    if isinstance(answer, Exception)
                    else dropping.send(answer)
                )
        except StopIteration:
            assert not waiting
            return reader.take()
        except Refused as refused:
            return refused.status
        except TooSlow:
            return "slow"

    def test_a_length_is_read_to_its_last_byte(self):
        assert self.play(5, b"helloGET") == b"GET"
        assert self.play(5, b"he", b"l", b"loGET") == b"GET"
        assert self.play(100, b"", bytes(100)) == b""

    def test_more_than_is_allowed_is_not_waited_for(self):
        assert self.play(101, b"") == 413

    def test_an_end_in_the_middle_is_no_body(self):
        assert self.play(5, b"he", b"") == 400
        assert self.play(None, b"5\r\nhe", b"") == 400

    def test_a_slow_body_is_told_so(self):
        assert self.play(5, b"he", TooSlow("late")) == "slow"


BODIES = {
    "length": b"Content-Length: %d\r\n\r\n%b" % (len(NEXT), NEXT),
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n" + chunked([NEXT]),
}


@pytest.mark.parametrize("mode", MAINS)
@pytest.mark.parametrize("method", [b"GET", b"POST", b"HEAD", b"OPTIONS"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("how", ["whole", "byte"])
def test_a_body_that_looks_like_a_request_is_none(tmp_path, mode, method, body, how):
    tmp_path.chmod(0o755)
    write(tmp_path / "f", b"the file")
    data = method + b" /no HTTP/1.1\r\nHost: x\r\n" + body + NEXT
    with fork(MAINS[mode], "--root", str(tmp_path), kind="records") as served:
        answer = served.talk(*cuts(data, how))
        assert answer.count(b"HTTP/1.1 ") == 2
        assert answer.count(b"the file") == 1
        assert served.wait() == 0


@pytest.mark.parametrize("mode", MAINS)
def test_who_waits_for_100_gets_an_answer_and_the_end(tmp_path, mode):
    fields = b"Host: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    head = b"POST / HTTP/1.1\r\n" + fields
    with fork(MAINS[mode], "--root", str(tmp_path)) as served:
        status, fields, _ = split(served.send(head).read())
        assert (status, fields["Connection"]) == (405, "close")
        assert served.end().wait() == 0


@pytest.mark.parametrize("mode", MAINS)
def test_a_body_has_its_time_whatever_comes_of_it(tmp_path, mode):
    head = b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n"
    flags = ["--root", str(tmp_path), "--timeouts.body", "0.3"]
    with fork(MAINS[mode], *flags) as served:
        served.send(head)
        served.sock.settimeout(0.02)
        begun = time.monotonic()
        answer = b""
        while not answer:
            served.send(b"x")
            try:
                answer = served.sock.recv(9999)
            except TimeoutError:
                continue
        assert time.monotonic() - begun < 5
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert served.end().wait() == 112
