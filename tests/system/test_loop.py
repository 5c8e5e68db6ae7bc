"""Mode loop, through a real daemon: many peers at once, and none of them stalls another."""

from __future__ import annotations

import os
import re
import resource
import selectors
import signal
import socket
import time
from pathlib import Path

import pytest
from daemon_under_test import eventually, read_all
from plugin import begin, install_runner, run, runner

SELECTORS = ["select", "poll", "epoll"]
ECHO = {"listen": "127.0.0.1:0", "handler": "echo", "mode": "loop", "workers": 1}
PID = "writer.write(b'%d\\n' % os.getpid())"
HANG = "await asyncio.get_running_loop().create_future()"


@pytest.fixture
def loop(superd, tmp_path):
    """Start a daemon with a loop named w: `loop(workers=2, ...)`."""
    environment = install_runner(tmp_path / "plugin")

    def start(*, expect=(), **keys):
        return superd(
            {"services": {"w": runner("loop", **keys), "echo": ECHO}},
            environment=environment,
            expect=list(expect),
        )

    return start


@pytest.fixture
def many_files():
    """Raise our own limit of open files; it is given back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def say(text: str) -> str:
    return f"writer.write({text.encode()!r})"


def worker_of(daemon, service: str = "w") -> int:
    """Return the worker that serves, from the log."""
    line = daemon.wait_log(f"accept service={service} ")
    return int(line.rpartition("pid=")[2])


def p99_of_echo(sock: socket.socket, count: int = 300) -> float:
    """Return the 99th percentile of the seconds that an echo of a line takes."""
    times = []
    for _ in range(count):
        began = time.monotonic()
        sock.sendall(b"x" * 64)
        got = 0
        while got < 64:
            got += len(sock.recv(64))
        times.append(time.monotonic() - began)
    return sorted(times)[count * 99 // 100]


# -- peers that do harm ----------------------------------------------------------------


def no_newline(sock: socket.socket) -> None:
    sock.send(b"never an end")


def never_reads(sock: socket.socket) -> None:
    sock.setblocking(False)
    for _ in range(1000):
        try:
            sock.send(b"y" * 65536)
        except BlockingIOError:
            return


@pytest.mark.slow
@pytest.mark.parametrize("selector", SELECTORS)
def test_five_hundred_peers_that_never_read_or_never_end_a_line_stall_nobody(
    superd, selector
):
    service = {**ECHO, "selector": selector, "limits": {"connections": 600}}
    with socket.create_server(("127.0.0.1", 0), backlog=600) as listener:
        service["listen"] = "fd:x"
        daemon = superd({"services": {"echo": service}}, inherit={"x": listener})
        address = listener.getsockname()
        with socket.create_connection(address, timeout=20) as client:
            rude = []
            try:
                for number in range(500):
                    sock = socket.socket()
                    # Small buffers: what is unread must not cost the machine's memory.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                    sock.connect(address)
                    (never_reads if number % 2 else no_newline)(sock)
                    rude.append(sock)
                daemon.wait_log("accept service=echo", count=501)
                p99 = p99_of_echo(client)
                assert p99 < 0.05, f"{p99 * 1000:.1f} ms"
            finally:
                for sock in rude:
                    sock.close()
        daemon.wait_log("end service=echo", count=501)


def test_a_loop_that_stands_still_does_stall_the_others(loop):
    """Negative control: the clients of one worker do notice a handler that blocks."""
    daemon = loop()
    with begin(daemon, f"{say('on')}\nawait reader.read(1)\ntime.sleep(0.5)") as sock:
        assert sock.recv(2) == b"on"
        sock.sendall(b"x")
        began = time.monotonic()
        run(daemon, PID)
        assert time.monotonic() - began > 0.3


@pytest.mark.parametrize("selector", SELECTORS)
def test_the_worker_waits_with_what_it_was_told_to(loop, selector):
    daemon = loop(selector=selector)
    asked = "writer.write(type(asyncio.get_running_loop()._selector).__name__.encode())"
    assert run(daemon, asked).lower() == f"{selector}selector"


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_flood_of_one_peer_gives_way_to_another(superd, selector):
    daemon = superd({"services": {"echo": {**ECHO, "selector": selector}}})
    with daemon.connect("echo") as flood, daemon.connect("echo") as client:
        flood.setblocking(False)
        chosen = selectors.DefaultSelector()
        chosen.register(flood, selectors.EVENT_READ | selectors.EVENT_WRITE)
        chosen.register(client, selectors.EVENT_READ)
        answers, worst, sent = 0, 0.0, time.monotonic()
        client.sendall(b"x")
        while answers < 100:
            for key, events in chosen.select(5):
                if key.fileobj is client:
                    assert client.recv(1) == b"x"
                    answers += 1
                    worst = max(worst, time.monotonic() - sent)
                    sent = time.monotonic()
                    client.sendall(b"x")
                    continue
                if events & selectors.EVENT_WRITE:
                    flood.send(b"y" * 65536)
                if events & selectors.EVENT_READ:
                    flood.recv(1 << 18)
        chosen.close()
    assert worst < 1.0


# -- ten thousand ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["poll", "epoll"])
def test_ten_thousand_idle_connections_take_less_than_12_kib_each(
    superd, many_files, selector
):
    count = 10_000
    if many_files < count + 100:
        pytest.skip(f"the hard limit of open files is {many_files}")
    service = {
        **ECHO,
        "selector": selector,
        "limits": {"connections": count + 10},
        "rlimits": {"nofile": count + 500},
    }
    daemon = superd({"services": {"echo": service}})
    daemon.talk("echo", b"x")
    worker = worker_of(daemon, "echo")
    before = resident(worker)
    host, port = daemon.address("echo")
    held = []
    try:
        for number in range(count):
            sock = socket.socket()
            held.append(sock)
            sock.bind((f"127.0.0.{2 + number % 200}", 0))
            sock.connect((host, port))
            if number % 250 == 249:
                daemon.read_log()
        daemon.wait_log("accept service=echo", count=count + 1, deadline=60)
        for sock in held[::500]:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        each = (resident(worker) - before) / count
        assert each < 12, f"{each:.1f} KiB"
    finally:
        for sock in held:
            sock.close()
    daemon.wait_log("end service=echo", count=count + 1, deadline=60)


def resident(pid: int) -> int:
    """Return a process's resident memory in KiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def test_a_thousand_idle_connections_are_held_by_one_worker(superd, many_files):
    count = 1200
    service = {
        **ECHO,
        "limits": {"connections": 2000},
        "rlimits": {"nofile": count + 100},
    }
    daemon = superd({"services": {"echo": service}})
    daemon.talk("echo", b"x")
    worker = worker_of(daemon, "echo")
    before = resident(worker)
    address = daemon.address("echo")
    held = [socket.create_connection(address, timeout=20) for _ in range(count)]
    try:
        daemon.wait_log("accept service=echo", count=count + 1)
        assert (resident(worker) - before) / count < 12
    finally:
        for sock in held:
            sock.close()
    pids = {line.rpartition("pid=")[2] for line in daemon.log("accept service=echo")}
    assert pids == {str(worker)}


