"""Mode pool, through a real daemon: workers grow, are renewed, die, hang and leave."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from pathlib import Path

import pytest
from daemon_under_test import eventually, read_all
from plugin import begin, install_runner, run, runner

PID = "say(os.getpid())"


@pytest.fixture
def pool(superd, tmp_path):
    """Start a daemon with a pool named w: `pool(workers=2, ...)`."""
    environment = install_runner(tmp_path / "plugin")

    def start(*, expect=(), constants=None, **keys):
        return superd(
            {"services": {"w": runner("pool", **keys)}},
            environment=environment,
            expect=list(expect),
            constants=constants,
        )

    return start


def workers(daemon) -> set[int]:
    """Return the pids of the workers of the one launcher."""
    (launcher,) = eventually(daemon.children, "a launcher")
    path = Path(f"/proc/{launcher}/task/{launcher}/children")
    return set(map(int, path.read_text().split()))


def busy(daemon, source: str = "os.read(0, 1)") -> tuple[socket.socket, int]:
    """Occupy a worker until its connection is closed; returns that and its pid."""
    sock = begin(daemon, f"{PID}\n{source}")
    with sock.makefile("rb") as file:
        return sock, int(file.readline())


def gone(pid: int) -> None:
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "it has ended")


# -- how many --------------------------------------------------------------------------


def test_the_workers_are_there_before_the_first_connection(pool):
    daemon = pool(workers=3, max_workers=5)
    eventually(lambda: len(workers(daemon)) == 3, "three workers")
    assert daemon.log("accept") == []


def test_a_pool_grows_under_load_up_to_its_most_and_the_next_peer_waits(pool):
    daemon = pool(workers=1, max_workers=4)
    held = [busy(daemon) for _ in range(4)]
    assert len({pid for _, pid in held}) == 4
    assert workers(daemon) == {pid for _, pid in held}
    with begin(daemon, PID) as waiting:
        waiting.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        sock, pid = held.pop()
        sock.close()
        waiting.settimeout(10)
        assert int(read_all(waiting)) == pid
    for sock, _ in held:
        sock.close()


def test_it_shrinks_again_when_it_is_idle_and_keeps_its_workers(pool):
    daemon = pool(
        workers=2, max_workers=5, constants={"superd.core.seats.SHRINK_AFTER": 0.3}
    )
    held = [busy(daemon) for _ in range(5)]
    for sock, _ in held[1:]:
        sock.close()
    eventually(lambda: len(workers(daemon)) == 2, "it has shrunk")
    assert held[0][1] in workers(daemon), "the busy one stays"
    held[0][0].close()
    assert int(run(daemon, PID)) in workers(daemon)
    eventually(lambda: len(workers(daemon)) == 2, "two workers")


def test_a_pool_that_is_used_all_the_time_does_not_shrink_below_its_use(pool):
    """The control of the shrinking: nobody that works is sent away."""
    daemon = pool(
        workers=1, max_workers=3, constants={"superd.core.seats.SHRINK_AFTER": 0.2}
    )
    held = [busy(daemon) for _ in range(3)]
    began = time.monotonic()
    while time.monotonic() < began + 0.6:
        sock, _ = held.pop(0)
        sock.close()
        held.append(busy(daemon))
    pids = {pid for _, pid in held}
    assert workers(daemon) == pids
    for sock, _ in held:
        sock.close()


# -- renewal ---------------------------------------------------------------------------


def test_a_worker_is_renewed_after_its_requests_and_no_connection_is_lost(pool):
    daemon = pool(requests=3)
    seen = [run(daemon, PID).strip() for _ in range(12)]
    assert [seen.count(pid) for pid in dict.fromkeys(seen)] == [3, 3, 3, 3]
    assert len(set(seen)) == 4
    daemon.wait_log("end service=w .* status=exit:0", count=12)


def test_under_load_they_are_renewed_and_nobody_notices(pool):
    daemon = pool(workers=3, max_workers=3, requests=7, limits={"connections": 3})
    address = daemon.address("w")
    seen = set()
    for _ in range(25):
        socks = [socket.create_connection(address, timeout=20) for _ in range(8)]
        for sock in socks:
            sock.sendall(f"{PID}\nend\n".encode())
        for sock in socks:
            seen.add(int(read_all(sock)))
            sock.close()
    assert 200 / 7 <= len(seen) <= 200 / 7 + 4
    daemon.wait_log("end service=w .* status=exit:0", count=200)
    assert len(workers(daemon)) == 3


# -- death -----------------------------------------------------------------------------

DEATHS = {
    "os._exit(3)": "exit:3",
    "os._exit(0)": "exit:0",
    "os.kill(os.getpid(), signal.SIGSEGV)": "signal:11",
    "os.kill(os.getpid(), signal.SIGKILL)": "signal:9",
    "os.abort()": "signal:6",
    "os.closerange(3, 100)": "exit:",
    "signal.setitimer(signal.ITIMER_REAL, 0.01)\nsignal.pause()": "signal:14",
}


@pytest.mark.parametrize("how", DEATHS)
def test_a_worker_that_dies_costs_its_own_connection_and_is_replaced(pool, how):
    daemon = pool(workers=2, max_workers=2)
    with busy(daemon, "os.read(0, 1)\nsay('done')")[0] as other:
        with begin(daemon, f"say('begun')\n{how}") as sock:
            # What it had written arrives, whatever the peer has sent since.
            sock.sendall(b"unread" * 1000)
            assert read_all(sock) == b"begun\n"
        daemon.wait_log(f"end service=w conn=2 .* status={DEATHS[how]}")
        assert run(daemon, "say('next')") == "next\n"
        other.sendall(b"x")
        assert read_all(other) == b"done\n"
    daemon.wait_log("end service=w conn=1 .* status=exit:0")
    assert len(workers(daemon)) == 2


ENDS = {
    "return 7": ("exit:7", True),
    "sys.exit(7)": ("exit:7", True),
    "sys.exit()": ("exit:0", True),
    "sys.exit('a reason')": ("exit:1", True),
    "return 110": (r"exit:110\(peer\)", True),
    "raise ValueError('what')": (r"exit:101\(bug\)", False),
    "raise KeyboardInterrupt": (r"exit:101\(bug\)", False),
}


@pytest.mark.parametrize("how", ENDS)
def test_how_a_handler_ends_is_in_the_log_and_only_a_bug_ends_its_worker(pool, how):
    status, stays = ENDS[how]
    daemon = pool()
    pid = run(daemon, PID)
    assert run(daemon, f"print('said')\n{how}") == "said\n"
    line = daemon.wait_log(f"end service=w conn=2 .* status={status} ")
    assert f"pid={pid.strip()} " in line
    assert "duration=" in line
    assert "cpu=" in line
    assert (run(daemon, PID) == pid) is stays
    if how.startswith("raise Value"):
        daemon.wait_log('stderr service=w text="runner: ValueError: what ')
    if "reason" in how:
        daemon.wait_log('stderr service=w text="a reason"')


def test_an_idle_worker_that_is_killed_costs_nobody_anything(pool):
    daemon = pool()
    for number in range(1, 4):
        (pid,) = eventually(lambda: workers(daemon), "a worker")
        os.kill(pid, signal.SIGKILL)
        assert int(run(daemon, PID)) != pid
        daemon.wait_log("end service=w .* status=exit:0", count=number)
    assert not daemon.log("signal:9")


def test_one_that_always_dies_is_started_with_growing_pauses_and_recovers(pool):
    daemon = pool(expect=["throttle service=w"])
    # An idle worker that is killed at its start, again and again: it serves nobody.
    until = time.monotonic() + 1.0
    killed: set[int] = set()
    while time.monotonic() < until:
        for pid in workers(daemon) - killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
    assert 3 <= len(killed) <= 8
    assert run(daemon, "say('on again')") == "on again\n"


# -- hanging ---------------------------------------------------------------------------


def test_a_stuck_handler_ends_with_its_lifetime_and_the_others_go_on(pool):
    daemon = pool(
        workers=2,
        max_workers=2,
        timeouts={"lifetime": "400ms"},
        expect=["note service=w"],
    )
    with begin(daemon, "say('stuck')\nwhile True: signal.pause()") as sock:
        assert sock.recv(6) == b"stuck\n"
        for _ in range(5):
            assert run(daemon, "say('on')") == "on\n"
        assert read_all(sock) == b""
    daemon.wait_log("end service=w conn=1 .* status=signal:15")
    assert daemon.log("note service=w .*conn 1: timeouts.lifetime is over: TERM")
    assert run(daemon, "say('on')") == "on\n"


def test_a_lifetime_counts_for_each_connection_and_not_for_the_worker(pool):
    daemon = pool(timeouts={"lifetime": "500ms"})
    pid = run(daemon, PID)
    began = time.monotonic()
    while time.monotonic() < began + 1.2:
        assert run(daemon, PID) == pid
    assert not daemon.log("signal:15")


@pytest.mark.slow
def test_processor_time_is_counted_for_each_connection(pool):
    daemon = pool(rlimits={"cpu": "1s"})
    spin = "until = time.process_time() + 0.8\nwhile time.process_time() < until: pass"
    pid = run(daemon, PID)
    for _ in range(3):
        run(daemon, spin)
    assert run(daemon, PID) == pid, "2.4 s in all, and none had more than its second"
    assert run(daemon, "while True: pass") == ""
    daemon.wait_log("end service=w .* status=signal:24")
    assert run(daemon, "say('on')") == "on\n"


# -- the end of a connection -----------------------------------------------------------


def test_a_handler_that_closes_its_connection_and_works_on_gives_its_peer_the_end(pool):
    daemon = pool(timeouts={"stop": "200ms"}, expect=["kill service=w"])
    closing = "say('answer')\nos.close(0)\nos.close(1)\nsignal.pause()"
    with begin(daemon, closing) as sock:
        began = time.monotonic()
        assert read_all(sock) == b"answer\n"
        assert time.monotonic() - began < 3.5
    assert not daemon.log("end service=w"), "it still works: its slot is taken"


def test_one_that_keeps_a_copy_is_not_ended(pool):
    """The control: as long as it holds any descriptor its peer is not let go."""
    daemon = pool()
    keep = "fd = os.dup(0)\nos.close(0)\nos.close(1)\n"
    with begin(daemon, f"say('a')\n{keep}os.read(fd, 1)\nos.write(fd, b'b')") as sock:
        assert sock.recv(2) == b"a\n"
        sock.settimeout(2.5)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(10)
        sock.sendall(b"x")
        assert read_all(sock) == b"b"


CHILD = """
if not os.fork():
    {0}
    while len(os.read(0, 1)): os.write(1, b'late')
    os._exit(0)
