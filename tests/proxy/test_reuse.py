"""Connections that serve more than one request: to origins, and from clients.

The rule of the file: what is shared is the connection, never an answer. Each request here
has a path of its own, and the answer says it back.
"""

from __future__ import annotations

import os
import threading
import time

import pytest
from proxy.client import ask, dialled, request
from proxy.origins import OK, Over, answers, bare, chunked, closes, reply, silent


def says_back(asked):
    """Answer with the path that was asked for."""
    return reply(asked.target)


def connections(server):
    return [one.connection for one in server.requests]


# -- to origins -----------------------------------------------------------------------


def test_the_requests_of_a_client_share_a_connection(proxy, origin):
    server = origin(answers(says_back))
    with dialled(proxy().address) as peer:
        for path in ("/1", "/2", "/3"):
            answer = peer.send(request(server.url(path))).answer()
            assert answer.body == path.encode()
    assert connections(server) == [0, 0, 0]


def test_the_requests_of_two_clients_share_a_connection_in_a_loop(looping, origin):
    server = origin(answers(says_back))
    use = looping()
    assert ask(use, server.url("/1")).body == b"/1"
    assert ask(use, server.url("/2")).body == b"/2"
    assert connections(server) == [0, 0]


@pytest.mark.parametrize(
    "first",
    [
        reply(b"ok", "Connection: close"),
        reply(b"ok", "Connection: keep-alive, CLOSE"),
        reply(b"ok", version="1.0"),
    ],
)
def test_an_origin_that_wants_no_more_is_asked_no_more(proxy, origin, first):
    server = origin(answers(first), answers(OK))
    with dialled(proxy().address) as peer:
        for _ in range(2):
            assert peer.send(request(server.url())).answer().body == b"ok"
    assert connections(server) == [0, 1]


@pytest.mark.parametrize("answer", [OK, chunked(b"ok"), bare(status="204 No")])
def test_an_answer_with_an_end_leaves_the_connection_for_the_next(
    proxy, origin, answer
):
    server = origin(answers(answer))
    with dialled(proxy().address) as peer:
        for _ in range(3):
            assert peer.send(request(server.url())).answer().whole
    assert connections(server) == [0, 0, 0]


def test_a_kept_connection_that_the_origin_has_closed_is_not_used(proxy, origin):
    gone = threading.Event()

    def play(connection):
        connection.request()
        connection.send(OK)
        connection.half_close()
        gone.set()
        connection.wait_gone()

    server = origin(play, answers(says_back))
    with dialled(proxy().address) as peer:
        assert peer.send(request(server.url("/1"))).answer().body == b"ok"
        assert gone.wait(5)
        for method in ("GET", "POST"):
            peer.send(request(server.url("/2"), method=method))
            assert peer.answer().body == b"/2"


def hangs_up_on_the_second(connection):
    """Close a kept connection just when the next request comes: it may have counted."""
    connection.request()
    connection.send(OK)
    connection.request()
    raise Over


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_what_may_be_repeated_is_when_a_kept_connection_ends(proxy, origin, method):
    """RFC 9112 9.3.1, RFC 9110 9.2.2."""
    server = origin(hangs_up_on_the_second, answers(bare("Content-Length: 0")))
    with dialled(proxy().address) as peer:
        assert peer.send(request(server.url("/1"))).answer().status == 200
        peer.send(request(server.url("/2"), method=method))
        assert peer.answer(method).status == 200
    assert [one.target for one in server.requests][-1] == b"/2"


@pytest.mark.parametrize("method", ["POST", "PATCH", "BREW"])
def test_what_may_not_be_repeated_is_sent_once(proxy, origin, method):
    server = origin(hangs_up_on_the_second, hangs_up_on_the_second)
    with dialled(proxy().address) as peer:
        assert peer.send(request(server.url("/1"))).answer().status == 200
        peer.send(request(server.url("/2"), method=method, body=b"pay"))
        assert peer.answer().status in {200, 502}
    assert [one.target for one in server.requests].count(b"/2") == 1


