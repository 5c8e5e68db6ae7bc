"""Tunnels: what CONNECT opens, and what an Upgrade opens where it may."""

from __future__ import annotations

import hashlib
import socket

import pytest
from proxy.client import DEADLINE, ask, connect, dialled, request
from proxy.origins import LINGER_NOT, OK, Over, answers, bare
from relays import exchange, is_reset, listening

SIZE = 50 << 20


def pattern(seed, size):
    """Make bytes in which no two blocks are the same."""
    return hashlib.shake_128(seed).digest(size)


def echo(connection):
    while True:
        connection.send(connection.read())


@pytest.fixture
def tunnel(proxy):
    """Open a tunnel to a server of the test: `tunnel(server.authority)`."""

    def open_(use, peer, authority):
        answer = peer.send(connect(authority)).answer("CONNECT")
        assert answer.status == 200
        return use

    return open_


@pytest.mark.slow
def test_no_byte_is_lost_in_either_direction(proxy, tunnel):
    up, down = pattern(b"up", SIZE), pattern(b"down", SIZE)
    use = proxy()
    with listening() as (listener, authority), dialled(use.address) as peer:
        tunnel(use, peer, authority)
        backend = listener.accept()[0]
        backend.settimeout(DEADLINE)
        with backend:
            got_down, got_up = exchange([(peer.sock, up), (backend, down)])
    assert hashlib.sha256(got_up).digest() == hashlib.sha256(up).digest()
    assert hashlib.sha256(got_down).digest() == hashlib.sha256(down).digest()


def test_an_origin_may_speak_first(proxy, origin, tunnel):
    def play(connection):
        connection.send(b"220 welcome\r\n")
        echo(connection)

    server = origin(play)
    use = proxy()
    with dialled(use.address) as peer:
        tunnel(use, peer, server.authority)
        assert peer.exactly(13) == b"220 welcome\r\n"
        assert peer.send(b"hello").exactly(5) == b"hello"


def test_a_tunnel_in_which_nothing_moves_ends_on_both_sides(proxy, origin, tunnel):
    server = origin(echo)
    use = proxy(timeouts={"tunnel": 0.6})
    with dialled(use.address) as peer:
        tunnel(use, peer, server.authority)
        assert peer.send(b"x").exactly(1) == b"x"
        assert peer.is_closed
        server.join()


def test_a_tunnel_in_which_something_moves_does_not(proxy, origin, tunnel):
    """The control: one direction is enough."""

    def play(connection):
        for _ in range(5):
            connection.pause(0.2)
            connection.send(b"x")

    server = origin(play)
    use = proxy(timeouts={"tunnel": 0.6})
    with dialled(use.address) as peer:
        tunnel(use, peer, server.authority)
        assert peer.read_to_end() == b"x" * 5


def test_a_reset_of_the_origin_is_no_good_end(proxy, origin, tunnel):
    def play(connection):
        connection.send(b"half")
        connection.read()
        connection.reset()

    server = origin(play)
    use = proxy()
    with dialled(use.address) as peer:
        tunnel(use, peer, server.authority)
        assert peer.exactly(4) == b"half"
        peer.send(b"x")
        assert is_reset(peer.sock) == (True, b"")


def test_a_reset_of_the_client_is_no_good_end(proxy, tunnel):
    use = proxy()
    with listening() as (listener, authority), dialled(use.address) as peer:
        tunnel(use, peer, authority)
        backend = listener.accept()[0]
        backend.settimeout(DEADLINE)
        with backend:
            peer.sock.sendall(b"x")
            assert backend.recv(1) == b"x"
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            peer.sock.close()
            assert is_reset(backend) == (True, b"")


def test_an_orderly_end_is_none(proxy, tunnel):
    """The control."""
    use = proxy()
    with listening() as (listener, authority), dialled(use.address) as peer:
        tunnel(use, peer, authority)
        backend = listener.accept()[0]
        backend.settimeout(DEADLINE)
        with backend:
            backend.sendall(b"whole")
            backend.shutdown(socket.SHUT_WR)
            assert is_reset(peer.sock) == (False, b"whole")
            peer.sock.shutdown(socket.SHUT_WR)
            assert is_reset(backend) == (False, b"")


def test_what_was_said_before_an_end_is_delivered(proxy, origin, tunnel):
    """RFC 9110 9.3.6: after one side closes, what it sent still arrives."""
    data = pattern(b"x", 3_000_000)

    def play(connection):
        connection.send(data)

    server = origin(play)
    use = proxy()
    with dialled(use.address) as peer:
        tunnel(use, peer, server.authority)
        server.join()
        assert peer.read_to_end() == data


