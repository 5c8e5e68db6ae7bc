"""The relay of one connection: what goes through, what is told, and where it runs."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from inetd import DEADLINE, fork, reached, spawn_handler
from looped import in_loop
from relays import (
    MAINS,
    ODD,
    dead_end,
    end_of,
    exchange,
    flood,
    is_reset,
    listening,
    pattern,
    relayed,
    reset,
    text_of,
)

from superd.handlers import exits, redirect

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=MAINS)
def main(request):
    return MAINS[request.param]


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


def test_a_long_transfer_is_spliced(main):
    def pipes(pid):
        folder = f"/proc/{pid}/fd"
        names = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
        return sum(name.startswith("pipe:") for name in names)

    with relayed(main) as (served, backend):
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
