"""One worker of a pool: what it reports, and what its handler finds."""

from __future__ import annotations

import os
import socket

import pytest
from daemon_under_test import read_all

SOURCE = """
import os, sys
def main(argv):
    word = os.read(0, 100).decode()
    if word == "argv": print(argv, sys.argv)
    elif word == "host": print(os.environ.get("TCPREMOTEHOST"), os.environ["PROTO"])
    elif word == "number": return int(word[:0] or 300)
    elif word == "err": print("out"); print("err", file=sys.stderr)
    elif word == "exit": sys.exit(7)
    elif word == "bug": raise ValueError("what")
    elif word == "fork":
        pid = os.fork()
        if not pid: return 9
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    else: print(word)
"""


@pytest.fixture
def pool(launcher):
    """Start the launcher of a pool with one seat; gives both."""

    def start(**keys):
        keys = {"mode": "pool", "workers": 1, "requests": 1000, **keys}
        it = launcher.python(SOURCE, **keys)
        return it, it.seat()

    return start


def ask(it, seat, word: bytes, host: str = "127.0.0.1") -> bytes:
    with it.sit(seat, host) as peer:
        peer.sendall(word)
        peer.shutdown(socket.SHUT_WR)
        return read_all(peer)


@pytest.mark.parametrize(
    ("word", "answer", "status"),
    [
        (b"word", b"word\n", 0),
        (b"argv", b"['--a', 'b'] ['probe', '--a', 'b']\n", 0),
        (b"host", b"None TCP\n", 0),
        (b"number", b"", 300 & 0xFF),
        (b"exit", b"", 7),
        (b"bug", b"", 101),
    ],
)
def test_a_connection_ends_with_one_report(pool, word, answer, status):
    it, seat = pool(argv=["--a", "b"])
    assert ask(it, seat, word) == answer
    assert seat.wait("^end ").split()[:4] == ["end", "1", "0", str(status)]
    assert ask(it, seat, b"next") == b"next\n"
    assert len([one for one in seat.records if one.startswith("end 1 ")]) == 1


def test_a_bug_is_said_on_stderr_and_its_worker_leaves(pool):
    it, seat = pool()
    ask(it, seat, b"bug")
    it.wait_stderr(b"probe: ValueError: what (")
    seat.wait("^leave$")
    assert seat.worker(count=2) != seat.worker()


def test_a_copy_of_the_worker_that_returns_ends_with_its_status_and_serves_nobody(pool):
    it, seat = pool()
    assert ask(it, seat, b"fork") == b"9\n"
    seat.wait("^end 1 0 0 ")
    assert ask(it, seat, b"next") == b"next\n"
    assert len([one for one in seat.records if one.startswith("end ")]) in (1, 2)


def test_the_name_of_the_peer_comes_with_the_connection(pool):
    it, seat = pool()
    peer, accepted = it.pair()
    with accepted:
        record = f"{it.record()} peer.example"
        seat.put(record, fds=(accepted.fileno(),))
    with peer:
        peer.sendall(b"host")
        assert read_all(peer) == b"peer.example TCP\n"
    assert ask(it, seat, b"host") == b"None TCP\n"


def test_a_connection_without_its_descriptor_is_told_and_the_next_is_served(pool):
    it, seat = pool()
    seat.put(f"{it.record()} -")
    assert seat.wait("^fail ") == "fail 1 descriptor no descriptor is left"
    assert ask(it, seat, b"next") == b"next\n"


@pytest.mark.parametrize(
    ("where", "answer"),
    [("peer", b"err\nout\n"), ("null", b"out\n"), ("log", b"out\n")],
)
def test_stderr_goes_where_it_is_told_to_for_each_connection(pool, where, answer):
    it, seat = pool(stderr=where)  # sys.stderr writes each line, sys.stdout at the end
    for _ in range(3):
        assert ask(it, seat, b"err") == answer
    if where == "log":
        it.wait_stderr(b"err\nerr\nerr\n")


def test_the_banner_goes_first(pool):
    it, seat = pool(banner="220 hello\r\n")
    for _ in range(2):
        assert ask(it, seat, b"word") == b"220 hello\r\nword\n"


def test_a_unix_peer_is_told_by_its_user(pool):
    _, seat = pool()
    peer, accepted = socket.socketpair()
    with peer:
        with accepted:
            seat.put("conn 1 1 unix:0 0 -", fds=(accepted.fileno(),))
        peer.sendall(b"host")
        assert read_all(peer) == b"None UNIX\n"


def test_a_worker_has_its_own_four_descriptors_besides_the_standard_ones(pool):
    it, seat = pool()
    folder = f"/proc/{seat.worker()}/fd"
    ask(it, seat, b"word")
    seat.wait("^end 1 ")
    names = {int(fd): os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}
    assert names.pop(0) == names.pop(1) == "/dev/null"
    assert names.pop(2).startswith("pipe:")
    # Seat, way back, directory, null and the log once more.
    assert sorted(name.partition(":")[0] for name in names.values()) == [
        "/",
        "/dev/null",
        "pipe",
        "socket",
        "socket",
    ]
