"""No two readers of one stream: what a proxy was sent and what the origin gets.

The malformed requests of test_http_malformed.py and test_http_malformed_bodies.py, put to
a proxy. Behind each stands a good request, and within bodies another: the first may be
answered where the one before it was, the other never arrives. The origin is the judge of
what arrives (origins.py): one byte that is no well-formed request fails the test.
"""

from __future__ import annotations

import re

import pytest
from handlers.test_http_malformed import FIELDS, HOSTS, LINES, WHOLE
from handlers.test_http_malformed_bodies import CHUNKS, GOOD_CHUNKS
from proxy.client import dialled, request
from proxy.origins import OK, answers

REFUSED = {400, 411, 413, 414, 417, 431, 501, 502, 505}
SMUGGLED = b"/smuggled"

# At a proxy these are a path of the origin's, whose business it is (RFC 9110 7.7).
FOR_THE_ORIGIN = {
    *("escape_without_digits", "escape_with_one_digit", "escape_of_no_digits"),
    *("escape_with_a_sign", "escape_of_unicode", "escape_of_nul", "above_the_root"),
    *("above_the_root_escaped", "above_the_root_and_back"),
}


def absolute(text, url):
    """Put the first target of a request into absolute form."""
    return re.sub(
        rb"\A(\s*[^\s/]+[\s\xa0]+)/", lambda found: found[1] + url, text, count=1
    )


@pytest.fixture
def played(either, origin):
    """Send a malformed request and a good one behind it; judge what arrives."""

    def play(text, inside=b""):
        server = origin(answers(OK))
        url = server.url().encode()
        behind = request(server.url("/behind"))
        data = absolute(text, url).replace(b"Host: a\r\n", b"Host: ORIGIN\r\n", 1)
        data = (data + inside).replace(b"ORIGIN", server.authority.encode())
        with dialled(either().address) as peer:
            answer = peer.send(data + behind).half_close().answer()
            peer.read_to_end()
        targets = [one.target for one in server.requests]
        assert SMUGGLED not in targets
        for one in server.requests:
            assert one.the("host") == server.authority.encode()
            assert one.names <= {"host", "via", "content-length", "transfer-encoding"}
        return answer, targets

    return play


def is_refused(answer, targets):
    return answer is not None and answer.status in REFUSED and not targets


@pytest.mark.parametrize("name", LINES)
def test_a_bad_request_line_goes_no_further(played, name):
    answer, targets = played(LINES[name] + b"\r\nHost: a\r\n\r\n")
    if name in FOR_THE_ORIGIN and answer.status == 200:
        path = LINES[name].split(b" ")[1]
        assert targets == [path, b"/behind"]
    elif name == "absolute_of_another_scheme" and not answer.closes:
        assert answer.status == 501
        assert targets == [b"/behind"]
    else:
        assert is_refused(answer, targets)


@pytest.mark.parametrize("name", FIELDS)
def test_a_bad_field_goes_no_further(played, name):
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + FIELDS[name] + b"\r\n\r\n"
    assert is_refused(*played(head))


@pytest.mark.parametrize("name", HOSTS)
def test_a_bad_host_goes_no_further(played, name):
    answer, targets = played(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % HOSTS[name])
    if answer.status == 200:
        # The received one is ignored (9112 3.2.2); that another arrived is judged above.
        assert targets == [b"/", b"/behind"]
    else:
        assert is_refused(answer, targets)


@pytest.mark.parametrize("name", WHOLE)
def test_bad_bytes_go_no_further(played, name):
    assert is_refused(*played(WHOLE[name]))


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def inside():
    """Spell what must never be taken for a request."""
    return b"GET http://ORIGIN/smuggled HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"


@pytest.mark.parametrize("name", CHUNKS)
def test_bad_chunks_are_no_whole_request(played, inside, name):
    """The head may have gone on before the body was seen: it then never ends."""
    answer, targets = played(CHUNKED + CHUNKS[name] + inside)
    assert is_refused(answer, targets)


@pytest.mark.parametrize("name", GOOD_CHUNKS)
def test_good_chunks_are_one_request(played, name):
    """The control."""
    answer, targets = played(CHUNKED + GOOD_CHUNKS[name])
    assert answer.status == 200
    assert targets == [b"/", b"/behind"]


LONGS = {
    "long_max": b"7FFFFFFFFFFFFFFF\r\n",  # CVE-2026-3945: tinyproxy held for ever
    "ulong_max": b"FFFFFFFFFFFFFFFF\r\n",
    "beyond": b"FFFFFFFFFFFFFFFF1\r\n",
    "int_max": b"80000000\r\n",
}


@pytest.mark.parametrize("size", LONGS.values(), ids=LONGS)
def test_an_endless_chunk_ends_with_its_client(either, origin, size):
    server = origin(answers(OK))
    data = request(server.url(), "Transfer-Encoding: chunked", method="POST")
    use = either()
    with dialled(use.address) as peer:
        answer = peer.send(data + size + b"abc").half_close().answer()
        assert answer is None or answer.status in {400, 413, 502}
        server.join()  # its connections have ended too
    assert not server.requests
    with dialled(use.address) as peer:
        assert peer.send(request(server.url())).answer().status == 200


@pytest.mark.parametrize(
    ("coding", "length"),
    [
        (b"chunked", b"4"),  # tinyproxy issue 609
        (b"Chunked", b"4"),  # CVE-2026-31842
        (b"chunked", b"0"),
        (b" \tchunked \t", b"5"),
        (b"xchunked", b"5"),
    ],
)
def test_a_length_beside_a_coding_goes_no_further(played, inside, coding, length):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nTransfer-Encoding: %b"
    body = b"0\r\n\r\n" + inside
    assert is_refused(*played(head % (length, coding) + b"\r\n\r\n" + body))


def test_a_body_that_looks_like_a_request_is_a_body(either, origin):
    server = origin(answers(OK))
    hidden = request(server.url("/smuggled"))
    with dialled(either().address) as peer:
        peer.send(request(server.url("/first"), method="POST", body=hidden))
        peer.send(request(server.url("/behind")))
        assert [peer.answer().status, peer.answer().status] == [200, 200]
    assert [one.target for one in server.requests] == [b"/first", b"/behind"]
    assert server.requests[0].body == hidden


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "BREW"])
def test_a_body_of_any_method_is_a_body(either, origin, method):
    server = origin(answers(OK if method != "HEAD" else OK.removesuffix(b"ok")))
    hidden = request(server.url("/smuggled"))
    with dialled(either().address) as peer:
        peer.send(request(server.url("/first"), method=method, body=hidden))
        assert peer.answer(method).status == 200
    assert [one.target for one in server.requests] == [b"/first"]
    assert server.requests[0].body == hidden


def test_no_byte_arrives_in_another_spelling_than_the_parsed_one(either, origin):
    """What was re-serialised is one SP, one CRLF, no space at an end."""
    server = origin(answers(OK))
    url = server.url("/a?b").encode()
    head = b"\r\nGET %b HTTP/1.1\r\nhOST:%b\r\nA:\t b \t\r\nC:\r\n\r\n"
    with dialled(either().address) as peer:
        peer.send(head % (url, server.authority.encode()))
        assert peer.answer().status == 200
    lines = server.received.split(b"\r\n")
    assert lines[0] == b"GET /a?b HTTP/1.1"
    assert b"A: b" in lines
    assert b"C: " in lines or b"C:" in lines
    assert lines[-2:] == [b"", b""]
