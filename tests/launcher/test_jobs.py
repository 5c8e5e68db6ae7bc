"""Handlers that run: reaped whatever their number, signalled by connection, found again."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from daemon_under_test import eventually, read_all

FAST = {"superd.launcher.serve.SWEEP": 0.05}


def gone(pid):
    """Say whether a process has ended (a zombie has)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def test_a_thousand_handlers_are_each_reported_once_and_none_is_left(launcher):
    it = launcher(exec=["/bin/true"])
    number = 1000
    for _ in range(number // 50):
        pairs = [it.pair() for _ in range(50)]
        it.put(
            *(it.record() for _ in pairs), fds=tuple(two.fileno() for _, two in pairs)
        )
        for one, two in pairs:
            one.close()
            two.close()
        while it.take():
            pass
    it.wait("^end ", count=number)
    for verb in ("start", "end"):
        conns = [one.split()[1] for one in it.records if one.startswith(verb)]
        assert sorted(map(int, conns)) == list(range(1, number + 1))
    assert all(one.split()[2:4] == ["0", "0"] for one in it.records if one[0] == "e")
    children = Path(f"/proc/{it.pid}/task/{it.pid}/children").read_text()
    assert children == ""
    eventually(lambda: len(it.fds()) < 12, "every connection is closed")


def test_orphans_that_become_the_launchers_children_are_reaped_and_not_reported(
    launcher,
):
    # Only a subreaper inherits: prctl(PR_SET_CHILD_SUBREAPER), as PID 1 of a box would.
    source = (
        "import ctypes\nctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
        "import os\n"
        "def main(argv):\n"
        " for _ in range(20):\n"
        "  if not os.fork(): os._exit(5)\n"
    )
    it = launcher.python(source, constants=FAST)
    for _ in range(5):
        it.talk()
    children = f"/proc/{it.pid}/task/{it.pid}/children"
    eventually(lambda: not Path(children).read_text(), "strangers are reaped")
    ends = [one.split()[1:4] for one in it.records if one.startswith("end ")]
    assert ends == [[str(number), "0", "0"] for number in range(1, 6)]


def test_the_cpu_time_of_a_handler_is_its_own(launcher):
    it = launcher.shell("i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done")
    it.talk()
    cpu = int(it.wait("^end 1 ").split()[4])
    assert 1000 < cpu < 10_000_000
    it.talk()
    assert int(it.wait("^end 2 ").split()[4]) < 2 * cpu + 50_000, "not the sum"


def test_kill_ends_the_whole_group_of_its_connection_and_no_other(launcher):
    it = launcher.shell("sleep 60 & echo $!; wait", constants=FAST)
    first, second = it.connect(), it.connect()
    one, two = int(first.recv(20)), int(second.recv(20))
    it.put("kill 1 KILL")
    assert it.wait("^end 1 ").startswith("end 1 9 0 ")
    eventually(lambda: gone(one), "the group's other process")
    assert not gone(two)
    assert not gone(it.handler(2))
    it.put("kill 2 TERM")
    assert it.wait("^end 2 ").startswith("end 2 15 0 ")
    eventually(lambda: gone(two), "the group's other process")


@pytest.mark.parametrize("conn", ["1", "2", "999999999999"])
def test_kill_of_a_connection_that_is_over_or_never_was_hits_nobody(launcher, conn):
    it = launcher()
    it.talk()
    bystander = it.connect()
    it.put(f"kill {3 if conn == '2' else conn} KILL")
    bystander.sendall(b"lives")
    assert bystander.recv(10) == b"lives"


def test_a_handler_cannot_leave_its_group_and_a_child_that_does_is_left_alone(launcher):
    it = launcher.python(
        "import os, time\n"
        "def main(argv):\n"
        " child = os.fork()\n"
        " if not child: os.setsid(); os.write(1, b'.'); time.sleep(60); os._exit(0)\n"
        " os.read(0, 1)\n"
        " try: os.setpgid(0, child)\n"
        " except PermissionError: os.write(1, b'%d' % child)\n"
        " time.sleep(60)\n"
    )
    peer = it.connect()
    assert peer.recv(1) == b"."
    peer.sendall(b"x")
    child = int(peer.recv(99))
    it.put("kill 1 TERM")
    assert it.wait("^end 1 ").startswith("end 1 15 0 ")
    assert not gone(child)
    os.kill(child, signal.SIGKILL)


@pytest.mark.root
def test_a_set_user_id_handler_that_cannot_be_signalled_is_a_note(launcher, tmp_path):
    # cat with root's bit, run by nobody: real uid nobody would still be signalled, so
    # the program takes on root's real uid as well.
    source = tmp_path / "suid.c"
    source.write_text(
        "#include <unistd.h>\nint main(void){char c;setresuid(0,0,0);"
        'write(1,".",1);while(read(0,&c,1)>0);return 0;}\n'
    )
    binary = tmp_path / "suid"
    if os.system(f"cc -o {binary} {source} 2>/dev/null"):
        pytest.skip("needs a C compiler")
    binary.chmod(0o4755)
    it = launcher(exec=[str(binary)], user="nobody", uid=65534, gid=65534, groups=[])
    peer = it.connect()
    if peer.recv(1) != b"." or os.stat(f"/proc/{it.handler(1)}").st_uid:
        pytest.skip("this file system takes no set-user-ID programs")
    it.put("kill 1 TERM")
    assert "it changed its user" in it.wait("^note conn 1: ")
    peer.shutdown(socket.SHUT_WR)
    it.wait("^end 1 0 0 ")


def test_the_banner_is_ahead_of_the_handlers_first_byte(launcher):
    it = launcher(banner="h\xe4llo\r\n")
    assert it.talk(b"then") == "h\xe4llo\r\nthen".encode()


def test_a_failed_start_closes_its_connection_and_keeps_the_launcher(launcher):
    it = launcher(exec=["/nonexistent"])
    for number in (1, 2):
        assert it.talk(b"unread") == b""
        assert it.wait(f"^fail {number} exec /nonexistent: ")


def test_a_resolved_name_is_in_the_start_record_and_none_is_a_dash(launcher):
    it = launcher()
    it.talk()
    pid = it.handler(1)
    assert it.wait("^start 1 ") == f"start 1 {pid} -"


def test_a_unix_connection_is_served_as_well(launcher):
    it = launcher.shell('cat; echo "$PROTO $REMOTE_ADDR $UNIXREMOTEEUID"')
    peer, accepted = socket.socketpair()
    with peer, accepted:
        it.put("conn 1 1 unix:1000 0", fds=(accepted.fileno(),))
        accepted.close()
        peer.sendall(b"x\n")
        peer.shutdown(socket.SHUT_WR)
        assert read_all(peer) == b"x\nUNIX unix:1000 1000\n"
