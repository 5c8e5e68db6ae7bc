"""What a proxy leaves as it is: spelling, order, bytes; and what it must not leave.

What browsers send in targets is not always what RFC 3986 has in its grammar; it is the
origin's to read (RFC 9110 7.7).
"""

from __future__ import annotations

import pytest
from proxy.client import ask, dialled, request
from proxy.origins import OK, answers, bare, chunked, closes, reply


@pytest.mark.parametrize(
    "path",
    [
        "/a|b?c={d}&e=[f]|^`g",  # as Chromium and Firefox send them
        '/?a="b"&<c>',
        "/a%2Fb%5c%00%?%zz",
        "/\\a\\..\\b",
        "//a//",
        "/.",
        "/..",
        "/a/./b/../c",
        "/*",
        "/http://other.test/",
        "/a:b@c",
        "/;?",
        "/???",
    ],
)
def test_a_target_stays_as_it_is_or_is_refused(either, origin, path):
    server = origin()
    answer = ask(either(), server.url(path))
    if answer.status == 400:
        # Only what no URL has: a browser never sends these raw.
        assert set(path) & set('"<>\\')
        assert not server.connections
    else:
        assert answer.status == 200
        assert server.last.target == path.encode()


def test_a_request_line_of_8000_bytes_is_served(either, origin):
    """RFC 9112 3 recommends that it is."""
    server = origin()
    path = "/" + "a" * (8000 - len(f"GET {server.url()} HTTP/1.1"))
    assert ask(either(), server.url(path)).status == 200
    assert server.last.target == path.encode()


@pytest.mark.parametrize(
    ("prefix", "suffix"), [("HTTP://", ""), ("http://", "?a"), ("hTTp://", "/")]
)
def test_the_scheme_has_no_case(either, origin, prefix, suffix):
    server = origin()
    answer = ask(either(), prefix + server.authority + suffix, host=server.authority)
    assert answer.status == 200
    assert server.last.the("host") == server.authority.encode()


def test_the_host_of_the_target_is_spelt_in_one_way(either, origin):
    server = origin()
    for host in ("LocalHost", "localhost"):
        url = f"http://{host}:{server.port}/"
        assert ask(either(), url).status == 200
        assert server.last.the("host").lower() == f"localhost:{server.port}".encode()


LINES = [
    "X-b: 1",
    "x-A: 2",
    "X-Empty:",
    "X-B: 3",
    "x-High: \xe4\xff",
    "!#$%&'*+-.^_`|~: t",
]
SENT = [
    *((b"X-b", b"1"), (b"x-A", b"2"), (b"X-Empty", b""), (b"X-B", b"3")),
    *((b"x-High", b"\xe4\xff"), (b"!#$%&'*+-.^_`|~", b"t")),
]


def test_fields_of_a_request_keep_order_and_spelling(either, origin):
    server = origin()
    assert ask(either(), server.url(), *LINES).status == 200
    assert [one for one in server.last.fields if one in SENT] == SENT


def test_fields_of_an_answer_keep_order_and_spelling(either, origin):
    answer = ask(either(), origin(answers(reply(b"ok", *LINES))).url())
    assert [one for one in answer.fields if one in SENT] == SENT


@pytest.mark.parametrize("reason", ["OK", "", "Tr\xe8s bien", "A  B\tC"])
def test_the_reason_of_an_answer_is_no_matter(either, origin, reason):
    server = origin(
        answers(reply(b"ok", status=f"200 {reason}".encode().decode("utf-8")))
    )
    answer = ask(either(), server.url())
    assert (answer.status, answer.body) == (200, b"ok")


# -- framing that must not be left ----------------------------------------------------


@pytest.mark.parametrize("size", ["0", "5"])
def test_an_answer_without_a_body_has_no_size(either, origin, size):
    """RFC 9110 8.6: a client that believed it would wait, or eat the next answer."""
    head = bare(f"Content-Length: {size}", status="204 No Content")
    with dialled(either().address) as peer:
        answer = peer.send(request(origin(answers(head)).url())).answer()
    assert (answer.status, answer.whole) in {(204, True), (502, True)}


@pytest.mark.parametrize("line", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_an_interim_answer_has_no_framing(either, origin, line):
    head = bare(line, "Link: </a>", status="103 Early Hints")
    answer = ask(either(), origin(answers(head + OK)).url())
    assert answer.status in {200, 502}


@pytest.mark.parametrize("line", ["Content-Length: 0", "Transfer-Encoding: chunked"])
def test_an_answer_to_head_has_one_framing_at_most(either, origin, line):
    server = origin(answers(bare(line), OK))
    with dialled(either().address) as peer:
        assert peer.send(request(server.url(), method="HEAD")).answer("HEAD")
        assert peer.send(request(server.url())).answer().body == b"ok"


def test_sizes_that_are_the_same_are_one_or_refused(either, origin):
    """RFC 9112 6.3; the origin takes two lines for a fault."""
    server = origin()
    lines = ["Content-Length: 2", "content-length: 2"]
    answer = ask(either(), server.url(), *lines, method="POST", body=b"hi")
    assert answer.status in {200, 400}
    lines = ["Content-Length: 2, 2"]
    answer = ask(either(), server.url(), *lines, method="POST", body=b"hi")
    assert answer.status in {200, 400}


@pytest.mark.parametrize("line", ["Content-Length: 2\r\ncontent-length: 2", "x: y"])
def test_sizes_of_an_answer_that_are_the_same_are_one_or_refused(either, origin, line):
    server = origin(closes(bare(line, "Content-Length: 2") + b"ok"))
    answer = ask(either(), server.url())
    assert answer.status == 502 or answer.body == b"ok"


def test_chunks_in_http_1_0_are_read_once_and_the_connection_is_not_kept(
    either, origin
):
    """RFC 9112 6.1: its framing is faulty, whatever it looks like."""
    coded = chunked(b"ok").replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    server = origin(answers(coded), answers(OK))
    with dialled(either().address) as peer:
        answer = peer.send(request(server.url())).answer()
        assert answer.status == 502 or answer.body == b"ok"
        if not answer.closes:
            assert peer.send(request(server.url())).answer().body == b"ok"
            assert [one.connection for one in server.requests] == [0, 1]


@pytest.mark.parametrize("coding", ["Chunked", "CHUNKED", " chunked\t"])
def test_the_coding_of_an_answer_has_no_case(either, origin, coding):
    data = chunked(b"ok").replace(b" chunked", b" " + coding.encode())
    answer = ask(either(), origin(answers(data)).url())
    assert (answer.body, answer.whole) == (b"ok", True)


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "Set-Cookie"])
def test_an_answer_cannot_have_its_framing_taken_away(either, origin, name):
    lines = [f"Connection: {name}", "Set-Cookie: a=b"]
    server = origin(answers(reply(b"ok", *lines), OK))
    with dialled(either().address) as peer:
        answer = peer.send(request(server.url())).answer()
        assert (answer.body, answer.whole) == (b"ok", True)
        assert answer.the("set-cookie") == b"a=b"
