"""Which backend a relay connects to, and what it does when there is none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from daemon_under_test import in_namespace
from inetd import fork
from relays import (
    MAINS,
    UNKNOWN,
    dead_end,
    is_reset,
    listening,
    silent_listener,
    text_of,
)

from superd.handlers import exits

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=MAINS)
def main(request):
    return MAINS[request.param]


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


@pytest.mark.parametrize("half", [False, True])
def test_a_peer_that_goes_away_meanwhile_is_not_connected_for(main, half):
    with (
        silent_listener() as silent,
        fork(main, "--to", text_of(silent)) as served,
    ):
        if half:
            served.end()
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
