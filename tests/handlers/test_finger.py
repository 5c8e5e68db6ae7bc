"""The finger handler: real processes, a fake finger program, the real client."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from contextlib import ExitStack, contextmanager

import pytest
from inetd import connection, cuts, fork, reached, spawn_handler
from looped import in_loop
from looped import serve as serve_all

from superd.handlers import finger
from superd.handlers.finger_accounts import hides
from superd.handlers.finger_loop import AT_ONCE

DENIED = b"Finger forwarding service denied\r\n"
NO_LIST = b"Finger online user list denied\r\n"
ME = "root"  # the one user of every machine; hidden but for --min-uid 0
KNOWN = ("--min-uid", "0")


@pytest.fixture
def program(tmp_path):
    """Make a finger program out of a shell script."""

    def make(script):
        path = tmp_path / "finger"
        path.write_text("#!/bin/sh\n" + textwrap.dedent(script))
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture(params=["process", "loop"])
def serve(request):
    """Serve one connection by main() or by serve()."""
    main = finger.main if request.param == "process" else in_loop(finger)

    def start(*flags, **how):
        return fork(main, *flags, **how)

    return start


@pytest.fixture
def ask(serve):
    def talk(query, *flags):
        with serve(*flags) as served:
            answer = served.talk(query)
            assert served.wait() == 0
            assert served.log == ""
            return answer

    return talk


def test_a_known_user_is_told_of(ask):
    answer = ask(ME.encode() + b"\r\n", "--builtin", *KNOWN)
    assert answer.startswith(f"Login: {ME} ".encode())
    assert b"Name: " in answer
    assert answer.endswith(b"\r\n")
    assert answer.count(b"\n") == answer.count(b"\r\n")


@pytest.mark.parametrize("how", ["whole", "line", "byte", "random"])
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_the_query_may_come_in_pieces(serve, how, end):
    query = b"/W   " + ME.encode() + end
    with serve("--builtin", *KNOWN, kind="records") as served:
        # Nothing is closed by the peer: the line end alone brings the answer.
        for piece in cuts(query, how, random.Random(7)):
            served.send(piece)
        assert served.read().startswith(b"Login: ")
        assert served.end().wait() == 0


def test_unknown_and_system_users_get_the_same_text(ask):
    unknown = ask(b"nosuchuser\r\n")
    assert unknown == b"nosuchuser: no such user.\r\n"
    assert ask(b"root\r\n") == unknown.replace(b"nosuchuser", b"root")
    assert ask(b"nobody\r\n", *KNOWN) == unknown.replace(b"nosuchuser", b"nobody")


def test_a_user_hides_by_a_file_that_is_not_followed(tmp_path):
    assert not hides(str(tmp_path))
    (tmp_path / ".nofinger").symlink_to("/nowhere")
    assert hides(str(tmp_path))


@pytest.mark.parametrize(
    "query", [b"a@b", b"@b", b"/W @b", b"a@b@c@d", b"@" * 500, b"a@", b"-l @x"]
)
def test_forwarding_is_refused_on_stdout(ask, query):
    assert ask(query + b"\r\n") == DENIED


@pytest.mark.parametrize("query", [b"", b"/W", b"  "])
def test_the_list_of_users_is_denied_unless_it_is_wanted(ask, query, program):
    lister = program('echo "list $*"')
    assert ask(query + b"\r\n", "--program", lister) == NO_LIST
    expected = b"list -l\r\n" if b"W" in query else b"list \r\n"
    assert ask(query + b"\r\n", "--list", "--program", lister) == expected


@pytest.mark.parametrize(
    "name",
    [
        b"-s",
        b"--",
        b"-",
        b"/etc/passwd",
        b"../x",
        b";id",
        b"`id`",
        b"a|b",
        b"x" * 33,
        b"$(id)",
        b"~root",
        b"search.*",
        b"\xe4",
    ],
)
def test_what_is_no_name_reaches_no_program(ask, name, program, tmp_path):
    marker = tmp_path / "ran"
    answer = ask(name + b"\r\n", "--program", program(f"touch {marker}"), *KNOWN)
    assert answer == b"finger: that is no user name\r\n"
    assert not marker.exists()


def test_several_names_are_refused_unless_they_are_wanted(ask):
    query = f"{ME} nosuchuser\r\n".encode()
    assert ask(query, *KNOWN) == b"finger: at most 1 in one query\r\n"
    answer = ask(query, "--max-names", "2", "--builtin", *KNOWN)
    assert answer.startswith(b"Login: ")
    assert answer.endswith(b"nosuchuser: no such user.\r\n")


@pytest.mark.parametrize(
    "query", [b"a\0b\r\n", b"a\x1b[1m\r\n", b"x" * 512, b"x" * 9999]
)
def test_a_query_that_breaks_the_protocol_counts_against_the_peer(serve, query):
    with serve() as served:
        answer = served.talk(query)
        assert answer.startswith(b"finger: ")
        assert answer.isascii()
        assert served.wait() == 110
        assert served.log.count("\n") == 1


def test_the_longest_line_is_512_bytes(serve):
    with serve() as served:
        assert served.talk(b" " * 510 + b"\r\n") == NO_LIST


def test_a_peer_that_asks_nothing_gets_nothing(ask):
    assert ask(b"") == b""


def test_a_peer_that_sends_a_byte_now_and_then_is_late(serve):
    with serve("--line-timeout", "0.2") as served:
        answer = b""
        served.sock.settimeout(0.02)
        while not answer:
            served.send(b"x")
            try:
                answer = served.sock.recv(100)
            except TimeoutError:
                continue
        served.end()
        assert answer == b"finger: no query in time\r\n"
        assert served.wait() == 112


def test_the_program_gets_nothing_of_the_connection(serve, program):
    script = """
        echo "args $*"
        echo "stdin $(cat | wc -c)"
        env | sort | grep -v '^\\(PWD\\|SHLVL\\|_\\|OLDPWD\\)='
        ls -x /proc/$$/fd
        echo "session $(($(cut -d' ' -f6 /proc/$$/stat) == $$))"
        echo "to stderr" >&2
    """
    with serve("--program", program(script), *KNOWN) as served:
        answer = served.talk(f"/W {ME}\r\nmore bytes\r\n".encode()).decode()
        assert served.wait() == 0
    lines = answer.split("\r\n")
    assert lines[0] == f"args -l -m -- {ME}"
    assert lines[1].split() == ["stdin", "0"]
    assert lines[2:5] == ["LANG=C", "LC_ALL=C", "PATH=/usr/bin:/bin"]
    # 10 or 255 is the shell's own, for the script.
    assert set(lines[5].split()) <= {"0", "1", "2", "10", "255"}
    assert lines[6:8] == ["session 1", "to stderr"]


def test_a_program_that_talks_for_ever_is_cut_and_killed(serve, program):
    flags = ("--program", program("while :; do echo xxxxxxxxxxxxxxx; done"), *KNOWN)
    with serve(*flags) as served:
        answer = served.talk(ME.encode() + b"\r\n")
        assert 65536 - 17 <= len(answer) <= 65536
        assert answer.endswith(b"x\r\n")
        assert served.wait() == 0
        assert "said more than 65536 bytes" in served.log


def test_a_program_that_hangs_is_killed_with_all_it_started(serve, program, tmp_path):
    pids = tmp_path / "pids"
    script = f"echo partial; sleep 1000 & echo $$ $! > {pids}; sleep 1000"
    flags = ("--program", program(script), "--program-timeout", "0.3", *KNOWN)
    with serve(*flags) as served:
        assert served.talk(ME.encode() + b"\r\n") == b"partial\r\n"
        assert served.wait() == 0
        assert "took too long" in served.log
    for pid in pids.read_text().split():
        assert reached(lambda pid=pid: _is_dead(pid))


def _is_dead(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_whoever_stops_the_handler_stops_the_program(serve, program, tmp_path):
    pid = tmp_path / "pid"
    script = f"echo $$ > {pid}.new; mv {pid}.new {pid}; sleep 1000"
    with serve("--program", program(script), *KNOWN) as served:
        served.send(ME.encode() + b"\r\n")
        assert reached(pid.exists)
        os.kill(served.pid, signal.SIGTERM)
        served.wait()
    assert reached(lambda: _is_dead(pid.read_text().strip()))


def test_a_program_that_says_nothing_is_answered_for(ask, program):
    flags = ("--program", program("exit 1"), *KNOWN)
    assert ask(ME.encode() + b"\r\n", *flags) == b"finger: no answer\r\n"


def test_a_program_that_is_none_is_the_operators_fault(serve, tmp_path):
    with serve("--program", str(tmp_path)) as served:
        assert served.read() == b""
        assert served.wait() == 100
        assert "is no program we may run" in served.log


def test_queries_are_logged_without_a_way_to_forge_a_line(serve):
    with serve("--log-queries") as served:
        served.talk(b"x\xff'y\r\n")
        assert served.wait() == 0
        assert served.log == 'finger: query b"x\\xff\'y"\n'


def test_a_peer_that_goes_while_the_program_runs_is_no_error(serve, program):
    with serve("--program", program("echo x"), *KNOWN) as served:
        served.send(ME.encode() + b"\r\n")
        served.reset()
        assert served.wait() == 0
        assert served.log == ""


def test_programs_of_a_loop_are_so_many_at_once_and_no_more(program, tmp_path):
    """Forty questions at once; each program counts those that run beside it."""
    running = tmp_path / "running"
    running.mkdir(mode=0o777)
    counts = tmp_path / "counts"
    script = f"""
        : > {running}/$$
        ls {running} | wc -l >> {counts}
        read line < /proc/self/stat
        rm {running}/$$
        echo done
    """
    answers = ask_at_once(40, "--program", program(script), *KNOWN)
    assert answers == [b"done\r\n"] * 40
    found = [int(line) for line in counts.read_text().split()]
    assert len(found) == 40
    assert max(found) <= AT_ONCE


def test_a_question_that_gets_no_turn_in_time_is_answered_all_the_same(program):
    flags = ("--program", program("sleep 1000"), "--program-timeout", "0.3", *KNOWN)
    assert ask_at_once(20, *flags) == [b"finger: no answer\r\n"] * 20


def test_a_slow_program_does_not_hold_up_an_answer_without_one(program, tmp_path):
    gate = tmp_path / "gate"
    script = f"flock --shared {gate} echo open"
    words = [*[ME] * 2 * AT_ONCE, "nosuchuser"]
    with gate.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with many(words, "--program", program(script), *KNOWN) as peers:
            assert read_all(peers[-1]) == b"nosuchuser: no such user.\r\n"
            fcntl.flock(lock, fcntl.LOCK_UN)
            answers = [read_all(peer) for peer in peers[:-1]]
    assert answers == [b"open\r\n"] * 2 * AT_ONCE


@contextmanager
def many(words, *flags):
    """Ask a worker of a loop all these at once; gives the peers."""
    pairs = [connection("pair") for _ in words]

    def main(argv):
        for peer, _ in pairs:
            peer.close()
        statuses = serve_all(finger, argv, [sock.fileno() for _, sock in pairs])
        for _, sock in pairs:
            sock.close()
        return max(statuses)

    with ExitStack() as stack:
        for pair in pairs:
            for sock in pair:
                stack.enter_context(sock)
        pid = os.fork()
        if not pid:
            status = 99
            try:
                status = main(list(flags))
            finally:
                os._exit(status)
        for (peer, sock), word in zip(pairs, words, strict=True):
            sock.close()
            peer.settimeout(20)
            peer.sendall(word.encode() + b"\r\n")
            peer.shutdown(socket.SHUT_WR)
        try:
            yield [peer for peer, _ in pairs]
        finally:
            for peer, _ in pairs:
                peer.close()
            status = os.waitpid(pid, 0)[1]
        assert os.waitstatus_to_exitcode(status) == 0


def ask_at_once(number, *flags):
    with many([ME] * number, *flags) as peers:
        return [read_all(peer) for peer in peers]


def read_all(sock):
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


def test_it_runs_as_a_module_under_any_inetd():
    with spawn_handler("finger") as served:
        assert served.talk(b"a@b\r\n") == DENIED
        assert served.wait() == 0


SERVE_PORT_79 = """
import os, socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
listener = socket.create_server(("127.0.0.1", 79))
client = subprocess.Popen(["finger", *sys.argv[1:]], stdout=subprocess.PIPE)
conn, _ = listener.accept()
handler = [sys.executable, "-m", "superd.handlers.finger", "--min-uid", "0"]
subprocess.run(handler, stdin=conn, stdout=conn, check=True)
conn.close()
sys.stdout.buffer.write(client.communicate(timeout=10)[0])
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["root@127.0.0.1"], "Login: root"),
        (["-l", "root@127.0.0.1"], "Login: root"),
        (["nosuchuser@127.0.0.1"], "nosuchuser: no such user."),
        (["@127.0.0.1"], "Finger online user list denied"),
        (["a@b@127.0.0.1"], "Finger forwarding service denied"),
    ],
)
def test_the_real_client_understands_the_answer(words, expected):
    for tool, package in (("finger", "finger"), ("unshare", "util-linux")):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt install {package}")
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", SERVE_PORT_79, *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode and "Operation not permitted" in done.stderr:
        pytest.skip("no network namespace may be made here")
    assert expected in done.stdout, done.stderr
