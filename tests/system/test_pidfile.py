"""The pid file: a lock that a crash lets go of, with a number for people in it."""

from __future__ import annotations

import fcntl
import json
import os

import pytest
from commands import as_ordinary_user, run_superd
from daemon_under_test import DaemonFactory

ECHO = {"services": {"echo": {"listen": "127.0.0.1:0", "handler": "echo"}}}


@pytest.fixture
def start(superd, tmp_path):
    """Start a superd with a pid file, in the foreground."""
    pidfile = tmp_path / "pid"

    def start(config=ECHO, **more):
        file = tmp_path / "pidfile.yaml"
        file.write_text(json.dumps(config))
        arguments = ["-c", str(file), "-p", str(pidfile)]
        return superd(config, arguments=arguments, **more)

    start.pidfile = pidfile
    return start


def test_it_names_the_daemon_is_locked_and_goes_with_it(start):
    daemon = start()
    assert start.pidfile.read_text() == f"{daemon.pid}\n"
    with start.pidfile.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    daemon.stop()
    assert not start.pidfile.exists()


def test_a_second_start_is_told_who_runs(start, tmp_path):
    daemon = start()
    second = run_superd("-c", daemon.file, "-p", start.pidfile)
    assert second.returncode == os.EX_TEMPFAIL
    assert second.stderr.startswith(f"superd: already running (pid {daemon.pid} holds ")
    assert start.pidfile.read_text() == f"{daemon.pid}\n"


@pytest.mark.parametrize("content", ["", "1\n", "999999999\n", "our own\n"])
def test_a_file_that_nobody_locks_is_no_obstacle(start, content):
    start.pidfile.write_text(content.replace("our own", str(os.getpid())))
    daemon = start()
    assert start.pidfile.read_text() == f"{daemon.pid}\n"


def test_a_crash_leaves_no_lock_even_while_a_handler_lives_on(start):
    config = {
        "services": {
            "cat": {"listen": "127.0.0.1:0", "exec": ["/bin/cat"]},
            "echo": {"listen": "127.0.0.1:0", "handler": "echo"},
        }
    }
    first = start(config)
    with first.connect("cat") as one, first.connect("echo") as two:
        for sock in (one, two):
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        first.kill()
        assert start.pidfile.exists()
        second = start(config)
        assert second.talk("echo", b"hello") == b"hello"
        assert start.pidfile.read_text() == f"{second.pid}\n"


def test_a_link_is_not_followed(start, tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    start.pidfile.symlink_to(target)
    done = run_superd("-l", "127.0.0.1:0", "-p", start.pidfile, "--", "cat")
    assert done.returncode == os.EX_CANTCREAT
    assert f"cannot create the pid file: {start.pidfile}: " in done.stderr
    assert target.read_text() == "precious"


def test_a_folder_that_is_not_there_is_told(tmp_path):
    done = run_superd("-l", "127.0.0.1:0", "-p", tmp_path / "no/pid", "--", "cat")
    assert done.returncode == os.EX_CANTCREAT
    assert f"{tmp_path}/no/pid: No such file or directory" in done.stderr


def test_a_folder_that_may_not_be_written_is_told(tmp_path):
    prefix = as_ordinary_user()
    DaemonFactory(tmp_path)
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o555)
    arguments = ["-l", "127.0.0.1:0", "-p", folder / "pid", "--", "cat"]
    done = run_superd(*arguments, prefix=prefix)
    assert done.returncode == os.EX_CANTCREAT
    assert "Permission denied" in done.stderr


def test_a_start_that_fails_leaves_no_file(start, tmp_path):
    done = run_superd("-c", tmp_path / "none.yaml", "-p", start.pidfile)
    assert done.returncode != 0
    assert not start.pidfile.exists()


def test_somebody_who_removed_the_file_does_not_disturb_the_end(start):
    daemon = start()
    start.pidfile.unlink()
    daemon.stop()
