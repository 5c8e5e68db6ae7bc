"""A role with and without a program: what flows, and with which status it ends."""

from __future__ import annotations

import os
import pty
import re
import socket
import subprocess

import pytest
from inetd import DEADLINE, reached
from roles import (
    COMMAND,
    ROOT,
    Role,
    connect,
    environment,
    listener,
    read_to_end,
    reset,
)

NUMBERS = b"".join(b"%d\n" % n for n in range(100_000))
BINARY = os.urandom(3 << 20)


def run(*argv, **how):
    return subprocess.run(
        [*COMMAND, *argv],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        timeout=DEADLINE,
        **how,
    )


def test_three_programs_over_tcp_give_what_a_shell_gives(tmp_path):
    (tmp_path / "data").write_bytes(NUMBERS)
    with (
        Role(listen="127.0.0.1:0", program=["sort", "-rn"]) as tail,
        Role(listen="127.0.0.1:0", to=tail.address, program=["grep", "7"]) as middle,
        Role(to=middle.address, program=["cat", tmp_path / "data"]) as head,
    ):
        assert head.end() == (0, b"", "")
        assert middle.end() == (0, b"", "")
        status, out, err = tail.end()
    shell = f"cat {tmp_path}/data | grep 7 | sort -rn"
    assert (status, err) == (0, "")
    assert out == subprocess.run(["sh", "-c", shell], capture_output=True).stdout


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_without_a_program_a_role_copies_its_own_stdin_and_stdout(tmp_path, kind):
    (tmp_path / "data").write_bytes(BINARY)
    with (
        open(tmp_path / "data", "rb") as data,
        open(tmp_path / "out", "wb") as out,
        Role(
            listen="127.0.0.1:0", stdout=out if kind == "file" else subprocess.PIPE
        ) as tail,
        Role(listen="127.0.0.1:0", to=tail.address) as middle,
        Role(
            to=middle.address, stdin=data if kind == "file" else subprocess.PIPE
        ) as head,
    ):
        assert head.end(BINARY if kind == "pipe" else None)[0] == 0
        status, got, err = tail.end()
        assert middle.end()[0] == 0
    assert (status, err) == (0, "")
    assert (got if kind == "pipe" else (tmp_path / "out").read_bytes()) == BINARY


def test_a_file_in_append_mode_which_splice_refuses_is_written_as_well(tmp_path):
    (tmp_path / "out").write_bytes(b"before\n")
    with (
        open(tmp_path / "out", "ab") as out,
        Role(listen="127.0.0.1:0", stdout=out) as tail,
        connect(tail) as sock,
    ):
        sock.sendall(BINARY)
        sock.shutdown(socket.SHUT_WR)
        assert tail.end()[0] == 0
    assert (tmp_path / "out").read_bytes() == b"before\n" + BINARY


