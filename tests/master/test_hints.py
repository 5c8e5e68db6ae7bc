"""Hints: for each service a line that can be pasted."""

from __future__ import annotations

import socket

import pytest
from master_rig import entry

from superd.master.hints import hints
from superd.master.opened import Open


@pytest.fixture
def opened():
    socks = []

    def make(family=socket.AF_INET, kind=socket.SOCK_STREAM, address=("127.0.0.1", 0)):
        sock = socket.socket(family, kind)
        socks.append(sock)
        sock.bind(address)
        return Open(sock, {"family": "inet"})

    yield make
    for sock in socks:
        sock.close()


def one(opened: Open, handler: str = "") -> str:
    service = entry("echo", "tcp x:1")
    if handler:
        service["launcher"]["program"] = {"handler": handler}
    (line,) = hints([service], {"tcp x:1": opened})
    name, _, command = line.partition("   ")
    assert name == "echo"
    return command


def test_a_stream_is_met_with_nc(opened):
    listening = opened()
    port = listening.sock.getsockname()[1]
    assert one(listening) == f"nc 127.0.0.1 {port}"
    assert one(listening, "discard").startswith(f"nc 127.0.0.1 {port}  ")
    assert one(listening, "time") == f"nc 127.0.0.1 {port} | od -An -tu1"
    assert one(listening, "finger") == f"printf '\\r\\n' | nc 127.0.0.1 {port}"
    assert one(listening, "httpd") == f"curl http://127.0.0.1:{port}/"


def test_every_address_is_tried_on_the_loopback(opened):
    four = opened(address=("0.0.0.0", 0))
    six = opened(socket.AF_INET6, address=("::", 0))
    assert one(four).startswith("nc 127.0.0.1 ")
    assert one(six).startswith("nc ::1 ")
    assert one(six, "httpd").startswith("curl http://[::1]:")


def test_datagrams_and_unix_sockets_have_their_own(opened, tmp_path):
    assert one(opened(kind=socket.SOCK_DGRAM)).startswith("nc -u 127.0.0.1 ")
    path = f"{tmp_path}/s"
    assert one(opened(socket.AF_UNIX, address=path)) == f"nc -U {path}"


def test_a_service_without_an_open_listener_has_no_line_and_names_are_aligned(opened):
    services = [entry("a", "k1"), entry("longer", "k2"), entry("none", "k3")]
    lines = hints(services, {"k1": opened(), "k2": opened()})
    assert [line.index("nc ") for line in lines] == [9, 9]
    assert hints([], {}) == []
