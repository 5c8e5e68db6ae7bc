"""A reload changes what it says and nothing else; no connection is lost to it."""

from __future__ import annotations

import contextlib
import itertools
import selectors
import signal
import socket
import time

import pytest
from daemon_under_test import DEADLINE, Daemon, eventually, read_all

CAT = {"listen": "127.0.0.1:0", "exec": ["/bin/cat"]}


def inode(daemon: Daemon, port: int) -> str:
    """Name the listening socket of a port."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[1].endswith(f":{port:04X}") and words[3] == "0A":
                return words[9]
    return ""


class Clients:
    """Connections that come and go all the time; counts those that do not end well."""

    def __init__(self, *addresses: tuple[str, int], together: int) -> None:
        self._addresses = itertools.cycle(addresses)
        self.done = self.failed = 0
        self.reasons: set[str] = set()
        self._selector = selectors.DefaultSelector()
        self._together = together
        self._open = 0

    def pump(self, until: float) -> None:
        """Serve every client that is ready, until then."""
        while time.monotonic() < until:
            while self._open < self._together:
                self._start()
            for key, _ in self._selector.select(0.05):
                self._step(key.fileobj, key.data)

    def finish(self) -> None:
        """Let the last ones end."""
        until = time.monotonic() + DEADLINE
        while self._open and time.monotonic() < until:
            for key, _ in self._selector.select(0.05):
                self._step(key.fileobj, key.data)
        self.failed += self._open
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()

    def _start(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(next(self._addresses))
        self._open += 1
        self._selector.register(sock, selectors.EVENT_WRITE, bytearray())

    def _step(self, sock, got: bytearray) -> None:
        try:
            if self._selector.get_key(sock).events == selectors.EVENT_WRITE:
                sock.sendall(b"hello")
                sock.shutdown(socket.SHUT_WR)
                self._selector.modify(sock, selectors.EVENT_READ, got)
                return
            data = sock.recv(4096)
        except OSError as error:
            self._end(sock, why=str(error))
            return
        got += data
        if not data:
            self._end(sock, why="" if got == b"hello" else f"got {bytes(got)!r}")

    def _end(self, sock, why: str) -> None:
        self._selector.unregister(sock)
        sock.close()
        self._open -= 1
        if why:
            self.failed += 1
            self.reasons.add(why)
        else:
            self.done += 1


POOL = {"handler": "echo", "mode": "pool", "workers": 2, "requests": 400}
LOOP = {"handler": "echo", "mode": "loop", "workers": 2}
KINDS = {"process": [(CAT, 200)], "workers": [(POOL, 8), (LOOP, 200)]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_of_thousands_of_connections_across_reloads_none_fails(superd, kind):
    # Two services share them with workers, and a reload renews all of theirs.
    wanted, reloads = (5000, 20) if kind == "process" else (1500, 9)
    services = KINDS[kind]

    def config(number: int) -> dict:
        # Every third generation other launchers take over.
        environment = {"N": str(number // 3)}
        echos = {
            f"echo{index}": {
                **service,
                "listen": f"fd:echo{index}",
                "limits": {"connections": most + number % 2},
                "environment": environment,
            }
            for index, (service, most) in enumerate(services)
        }
        other = {f"other{number}": CAT}
        return {"log": {"level": "warning"}, "services": {**echos, **other}}

    with contextlib.ExitStack() as stack:
        listeners = {
            f"echo{index}": stack.enter_context(
                socket.create_server(("127.0.0.1", 0), backlog=1024)
            )
            for index in range(len(services))
        }
        daemon = superd(config(0), inherit=listeners)
        addresses = [listener.getsockname() for listener in listeners.values()]
        clients = Clients(*addresses, together=24)
        number = 0
        # The bound is that of the test as a whole.
        while number < reloads or clients.done < wanted:
            number += 1
            daemon.write(config(number))
            daemon.process.send_signal(signal.SIGHUP)
            while not daemon.states or "READY" not in daemon.states[-1]:
                clients.pump(time.monotonic() + 0.05)
                _take_states(daemon)
            daemon.states.clear()
            clients.pump(time.monotonic() + 0.05)
        clients.finish()
        assert (clients.failed, clients.reasons) == (0, set())


def _take_states(daemon: Daemon) -> None:
    daemon.notify.setblocking(False)
    while True:
        try:
            daemon.states.append(daemon.notify.recv(65536).decode())
        except BlockingIOError:
            daemon.notify.setblocking(True)
            return


def test_closing_and_binding_again_does_lose_connections():
    """Negative control: the same clients do see what superd does not do."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    address = listener.getsockname()
    clients = Clients(address, together=24)
    for _ in range(20):
        clients.pump(time.monotonic() + 0.01)  # they wait in the backlog
        listener.close()
        clients.pump(time.monotonic() + 0.01)
        listener = socket.create_server(address, backlog=1024)
    listener.close()
    clients.finish()
    assert clients.failed > 0


def test_an_unchanged_listener_is_the_same_socket_after_a_reload(superd):
    config = {"services": {"cat": CAT}}
    daemon = superd(config)
    _, port = daemon.address("cat")
    before = inode(daemon, port)
    config["services"]["new"] = CAT
    config["services"]["cat"] = {**CAT, "exec": ["/usr/bin/tac"]}
    daemon.reload(config)
    assert inode(daemon, port) == before
    assert daemon.talk("cat", b"a\nb\n") == b"b\na\n"
    assert daemon.talk("new", b"x") == b"x"


