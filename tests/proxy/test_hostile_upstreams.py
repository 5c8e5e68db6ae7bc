"""Origins that break off, talk without an end, lie, or say what nobody has asked.

The rule of the file: whatever an origin does, the client is told. It gets a status, or an
end that no reader takes for a good one; never a body that is short and looks whole, and
never an answer to somebody else's request.
"""

from __future__ import annotations

import threading

import pytest
from proxy.client import DEADLINE, ask, dialled, request
from proxy.origins import (
    OK,
    answers,
    bare,
    chunked,
    closes,
    endless,
    reply,
    resets,
    silent,
    slow,
)
from relays import silent_listener, text_of

CHUNKED = bare("Transfer-Encoding: chunked")
EVIL = reply(b"evil", "X-Evil: 1")
SOON = {"reply": 0.6, "connect": 0.6}


# -- without an end -------------------------------------------------------------------

ENDLESS = {
    "status_line": (b"HTTP/1.1 200 ", b"x"),
    "fields": (b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"b" * 90 + b"\r\n"),
    "empty_fields": (b"HTTP/1.1 200 OK\r\n", b"A:\r\n"),
    "name_of_a_field": (b"HTTP/1.1 200 OK\r\n", b"x"),
    "value_of_a_field": (b"HTTP/1.1 200 OK\r\nA: ", b"x"),
    "empty_lines": (b"", b"\r\n"),
    "nuls": (b"", b"\0"),
    "garbage": (b"", b"x"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_head_without_an_end_is_502(proxy, origin, name):
    answer = ask(proxy(), origin(endless(*ENDLESS[name])).url())
    assert (answer.status, answer.whole) == (502, True)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_interim_answers_without_an_end_are_502(proxy, origin, version):
    server = origin(endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"))
    answer = ask(proxy(), server.url(), version=version)
    assert answer.status == 502
    assert not answer.interim or version == "1.1"


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"0\r\n", b"X-A: " + b"b" * 90 + b"\r\n"),
        (b"0\r\nX: ", b"x"),
        (b"5;", b"x"),
        (b"", b"0"),
        (b'5;a="', b"\\x"),
    ],
    ids=["trailers", "trailer", "extension", "size", "quoted"],
)
def test_what_has_no_end_in_chunks_is_no_whole_answer(proxy, origin, start, piece):
    server = origin(endless(CHUNKED + b"2\r\nhi\r\n" + start, piece))
    answer = ask(proxy(), server.url())
    assert answer.status == 502 or (answer.body[:2] == b"hi" and not answer.whole)


def test_a_chunk_as_long_as_a_long_is_no_fault_of_ours(proxy, origin):
    server = origin(closes(CHUNKED + b"7FFFFFFFFFFFFFFF\r\nabc"))
    answer = ask(proxy(), server.url())
    assert answer.status == 502 or (answer.status == 200 and not answer.whole)


# -- broken off -----------------------------------------------------------------------

HEADS = [
    b"",
    b"H",
    b"HTTP/1.1 2",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\r\n",
]
BODIES = {
    "sized_at_once": bare("Content-Length: 9"),
    "sized": bare("Content-Length: 9") + b"12345678",
    "before_chunks": CHUNKED,
    "in_a_size": CHUNKED + b"1",
    "behind_a_size": CHUNKED + b"10\r\n",
    "in_a_chunk": CHUNKED + b"10\r\n1234567",
    "behind_a_chunk": CHUNKED + b"2\r\nhi",
    "between_chunks": CHUNKED + b"2\r\nhi\r\n",
    "behind_the_last_size": CHUNKED + b"2\r\nhi\r\n0",
    "in_the_last_line": CHUNKED + b"2\r\nhi\r\n0\r\n",
    "at_the_last_byte": CHUNKED + b"2\r\nhi\r\n0\r\n\r",
    "in_a_trailer": CHUNKED + b"2\r\nhi\r\n0\r\nA: b",
    "behind_a_trailer": CHUNKED + b"2\r\nhi\r\n0\r\nA: b\r\n",
}


@pytest.mark.parametrize("how", [closes, resets])
@pytest.mark.parametrize("head", HEADS)
def test_an_origin_that_breaks_off_in_the_head_is_502(either, origin, how, head):
    server = origin(how(head))
    assert ask(either(), server.url()).status == 502