@pytest.mark.parametrize("flags", [[], ["--socket"]])
def test_the_programs_status_is_the_commands(flags):
    for program, status in (
        (["sh", "-c", "exit 3"], 3),
        (["false"], 1),
        (["sh", "-c", "kill -9 $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
    ):
        with (
            listener() as after,
            Role(*flags, to=after.getsockname(), program=program) as head,
        ):
            after.accept()[0].close()
            assert head.end()[0] == status


def test_what_cannot_be_executed_has_the_status_that_shells_give(tmp_path):
    (tmp_path / "text").write_text("no program")
    for program, status, line in (
        ("no-such-program", 127, "no such program; check its name and PATH"),
        (str(tmp_path / "text"), 126, "cannot start: Permission denied"),
    ):
        with (
            listener() as after,
            Role(to=after.getsockname(), program=[program]) as head,
        ):
            with after.accept()[0] as sock:
                assert read_to_end(sock) == (b"", "reset")
            assert head.end()[::2] == (status, f"superd-pipe: {program}: {line}\n")


def test_a_closed_folder_in_path_hides_a_program_and_does_not_forbid_it(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    (tmp_path / "there").write_text("no program")
    path = f"{closed}:{tmp_path}:{os.environ['PATH']}"
    for program, status in (("no-such-program", 127), ("there", 126)):
        with (
            listener() as after,
            Role(
                to=after.getsockname(), program=[program], env=environment(PATH=path)
            ) as head,
        ):
            assert head.end()[0] == status
    closed.chmod(0o700)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "neither --listen nor --to"),
        (["--listen", "x"], "x: no address; write PORT or HOST:PORT"),
        (["--listen", "65536"], "65536: no address"),
        (["--listen", "::1:9"], "::1:9: no address"),
        (["--to", "9003"], "9003: no address; write HOST:PORT"),
        (["--to", "host:0"], "host:0: no address"),
        (["--to", "host:9", "--wait", "ten"], "ten is no duration; for example 10s"),
        (["--to", "host:9", "--keep"], "are for a role with --listen"),
        (["--to", "host:9", "--socket"], "--socket is for a role with a program"),
        (["--to", "host:9", "--"], "no program after --"),
        (["--tooo", "host:9"], "unrecognized arguments"),
        (["--listen", "0", "--from", "here"], "--from here: no IP address"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_64(argv, said):
    done = run(*argv)
    text = done.stderr.decode()
    assert done.returncode == 64
    assert said in text
    assert text.count("\n") == 1


def test_the_help_shows_a_pipeline():
    done = run("--help")
    assert done.returncode == 0
    assert b"superd-pipe --listen 9002 --to hostC:9003 -- grep" in done.stdout


def test_nobody_to_connect_to_is_told_with_the_way_out():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = run("--to", f"127.0.0.1:{port}", "--wait", "100ms", "--", "cat")
    assert done.returncode == 69
    assert done.stderr.decode() == (
        f"superd-pipe: cannot connect to 127.0.0.1:{port}: ECONNREFUSED (Connection "
        "refused), tried for 0.1 s; start that stage first, or give it more time with "
        "--wait\n"
    )


def test_a_port_that_is_taken_is_told():
    with listener() as taken:
        port = taken.getsockname()[1]
        done = run("--listen", f"127.0.0.1:{port}", "--", "cat")
    assert done.returncode == 69
    assert f"cannot listen on 127.0.0.1:{port}: EADDRINUSE" in done.stderr.decode()


@pytest.mark.parametrize("name", ["no.such.host.invalid", "x" * 70, "a..b"])
def test_a_name_that_is_none_is_told(name):
    for flags in (["--to", f"{name}:9", "--wait", "0s"], ["--listen", f"{name}:9"]):
        done = run(*flags, "--", "cat")
        assert done.returncode == 69
        assert name in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1


def test_a_stage_that_comes_late_is_waited_for():
    with socket.socket() as after:
        after.bind(("127.0.0.1", 0))
        after.settimeout(DEADLINE)
        with Role(to=after.getsockname(), program=["echo", "late"]) as head:
            # The kernel refuses it until we listen: it sleeps between two tries.
            assert reached(lambda: "nanosleep" in _waits_in(head.pid))
            after.listen()
            with after.accept()[0] as sock:
                assert read_to_end(sock) == (b"late\n", "end")
            assert head.end()[0] == 0


def _waits_in(pid):
    with open(f"/proc/{pid}/wchan") as file:
        return file.read()


@pytest.mark.parametrize(
    ("listen", "hosts"),
    [
        ("0", ["127.0.0.1", "::1"]),
        ("localhost:0", ["127.0.0.1"]),
        ("[::1]:0", ["::1"]),
    ],
)
def test_it_listens_on_ipv4_ipv6_and_names(listen, hosts):
    for host in hosts:
        with Role(listen=listen, program=["cat"]) as tail:
            port = tail.where[1]
            with socket.create_connection((host, port), timeout=DEADLINE) as sock:
                sock.sendall(b"x")
                sock.shutdown(socket.SHUT_WR)
                assert tail.end()[:2] == (0, b"x")


def test_it_connects_to_names_and_ipv6():
    for host, name in (("127.0.0.1", "localhost"), ("::1", "[::1]")):
        with listener(host) as after:
            to = f"{name}:{after.getsockname()[1]}"
            with Role(to=to, program=["echo", "x"]) as head:
                with after.accept()[0] as sock:
                    assert read_to_end(sock) == (b"x\n", "end")
                assert head.end()[0] == 0


def test_port_0_is_told_on_stderr():
    with Role("--listen", "127.0.0.1:0") as tail:
        line = tail.process.stderr.readline().decode()
        assert re.fullmatch(r"superd-pipe: listening on 127\.0\.0\.1:\d+\n", line)


def test_one_peer_and_the_listening_socket_is_closed():
    with Role(listen="127.0.0.1:0", program=["cat"]) as tail, connect(tail) as sock:
        tail.child()
        with pytest.raises(ConnectionRefusedError):
            connect(tail)
        sock.shutdown(socket.SHUT_WR)
        assert tail.end()[0] == 0


def test_with_keep_the_next_one_is_served_after_it():
    with Role("--keep", listen="127.0.0.1:0", program=["cat"]) as tail:
        for word in (b"one\n", b"two\n"):
            with connect(tail) as sock:
                sock.sendall(word)
                sock.shutdown(socket.SHUT_WR)
                assert tail.process.stdout.read(4) == word
        tail.process.terminate()
        assert tail.end()[0] in (-15, 143)


def test_with_keep_a_failure_of_one_is_not_the_end():
    with (
        socket.socket() as nobody,
        Role("--keep", "--wait", "0s", listen="127.0.0.1:0", to="127.0.0.1:1") as role,
    ):
        nobody.bind(("127.0.0.1", 0))
        for _ in range(2):
            with pytest.raises(ConnectionResetError), connect(role) as sock:
                sock.recv(1)
            assert b"cannot connect to 127.0.0.1:1" in role.process.stderr.readline()
        assert role.process.poll() is None


def test_only_the_peer_that_from_names_is_accepted():
    with Role("--from", "127.0.0.2", listen="127.0.0.1:0", program=["cat"]) as tail:
        # The reset may be there before connect() has returned.
        with pytest.raises(ConnectionResetError), connect(tail) as stranger:
            stranger.recv(1)
        with socket.create_connection(
            tail.where, timeout=DEADLINE, source_address=("127.0.0.2", 0)
        ) as sock:
            sock.sendall(b"x")
            sock.shutdown(socket.SHUT_WR)
            status, out, err = tail.end()
    assert (status, out) == (0, b"x")
    assert re.fullmatch(r"superd-pipe: refused 127\.0\.0\.1:\d+: .*\n", err)


def test_nothing_is_started_before_every_joint_is_connected(tmp_path):
    mark = tmp_path / "started"
    with (
        listener() as after,
        Role(
            listen="127.0.0.1:0", to=after.getsockname(), program=["touch", mark]
        ) as middle,
    ):
        sock = after.accept()[0]
        with sock:
            assert not mark.exists()
            with connect(middle):
                assert middle.end()[0] == 0
            assert mark.exists()


def test_a_stage_after_that_leaves_early_ends_the_wait_for_the_one_before():
    with (
        listener() as after,
        Role(
            "--wait",
            "0s",
            listen="127.0.0.1:0",
            to=after.getsockname(),
            program=["cat"],
        ) as middle,
    ):
        sock = after.accept()[0]
        # It waits for the stage before, in poll: its own connection stands.
        assert reached(lambda: "poll" in _waits_in(middle.pid))
        reset(sock)
        status, _, err = middle.end()
    assert status == 69
    assert "has gone before the one before came" in err


def test_a_program_gets_real_pipes_and_every_signal_at_its_default():
    script = "test -p /dev/stdin && test -p /dev/stdout && cat /dev/stdin; "
    script += "grep SigIgn /proc/self/status; ls /proc/self/fd"
    with (
        listener() as after,
        Role(
            listen="127.0.0.1:0", to=after.getsockname(), program=["sh", "-c", script]
        ) as middle,
    ):
        sock = after.accept()[0]
        with sock, connect(middle) as before:
            before.sendall(b"reopened\n")
            before.shutdown(socket.SHUT_WR)
            out, how = read_to_end(sock)
        assert middle.end()[0] == 0
    assert how == "end"
    first, _, ignored, *fds = out.decode().split()
    # 3 is the folder that ls reads.
    assert (first, fds) == ("reopened", list("0123"))
    # 32 and 33 are the C library's own, which whoever started us may have left ignored.
    assert int(ignored, 16) & ~(0b11 << 31) == 0


def test_with_socket_it_gets_the_sockets_themselves():
    script = "test -S /dev/stdin && test -S /dev/stdout && cat"
    with (
        listener() as after,
        Role(
            "--socket",
            listen="127.0.0.1:0",
            to=after.getsockname(),
            program=["sh", "-c", script],
        ) as middle,
    ):
        sock = after.accept()[0]
        with sock, connect(middle) as before:
            before.sendall(b"x" * 100_000)
            before.shutdown(socket.SHUT_WR)
            assert read_to_end(sock) == (b"x" * 100_000, "end")
        assert middle.end() == (0, b"", "")


def test_closed_standard_descriptors_are_no_trap():
    with listener() as after:
        prefix = ["sh", "-c", 'exec "$@" <&- >&-', "sh"]
        with Role(to=after.getsockname(), program=["echo", "x"], prefix=prefix) as head:
            with after.accept()[0] as sock:
                assert read_to_end(sock) == (b"x\n", "end")
            assert head.end()[0] == 0


def test_the_report_is_a_table_with_exit_bytes_and_time():
    with (
        Role("--report", listen="127.0.0.1:0", program=["wc", "-c"]) as tail,
        connect(tail) as sock,
    ):
        sock.sendall(bytes(1_500_000))
        sock.shutdown(socket.SHUT_WR)
        status, out, err = tail.end()
    assert (status, out) == (0, b"1500000\n")
    head, row = err.splitlines()
    assert head.split() == [
        "stage",
        "host",
        "command",
        "exit",
        "in",
        "out",
        "time",
        "note",
    ]
    assert re.fullmatch(r"1 +\S+ +wc +0 +1\.5 MB +- +\d+\.\d\d s", row)


def test_progress_is_shown_on_a_terminal_and_nowhere_else():
    for on_terminal in (True, False):
        ours, theirs = pty.openpty()
        argv = [*COMMAND, "--listen", "127.0.0.1:0", "--progress"]
        ready, write = os.pipe()
        with subprocess.Popen(
            [*argv, "--ready-fd", str(write)],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=theirs if on_terminal else subprocess.PIPE,
            pass_fds=[write],
        ) as process:
            os.close(write)
            with os.fdopen(ready) as pipe:
                host, port = pipe.read().strip().split(":")
            with socket.create_connection((host, int(port))) as sock:
                sock.sendall(bytes(1_500_000))
            said = b"" if on_terminal else process.stderr.read()
            assert process.wait(DEADLINE) == 0
        os.close(theirs)
        while on_terminal and b"/s" not in said:
            said += os.read(ours, 4096)
        os.close(ours)
        assert (b"1.5 MB  " in said) == on_terminal
