"""A launcher belongs to its service's user: superd and all others go on."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import time

import pytest
from master_rig import Played, Rig, entry, fds

from superd.core.audit import check

OTHER = "tcp 127.0.0.1:0 other"
KEY = "tcp 127.0.0.1:0 echo"


@pytest.fixture
def rig():
    """Serve echo, whose launcher is hostile, and another, whose handler 2 runs."""
    with Rig() as rig:
        rig.apply(entry(connections=50), entry("other"))
        rig.connect(KEY)
        rig.launcher(1)
        rig.connect(OTHER)
        rig.launcher(2)
        rig.until(rig.played[0].hear)
        rig.until(rig.played[1].hear)
        rig.played[1].say(f"start 2 {os.getpid()} -")
        rig.until(lambda: rig.shell.core.conns[2].pid)
        yield rig
        check(rig.shell.core)
        conn = rig.shell.core.conns[2]
        assert (conn.pid, conn.launcher, conn.service.name) == (os.getpid(), 2, "other")
        number = len(rig.shell.core.conns)
        rig.connect(OTHER)
        rig.until(rig.played[1].hear)
        assert len(rig.shell.core.conns) >= number
        assert not any(" bug " in line for line in rig.lines)


@pytest.fixture
def hostile(rig) -> Played:
    return rig.played[0]


GARBAGE = [
    b"\xff\xfe\x00",
    b"\x00",
    b"start",
    b"start 1",
    b"start 1 2",
    b"start 1 -1 -",
    b"start 1 99999999999 -",
    b"start " + b"9" * 5000 + b" 1 -",
    b"start 1 1 -\x1b[2J",
    b"start 1 1 a/b",
    b"start +1 1 -",
    b"start 1_0 1 -",
    b"end 1 65 0 0",
    b"end 1 0 256 0",
    b"end 1 0 0 -5",
    b"end 1 0 0 1e9",
    b"ready again",
    b"readY",
    b" ready",
    b"fail 1",
    b"refuse",
    b"conn 1 1 192.0.2.1 1",
    b"x" * 65536,
    "start \u0661 1 -".encode(),
]


@pytest.mark.parametrize("data", GARBAGE, ids=lambda data: repr(data[:12]))
def test_what_is_not_in_the_protocol_ends_it_and_its_service_rests(rig, hostile, data):
    hostile.sock.send(data)
    rig.until(lambda: 1 not in rig.shell.launchers)
    assert rig.logged('reason="it broke the protocol: ')
    assert rig.logged("throttle service=echo")
    assert 1 not in rig.shell.core.conns


def test_random_bytes_leave_the_books_in_order(rig, hostile):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    random_ = random.Random(seed)
    for _ in range(50):
        hostile.sock.send(random_.randbytes(random_.randrange(1, 300)))
        rig.turn()
        if 1 not in rig.shell.launchers or rig.shell.launchers[1].status:
            break
    rig.until(lambda: 1 not in rig.shell.launchers)


@pytest.mark.parametrize(
    "record",
    [
        "end 2 0 0 0", "end 2 9 0 0", "start 2 1 root", "fail 2 exec gone",
        "end 999999999999999 0 0 0", "start 999999999999999 4194304 -", "start 0 0 -",
        "fail 999 a b", "end 0 0 0 0", "note", "note " + "x" * 60000, "note \x1b[2J\t",
    ],
)  # fmt: skip
def test_connections_that_are_not_its_own_are_none_of_its_business(
    rig, hostile, record
):
    hostile.say(record)
    rig.settle()
    assert sorted(rig.shell.core.conns) == [1, 2]
    assert 1 in rig.shell.launchers
    assert max(map(len, rig.lines)) < 3000


def test_an_end_frees_its_slot_once_however_often_it_is_told(rig, hostile):
    hostile.say("start 1 4711 -", *(["end 1 0 0 0"] * 100), "start 1 4712 -")
    rig.until(lambda: 1 not in rig.shell.core.conns)
    rig.settle()
    assert rig.shell.core.services["echo"].admission.live == 0
    assert len(rig.logged("end service=echo conn=1")) == 1


def test_a_pid_cannot_be_changed_once_it_is_told(rig, hostile):
    hostile.say("start 1 4711 -", "start 1 1 -", f"start 1 {os.getpid()} -")
    rig.settle()
    assert rig.shell.core.conns[1].pid == 4711


def test_no_process_that_it_names_is_ever_signalled(rig, hostile):
    victim = os.posix_spawn("/bin/sleep", ["sleep", "600"], {}, setsid=True)
    hostile.say(f"start 1 {victim} -")
    rig.until(lambda: rig.shell.core.conns[1].pid)
    hostile.say("garbage")
    rig.until(lambda: rig.shell._orphans)
    rig.settle()
    assert os.waitid(os.P_PID, victim, os.WEXITED | os.WNOHANG) is None
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    rig.until(lambda: not rig.shell._orphans)


def test_a_hundred_descriptors_are_not_taken(rig, hostile):
    before = fds()
    for _ in range(20):
        hostile.say("note x", fds=[0] * 100)
        hostile.say("ready", fds=[0] * 100)
        rig.settle(2)
    assert fds() == before
    assert 1 in rig.shell.launchers


def test_a_second_ready_with_another_pipe_is_nothing(rig, hostile):
    """The pipe of a launcher that had come without one was kept and never closed."""
    read, write = os.pipe()
    before = fds()
    hostile.say("ready", "ready", fds=[read])
    hostile.say("ready", fds=[read])
    rig.settle()
    assert fds() == before
    os.close(read)
    os.close(write)


def test_what_it_calls_its_pipe_may_be_anything(rig, hostile, tmp_path):
    hostile.say("garbage")
    rig.until(lambda: rig.logged("release service=echo"))
    rig.connect(KEY)
    third = rig.launcher(3, ready=False)
    with open(tmp_path / "file", "w") as file:
        third.say("ready", fds=[file.fileno()])
    rig.until(lambda: rig.logged("stderr is no pipe"))
    rig.until(lambda: 3 not in rig.shell.launchers)


def test_a_flood_of_records_holds_up_nobody(rig, hostile):
    rig.log._level = 40  # the log's own speed is another matter
    hostile.sock.setblocking(False)
    flood = b"\n".join([b"note x"] * 9000)
    longest = 0.0
    for _ in range(10):
        try:
            while True:
                hostile.sock.send(flood)
        except BlockingIOError:
            pass
        start = time.process_time()
        rig.turn()
        longest = max(longest, time.process_time() - start)
    assert longest < 0.5
    rig.log._level = 0


def test_one_that_never_reads_chokes_its_own_service_alone(rig, hostile):
    sent = 0
    while not rig.shell.core.services["echo"].choked and sent < 49:
        rig.connect(KEY)
        rig.turn()
        sent += 1
    rig.settle()


def test_the_end_of_its_channel_without_its_end_is_its_end(rig, hostile):
    hostile.sock.shutdown(socket.SHUT_RDWR)
    rig.until(lambda: 1 not in rig.shell.launchers)
    assert rig.logged("status=signal:9")


def test_its_end_without_the_end_of_its_channel_is_its_end(rig, hostile):
    hostile.die()
    rig.until(lambda: 1 not in rig.shell.launchers)
    assert rig.logged("throttle service=echo")


def test_an_empty_datagram_and_then_garbage_is_its_end_too(rig, hostile):
    """It stayed for ever: the garbage kept the end of its channel from being told."""
    hostile.sock.send(b"")
    hostile.sock.send(b"garbage")
    rig.until(lambda: 1 not in rig.shell.launchers)
    assert rig.shell.core.services["echo"].launcher is None


def test_somebody_who_writes_on_after_its_end_cannot_hold_its_burial_up(rig, hostile):
    hostile.sock.setblocking(False)
    hostile.die()
    os.waitid(os.P_PID, hostile.pid, os.WEXITED | os.WNOWAIT)
    process = rig.shell.launchers[1]
    receive = process.receive

    def flooded():
        try:
            while True:
                hostile.sock.send(b"\n".join([b"note x"] * 5000))
        except BlockingIOError:
            return receive()

    process.receive = flooded
    start = time.process_time()
    rig.until(lambda: 1 not in rig.shell.launchers)
    assert time.process_time() - start < 5


def test_a_stopped_one_is_killed_when_its_time_is_up(rig, hostile):
    os.kill(hostile.pid, signal.SIGSTOP)
    hostile.sock.shutdown(socket.SHUT_RDWR)
    rig.until(lambda: 1 not in rig.shell.launchers)


def test_descriptors_run_out_while_it_is_ready_and_nothing_is_lost():
    with Rig() as rig:
        rig.apply(entry(warm=True))
        launcher = rig.launcher(ready=False)
        read, write = os.pipe()
        launcher.say("ready", fds=[read])
        os.close(read)
        free = os.dup(0)
        os.close(free)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            rig.settle()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        rig.until(lambda: rig.process(launcher).ready)
        os.close(write)
        rig.settle()
