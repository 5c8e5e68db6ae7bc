"""The master's end of a launcher: what it sends, what it takes, what it leaves."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket

import pytest
from daemon_under_test import eventually
from fakeos import every_fault
from master_rig import FaultyPlayed, Played, PlayedKernel, fds

from superd.core.protocol import MAX_FDS, End, Note, ProtocolError, Ready
from superd.master.kernel import Kernel
from superd.master.launching import LauncherProcess

SPEC = {"mode": "process", "program": {"exec": ["/bin/cat"]}}


class Pair:
    """A launcher process without a shell, and its played end."""

    def __init__(self, kernel=None) -> None:
        self.kernel = kernel or PlayedKernel()
        self.ours = LauncherProcess(self.kernel, 1, "echo", SPEC)
        self.theirs = Played(self.kernel.ends[0], self.ours.pid)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.kill(self.ours.pid, signal.SIGKILL)
        os.waitpid(self.ours.pid, 0)
        self.ours.close()
        self.theirs.sock.close()
        if self.ours.pipe is not None:
            os.close(self.ours.pipe)

    def make_ready(self):
        self.theirs.say("ready")
        assert self.ours.receive() == [Ready()]
        self.ours.ready = True


@pytest.fixture
def pair():
    with Pair() as pair:
        yield pair


def test_whatever_call_of_its_start_fails_nothing_is_left():
    def scenario(kernel) -> None:
        try:
            launcher = LauncherProcess(kernel, 1, "echo", SPEC)
        except OSError:
            assert kernel.fired
            assert "started" not in kernel.__dict__
        else:
            os.kill(launcher.pid, signal.SIGKILL)
            os.waitpid(launcher.pid, 0)
            launcher.close()
        for end in kernel.__dict__.get("ends", []):
            end.close()

    errors = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EPERM]
    assert every_fault(scenario, errors, make=FaultyPlayed) == 5


def fds_given() -> set[str]:
    """Name what every program that we start inherits."""
    return {str(fd) for fd in map(int, fds()) if is_inheritable(fd)}


def is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False  # the one that listed the folder


def test_the_process_gets_the_channel_as_3_its_service_as_4_and_nothing_else():
    class Telling(Kernel):
        def spawn(self, argv, environment, actions, **flags):
            script = "ls /proc/$$/fd; echo :; env; echo :; cat /proc/$$/fd/4"
            actions = [*actions, (os.POSIX_SPAWN_DUP2, write, 1)]
            argv = ["/bin/sh", "-c", script]
            return super().spawn(argv, environment, actions, **flags)

    read, write = os.pipe()
    stray = os.dup(read)
    launcher = LauncherProcess(Telling(), 1, "echo", SPEC)
    os.close(write)
    with open(read) as file:
        opened, environment, service = file.read().split(":\n")
    os.close(stray)
    os.waitpid(launcher.pid, 0)
    launcher.close()
    # A test's own starter may have left it some that are inherited by everybody.
    given = fds_given()
    assert set(opened.split()) - given == {"0", "1", "2", "3", "4"} - given
    assert set(environment.split()) - {f"PWD={os.getcwd()}"} == {"LC_CTYPE=C.UTF-8"}
    assert json.loads(service)["program"] == SPEC["program"]


def test_nothing_is_sent_before_it_is_ready(pair):
    pair.ours.put("kill 1 TERM")
    assert pair.ours.flush()
    assert pair.theirs.hear() == []
    pair.make_ready()
    assert pair.ours.flush()
    assert pair.theirs.hear() == [["kill", "1", "TERM"]]
    assert pair.ours.waiting() == 0


def test_descriptors_go_in_the_order_of_their_records_and_no_more_than_fit(pair):
    pair.make_ready()
    before = fds()
    for number in range(3 * MAX_FDS + 1):
        pair.ours.put(f"conn {number} 1 192.0.2.1 1", os.dup(0), close=True)
        pair.ours.put(f"kill {number} TERM")
    assert pair.ours.flush()
    assert fds() == before
    heard = pair.theirs.hear()
    assert [words[1] for words in heard if words[0] == "conn"] == [
        str(number) for number in range(3 * MAX_FDS + 1)
    ]
    assert len(heard) == 2 * (3 * MAX_FDS + 1)


def test_a_record_longer_than_a_datagram_is_no_endless_loop(pair):
    """The ports of eleven thousand datagram services."""
    pair.make_ready()
    ports = ",".join(map(str, range(50000, 62000)))
    pair.ours.put(f"serve 1 {ports}", os.dup(0), close=True)
    pair.ours.put("kill 1 TERM")
    assert pair.ours.flush()
    assert [words[0] for words in pair.theirs.hear()] == ["serve", "kill"]


def test_one_that_never_reads_fills_its_channel_and_loses_nothing(pair):
    pair.make_ready()
    count = 0
    while pair.ours.flush():
        count += 1
        pair.ours.put(f"note{count} " + "x" * 1000)
    assert pair.ours.waiting() > 0
    assert not pair.ours.short
    poll = select.poll()
    poll.register(pair.ours.sock, select.POLLOUT)
    assert not poll.poll(0)  # watching for writing is waiting, not spinning
    heard = pair.theirs.hear()
    assert poll.poll(0)
    assert pair.ours.flush()
    heard += pair.theirs.hear()
    assert [words[0] for words in heard] == [f"note{n + 1}" for n in range(count)]


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS])
def test_a_shortage_of_the_kernel_keeps_what_was_to_be_sent(error):
    """ENOMEM closed the connections, and their slots stayed taken for ever."""
    with Pair(FaultyPlayed(1, error, "send")) as pair:
        pair.make_ready()
        pair.ours.put("conn 1 1 192.0.2.1 1", os.dup(0), close=True)
        assert not pair.ours.flush()
        assert pair.ours.short
        assert pair.ours.flush()
        assert not pair.ours.short
        assert len(pair.theirs.hear()) == 1


def test_an_error_that_time_does_not_heal_ends_the_launcher():
    with Pair(FaultyPlayed(1, errno.EACCES, "send")) as pair:
        pair.make_ready()
        before = fds()
        pair.ours.put("conn 1 1 192.0.2.1 1", os.dup(0), close=True)
        assert pair.ours.flush()
        assert fds() == before
        state = os.waitid(os.P_PID, pair.ours.pid, os.WEXITED | os.WNOWAIT)
        assert state.si_status == signal.SIGKILL


def test_what_is_meant_for_one_that_has_gone_is_closed(pair):
    pair.make_ready()
    before = fds()
    pair.ours.put("conn 1 1 192.0.2.1 1", os.dup(0), close=True)
    pair.theirs.sock.shutdown(socket.SHUT_RDWR)
    assert pair.ours.flush()
    assert fds() == before


def test_closing_closes_what_was_not_sent():
    before = fds()
    with Pair() as pair:
        for number in range(10):
            pair.ours.put(f"conn {number} 1 192.0.2.1 1", os.dup(0), close=True)
    assert fds() == before


def test_retiring_is_said_once_and_behind_what_is_queued(pair):
    pair.make_ready()
    pair.ours.put("kill 1 TERM")
    pair.ours.retire()
    pair.ours.retire()
    pair.ours.flush()
    assert pair.theirs.hear() == [["kill", "1", "TERM"], ["retire"]]


def test_reports_of_one_datagram_come_together_and_nothing_is_none(pair):
    assert pair.ours.receive() is None
    pair.theirs.say("end 1 0 0 1000000", "note hello")
    assert pair.ours.receive() == [End(1, 0, 0, 1.0), Note("hello")]
    assert pair.ours.receive() is None
    assert not pair.ours.ended


@pytest.mark.parametrize("how", ["close", "shutdown", "empty"])
def test_the_end_is_told_however_it_looks(pair, how):
    if how == "close":
        pair.ours.put("kill 1 TERM")
        pair.ours.ready = True
        pair.ours.flush()  # unread: the close is a reset
        pair.theirs.sock.close()
    elif how == "shutdown":
        pair.theirs.sock.shutdown(socket.SHUT_WR)
    else:
        pair.theirs.sock.send(b"")
    # The process that was spawned may hold its copy a moment longer than its exec takes.
    eventually(lambda: pair.ours.receive() is None and pair.ours.ended, "the end")


def test_the_last_reports_of_one_that_ended_with_our_word_unread_are_heard(pair):
    pair.ours.put("retire")
    pair.ours.ready = True
    pair.ours.flush()  # unread: the close is a reset, and told ahead of the reports
    pair.theirs.say("end 1 0 0 1000000")
    pair.theirs.sock.close()
    assert pair.ours.receive() == [End(1, 0, 0, 1.0)]
    eventually(lambda: pair.ours.receive() is None and pair.ours.ended, "the end")


class TestItsPipe:
    def test_the_pipe_that_comes_with_ready_is_taken_and_never_blocks(self, pair):
        read, write = os.pipe()
        pair.theirs.say("ready", fds=[read])
        assert pair.ours.receive() == [Ready()]
        assert not os.get_blocking(pair.ours.pipe)
        assert not os.get_inheritable(pair.ours.pipe)
        # The launcher has the same pipe and cannot make our end of it block.
        os.set_blocking(read, True)
        with pytest.raises(BlockingIOError):
            os.read(pair.ours.pipe, 1)
        os.write(write, b"x")
        assert os.read(pair.ours.pipe, 1) == b"x"
        os.close(read)
        os.close(write)

    def test_a_description_that_is_shared_would_block(self):
        """Negative control."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        shared = os.dup(read)
        os.set_blocking(shared, True)
        assert os.get_blocking(read)
        for fd in (read, write, shared):
            os.close(fd)

    @pytest.mark.parametrize("kind", ["file", "socket", "write end", "epoll", "null"])
    def test_what_is_no_pipe_to_read_from_breaks_the_protocol(
        self, pair, kind, tmp_path
    ):
        """A file cannot be polled: the master met that as a bug of its own."""
        before = fds()
        one, other = socket.socketpair()
        read, write = os.pipe()
        opened = {
            "file": lambda: os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT),
            "socket": lambda: os.dup(one.fileno()),
            "write end": lambda: os.dup(write),
            "epoll": lambda: os.dup(epoll.fileno()),
            "null": lambda: os.open(os.devnull, os.O_RDONLY),
        }
        with one, other, select.epoll() as epoll:
            fd = opened[kind]()
            pair.theirs.say("ready", fds=[fd])
            os.close(fd)
            with pytest.raises(ProtocolError, match="stderr"):
                pair.ours.receive()
        os.close(read)
        os.close(write)
        assert pair.ours.pipe is None
        assert fds() == before

    def test_only_the_first_of_ready_is_kept(self, pair):
        before = fds()
        pipes = [os.pipe() for _ in range(2)]
        ends = [fd for pipe in pipes for fd in pipe]
        pair.theirs.say("ready", fds=[pipes[0][0], pipes[1][0]])
        pair.theirs.say("ready", fds=[pipes[1][0]])
        for fd in ends:
            os.close(fd)
        pair.ours.receive()
        pair.ours.receive()
        assert fds() == before | {str(pair.ours.pipe)}

    def test_descriptors_with_any_other_record_are_closed(self, pair):
        before = fds()
        pair.theirs.say("note x", fds=[0, 0, 0, 0])
        pair.theirs.say("garbage", fds=[0, 0, 0, 0])
        pair.theirs.say("note x", "ready", fds=[0])
        assert pair.ours.receive() == [Note("x")]
        with pytest.raises(ProtocolError):
            pair.ours.receive()
        pair.ours.receive()
        assert fds() == before
        assert pair.ours.pipe is None

    def test_a_hundred_descriptors_pushed_at_one_who_is_ready_never_enter(self, pair):
        pair.make_ready()
        pair.theirs.say("note x", fds=[0] * 100)
        before = fds()
        high = fcntl.fcntl(0, fcntl.F_DUPFD, 100)
        os.close(high)
        assert pair.ours.receive() == [Note("x")]
        assert fds() == before