@pytest.mark.parametrize("how", [closes, resets])
@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_an_origin_that_breaks_off_in_the_body_is_seen(
    either, origin, how, name, version
):
    """Also by a client of 1.0, to whom only a reset can tell."""
    server = origin(how(BODIES[name]))
    answer = ask(either(), server.url(), version=version)
    assert answer.status == 502 or not answer.whole


def test_a_small_answer_that_is_cut_is_502_or_cut(proxy, origin):
    """Whatever has been sent: head and first bytes may leave as one."""
    server = origin(closes(bare("Content-Length: 10"), b"12345"))
    with dialled(proxy().address) as peer:
        answer = peer.send(request(server.url())).answer()
        assert answer.status == 502 or (answer.body, answer.whole) == (b"12345", False)


# -- slow, silent ---------------------------------------------------------------------


def test_a_silent_origin_is_504(proxy, origin):
    use = proxy(timeouts=SOON)
    answer = ask(use, origin(silent).url())
    assert (answer.status, answer.why) == (504, "http_response_timeout")


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"A"),
        (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    ],
)
def test_an_origin_that_says_a_byte_now_and_then_is_504(proxy, origin, start, piece):
    """Slowloris from behind: that bytes move is no reason to wait for ever."""

    def play(connection):
        connection.request()
        connection.send(b"" if piece == b"H" else start)
        for letter in b"HTTP/1.1 200 OK\r\n" * 9 if piece == b"H" else piece * 99:
            connection.pause(0.1)
            connection.send(bytes([letter]))

    use = proxy(timeouts=SOON)
    answer = ask(use, origin(play).url())
    assert (answer.status, answer.why) == (504, "http_response_timeout")


def test_interim_answers_do_not_put_off_the_end_for_ever(proxy, origin):
    server = origin(slow(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.01))
    answer = ask(proxy(timeouts=SOON), server.url())
    assert answer.status in {502, 504}


def test_an_answer_that_stops_in_the_middle_is_cut(proxy, origin):
    def play(connection):
        connection.request()
        connection.send(bare("Content-Length: 10") + b"12345")
        connection.wait_gone()

    answer = ask(proxy(timeouts=SOON), origin(play).url())
    assert (answer.status, answer.body, answer.whole) == (200, b"12345", False)


def test_an_answer_that_moves_is_waited_for(proxy, origin):
    """The control."""

    def play(connection):
        connection.request()
        connection.send(bare("Content-Length: 10"))
        for _ in range(10):
            connection.pause(0.1)
            connection.send(b"x")

    answer = ask(proxy(timeouts=SOON), origin(play).url())
    assert (answer.body, answer.whole) == (b"x" * 10, True)


def test_a_host_that_takes_no_connection_is_504(proxy):
    with silent_listener() as address:
        answer = ask(proxy(timeouts=SOON), f"http://{text_of(address)}/")
    assert (answer.status, answer.why) == (504, "connection_timeout")


# -- what nobody asked for ------------------------------------------------------------


def test_a_protocol_that_nobody_asked_for_is_502(proxy, origin):
    head = bare("Upgrade: x", "Connection: Upgrade", status="101 Switching Protocols")
    server = origin(closes(head + b"hello"))
    with dialled(proxy().address) as peer:
        assert peer.send(request(server.url())).answer().status == 502
        assert b"hello" not in peer.half_close().read_to_end()


UNASKED = {
    "behind_a_size": OK + EVIL,
    "behind_chunks": chunked(b"ok") + EVIL,
    "behind_204": bare(status="204 No") + EVIL,
    "behind_304": bare(status="304 No") + EVIL,
    "more_than_the_size": OK + b"garbage",
    "a_half_head": OK + b"HTTP/1.1 200 OK\r\nX-Evil: 1\r\n",
    "one_byte": OK + b"\n",
}


@pytest.mark.parametrize("name", UNASKED)
def test_an_answer_too_many_is_nobodys(proxy, origin, name):
    server = origin(answers(UNASKED[name], EVIL), answers(OK))
    use = proxy()
    with dialled(use.address) as peer:
        first = peer.send(request(server.url("/1"))).answer()
        assert first.status in {200, 204, 304, 502}
        if not first.closes:
            second = peer.send(request(server.url("/2"))).answer()
            assert (second.status, second.body) == (200, b"ok")
    third = ask(use, server.url("/3"))
    assert (third.status, third.body) == (200, b"ok")
    assert [one.connection for one in server.requests[1:]] != [0] * 2


