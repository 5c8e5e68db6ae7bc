"""A worker belongs to its service's user: superd and all others go on."""

from __future__ import annotations

import os
import socket
import time

import pytest
from master_rig import Rig, fds, pool

KEY = "tcp 127.0.0.1:0 echo"
OTHER = "tcp 127.0.0.1:0 other"


@pytest.fixture
def rig():
    with Rig() as rig:
        yield rig


def conns(rig: Rig) -> list[int]:
    return sorted(rig.shell.core.conns)


@pytest.fixture
def two(rig):
    """Serve two pools: connection 1 on seat 1, and connection 2 of another on seat 2."""
    rig.apply(pool(), pool("other"))
    for number, key in enumerate((KEY, OTHER), 1):
        rig.connect(key)
        rig.launcher(number)
        rig.worker(number, 4710 + number).hear()
        rig.played[number - 1].hear()
    yield rig
    conn = rig.shell.core.conns[2]
    assert (conn.pid, conn.launcher, conn.service.name) == (4712, 2, "other")
    rig.seat(2).say("end 2 0 0 0")
    rig.until(lambda: 2 not in rig.shell.core.conns)
    assert "status=exit:0" in rig.logged("end service=other conn=2")[0]
    assert not any(" bug " in line for line in rig.lines)


GARBAGE = [
    b"\xff\xfe\x00", b"\x00", b"\n", b"hello", b"hello -1", b"hello 99999999999",
    b"end 1 0 0", b"end 1 65 0 -", b"end 1 0 256 -", b"end +1 0 0 -", b"crash 9",
    b"crash 99 0", b"kept", b"kept 1,,2", b"kept 1 2", b"leave now", b"ready", b"mark",
    b"start 1 2 -", b"conn 1 1 192.0.2.1 1 -", b"x" * 60_000, "hello \u0661".encode(),
]  # fmt: skip


@pytest.mark.parametrize("data", GARBAGE, ids=lambda data: repr(data[:12]))
def test_what_is_not_in_the_protocol_ends_launcher_and_seat(two, data):
    two.seat(1).sock.send(data)
    two.until(lambda: 1 not in two.shell.launchers)
    assert 1 not in two.shell.seats
    assert conns(two) == [2]
    assert two.logged("a worker broke the protocol: ")
    assert two.logged("throttle service=echo")


@pytest.mark.parametrize(
    "record",
    [
        "end 2 0 0 -", "end 2 9 0 0", "fail 2 exec gone", "end 999999999999999 0 0 -",
        "end 0 0 0 -", "kept 1,2", "kept -", "note", "note " + "x" * 60_000,
        "note \x1b[2J\t",
    ],
)  # fmt: skip
def test_connections_that_are_not_its_own_are_none_of_its_business(two, record):
    two.seat(1).say(record)
    two.settle()
    assert conns(two) == [1, 2]
    assert sorted(two.shell.launchers) == [1, 2]
    assert max(map(len, two.lines)) < 3000


@pytest.mark.parametrize(
    "record", ["end 1 0 0 0", "end 2 0 0 0", "fail 1 a b", "name 1 x", "start 1 1 -"]
)
def test_of_what_is_on_a_seat_its_launcher_says_nothing(two, record):
    two.played[0].say(record)
    two.settle()
    assert conns(two) == [1, 2]
    assert two.shell.core.conns[1].pid == 4711


def test_kept_and_crash_may_not_name_another_ones(two):
    two.seat(1).say("crash 9 0", "kept 2")
    two.until(lambda: conns(two) == [2])
    assert "status=signal:9" in two.logged("end service=echo conn=1")[0]


def test_hello_and_leave_a_hundred_times_is_one_worker(two):
    two.seat(1).say("end 1 0 0 0", *(["leave", "hello 4711"] * 100))
    two.until(lambda: conns(two) == [2])
    two.settle()
    assert [seat.id for seat in two.shell.core.launchers[1].free] == [1]


def test_an_end_frees_its_slot_once_however_often_it_is_told(two):
    two.seat(1).say(*(["end 1 0 0 0"] * 100))
    two.until(lambda: conns(two) == [2])
    assert two.shell.core.services["echo"].admission.live == 0
    assert len(two.logged("end service=echo conn=1")) == 1


def test_descriptors_are_not_taken(two):
    before = fds()
    for _ in range(20):
        two.seat(1).say("note x", fds=[0] * 100)
        two.settle(2)
    assert fds() == before
    assert 1 in two.shell.launchers


def test_notes_are_counted_together_with_the_launchers(two):
    for _ in range(10):
        two.seat(1).say(*(["note x"] * 100))
        two.played[0].say(*(["note y"] * 100))
        two.settle(2)
    assert len(two.logged("note service=echo")) <= 2 * 500
    assert two.logged("too many notes")


def test_a_flood_of_reports_starves_nobody(two):
    two.log._level = 40  # the log's own speed is another matter
    flooder = two.seat(1).sock
    flooder.setblocking(False)
    flood = b"\n".join([b"note x"] * 9000)
    longest = 0.0
    for turn in range(10):
        try:
            while True:
                flooder.send(flood)
        except BlockingIOError:
            pass
        two.seat(2).say(f"note {turn}")
        start = time.process_time()
        two.turn()
        longest = max(longest, time.process_time() - start)
        left = two.shell.seats[2].sock
        with pytest.raises(BlockingIOError):
            left.recv(1)
    assert longest < 0.5
    two.log._level = 0


def test_an_empty_datagram_is_the_end_of_a_seat(two):
    two.seat(1).sock.send(b"")
    two.until(lambda: 1 not in two.shell.seats)
    assert conns(two) == [2]


def test_half_a_close_is_a_whole_one(two):
    two.seat(1).sock.shutdown(socket.SHUT_WR)
    two.until(lambda: 1 not in two.shell.seats)
    assert conns(two) == [2]


def test_no_pid_that_a_worker_names_is_signalled_or_watched(two):
    two.seat(1).say(f"hello {os.getpid()}")
    two.until(lambda: two.shell.core.conns[1].pid == os.getpid())
    two.seat(1).say("garbage")
    two.until(lambda: conns(two) == [2])
    assert two.shell._orphans == {}