def test_what_may_not_be_repeated_is_sent_once_on_a_new_connection(proxy, origin):
    server = origin(closes())
    assert ask(proxy(), server.url(), method="POST", body=b"pay").status == 502
    assert len(server.requests) == 1


def test_an_answer_that_has_begun_is_not_asked_for_again(proxy, origin):
    def play(connection):
        connection.request()
        connection.send(OK)
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\n")
        connection.half_close()
        connection.wait_gone()

    server = origin(play, answers(OK))
    with dialled(proxy().address) as peer:
        assert peer.send(request(server.url("/1"))).answer().status == 200
        assert peer.send(request(server.url("/2"))).answer().status == 502
    assert len(server.requests) == 2


def test_each_origin_has_connections_of_its_own(proxy, origin):
    one, two = origin(answers(reply(b"one"))), origin(answers(reply(b"two")))
    with dialled(proxy().address) as peer:
        for _ in range(3):
            assert peer.send(request(one.url())).answer().body == b"one"
            assert peer.send(request(two.url())).answer().body == b"two"
    assert connections(one) == connections(two) == [0, 0, 0]


def test_a_name_for_the_same_address_has_its_own_host(proxy, origin):
    server = origin()
    with dialled(proxy().address) as peer:
        for host in ("127.0.0.1", "localhost"):
            url = f"http://{host}:{server.port}/"
            assert peer.send(request(url)).answer().status == 200
            assert server.last.the("host") == f"{host}:{server.port}".encode()


# -- from clients ---------------------------------------------------------------------


def test_requests_sent_at_once_are_answered_in_order(proxy, origin):
    server = origin(answers(says_back))
    paths = [f"/{n}" for n in range(20)]
    with dialled(proxy().address) as peer:
        peer.send(b"".join(request(server.url(path)) for path in paths))
        assert [peer.answer().body.decode() for _ in paths] == paths


def test_requests_sent_at_once_may_have_bodies(proxy, origin):
    server = origin(answers(lambda asked: reply(asked.body)))
    chunks = b"2\r\n-c\r\n0\r\n\r\n"
    url = server.url()
    coded = request(url, "Transfer-Encoding: chunked", method="POST")
    data = request(url, method="POST", body=b"a") + coded + chunks
    data += request(url) + request(url, method="PUT", body=b"d" * 100_000)
    with dialled(proxy().address) as peer:
        peer.send(data).half_close()
        found = [peer.answer().body for _ in range(4)]
        assert peer.is_closed
    assert found == [b"a", b"-c", b"", b"d" * 100_000]


def test_requests_byte_by_byte_are_requests(proxy, origin):
    server = origin(answers(says_back))
    data = request(server.url("/1"), method="POST", body=b"12") + request(
        server.url("/2")
    )
    with dialled(proxy().address) as peer:
        for at in range(len(data)):
            peer.send(data[at : at + 1])
        assert [peer.answer().body, peer.answer().body] == [b"/1", b"/2"]


def test_the_answers_of_many_clients_are_not_mixed_up(proxy, origin):
    server = origin(answers(says_back))
    use = proxy()
    paths = [f"/{n}" * 50 for n in range(30)]
    entered = [dialled(use.address) for _ in paths]
    peers = [one.__enter__() for one in entered]
    try:
        for _ in range(2):
            for peer, path in zip(peers, paths, strict=True):
                peer.send(request(server.url(path)))
            for peer, path in zip(peers, paths, strict=True):
                assert peer.answer().body.decode() == path
    finally:
        for one in entered:
            one.__exit__(None, None, None)


def test_an_origin_that_is_slow_keeps_nobody_else_waiting(looping, origin):
    slow, fast = origin(silent), origin(answers(says_back))
    use = looping()
    with dialled(use.address) as waiting:
        waiting.send(request(slow.url()))
        slow.wait_connections(1)
        for n in range(5):
            assert ask(use, fast.url(f"/{n}")).body == f"/{n}".encode()


def test_an_error_of_one_request_does_not_end_the_connection(proxy, origin):
    server = origin(closes(b"garbage\r\n\r\n"), answers(says_back))
    with dialled(proxy().address) as peer:
        assert peer.send(request(server.url("/1"))).answer().status == 502
        assert peer.send(request(server.url("/2"))).answer().body == b"/2"


