"""What a proxy must do with a request: RFC 9110 and 9112, one sentence a test.

These can be put to any proxy (see conftest.py). Where the RFC leaves a choice, each choice
is good; what superd chose among them is asked of superd alone (`is_ours`).
"""

from __future__ import annotations

import re

import pytest
from proxy.client import ask, dialled, request, tell
from proxy.origins import OK, answers, bare, closes, reply, resets

PRIVATE = ["TE: trailers", "Upgrade: x/1", "Keep-Alive: timeout=5"]


# -- the request line and Host --------------------------------------------------------


def test_the_absolute_form_becomes_the_origin_form(proxy, origin):
    """RFC 9112 3.2.1."""
    server = origin()
    assert ask(proxy(), server.url("/a/b?c=d")).body == b"ok"
    assert server.last.target == b"/a/b?c=d"
    assert server.last.method == b"GET"


@pytest.mark.parametrize(("tail", "target"), [("", b"/"), ("?q=1", b"/?q=1")])
def test_an_empty_path_becomes_a_slash(proxy, origin, tail, target):
    """RFC 9112 3.2.1."""
    server = origin()
    assert ask(proxy(), server.url(tail)).status == 200
    assert server.last.target == target


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:1", ""])
def test_host_is_that_of_the_target_whatever_was_received(proxy, origin, host):
    """RFC 9112 3.2.2, a MUST."""
    server = origin()
    answer = ask(proxy(), server.url(), host=host)
    if not host and answer.status == 400:  # 3.2: one that names nothing is invalid
        return
    assert answer.status == 200
    assert server.last.the("host") == server.authority.encode()


def test_options_of_no_path_becomes_options_of_the_server(proxy, origin):
    """RFC 9112 3.2.4."""
    server = origin()
    assert ask(proxy(), server.url(""), method="OPTIONS").status == 200
    assert server.last.target == b"*"


def test_options_of_a_path_stays_that(proxy, origin):
    server = origin()
    assert ask(proxy(), server.url("/"), method="OPTIONS").status == 200
    assert server.last.target == b"/"


def test_path_and_query_go_on_byte_for_byte(proxy, origin):
    """RFC 9110 7.7: not decoded, not normalised, not put in another case."""
    server = origin()
    target = "/%7eU/./a//b/../%2e%2E/;p=1,2:@&=+$!*'()~?q=a+b&&c=%C3%a4&d=/?:@"
    assert ask(proxy(), server.url(target)).status == 200
    assert server.last.target == target.encode()


def test_an_unknown_method_goes_on_as_it_is(proxy, origin):
    server = origin()
    assert ask(proxy(), server.url(), method="BREW").status == 200
    assert server.last.method == b"BREW"


def test_the_version_that_goes_on_is_the_own_one(proxy, origin):
    """RFC 9110 2.5: the origin sees 1.1 though the client has said 1.0."""
    server = origin()
    assert ask(proxy(), server.url(), version="1.0").status == 200
    assert server.last.head.startswith(b"GET / HTTP/1.1\r\n")


def test_the_version_that_comes_back_is_the_own_one(proxy, origin):
    server = origin(closes(reply(b"ok", version="1.0")))
    answer = ask(proxy(), server.url())
    assert (answer.minor, answer.body) == (1, b"ok")


# -- fields of one connection ---------------------------------------------------------


def test_the_fields_of_the_connection_end_at_the_proxy(proxy, origin):
    """RFC 9110 7.6.1."""
    server = origin()
    lines = [*PRIVATE, "Connection: TE, Upgrade, Keep-Alive", "Accept: a/b"]
    assert ask(proxy(), server.url(), *lines).status == 200
    assert not server.last.names & {"te", "upgrade", "trailer"}
    assert b"timeout=5" not in server.received
    assert server.last.the("accept") == b"a/b"


def test_what_connection_names_ends_at_the_proxy(proxy, origin):
    server = origin()
    lines = ["X-Mine: a", "Connection: x-mine ,, X-Too", "x-too: b", "X-Other: c"]
    assert ask(proxy(), server.url(), *lines).status == 200
    assert not server.last.names & {"x-mine", "x-too"}
    assert b"x-mine" not in server.received.lower()
    assert server.last.the("x-other") == b"c"


def test_what_connection_names_in_a_second_line_ends_too(proxy, origin):
    server = origin()
    lines = ["Connection: keep-alive", "X-Mine: a", "Connection: x-mine"]
    assert ask(proxy(), server.url(), *lines).status == 200
    assert "x-mine" not in server.last.names


