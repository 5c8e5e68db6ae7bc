"""The environment of a handler: what the three families of names say."""

from __future__ import annotations

import socket

import pytest
from daemon_under_test import DEADLINE

from superd.launcher.environment import add_peer, stream_environment


def connected(family, host):
    with socket.socket(family) as server:
        server.bind((host, 0))
        server.listen()
        address = server.getsockname()[:2]
        peer = socket.create_connection(address, DEADLINE)
        with peer:
            return server.accept()[0], str(address[1])


@pytest.mark.parametrize(
    ("family", "host", "shown"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_tcp_connection_is_named_by_its_own_address(family, host, shown):
    ours, port = connected(family, host)
    base = {"PATH": "/bin"}
    with ours:
        got = stream_environment(base, "web", "17", ours, "192.0.2.1")
    assert got == {
        "PATH": "/bin",
        "SUPERD_SERVICE": "web",
        "SUPERD_CONNECTION": "17",
        "PROTO": "TCP",
        "TCPLOCALIP": shown,
        "TCPLOCALPORT": port,
    }
    assert base == {"PATH": "/bin"}, "the next connection starts from the same"


@pytest.mark.parametrize("name", ["", "peer.example"])
def test_the_peer_is_named_twice_and_its_name_only_if_it_has_one(name):
    environment = {}
    add_peer(environment, "2001:db8::1", "4711", "3", name)
    assert environment.pop("TCPCONNNUM") == "3"
    for family in ("TCPREMOTE", "REMOTE_"):
        address = "IP" if family == "TCPREMOTE" else "ADDR"
        assert environment.pop(family + address) == "2001:db8::1"
        assert environment.pop(f"{family}PORT") == "4711"
        assert environment.pop(f"{family}HOST", "") == name
    assert environment == {}


@pytest.mark.parametrize("kind", ["path", "abstract", "unnamed"])
def test_a_unix_connection_is_named_by_its_path_and_the_peers_user(tmp_path, kind):
    path = {"path": str(tmp_path / "s"), "abstract": "\0superd-test", "unnamed": ""}
    if kind == "unnamed":
        ours, peer = socket.socketpair()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path[kind])
            server.listen()
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(path[kind])
            ours = server.accept()[0]
    with ours, peer:
        got = stream_environment({}, "x", "1", ours, "unix:1000")
    assert got["PROTO"] == "UNIX"
    assert got["UNIXREMOTEEUID"] == "1000"
    assert got["REMOTE_ADDR"] == "unix:1000"
    assert got["UNIXLOCALPATH"] == {"abstract": "@"}.get(kind, path[kind])
    assert not [name for name in got if name.startswith("TCP")]
