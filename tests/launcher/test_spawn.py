"""Starting handlers: what they get exactly, what a failure says, what it leaves behind."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket

import pytest
from daemon_under_test import read_all

from superd.launcher.spawn import Spawner, SpawnError
from superd.launcher.spec import Spec

OWN = {"core": [0, 0], "nofile": [64, 128]}
"""Limits that make a program take the way of fork."""

PATHS = [pytest.param({}, id="posix_spawn"), pytest.param({"rlimits": OWN}, id="fork")]


@pytest.mark.parametrize("keys", PATHS)
def test_argv_and_environment_arrive_exactly(launcher, keys):
    dump = (
        "import os,sys; os.write(1, ascii((sys.argv[1:], dict(os.environb))).encode())"
    )
    words = ["", " a  b ", "$HOME;*", "\xe9\n", "--"]
    environment = {"EMPTY": "", "TEXT": "a b=c\nd", "LC_CTYPE": "C.UTF-8"}
    it = launcher(
        exec=["/usr/bin/env", "python3", "-I", "-S", "-c", dump, *words],
        environment=environment,
        **keys,
    )
    argv, variables = eval(it.talk())
    assert argv == words
    for name, value in environment.items():
        assert variables.pop(name.encode()) == value.encode()
    assert not {
        name for name in variables if not name.startswith((b"TCP", b"REMOTE_"))
    } - {
        b"PROTO",
        b"SUPERD_SERVICE",
        b"SUPERD_CONNECTION",
    }


@pytest.mark.parametrize("keys", PATHS)
def test_a_handler_has_three_descriptors_a_session_and_default_signals(launcher, keys):
    script = (
        "readlink /proc/$$/fd/0 /proc/$$/fd/1; ls -m /proc/$$/fd;"
        "grep -E 'Sig(Blk|Ign)' /proc/$$/status | tr -d '\\n'; echo;"
        "cut -d' ' -f1,5,6 /proc/$$/stat"
    )
    lines = launcher.shell(script, **keys).talk().decode().splitlines()
    assert lines[0] == lines[1]
    assert lines[0].startswith("socket:[")
    # 10 is dash's own; a pipe of its would be another.
    assert set(lines[2].split(", ")) - {"10"} == {"0", "1", "2"}
    _, blocked, ignored = lines[3].replace("SigIgn:", " ").split()
    assert int(blocked, 16) == 0
    assert int(ignored, 16) & ~(0b11 << 31) == 0  # 32 and 33 are the C library's own
    assert len(set(lines[4].split())) == 1


def test_limits_are_exact_soft_and_hard_on_the_way_of_fork(launcher):
    limits = {
        "core": [0, 0],
        "nofile": [50, 60],
        "cpu": [7, 9],
        "as": [1 << 30, 1 << 31],
    }
    it = launcher(exec=["/bin/cat", "/proc/self/limits"], rlimits=limits)
    text = it.talk().decode()
    for name, pair in {
        "Max open files": (50, 60),
        "Max cpu time": (7, 9),
        "Max address space": (1 << 30, 1 << 31),
        "Max core file size": (0, 0),
    }.items():
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert tuple(map(int, line[len(name) :].split()[:2])) == pair


@pytest.mark.parametrize("stderr", ["log", "peer", "null"])
@pytest.mark.parametrize("keys", [*PATHS, pytest.param({"mode": "wait"}, id="python")])
def test_a_descriptor_above_the_soft_limit_still_starts_its_handler(
    launcher, many_files, keys, stderr
):
    # Regression: with stderr: peer, number 1024 was given to the C library as it was.
    if keys.get("mode"):
        it = launcher.python(
            "import os\ndef main(argv): os.write(1, os.read(0, 9)); return 0\n",
            stderr=stderr,
        )
    else:
        it = launcher(stderr=stderr, **keys)
    if many_files < 1200:
        pytest.skip("the hard limit of open files is low here")
    with socket.create_server(("127.0.0.1", 0), backlog=200) as server:
        _fill(it, server, 1040)
        assert it.talk(b"high") == b"high"
        assert len(it.fds()) < 1100
    # Nobody but the handler had the socket: its end was seen, and nothing stays.
    assert it.talk(b"again") == b"again"


def _fill(it, server, number):
    """Raise the launcher's next descriptor to a number: it opens files in order."""
    # Descriptors that come without a record that wants them stay with the launcher; the
    # master never sends such, so this is a test's way only.
    left = number - len(it.fds())
    while left > 0:
        count = min(left, 60)
        it.put("kill 999999 TERM", fds=(server.fileno(),) * count)
        left -= count