def test_a_connection_over_the_limit_of_files_ends_alone_and_is_told(
    superd, many_files
):
    service = {**ECHO, "limits": {"connections": 100}, "rlimits": {"nofile": 40}}
    daemon = superd({"services": {"echo": service}}, expect=["echo"])
    address = daemon.address("echo")
    held = [socket.create_connection(address, timeout=20) for _ in range(60)]
    try:
        held[0].sendall(b"x")
        assert held[0].recv(1) == b"x"
        daemon.wait_log("descriptor")
    finally:
        for sock in held:
            sock.close()
    eventually(lambda: daemon.talk("echo", b"on") == b"on", "it serves again")


# -- how connections end ---------------------------------------------------------------

ENDS = {
    "return": "exit:0",
    "return 7": "exit:7",
    "return 110": r"exit:110\(peer\)",
    "raise ValueError('what')": r"exit:101\(bug\)",
    "raise ConnectionResetError": "exit:0",
    "raise asyncio.LimitOverrunError('long', 1)": r"exit:110\(peer\)",
    "await reader.readexactly(10_000)": "exit:0",
    "raise TimeoutError": r"exit:112\(slow\)",
    "raise OSError(5, 'disk')": r"exit:111\(temporary\)",
    "sys.exit(7)": "exit:7",
    "sys.exit('a reason')": "exit:1",
    "raise KeyboardInterrupt": r"exit:101\(bug\)",
    "await reader.readline()": "exit:0",
    "raise asyncio.CancelledError": r"exit:101\(bug\)",
}


