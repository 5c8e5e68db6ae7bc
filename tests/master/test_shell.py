"""The shell: what the core commands happens, in order, with a launcher of the test."""

from __future__ import annotations

import os
import resource
import signal
import socket

import pytest
from fakeos import FaultyKernel
from master_rig import FaultyPlayed, PlayedKernel, Rig, entry, fds

from superd.core.events import StopAsked
from superd.core.lifecycle import State
from superd.master.launching import CHOKED

KEY = "tcp 127.0.0.1:0 echo"
UDP = "udp 127.0.0.1:0 echo"


@pytest.fixture
def rig():
    with Rig() as rig:
        yield rig


def served(rig: Rig) -> tuple:
    """Let one connection come as far as its handler."""
    peer = rig.connect(KEY)
    launcher = rig.launcher()
    (words,) = rig.until(launcher.hear)
    return peer, launcher, words


def test_a_connection_goes_to_the_launcher_and_its_reports_to_the_log(rig):
    rig.apply(entry())
    peer, launcher, words = served(rig)
    with peer:
        host, port = peer.getsockname()
        assert words == ["conn", "1", "1", host, str(port)]
        launcher.say("start 1 4711 -", "end 1 0 3 1500000")
        rig.until(lambda: not rig.shell.core.conns)
    assert rig.logged(f"accept service=echo conn=1 peer={host}:{port} pid=4711")
    (line,) = rig.logged("end service=echo conn=1")
    assert "status=exit:3" in line
    assert "cpu=1.5" in line


def test_a_connection_that_was_handed_over_is_not_kept_open_by_us(rig):
    rig.apply(entry())
    peer, _, _ = served(rig)
    with peer:
        assert peer.recv(1) == b""  # the played launcher has closed its copy


def test_a_launcher_that_cannot_be_started_throttles_its_service_and_no_other():
    with Rig(FaultyPlayed(1, 11, "spawn")) as rig:
        rig.apply(entry(), entry("other"))
        with rig.connect(KEY) as peer:
            assert rig.until(lambda: rig.logged("spawn: Resource temporarily"))
            assert peer.recv(1) == b""
            assert rig.shell.core.services["echo"].state is State.THROTTLED
        with rig.connect("tcp 127.0.0.1:0 other"):
            rig.launcher(1)


def test_a_failed_start_frees_its_slot(rig):
    rig.apply(entry(connections=1))
    peer, launcher, _ = served(rig)
    with peer:
        launcher.say("fail 1 exec /bin/cat: gone")
        rig.until(lambda: not rig.shell.core.conns)
        assert rig.logged('reason="exec: /bin/cat: gone"')


def test_what_a_launcher_said_before_its_end_is_heard_all_of_it(rig):
    """After sixteen datagrams the rest was lost, and with it who runs."""
    rig.apply(entry(connections=100))
    for _ in range(30):
        rig.connect(KEY)
    launcher = rig.launcher()
    rig.until(lambda: len(rig.shell.core.conns) == 30)
    for number in range(1, 31):
        launcher.say(f"start {number} 4711 -")
        launcher.say(f"end {number} 0 0 1")
    launcher.die()
    os.waitid(os.P_PID, launcher.pid, os.WEXITED | os.WNOWAIT)
    rig.loop.first(rig.pidfds[launcher.pid])  # as its SIGCHLD is
    rig.until(lambda: not rig.shell.launchers)
    assert len(rig.logged("end service=echo")) == 30
    assert not rig.shell.core.conns


