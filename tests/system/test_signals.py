"""Signals, as an operator or a service manager sends them."""

from __future__ import annotations

import json
import os
import signal
import socket
import time

import pytest
from daemon_under_test import eventually, read_all

SLOW = {
    "listen": "127.0.0.1:0",
    "exec": ["/bin/sh", "-c", 'echo begun; read line; echo "finished $line"'],
    "timeouts": {"stop": "60s"},
}
ECHO = {"listen": "127.0.0.1:0", "handler": "echo"}
IDLE = {"listen": "127.0.0.1:0", "exec": ["/bin/cat"]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_handler_finishes_and_its_peer_gets_everything(superd, number):
    # An idle service comes first: that it is done at once is no reason to leave.
    daemon = superd({"services": {"idle": IDLE, "slow": SLOW, "last": IDLE}})
    with daemon.connect("slow") as sock:
        stream = sock.makefile("rwb")
        assert stream.readline() == b"begun\n"
        daemon.process.send_signal(number)
        daemon.wait_state("STOPPING=1")
        daemon.wait_log("drain service=slow live=1")
        with pytest.raises(ConnectionRefusedError):
            daemon.connect("slow")
        stream.write(b"in peace\n")
        stream.flush()
        assert stream.read() == b"finished in peace\n"
        stream.close()
    daemon.wait_end()
    assert daemon.process.returncode == 0
    assert daemon.log("end service=slow .* status=exit:0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_one_ends_the_handlers_at_once(superd, number):
    daemon = superd(
        {"services": {"slow": SLOW}}, expect=["kill service=slow signal=KILL"]
    )
    with daemon.connect("slow") as sock:
        assert sock.recv(6) == b"begun\n"
        began = time.monotonic()
        daemon.process.send_signal(number)
        daemon.wait_state("STOPPING=1")
        daemon.process.send_signal(number)
        assert read_all(sock) == b""
    daemon.wait_end()
    assert daemon.process.returncode == 0
    assert time.monotonic() - began < 5.0, "its service would have had 60 s"
    assert daemon.log("end service=slow .* status=signal:9")


def test_term_in_the_middle_of_a_reload_wins(superd):
    daemon = superd({"services": {"echo": ECHO}}, expect=["reload refused="])
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        daemon.process.send_signal(number)
    daemon.wait_end()
    assert daemon.process.returncode == 0


def test_a_storm_of_hups_coalesces_and_ends_with_the_newest_file(superd):
    daemon = superd({"services": {"echo": ECHO}})
    with daemon.connect("echo") as sock:
        for _ in range(300):
            daemon.process.send_signal(signal.SIGHUP)
        sock.sendall(b"during it")
        assert sock.recv(16) == b"during it"
        daemon.write({"services": {"echo": ECHO, "new": ECHO}})
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_log("listen service=new")
        assert daemon.talk("new", b"hello") == b"hello"
        sock.sendall(b"after it")
        assert sock.recv(16) == b"after it"
    assert 2 <= len(daemon.log("reload generation=")) < 100
    daemon.stop()


def test_usr1_goes_over_to_a_new_file_after_a_rotation(superd, tmp_path):
    file, old = tmp_path / "log", tmp_path / "log.1"
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        echo = {"listen": "fd:x", "handler": "echo"}
        config = {"log": {"to": str(file)}, "services": {"echo": echo}}
        daemon = superd(config, inherit={"x": listener})

        def connection():
            with socket.create_connection(listener.getsockname()[:2]) as sock:
                sock.sendall(b"x")
                sock.shutdown(socket.SHUT_WR)
                return read_all(sock)

        connection()
        eventually(lambda: "end service=echo conn=1" in file.read_text(), "line 1")
        file.rename(old)
        daemon.process.send_signal(signal.SIGUSR1)
        eventually(file.exists, "a new file")
        connection()
        eventually(lambda: "end service=echo conn=2" in file.read_text(), "line 2")
        assert "conn=1 " not in file.read_text()
        assert "conn=2 " not in old.read_text()
        daemon.stop()


def test_usr1_where_no_file_can_be_made_goes_on_with_the_old_one(superd, tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    file, moved = folder / "log", tmp_path / "moved"
    daemon = superd({"log": {"to": str(file)}, "services": {"echo": ECHO}})
    folder.rename(moved)
    daemon.process.send_signal(signal.SIGUSR1)
    expected = 'log reason="reopen: No such file or directory"'
    eventually(lambda: expected in (moved / "log").read_text(), "the old file says why")
    daemon.stop()


def test_usr2_is_no_end(superd):
    daemon = superd({"services": {"echo": ECHO}}, expect=["upgrade in place"])
    daemon.process.send_signal(signal.SIGUSR2)
    daemon.wait_log("restart instead")
    assert daemon.talk("echo", b"hello") == b"hello"
    daemon.stop()


def test_a_reload_that_fails_does_not_believe_in_the_log_it_did_not_open(
    superd, tmp_path
):
    refused = ["cannot listen on", "reload refused="]
    daemon = superd({"services": {"echo": ECHO}}, expect=refused)
    file = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = dict(ECHO, listen=f"127.0.0.1:{taken.getsockname()[1]}")
        config = {"log": {"to": str(file)}, "services": {"echo": ECHO, "other": other}}
        daemon.reload(config)
        daemon.wait_log("reload refused=1")
    daemon.reload(config)
    eventually(lambda: "reload generation=2" in file.read_text(), "the log has moved")
    daemon.stop()


def test_a_hup_leaves_running_handlers_alone_and_their_number(superd):
    daemon = superd({"services": {"slow": SLOW}})
    with daemon.connect("slow") as sock:
        assert sock.recv(6) == b"begun\n"
        before = daemon.wait_log("accept service=slow conn=1 .* pid=")
        daemon.reload(json.loads(json.dumps({"services": {"slow": SLOW}})))
        os.kill(int(before.rpartition("pid=")[2]), 0)
        sock.sendall(b"x\n")
        assert read_all(sock) == b"finished x\n"
    daemon.stop()
