"""Whether a wait program took something: judged by what it took, not by what waits."""

from __future__ import annotations

import socket
import struct

import pytest
from daemon_under_test import eventually

from superd.master import progress, sockdiag
from superd.master.progress import SHORT, mark, took_something

FAMILIES = {
    "ipv4": (socket.AF_INET, "127.0.0.1"),
    "ipv6": (socket.AF_INET6, "::1"),
}


class Lent:
    """A listener of one kind, its peers, and what is known of its queue."""

    def __init__(self, family: int, kind: int, address) -> None:
        self.sock = socket.socket(family, kind)
        self.sock.bind(address)
        self.stream = kind == socket.SOCK_STREAM
        if self.stream:
            self.sock.listen()
        self.peers: list[socket.socket] = []

    def come(self) -> socket.socket:
        """Let one more peer come, and wait until it is there to be seen."""
        peer = socket.socket(self.sock.family, self.sock.type)
        self.peers.append(peer)
        before = len(progress._queue(self.sock)) if self.stream else 0
        peer.connect(self.sock.getsockname())
        if self.stream:
            eventually(lambda: len(progress._queue(self.sock)) > before, "it waits")
        else:
            peer.send(b"hello")
        return peer

    def take(self) -> None:
        """Do what a wait program does."""
        if self.stream:
            conn, _ = self.sock.accept()
            self.peers.append(conn)
        else:
            self.sock.recv(100)

    def close(self) -> None:
        for sock in (self.sock, *self.peers):
            sock.close()


def lend(kind: str, folder) -> Lent:
    """Make a listener from its name: "ipv6 stream"."""
    name, _, what = kind.partition(" ")
    type_ = socket.SOCK_STREAM if what == "stream" else socket.SOCK_DGRAM
    if name == "unix":
        return Lent(socket.AF_UNIX, type_, f"{folder}/a socket")
    family, host = FAMILIES[name]
    return Lent(family, type_, (host, 0))


STREAMS = ["ipv4 stream", "ipv6 stream", "unix stream"]


@pytest.fixture(params=STREAMS)
def stream(request, tmp_path):
    lent = lend(request.param, tmp_path)
    yield lent
    lent.close()


@pytest.fixture(params=[*STREAMS, "ipv4 datagram", "ipv6 datagram"])
def lent(request, tmp_path):
    lent = lend(request.param, tmp_path)
    yield lent
    lent.close()


def test_a_program_that_took_what_there_was_did_something(lent):
    lent.come()
    before = mark(lent.sock)
    lent.take()
    assert took_something(before, lent.sock, 0.01)


def test_a_program_that_took_nothing_did_nothing(lent):
    lent.come()
    before = mark(lent.sock)
    assert not took_something(before, lent.sock, 0.01)


def test_a_program_that_took_one_while_more_came_did_something(lent):
    """How much waits is no less than before."""
    lent.come()
    before = mark(lent.sock)
    for _ in range(3):
        lent.come()
    lent.take()
    assert took_something(before, lent.sock, 0.01)


def test_a_program_that_took_nothing_while_more_came_did_nothing(lent):
    lent.come()
    before = mark(lent.sock)
    for _ in range(3):
        lent.come()
    assert not took_something(before, lent.sock, 0.01)


def test_a_second_run_is_judged_as_the_first(lent):
    lent.come()
    lent.come()
    before = mark(lent.sock)
    lent.take()
    assert took_something(before, lent.sock, 0.01)
    before = mark(lent.sock)
    assert not took_something(before, lent.sock, 0.01)
    lent.take()
    assert took_something(before, lent.sock, 0.01)


def test_a_program_that_ran_for_long_has_done_something(lent):
    lent.come()
    assert took_something(mark(lent.sock), lent.sock, SHORT)


def test_a_peer_that_has_half_closed_still_waits(stream):
    peer = stream.come()
    peer.shutdown(socket.SHUT_WR)
    before = mark(stream.sock)
    assert before.queue
    assert not took_something(before, stream.sock, 0.01)
    stream.take()
    assert took_something(before, stream.sock, 0.01)


def test_one_that_closes_half_while_the_program_runs_is_not_taken_for_taken(stream):
    peer = stream.come()
    before = mark(stream.sock)
    peer.shutdown(socket.SHUT_WR)
    assert not took_something(before, stream.sock, 0.01)


def test_connections_that_were_accepted_are_not_in_the_queue(stream):
    stream.come()
    stream.take()
    assert not mark(stream.sock).queue


def test_where_the_kernel_hides_its_pointers_a_unix_queue_is_judged_by_its_length():
    hidden = "0" * 16
    assert len(progress._tell_apart([hidden] * 3)) == 3
    assert progress._tell_apart([hidden] * 3) > progress._tell_apart([hidden] * 2)
    assert progress._tell_apart(["a", "b"]) == {"a", "b"}


def test_how_many_wait_is_known_without_a_look_at_every_connection(stream):
    if stream.sock.family == socket.AF_UNIX:
        pytest.skip("a unix listener's queue has no such count")
    stream.come()
    stream.come()
    before = mark(stream.sock, thorough=False)
    assert before.waiting == 2
    assert not took_something(before, stream.sock, 0.1)
    stream.take()
    assert took_something(before, stream.sock, 0.1)
    # The price: one more that comes hides one that was taken. So a denial is no verdict.
    stream.come()
    assert not took_something(before, stream.sock, 0.1)


def test_the_kernel_and_its_table_tell_the_same_of_a_queue(stream):
    if stream.sock.family == socket.AF_UNIX:
        pytest.skip("sock_diag is asked for TCP")
    port = stream.sock.getsockname()[1]
    for taken in (0, 1):
        stream.come()
        stream.come()
        if taken:
            stream.take()
        told = sockdiag.waiting(port)
        assert told is not None
        assert len(told) == len(progress._tcp_queue(f":{port:04X}")) == 2 + taken


def test_an_answer_that_is_an_error_is_one():
    header = struct.pack("=IHHII", 36, sockdiag.NLMSG_ERROR, 0, 1, 0)
    data = header + struct.pack("=i", -2) + bytes(16)
    with pytest.raises(OSError, match="sock_diag"):
        sockdiag._read(data, set())
