"""What a proxy must do with an answer, in a tunnel, and when there is no answer.

As test_duties.py: these can be put to any proxy.
"""

from __future__ import annotations

import re

import pytest
from proxy.client import ask, connect, dialled, request
from proxy.origins import OK, answers, bare, chunked, closes, reply, resets
from relays import UNKNOWN, dead_end

# -- fields ---------------------------------------------------------------------------


def test_the_fields_of_the_origins_connection_end_at_the_proxy(proxy, origin):
    lines = ["Connection: x-mine, keep-alive", "X-Mine: a", "Keep-Alive: timeout=77"]
    lines += ["Upgrade: h2c", "Proxy-Connection: close", "X-Other: b"]
    answer = ask(proxy(), origin(answers(reply(b"ok", *lines))).url())
    assert not answer.names & {"x-mine", "upgrade", "proxy-connection"}
    assert b"timeout=77" not in answer.head
    assert answer.the("x-other") == b"b"


def test_via_is_appended_to_an_answer(proxy, origin):
    answer = ask(proxy(), origin(answers(reply(b"ok", "Via: 1.0 ricky"))).url())
    joined = b", ".join(answer.all("via"))
    assert re.match(rb"1\.0 ricky, (HTTP/)?1\.1 [\w.:-]+", joined)


def test_cookies_stay_apart_and_in_order(proxy, origin):
    lines = [
        "Set-Cookie: a=1",
        "X: y",
        "Set-Cookie: b=2; Expires=Wed, 1",
        "set-cookie: c",
    ]
    answer = ask(proxy(), origin(answers(reply(b"ok", *lines))).url())
    assert answer.all("set-cookie") == [b"a=1", b"b=2; Expires=Wed, 1", b"c"]


def test_what_an_origin_asks_of_its_users_stays_as_it_is(proxy, origin):
    """RFC 9110 11.6.1, 10.2.1: a proxy must not modify it."""
    lines = ['WWW-Authenticate: Basic realm="a, b"', "WWW-Authenticate: Digest x=y"]
    lines.append("Allow: GET,HEAD , BREW")
    answer = ask(proxy(), origin(answers(reply(b"", *lines, status="401 No"))).url())
    assert answer.all("www-authenticate") == [b'Basic realm="a, b"', b"Digest x=y"]
    assert answer.the("allow") == b"GET,HEAD , BREW"


def test_an_answer_without_a_date_gets_one(proxy, origin):
    """RFC 9110 6.6.1, a MUST."""
    answer = ask(proxy(), origin().url())
    assert re.fullmatch(rb"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", answer.the("date"))


def test_the_date_of_an_origin_stays(proxy, origin):
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    answer = ask(proxy(), origin(answers(reply(b"ok", f"Date: {date}"))).url())
    assert answer.the("date") == date.encode()


