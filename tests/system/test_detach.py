"""`superd -d`: the parent tells how it went, and nothing of the detaching is inherited."""

from __future__ import annotations

import os
import resource
import socket
import stat
from pathlib import Path

import pytest
from commands import Detached, as_ordinary_user, run_superd, shell, status_of
from daemon_under_test import DaemonFactory, eventually

ECHO = {"echo": {"listen": "127.0.0.1:0", "handler": "echo"}}
CLOSED = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]
FDS = "for n in 0 1 2 3 4 5 6 7 8 9; do readlink /proc/$$/fd/$n || echo none; done"


@pytest.fixture
def detached(tmp_path):
    """Start a detached superd; it is ended and nothing of it may be left."""
    DaemonFactory(tmp_path)  # makes the folder reachable for user nobody
    started = []

    def start(services=ECHO, *arguments, **more):
        folder = tmp_path / f"daemon{len(started)}"
        folder.mkdir(mode=0o755)
        started.append(Detached(folder, services, *arguments, **more))
        return started[-1]

    yield start
    for daemon in started:
        daemon.close()


def test_the_parent_returns_when_the_listeners_are_up(detached):
    daemon = detached()
    assert (daemon.started.returncode, daemon.started.stderr) == (0, "")
    with socket.create_connection(daemon.address("echo"), timeout=1):
        pass
    assert daemon.talk("echo", b"hello\n") == b"hello\n"
    daemon.stop()


def test_a_wrong_configuration_is_told_by_the_parent(detached):
    daemon = detached(config="services: {echo: {listn: 7, handler: echo}}\n")
    assert daemon.started.returncode == os.EX_CONFIG
    assert 'listn: unknown key; did you mean "listen"?' in daemon.started.stderr
    assert f"{daemon.file}:1:" in daemon.started.stderr
    assert not daemon.pidfile.exists()


def test_a_taken_address_is_told_with_its_holder(detached):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = detached({"echo": {"listen": f"127.0.0.1:{port}", "handler": "echo"}})
    assert daemon.started.returncode == os.EX_UNAVAILABLE
    assert f"127.0.0.1:{port}: EADDRINUSE" in daemon.started.stderr
    assert f"(pid {os.getpid()}) listens there" in daemon.started.stderr
    assert not daemon.pidfile.exists()


def test_a_low_port_without_the_privilege_is_told_with_the_remedy(tmp_path):
    prefix = as_ordinary_user()
    lowest = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
    if int(lowest) <= 79:
        pytest.skip("every user may listen on low ports here")
    DaemonFactory(tmp_path)
    file = tmp_path / "superd.yaml"
    file.write_text("services: {finger: {listen: '127.0.0.1:79', handler: finger}}\n")
    done = run_superd("-d", "-c", file, prefix=prefix)
    assert done.returncode == os.EX_NOPERM
    assert "EACCES" in done.stderr
    assert "CAP_NET_BIND_SERVICE" in done.stderr


def test_a_file_that_cannot_be_written_as_log_is_told(detached):
    daemon = detached(
        config='log: {to: /proc/log}\nservices: {echo: {listen: "127.0.0.1:0", '
        "handler: echo}}\n"
    )
    assert daemon.started.returncode == os.EX_CONFIG
    assert "cannot write to /proc/log: No such file" in daemon.started.stderr


def test_a_second_start_names_the_first(detached, tmp_path):
    first = detached()
    second = run_superd("-d", "-c", first.file, "-p", first.pidfile)
    assert second.returncode == os.EX_TEMPFAIL
    assert f"already running (pid {first.pid} holds {first.pidfile})" in second.stderr
    assert first.talk("echo", b"still here") == b"still here"
    first.stop()


def test_what_detaching_changes_is_what_a_daemon_needs(detached):
    daemon = detached()
    status = status_of(daemon.pid)
    assert os.readlink(f"/proc/{daemon.pid}/cwd") == "/"
    assert status["Umask"] == "0022"
    assert os.getsid(daemon.pid) != os.getsid(0)
    assert (
        os.getsid(daemon.pid) != daemon.pid
    )  # no leader: a terminal cannot become its
    for fd in (0, 1, 2):
        assert os.readlink(f"/proc/{daemon.pid}/fd/{fd}") == "/dev/null"
    daemon.stop()