def test_no_field_of_the_proxy_goes_on(proxy, origin):
    server = origin()
    lines = ["Proxy-Connection: keep-alive", "Proxy-Authorization: Basic eDp5"]
    assert ask(proxy(), server.url(), *lines).status == 200
    assert not server.last.names & {"proxy-connection", "proxy-authorization"}


def test_connection_cannot_take_away_what_the_far_end_needs(proxy, origin):
    """RFC 9110 7.6.1: such a request is refused, or its Connection not obeyed."""
    server = origin()
    lines = ["Connection: host, content-length, authorization", "Authorization: a b"]
    answer = ask(proxy(), server.url(), *lines, method="POST", body=b"12345")
    if answer.status == 400:
        assert not server.requests
        return
    assert server.last.the("authorization") == b"a b"
    assert server.last.body == b"12345"
    assert server.last.the("host") == server.authority.encode()


def test_connection_named_by_itself_is_no_trap(proxy, origin):
    """CVE-2023-49606: tinyproxy used it after it had been freed."""
    server = origin()
    lines = ["Connection: Connection", "X-A: b", "Connection: connection, close, x-a"]
    assert ask(proxy(), server.url(), *lines).status == 200
    assert "x-a" not in server.last.names
    assert ask(proxy(), server.url()).status == 200


def test_the_order_of_fields_of_one_name_is_kept(proxy, origin):
    """RFC 9110 5.3."""
    server = origin()
    lines = [f"X-List: {n}" for n in range(9)]
    assert ask(proxy(), server.url(), *lines).status == 200
    joined = b", ".join(server.last.all("x-list"))
    assert joined == b"0, 1, 2, 3, 4, 5, 6, 7, 8"


def test_credentials_for_the_origin_go_on_unchanged(proxy, origin):
    server = origin()
    line = 'Authorization: Digest a="b,c" ,  d=e'
    assert ask(proxy(), server.url(), line).status == 200
    assert server.last.the("authorization") == b'Digest a="b,c" ,  d=e'


# -- Via, Max-Forwards ----------------------------------------------------------------


def test_via_is_appended_to_what_was_there(proxy, origin):
    """RFC 9110 7.6.3."""
    server = origin()
    lines = ["Via: 1.0 fred, 1.1 p.example.net", "Via: 1.1 third"]
    assert ask(proxy(), server.url(), *lines).status == 200
    joined = b", ".join(server.last.all("via"))
    begin = rb"1\.0 fred, 1\.1 p\.example\.net, 1\.1 third, "
    assert re.match(begin + rb"(HTTP/)?1\.1 [\w.:-]+", joined)


def test_via_tells_the_version_that_was_received(proxy, origin):
    server = origin()
    assert ask(proxy(), server.url(), version="1.0").status == 200
    assert re.match(rb"(HTTP/)?1\.0 ", server.last.the("via"))


def test_a_request_that_was_here_before_is_a_loop(proxy, origin):
    """RFC 9110 7.6: a proxy must not forward a message to itself."""
    server, use = origin(), proxy()
    assert ask(use, server.url()).status == 200
    own = server.last.the("via").decode()
    answer = ask(use, server.url(), f"Via: 1.1 a, {own}, 1.1 b")
    assert answer.status >= 400
    assert len(server.requests) == 1
    if use.is_ours:
        assert (answer.status, answer.why) == (508, "proxy_loop_detected")


def test_via_tells_the_version_of_each_request_of_a_connection(proxy, origin):
    server = origin()
    with dialled(proxy().address) as peer:
        for version in ("1.1", "1.0"):
            peer.send(request(server.url(), version=version))
            assert peer.answer().status == 200
    said = [one.the("via").removeprefix(b"HTTP/")[:3] for one in server.requests]
    assert said == [b"1.1", b"1.0"]


def test_a_pseudonym_within_another_is_no_loop(proxy, origin):
    server, use = origin(), proxy()
    assert ask(use, server.url()).status == 200
    own = server.last.the("via").split()[1].decode()
    lines = [f"Via: 1.1 x{own}, 1.1 {own}x, 1.1 a ({own})"]
    assert ask(use, server.url(), *lines).status == 200
    assert len(server.requests) == 2


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
def test_max_forwards_of_0_is_answered_here(proxy, origin, method):
    """RFC 9110 7.6.2, a MUST."""
    server = origin()
    answer = ask(proxy(), server.url(), "Max-Forwards: 0", method=method)
    assert answer.status in ({200, 204} if method == "OPTIONS" else {200, 405, 501})
    assert not server.requests