def test_interim_answers_go_on_in_order(proxy, origin):
    """RFC 9110 15.2."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </%c>\r\n\r\n"
    server = origin(answers(early % b"a" + early % b"b" + OK))
    answer = ask(proxy(), server.url())
    assert [one.status for one in answer.interim] == [103, 103]
    assert [one.the("link") for one in answer.interim] == [b"</a>", b"</b>"]


def test_an_unknown_status_goes_on(proxy, origin):
    server = origin(answers(reply(b"x", status="299 Odd")))
    assert ask(proxy(), server.url()).status == 299


# -- bodies ---------------------------------------------------------------------------


def test_a_chunked_answer_goes_on_whole(proxy, origin):
    server = origin(answers(chunked(b"hello", b" ", b"world" * 9000)))
    answer = ask(proxy(), server.url())
    assert (answer.body, answer.whole) == (b"hello " + b"world" * 9000, True)


def test_the_trailers_of_an_answer_are_merged_into_no_head(proxy, origin):
    server = origin(answers(chunked(b"hi", trailers=["X-Sum: 9"]), OK))
    with dialled(proxy().address) as peer:
        answer = peer.send(request(server.url(), "TE: trailers")).answer()
        assert answer.body == b"hi"
        assert "x-sum" not in answer.names
        assert set(answer.trailers) <= {(b"X-Sum", b"9")}
        assert peer.send(request(server.url())).answer().body == b"ok"


def test_nothing_chunked_goes_to_a_client_of_1_0(proxy, origin):
    """RFC 9112 6.1, a MUST NOT."""
    server = origin(answers(chunked(b"hello", b"world")))
    answer = ask(proxy(), server.url(), version="1.0")
    assert not answer.all("transfer-encoding")
    assert answer.body == b"helloworld"


def test_an_answer_that_ends_with_the_connection_is_whole(proxy, origin):
    server = origin(closes(bare(), b"hello"))
    answer = ask(proxy(), server.url())
    assert (answer.body, answer.whole) == (b"hello", True)


def test_head_has_the_size_and_no_body(proxy, origin):
    server = origin(answers(bare("Content-Length: 5"), OK))
    with dialled(proxy().address) as peer:
        answer = peer.send(request(server.url(), method="HEAD")).answer("HEAD")
        assert answer.the("content-length") == b"5"
        assert peer.send(request(server.url())).answer().body == b"ok"


def test_a_size_and_chunks_in_one_answer_are_read_as_chunks(proxy, origin):
    """RFC 9112 6.3: the size is removed, or the answer refused."""
    lines = ["Content-Length: 3"]
    server = origin(answers(chunked(b"hello", lines=lines)))
    answer = ask(proxy(), server.url())
    if answer.status != 502:
        assert (answer.body, answer.whole) == (b"hello", True)


# -- what no origin should say --------------------------------------------------------

SIZES = ["abc", "-1", "+5", "0x5", "5, 6", "", "5\r\nContent-Length: 6", "1" * 30]


@pytest.mark.parametrize("size", SIZES)
def test_an_answer_of_a_bad_size_is_502(proxy, origin, size):
    """RFC 9112 6.3, a MUST."""
    server = origin(closes(bare(f"Content-Length: {size}"), b"hello"))
    answer = ask(proxy(), server.url())
    assert (answer.status, b"hello" in answer.body) == (502, False)


def test_a_fold_in_an_answer_becomes_spaces_or_502(proxy, origin):
    """RFC 9112 5.2."""
    server = origin(closes(reply(b"ok", "X-A: b\r\n c", "X-D: e")))
    answer = ask(proxy(), server.url())
    if answer.status != 502:
        assert re.fullmatch(rb"b +c", answer.the("x-a"))
        assert answer.the("x-d") == b"e"


def test_a_space_before_the_colon_of_an_answer_does_not_go_on(proxy, origin):
    """RFC 9112 5.1, a MUST."""
    server = origin(closes(reply(b"ok", "X-A : b")))
    answer = ask(proxy(), server.url())
    if answer.status != 502:
        assert answer.the("x-a") == b"b"


@pytest.mark.parametrize(
    "text", [b"hello there\r\n\r\n", b"\x16\x03\x01\0\x05\r\n\r\n"]
)
def test_garbage_is_no_answer(proxy, origin, text):
    assert ask(proxy(), origin(closes(text)).url()).status == 502


def test_an_origin_that_closes_has_not_answered(proxy, origin):
    assert ask(proxy(), origin(closes()).url()).status == 502


def test_a_body_of_a_size_that_is_cut_is_seen_to_be_cut(proxy, origin):
    server = origin(closes(bare("Content-Length: 100"), b"hello"))
    answer = ask(proxy(), server.url())
    assert not answer.whole or answer.status == 502


def test_a_chunked_body_that_is_cut_is_seen_to_be_cut(proxy, origin):
    server = origin(closes(bare("Transfer-Encoding: chunked"), b"5\r\nhello\r\n"))
    answer = ask(proxy(), server.url())
    assert not answer.whole or answer.status == 502


def test_a_body_that_ends_by_a_reset_is_seen_to_be_cut(proxy, origin):
    def play(connection):
        connection.request()
        connection.send(bare() + b"hello" * 1000)
        connection.pause(0.3)  # so that it has gone on before the reset
        connection.reset()

    server = origin(play)
    answer = ask(proxy(), server.url())
    assert not answer.whole or answer.status == 502


# -- tunnels --------------------------------------------------------------------------


def echo(connection):
    while True:
        connection.send(connection.read())


def test_a_tunnel_opens_without_framing_and_carries(proxy, origin):
    """RFC 9112 6.1, a MUST NOT; the reader here checks it."""
    server = origin(echo)
    with dialled(proxy().address) as peer:
        answer = peer.send(connect(server.authority)).answer("CONNECT")
        assert answer.status == 200
        assert peer.send(b"ping").exactly(4) == b"ping"


def test_what_follows_a_connect_at_once_is_carried(proxy, origin):
    server = origin(echo)
    with dialled(proxy().address) as peer:
        peer.send(connect(server.authority) + b"early")
        assert peer.answer("CONNECT").status == 200
        assert peer.exactly(5) == b"early"


def test_the_half_close_of_a_client_goes_through(proxy, origin):
    server = origin(echo)
    with dialled(proxy().address) as peer:
        assert peer.send(connect(server.authority)).answer("CONNECT").status == 200
        peer.send(b"a" * 100_000).half_close()
        assert peer.read_to_end() == b"a" * 100_000


def test_the_half_close_of_an_origin_goes_through(proxy, origin):
    heard = []

    def play(connection):
        connection.send(b"bye")
        connection.half_close()
        heard.append(connection.read_to_end())

    server = origin(play)
    with dialled(proxy().address) as peer:
        assert peer.send(connect(server.authority)).answer("CONNECT").status == 200
        assert peer.read_to_end() == b"bye"
        peer.sock.sendall(b"but wait")
        peer.half_close()
        server.join()
    assert heard == [b"but wait"]


TARGETS = ["HOST/", "HOST?q", "HOST#f", "u@HOST", "http://HOST/", "127.0.0.1", ":443"]
TARGETS += ["127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:+1", "127.0.0.1:0", "[::1:1"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_tunnel_to_no_authority_is_refused(proxy, origin, target):
    server = origin(echo)
    text = target.replace("HOST", server.authority)
    with dialled(proxy().address) as peer:
        data = request(text, method="CONNECT", host=server.authority)
        answer = peer.send(data).answer()
    assert answer.status in {400, 403}
    assert not server.connections


def test_a_tunnel_to_where_nobody_listens_is_502(proxy):
    with dead_end() as dead, dialled(proxy().address) as peer:
        assert peer.send(connect(dead)).answer().status in {502, 503}


# -- when there is no answer ----------------------------------------------------------


def test_where_nobody_listens_is_502(proxy):
    use = proxy()
    with dead_end() as dead:
        answer = ask(use, f"http://{dead}/")
    assert answer.status in {502, 503}
    if use.is_ours:
        assert (answer.status, answer.why) == (502, "connection_refused")


def test_a_name_that_cannot_be_is_refused(proxy):
    """Its label is too long for any name server (RFC 1035 2.3.4): none is asked."""
    assert ask(proxy(), f"http://{UNKNOWN}/").status in {400, 502, 503, 504}


def test_a_page_of_an_error_is_no_place_for_markup(proxy):
    """Privoxy CVE-2021-44543."""
    with dead_end() as dead:
        url = f"http://{dead}/<script>alert(1)</script>?\"'><img>"
        answer = ask(proxy(), url)
    assert answer.status >= 400
    assert b"<script>alert" not in answer.body
    assert b"<img>" not in answer.body


def test_a_page_of_an_error_never_shows_credentials(proxy):
    """Squid CVE-2025-62168."""
    lines = [f"{name}: SECRET" for name in ("Authorization", "Cookie", "X-Token")]
    with dead_end() as dead:
        url = f"http://{dead}/?token=a"
        answer = ask(proxy(), url, *lines, "Proxy-Authorization: Basic SECRET")
    assert answer.status >= 400
    assert b"SECRET" not in answer.head + answer.body
    assert answer.whole


def test_a_password_in_the_target_is_not_shown(proxy):
    """It is refused (RFC 9110 4.2.4), and not echoed: pages and logs are read by others."""
    use = proxy()
    answer = ask(use, "http://user:SECRET@127.0.0.1:1/", host="127.0.0.1:1")
    assert answer.status in {400, 502}
    assert b"SECRET" not in answer.head + answer.body
    if use.is_ours:
        use.daemon.wait_log("status=400")
        assert not use.daemon.log("SECRET")


def test_a_page_of_an_error_has_no_body_for_head(proxy):
    with dead_end() as dead, dialled(proxy().address) as peer:
        peer.send(request(f"http://{dead}/", "Connection: close", method="HEAD"))
        assert peer.answer("HEAD").status >= 500
        assert peer.is_closed


def test_an_origin_of_ipv6_is_reached(proxy, origin):
    try:
        server = origin(host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    assert ask(proxy(), server.url()).status == 200
    assert server.last.the("host") == f"[::1]:{server.port}".encode()


def test_a_reset_before_the_answer_is_502(proxy, origin):
    server = origin(resets())
    assert ask(proxy(), server.url()).status == 502


def test_the_control_a_plain_answer_is_whole(proxy, origin):
    answer = ask(proxy(), origin().url())
    assert (answer.status, answer.body, answer.whole) == (200, b"ok", True)
