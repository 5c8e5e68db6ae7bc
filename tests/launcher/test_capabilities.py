"""What superd may is not what its handlers may; and what handlers leave is adopted."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from daemon_under_test import eventually

from superd.launcher.become import BecomeError, give_up_heritage

SETPRIV = shutil.which("setpriv") or "setpriv"
BIND = ["--inh-caps", "+net_bind_service", "--ambient-caps", "+net_bind_service"]
USER = ["--reuid", "65534", "--regid", "65534", "--clear-groups"]
NOBODY = {"user": "nobody", "uid": 65534, "gid": 65534, "groups": [65534]}
PROBE = ["/bin/grep", "^Cap", "/proc/self/status"]


def capabilities(text):
    """Read the lines of /proc as {"CapEff": 0x400, ...}."""
    lines = [line.split() for line in text.decode().splitlines()]
    return {name.rstrip(":"): int(value, 16) for name, value in lines}


def none_of(found, *names):
    assert {name: found[name] for name in names} == dict.fromkeys(names, 0)


@pytest.mark.root
@pytest.mark.parametrize("who", [{}, NOBODY], ids=["no user", "the same user"])
def test_ambient_capabilities_of_an_ordinary_superd_do_not_reach_handlers(
    launcher, who
):
    it = launcher(exec=PROBE, prefix=[SETPRIV, *USER, *BIND], **who)
    none_of(capabilities(it.talk()), "CapEff", "CapPrm", "CapInh", "CapAmb")


@pytest.mark.root
def test_nor_do_they_reach_a_python_handler_or_stay_in_its_launcher(launcher):
    it = launcher.python(
        "def main(argv):\n"
        " for line in open('/proc/self/status'):\n"
        "  if line[:3] == 'Cap': print(line, end='')\n",
        prefix=[SETPRIV, *USER, *BIND],
    )
    none_of(capabilities(it.talk()), "CapEff", "CapPrm", "CapInh", "CapAmb")
    assert "_ctypes" not in Path(f"/proc/{it.pid}/maps").read_text()


@pytest.mark.root
def test_inheritable_capabilities_of_root_do_not_reach_another_user(launcher):
    # setresuid clears the other sets, and not this one.
    it = launcher(exec=PROBE, prefix=[SETPRIV, *BIND], **NOBODY)
    none_of(capabilities(it.talk()), "CapEff", "CapPrm", "CapInh", "CapAmb")


@pytest.mark.root
def test_a_service_of_root_keeps_roots_own_and_passes_none_on(launcher):
    root = {"user": "root", "uid": 0, "gid": 0, "groups": [0]}
    found = capabilities(launcher(exec=PROBE, prefix=[SETPRIV, *BIND], **root).talk())
    none_of(found, "CapInh", "CapAmb")
    assert found["CapEff"] == found["CapPrm"] == found["CapBnd"] != 0


@pytest.mark.root
def test_a_process_of_roots_priority_is_still_made_with_an_ambient_capability(launcher):
    bound = capabilities(launcher(exec=PROBE).talk())["CapBnd"]
    if not bound >> 23 & 1:
        pytest.skip("needs CAP_SYS_NICE")
    nice = [one.replace("net_bind_service", "sys_nice") for one in BIND]
    it = launcher(exec=["/usr/bin/nice"], nice=-5, prefix=[SETPRIV, *USER, *nice])
    assert it.talk() == b"-5\n"


@pytest.mark.parametrize("text", ["", "CapInh:\t0000\nCapPrm:\t0400\nCapAmb:\t0000\n"])
def test_where_there_is_nothing_to_give_up_nothing_is_done(tmp_path, text):
    (tmp_path / "status").write_text(text)
    assert not give_up_heritage(str(tmp_path / "status"))
    assert not give_up_heritage(str(tmp_path / "missing"))


def test_capabilities_that_cannot_be_cleared_are_a_refusal(tmp_path, monkeypatch):
    # A Python without ctypes: an error of the stage, not handlers with privileges.
    monkeypatch.setitem(sys.modules, "superd.launcher.capabilities", None)
    (tmp_path / "status").write_text("CapAmb:\t0000000000000400\n")
    with pytest.raises(BecomeError, match="capabilities: ") as caught:
        give_up_heritage(str(tmp_path / "status"))
    assert caught.value.stage == "identity"


def test_ctypes_is_not_in_the_memory_of_a_serving_launcher(launcher):
    it = launcher()
    maps = Path(f"/proc/{it.pid}/maps").read_text()
    assert "python" in maps
    assert "_ctypes" not in maps
    assert "libffi" not in maps


@pytest.mark.parametrize("who", [{}, pytest.param(NOBODY, marks=pytest.mark.root)])
def test_a_process_that_left_its_handler_is_adopted_by_the_launcher_and_reaped(
    launcher, who
):
    it = launcher.shell("setsid sleep 60 <&- >&- 2>&- & echo $!", **who)
    pid = int(it.talk())
    children = Path(f"/proc/{it.pid}/task/{it.pid}/children")
    assert str(pid) in children.read_text().split()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not children.read_text(), "it is reaped")
    it.talk()
    it.wait("^end 2 0 0 ")
    os.kill(int(children.read_text()), signal.SIGKILL)