ASKED = [b"POST", b"GET", b"GET"]
FAILING = {"closes": closes(), "garbage": closes(b"garbage\r\n\r\n"), "silent": silent}


@pytest.mark.parametrize("play", FAILING.values(), ids=FAILING)
@pytest.mark.parametrize("how", ["sized", "chunked"])
def test_a_body_that_was_read_is_not_read_again(proxy, origin, play, how):
    """Else what is behind it, the next request, would be eaten for it."""
    server = origin(play, answers(says_back))
    lines = ["Transfer-Encoding: chunked"] if how == "chunked" else []
    body = b"2\r\nhi\r\n0\r\n\r\n" if lines else b"hi"
    size = [] if lines else ["Content-Length: 2"]
    data = request(server.url("/1"), *lines, *size, method="POST") + body
    with dialled(proxy(timeouts={"reply": 0.6}).address) as peer:
        peer.send(data + request(server.url("/2")) + request(server.url("/3")))
        first = peer.answer()
        assert first.status in {502, 504}
        if not first.closes:
            assert [peer.answer().body, peer.answer().body] == [b"/2", b"/3"]
    # A silent origin notes nothing of what it was asked.
    assert [one.method for one in server.requests] in ([], ASKED[:1], ASKED[1:], ASKED)
    with dialled(proxy(timeouts={"reply": 0.6}).address) as peer:
        began = time.monotonic()
        server = origin(play)
        peer.send(data.replace(data.split()[1], server.url("/1").encode()))
        assert peer.answer().status in {502, 504}
        if play is not silent:
            took = time.monotonic() - began
            assert took < 1.8, "it waited for a body that it has had"


def test_a_connection_has_an_end_of_requests(proxy, origin):
    server = origin(answers(says_back))
    with dialled(proxy(limits={"requests": 3}).address) as peer:
        found = [peer.send(request(server.url())).answer() for _ in range(3)]
        assert [one.closes for one in found] == [False, False, True]
        assert peer.is_closed


def test_an_idle_client_is_left_without_a_word(proxy, origin):
    server = origin()
    with dialled(proxy(timeouts={"idle": 0.4, "head": 0.4}).address) as peer:
        assert peer.send(request(server.url())).answer().status == 200
        assert peer.is_closed


def test_a_slow_head_is_408(proxy):
    with dialled(proxy(timeouts={"idle": 0.4, "head": 0.4}).address) as peer:
        peer.send(b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: ")
        answer = peer.answer()
        assert answer.status == 408
        assert peer.is_closed


def test_a_slow_body_is_an_error_and_no_whole_request(proxy, origin):
    server = origin()
    with dialled(proxy(timeouts={"body": 0.4}).address) as peer:
        head = request(server.url(), "Content-Length: 10", method="POST")
        answer = peer.send(head + b"12345").answer()
        assert answer.status in {400, 408}
        assert peer.is_closed
    assert not server.requests


def test_a_worker_of_a_pool_keeps_connections_and_no_more(pooled, origin):
    """One client after the other: they share the connection to the origin, too."""
    server = origin(answers(says_back))
    use = pooled()
    held = []
    for n in range(12):
        with dialled(use.address) as peer:
            for m in range(2):
                path = f"/{n}/{m}"
                answer = peer.send(request(server.url(path))).answer()
                assert answer.body.decode() == path
            held.append(sum(len(os.listdir(f"/proc/{n}/fd")) for n in use.processes()))
            assert peer.half_close().is_closed
    assert connections(server) == [0] * 24
    assert held[-1] <= held[3], "descriptors are left from one client to the next"


def test_the_handler_serves_under_a_bare_inetd(bare, origin):
    server = origin(answers(says_back))
    with bare() as served:
        served.send(request(server.url("/1")) + request(server.url("/2")))
        text = served.end().read()
        assert served.wait() == 0
        assert "bug" not in served.log
    assert text.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert text.endswith(b"/2")
