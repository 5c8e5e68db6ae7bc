"""Becoming the service: each step, its refusal, and that there is no way back."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import pytest

from superd.launcher.become import unprotect_from_oom

SYS_NICE, SYS_RESOURCE = 23, 24  # linux/capability.h
NOBODY = {"user": "nobody", "uid": 65534, "gid": 65534, "groups": [65534]}


def refusal(it):
    """Wait for the reason and the end of a launcher."""
    record = it.wait("^refuse ")
    assert it.wait_end() == 1
    assert it.records == [record], "a refusal is the only word"
    _, stage, text = record.split(" ", 2)
    return stage, text


def serving(it):
    """Read /proc's status of the launcher as a mapping."""
    lines = Path(f"/proc/{it.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@pytest.mark.root
def test_the_serving_process_is_the_user_in_every_id_group_and_capability(launcher):
    it = launcher(**{**NOBODY, "groups": [65534, 12]})
    status = serving(it)
    assert status["Uid"].split() == ["65534"] * 4
    assert status["Gid"].split() == ["65534"] * 4
    assert sorted(map(int, status["Groups"].split())) == [12, 65534]
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == 0
    # Its /proc is the user's own, so that it can look after its handlers there.
    assert os.stat(f"/proc/{it.pid}/status").st_uid == 65534


@pytest.mark.root
def test_the_serving_half_is_a_fresh_program_with_nothing_of_roots_environment(
    launcher,
):
    it = launcher(**NOBODY)
    words = Path(f"/proc/{it.pid}/cmdline").read_bytes().split(b"\0")
    assert b"serve" in words
    assert b"become" not in words
    environment = Path(f"/proc/{it.pid}/environ").read_bytes().strip(b"\0")
    assert environment == b"LC_CTYPE=C.UTF-8"
    assert "4" not in it.fds() or "memfd" not in it.fds()["4"]


@pytest.mark.root
def test_a_handler_cannot_regain_root_by_any_call(launcher):
    it = launcher.python(
        "import os\n"
        "def main(argv):\n"
        "    calls = [('setuid', 0), ('seteuid', 0), ('setreuid', 0, 0),\n"
        "             ('setresuid', 0, 0, 0), ('setgid', 0), ('setgroups', [0])]\n"
        "    for name, *words in calls:\n"
        "        try: getattr(os, name)(*words)\n"
        "        except PermissionError: continue\n"
        "        print('regained', name)\n"
        "    print(os.getresuid(), os.getgroups())\n",
        **NOBODY,
    )
    assert it.talk() == b"(65534, 65534, 65534) [65534]\n"


@pytest.mark.root
def test_a_module_is_imported_only_as_the_user(launcher):
    it = launcher.python(
        "import os\nwho = os.getresuid()\ndef main(argv): print(who)\n", **NOBODY
    )
    assert it.talk() == b"(65534, 65534, 65534)\n"


@pytest.mark.root
def test_root_named_by_the_operator_stays_root(launcher):
    it = launcher(user="root", uid=0, gid=0, groups=[0])
    assert serving(it)["Uid"].split() == ["0"] * 4


def may(capability):
    """Say whether we have a capability: root of a container lacks some."""
    line = re.search(r"CapEff:\t(\w+)", Path("/proc/self/status").read_text())
    return bool(int(line[1], 16) >> capability & 1)


@pytest.mark.root
def test_what_needs_root_is_done_before_it_is_given_up(launcher):
    if not (may(SYS_NICE) and may(SYS_RESOURCE)):
        pytest.skip("needs CAP_SYS_NICE and CAP_SYS_RESOURCE")
    it = launcher(
        exec=["/bin/sh", "-c", "nice; ulimit -Hn"],
        nice=-5,
        rlimits={"nofile": [64, 200]},
        limits={resource.RLIMIT_NOFILE: (100, 100)},
        **NOBODY,
    )
    assert it.talk() == b"-5\n200\n"


def test_nice_umask_and_directory_are_taken_on(launcher, tmp_path):
    now = os.getpriority(os.PRIO_PROCESS, 0)
    script = "nice; umask; pwd -P"
    it = launcher.shell(script, nice=19, umask=0o77, directory=str(tmp_path))
    assert now <= 19
    assert it.talk().decode().split() == ["19", "0077", str(tmp_path)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may become anybody")
def test_an_ordinary_user_is_refused_to_become_another(launcher):
    ids = {"user": "daemon", "uid": 1, "gid": 1, "groups": [1]}
    stage, text = refusal(launcher(ready=False, **ids))
    assert stage == "identity"
    assert "uid 1 gid 1" in text
    assert "not permitted" in text


@pytest.mark.parametrize(
    ("path", "text"),
    [("/nonexistent/x", "No such file"), ("/etc/passwd", "Not a directory")],
)
def test_a_directory_that_cannot_be_entered_is_refused(launcher, path, text):
    stage, said = refusal(launcher(ready=False, directory=path))
    assert stage == "directory"
    assert path in said
    assert text in said


@pytest.mark.root
def test_a_directory_is_entered_as_the_user_not_as_root(launcher, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o700)
    keys = {"directory": str(tmp_path / "closed"), **NOBODY}
    stage, said = refusal(launcher(ready=False, **keys))
    assert stage == "directory"
    assert "Permission denied" in said


def test_a_nice_value_without_the_right_is_refused(launcher):
    if may(SYS_NICE):
        pytest.skip("we may raise priorities")
    stage, text = refusal(launcher(ready=False, nice=-5))
    assert stage == "nice"
    assert text.startswith("-5: ")


def test_a_limit_that_cannot_be_set_is_refused_with_its_name(launcher):
    # Soft above hard: no privilege helps.
    stage, text = refusal(launcher(ready=False, rlimits={"fsize": [20, 10]}))
    assert stage == "rlimits"
    assert text.startswith("fsize: 20: ")


@pytest.mark.parametrize("name", ["nproc", "nofile"])
def test_a_limit_above_the_hard_one_is_refused_without_privilege(launcher, name):
    if may(SYS_RESOURCE):
        pytest.skip("we may raise hard limits")
    hard = getattr(resource, f"RLIMIT_{name.upper()}")
    keys = {"rlimits": {name: [90, 90]}, "limits": {hard: (80, 80)}}
    stage, text = refusal(launcher(ready=False, **keys))
    assert stage == "rlimits"
    assert text.startswith(f"{name}: 90: ")


def test_limits_of_a_process_are_its_own_and_all_others_the_launchers(launcher):
    it = launcher(
        exec=["/bin/sh", "-c", "ulimit -n; ulimit -t; ulimit -f; ulimit -c"],
        rlimits={"nofile": [32, 40], "cpu": [50, 60], "fsize": [1 << 20, 1 << 20]},
    )
    assert it.talk().split()[:3] == [b"32", b"50", b"2048"]
    own = {
        name: resource.prlimit(it.pid, getattr(resource, f"RLIMIT_{name}"))
        for name in ("NOFILE", "CPU", "FSIZE")
    }
    assert own["FSIZE"] == (1 << 20, 1 << 20)
    assert own["CPU"] == resource.getrlimit(resource.RLIMIT_CPU)
    assert own["NOFILE"][0] == own["NOFILE"][1] > 40


def test_the_launchers_own_limit_of_open_files_is_raised_to_the_hard_one(launcher):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = {resource.RLIMIT_NOFILE: (64, min(hard, 4096))}
    it = launcher(exec=["/bin/sh", "-c", "ulimit -Sn"], limits=limits)
    assert resource.prlimit(it.pid, resource.RLIMIT_NOFILE)[0] == limits[7][1]
    assert it.talk() == b"1024\n"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import nonexistent_thing\n", "ModuleNotFoundError: No module named"),
        ("def main(:\n", "SyntaxError: "),
        ("raise ValueError('a\\nb')\n", "ValueError: a b"),
        ("import sys; sys.exit(3)\n", "SystemExit: 3"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
        ("print('\\u00e4' * 3000, flush=True); 1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_a_module_that_fails_at_its_import_is_refused_with_the_reason(
    launcher, source, text
):
    # Regression: sys.exit() at import ended the launcher without a word.
    stage, said = refusal(launcher.python(source, ready=False))
    assert stage == "import"
    assert said.startswith("handler0: ")
    assert text in said


def test_a_module_that_is_missing_is_refused(launcher):
    program = {"handler": "x", "module": "nowhere_to_be_found", "argv": []}
    stage, text = refusal(launcher(ready=False, program=program))
    assert stage == "import"
    assert "nowhere_to_be_found" in text


def test_a_module_that_ends_the_process_shows_as_the_end_of_the_channel(launcher):
    it = launcher.python("import os; os._exit(9)\n", ready=False)
    assert it.wait_end() == 9
    assert it.records == []


def test_a_fault_of_ours_is_one_record_and_no_traceback(launcher):
    it = launcher(ready=False, rlimits={"no_such_limit": [1, 1]})
    assert "AttributeError" in it.wait("^refuse bug ")
    assert it.wait_end() == 70


@pytest.mark.parametrize(
    ("before", "after"), [("-900", "0"), ("0", "0"), ("300", "300")]
)
def test_only_a_protection_from_the_oom_killer_is_given_up(tmp_path, before, after):
    path = tmp_path / "oom_score_adj"
    path.write_text(f"{before}\n")
    unprotect_from_oom(str(path))
    # The kernel takes one write as one value; a plain file keeps what was behind it.
    assert path.read_text()[: len(after)] == after


@pytest.mark.parametrize("kind", ["missing", "closed"])
def test_a_file_of_the_oom_killer_that_is_not_ours_is_left_alone(tmp_path, kind):
    path = tmp_path / "oom_score_adj"
    if kind == "closed":
        if os.geteuid() == 0:
            pytest.skip("nothing is closed to root")
        path.write_text("-900\n")
        path.chmod(0o444)
    unprotect_from_oom(str(path))
    assert kind == "missing" or path.read_text() == "-900\n"


@pytest.mark.root
def test_the_launcher_and_its_handlers_are_not_protected_from_the_oom_killer(launcher):
    own = Path("/proc/self/oom_score_adj")
    before = own.read_text()
    try:
        own.write_text("-500")
    except PermissionError:
        pytest.skip("the machine keeps this to itself")
    try:
        it = launcher(exec=["/bin/cat", "/proc/self/oom_score_adj"], **NOBODY)
        assert it.talk() == b"0\n"
    finally:
        own.write_text(before)
