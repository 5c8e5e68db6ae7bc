"""How a relayed connection ends: what is a reset for one side is one for the other."""

from __future__ import annotations

import os
import select
import signal
import socket
from pathlib import Path

import pytest
from daemon_under_test import unsent
from inetd import DEADLINE, reached
from relays import (
    MAINS,
    end_of,
    flood,
    is_reset,
    pattern,
    relayed,
    reset,
)

from superd.handlers import exits, redirect


@pytest.fixture(params=MAINS)
def main(request):
    return MAINS[request.param]


def test_a_backend_that_resets_is_a_reset_for_the_peer_behind_what_came_before(main):
    with relayed(main) as (served, backend):
        served.send(b"x")
        assert backend.recv(1) == b"x"
        backend.sendall(b"half an answ")
        reset(backend)
        assert is_reset(served.sock) == (True, b"half an answ")
        assert served.wait() == exits.TEMPORARY
        assert end_of(served) == "backend-reset"


def test_an_early_answer_arrives_though_the_question_was_not_read(main):
    """As a web server answers 413: it closes over what it did not read, which is RST."""
    with relayed(main, early=bytes(1 << 16)) as (served, backend):
        backend.recv(1)
        answer = pattern(60_000, 3)
        backend.sendall(answer)
        backend.close()
        assert is_reset(served.sock) == (True, answer)


@pytest.mark.slow
def test_what_came_before_a_reset_arrives_though_the_peer_reads_late(main):
    with relayed(main) as (served, backend):
        half = pattern(2_000_000, 3)  # more than the peer's kernel takes for it
        backend.sendall(half)
        assert reached(lambda: not unsent(backend))
        reset(backend)
        # The reset is known now, and must not overtake what there is for the peer.
        select.select([], [], [], 0.3)
        assert is_reset(served.sock) == (True, half)
        assert served.wait() == exits.TEMPORARY


@pytest.mark.slow
def test_a_reset_that_a_write_has_noticed_is_no_end_for_the_peer(main):
    with relayed(main) as (served, backend):
        assert flood(backend)
        reset(backend)
        served.send(b"x")
        assert is_reset(served.sock)[0]
        assert served.wait() == exits.TEMPORARY


def test_a_peer_that_resets_is_a_reset_for_the_backend(main):
    with relayed(main) as (served, backend):
        served.send(b"half a quest")
        assert backend.recv(100) == b"half a quest"
        served.reset()
        assert is_reset(backend) == (True, b"")
        assert served.wait() == exits.OK
        assert end_of(served) == "peer-reset"


def test_an_orderly_end_is_no_reset_for_either(main):
    """The control of the two above: the same way through, without a reset."""
    with relayed(main) as (served, backend):
        served.send(b"question").end()
        assert is_reset(backend) == (False, b"question")
        backend.sendall(b"answer")
        backend.close()
        assert is_reset(served.sock) == (False, b"answer")
        assert served.wait() == exits.OK


@pytest.mark.parametrize("mode", MAINS)
def test_a_relay_that_is_stopped_resets_both_sides(mode):
    with relayed(MAINS[mode]) as (served, backend):
        served.send(b"x")
        assert backend.recv(1) == b"x"
        os.kill(served.pid, signal.SIGTERM)
        assert is_reset(served.sock)[0]
        assert is_reset(backend)[0]
        # A task of a loop is cancelled instead, which looped.py tells as it is.
        assert served.wait() == (-signal.SIGTERM if mode == "process" else 99)
        assert end_of(served) == "stopped"


def test_a_relay_that_is_killed_resets_its_backend():
    with relayed(redirect.main) as (served, backend):
        served.send(b"x")
        assert backend.recv(1) == b"x"
        os.kill(served.pid, signal.SIGKILL)
        assert is_reset(backend)[0]


# -- resets of who is not read from --------------------------------------------------


def hears_reset(sock):
    """Wait for a reset without reading: behind an end nothing can be read."""
    poller = select.poll()
    poller.register(sock, 0)
    return any(events & select.POLLERR for _, events in poller.poll(DEADLINE * 1000))


def test_a_peer_that_has_said_all_resets_and_the_silent_backend_learns_of_it(main):
    with relayed(main) as (served, backend):
        served.send(b"question").end()
        assert is_reset(backend) == (False, b"question")
        served.reset()
        assert hears_reset(backend)
        assert served.wait() == exits.OK
        assert end_of(served) == "peer-reset"


