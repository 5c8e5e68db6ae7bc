"""superd under a real systemd: installed, started, reloaded, killed, stopped, activated.

One container is booted for all of it (boot_systemd.sh); in_the_box.py does what an
administrator would and writes down what it saw, which is judged here.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
NEEDS = {
    "systemd-nspawn": "systemd-container",
    "dbus-daemon": "dbus",
    "unshare": "util-linux",
    "ss": "iproute2",
    "ip": "iproute2",
    "useradd": "passwd",
}

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]


def build_wheel(folder):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)


@functools.cache
def refused_by_kernel():
    """Say why this machine cannot mount an overlay of / in a namespace; "" if it can."""
    script = (
        "mount --make-rprivate / && d=$(mktemp -d) && mount -t tmpfs tmpfs $d && "
        "mkdir $d/u $d/w $d/r && mount -t overlay overlay $d/r "
        "-o lowerdir=/,upperdir=$d/u,workdir=$d/w; s=$?; "
        "umount $d/r $d; rmdir $d; exit $s"
    )
    command = ["unshare", "--mount", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or "it did not say why"


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Everything that in_the_box.py saw."""
    for tool, package in NEEDS.items():
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt install {package}")
    reason = refused_by_kernel()
    if reason:
        pytest.skip(f"no overlay of / can be mounted here: {reason}")
    folder = tmp_path_factory.mktemp("box")
    build_wheel(folder)
    shutil.copy(HERE / "in_the_box.py", folder)
    shutil.copy(ROOT / "systemd" / "unprivileged.conf", folder)
    command = ["unshare", "--mount", "--propagation", "private"]
    command += ["bash", str(HERE / "boot_systemd.sh"), str(folder)]
    done = subprocess.run(
        [*command, sysconfig.get_path("purelib")],
        check=False,
        timeout=100,
        env={**os.environ, "PYTHON": os.path.realpath(sys.executable)},
    )
    console = folder / "console"
    said = console.read_text(errors="replace") if console.exists() else ""
    if not (folder / "out").exists():
        if "Operation not permitted" in said or "Permission denied" in said:
            pytest.skip(f"the kernel does not let systemd-nspawn boot: {said[-300:]}")
        pytest.fail(f"systemd did not boot ({done.returncode}):\n{said[-3000:]}")
    out = (folder / "out").read_text()
    assert (folder / "status").read_text().strip() == "0", out
    return json.loads((folder / "seen.json").read_text())


@pytest.fixture(scope="module")
def journal(seen):
    return [(int(one["PRIORITY"]), str(one["MESSAGE"])) for one in seen["journal"]]


def test_start_returns_when_the_listeners_are_up(seen):
    assert seen["start"] == 0
    assert seen["started"] == {
        "ActiveState": "active",
        "SubState": "running",
        "StatusText": "3 services, 3 listeners",
        "Result": "success",
    }
    assert 'Status: "3 services, 3 listeners"' in seen["status"]


def test_a_python_handler_and_a_program_serve_inside_the_fences(seen):
    assert (seen["echo"], seen["cat"]) == ("hello\n", "hello\n")


def test_the_master_is_root_and_its_launchers_are_nobody(seen):
    uids = {words.rpartition(" ")[2]: uid for uid, words in seen["processes"]}
    assert uids == {"/etc/superd.yaml": 0, "echo": 65534, "cat": 65534}


def test_a_reload_opens_the_new_service_and_status_says_so(seen):
    assert seen["reload"] == 0
    assert seen["reloaded"] == "4 services, 4 listeners"
    assert seen["new"] == "hello\n"


def test_a_refused_reload_shows_in_status_and_the_old_configuration_runs_on(seen):
    assert seen["check"] == 78
    assert seen["bad reload"] == 0  # systemd only sent a signal: superd.service says so
    assert seen["refused"].startswith("reload refused: /etc/superd.yaml:")
    assert 'did you mean "listen"?' in seen["refused"]
    assert seen["refused"].endswith("4 services, 4 listeners run on")
    assert (seen["refused new"], seen["refused active"]) == ("hello\n", "active")
    assert seen["mended"] == "3 services, 3 listeners"


def test_after_kill_9_it_comes_back_and_binds_at_once(seen):
    assert seen["came back"]
    assert seen["restarts"] == "1"
    assert seen["after kill"] == "hello\n"


def test_kill_mode_mixed_ends_the_handlers_of_a_killed_superd(seen):
    assert seen["handler of the killed"] == ""  # an end, and no wait for a timeout


def test_the_watchdog_is_fed_and_restarts_a_superd_that_hangs(seen):
    assert seen["fed"]
    assert seen["watchdog"]
    assert seen["after watchdog"] == "hello\n"


def test_stop_lets_a_running_handler_finish_even_where_other_services_idle(seen):
    assert seen["stop"] == 0
    assert seen["drained"] == "begun\nfinished\n"
    assert seen["stopped"] == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainStatus": "0",
    }


def test_stop_leaves_no_process_no_port_and_no_runtime_folder(seen):
    assert seen["left"] == [[], False]
    assert seen["left ports"] == ""
    assert seen["at the end"] == []


def test_a_wrong_configuration_is_not_tried_again_and_again(seen):
    assert seen["bad start"] == 1
    assert seen["bad started"] == {
        "ActiveState": "failed",
        "ExecMainStatus": "78",
        "NRestarts": "0",
    }


def test_socket_activation_starts_superd_with_the_first_peer(seen):
    assert seen["socket"] == 0
    assert seen["before activation"] == "inactive"
    assert (seen["activated"], seen["activated6"]) == ("hello\n", "hello\n")
    assert seen["after activation"] == {
        "ActiveState": "active",
        "StatusText": "1 service, 2 listeners",
    }


def test_with_socket_activation_no_peer_is_refused_during_a_restart(seen):
    assert seen["during restart"] == ["hello\n"]


def test_as_a_user_of_its_own_it_has_low_ports_and_no_root_process(seen):
    assert seen["unprivileged"] == 0
    assert seen["unprivileged echo"] == "hello\n"
    assert seen["unprivileged cat"] == "hello\n"
    assert seen["unprivileged uids"] == [seen["uid"]]


def test_finger_lists_the_sessions_of_logind_where_there_is_no_utmp(seen):
    if not seen["pam"]:
        pytest.skip("pam_systemd is not installed: apt install libpam-systemd")
    nobody = "No one logged on.\r\n"
    assert seen["nobody in"] == nobody
    _, *lines = seen["alice in"].splitlines()
    assert [line.split() for line in lines] == [["alice", "Alice", "Liddell", "pts/9"]]
    assert seen["alice gone"] == nobody


def test_the_journal_has_each_connection_and_what_its_handler_said(journal):
    messages = [text for _, text in journal]
    assert any(text.startswith("accept service=cat conn=2 peer=") for text in messages)
    assert any("end service=cat conn=2" in text for text in messages)
    assert (6, 'stderr service=cat text="it says <boo>"') in journal


def test_the_journal_puts_its_own_time_and_priority_on_each_line(journal):
    assert not [
        text for _, text in journal if "Z info " in text or text.startswith("<")
    ]
    refused = [
        priority for priority, text in journal if text.startswith("config text=")
    ]
    assert refused
    assert set(refused) == {3}
    start = [priority for priority, text in journal if "services.echo.listn" in text]
    assert start == [3]


def test_no_unit_has_failed_at_the_end(seen):
    assert seen["failed units"] == ""
