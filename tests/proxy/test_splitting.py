"""Answers that two readers would read differently: none comes out of the proxy.

The client is the judge (client.py): a byte that is no well-formed answer fails the test.
"""

from __future__ import annotations

import pytest
from handlers.test_http_malformed_bodies import CHUNKS, GOOD_CHUNKS
from proxy.client import ask, dialled, request
from proxy.origins import OK, answers, bare, closes

FIELDS = {
    "return_in_a_value": b"A: b\rSet-Cookie: c=1",
    "line_feed_in_a_value": b"A: b\nSet-Cookie: c=1",
    "line_feeds_and_an_answer": b"A: b\n\nHTTP/1.1 200 OK\nContent-Length: 0",
    "returns_and_an_answer": b"A: b\r\rHTTP/1.1 200 OK",
    "nul_in_a_value": b"A: b\0c",
    "escape_in_a_value": b"A: \x1b[2J",
    "delete_in_a_value": b"A: b\x7f",
    "no_colon": b"word",
    "no_name": b": a",
    "space_in_a_name": b"A B: c",
    "nul_in_a_name": b"A\0: c",
    "high_byte_in_a_name": b"\xe4: c",
    "space_in_front": b" A: b",
    "fold_of_a_length": b"Content-Length:\r\n 5",
    "coding_unknown": b"Transfer-Encoding: cow",
    "coding_gzip_and_chunked": b"Transfer-Encoding: gzip, chunked",
    "coding_chunked_twice": b"Transfer-Encoding: chunked, chunked",
    "coding_not_last": b"Transfer-Encoding: chunked, gzip",
    "coding_with_a_control": b"Transfer-Encoding: \x0bchunked",
    "length_in_arabic_digits": b"Content-Length: \xd9\xa2",
    "length_with_an_underscore": b"Content-Length: 1_0",
    "length_and_another": b"Content-Length: 2\r\nContent-Length: 3",
    "length_of_two_words": b"Content-Length: 2 2",
    "length_in_quotes": b'Content-Length: "2"',
    "length_with_a_tail": b"Content-Length: 2x",
    "space_before_the_colon_of_a_length": b"Content-Length : 2",
}
STARTS = {
    "return_in_the_reason": b"HTTP/1.1 200 O\rK",
    "line_feed_in_the_reason": b"HTTP/1.1 200 O\nSet-Cookie: a",
    "nul_in_the_reason": b"HTTP/1.1 200 O\0K",
    "status_of_two_digits": b"HTTP/1.1 20 OK",
    "status_of_four_digits": b"HTTP/1.1 2000 OK",
    "status_with_a_sign": b"HTTP/1.1 +20 OK",
    "status_of_letters": b"HTTP/1.1 abc OK",
    "status_0": b"HTTP/1.1 000 OK",
    "status_900": b"HTTP/1.1 900 OK",
    "version_2": b"HTTP/2.0 200 OK",
    "version_without_a_minor": b"HTTP/1 200 OK",
    "version_long": b"HTTP/1.10 200 OK",
    "lower_case": b"http/1.1 200 OK",
    "no_space": b"HTTP/1.1200 OK",
    "two_spaces": b"HTTP/1.1  200 OK",
    "icecast": b"ICY 200 OK",
    "space_in_front": b" HTTP/1.1 200 OK",
    "empty_line_in_front": b"\r\nHTTP/1.1 200 OK",
    "a_request": b"GET / HTTP/1.1",
}


def cleanly(answer):
    """Judge: refused, or without anything that was hidden."""
    assert b"\0" not in answer.head
    assert b"\x1b" not in answer.head
    assert answer.status == 502 or (
        answer.whole and "set-cookie" not in answer.names and answer.body == b"ok"
    )


@pytest.mark.parametrize("name", FIELDS)
def test_no_bad_field_of_an_answer_comes_through(either, origin, name):
    data = b"HTTP/1.1 200 OK\r\n" + FIELDS[name] + b"\r\n\r\nok"
    use = either()
    with dialled(use.address) as peer:
        answer = peer.send(request(origin(closes(data)).url())).answer()
        cleanly(answer)
        assert peer.half_close().read_to_end() == b"", "a second answer"


@pytest.mark.parametrize("name", STARTS)
def test_no_bad_status_line_comes_through(either, origin, name):
    data = STARTS[name] + b"\r\nContent-Length: 2\r\n\r\nok"
    with dialled(either().address) as peer:
        answer = peer.send(request(origin(closes(data)).url())).answer()
        if answer.status != 900:
            cleanly(answer)
        assert peer.half_close().read_to_end() == b"", "a second answer"


@pytest.mark.parametrize("name", CHUNKS)
def test_bad_chunks_of_an_answer_are_no_whole_answer(either, origin, name):
    """And what stands behind them, like a second answer, is nobody's."""
    head = bare("Transfer-Encoding: chunked")
    server = origin(closes(head + CHUNKS[name] + OK), answers(OK))
    use = either()
    with dialled(use.address) as peer:
        answer = peer.send(request(server.url())).answer()
        assert answer.status == 502 or not answer.whole
        if answer.status == 502 and not answer.closes:
            assert peer.send(request(server.url("/2"))).answer().body == b"ok"
    assert ask(use, server.url("/3")).body == b"ok"
    assert len({one.connection for one in server.requests}) > 1


@pytest.mark.parametrize("name", GOOD_CHUNKS)
def test_good_chunks_of_an_answer_are_one(either, origin, name):
    """The control."""
    head = bare("Transfer-Encoding: chunked")
    server = origin(answers(head + GOOD_CHUNKS[name], OK))
    with dialled(either().address) as peer:
        answer = peer.send(request(server.url())).answer()
        assert (answer.status, answer.whole) == (200, True)
        assert peer.send(request(server.url("/2"))).answer().body == b"ok"