def test_an_answer_to_trace_shows_no_credentials(proxy, origin):
    """RFC 9110 9.3.8: the final recipient should leave out what is sensitive."""
    lines = ["Max-Forwards: 0", "Cookie: c=SECRET", "Authorization: Basic SECRET"]
    lines.append("Proxy-Authorization: Basic SECRET")
    answer = ask(proxy(), origin().url(), *lines, method="TRACE")
    assert b"SECRET" not in answer.head + answer.body


def test_max_forwards_is_one_fewer_for_the_next(proxy, origin):
    server = origin()
    assert ask(proxy(), server.url(), "Max-Forwards: 7", method="OPTIONS").status == 200
    assert server.last.the("max-forwards") == b"6"


def test_max_forwards_of_another_method_is_nothing_to_us(proxy, origin):
    server = origin()
    assert ask(proxy(), server.url(), "Max-Forwards: 0").status == 200
    assert server.requests


# -- bodies and expectations ----------------------------------------------------------


def test_a_body_with_a_size_goes_on(proxy, origin):
    server = origin()
    body = bytes(range(256)) * 1000
    assert ask(proxy(), server.url(), method="POST", body=body).status == 200
    assert server.last.body == body


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED"])
def test_a_chunked_body_goes_on_whole(proxy, origin, coding):
    """CVE-2026-31842: the name of a coding has no case (RFC 9112 7)."""
    server = origin()
    chunks = b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    lines = [f"Transfer-Encoding: {coding}"]
    with dialled(proxy().address) as peer:
        data = request(server.url(), *lines, method="POST") + chunks
        assert peer.send(data).answer().status == 200
    assert server.last.body == b"hello world"


def test_trailers_are_merged_into_no_head(proxy, origin):
    """They go on as trailers or not at all (RFC 9110 6.5.1); lighttpd CVE-2025-12642."""
    server = origin()
    lines = ["Transfer-Encoding: chunked", "Trailer: X-Sum"]
    chunks = b"2\r\nhi\r\n0\r\nX-Sum: 9\r\nHost: evil.example\r\n\r\n"
    data = request(server.url(), *lines, method="POST") + chunks
    assert tell(proxy(), data).status == 200
    assert server.last.body == b"hi"
    assert "x-sum" not in server.last.names
    assert set(server.last.trailers) <= {(b"X-Sum", b"9")}


def test_100_continue_comes_before_the_body_and_no_body_before_it(proxy, origin):
    """RFC 9110 10.1.1."""

    def play(connection):
        head = connection.head()
        if head.all("expect"):
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.origin.note(connection.body(head))
        connection.send(OK)

    server = origin(play)
    lines = ["Expect: 100-continue", "Content-Length: 5"]
    with dialled(proxy().address) as peer:
        peer.send(request(server.url(), *lines, method="POST"))
        assert peer.interim().status == 100
        final = peer.send(b"12345").answer()
    assert (final.status, server.last.body) == (200, b"12345")


def test_an_expectation_that_the_origin_refuses_is_refused_before_the_body(
    proxy, origin
):
    def play(connection):
        head = connection.head()
        if not head.all("expect"):
            connection.body(head)
        connection.send(reply(b"no", "Connection: close", status="417 No"))

    server = origin(play)
    lines = ["Expect: 100-continue", "Content-Length: 5"]
    with dialled(proxy().address) as peer:
        peer.send(request(server.url(), *lines, method="POST"))
        answer = peer.interim()
        if answer.status == 100:  # a proxy may say so itself
            answer = peer.send(b"12345").answer()
    assert (answer.status, answer.body) == (417, b"no")


def test_an_unknown_expectation_is_refused_or_goes_on(proxy, origin):
    server = origin(answers(reply(status="417 No")))
    assert ask(proxy(), server.url(), "Expect: bogus").status == 417


