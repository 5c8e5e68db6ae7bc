"""Names of peers: looked up by the launcher, confirmed, bounded in time."""

from __future__ import annotations

import socket
import time

import pytest
from daemon_under_test import in_namespace

PROGRAM = ["/bin/sh", "-c", "echo ${TCPREMOTEHOST-none} ${REMOTE_HOST-none}"]


def service(**keys) -> dict[str, object]:
    return {"listen": "127.0.0.1:0", "exec": PROGRAM, "resolve": True, **keys}


@pytest.mark.root
def test_a_confirmed_name_is_in_the_environment_and_in_the_log(superd):
    daemon = superd(
        {"services": {"w": service()}}, prefix=in_namespace("127.0.0.1 peer.example\\n")
    )
    assert daemon.talk("w") == b"peer.example peer.example\n"
    daemon.wait_log("accept service=w .* name=peer.example pid=")


def test_a_service_that_does_not_resolve_names_no_name(superd):
    daemon = superd({"services": {"w": service(resolve=False)}})
    assert daemon.talk("w") == b"none none\n"


@pytest.mark.root
def test_a_name_that_does_not_lead_back_is_none(superd):
    # peer.example is first found for another address: the look-up forward differs.
    hosts = "127.0.0.1 peer.example\\n"
    daemon = superd(
        {"services": {"w": service(listen="127.0.0.1:0")}}, prefix=in_namespace(hosts)
    )
    host, port = daemon.address("w")
    with socket.create_connection(
        (host, port), timeout=10, source_address=("127.0.0.77", 0)
    ) as sock:
        assert sock.recv(100) == b"none none\n"


@pytest.mark.root
def test_a_name_with_a_shells_characters_is_none(superd):
    daemon = superd(
        {"services": {"w": service()}}, prefix=in_namespace("127.0.0.1 ()_{_:;};\\n")
    )
    assert daemon.talk("w") == b"none none\n"


@pytest.mark.root
def test_a_dead_resolver_costs_two_seconds_of_its_service_and_nothing_else(superd):
    # 192.0.2.1 is nowhere (RFC 5737), and a namespace without a route cannot ask it;
    # a bound socket that never answers is asked instead.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dead:
        try:
            dead.bind(("127.0.0.54", 53))
        except OSError:
            pytest.skip("port 53 of 127.0.0.54 is taken on this machine")
        daemon = superd(
            {"services": {"w": service(), "other": {**service(), "resolve": False}}},
            prefix=in_namespace("127.0.0.2 x\\n", "nameserver 127.0.0.54\\n"),
        )
        with daemon.connect("w") as sock:
            start = time.monotonic()
            for _ in range(10):
                assert daemon.talk("other") == b"none none\n"
            assert sock.recv(100) == b"none none\n"
            assert time.monotonic() - start < 4
        start = time.monotonic()
        assert daemon.talk("w") == b"none none\n"
        assert time.monotonic() - start < 1.5, "the answer is remembered"
