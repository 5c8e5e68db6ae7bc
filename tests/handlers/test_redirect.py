"""The relay of one connection: what goes through, and how each end is passed on."""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from daemon_under_test import in_namespace, unsent
from inetd import DEADLINE, fork, reached, spawn_handler
from looped import in_loop
from relays import (
    UNKNOWN,
    dead_end,
    exchange,
    is_reset,
    listening,
    relayed,
    reset,
    silent_listener,
    text_of,
)

from superd.handlers import exits, redirect

ROOT = Path(__file__).resolve().parents[2]
MAINS = {"process": redirect.main, "loop": in_loop(redirect)}
ODD = 500_009
"""The bytes of which xinetd's redirect passes on none when the peer has half-closed."""


@pytest.fixture(params=MAINS)
def main(request):
    return MAINS[request.param]


def pattern(size, step):
    return (bytes(range(0, 256, step)) * (size // 64))[:size]


def end_of(served):
    return re.search(r" end=(\S+)\n", served.log)[1]


def test_a_question_goes_up_and_its_answer_comes_down(main):
    with relayed(main) as (served, backend):
        served.send(b"ping")
        assert backend.recv(100) == b"ping"
        backend.sendall(b"pong")
        assert served.sock.recv(100) == b"pong"
        served.send(b"again")
        assert backend.recv(100) == b"again"
        served.sock.close()
        backend.close()
        assert served.wait() == exits.OK
        assert end_of(served) == "closed"


def test_the_backend_may_speak_first(main):
    with relayed(main) as (served, backend):
        backend.sendall(b"220 welcome\r\n")
        assert served.sock.recv(100) == b"220 welcome\r\n"
        backend.close()
        assert served.read() == b""
        served.sock.close()
        assert served.wait() == exits.OK


def test_a_half_close_is_passed_on_at_once_and_the_answer_still_comes(main):
    with relayed(main) as (served, backend):
        served.send(b"question").end()
        assert is_reset(backend) == (False, b"question")
        answer = pattern(ODD, 3)
        backend.sendall(answer[:1000])
        assert served.sock.recv(1000, socket.MSG_WAITALL) == answer[:1000]
        backend.sendall(answer[1000:])
        backend.close()
        assert served.read() == answer[1000:]
        assert served.wait() == exits.OK


def test_a_backend_that_half_closes_still_hears_the_peer(main):
    with relayed(main) as (served, backend):
        backend.sendall(b"answer")
        backend.shutdown(socket.SHUT_WR)
        assert served.read() == b"answer"
        question = pattern(ODD, 3)
        assert exchange([(served.sock, question), (backend, None)]) == [b"", question]
        assert served.wait() == exits.OK
        assert f" up={ODD} down=6 " in served.log


@pytest.mark.parametrize("late", ["peer", "backend"])
def test_who_reads_after_the_relay_is_gone_loses_nothing(main, late):
    with relayed(main) as (served, backend):
        data = pattern(300_000, 3)
        slow, quick = (
            (served.sock, backend) if late == "peer" else (backend, served.sock)
        )
        slow.shutdown(socket.SHUT_WR)
        assert is_reset(quick) == (False, b"")
        quick.sendall(data)
        quick.shutdown(socket.SHUT_WR)
        assert served.wait() == exits.OK
        assert is_reset(slow) == (False, data)


@pytest.mark.parametrize("sizes", [(ODD, ODD), (8 << 20, 3), (3, 8 << 20)])
def test_both_directions_are_whole_at_once(main, sizes):
    """Eight MiB are more than is read and written: the rest is spliced."""
    up, down = pattern(sizes[0], 1), pattern(sizes[1], 3)
    with relayed(main) as (served, backend):
        got = exchange([(served.sock, up), (backend, down)])
        assert got[0] == down
        assert got[1] == up
        assert served.wait() == exits.OK
        assert f" up={len(up)} down={len(down)} " in served.log


@pytest.mark.parametrize("path", [None, "backend"])
@pytest.mark.parametrize("kind", ["tcp", "pair"])
def test_unix_sockets_are_relayed_on_either_side(main, kind, path, tmp_path):
    up, down = pattern(ODD, 1), pattern(3 << 20, 3)
    path = path and tmp_path / path
    with relayed(main, kind=kind, path=path) as (served, backend):
        assert exchange([(served.sock, up), (backend, down)]) == [down, up]
        assert served.wait() == exits.OK


# -- resets ---------------------------------------------------------------------------


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


def flood(sock):
    """Send until nothing more fits for a while; returns how much did."""
    sock.settimeout(0.3)
    total = 0
    try:
        while True:
            total += sock.send(bytes(1 << 16))
    except TimeoutError:
        return total
    finally:
        sock.settimeout(DEADLINE)


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


# -- backends -------------------------------------------------------------------------


def test_a_backend_that_is_down_is_passed_over(main):
    with (
        dead_end() as dead,
        listening() as (listener, address),
        fork(main, "--to", dead, "--to", address) as served,
    ):
        with listener.accept()[0] as backend:
            backend.sendall(b"answer")
        assert served.talk() == b"answer"
        assert served.wait() == exits.OK
        assert f"backend={address} " in served.log


def test_when_every_backend_is_down_the_peer_is_reset_and_one_line_says_why(
    main, tmp_path
):
    missing = f"unix:{tmp_path}/nobody"
    with dead_end() as dead, fork(main, "--to", dead, "--to", missing) as served:
        assert is_reset(served.sock) == (True, b"")
        assert served.wait() == exits.TEMPORARY
        assert served.log == (
            f"redirect: peer={text_of(served_address(served))} no backend:"
            f" {dead}: ECONNREFUSED (Connection refused);"
            f" {missing}: ENOENT (No such file or directory)\n"
        )


def served_address(served):
    try:
        return served.sock.getsockname()
    except OSError:
        return ("?", 0)


def test_a_backend_that_is_silent_has_its_share_of_the_time(main):
    with (
        silent_listener() as silent,
        listening() as (listener, address),
        fork(
            main, "--to", text_of(silent), "--to", address, "--timeouts.connect", "1"
        ) as served,
    ):
        with listener.accept()[0] as backend:
            backend.sendall(b"answer")
        assert served.talk() == b"answer"
        assert served.wait() == exits.OK


def test_the_time_for_all_of_them_ends(main):
    with silent_listener() as silent:
        flags = "--to", text_of(silent), "--timeouts.connect", "0.3"
        with fork(main, *flags) as served:
            assert is_reset(served.sock) == (True, b"")
            assert served.wait() == exits.TEMPORARY
            assert "it did not answer in time" in served.log


def test_a_peer_that_goes_away_meanwhile_is_not_connected_for():
    with (
        silent_listener() as silent,
        fork(redirect.main, "--to", text_of(silent)) as served,
    ):
        served.reset()
        assert served.wait() == exits.OK
        assert served.log == ""


def test_a_name_is_looked_up(main):
    with listening() as (listener, address):
        name = f"localhost:{address.rpartition(':')[2]}"
        with fork(main, "--to", name) as served:
            with listener.accept()[0] as backend:
                backend.sendall(b"answer")
            assert served.talk() == b"answer"
            assert served.wait() == exits.OK
            assert "LEAK" not in served.log


def test_a_name_that_nobody_knows_is_a_backend_that_is_down(main):
    with fork(main, "--to", f"{UNKNOWN}:80") as served:
        assert is_reset(served.sock)[0]
        assert served.wait() == exits.TEMPORARY
        assert f"no backend: {UNKNOWN}:80: " in served.log


@pytest.mark.root
def test_a_name_server_that_is_silent_costs_the_time_to_connect_and_no_more():
    """Of itself getaddrinfo would wait for ten seconds and more."""
    command = [sys.executable, "-m", "superd.handlers.redirect"]
    command += ["--to", "some.name:80", "--timeouts.connect", "0.5"]
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.53.53.53", 53))  # resolv.conf has no word for a port
        prefix = in_namespace("", "nameserver 127.53.53.53\\n")
        peer, end = socket.socketpair()
        with peer, end:
            began = time.monotonic()
            done = subprocess.run(
                [*prefix, *command], stdin=end, stdout=end, stderr=-1, cwd=ROOT
            )
            taken = time.monotonic() - began
    if b"Operation not permitted" in done.stderr or b"unshare" in done.stderr:
        pytest.skip("no mount namespace may be made here")
    assert done.returncode == exits.TEMPORARY
    assert b"some.name:80: its name was not found in time" in done.stderr
    assert taken < 4


def to_itself(main):
    """Relay to the very address that fd 0 was called at."""

    def relay(_argv):
        with socket.socket(fileno=os.dup(0)) as sock:
            own = text_of(sock.getsockname())
        return main(["--to", own])

    return relay


def test_a_relay_to_itself_is_a_failure_of_the_set_up(main):
    with fork(to_itself(main)) as served:
        assert is_reset(served.sock) == (True, b"")
        assert served.wait() == exits.SETUP
        assert "is the address of this service itself: a loop" in served.log


def test_a_relay_without_a_backend_is_a_failure_of_the_set_up(main):
    with fork(main) as served:
        assert is_reset(served.sock)[0]
        assert served.wait() == exits.SETUP
        assert served.log == (
            "redirect: option --to names no backend;"
            " write HOST:PORT, [V6]:PORT or unix:/PATH\n"
        )


# -- what is told ---------------------------------------------------------------------


def test_one_line_tells_of_a_connection_at_its_end(main):
    with relayed(main) as (served, backend):
        peer = text_of(served.sock.getsockname())
        there = text_of(backend.getsockname())
        assert exchange([(served.sock, b"12345"), (backend, b"123")])
        assert served.wait() == exits.OK
        assert re.fullmatch(
            rf"redirect: peer={peer} backend={there}"
            r" up=5 down=3 seconds=\d\.\d{3} end=closed\n",
            served.log,
        )


def test_or_it_does_not(main):
    with relayed(main, "--no-log") as (served, backend):
        assert exchange([(served.sock, b"12345"), (backend, b"123")])
        assert served.wait() == exits.OK
        assert served.log == ""


def test_a_peer_that_is_fd_2_as_well_is_told_nothing():
    """As a classic inetd has it."""

    def main(argv):
        os.dup2(1, 2)
        return redirect.main(argv)

    with dead_end() as dead, fork(main, "--to", dead) as served:
        assert is_reset(served.sock) == (True, b"")
        assert served.wait() == exits.TEMPORARY


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_backend_is_told_who_the_peer_is(main, version):
    oracle = pytest.importorskip("proxyprotocol." + version)
    with relayed(main, "--proxy-protocol", version, early=b"first") as (
        served,
        backend,
    ):
        served.end()
        heard = is_reset(backend)[1]
        assert heard.endswith(b"first")
        kind = getattr(oracle, f"ProxyProtocol{version.upper()}")
        told = kind().unpack(heard.removesuffix(b"first"))
        source = served.sock.getsockname()
        assert (str(told.source[0]), told.source[1]) == source
        assert (str(told.dest[0]), told.dest[1]) == served.sock.getpeername()
        backend.close()
        assert served.wait() == exits.OK
        assert " up=5 " in served.log


# -- wherever it runs -----------------------------------------------------------------


def test_another_inetd_can_start_it():
    with (
        listening() as (listener, address),
        spawn_handler("redirect", "--to", address) as served,
    ):
        with listener.accept()[0] as backend:
            assert exchange([(served.sock, b"up"), (backend, b"down")]) == [
                b"down",
                b"up",
            ]
        assert served.wait() == exits.OK


def test_pipes_are_relayed_as_well():
    """In a shell: printf question | redirect --to HOST:PORT | cat."""
    command = [sys.executable, "-m", "superd.handlers.redirect", "--to"]
    with listening() as (listener, address):
        process = subprocess.Popen(
            [*command, address], stdin=-1, stdout=-1, stderr=-1, cwd=ROOT
        )
        with process, listener.accept()[0] as backend:
            process.stdin.write(b"question")
            process.stdin.close()
            assert is_reset(backend) == (False, b"question")
            backend.sendall(pattern(ODD, 3)[:60000])
            backend.close()
            assert process.stdout.read() == pattern(ODD, 3)[:60000]
            assert process.wait(DEADLINE) == exits.OK


def test_where_no_pipe_can_be_had_it_goes_on_as_it_began():
    def main(argv):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        # fds 0 to 2, the backend, and one for the end of the lookup: no pair is left.
        resource.setrlimit(resource.RLIMIT_NOFILE, (5, limit[1]))
        try:
            return redirect.main(argv)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)

    up, down = pattern(4 << 20, 1), pattern(4 << 20, 3)
    with relayed(main) as (served, backend):
        assert exchange([(served.sock, up), (backend, down)]) == [down, up]
        assert served.wait() == exits.OK


def test_a_long_transfer_is_spliced():
    def pipes(pid):
        folder = f"/proc/{pid}/fd"
        names = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
        return sum(name.startswith("pipe:") for name in names)

    with relayed(redirect.main) as (served, backend):
        served.send(b"x")
        assert backend.recv(1) == b"x"
        assert pipes(served.pid) == 0
        flood(backend)
        assert reached(lambda: pipes(served.pid) == 2)
        served.reset()
        assert served.wait() == exits.OK


# -- again and again ------------------------------------------------------------------

TIMES = 100


def echoing(listener):
    """Fork a backend that sends everything back, one connection after the other."""
    pid = os.fork()
    if not pid:
        try:
            while True:
                with listener.accept()[0] as sock, suppress(ConnectionError):
                    while data := sock.recv(1 << 16):
                        sock.sendall(data)
        finally:
            os._exit(0)
    return pid


def state():
    names = {
        fd: os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    }
    return names, signal.getsignal(signal.SIGTERM)


def play(serve, flags, number):
    """Serve one connection: one that is whole, a dead backend, a peer that resets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        sock = listener.accept()[0]
    with peer, sock:
        os.dup2(sock.fileno(), 0)
        os.dup2(sock.fileno(), 1)
        peer.sendall(b"x" * 1000)
        if number % 3 == 2:
            reset(peer)
        else:
            peer.shutdown(socket.SHUT_WR)
        status = serve(flags if number % 3 else DEAD)
    with open(os.devnull, "r+b") as null:
        os.dup2(null.fileno(), 0)
        os.dup2(null.fileno(), 1)
    return status


DEAD = ["--to", "127.0.0.1:1"]


@pytest.mark.parametrize("mode", MAINS)
def test_a_hundred_connections_leave_the_process_as_it_was(mode):
    def main(flags):
        own = os.dup(0), os.dup(1)
        for number in range(6):
            play(serve, flags, number)
        before = state()
        statuses = [play(serve, flags, number) for number in range(TIMES)]
        same = state() == before
        for target, fd in enumerate(own):
            os.dup2(fd, target)
            os.close(fd)
        os.write(2, f"same={same} statuses={sorted(set(statuses))}".encode())
        return 0

    def serve(flags):
        return (redirect.main if mode == "process" else in_loop(redirect))(flags)

    with listening() as (listener, address):
        listener.settimeout(None)
        pid = echoing(listener)
        try:
            with fork(main, "--to", address, "--no-log") as served:
                assert served.wait() == 0
                assert served.log.endswith("same=True statuses=[0, 111]"), served.log
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