"""


@pytest.mark.parametrize("session", ["pass", "os.setsid()"])
def test_a_child_that_a_handler_leaves_keeps_the_connection(pool, session):
    daemon = pool()
    with begin(daemon, CHILD.format(session)) as sock:
        daemon.wait_log("end service=w conn=1 .* status=exit:0")
        assert run(daemon, "say('next')") == "next\n"
        sock.sendall(b"x")
        assert sock.recv(4) == b"late"
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""
    assert len(eventually(lambda: workers(daemon), "a worker")) >= 1


def test_a_child_that_has_become_a_daemon_keeps_the_connection_too(pool):
    daemon = pool()
    fork = "p = os.fork()\nif not p:\n os.setsid()\n if os.fork(): os._exit(0)\n"
    serve = " while len(os.read(0, 1)): os.write(1, b'late')\n os._exit(0)\n"
    with begin(daemon, f"{fork}{serve}os.waitpid(p, 0)") as sock:
        daemon.wait_log("end service=w conn=1 .* status=exit:0")
        sock.sendall(b"x")
        assert sock.recv(4) == b"late"
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""


def test_peers_that_reset_cost_only_themselves(pool):
    daemon = pool(workers=2, max_workers=2)
    for _ in range(40):
        with begin(daemon, "say('x' * 100_000)") as sock:
            linger = struct.pack("ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    began = time.monotonic()
    assert run(daemon, "say('on')") == "on\n"
    assert time.monotonic() - began < 3
    daemon.wait_log("end service=w", count=41)