class TestFlow:
    def test_a_launcher_that_takes_nothing_chokes_its_service_until_it_does(self, rig):
        rig.apply(entry(connections=4000), entry("other"))
        peer, launcher, _ = served(rig)
        launcher.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        echo = rig.shell.core.services["echo"]
        peers = [peer]
        while not echo.choked:
            peers.append(rig.connect(KEY))
            rig.turn()
            assert len(peers) < 4000
        assert not rig.shell.listeners[KEY].polled
        (process,) = rig.shell.launchers.values()
        assert process.full
        assert process.waiting() >= CHOKED
        with rig.connect("tcp 127.0.0.1:0 other"):
            other = rig.launcher(2)
            assert rig.until(other.hear)
        heard = 1
        while echo.choked or process.full:
            heard += len(launcher.hear())
            rig.turn()
        rig.until(lambda: len(rig.shell.core.conns) > len(peers))
        heard += len(launcher.hear())
        assert heard == len(peers)

    def test_one_that_is_not_ready_yet_chokes_too_and_is_sent_all_when_it_is(self, rig):
        rig.apply(entry(connections=4000))
        peers = [rig.connect(KEY) for _ in range(2 * CHOKED)]
        rig.until(lambda: rig.shell.core.services["echo"].choked)
        launcher = rig.launcher()
        heard = []
        rig.until(lambda: heard.extend(launcher.hear()) or len(heard) == len(peers))
        assert rig.shell.listeners[KEY].polled

    def test_a_shortage_in_sending_is_tried_again_and_does_not_spin(self):
        """Writable all the while, the channel woke the loop again and again."""

        class Short(PlayedKernel):
            left = 3

            def send(self, sock, data, fds):
                if self.left:
                    self.left -= 1
                    raise OSError(109, "Too many references: cannot splice")
                super().send(sock, data, fds)

        with Rig(Short()) as rig:
            rig.apply(entry())
            with rig.connect(KEY):
                launcher = rig.launcher()
                turns = 0
                while not launcher.hear():
                    rig.turn(1.0)
                    turns += 1
                    assert turns < 30


