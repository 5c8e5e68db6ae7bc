"""The end of a connection: nothing written is lost, and nobody can make it last."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest
from daemon_under_test import DEADLINE, eventually, read_all, ready

from superd.launcher import linger as module
from superd.launcher.linger import IDLE, LIMIT, ROOM, TURN, Linger, has_everything


def tcp():
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname(), DEADLINE)
        return peer, server.accept()[0]


def unix():
    peer, ours = socket.socketpair()
    peer.settimeout(DEADLINE)
    return peer, ours


@pytest.fixture
def forgotten():
    return []


@pytest.fixture
def linger(forgotten):
    it = Linger(forgotten.append)
    yield it
    for fd in list(it.entries):
        it.drop(fd)


BOTH = pytest.mark.parametrize("make", [tcp, unix])


@BOTH
def test_the_peer_sees_the_end_at_once_and_its_bytes_are_thrown_away(linger, make):
    peer, ours = make()
    with peer:
        fd = ours.fileno()
        ours.sendall(b"answer")
        assert linger.add(ours, 0.0) == []
        assert read_all(peer) == b"answer"
        peer.sendall(b"more")
        assert ready([fd], DEADLINE)
        assert linger.read(fd, 1.0)
        assert linger.entries[fd].heard == 1.0
    assert ready([fd], DEADLINE)
    assert not linger.read(fd, 1.0)
    assert linger.entries == {}
    assert ours.fileno() == -1


@BOTH
def test_a_peer_that_is_gone_already_is_closed_at_once(linger, make):
    peer, ours = make()
    peer.close()
    ready([ours.fileno()], DEADLINE)
    linger.add(ours, 0.0)
    assert linger.entries == {}
    assert ours.fileno() == -1


@BOTH
def test_a_silent_peer_that_has_everything_is_closed_after_the_idle_time(linger, make):
    peer, ours = make()
    with peer:
        fd = ours.fileno()
        ours.sendall(b"x")
        linger.add(ours, 10.0)
        assert read_all(peer) == b"x"
        eventually(lambda: module._unsent(ours) == 0, "acknowledged")
        assert linger.expire(10.0 + IDLE - 0.01) == []
        assert linger.expire(10.0 + IDLE) == [fd]


@BOTH
def test_a_slow_reader_is_not_cut_while_its_data_is_unsent(linger, make):
    peer, ours = make()
    with peer:
        ours.setblocking(False)
        sent = 0
        try:
            while True:
                sent += ours.send(b"x" * 65536)
        except BlockingIOError:
            pass
        linger.add(ours, 0.0)
        assert linger.expire(IDLE * 3) == []
        assert linger.expire(LIMIT - 0.01) == []
        assert len(read_all(peer)) == sent
        eventually(lambda: module._unsent(ours) == 0, "acknowledged")
        assert linger.expire(IDLE * 3) == [ours.fileno()] or ours.fileno() == -1


def test_whatever_the_peer_does_it_ends_at_the_limit(linger):
    peer, ours = tcp()
    with peer:
        linger.add(ours, 0.0)
        for second in range(1, int(LIMIT)):
            peer.sendall(b"still here")
            assert ready([ours.fileno()], DEADLINE)
            assert linger.read(ours.fileno(), float(second))
            assert linger.expire(float(second)) == []
        assert len(linger.expire(LIMIT)) == 1


def test_their_number_is_bounded_and_the_oldest_makes_room(
    linger, many_files, forgotten
):
    if many_files < 3 * ROOM:
        pytest.skip("the hard limit of open files is low here")
    pairs = [unix() for _ in range(ROOM + 3)]
    closed = [fd for _, ours in pairs for fd in linger.add(ours, 0.0)]
    assert len(linger.entries) == ROOM
    assert len(closed) == 3
    assert [ours.fileno() == -1 for _, ours in pairs[:5]] == [True] * 3 + [False] * 2
    assert forgotten == closed, "the watch ends before the descriptor does"
    for peer, _ in pairs:
        peer.close()


def test_a_flood_is_read_a_turn_at_a_time(linger):
    peer, ours = unix()
    with peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        peer.setblocking(False)
        linger.add(ours, 0.0)
        # A stream socket gives one recv's worth whatever the number of writes, so the
        # turn is counted in chunks: with small chunks the flood is longer than a turn.
        size = module.CHUNK
        module.CHUNK = 100
        try:
            peer.send(b"x" * (100 * TURN + 50))
            assert linger.read(ours.fileno(), 1.0)
            assert len(ours.recv(1 << 16, socket.MSG_DONTWAIT)) == 50
        finally:
            module.CHUNK = size


@pytest.fixture
def quick(monkeypatch):
    """Let a moment of silence be enough."""
    monkeypatch.setattr(module, "IDLE", 0.05)


def test_a_peer_that_was_silent_before_the_end_is_not_waited_for(linger, quick):
    peer, ours = tcp()
    with peer:
        ours.sendall(b"x")
        eventually(lambda: has_everything(ours, module.IDLE), "silent for long enough")
        linger.add(ours, 0.0)
        assert linger.entries == {}
        assert ours.fileno() == -1
        assert read_all(peer) == b"x"


@pytest.mark.parametrize("whose", ["ours", "the peer's"])
def test_a_byte_of_either_side_begins_the_silence_anew(linger, whose):
    peer, ours = tcp()
    with peer:
        module.IDLE, before = 0.05, module.IDLE
        try:
            eventually(
                lambda: has_everything(ours, module.IDLE), "silent for long enough"
            )
        finally:
            module.IDLE = before
        if whose == "ours":
            ours.sendall(b"x")
        else:
            peer.sendall(b"x")
            assert ready([ours.fileno()], DEADLINE)
        assert not has_everything(ours, module.IDLE)
        linger.add(ours, 0.0)
        assert len(linger.entries) == 1


def test_a_silent_peer_that_has_not_taken_everything_is_waited_for(linger, quick):
    peer, ours = tcp()
    control, other = tcp()
    with peer, control, other:
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(b"x" * 65536)
        # The control is silent for as long, later.
        eventually(lambda: has_everything(other, module.IDLE), "silent for long enough")
        linger.add(ours, 0.0)
        assert len(linger.entries) == 1


def test_an_unread_byte_of_the_peer_is_a_reason_to_wait(linger, quick):
    peer, ours = tcp()
    with peer:
        peer.sendall(b"x")
        eventually(lambda: has_everything(ours, module.IDLE), "silent for long enough")
        linger.add(ours, 0.0)
        assert len(linger.entries) == 1


def test_an_end_on_its_way_is_no_byte_that_is_missing(linger, quick):
    peers = []
    for _ in range(20):
        peer, ours = tcp()
        peers.append(peer)
        ours.sendall(b"x")
        eventually(
            lambda ours=ours: has_everything(ours, module.IDLE),
            "silent for long enough",
        )
        # As a worker does before it hands a connection over.
        ours.shutdown(socket.SHUT_WR)
        linger.add(ours, 0.0)
        assert linger.entries == {}
    for peer in peers:
        with peer:
            assert read_all(peer) == b"x"


# -- in a real launcher ----------------------------------------------------------------


@pytest.mark.parametrize("lingers", [True, False])
def test_an_answer_survives_unread_bytes_and_without_the_linger_it_does_not(
    launcher, lingers
):
    it = launcher(exec=["/usr/bin/printf", "%0200000d", "7"])
    peer, accepted = it.pair()
    with accepted:
        peer.sendall(b"x" * 300_000)
        if lingers:
            it.put(it.record(), fds=(accepted.fileno(),))
            accepted.close()
            assert len(read_all(peer)) == 200_000
        else:
            accepted.sendall(b"7" * 200_000)
            accepted.close()
            with pytest.raises(ConnectionResetError):
                read_all(peer)


@pytest.mark.parametrize("make", [tcp, unix])
def test_a_flood_after_the_end_holds_up_nobody(launcher, make):
    it = launcher(exec=["/bin/true"])
    peer, ours = make()
    host = "unix:0" if ours.family == socket.AF_UNIX else "127.0.0.1"
    it.put(it.record(host), fds=(ours.fileno(),))
    ours.close()
    it.wait("^end 1 ")
    peer.setblocking(False)
    with peer:
        start = time.monotonic()
        sent = 0
        for _ in range(50):
            try:
                while True:
                    sent += peer.send(b"f" * (1 << 18))
                    if sent > 30 << 20:
                        break
            except (BlockingIOError, ConnectionError):
                pass
            it.talk()
        assert time.monotonic() - start < DEADLINE


def _sockets(it):
    return [name for name in it.fds().values() if name.startswith("socket:")]


def test_a_socket_that_lives_on_elsewhere_does_not_make_the_launcher_spin(launcher):
    # Regression: epoll goes on watching a closed descriptor whose socket lives on in a
    # process that no handler left behind: here it is the test.
    it = launcher.shell("read line")
    peer, ours = it.pair()
    with ours:
        it.put(it.record(), fds=(ours.fileno(),))
        peer.sendall(b"x\n")
        it.wait("^end 1 ")
        assert peer.recv(1) == b""
        peer.close()
        eventually(lambda: len(_sockets(it)) == 1, "all but the channel is closed")
        before = it.cpu()
        for _ in range(3):
            it.talk(b"x\n")
        start = time.monotonic()
        eventually(lambda: time.monotonic() > start + 0.4, "a moment")
        assert it.cpu() - before < 0.2


def test_a_silent_peer_does_not_keep_its_connection_in_the_launcher(launcher):
    constants = {
        "superd.launcher.linger.IDLE": 0.1,
        "superd.launcher.serve.SWEEP": 0.05,
    }
    it = launcher(exec=["/bin/true"], constants=constants)
    with it.connect() as peer:
        it.wait("^end 1 ")
        assert peer.recv(1) == b""
        eventually(lambda: len(_sockets(it)) == 1, "all but the channel is closed")
