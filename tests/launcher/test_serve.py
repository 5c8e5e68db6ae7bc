"""The loop: the end of the master, retirement, lifetimes, signals, and shortages."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import time

import pytest
from daemon_under_test import DEADLINE, eventually, read_all, ready

from superd.launcher import serve as module
from superd.launcher.serve import Launcher

FAST = {"superd.launcher.serve.SWEEP": 0.05}
FLOOD = "import os\ndef main(argv):\n os.read(0, 1)\n"


def finish(peer, data=b"x"):
    """Give a cat its input and take it back."""
    peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
    return read_all(peer)


# -- the master is gone ----------------------------------------------------------------


def test_with_the_master_gone_handlers_finish_and_then_the_launcher_ends(launcher):
    it = launcher()
    first, second = it.connect(), it.connect()
    it.handler(2)
    it.hang_up()
    assert finish(first, b"one") == b"one"
    first.close()
    assert it.is_alive()
    assert finish(second, b"two") == b"two"
    second.close()
    assert it.wait_end() == 0


def test_with_the_master_gone_an_idle_launcher_ends_at_once(launcher):
    it = launcher()
    start = time.monotonic()
    it.hang_up()
    assert it.wait_end() == 0
    assert time.monotonic() - start < 2


def test_with_the_master_gone_a_waiting_launcher_does_not_spin(launcher):
    it = launcher()
    peer = it.connect()
    it.handler(1)
    it.hang_up()
    start, before = time.monotonic(), it.cpu()
    eventually(lambda: time.monotonic() > start + 0.5, "a moment")
    assert it.cpu() - before < 0.15
    peer.close()
    assert it.wait_end() == 0


def test_a_megabyte_on_stderr_blocks_no_handler_when_the_log_is_gone(launcher):
    # Regression: the pipe was emptied once a second, 64 KiB each time.
    it = launcher.python(
        FLOOD
        + " for _ in range(64): os.write(2, b'x' * 65536)\n os.write(1, b'done')\n"
    )
    peer = it.connect()
    it.handler(1)
    os.close(it.pipe)
    it.pipe = None
    it.hang_up()
    start = time.monotonic()
    peer.sendall(b"x")
    assert read_all(peer) == b"done"
    assert time.monotonic() - start < 1.0, "4 MiB, without the clock"
    peer.close()
    assert it.wait_end() == 0


def test_an_endless_flood_on_stderr_does_not_keep_the_launcher_from_its_work(launcher):
    it = launcher.python(
        FLOOD + " if os.fork():\n  os.write(1, b'served'); return 0\n"
        " os.close(0); os.close(1)\n while True: os.write(2, b'x' * 65536)\n",
        constants=FAST,
    )
    flood, other = it.connect(), it.connect()
    flooder = it.handler(1)
    it.handler(2)
    os.close(it.pipe)
    it.pipe = None
    it.hang_up()
    for peer in (flood, other):
        peer.sendall(b"x")
        assert read_all(peer) == b"served"
        peer.close()
    # Both handlers have ended; what they left behind writes on, and meets EPIPE.
    assert it.wait_end() == 0
    eventually(lambda: not _group(flooder), "the flood has ended")


def _group(pid):
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


# -- retirement ------------------------------------------------------------------------


def test_a_retired_launcher_finishes_its_handlers_reports_and_ends(launcher):
    it = launcher()
    peer = it.connect()
    it.put("retire")
    it.handler(1)
    assert finish(peer, b"data") == b"data"
    peer.close()
    assert it.wait_end() == 0
    assert it.records[-1].startswith("end 1 0 0 ")


def test_a_retired_launcher_still_obeys_kill(launcher):
    it = launcher()
    it.connect()
    it.put("retire")
    it.handler(1)
    it.put("kill 1 TERM")
    assert it.wait("^end 1 ").startswith("end 1 15 0 ")


def test_a_retired_launcher_without_work_ends_at_once(launcher):
    it = launcher()
    it.talk()
    it.put("retire")
    assert it.wait_end() == 0


def test_connections_ahead_of_the_retirement_are_served(launcher):
    it = launcher()
    pairs = [it.pair() for _ in range(5)]
    records = [it.record() for _ in pairs]
    it.put(*records, "retire", fds=tuple(two.fileno() for _, two in pairs))
    for peer, accepted in pairs:
        accepted.close()
        assert finish(peer, b"data") == b"data"
        peer.close()
    assert it.wait_end() == 0
    assert len([one for one in it.records if one.startswith("end ")]) == 5


# -- lifetimes -------------------------------------------------------------------------


def test_a_handler_is_ended_at_its_lifetime_with_a_note(launcher):
    it = launcher(lifetime=0.05)
    peer = it.connect()
    assert it.wait("^end 1 ").startswith("end 1 15 0 ")
    assert it.wait("^note ") == "note conn 1: timeouts.lifetime is over: TERM"
    assert read_all(peer) == b""


def test_a_handler_that_ignores_term_is_killed_later(launcher):
    it = launcher.shell(
        "trap '' TERM; echo .; while :; do sleep 1; done",
        lifetime=0.3,
        constants={"superd.launcher.serve.KILL_AFTER": 0.1},
    )
    peer = it.connect()
    assert peer.recv(2) == b".\n"
    assert it.wait("^end 1 ").startswith("end 1 9 0 ")


def test_deadlines_of_ended_handlers_do_not_pile_up(launcher, tmp_path):
    # Regression: each connection left its deadline until its whole lifetime was over.
    assert module.SPARE_DEADLINES <= 4096
    launched = Launcher.__new__(Launcher)
    running = {"a", "b"}
    launched.deadlines, launched._count = [], 0
    launched.jobs = type(
        "Books",
        (),
        {"running": running, "is_running": staticmethod(running.__contains__)},
    )
    launched._deadline(5.0, "TERM", "a")
    launched._deadline(1.0, "TERM", "b")
    for number in range(10000):
        launched._deadline(9.0, "TERM", str(number))
    assert len(launched.deadlines) <= module.SPARE_DEADLINES + 5
    assert launched.deadlines[0][3] == "b", "the earliest is still the first"
    assert {"a", "b"} <= {one[3] for one in launched.deadlines}


# -- signals ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGCHLD"])
def test_a_signal_that_is_not_meant_for_it_changes_nothing(launcher, name):
    it = launcher()
    peer = it.connect()
    it.handler(1)
    for _ in range(3):
        os.kill(it.pid, getattr(signal, name))
    assert it.talk(b"on") == b"on"
    assert finish(peer, b"and on") == b"and on"


def test_term_ends_the_launcher_and_its_handlers_work_on(launcher):
    it = launcher()
    peer = it.connect()
    it.handler(1)
    os.kill(it.pid, signal.SIGTERM)
    assert it.wait_end() == -signal.SIGTERM
    assert finish(peer, b"alone") == b"alone"


# -- shortages -------------------------------------------------------------------------


def test_a_launcher_out_of_descriptors_fails_the_connection_and_lives(launcher):
    # Regression: a record without its descriptor ended the launcher.
    it = launcher(limits={resource.RLIMIT_NOFILE: (30, 30)}, constants=FAST)
    room = 30 - len(it.fds())
    pairs = [it.pair() for _ in range(room + 5)]
    records = [it.record() for _ in pairs]
    it.put(*records, fds=tuple(two.fileno() for _, two in pairs))
    for _, two in pairs:
        two.close()
    it.wait("^fail .* descriptor no descriptor is left", count=5)
    served = []
    for peer, _ in pairs:
        with contextlib.suppress(OSError):
            served.append(finish(peer, b"x"))
    for peer, _ in pairs:
        peer.close()
    assert served.count(b"x") == room
    it.wait("^end ", count=room)
    assert it.talk(b"again") == b"again"


@pytest.mark.parametrize("how", ["exec", "fork", "python"])
def test_no_process_to_be_had_is_a_failed_start(launcher, how):
    # Root is not limited in its number of processes; a user nobody else is, is.
    somebody = {"uid": 64321, "gid": 64321, "groups": [], "user": "somebody"}
    keys = {
        **(somebody if os.geteuid() == 0 else {}),
        "rlimits": {"nproc": [1, 1], **({"cpu": [9, 9]} if how == "fork" else {})},
    }
    it = launcher.python(FLOOD, **keys) if how == "python" else launcher(**keys)
    peer = it.connect()
    record = it.wait("^fail 1 ")
    assert "Resource temporarily unavailable" in record
    assert read_all(peer) == b""
    assert it.is_alive()


def test_stderr_peer_and_null_need_no_pipe(launcher):
    for where, answer in (("peer", b"err\nout\n"), ("null", b"out\n")):
        it = launcher.shell("echo err >&2; echo out", stderr=where)
        assert it.pipe is None
        assert it.talk() == answer


def test_the_log_pipe_is_the_handlers_and_can_be_opened_by_name(launcher):
    it = launcher.shell("echo one >&2; echo two >/dev/stderr")
    it.talk()
    it.wait_stderr(b"one\ntwo\n")
    os.close(it.pipe)
    it.pipe = None
    assert it.talk() == b""


def test_an_idle_launcher_sleeps(launcher):
    it = launcher()
    it.talk()
    eventually(lambda: len(it.fds()) < 12, "closed")
    before, start = it.cpu(), time.monotonic()
    assert not ready([it.sock.fileno()], 0.3)
    assert it.cpu() - before <= 0.02
    assert time.monotonic() - start < DEADLINE


def test_the_process_is_named_after_its_service(launcher):
    it = launcher()
    with open(f"/proc/{it.pid}/comm", encoding="ascii") as file:
        assert file.read() == "superd: probe\n"
