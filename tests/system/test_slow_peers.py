"""A thousand slow peers of one event loop of httpd: a good client does not notice."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import socket
import time

import pytest
from daemon_under_test import DEADLINE, eventually, read_all, ready
from httpd_root import make_small_and_big

COUNT = 1000
REQUESTS = 200
BIG = 10 << 20
HEAD_SECONDS = 5
OPTIONS = {"timeouts": {"head": f"{HEAD_SECONDS}s"}}
SLOW_HEAD = b"GET /small.txt HTTP/1.1\r\nHost: localhost\r\nX-Never-Ends: "


@pytest.fixture
def many_files():
    """Raise our own limit of open files; it is given back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 3 * COUNT:
        pytest.skip(f"the hard limit of open files is {before[1]}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def daemon(superd, tmp_path):
    """Serve something small and something big by one event loop."""
    root = make_small_and_big(tmp_path, BIG)
    service = {
        "listen": "127.0.0.1:0",
        "handler": "httpd",
        "mode": "loop",
        "workers": 1,
        "limits": {"connections": COUNT + 10},
        "rlimits": {"nofile": 3 * COUNT},  # a reader has a socket and a file
        "options": {"root": str(root), **OPTIONS},
    }
    return superd({"services": {"web": service}})


class SlowHead:
    """Sends a head one byte at a time, and never its end."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.began = time.monotonic()
        self.sock = socket.create_connection(address, timeout=DEADLINE)
        self.sock.setblocking(False)
        self._sent = 0

    def step(self) -> None:
        where = self._sent
        byte = SLOW_HEAD[where : where + 1] or b"x"
        # The server may have had enough of it.
        with contextlib.suppress(ConnectionError):
            self._sent += self.sock.send(byte)


class SlowReader:
    """Asks for ten MiB and reads one byte at a time."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(address)
        self.sock.sendall(b"GET /big.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.sock.setblocking(False)
        self.got = b""

    def step(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.got += self.sock.recv(1)


def ask(address: tuple[str, int]) -> float:
    """Be the good client: one connection, one file; returns the seconds it took."""
    began = time.monotonic()
    client = http.client.HTTPConnection(*address, timeout=DEADLINE)
    try:
        client.request("GET", "/small.txt", headers={"Connection": "close"})
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, b"here\n")
    finally:
        client.close()
    return time.monotonic() - began


def p99_among(daemon, slow: list[SlowHead | SlowReader]) -> float:
    """Ask again and again, each time when every slow peer has just done a step."""
    times = []
    for _ in range(REQUESTS):
        for peer in slow:
            peer.step()
        times.append(ask(daemon.address("web")))
        daemon.read_log()
    return sorted(times)[REQUESTS * 99 // 100 - 1]


def wait_answer(peer: SlowHead) -> bytes:
    """Go on sending bytes until there is an answer; returns it, up to its end."""
    while not ready([peer.sock.fileno()], 0.01):
        assert time.monotonic() < peer.began + HEAD_SECONDS + DEADLINE, "held for ever"
        peer.step()
    peer.sock.settimeout(DEADLINE)
    return read_all(peer.sock)


@pytest.mark.slow
def test_a_thousand_slow_peers_of_one_loop_hold_up_nobody(daemon, many_files):
    address = daemon.address("web")
    ask(address)
    worker = int(daemon.wait_log("accept service=web").rpartition("pid=")[2])
    daemon.wait_log("end service=web")
    before = len(os.listdir(f"/proc/{worker}/fd"))
    with contextlib.ExitStack() as stack:
        heads, readers = [], []
        for _ in range(COUNT // 2):
            heads.append(SlowHead(address))
            stack.callback(heads[-1].sock.close)
            readers.append(SlowReader(address))
            stack.callback(readers[-1].sock.close)
        accepts = daemon.wait_log("accept service=web", count=COUNT + 1)
        assert accepts
        assert len(daemon.log("end service=web")) == 1, "they are not all held"

        p99 = p99_among(daemon, [*heads, *readers])
        print(f"p99 of the good client: {p99 * 1000:.1f} ms")
        assert p99 < 1.0, f"{p99 * 1000:.0f} ms"

        for peer in heads:
            assert wait_answer(peer).startswith(b"HTTP/1.1 408 ")
        longest = time.monotonic() - heads[0].began
        assert longest >= HEAD_SECONDS
        for peer in readers:
            assert b"HTTP/1.1 200 OK\r\n".startswith(peer.got[:17])
            assert len(peer.got) >= REQUESTS // 2
    accepts = daemon.log("accept service=web")
    assert {line.rpartition("pid=")[2] for line in accepts} == {str(worker)}
    daemon.wait_log("end service=web", count=len(accepts))
    assert len(daemon.log(r"end service=web .*status=exit:112\(slow\)")) == len(heads)
    eventually(
        lambda: len(os.listdir(f"/proc/{worker}/fd")) <= before, "descriptors are left"
    )