def test_a_client_of_1_0_is_told_no_interim_answer(proxy, origin):
    """RFC 9110 15.2, a MUST NOT."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    server = origin(answers(early + OK))
    answer = ask(proxy(), server.url(), version="1.0")
    assert (answer.status, answer.interim) == (200, [])


def test_a_post_is_not_sent_again(proxy, origin):
    """RFC 9110 9.2.2: the origin may have done it already."""
    server = origin(resets())
    answer = ask(proxy(), server.url(), method="POST", body=b"pay")
    assert answer.status == 502
    assert len(server.requests) == 1


# -- clients, and what they may not say -----------------------------------------------


def test_a_connection_with_a_client_is_kept(proxy, origin):
    server = origin()
    with dialled(proxy().address) as peer:
        for n in range(3):
            answer = peer.send(request(server.url(f"/{n}"))).answer()
            assert (answer.status, answer.closes) == (200, False)
    assert [one.target for one in server.requests] == [b"/0", b"/1", b"/2"]


def test_a_connection_with_a_client_of_1_0_is_closed(proxy, origin):
    """RFC 9112 9.3."""
    server = origin()
    with dialled(proxy().address) as peer:
        answer = peer.send(request(server.url(), version="1.0")).answer()
        assert (answer.status, answer.body) == (200, b"ok")
        assert peer.is_closed


def test_close_is_obeyed(proxy, origin):
    server = origin()
    with dialled(proxy().address) as peer:
        answer = peer.send(request(server.url(), "Connection: close")).answer()
        assert answer.closes
        assert peer.is_closed


STRICT = {
    "line_feeds": b"GET URL HTTP/1.1\nHost: HOST\n\n",
    "space_before_the_colon": b"GET URL HTTP/1.1\r\nHost: HOST\r\nA : b\r\n\r\n",
    "fold": b"GET URL HTTP/1.1\r\nHost: HOST\r\nA: b\r\n c\r\n\r\n",
    "two_hosts": b"GET URL HTTP/1.1\r\nHost: HOST\r\nHost: b\r\n\r\n",
    "no_host": b"GET URL HTTP/1.1\r\n\r\n",
    "return_in_a_value": b"GET URL HTTP/1.1\r\nHost: HOST\r\nA: b\rc\r\n\r\n",
    "nul_in_a_value": b"GET URL HTTP/1.1\r\nHost: HOST\r\nA: b\0c\r\n\r\n",
    "two_lengths": b"POST URL HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\nab",
    "signed_length": b"POST URL HTTP/1.1\r\nHost: HOST\r\nContent-Length: +1\r\n\r\na",
    "length_and_coding": b"POST URL HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown_coding": b"POST URL HTTP/1.1\r\nHost: HOST\r\n"
    b"Transfer-Encoding: cow\r\n\r\n0\r\n\r\n",
    "hex_chunk": b"POST URL HTTP/1.1\r\nHost: HOST\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n",
    "space_in_the_target": b"GET URLa b HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "http_2": b"GET URL HTTP/2.0\r\nHost: HOST\r\n\r\n",
    "user_in_the_target": b"GET http://u:p@HOST/ HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "fragment": b"GET URL#a HTTP/1.1\r\nHost: HOST\r\n\r\n",
}


@pytest.mark.parametrize("text", STRICT.values(), ids=STRICT)
def test_what_can_be_read_in_two_ways_is_refused(proxy, origin, text):
    server = origin()
    data = text.replace(b"URL", server.url().encode())
    answer = tell(proxy(), data.replace(b"HOST", server.authority.encode()))
    assert answer is not None
    assert answer.status in {400, 411, 501, 502, 505}
    # A body is read while it goes on: what was sent of it then ends with the connection.
    assert not server.requests


@pytest.mark.parametrize("url", ["ftp://a.example/", "https://a.example/", "urn:a:b"])
def test_another_scheme_is_refused(proxy, url):
    answer = ask(proxy(), url, host="a.example")
    assert answer.status in {400, 501}


def test_a_request_of_no_absolute_target_is_not_for_a_proxy(proxy, origin):
    server = origin()
    answer = ask(proxy(), "/", host=server.authority)
    assert 400 <= answer.status < 500
    assert not server.connections


def test_no_answer_without_a_body_breaks_the_next(proxy, origin):
    empty = [
        bare(status="204 No Content"),
        bare('ETag: "a"', status="304 Not Modified"),
    ]
    server = origin(answers(*empty, OK))
    with dialled(proxy().address) as peer:
        found = [peer.send(request(server.url())).answer() for _ in range(3)]
    assert [one.status for one in found] == [204, 304, 200]
    assert [one.body for one in found] == [b"", b"", b"ok"]
