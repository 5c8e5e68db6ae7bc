"""The end of a connection in a worker: here where nothing can be lost, else there."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import pytest
from daemon_under_test import read_all, ready

from superd.launcher import finish

RESET = struct.pack("ii", 1, 0)


class Ends:
    """A connection, and both ends of the way back."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.peer = socket.create_connection(listener.getsockname(), timeout=10)
            self.sock, _ = listener.accept()
        kind = socket.SOCK_SEQPACKET
        self.launcher, self.back = socket.socketpair(socket.AF_UNIX, kind)
        self.launcher.setblocking(False)
        self.given: list[socket.socket] = []

    def given_back(self) -> str:
        """Return what the launcher was told, and keep the connection it was given."""
        data, fds, _, _ = socket.recv_fds(self.launcher, 100, 1)
        self.given += [socket.socket(fileno=fd) for fd in fds]
        return data.decode()

    def close(self):
        for sock in (self.peer, self.sock, self.launcher, self.back, *self.given):
            sock.close()


@pytest.fixture
def ends():
    ends = Ends()
    yield ends
    ends.close()


def _ended(ends: Ends, conn: str) -> bool:
    """End it as a worker of a loop does, that never waits."""
    return finish.end(ends.sock) or finish.hand(ends.sock, conn, ends.back)


def settled(sock: socket.socket) -> None:
    """Wait until something, or the end, has arrived."""
    assert ready([sock.fileno()], 10)


def test_where_the_peer_has_ended_the_connection_is_closed_here(ends):
    ends.sock.sendall(b"answer")
    ends.peer.sendall(b"unread" * 1000)
    ends.peer.shutdown(socket.SHUT_WR)
    settled(ends.sock)
    assert _ended(ends, "17")
    assert ends.sock.fileno() == -1
    assert read_all(ends.peer) == b"answer"
    if ready([ends.launcher.fileno()], 0):  # its end was still on its way
        assert ends.given_back() == "linger 17"


def test_where_the_peer_may_still_send_the_launcher_takes_over(ends):
    ends.sock.sendall(b"answer")
    assert _ended(ends, "17")
    assert ends.sock.fileno() == -1
    assert ends.given_back() == "linger 17"
    assert read_all(ends.peer) == b"answer"
    ends.peer.sendall(b"still here")
    assert ends.given[0].recv(100) == b"still here"


def test_what_a_peer_goes_on_sending_is_read_in_bounds(ends):
    ends.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    ends.peer.setblocking(False)
    try:
        for _ in range(1000):
            ends.peer.send(b"y" * 65536)
    except BlockingIOError:
        pass
    assert _ended(ends, "1")
    assert ends.given_back() == "linger 1"


def test_a_copy_that_somebody_kept_does_not_keep_the_peer_waiting(ends):
    copy = os.dup(ends.sock.fileno())
    ends.peer.shutdown(socket.SHUT_WR)
    settled(ends.sock)
    finish.finish(ends.sock, "1", ends.back)
    try:
        assert read_all(ends.peer) == b""
    finally:
        os.close(copy)


def test_a_plain_close_with_a_copy_left_would_keep_it_waiting(ends):
    """Negative control of the shutdown."""
    copy = os.dup(ends.sock.fileno())
    ends.sock.close()
    try:
        assert not ready([ends.peer.fileno()], 0.2)
    finally:
        os.close(copy)


def test_a_peer_that_has_reset_is_let_go(ends):
    ends.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    ends.peer.close()
    settled(ends.sock)
    assert _ended(ends, "1")
    assert ends.sock.fileno() == -1


def fill(ends) -> None:
    """Leave no room on the way back."""
    with contextlib.suppress(BlockingIOError):
        while True:
            ends.back.send(b"x" * 1000, socket.MSG_DONTWAIT)


def test_without_room_on_the_way_back_the_connection_stays_open(ends):
    fill(ends)
    assert not _ended(ends, "1")
    assert ends.sock.fileno() >= 0


def test_a_launcher_that_reads_nothing_holds_a_worker_up_for_a_moment_only(ends):
    fill(ends)
    finish.finish(ends.sock, "1", ends.back)
    assert ends.sock.fileno() == -1
    assert read_all(ends.peer) == b""


def test_a_dead_launcher_stops_nobody(ends):
    ends.launcher.close()
    ends.sock.sendall(b"answer")
    finish.finish(ends.sock, "1", ends.back)
    assert ends.sock.fileno() == -1
    assert read_all(ends.peer) == b"answer"


def test_a_connection_that_others_hold_is_left_as_it_is(ends):
    copy = ends.sock.dup()
    finish.leave(ends.sock, 4711, ends.back)
    assert ends.sock.fileno() == -1
    assert ends.given_back() == "left 4711"
    copy.sendall(b"late")
    assert ends.peer.recv(10) == b"late"
    copy.close()


def test_it_is_left_to_itself_where_the_launcher_has_died(ends):
    ends.launcher.close()
    copy = ends.sock.dup()
    finish.leave(ends.sock, 4711, ends.back)
    copy.sendall(b"late")
    assert ends.peer.recv(10) == b"late"
    copy.close()