def test_a_tunnel_may_follow_requests(proxy, origin):
    plain, server = origin(), origin(echo)
    with dialled(proxy().address) as peer:
        for _ in range(2):
            assert peer.send(request(plain.url())).answer().body == b"ok"
        assert peer.send(connect(server.authority)).answer("CONNECT").status == 200
        # What looks like a request is bytes of the tunnel now.
        data = request(plain.url("/tunnelled"))
        assert peer.send(data).exactly(len(data)) == data
    assert len(plain.requests) == 2


def test_a_tunnel_that_is_refused_leaves_requests_possible_or_closes(proxy, origin):
    plain = origin()
    with dialled(proxy(deny=["blocked.test"]).address) as peer:
        answer = peer.send(connect("blocked.test:443")).answer()
        assert answer.status == 403
        if not answer.closes:
            assert peer.send(request(plain.url())).answer().body == b"ok"


def test_http_1_0_may_open_a_tunnel_or_is_refused(proxy, origin):
    server = origin(echo)
    with dialled(proxy().address) as peer:
        peer.send(connect(server.authority, version="1.0"))
        answer = peer.answer("CONNECT")
        if answer.status == 200:
            assert peer.send(b"x").exactly(1) == b"x"
        else:
            assert answer.status in {400, 405}


# -- Upgrade --------------------------------------------------------------------------

WISH = [
    *("Connection: keep-alive, Upgrade", "Upgrade: websocket"),
    *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
]
SWITCHED = bare(
    *("Upgrade: websocket", "Connection: Upgrade"),
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    status="101 Switching Protocols",
)


def upgrades(connection):
    asked = connection.request()
    if not asked.all("upgrade"):
        connection.send(OK)
        return
    connection.send(SWITCHED + b"welcome ")
    echo(connection)


def test_a_wish_to_upgrade_does_not_go_on(proxy, origin):
    server = origin(upgrades)
    answer = ask(proxy(), server.url(), *WISH)
    assert (answer.status, answer.body) == (200, b"ok")
    assert not server.last.names & {"upgrade"}


def test_an_upgrade_is_tunnelled_where_it_may(proxy, origin):
    server = origin(upgrades)
    with dialled(proxy(upgrade=True).address) as peer:
        answer = peer.send(request(server.url(), *WISH)).answer()
        assert answer.status == 101
        assert answer.the("upgrade") == b"websocket"
        assert b"upgrade" in answer.the("connection").lower()
        assert answer.the("sec-websocket-accept") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert peer.send(b"\x81\x05hello").exactly(15) == b"welcome \x81\x05hello"
    asked = server.last
    assert asked.the("upgrade") == b"websocket"
    assert asked.the("sec-websocket-key") == b"dGhlIHNhbXBsZSBub25jZQ=="


def test_an_origin_may_refuse_to_upgrade(proxy, origin):
    server = origin(answers(OK))
    with dialled(proxy(upgrade=True).address) as peer:
        answer = peer.send(request(server.url(), *WISH)).answer()
        assert (answer.status, answer.body) == (200, b"ok")


def test_what_follows_a_refused_upgrade_is_a_request(proxy, origin):
    """And what followed at once was never a protocol of the origin's."""
    server = origin(answers(OK), answers(OK))
    with dialled(proxy(upgrade=True).address) as peer:
        first = request(server.url("/1"), *WISH)
        peer.send(first + request(server.url("/2")))
        assert peer.answer().status == 200
        after = peer.answer()
        assert after is None or after.status == 200
    assert [one.target for one in server.requests] in ([b"/1"], [b"/1", b"/2"])


@pytest.mark.parametrize(
    "lines",
    [
        ["Upgrade: websocket"],  # not named in Connection: none (RFC 9110 7.8)
        ["Connection: Upgrade"],
        ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA"],
    ],
)
def test_what_is_no_wish_to_upgrade_is_a_plain_request(proxy, origin, lines):
    """h2c among them: requests inside it would be seen by nobody."""
    server = origin(upgrades)
    answer = ask(proxy(upgrade=True), server.url(), *lines)
    if lines[-1].startswith("HTTP2"):
        assert answer.status in {200, 101, 400, 403}
    else:
        assert (answer.status, server.last.all("upgrade")) == (200, [])


def test_a_wish_with_a_body_is_a_plain_request(proxy, origin):
    """Curl --http2 sends such; who cannot grant a wish ignores it (RFC 9110 7.8)."""
    server = origin(answers(OK))
    use = proxy(upgrade=True)
    answer = ask(use, server.url(), *WISH, method="POST", body=b"hello")
    assert answer.status == 200
    assert server.last.body == b"hello"


def test_an_upgraded_connection_ends_with_its_origin(proxy, origin):
    def play(connection):
        connection.request()
        connection.send(SWITCHED + b"bye")
        raise Over

    server = origin(play)
    with dialled(proxy(upgrade=True).address) as peer:
        assert peer.send(request(server.url(), *WISH)).answer().status == 101
        assert peer.read_to_end() == b"bye"
