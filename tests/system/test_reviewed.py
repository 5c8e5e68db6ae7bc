"""Symptoms that a review found on a real daemon, one test each."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_under_test import eventually, read_all

CAT = {"listen": "127.0.0.1:0", "exec": ["/bin/cat"]}

# Accepts until there is none, as an event loop does: its listener must stay as it set it.
EVENT_LOOP = """
use IO::Handle; use Fcntl; use Socket;
open(my $l, "+<&=", 0) or die;
fcntl($l, F_SETFL, fcntl($l, F_GETFL, 0) | O_NONBLOCK);
while (1) {
    my $r = ""; vec($r, 0, 1) = 1;
    select($r, undef, undef, undef);
    while (accept(my $c, $l)) { print $c "served\\n"; close $c }
}
"""


def test_a_reload_leaves_the_flags_of_a_lent_listener_to_its_program(superd):
    service = {
        "listen": "127.0.0.1:0",
        "exec": ["/usr/bin/perl", "-e", EVENT_LOOP],
        "mode": "wait",
        "timeouts": {"stop": "100ms"},
    }
    config = {"services": {"w": service, "cat": CAT}}
    daemon = superd(config, expect=["kill service=w"])
    for _ in range(3):
        assert daemon.talk("w") == b"served\n"
        daemon.reload(config)
        assert daemon.talk("w") == b"served\n"


def test_a_log_file_that_is_a_fifo_without_a_reader_refuses_the_reload(
    superd, tmp_path
):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    daemon = superd(
        {"services": {"cat": CAT}}, expect=["config text=", "reload refused"]
    )
    daemon.reload({"log": {"to": str(fifo)}, "services": {"cat": CAT}})
    daemon.wait_log("reload refused=")
    assert daemon.talk("cat", b"x") == b"x"


@pytest.mark.root
def test_a_stalled_stderr_that_cannot_be_opened_anew_holds_up_nobody(superd):
    # The pipe is root's: an ordinary user cannot open it through /proc, and shares it.
    flood = 'print STDERR "\\xc3\\xa9" x 1000, "\\n"'  # escaped, a line of 6 KB
    program = ["/bin/sh", "-c", f"read line; perl -e '{flood}'; echo $line"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        daemon = superd(
            {"services": {"w": {"listen": "fd:w", "exec": program}}},
            inherit={"w": listener},
            prefix=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
            expect=["log dropped="],
            ready=False,  # root's notify socket is closed to it
        )
        daemon.wait_log("reload generation=1")
        daemon.shrink_log()
        first = socket.create_connection(listener.getsockname(), timeout=10)
        daemon.wait_log("accept service=w conn=1")
        # The pipe is empty now and has room for one page; the next line is longer.
        first.sendall(b"first\n")
        assert read_all(first) == b"first\n"
        first.close()
        for _ in range(20):
            with socket.create_connection(listener.getsockname(), timeout=10) as sock:
                sock.sendall(b"x\n")
                assert read_all(sock) == b"x\n"


@pytest.mark.parametrize("config", ["good", "bad"])
def test_a_pid_file_that_is_none_is_left_alone(tmp_path, config):
    precious = tmp_path / "precious"
    precious.write_text("services: {cat: {listen: 0, exec: [/bin/cat]}}\n")
    file = tmp_path / "x.yaml"
    text = "services: {cat: {listen: 127.0.0.1:0, exec: [/bin/cat]}}\n"
    file.write_text(text if config == "good" else "nonsense")
    result = subprocess.run(
        [sys.executable, "-m", "superd", "-c", file, "-p", precious],
        capture_output=True, text=True, timeout=20,
        cwd=Path(__file__).resolve().parent.parent.parent,
    )  # fmt: skip
    assert result.returncode == 73, result.stderr
    assert "no pid" in result.stderr
    assert precious.read_text().startswith("services")


def test_stopping_leaves_a_socket_file_that_is_somebody_elses_by_now(superd, tmp_path):
    path = tmp_path / "s"
    user = {"user": "root"} if os.geteuid() == 0 else {}
    daemon = superd(
        {"services": {"cat": {**CAT, **user, "listen": f"unix:{path}"}}},
        expect=["runs as root"],
    )
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        daemon.stop()
        assert path.exists()


def test_who_has_connected_before_a_stop_is_served(superd):
    daemon = superd({"services": {"cat": {**CAT, "limits": {"connections": 200}}}})
    address = daemon.address("cat")
    os.kill(daemon.pid, signal.SIGSTOP)
    socks = [socket.create_connection(address, timeout=20) for _ in range(100)]
    daemon.process.terminate()
    os.kill(daemon.pid, signal.SIGCONT)
    for sock in socks:
        sock.sendall(b"served")
        sock.shutdown(socket.SHUT_WR)
    for sock in socks:
        assert read_all(sock) == b"served"
        sock.close()
    # A second TERM now would be "at once" for a handler whose end is not yet reported.
    daemon.wait_end()
    daemon.judge()
    assert daemon.process.returncode == 0


def test_connections_that_are_lost_with_their_launcher_are_in_the_log(superd):
    daemon = superd(
        {"services": {"cat": CAT}},
        expect=["reap service=cat", "throttle service=cat"],
    )
    daemon.talk("cat", b"x")
    (launcher,) = daemon.children()
    os.kill(launcher, signal.SIGSTOP)
    socks = [daemon.connect("cat") for _ in range(5)]
    # They are with the launcher when they are accepted and the master's copies closed.
    port = daemon.address("cat")[1]
    eventually(lambda: _waiting(port) == 0 and _connections(daemon) <= 2, "sent")
    os.kill(launcher, signal.SIGKILL)
    daemon.wait_log("refuse service=cat .* reason=.*launcher ended", count=5)
    for sock in socks:
        sock.close()


def _waiting(port: int) -> int:
    """Count the connections that wait to be accepted."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file]
    [queue] = [
        row[4] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"
    ]
    return int(queue.partition(":")[2], 16)


def _connections(daemon) -> int:
    return sum(name.startswith("socket:") for name in daemon.fds().values()) - 1


@pytest.mark.root
def test_superd_works_without_proc(superd):
    daemon = superd(
        {
            "services": {
                "cat": CAT,
                "echo": {"listen": "127.0.0.1:0", "handler": "echo"},
            }
        },
        prefix=["unshare", "-m", "sh", "-c", 'umount -l /proc; exec "$@"', "sh"],
    )
    assert daemon.talk("cat", b"x") == b"x"
    assert daemon.talk("echo", b"x") == b"x"
