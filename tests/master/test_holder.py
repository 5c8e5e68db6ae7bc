"""Who listens on an address that we wanted: found in /proc, for each kind of socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from master_rig import listener

from superd.master.holder import who_holds

ME = f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_it_names_us_for_a_port(kind, host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    stream = kind == "tcp"
    with socket.socket(
        family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
    ) as sock:
        sock.bind((host, 0))
        if stream:
            sock.listen()
        port = sock.getsockname()[1]
        spec = listener(f"{kind} [{host}]:{port}")
        assert who_holds(spec) == ME
    assert who_holds(spec) == ""


@pytest.mark.parametrize("name", ["s", "with a space"])
def test_it_names_us_for_a_path(tmp_path, name):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{tmp_path}/{name}")
        sock.listen()
        assert who_holds(listener(f"unix {tmp_path}/{name}")) == ME
    assert who_holds(listener(f"unix {tmp_path}/{name}")) == ""


def test_a_connection_on_that_port_is_no_listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        peer = socket.create_connection(("127.0.0.1", port))
        conn, _ = server.accept()
    with peer, conn:
        assert who_holds(listener(f"tcp 127.0.0.1:{port}")) == ""