@pytest.mark.parametrize("keys", PATHS)
@pytest.mark.parametrize("good", [True, False])
def test_no_descriptor_is_left_by_fifty_starts_good_or_bad(
    launcher, tmp_path, keys, good
):
    program = ["/bin/cat"] if good else [str(tmp_path / "missing")]
    it = launcher(exec=program, **keys)
    it.talk()
    before = it.fds()
    for _ in range(50):
        it.talk()
    assert it.fds() == before
    assert len([one for one in it.records if one.startswith("fail")]) == 51 * (not good)


def _make(path, kind):
    if kind == "no interpreter":
        path.write_text("#!/nonexistent/perl\n")
    elif kind == "no program":
        path.write_text("hello\n")
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text("#!/bin/sh\n")
    if kind not in ("missing", "no permission"):
        path.chmod(0o755)


@pytest.mark.parametrize("keys", [*PATHS, pytest.param({"mode": "wait"}, id="wait")])
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("missing", "No such file or directory"),
        ("no interpreter", "its #! line names a missing interpreter"),
        ("no program", "no #! line that names an interpreter"),
        ("no permission", "Permission denied"),
        ("folder", "Permission denied"),
    ],
)
def test_a_failed_exec_says_which_program_and_why(launcher, tmp_path, keys, kind, text):
    path = tmp_path / "program"
    _make(path, kind)
    it = launcher(exec=[str(path)], **keys)
    if keys.get("mode") == "wait":
        with socket.create_server(("127.0.0.1", 0)) as server:
            it.put("wait 1", fds=(server.fileno(),))
    else:
        it.connect()
    record = it.wait("^fail 1 ")
    assert record.startswith(f"fail 1 exec {path}: ")
    assert text in record


def _spec(argv, rlimits):
    values = dict.fromkeys(Spec._fields)
    return Spec(**{**values, "exec": argv, "name": "x", "rlimits": rlimits})


def _busy(tmp_path):
    path = tmp_path / "busy"
    shutil.copy("/bin/true", path)
    path.chmod(0o755)
    return path, os.open(path, os.O_WRONLY)


@pytest.mark.parametrize("rlimits", [{}, {"cpu": (10, 10)}], ids=["spawn", "fork"])
def test_a_program_whose_writer_is_about_to_close_is_tried_again(tmp_path, rlimits):
    path, writer = _busy(tmp_path)
    spawner = Spawner(_spec([str(path)], rlimits), None)
    # The alarm comes after the first try and before the last one.
    before = signal.signal(signal.SIGALRM, lambda *_: os.close(writer))
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        pid = spawner.stream(0, 2, {})
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        signal.signal(signal.SIGALRM, before)
        _close(spawner)


@pytest.mark.parametrize("rlimits", [{}, {"cpu": (10, 10)}], ids=["spawn", "fork"])
def test_a_program_that_stays_open_for_writing_is_given_up(tmp_path, rlimits):
    path, writer = _busy(tmp_path)
    spawner = Spawner(_spec([str(path)], rlimits), None)
    try:
        with pytest.raises(SpawnError, match="Text file busy") as caught:
            spawner.stream(0, 2, {})
        assert caught.value.stage == "exec"
    finally:
        os.close(writer)
        _close(spawner)


def test_our_own_limit_of_open_files_is_back_after_a_start_and_after_a_failure(
    tmp_path,
):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = before[0] // 2
    spawner = Spawner(_spec(["/bin/true"], {"nofile": (soft, None)}), None)
    bad = Spawner(_spec([str(tmp_path / "none")], {"nofile": (soft, None)}), None)
    os.waitpid(spawner.stream(0, 2, {}), 0)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    with pytest.raises(SpawnError):
        bad.stream(0, 2, {})
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    _close(spawner)
    _close(bad)


def _close(spawner):
    os.close(spawner._null)
    os.close(spawner._low_fd)


def test_a_wait_program_gets_the_listener_as_0_1_and_3_and_its_own_pid(launcher):
    script = (
        'print STDERR readlink, qq(\\n) for map "/proc/$$/fd/$_", 0, 1, 3;'
        'print STDERR "@ENV{qw(LISTEN_FDS LISTEN_PID)} $$ "'
        ' . "@ENV{qw(SUPERD_SERVICE SUPERD_CONNECTION)}\\nover\\n"'
    )
    it = launcher(exec=["/usr/bin/perl", "-e", script], mode="wait")
    with socket.create_server(("127.0.0.1", 0)) as server:
        it.put("wait 5", fds=(server.fileno(),))
        number = os.fstat(server.fileno()).st_ino
    it.wait("^end 5 0 0 ")
    it.wait_stderr(b"over\n")
    lines = it.stderr.decode().splitlines()
    assert lines[:3] == [f"socket:[{number}]"] * 3
    pid = it.handler(5)
    assert lines[3] == f"1 {pid} {pid} probe 5"


def test_what_the_handler_reads_is_what_the_peer_sent(launcher):
    it = launcher()
    with it.connect() as peer:
        data = bytes(range(256)) * 100
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        assert read_all(peer) == data
