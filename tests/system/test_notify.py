"""What a service manager hears: sd_notify(3), state by state."""

from __future__ import annotations

import os
import select
import socket
import time

import pytest

ECHO = {"listen": "127.0.0.1:0", "handler": "echo"}
ENV = {"listen": "127.0.0.1:0", "exec": ["/usr/bin/env"]}
MANAGERS = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
]


def monotonic():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_ready_comes_with_the_status_and_when_the_listeners_are_up(superd):
    daemon = superd({"services": {"echo": ECHO}}, ready=False)
    state = daemon.wait_state("READY=1")
    assert state.splitlines() == ["READY=1", "STATUS=1 service, 1 listener"]
    daemon.connect("echo").close()


def test_a_reload_is_announced_with_the_clock_and_ends_with_ready(superd):
    daemon = superd({"services": {"echo": ECHO}})
    before = monotonic()
    daemon.write({"services": {"echo": ECHO, "two": ECHO}})
    daemon.process.send_signal(1)
    state = dict(x.split("=", 1) for x in daemon.wait_state("RELOADING=1").splitlines())
    assert state["RELOADING"] == "1"
    assert before <= int(state["MONOTONIC_USEC"]) <= monotonic()
    assert "STATUS=2 services, 2 listeners" in daemon.wait_state("READY=1")


@pytest.mark.parametrize("text", ["services: {echo: {listn: 7}}", ""])
def test_a_refused_reload_ends_with_ready_too_and_the_status_says_why(superd, text):
    daemon = superd(
        {"services": {"echo": ECHO}}, expect=["config text=", "reload refused="]
    )
    daemon.write(text)
    daemon.process.send_signal(1)
    daemon.wait_state("RELOADING=1")
    state = daemon.wait_state("READY=1")
    assert f"STATUS=reload refused: {daemon.file}:" in state
    assert state.endswith("; 1 service, 1 listener run on")
    assert daemon.talk("echo", b"hello") == b"hello"


def test_the_end_is_announced_before_it_happens(superd):
    daemon = superd(
        {"services": {"cat": {"listen": "127.0.0.1:0", "exec": ["/bin/cat"]}}}
    )
    with daemon.connect("cat") as sock:
        sock.sendall(b"x")
        sock.recv(1)
        daemon.process.terminate()
        assert daemon.wait_state("STOPPING=1") == "STOPPING=1"
        assert daemon.process.poll() is None
    daemon.wait_end()


def test_the_watchdog_is_fed_twice_a_period(superd):
    daemon = superd(
        {"services": {"echo": ECHO}}, environment={"WATCHDOG_USEC": "100000"}
    )
    began = time.monotonic()
    for _ in range(6):
        daemon.wait_state("WATCHDOG=1")
    assert time.monotonic() - began > 0.2  # 6 of them 50 ms apart: no flood


@pytest.mark.parametrize(
    "variables",
    [{}, {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}],
)
def test_no_watchdog_is_fed_that_is_not_ours(superd, variables):
    daemon = superd({"services": {"echo": ECHO}}, environment=variables)
    assert not select.select([daemon.notify], [], [], 0.15)[0]
    assert not [state for state in daemon.states if "WATCHDOG" in state]


def test_nothing_that_was_meant_for_superd_reaches_a_handler(superd):
    with socket.create_server(("127.0.0.1", 0)) as extra:
        daemon = superd(
            {"services": {"env": dict(ENV, pass_environment=MANAGERS)}},
            environment={"WATCHDOG_USEC": "1000000"},
            inherit={"extra": extra},
        )
        names = {line.partition(b"=")[0] for line in daemon.talk("env").splitlines()}
    assert b"TCPREMOTEIP" in names
    assert not names & {name.encode() for name in MANAGERS}


def test_an_abstract_socket_is_as_good(superd, tmp_path):
    name = f"superd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(10)
        superd(
            {"services": {"echo": ECHO}},
            ready=False,
            environment={"NOTIFY_SOCKET": f"@{name}"},
        )
        assert manager.recv(4096).startswith(b"READY=1\n")


@pytest.mark.parametrize("name", ["", "/nonexistent/socket"])
def test_a_manager_that_is_not_there_is_no_error(superd, name):
    config = {"services": {"echo": ECHO}}
    daemon = superd(config, ready=False, environment={"NOTIFY_SOCKET": name})
    assert daemon.talk("echo", b"hello") == b"hello"
    daemon.stop()


def test_a_manager_that_does_not_read_holds_up_nothing(superd):
    daemon = superd({"services": {"echo": ECHO}}, environment={"WATCHDOG_USEC": "2000"})
    # 500 states a second fill the socket's queue (net.unix.max_dgram_qlen) at once.
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        assert daemon.talk("echo", b"hello") == b"hello"
    daemon.stop()