def test_a_relative_name_of_the_file_means_the_same_at_a_reload(tmp_path):
    class Relative(Detached):
        def __init__(self):
            self.log, self.pidfile = tmp_path / "log", tmp_path / "pid"
            text = (
                '{"log": {"to": "%s"}, "services": {"echo": {"listen": "127.0.0.1:0",'
            )
            text += ' "handler": "echo"}}}'
            (tmp_path / "superd.yaml").write_text(text % self.log)
            arguments = ["-d", "-c", "superd.yaml", "-p", "pid"]
            self.started = run_superd(*arguments, cwd=tmp_path)

    daemon = Relative()
    try:
        assert daemon.started.returncode == 0
        os.kill(daemon.pid, 1)
        daemon.wait_line("reload generation=2")
        daemon.stop()
    finally:
        daemon.close()
    assert not daemon.pidfile.exists()


@pytest.mark.parametrize("redirections", CLOSED)
def test_with_closed_stdio_the_daemon_and_its_handlers_have_sound_descriptors(
    detached, redirections
):
    services = {
        "fds": {"listen": "127.0.0.1:0", "exec": ["/bin/sh", "-c", FDS]},
        **ECHO,
    }
    daemon = detached(services, prefix=shell(redirections))
    assert daemon.started.returncode == 0
    links = daemon.talk("fds").decode().split()
    assert links[0] == links[1]
    assert links[0].startswith("socket:")
    assert links[2].startswith("pipe:")
    # The shell itself may keep the script's descriptor; nothing of superd is there.
    assert links[3:] == ["none"] * 7
    assert daemon.talk("echo", b"hello\n") == b"hello\n"
    daemon.stop()


@pytest.mark.parametrize("redirections", CLOSED)
def test_closed_stdio_is_as_good_in_the_foreground(superd, redirections):
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        daemon = superd(
            {"services": {"fds": {"listen": "fd:x", "exec": ["/bin/sh", "-c", FDS]}}},
            inherit={"x": listener},
            prefix=shell(redirections),
        )
        with socket.create_connection(listener.getsockname(), timeout=10) as sock:
            links = sock.makefile().read().split()
        assert [link.partition(":")[0] for link in links[:4]] == [
            *("socket", "socket", "pipe", "none")
        ]
        daemon.stop()


def test_handlers_inherit_nothing_of_the_detaching(detached):
    cat = {"listen": "127.0.0.1:0", "rlimits": {"core": None}}
    daemon = detached(
        {
            "status": {**cat, "exec": ["/bin/cat", "/proc/self/status"]},
            "limits": {**cat, "exec": ["/bin/cat", "/proc/self/limits"]},
            "cwd": {**cat, "exec": ["/bin/readlink", "/proc/self/cwd"]},
            "umask": {**cat, "umask": "077", "exec": ["/bin/sh", "-c", "umask"]},
        }
    )
    lines = daemon.talk("status").decode().splitlines()
    status = {
        name: value.strip() for name, _, value in (x.partition(":") for x in lines)
    }
    assert (status["Umask"], int(status["SigBlk"], 16)) == ("0022", 0)
    # 32 and 33 are the C library's own: its posix_spawn ignores them in every program.
    assert int(status["SigIgn"], 16) & ~(3 << 31) == 0
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    core = next(x for x in daemon.talk("limits").decode().splitlines() if "core" in x)
    shown = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    assert core.split()[5] == shown
    assert daemon.talk("cwd") == b"/\n"
    assert daemon.talk("umask") == b"0077\n"
    daemon.stop()


def test_a_daemon_in_a_pipeline_does_not_hold_the_pipe(detached):
    # run_superd reads the pipes to their end: were they inherited, it would not return.
    daemon = detached(ECHO, "--hints")
    assert daemon.started.returncode == 0
    daemon.stop()


def test_the_log_file_is_for_the_administrator_only(detached):
    daemon = detached()
    assert stat.S_IMODE(daemon.log.stat().st_mode) == 0o640
    daemon.stop()
    assert daemon.lines("stop status=0")
    eventually(lambda: not daemon.pidfile.exists(), "the pid file goes")
