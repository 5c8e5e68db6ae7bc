"""Who holds a socket: the handler, in its first descriptors or another, or a stranger."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket

import pytest
from daemon_under_test import read_all

from superd.launcher.holders import group_lives, held_by_others, holds_still, socket_id


@pytest.fixture
def start():
    """Start `sleep` with the given descriptors; the process is killed afterwards."""
    pids = []

    def run(*actions, argv=("/bin/sleep", "60")):
        pid = os.posix_spawn(
            argv[0],
            argv,
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, *pair) for pair in actions],
            setpgroup=0,
        )
        pids.append(pid)
        return pid

    yield run
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def sock():
    with socket.socket() as one:
        yield one


@pytest.mark.parametrize("number", [0, 1, 9])
def test_a_handler_that_has_it_at_any_number_holds_it(start, sock, number):
    pid = start((sock.fileno(), number))
    assert holds_still(pid, socket_id(sock.fileno()))
    assert not holds_still(pid, "socket:[1]")


def test_a_process_without_it_or_gone_holds_nothing(start, sock):
    null = os.open(os.devnull, os.O_RDWR)
    try:
        pid = start((null, 0), (null, 1))
    finally:
        os.close(null)
    name = socket_id(sock.fileno())
    assert not holds_still(pid, name)
    assert not holds_still((1 << 22) - 1, name)


def test_every_other_process_counts_and_we_do_not(start, sock):
    name = socket_id(sock.fileno())
    assert held_by_others({name, "socket:[1]"}) == set()
    start((sock.fileno(), 7))
    assert held_by_others({name, "socket:[1]"}) == {name}


def as_nobody(question):
    """Ask in a process of user 65534; True, False or None as an answer."""
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            status = int(question())
        finally:
            os._exit(status)
    return {0: False, 1: True}.get(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


@pytest.mark.root
def test_a_process_that_cannot_be_read_counts_as_holding(start, sock):
    pid = start()
    assert as_nobody(lambda: holds_still(pid, socket_id(sock.fileno()))) is True
    assert holds_still(pid, "socket:[1]") is False, "seen by who may look"


@pytest.mark.root
def test_processes_that_cannot_be_read_are_passed_over(start, sock):
    start((sock.fileno(), 7))
    name = socket_id(sock.fileno())
    assert as_nobody(lambda: held_by_others({name}) == set()) is True


def test_a_group_lives_as_long_as_one_of_it(start):
    pid = start()
    assert group_lives(pid)
    assert not group_lives((1 << 22) - 1)


@pytest.mark.root
def test_a_group_of_another_user_lives(start):
    pid = start()
    assert as_nobody(lambda: group_lives(pid)) is True


def test_without_a_descriptor_to_look_with_all_count_as_held(start, sock):
    # Regression: a launcher out of descriptors ended at its next look.
    pid = start()
    name = socket_id(sock.fileno())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        held, still = held_by_others({name}), holds_still(pid, name)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (held, still) == ({name}, True)


# -- in a real launcher ----------------------------------------------------------------

FAST = {"superd.launcher.serve.SWEEP": 0.05}
NO_PROC = [
    shutil.which("unshare") or "unshare", "-m",
    "/bin/sh", "-c", 'umount -l /proc && exec "$@"', "sh",
]  # fmt: skip
HIDDEN = [*NO_PROC[:4], 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"]
CLOSES = (
    "import os, time\n"
    "def main(argv):\n"
    " null = os.open('/dev/null', os.O_RDWR)\n"
    " {step}\n"
    " os.dup2(null, 0); os.dup2(null, 1)\n"
    " time.sleep(60)\n"
)


def stays_open(peer):
    """Wait for some looks of a FAST launcher: the peer gets no end."""
    peer.settimeout(0.4)
    with pytest.raises(TimeoutError):
        peer.recv(1)
    peer.settimeout(20)


def test_the_peer_sees_the_end_when_the_handler_closed_it_and_lives_on(launcher):
    it = launcher.python(CLOSES.format(step="os.write(1, b'bye')"), constants=FAST)
    peer = it.connect()
    assert read_all(peer) == b"bye"
    assert os.path.exists(f"/proc/{it.handler(1)}")
    assert not [one for one in it.records if one.startswith("end")]


@pytest.mark.parametrize(
    "step",
    [
        "os.dup2(1, 200)",
        "os.fork() or time.sleep(60)",
        "os.fork() or (os.setsid(), time.sleep(60))",
    ],
    ids=["higher descriptor", "grandchild", "grandchild of another session"],
)
def test_the_connection_stays_while_somebody_of_the_handlers_has_it(launcher, step):
    it = launcher.python(CLOSES.format(step=step), constants=FAST)
    peer = it.connect()
    it.handler(1)
    peer.settimeout(0.4)
    with pytest.raises(TimeoutError):
        peer.recv(1)
    assert not [one for one in it.records if one.startswith("end")]
    # The grandchild of another session ends with its own sleep or by its name below.
    for pid in _family(it.handler(1)):
        os.kill(pid, signal.SIGKILL)
    peer.settimeout(20)
    assert read_all(peer) == b""


@pytest.mark.root
def test_a_set_user_id_handler_that_hidepid_hides_keeps_its_idle_connection(
    launcher, tmp_path
):
    program = tmp_path / "cat"
    shutil.copy("/bin/cat", program)
    program.chmod(0o4755)
    nobody = {"user": "nobody", "uid": 65534, "gid": 65534, "groups": []}
    it = launcher(exec=[str(program)], constants=FAST, prefix=HIDDEN, **nobody)
    peer = it.connect()
    peer.sendall(b"a")
    assert peer.recv(1) == b"a"
    if os.stat(f"/proc/{it.handler(1)}").st_uid:
        pytest.skip("this file system takes no set-user-ID programs")
    stays_open(peer)
    peer.sendall(b"b")
    assert peer.recv(1) == b"b"
    peer.shutdown(socket.SHUT_WR)
    assert read_all(peer) == b""
    it.wait("^end 1 0 0 ")


@pytest.mark.root
def test_without_proc_an_idle_handler_keeps_its_connection(launcher):
    it = launcher(constants=FAST, prefix=NO_PROC)
    peer = it.connect()
    it.handler(1)
    stays_open(peer)
    peer.sendall(b"b")
    assert peer.recv(1) == b"b"
    assert it.talk(b"another") == b"another"


@pytest.mark.root
def test_without_proc_a_connection_ends_with_the_last_of_its_handlers_group(launcher):
    script = "exec 3<&0; (read line <&3; echo $line) &"
    it = launcher.shell(script, constants=FAST, prefix=NO_PROC)
    peer = it.connect()
    it.wait("^end 1 0 0 ")
    stays_open(peer)
    peer.sendall(b"later\n")
    assert read_all(peer) == b"later\n"
    it.put("retire")
    assert it.wait_end() == 0


def _family(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [pid, *map(int, file.read().split())]


def test_a_background_process_keeps_the_connection_of_an_ended_handler(launcher):
    it = launcher.python(
        "import os\n"
        "def main(argv):\n"
        " if not os.fork():\n"
        "  os.write(1, os.read(0, 10)); os._exit(0)\n",
        constants=FAST,
    )
    peer = it.connect()
    it.wait("^end 1 0 0 ")
    peer.sendall(b"later")
    assert read_all(peer) == b"later"


# -- processes that left their handler's group -----------------------------------------

LATE = (
    "import os, time\n"
    "def main(argv):\n"
    " if not os.fork():\n"
    "  os.setsid(); time.sleep(1); os.write(1, b'late'); os._exit(0)\n"
)


def test_a_child_in_a_session_of_its_own_still_writes_when_its_handler_has_ended(
    launcher,
):
    it = launcher.python(LATE)
    peer = it.connect()
    it.wait("^end 1 0 0 ")
    assert read_all(peer) == b"late"
    it.put("retire")
    assert it.wait_end() == 0


@pytest.mark.root
def test_it_does_so_under_another_user_as_well(launcher):
    program = ["/bin/sh", "-c", "setsid sh -c 'sleep 1; echo late' & exit 0"]
    it = launcher(exec=program, user="nobody", uid=65534, gid=65534, groups=[])
    assert it.talk() == b"late\n"


def test_a_daemon_that_was_seen_before_its_handler_ended_keeps_the_connection(launcher):
    # It was forked twice: it is the launcher's child while its handler still runs, and
    # other handlers end in between.
    it = launcher.python(
        "import os\n"
        "def main(argv):\n"
        " if os.read(0, 1) != b'd': return\n"
        " child = os.fork()\n"
        " if not child:\n"
        "  os.setsid()\n"
        "  if os.fork(): os._exit(0)\n"
        "  os.write(1, b'.')\n"
        "  while (word := os.read(0, 1)) != b'l': os.write(1, b'wait')\n"
        "  os.write(1, b'late'); os._exit(0)\n"
        " os.waitpid(child, 0)\n"
        " os.kill(os.getpid(), 19)\n",
        constants=FAST,
    )
    peer = it.connect()
    peer.sendall(b"d")
    assert peer.recv(1) == b"."
    assert it.talk(b"x") == b""
    os.kill(it.handler(1), signal.SIGKILL)
    it.wait("^end 1 ")
    stays_open(peer)
    peer.sendall(b"l")
    assert read_all(peer) == b"late"


def test_a_daemon_that_is_known_costs_later_handlers_no_look_at_all(launcher):
    it = launcher.python(
        "import os, time\n"
        "from superd.launcher import jobs\n"
        "look, calls = jobs.held_by_others, []\n"
        "def counted(socks):\n"
        " calls.append(socks)\n"
        " return look(socks)\n"
        "jobs.held_by_others = counted\n"
        "def main(argv):\n"
        " if os.read(0, 1) == b'd':\n"
        "  read, write = os.pipe()\n"
        "  pid = os.fork()\n"
        "  if not pid:\n"
        "   os.setsid(); null = os.open('/dev/null', os.O_RDWR)\n"
        "   os.dup2(null, 0); os.dup2(null, 1)\n"
        "   os.write(write, b'.'); time.sleep(60)\n"
        "  os.read(read, 1)\n"
        "  os.write(1, b'%d ' % pid)\n"
        " os.write(1, b'%d' % len(calls))\n",
        constants=FAST,
    )
    daemon, looks = it.talk(b"d").split()
    try:
        # A sweep may look as well, when it meets a handler that has just ended; a look
        # for each of twenty handlers would be twenty.
        later = [int(it.talk(b"x")) for _ in range(20)]
        assert later[-1] - int(looks) < 10
    finally:
        os.kill(int(daemon), signal.SIGKILL)
