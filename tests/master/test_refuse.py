"""Refusals: the message arrives, nothing is read, nobody is kept for long."""

from __future__ import annotations

import socket

import pytest
from daemon_under_test import ready
from master_rig import fds

from superd.master.refuse import CHUNK, LINGER, ROOM, TURN, Refusals

MESSAGE = b"421 too many connections\r\n"


@pytest.fixture
def refusals():
    refusals = Refusals()
    yield refusals
    refusals.close()


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0), backlog=ROOM) as server:
        yield server


def pair(server: socket.socket) -> tuple[socket.socket, socket.socket]:
    peer = socket.create_connection(server.getsockname(), timeout=10)
    conn, _ = server.accept()
    return peer, conn


def read_all(peer: socket.socket) -> bytes:
    data = b""
    try:
        while part := peer.recv(1000):
            data += part
    except ConnectionResetError:
        return data + b"(reset)"
    return data


def test_the_message_arrives_though_what_the_peer_sent_is_never_read(refusals, server):
    for _ in range(200):
        peer, conn = pair(server)
        with peer:
            peer.sendall(b"GET / HTTP/1.1\r\n\r\n" * 50)
            assert ready([conn.fileno()], 10)
            fd = conn.fileno()
            assert refusals.add(conn, MESSAGE, 0.0)
            while ready([fd], 0):
                assert not refusals.discard(fd)
            assert read_all(peer) == MESSAGE
        assert ready([fd], 10)
        while not refusals.discard(fd):
            assert ready([fd], 10)
    assert not refusals.entries


def test_a_plain_close_loses_messages_to_the_reset(server):
    """Negative control."""
    lost = 0
    for _ in range(50):
        peer, conn = pair(server)
        with peer:
            peer.sendall(b"GET / HTTP/1.1\r\n\r\n" * 50)
            assert ready([conn.fileno()], 10)
            conn.send(MESSAGE)
            conn.close()
            lost += read_all(peer) != MESSAGE
    assert lost > 0


def test_the_bytes_of_the_peer_never_enter_the_process(refusals, server):
    peer, conn = pair(server)
    with peer, conn:
        peer.sendall(b"a secret" * 1000)
        assert ready([conn.fileno()], 10)
        buffer = bytearray(CHUNK)
        assert conn.recv_into(buffer, CHUNK, socket.MSG_PEEK)
        assert any(buffer)  # negative control: without the flag they do
        buffer = bytearray(CHUNK)
        assert conn.recv_into(buffer, CHUNK, socket.MSG_TRUNC) > 0
        assert not any(buffer)


def test_a_peer_that_never_stops_gets_a_bounded_share_of_a_turn(refusals):
    calls = []

    class Endless:
        def send(self, *_):
            return 1

        def shutdown(self, _): ...
        def close(self): ...

        def fileno(self):
            return 77

        def recv(self, size, flags):
            calls.append((size, flags))
            return b"x"

    sock = Endless()
    assert refusals.add(sock, MESSAGE, 0.0)
    assert not refusals.discard(77)
    assert len(calls) == TURN
    assert all(
        flags & socket.MSG_TRUNC and flags & socket.MSG_DONTWAIT for _, flags in calls
    )


def test_past_the_room_there_is_the_oldest_to_be_dropped(refusals, server):
    peers = []
    for _ in range(ROOM):
        peer, conn = pair(server)
        peers.append(peer)
        refusals.add(conn, b"", 0.0)
        assert refusals.excess() is None
    first = next(iter(refusals.entries))
    peer, conn = pair(server)
    peers.append(peer)
    refusals.add(conn, b"", 1.0)
    assert refusals.excess() == first
    refusals.drop(first)
    assert refusals.excess() is None
    for peer in peers:
        peer.close()


def test_whoever_is_over_time_is_closed_and_nobody_else(refusals, server):
    one, first = pair(server)
    other, second = pair(server)
    with one, other:
        numbers = first.fileno(), second.fileno()
        refusals.add(first, MESSAGE, 100.0)
        refusals.add(second, MESSAGE, 100.5)
        assert refusals.expire(100.0 + LINGER - 0.01) == []
        assert refusals.expire(100.0 + LINGER) == [numbers[0]]
        assert list(refusals.entries) == [numbers[1]]
        assert read_all(one) == MESSAGE


def test_a_peer_that_has_gone_before_is_closed_at_once(refusals, server):
    before = fds()
    peer, conn = pair(server)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    assert ready([conn.fileno()], 10)
    assert not refusals.add(conn, MESSAGE, 0.0)
    assert fds() == before


def test_a_peer_that_resets_is_let_go(refusals, server):
    peer, conn = pair(server)
    refusals.add(conn, MESSAGE, 0.0)
    fd = conn.fileno()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    assert ready([fd], 10)
    assert refusals.discard(fd)


def test_a_peer_that_does_not_read_makes_nobody_wait(refusals, server):
    peer, conn = pair(server)
    with peer:
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        refusals.add(conn, b"x" * (8 << 20), 0.0)


def test_a_unix_peer_is_told_too(refusals):
    peer, conn = socket.socketpair()
    with peer:
        refusals.add(conn, MESSAGE, 0.0)
        assert read_all(peer) == MESSAGE
        fd = conn.fileno()
        peer.sendall(b"x")
        assert not refusals.discard(fd)
    assert refusals.discard(fd)