class TestLending:
    def test_a_wait_program_gets_the_listener_and_nobody_else_does_meanwhile(self, rig):
        rig.apply(entry(mode="wait"))
        with rig.connect(KEY):
            launcher = rig.launcher()
            (words,) = rig.until(launcher.hear)
            assert words == ["wait", "1"]
            assert not rig.shell.listeners[KEY].polled
            # The first may be mistaken for one that took nothing; the second not.
            launcher.say("start 1 4711 -", "end 1 0 0 1")
            assert rig.until(launcher.hear) == [["wait", "2"]]
            assert not rig.logged("took nothing")
            launcher.say("start 2 4712 -", "end 2 0 0 1")
            rig.until(lambda: rig.logged("took nothing"))

    def test_a_datagram_handler_is_told_the_ports_of_all_our_services(self, rig):
        rig.apply(entry("echo", UDP), entry("other", "udp 127.0.0.1:0 other"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", rig.address(UDP))
            (words,) = rig.until(rig.launcher().hear)
        ports = [rig.address(key)[1] for key in (UDP, "udp 127.0.0.1:0 other")]
        assert words == ["serve", "1", ",".join(map(str, sorted(ports)))]

    def test_a_listener_that_cannot_be_lent_throttles_and_comes_back(self):
        with Rig(FaultyPlayed(3, 24, "dup")) as rig:
            rig.apply(entry(mode="wait"))
            with rig.connect(KEY):
                launcher = rig.launcher()
                rig.until(lambda: rig.logged("lend: dup: Too many open files"))
                assert rig.until(launcher.hear, 5)[0][0] == "wait"

    def test_a_launcher_cannot_judge_the_run_of_another_services_program(self, rig):
        rig.apply(entry(mode="wait"), entry("liar"))
        with rig.connect(KEY), rig.connect("tcp 127.0.0.1:0 liar"):
            rig.until(lambda: len(rig.played) == 2)
            services = {one.number: one.service for one in rig.shell.launchers.values()}
            by_name = {services[one]: rig.launcher(one) for one in (1, 2)}
            number = next(n for n, c in rig.shell.core.conns.items() if not c.host)
            by_name["liar"].say(f"end {number} 0 0 1", f"start {number} 1 -")
            rig.settle()
            assert rig.shell.listeners[KEY].lent is not None
            by_name["echo"].say(f"start {number} 4711 -", f"end {number} 0 0 1")
            rig.until(lambda: rig.logged("end service=echo"))


class TestOrphans:
    def handler(self, rig: Rig) -> int:
        return os.posix_spawn("/bin/sleep", ["sleep", "600"], {}, setsid=True)

    def test_the_handler_of_a_dead_launcher_keeps_its_slot_until_its_end(self, rig):
        rig.apply(entry(connections=1))
        peer, launcher, _ = served(rig)
        pid = self.handler(rig)
        with peer:
            launcher.say(f"start 1 {pid} -")
            rig.until(lambda: rig.shell.core.conns[1].pid)
            launcher.die()
            rig.until(lambda: rig.shell._orphans)
            assert list(rig.shell.core.conns) == [1]
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            rig.until(lambda: not rig.shell.core.conns)
        assert "status=unknown" in rig.logged("end service=echo")[0]

    @pytest.mark.parametrize("pid", [0, 4194304])
    def test_one_whose_pid_nobody_has_is_over(self, rig, pid):
        rig.apply(entry())
        peer, launcher, _ = served(rig)
        with peer:
            launcher.say(f"start 1 {pid} -")
            rig.until(lambda: rig.shell.core.conns[1].pid is not None)
            launcher.die()
            rig.until(lambda: not rig.shell.core.conns)
        assert not rig.shell._orphans

    def test_an_orphan_that_cannot_be_watched_for_want_of_descriptors_is_later(
        self, rig
    ):
        rig.apply(entry(connections=1))
        peer, launcher, _ = served(rig)
        pid = self.handler(rig)
        with peer:
            launcher.say(f"start 1 {pid} -")
            rig.until(lambda: rig.shell.core.conns[1].pid)
            launcher.die()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            os.waitid(os.P_PID, launcher.pid, os.WEXITED | os.WNOWAIT)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                rig.until(lambda: not rig.shell.launchers)
                rig.settle()
                assert list(rig.shell.core.conns) == [1]
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            rig.until(lambda: rig.shell._orphans)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            rig.until(lambda: not rig.shell.core.conns)

    def test_an_end_that_is_noticed_at_once_does_not_overtake_other_commands(self, rig):
        """A connection that waited was handed to a launcher that was not started yet."""
        rig.apply(entry(connections=9, per_source=2))
        for _ in range(4):
            rig.connect(KEY)
        launcher = rig.launcher()
        heard = []
        rig.until(lambda: heard.extend(launcher.hear()) or len(heard) == 2)
        launcher.say("start 2 4194304 -")
        rig.until(lambda: rig.shell.core.conns[2].pid)
        changed = entry(connections=9, per_source=2, exec=["/bin/true"])
        rig.apply(changed)  # retired: its end throttles nothing
        launcher.die()
        second = rig.launcher(2)
        heard = []
        rig.until(lambda: heard.extend(second.hear()) or len(heard) == 2)
        assert [words[1] for words in heard] == ["3", "4"]


class TestRefusing:
    def test_a_refused_peer_gets_the_message_and_then_the_end(self, rig):
        rig.apply(entry(connections=1, when_full="refuse", message="full\r\n"))
        peer, _, _ = served(rig)
        before = fds()
        with peer, rig.connect(KEY) as other:
            other.sendall(b"never read" * 1000)
            rig.until(lambda: rig.logged("refuse service=echo"))
            assert other.recv(100) == b"full\r\n"
            assert other.recv(100) == b""
            other.close()
            rig.until(lambda: not rig.shell.refusals.entries)
            assert fds() <= before

    def test_one_that_never_closes_is_closed_after_a_second(self, rig):
        rig.apply(entry(connections=1, when_full="refuse"))
        peer, _, _ = served(rig)
        with peer, rig.connect(KEY):
            rig.until(lambda: rig.shell.refusals.entries)
            rig.until(lambda: not rig.shell.refusals.entries, 3)


class TestStopping:
    def test_without_a_handler_the_end_comes_with_the_launchers(self, rig):
        rig.apply(entry(warm=True))
        launcher = rig.launcher()
        rig.shell.feed(StopAsked(at_once=False))
        rig.until(lambda: ["retire"] in launcher.hear())
        launcher.die(signal.SIGTERM)
        rig.until(lambda: rig.loop.status is not None)
        assert not rig.shell.listeners

    def test_a_handler_is_signalled_by_its_launcher_and_by_nobody_else(self, rig):
        rig.apply(entry())
        peer, launcher, _ = served(rig)
        with peer:
            launcher.say("start 1 4711 -")
            rig.until(lambda: rig.shell.core.conns[1].pid)
            rig.shell.feed(StopAsked(at_once=False))
            rig.shell.feed(StopAsked(at_once=True))
            heard = []
            rig.until(lambda: heard.extend(launcher.hear()) or len(heard) == 2)
        assert heard == [["retire"], ["kill", "1", "KILL"]]


def test_the_fault_is_one_of_the_real_kernels():
    assert issubclass(FaultyPlayed, FaultyKernel)