def test_a_peer_that_is_not_read_from_resets_and_the_backend_learns_of_it(main):
    """The backend takes nothing, so that the peer is not read from."""
    with relayed(main) as (served, backend):
        assert flood(served.sock) > 1 << 20
        served.reset()
        assert served.wait() == exits.OK
        assert end_of(served) == "peer-reset"
        assert is_reset(backend)[0]


def test_a_peer_resets_though_it_is_not_read_from_and_the_backend_has_said_all(main):
    with relayed(main) as (served, backend):
        backend.shutdown(socket.SHUT_WR)
        assert served.read() == b""
        assert flood(served.sock) > 1 << 20
        served.reset()
        assert served.wait() == exits.OK
        assert end_of(served) == "peer-reset"


def test_a_backend_that_has_said_all_resets_and_the_silent_peer_learns_of_it(main):
    """Its answer was whole: what the peer has still to say is no failure."""
    with relayed(main) as (served, backend):
        backend.sendall(b"answer")
        backend.shutdown(socket.SHUT_WR)
        assert served.read() == b"answer"
        reset(backend)
        assert hears_reset(served.sock)
        assert served.wait() == exits.OK
        assert end_of(served) == "backend-reset"


@pytest.mark.slow
def test_a_backend_that_is_not_read_from_resets_and_the_peer_learns_of_it(main):
    """What there is for the peer has two seconds to arrive, and no more."""
    with relayed(main) as (served, backend):
        assert flood(backend) > 1 << 20
        reset(backend)
        assert served.wait() == exits.TEMPORARY
        assert end_of(served) == "backend-reset"
        assert is_reset(served.sock)[0]


# -- deadlines ------------------------------------------------------------------------


def test_a_connection_where_nothing_moves_is_reset_on_both_sides(main):
    with relayed(main, "--timeouts.idle", "0.2") as (served, backend):
        served.send(b"x")
        assert backend.recv(1) == b"x"
        assert is_reset(served.sock)[0]
        assert is_reset(backend)[0]
        assert served.wait() == exits.OK
        assert end_of(served) == "idle"


def test_a_half_closed_connection_has_a_deadline_of_its_own(main):
    with relayed(main, "--timeouts.half-closed", "0.2") as (served, backend):
        served.send(b"x").end()
        assert backend.recv(1) == b"x"
        assert is_reset(served.sock)[0]
        assert served.wait() == exits.OK
        assert end_of(served) == "idle"


@pytest.mark.slow
def test_what_moves_one_way_keeps_the_connection(main):
    """The control of the deadlines: ten bytes take three times as long as one may."""
    with relayed(main, "--timeouts.idle", "0.5") as (served, backend):
        for _ in range(8):
            served.send(b"x")
            assert backend.recv(1) == b"x"
            assert not select.select([backend], [], [], 0.2)[0]
        served.sock.close()
        backend.close()
        assert served.wait() == exits.OK
        assert end_of(served) == "closed"


def memory_of(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


@pytest.mark.slow
def test_a_peer_that_reads_nothing_holds_the_backend_back_and_is_too_slow(main):
    with relayed(main, "--timeouts.idle", "1") as (served, backend):
        backend.sendall(b"x")
        assert served.sock.recv(1) == b"x"
        before = memory_of(served.pid)
        sent = flood(backend)
        assert sent > 1 << 20
        assert memory_of(served.pid) - before < 2048
        assert served.wait() == exits.SLOW
        assert end_of(served) == "peer-stalled"


def test_a_direction_that_is_stuck_does_not_hold_up_the_other(main):
    with relayed(main) as (served, backend):
        assert flood(backend) > 1 << 20
        for _ in range(50):
            served.send(b"still heard")
            assert backend.recv(100) == b"still heard"
        served.reset()
        assert is_reset(backend)[0]


def cpu_of(pid):
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_a_peer_that_has_said_all_and_heard_all_costs_no_time_while_it_waits(main):
    """poll(2) tells its POLLHUP again and again while the backend takes nothing."""
    with relayed(main, kind="pair") as (served, backend):
        backend.shutdown(socket.SHUT_WR)
        assert served.read() == b""
        total = flood(served.sock)
        served.end()
        before = cpu_of(served.pid)
        select.select([], [], [], 0.5)
        assert cpu_of(served.pid) - before < 0.2
        assert len(is_reset(backend)[1]) == total
        assert served.wait() == exits.OK