def test_a_listener_that_moves_to_another_service_stays_open(superd):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = {"services": {"one": {**CAT, "listen": f"127.0.0.1:{port}"}}}
    daemon = superd(config)
    before = inode(daemon, port)
    daemon.reload(
        {"services": {"two": {"listen": f"127.0.0.1:{port}", "exec": ["/usr/bin/tac"]}}}
    )
    assert inode(daemon, port) == before
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"a\nb\n")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"b\na\n"


def test_a_removed_service_lets_its_running_handlers_finish(superd):
    daemon = superd({"services": {"cat": CAT, "stays": CAT}})
    address = daemon.address("cat")
    with daemon.connect("cat") as sock:
        sock.sendall(b"one")
        assert sock.recv(3) == b"one"
        daemon.reload({"services": {"stays": CAT}})
        daemon.wait_log("drain service=cat live=1")
        sock.sendall(b"two")
        assert sock.recv(3) == b"two"
        with socket.socket() as late:
            assert late.connect_ex(address) != 0
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""
    daemon.wait_log("end service=cat conn=1 .* status=exit:0")


def test_a_changed_service_serves_new_connections_anew_and_leaves_the_old_ones(superd):
    program = ["/bin/sh", "-c", "while read line; do echo $GREETING $line; done"]
    service = {"listen": "fd:w", "exec": program}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        daemon = superd(
            {"services": {"w": {**service, "environment": {"GREETING": "old"}}}},
            inherit={"w": listener},
        )
        with socket.create_connection(listener.getsockname(), timeout=10) as old:
            old.sendall(b"1\n")
            assert old.recv(100) == b"old 1\n"
            daemon.reload(
                {"services": {"w": {**service, "environment": {"GREETING": "new"}}}}
            )
            with socket.create_connection(listener.getsockname(), timeout=10) as new:
                new.sendall(b"2\n")
                assert new.recv(100) == b"new 2\n"
            old.sendall(b"3\n")
            assert old.recv(100) == b"old 3\n"
        eventually(lambda: len(daemon.children()) == 1, "the old launcher has ended")


def test_a_broken_file_changes_nothing_and_says_why(superd):
    daemon = superd(
        {"services": {"cat": CAT}}, expect=["config text=", "reload refused="]
    )
    daemon.reload("services:\n  cat:\n    listen: 127.0.0.1:0\n    exce: [/bin/cat]\n")
    assert "did you mean" in daemon.wait_log("config text=.*superd.yaml:4:5")
    daemon.wait_log("reload refused=")
    assert daemon.talk("cat", b"x") == b"x"


def test_an_empty_file_does_not_stop_all_services(superd):
    daemon = superd(
        {"services": {"cat": CAT}}, expect=["config text=", "reload refused="]
    )
    daemon.reload("")
    daemon.wait_log("reload refused=")
    assert daemon.talk("cat", b"x") == b"x"


def test_an_address_in_use_refuses_the_whole_reload(superd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = superd(
            {"services": {"cat": CAT}}, expect=["config text=", "reload refused="]
        )
        before = daemon.fds()
        daemon.reload(
            {
                "services": {
                    "fine": CAT,
                    "taken": {**CAT, "listen": f"127.0.0.1:{port}"},
                }
            }
        )
        line = daemon.wait_log("config text=")
        assert "EADDRINUSE" in line
        assert f"127.0.0.1:{port}" in line
        assert daemon.talk("cat", b"x") == b"x"
        assert len(daemon.fds()) <= len(before) + 2  # a launcher's channel and pipe


def test_three_hundred_hups_are_one_or_two_reloads_and_lose_nothing(superd):
    daemon = superd({"services": {"cat": CAT}})
    for _ in range(300):
        daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_log("reload generation=", count=2)
    assert daemon.talk("cat", b"x") == b"x"
    assert len(daemon.log("reload generation=")) < 50


def test_a_limit_lowered_below_what_runs_ends_nothing(superd):
    config = {"services": {"cat": {**CAT, "limits": {"connections": 3}}}}
    daemon = superd(config)
    socks = [daemon.connect("cat") for _ in range(3)]
    for sock in socks:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    config["services"]["cat"]["limits"]["connections"] = 1
    daemon.reload(config)
    for sock in socks:
        sock.sendall(b"y")
        assert sock.recv(1) == b"y"
    with daemon.connect("cat") as waiting:
        waiting.sendall(b"z")
        for sock in socks[:2]:
            sock.close()
        daemon.wait_log("end service=cat", count=2)
        waiting.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            assert waiting.recv(1) == b"never"
        socks[2].close()
        waiting.settimeout(10)
        assert waiting.recv(1) == b"z"


def test_reloads_leave_no_descriptor_behind(superd):
    daemon = superd({"services": {"cat": CAT}})
    daemon.talk("cat", b"x")
    before = len(daemon.fds())
    for number in range(10):
        daemon.reload({"services": {"cat": {**CAT, "nice": number}, f"n{number}": CAT}})
    daemon.reload({"services": {"cat": CAT}})
    eventually(lambda: not daemon.children(), "old launchers have ended")
    assert len(daemon.fds()) <= before


def test_term_while_a_reload_is_under_way_stops(superd):
    daemon = superd({"services": {"cat": CAT}}, expect=["reload refused="])
    daemon.process.send_signal(signal.SIGHUP)
    daemon.process.send_signal(signal.SIGTERM)
    daemon.stop()