def test_a_body_for_head_is_nobodys(proxy, origin):
    server = origin(answers(OK + EVIL, EVIL), answers(OK))
    with dialled(proxy().address) as peer:
        assert peer.send(request(server.url(), method="HEAD")).answer("HEAD")
        assert peer.send(request(server.url())).answer().body == b"ok"


def test_an_answer_on_an_idle_connection_is_nobodys(proxy, origin):
    """It is there before the next request is: taken for its answer, it would be evil."""
    said = threading.Event()

    def play(connection):
        connection.request()
        connection.send(OK)
        connection.pause(0.2)
        connection.send(EVIL)
        said.set()
        answers(EVIL)(connection)

    server = origin(play, answers(OK))
    use = proxy()
    with dialled(use.address) as peer:
        assert peer.send(request(server.url("/1"))).answer().body == b"ok"
        assert said.wait(DEADLINE)
        assert peer.send(request(server.url("/2"))).answer().body == b"ok"
    assert ask(use, server.url("/3")).body == b"ok"


def test_an_answer_that_comes_before_the_request_is_nobodys(proxy, origin):
    """On a new connection there is no way to tell; it must be whole and once."""

    def play(connection):
        connection.send(OK)
        answers(OK)(connection)

    answer = ask(proxy(), origin(play).url())
    assert answer.status in {200, 502}


# -- answers during the request's body ------------------------------------------------


def test_an_answer_before_the_body_is_sent_comes_through(proxy, origin):
    """RFC 9110 10.1.1, 9112 9.3: and the rest of the body is no next request."""

    def play(connection):
        connection.head()
        connection.send(reply(b"big", "Connection: close", status="413 No"))
        connection.half_close()
        connection.wait_gone()

    server = origin(play, answers(OK))
    use = proxy()
    with dialled(use.address) as peer:
        hidden = request(server.url("/smuggled")) * 1000
        head = request(server.url(), f"Content-Length: {10**9}", method="POST")
        answer = peer.send(head + hidden).answer()
        assert (answer.status, answer.body) == (413, b"big")
    assert ask(use, server.url("/after")).body == b"ok"
    assert [one.target for one in server.requests] == [b"/after"]


def test_an_origin_that_closes_while_the_body_comes_is_told(proxy, origin):
    def play(connection):
        connection.head()
        connection.reset()

    server = origin(play)
    body = b"x" * 4_000_000
    with dialled(proxy().address) as peer:
        peer.send(request(server.url(), method="POST", body=body))
        answer = peer.answer()
    # Or by a reset, where the client is still sending.
    assert answer is None or answer.status == 502


def test_a_reset_at_once_is_502(proxy, origin):
    def play(connection):
        connection.reset()

    assert ask(proxy(), origin(play).url()).status == 502


def test_an_early_answer_does_not_stop_the_body(proxy, origin):
    """RFC 9112 7.6: an origin may answer and read on."""
    body = b"x" * 3_000_000
    got = []

    def play(connection):
        head = connection.head()
        connection.send(bare("Content-Length: 4") + b"ye")
        got.append(connection.body(head).body)
        connection.send(b"s!")

    server = origin(play)
    with dialled(proxy().address) as peer:
        peer.send(request(server.url(), method="POST", body=body))
        assert peer.answer().body == b"yes!"
    assert got == [body]


# -- clients that go ------------------------------------------------------------------


def test_an_origin_learns_that_its_client_has_gone(proxy, origin):
    def play(connection):
        connection.request()
        connection.send(bare())
        while True:  # up to Over
            connection.send(b"x" * 65536)

    server = origin(play)
    with dialled(proxy().address) as peer:
        assert peer.send(request(server.url())).until(b"\r\n\r\n")
    server.join()


def test_a_client_that_takes_nothing_is_let_go(proxy, origin):
    server = origin(endless(bare(), b"x", 1 << 30))
    with dialled(proxy(timeouts={"send": 0.6}).address) as peer:
        assert peer.send(request(server.url())).until(b"\r\n\r\n")
        server.join()


def test_a_body_that_ends_early_is_no_whole_request(proxy, origin):
    server = origin()
    with dialled(proxy().address) as peer:
        head = request(server.url(), "Content-Length: 10", method="POST")
        answer = peer.send(head + b"12345").half_close().answer()
        assert answer is None or answer.status == 400
        server.join()
    assert not server.requests
