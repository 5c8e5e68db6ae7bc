"""Names of peers: bounded in time, number and memory, and never trusted."""

from __future__ import annotations

import os
import resource
import signal
import socket
import string

import pytest
from daemon_under_test import DEADLINE, read_all, ready
from hypothesis import given, settings
from hypothesis import strategies as st

from superd.core.protocol import Start, parse_report
from superd.launcher import resolve as module
from superd.launcher.resolve import DEADLINE as PATIENCE
from superd.launcher.resolve import KEEP, ROOM, TOGETHER, Resolver, confirmed_name


@pytest.fixture
def resolver():
    """Make resolvers of a look-up function; all their processes are ended."""
    made, pids = [], set()

    def make(look):
        it = Resolver(look)
        made.append(it)
        plain = it.start

        def start(host, now):
            fd = plain(host, now)
            if fd is not None:
                pids.add(it.running[fd].pid)
            return fd

        it.start = start
        return it

    yield make
    for it in made:
        for fd in list(it.running):
            it.finish(fd, 0.0)
    for pid in pids:
        os.waitpid(pid, 0)


def for_ever(_host):
    signal.pause()
    return "late.example"


def answer(it, host, now=0.0):
    fd = it.start(host, now)
    assert ready([fd], DEADLINE)
    return it.finish(fd, now)


def test_an_answer_is_remembered_for_its_time_and_none_is_as_well(resolver):
    it = resolver(lambda host: "peer.example" if host == "192.0.2.1" else "")
    assert it.known("192.0.2.1", 0.0) is None
    assert answer(it, "192.0.2.1") == ("192.0.2.1", "peer.example")
    assert answer(it, "192.0.2.2") == ("192.0.2.2", "")
    assert it.known("192.0.2.1", KEEP) == "peer.example"
    assert it.known("192.0.2.2", KEEP) == ""
    assert it.known("192.0.2.1", KEEP + 0.1) is None


def test_a_look_up_that_does_not_answer_is_ended_at_its_deadline(resolver):
    it = resolver(for_ever)
    fd = it.start("192.0.2.1", 100.0)
    pid = it.running[fd].pid
    assert it.late(100.0 + PATIENCE - 0.01) == []
    assert it.late(100.0 + PATIENCE) == [fd]
    assert it.finish(fd, 100.0 + PATIENCE) == ("192.0.2.1", "")
    assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT).si_status == 9
    assert it.known("192.0.2.1", 103.0) == "", "and is not asked again at once"


def test_only_so_many_look_ups_run_at_once(resolver):
    it = resolver(for_ever)
    fds = [it.start(f"192.0.2.{number}", 0.0) for number in range(TOGETHER)]
    assert None not in fds
    assert it.start("192.0.2.99", 0.0) is None
    it.finish(fds[0], 0.0)
    assert it.start("192.0.2.99", 0.0) is not None


def test_what_is_remembered_is_bounded_and_the_oldest_goes(resolver, monkeypatch):
    monkeypatch.setattr(module, "ROOM", 5)
    assert ROOM >= 512
    it = resolver(lambda host: f"h{host}")
    for number in range(8):
        answer(it, str(number))
    known = [number for number in range(8) if it.known(str(number), 0.0)]
    assert known == [3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "()_{_:;};",
        "a b",
        "-a",
        "a-",
        "a\nend 1 0 0 0",
        "x" * 300,
        "\xe4.example",
        ".",
    ],
)
def test_an_answer_that_is_no_name_is_none(resolver, name):
    it = resolver(lambda _host: name)
    assert answer(it, "192.0.2.1") == ("192.0.2.1", "")


@pytest.mark.parametrize("error", [OSError, SystemExit, MemoryError, RecursionError])
def test_a_look_up_that_fails_in_any_way_is_no_name(resolver, error):
    def fails(_host):
        raise error

    it = resolver(fails)
    # The traceback of the child is suppressed by its _exit.
    assert answer(it, "192.0.2.1") == ("192.0.2.1", "")


@settings(database=None, deadline=None)
@given(st.text(alphabet=string.printable + "\xe4\u0660\x00", max_size=40))
def test_every_name_that_is_taken_fits_into_a_record(name):
    if module._NAME.fullmatch(name):
        assert parse_report(f"start 1 2 {name}") == Start(1, 2, name)
        assert set(name) <= set(string.ascii_letters + string.digits + ".-")
        assert name[0] not in ".-"


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@settings(database=None, deadline=None)
@given(st.lists(LABEL, min_size=1, max_size=8), st.sampled_from(["", "."]))
def test_every_name_of_ordinary_labels_is_taken(labels, end):
    assert module._NAME.fullmatch(".".join(labels) + end)


@pytest.mark.parametrize("host", ["192.0.2.1.5", "no address", "\udcff", "x" * 300])
def test_what_is_no_address_has_no_name(host):
    assert confirmed_name(host) == ""


def test_the_child_of_a_look_up_leaves_no_descriptor_and_no_handler_of_signals(
    resolver,
):
    it = resolver(lambda _host: "x" + str(signal.getsignal(signal.SIGCHLD).value))
    before = os.listdir("/proc/self/fd")
    for number in range(20):
        assert answer(it, str(number)) == (str(number), "x0")
    assert os.listdir("/proc/self/fd") == before


def test_without_a_descriptor_a_connection_goes_without_a_name(resolver):
    it = resolver(lambda _host: "x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        assert it.start("192.0.2.1", 0.0) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- in a real launcher ----------------------------------------------------------------

SAYS = ["/bin/sh", "-c", "echo ${TCPREMOTEHOST-none}"]


def test_connections_of_one_address_share_one_look_up_and_all_start(launcher):
    # 127.0.0.1 has a name or not, as the machine has it; all get the same answer.
    it = launcher(exec=SAYS, resolve=True)
    peers = [it.connect() for _ in range(10)]
    answers = {read_all(peer) for peer in peers}
    assert answers == {(confirmed_name("127.0.0.1") or "none").encode() + b"\n"}
    it.wait("^end ", count=10)


def test_past_the_bound_a_connection_is_served_without_a_name(launcher):
    it = launcher(
        exec=SAYS, resolve=True, constants={"superd.launcher.resolve.TOGETHER": 0}
    )
    assert it.talk() == b"none\n"


def test_at_the_deadline_a_connection_is_served_without_a_name(launcher):
    it = launcher(
        exec=SAYS, resolve=True, constants={"superd.launcher.resolve.DEADLINE": -1.0}
    )
    assert it.talk() in (b"none\n", confirmed_name("127.0.0.1").encode() + b"\n")
    assert it.talk(host="127.0.0.2")


def test_a_unix_connection_is_not_looked_up(launcher):
    it = launcher(exec=SAYS, resolve=True)
    peer, ours = socket.socketpair()
    with peer:
        it.put("conn 1 1 unix:0 0", fds=(ours.fileno(),))
        ours.close()
        assert read_all(peer) == b"none\n"