def test_how_a_handler_ends_is_in_the_log_and_no_end_harms_another(loop):
    daemon = loop()
    with begin(daemon, f"{say('on')}\nawait reader.read(1)\n{say('off')}") as other:
        assert other.recv(2) == b"on"
        for number, (how, status) in enumerate(ENDS.items(), 2):
            answer = daemon.talk("w", f"{say('said')}\n{how}\nend\n".encode())
            assert answer == b"said", how
            line = daemon.wait_log(f"end service=w conn={number} ")
            assert re.search(f"status={status} ", line), (how, line)
            assert "duration=" in line
        other.sendall(b"x")
        assert read_all(other) == b"off"
    daemon.wait_log("end service=w conn=1 .* status=exit:0")
    assert len({x.rpartition("pid=")[2] for x in daemon.log("accept service=w")}) == 1
    assert len(daemon.log('stderr service=w text="?runner: ValueError: what')) == 1


def test_a_worker_that_dies_costs_its_connections_and_is_replaced(loop):
    daemon = loop(workers=2)
    held = [begin(daemon, f"{PID}\nawait reader.read(1)") for _ in range(6)]
    pids = [int(sock.recv(100)) for sock in held]
    victim = pids[0]
    assert len(set(pids)) == 2
    os.kill(victim, signal.SIGKILL)
    daemon.wait_log("end service=w .* status=signal:9", count=pids.count(victim))
    for sock, pid in zip(held, pids, strict=True):
        if pid == victim:
            assert read_all(sock) == b""
    assert len(daemon.log("end service=w")) == pids.count(victim)
    for sock in held:
        sock.close()
    with begin(daemon, f"{PID}\nawait reader.read(1)") as busy:
        other = int(busy.recv(100))
        new = eventually(lambda: {int(run(daemon, PID))} - {other}, "a second worker")
        assert not new & set(pids)


def test_a_lifetime_ends_each_connection_by_itself(loop):
    daemon = loop(timeouts={"lifetime": "400ms"}, expect=["note service=w"])
    with begin(daemon, f"{say('on')}\n{HANG}") as sock:
        assert sock.recv(2) == b"on"
        for _ in range(3):
            assert run(daemon, say("next")) == "next"
        assert read_all(sock) == b""
    daemon.wait_log("end service=w conn=1 .* status=signal:15")
    assert run(daemon, say("next")) == "next"


# -- stop ------------------------------------------------------------------------------


def test_a_stop_lets_connections_finish_and_ends_the_rest_in_order(loop):
    daemon = loop(timeouts={"stop": "500ms"}, expect=["kill service=w"])
    finishing = f"{say('on')}\nawait reader.read(1)\n{say('done')}"
    tidy = f"{say('on')}\ntry: {HANG}\nfinally: {say('bye')}"
    with begin(daemon, finishing) as one, begin(daemon, tidy) as other:
        assert one.recv(2) == other.recv(2) == b"on"
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_state("STOPPING=1")
        one.sendall(b"x")
        assert read_all(one) == b"done"
        assert read_all(other) == b"bye"
    daemon.wait_end()
    assert daemon.process.returncode == 0
    assert daemon.log("end service=w conn=1 .* status=exit:0")
    assert daemon.log("end service=w conn=2 .* status=signal:15")


@pytest.mark.slow
def test_a_stop_ends_a_worker_whose_loop_stands_still(loop):
    daemon = loop(timeouts={"stop": "100ms"}, expect=["kill service=w"])
    with begin(daemon, f"{say('on')}\nawait reader.read(1)\ntime.sleep(600)") as sock:
        assert sock.recv(2) == b"on"
        sock.sendall(b"x")
        daemon.stop()
    assert daemon.log("end service=w .* status=signal:9")


# -- what a worker is ------------------------------------------------------------------


def test_a_worker_has_no_descriptor_but_its_own_and_those_of_its_peers(loop):
    daemon = loop()
    with begin(daemon, f"{PID}\nawait reader.read(1)") as sock:
        pid = int(sock.recv(100))
        folder = Path(f"/proc/{pid}/fd")
        names = {int(x.name): os.readlink(x) for x in folder.iterdir()}
        assert names.pop(0) == names.pop(1) == "/dev/null"
        assert names.pop(2).startswith("pipe:")
        sockets = [name for name in names.values() if name.startswith("socket:")]
        assert not set(daemon.fds().values()) & set(sockets)
        # Its seat, the way back, the loop's own pair, and one peer.
        assert len(sockets) <= 5
        assert not any("memfd" in name or ".yaml" in name for name in names.values())
