"""Admission on real sockets: who waits, who is refused, who is served next."""

from __future__ import annotations

import socket
import struct

import pytest
from daemon_under_test import eventually, read_all

CAT = {"listen": "127.0.0.1:0", "exec": ["/bin/cat"]}
ECHO = {"listen": "127.0.0.1:0", "handler": "echo"}
KINDS = {
    "exec": CAT,
    "pool": {**ECHO, "mode": "pool", "workers": 1},
    "loop": {**ECHO, "mode": "loop", "workers": 2},
}


@pytest.fixture(params=KINDS)
def cat(request):
    """Name a service that sends everything back, in each mode."""
    return KINDS[request.param]


def held(daemon, count: int, source: str = "127.0.0.1") -> list[socket.socket]:
    """Open connections whose handlers are seen to run."""
    socks = []
    for _ in range(count):
        sock = socket.create_connection(
            daemon.address("cat"), timeout=10, source_address=(source, 0)
        )
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        socks.append(sock)
    return socks


def closed(socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.close()


def test_a_full_service_lets_its_peers_wait_in_the_backlog(superd, cat):
    daemon = superd({"services": {"cat": {**cat, "limits": {"connections": 2}}}})
    socks = held(daemon, 2)
    with daemon.connect("cat") as waiting:
        waiting.sendall(b"served")
        waiting.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        assert len(daemon.log("accept service=cat")) == 2
        socks.pop().close()
        waiting.settimeout(10)
        assert waiting.recv(6) == b"served"
    closed(socks)


def test_a_full_service_refuses_with_its_message_when_told_to(superd, cat):
    limits = {"connections": 1, "when_full": "refuse", "message": "busy, try later\r\n"}
    daemon = superd({"services": {"cat": {**cat, "limits": limits}}})
    socks = held(daemon, 1)
    for _ in range(50):
        with daemon.connect("cat") as refused:
            # Bytes that nobody reads: a plain close would reset the message away.
            refused.sendall(b"y" * 5000)
            assert read_all(refused) == b"busy, try later\r\n"
    daemon.wait_log("refuse service=cat .* reason=connections used=1/1", count=50)
    closed(socks)
    daemon.wait_log("end service=cat")
    assert daemon.talk("cat", b"x") == b"x"


def test_a_refused_peer_that_never_reads_or_closes_holds_up_nobody(superd):
    limits = {"connections": 1, "when_full": "refuse", "message": "busy\r\n"}
    daemon = superd({"services": {"cat": {**CAT, "limits": limits}, "other": CAT}})
    socks = held(daemon, 1)
    rude = [daemon.connect("cat") for _ in range(300)]
    daemon.wait_log("refuse service=cat", count=300)
    assert daemon.talk("other", b"x") == b"x"
    eventually(lambda: len(daemon.fds()) < 40, "refused connections are closed")
    closed(rude + socks)


def test_a_source_over_its_share_waits_and_others_are_served(superd, cat):
    daemon = superd(
        {"services": {"cat": {**cat, "limits": {"connections": 10, "per_source": 2}}}}
    )
    socks = held(daemon, 2)
    with daemon.connect("cat") as waiting:
        waiting.sendall(b"served")
        others = held(daemon, 2, "127.0.0.2")
        waiting.settimeout(0.2)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        socks.pop().close()
        waiting.settimeout(10)
        assert waiting.recv(6) == b"served"
        closed(others)
    closed(socks)


def test_a_source_over_its_share_is_refused_when_told_to(superd, cat):
    limits = {
        "connections": 10,
        "per_source": 1,
        "when_full": "refuse",
        "message": "one at a time\n",
    }
    daemon = superd({"services": {"cat": {**cat, "limits": limits}}})
    socks = held(daemon, 1)
    with daemon.connect("cat") as refused:
        assert read_all(refused) == b"one at a time\n"
    others = held(daemon, 1, "127.0.0.2")
    daemon.wait_log("refuse service=cat .* reason=per_source used=1/1")
    closed(socks + others)


def test_a_connection_reset_before_it_is_accepted_does_no_harm(superd, cat):
    daemon = superd({"services": {"cat": {**cat, "limits": {"connections": 1}}}})
    socks = held(daemon, 1)
    for _ in range(20):
        with daemon.connect("cat") as sock:
            linger = struct.pack("ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    closed(socks)
    daemon.wait_log("end service=cat", count=21)
    assert daemon.talk("cat", b"x") == b"x"


def test_one_flooded_listener_does_not_starve_another(superd):
    daemon = superd(
        {
            "log": {"level": "info"},
            "services": {"cat": {**CAT, "limits": {"connections": 2000}}, "other": CAT},
        }
    )
    address = daemon.address("cat")
    flood = [socket.create_connection(address, timeout=20) for _ in range(800)]
    with daemon.connect("other") as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        before = len(daemon.log("accept service=cat"))
        assert before < 800, "it was served while the flood still was"
    closed(flood)


def test_the_number_of_a_sources_connections_is_told_to_each(superd):
    program = ["/bin/sh", "-c", "echo $TCPCONNNUM; cat"]
    daemon = superd({"services": {"w": {"listen": "127.0.0.1:0", "exec": program}}})
    socks = []
    for number in (1, 2, 3):
        sock = daemon.connect("w")
        assert sock.recv(10) == f"{number}\n".encode()
        socks.append(sock)
    closed(socks)
