"""httpd under the slow attacks of slowhttptest: a good client never notices."""

from __future__ import annotations

import csv
import http.client
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from daemon_under_test import DEADLINE, eventually, ready
from httpd_root import make_small_and_big

pytestmark = pytest.mark.conformance

SECONDS = 4
PEERS = 200
BIG = 10 << 20
OPTIONS = {"timeouts": {"head": "2s"}}
ATTACKS = {
    "slow-head": ["-H"],
    "slow-body": ["-B"],
    "slow-read": ["-X", "-k", "3", "-w", "512", "-y", "1024", "-n", "1", "-z", "32"],
    "many-ranges": ["-R", "-t", "GET"],
}
LOOP = {"mode": "loop", "workers": 1, "limits": {"connections": PEERS + 50}}
# The good client comes from another address than the attack.
PROCESS = {"mode": "process", "limits": {"connections": 100, "per_source": 50}}
GOOD = "127.0.0.2"


@pytest.fixture
def slowhttptest():
    path = shutil.which("slowhttptest")
    if path is None:
        pytest.skip("no slowhttptest here: apt-get install slowhttptest")
    return path


@pytest.fixture
def root(tmp_path):
    """Make a folder with something small and something big."""
    return make_small_and_big(tmp_path, BIG)


@pytest.fixture
def serve(superd, root):
    """Start the web server, asked once, so that all is there that stays."""

    def start(**keys):
        options = {"root": str(root), **OPTIONS}
        service = {"listen": "127.0.0.1:0", "handler": "httpd", "options": options}
        daemon = superd({"services": {"web": {**service, **keys}}})
        ask(daemon.address("web"))
        daemon.wait_log("end service=web")
        return daemon

    return start


def ask(address: tuple[str, int]) -> float:
    """Be the good client: one connection, one file; returns the seconds it took."""
    began = time.monotonic()
    client = http.client.HTTPConnection(
        *address, timeout=DEADLINE / 2, source_address=(GOOD, 0)
    )
    try:
        client.request("GET", "/small.txt", headers={"Connection": "close"})
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, b"here\n")
    finally:
        client.close()
    return time.monotonic() - began


def attack(daemon, argv: list[str]) -> list[float]:
    """Run the attack and be the good client each 100 ms; returns its waiting times."""
    times = []
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=daemon.folder
    ) as process:
        fd = os.pidfd_open(process.pid)
        try:
            until = time.monotonic() + SECONDS + DEADLINE
            while not ready([fd], 0.1):
                assert time.monotonic() < until, "slowhttptest does not end"
                times.append(ask(daemon.address("web")))
        finally:
            os.close(fd)
            process.kill()
    assert process.returncode == 0
    return times


def command(program: str, how: str, address: tuple[str, int]) -> list[str]:
    """Spell an attack whose report is in attack.csv."""
    count, seconds = str(PEERS), str(SECONDS)
    flags = ["-c", count, "-r", count, "-i", "1", "-l", seconds, "-p", "3"]
    report = ["-g", "-v", "0", "-o", "attack"]
    host, port = address
    url = f"http://{host}:{port}/big.bin"
    return [program, *ATTACKS[how], *flags, *report, "-u", url]


def family(pid: int) -> list[int]:
    """Return every descendant of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *family(int(child))]
    return found


def holdings(daemon) -> dict[int, int]:
    """Return how many descriptors each process of the daemon has."""
    try:
        pids = [daemon.pid, *family(daemon.pid)]
        return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in pids}
    except OSError:
        return {}  # one of them has just ended


def wait_quiet(daemon, before: dict[int, int]) -> None:
    """Wait until every connection has ended and nothing of them is left.

    There may be less: when `before` was taken, a descriptor was just going.
    """
    ask(daemon.address("web"))  # whoever came before has been accepted, or refused

    def quiet() -> bool:
        now = holdings(daemon)
        accepts = len(daemon.log("accept service=web"))
        ends = len(daemon.log("end service=web"))
        less = all(now[pid] <= before.get(pid, 0) for pid in now)
        return accepts == ends and bool(now) and less

    eventually(quiet, f"no more than {before} and no connection")


@pytest.mark.parametrize("how", ATTACKS)
def test_one_event_loop_answers_everybody_during(slowhttptest, serve, how):
    daemon = serve(**LOOP)
    before = holdings(daemon)
    address = daemon.address("web")
    times = attack(daemon, command(slowhttptest, how, address))
    print(f"{how}: {len(times)} answers, the slowest {max(times) * 1000:.0f} ms")
    assert len(daemon.log("accept service=web .*peer=127.0.0.1:")) > PEERS
    with open(daemon.folder / "attack.csv", encoding="ascii") as file:
        available = [row["Service Available"] for row in csv.DictReader(file)]
    assert available
    assert "0" not in available
    wait_quiet(daemon, before)


@pytest.mark.parametrize("how", ATTACKS)
def test_processes_within_limits_answer_the_others_during(slowhttptest, serve, how):
    daemon = serve(**PROCESS)
    before = holdings(daemon)
    times = attack(daemon, command(slowhttptest, how, daemon.address("web")))
    print(f"{how}: {len(times)} answers, the slowest {max(times) * 1000:.0f} ms")
    wait_quiet(daemon, before)


def test_a_service_without_a_limit_per_source_is_taken_by_one(serve):
    """Negative control: the good client does notice who holds every place."""
    daemon = serve(mode="process", limits={"connections": 1})
    with socket.create_connection(daemon.address("web"), timeout=DEADLINE) as taken:
        daemon.wait_log("accept service=web", count=2)
        assert ask(daemon.address("web")) > 1  # the time for a head is 2 s
        assert taken.recv(100).startswith(b"HTTP/1.1 408 ")
