"""The workers of a launcher, with the test as their master."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from daemon_under_test import eventually, read_all

from superd.launcher import seats as module

# What the peer says in one line: a word to echo, or how to end.
SOURCE = """
import os, signal, sys, time
def obey(line):
    if line == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    if line == b"exit":
        os._exit(3)
    if line == b"spin":
        while True: pass
    if line == b"deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(1, b"deaf")
        while True: signal.pause()
    if line == b"leave":
        if not os.fork():
            os.read(0, 1)
            os.write(1, b"late")
            os._exit(0)
    return b"%d " % os.getpid() + line
def main(argv):
    line = b""
    while not line.endswith(b"\\n"):
        data = os.read(0, 1)
        if not data: return 7
        line += data
    os.write(1, obey(line[:-1]))
async def serve(reader, writer, options):
    while line := await reader.readline():
        writer.write(obey(line[:-1]))
"""


@pytest.fixture(params=["pool", "loop"])
def started(request, launcher):
    """Start a launcher of either mode: `started(**keys)`."""

    def start(**keys):
        it = launcher.python(
            SOURCE,
            **{"mode": request.param, "workers": 1, "requests": 1000, **keys},
        )
        it.mode = request.param
        return it

    start.mode = request.param
    return start


@pytest.fixture
def pool(launcher):
    """Start the launcher of a pool."""

    def start(**keys):
        return launcher.python(
            SOURCE, **{"mode": "pool", "workers": 1, "requests": 1000, **keys}
        )

    return start


def ask(it, seat, line: bytes, host: str = "127.0.0.1") -> bytes:
    """Have a connection with one line; returns the answer."""
    with it.sit(seat, host) as peer:
        peer.sendall(line + b"\n")
        peer.shutdown(socket.SHUT_WR)
        return read_all(peer)


def test_a_seat_gets_a_worker_that_serves_and_reports(started):
    it = started()
    seat = it.seat()
    pid = seat.worker()
    assert pid != it.pid
    for conn in (1, 2, 3):
        assert ask(it, seat, b"word") == b"%d word" % pid
        words = seat.wait(f"^end {conn} ").split()
        assert words[2:4] == ["0", "0"]
        assert words[4] == "-" if it.mode == "loop" else int(words[4]) >= 0


def test_each_seat_has_a_worker_of_its_own(started):
    it = started()
    seats = [it.seat() for _ in range(3)]
    pids = {seat.worker() for seat in seats}
    assert len(pids) == 3
    assert {int(ask(it, seat, b"x").split()[0]) for seat in seats} == pids


def test_told_to_retire_a_worker_finishes_and_the_channel_ends(started):
    it = started()
    seat, other = it.seat(), it.seat()
    pid = seat.worker()
    with it.sit(seat) as peer:
        seat.put("retire")
        peer.sendall(b"word\n")
        peer.shutdown(socket.SHUT_WR)
        assert read_all(peer) == b"%d word" % pid
    seat.wait("^end 1 0 0 ")
    seat.wait_gone()
    assert not [one for one in seat.records if one.startswith("crash")]
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "it is reaped")
    assert ask(it, other, b"on").endswith(b" on")


def test_without_the_master_workers_finish_and_all_leave(started):
    it = started()
    seat = it.seat()
    pid = seat.worker()
    with it.sit(seat) as peer:
        peer.sendall(b"")
        seat.sock.close()
        it.hang_up()
        peer.sendall(b"word\n")
        peer.shutdown(socket.SHUT_WR)
        assert read_all(peer) == b"%d word" % pid
    assert it.wait_end() == 0
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(("how", "crash"), [(b"die", "9 0"), (b"exit", "0 3")])
def test_a_death_is_told_and_after_the_mark_the_next_worker_goes_on(
    started, how, crash
):
    it = started()
    seat = it.seat()
    seat.worker()
    with it.sit(seat) as peer:
        peer.sendall(how + b"\n" + b"unread" * 1000)
        seat.wait(f"^crash {crash}$")
        # What comes before the mark was not begun: it is kept, and served.
        with it.sit(seat) as second, it.sit(seat) as third:
            seat.put("mark")
            assert seat.wait("^kept ") == "kept 2,3"
            pid = seat.worker(count=2)
            for sock in (second, third):
                sock.sendall(b"word\n")
                sock.shutdown(socket.SHUT_WR)
                assert read_all(sock) == b"%d word" % pid
        assert read_all(peer) == b"", "it is closed with care"
    assert ask(it, seat, b"x") == b"%d x" % pid


def test_an_idle_death_keeps_all_and_costs_nothing(started):
    it = started()
    seat = it.seat()
    os.kill(seat.worker(), signal.SIGKILL)
    seat.wait("^crash 9 0$")
    seat.put("mark")
    assert seat.wait("^kept ") == "kept -"
    assert ask(it, seat, b"x") == b"%d x" % seat.worker(count=2)


def test_a_seat_that_is_to_retire_gets_no_worker_after_a_death(started):
    it = started()
    seat = it.seat()
    os.kill(seat.worker(), signal.SIGKILL)
    seat.wait("^crash 9 0$")
    seat.put("retire")
    seat.put("mark")
    seat.wait("^kept -$")
    seat.wait_gone()


def test_a_kept_connection_is_served_before_the_retirement(started):
    it = started()
    seat = it.seat()
    os.kill(seat.worker(), signal.SIGKILL)
    seat.wait("^crash 9 0$")
    with it.sit(seat) as peer:
        seat.put("retire")
        seat.put("mark")
        seat.wait("^kept 1$")
        peer.sendall(b"word\n")
        peer.shutdown(socket.SHUT_WR)
        assert read_all(peer).endswith(b" word")
    seat.wait("^end 1 0 0 ")


def test_of_two_that_are_kept_the_death_of_one_costs_one(pool):
    it = pool()
    seat = it.seat()
    os.kill(seat.worker(), signal.SIGKILL)
    seat.wait("^crash 9 0$")
    with it.sit(seat) as first, it.sit(seat) as second:
        first.sendall(b"die\n")
        seat.put("mark")
        assert seat.wait("^kept ") == "kept 1,2"
        seat.wait("^crash 9 0$", count=2)
        seat.put("mark")
        assert seat.wait("^kept ", count=2) == "kept 2"
        second.sendall(b"word\n")
        second.shutdown(socket.SHUT_WR)
        assert read_all(second).endswith(b" word")


def test_a_worker_is_renewed_after_its_requests(pool):
    it = pool(requests=2)
    seat = it.seat()
    pids = [ask(it, seat, b"x").split()[0] for _ in range(6)]
    assert pids[0::2] == pids[1::2]
    assert len(set(pids)) == 3
    assert seat.records.count("leave") == 3 or seat.wait("^leave$", count=3)
    assert not [one for one in seat.records if one.startswith("crash")]


@pytest.mark.parametrize("name", ["TERM", "KILL"])
def test_a_kill_by_the_masters_wish_ends_the_worker_of_that_connection_alone(
    pool, name
):
    it = pool()
    seat, other = it.seat(), it.seat()
    seat.worker()
    with it.sit(seat) as peer:
        peer.sendall(b"spin\n")
        eventually(lambda: _spins(seat.worker()), "it spins")
        it.put(
            f"kill 9 {name} 1", f"kill 1 {name} 7"
        )  # another connection; no such seat
        assert ask(it, other, b"x").endswith(b" x")
        assert not seat.take(0.05), seat.records
        it.put(f"kill 1 {name} 1")
        seat.wait(f"^crash {int(module.SIGNALS[name])} 0$")


def _spins(pid: int) -> bool:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return words[0] == "R"


def test_a_handler_that_ignores_the_end_of_its_lifetime_is_killed(pool):
    it = pool(lifetime=0.1, constants={"superd.launcher.seats.KILL_AFTER": 0.2})
    seat = it.seat()
    with it.sit(seat) as peer:
        peer.sendall(b"deaf\n")
        assert peer.recv(4) == b"deaf"
        seat.wait("^crash 9 0$")
    it.wait("^note conn 1: timeouts.lifetime is over: TERM$")


def test_a_loop_that_stands_still_is_killed_and_replaced(launcher):
    it = launcher.python(
        SOURCE, mode="loop", workers=1, constants={"superd.launcher.seats.HUNG": 1.5}
    )
    seat = it.seat()
    pid = seat.worker()
    with it.sit(seat) as peer:
        peer.sendall(b"spin\n")
        seat.wait("^crash 9 0$")
        it.wait(f"^note worker {pid} stands still: KILL$")
    seat.put("mark")
    seat.wait("^kept -$")
    assert ask(it, seat, b"x") == b"%d x" % seat.worker(count=2)


def test_an_idle_loop_never_stands_still(launcher):
    """The control: nothing to do is no hang, and neither is a connection that waits."""
    it = launcher.python(
        SOURCE, mode="loop", workers=1, constants={"superd.launcher.seats.HUNG": 1.2}
    )
    seat, idle = it.seat(), it.seat()
    idle.worker()
    with it.sit(seat):
        seat.worker()
        assert not seat.take(2.5), seat.records
        assert not idle.take(0)


def test_what_a_handler_left_keeps_its_connection(pool):
    it = pool(constants={"superd.launcher.serve.SWEEP": 0.05})
    seat = it.seat()
    with it.sit(seat) as peer:
        peer.sendall(b"leave\n")
        seat.wait("^end 1 0 0 ")
        seat.wait("^leave$")
        assert peer.recv(100).endswith(b" leave")
        peer.sendall(b"x")
        assert read_all(peer) == b"late"


def test_the_pauses_grow_to_their_top_and_the_first_deaths_are_free():
    delays = [module._delay(failures, 5.0) for failures in range(1, 12)]
    assert delays == [0.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert module._delay(10_000, 1.0) == 1.0
