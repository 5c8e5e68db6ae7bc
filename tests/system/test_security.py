"""What an auditor tries first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from daemon_under_test import eventually, read_all

ROOT = Path(__file__).resolve().parent.parent.parent
CAT = {"listen": "127.0.0.1:0", "exec": ["/bin/cat"]}


def test_a_module_in_the_working_directory_is_not_imported(tmp_path):
    for name in ("yaml", "pydantic", "json"):
        (tmp_path / f"{name}.py").write_text(
            "open('planted', 'w')\nraise SystemExit(3)\n"
        )
    (tmp_path / "x.yaml").write_text("services: {cat: {listen: 0, exec: [/bin/cat]}}\n")
    superd = Path(sys.executable).with_name("superd")
    result = subprocess.run(
        [superd, "-t", "-c", "x.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert not (tmp_path / "planted").exists(), result.stderr
    assert result.returncode == 0, result.stderr


def test_the_path_of_the_compile_child_has_no_working_directory(tmp_path):
    """`python -m` puts it first; the negative control is that it does."""
    code = (
        "import sys; from superd.master.compiling import import_path; "
        "print(sys.path[0]); print(import_path())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    first, *path = result.stdout.splitlines()
    assert first in {"", str(tmp_path)}
    assert str(tmp_path) not in path


def test_a_handler_that_signals_its_group_and_its_parent_harms_only_itself(superd):
    program = ["/bin/sh", "-c", "kill -TERM 0; kill -KILL 0"]
    daemon = superd(
        {"services": {"w": {"listen": "127.0.0.1:0", "exec": program}, "cat": CAT}}
    )
    for _ in range(3):
        assert daemon.talk("w") == b""
    daemon.wait_log("end service=w .* status=signal:15", count=3)
    assert daemon.talk("cat", b"x") == b"x"


@pytest.mark.root
def test_a_handler_cannot_signal_the_master_and_killing_its_launcher_heals(superd):
    program = [
        "/bin/sh",
        "-c",
        "kill -9 $(ps -o ppid= -p $PPID) 2>/dev/null; kill -9 $PPID",
    ]
    daemon = superd(
        {"services": {"w": {"listen": "127.0.0.1:0", "exec": program}, "cat": CAT}},
        expect=["reap service=w", "throttle service=w"],
    )
    daemon.talk("w")
    daemon.wait_log("reap service=w .* status=signal:9")
    assert daemon.process.poll() is None
    assert daemon.talk("cat", b"x") == b"x"


def test_no_zombie_is_left_by_masters_and_launchers(superd):
    daemon = superd({"services": {"cat": CAT}})
    for _ in range(20):
        daemon.talk("cat", b"x")
    (launcher,) = daemon.children()

    def no_zombies() -> bool:
        path = f"/proc/{launcher}/task/{launcher}/children"
        return not Path(path).read_text().split()

    eventually(no_zombies, "every handler is reaped")


def test_peers_bytes_cannot_forge_a_log_line(superd):
    program = ["/bin/sh", "-c", "cat >&2"]
    daemon = superd({"services": {"w": {"listen": "127.0.0.1:0", "exec": program}}})
    evil = b"x\n2026-01-01T00:00:00.000Z info accept service=w conn=9 "
    evil += b'\x1b[2J \xff"\\ pid=1\n'
    with daemon.connect("w") as sock:
        sock.sendall(evil)
        sock.shutdown(1)
        read_all(sock)
    daemon.wait_log("stderr service=w", count=2)
    assert not daemon.log("^[^ ]* info accept service=w conn=9")
    assert not [line for line in daemon.lines if "\x1b" in line]
