"""Endurance: what must not grow does not grow."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from daemon_under_test import Daemon, eventually, read_all

CAT = {"listen": "127.0.0.1:0", "exec": ["/bin/cat"], "limits": {"connections": 64}}


def resident(pid: int) -> int:
    """Return a process's resident memory in KiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def churn(
    daemon: Daemon, address: tuple[str, int], count: int, together: int = 8
) -> None:
    """Make connections, a few at a time, and check every answer."""
    for _ in range(count // together):
        socks = [socket.create_connection(address, timeout=20) for _ in range(together)]
        for sock in socks:
            sock.sendall(b"hello")
            sock.shutdown(socket.SHUT_WR)
        for sock in socks:
            assert read_all(sock) == b"hello"
            sock.close()
        daemon.read_log()


def load(superd) -> tuple[Daemon, tuple[str, int]]:
    daemon = superd({"services": {"cat": CAT}})
    return daemon, daemon.address("cat")


@pytest.mark.long
def test_tens_of_thousands_of_connections_leave_memory_and_descriptors_as_they_were(
    superd,
):
    daemon, address = load(superd)
    churn(daemon, address, 2_000)
    (launcher,) = daemon.children()
    fds = len(daemon.fds())
    before = {pid: resident(pid) for pid in (daemon.pid, launcher)}
    churn(daemon, address, 30_000)
    for pid, kib in before.items():
        assert resident(pid) - kib < 1024, (pid, kib, resident(pid))
    assert len(daemon.fds()) == fds
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    eventually(lambda: not children.read_text().split(), "no handler is left")


@pytest.mark.long
def test_two_hundred_reloads_leave_memory_and_descriptors_as_they_were(superd):
    daemon, _ = load(superd)
    for number in range(20):
        daemon.reload({"services": {"cat": {**CAT, "nice": number % 3}}})
    fds, before = len(daemon.fds()), resident(daemon.pid)
    for number in range(200):
        daemon.reload({"services": {"cat": {**CAT, "nice": number % 3}}})
        churn(daemon, daemon.address("cat"), 8)
    eventually(lambda: len(daemon.fds()) <= fds + 2, "descriptors are given back")
    assert resident(daemon.pid) - before < 1024
