"""How a stream ends: FIN means that it is whole, everything else is a reset."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress

import pytest
from inetd import reached
from roles import (
    Role,
    connect,
    is_running,
    listener,
    read_to_end,
    reset,
    signal_and_wait,
)

ON_END = 'cat > "$0"; echo whole > "$0.whole"'
"""A tail that does something when its input ends, and must not when it is cut."""
PART = ["sh", "-c", "echo part; exec sleep 60"]


def head(program, *flags, **how):
    """Start a head; returns the role and our end of its stream."""
    with listener() as after:
        role = Role(*flags, to=after.getsockname(), program=program, **how)
        return role, after.accept()[0]


@pytest.mark.parametrize("flags", [[], ["--socket"]])
@pytest.mark.parametrize(
    ("script", "status", "how"),
    [
        ("echo part; kill -9 $$", 137, "reset"),
        ("echo part; kill -TERM $$", 143, "reset"),
        ("echo part; exit 124", 124, "reset"),  # timeout(1)
        ("echo part; no-such-program", 127, "reset"),
        ("echo part; sh -c 'kill -9 $$'; exit $?", 137, "reset"),
        ("echo part; exit 1", 1, "end"),  # grep, diff: an answer
        ("echo part; exit 123", 123, "end"),
        ("echo part; exit 0", 0, "end"),
    ],
)
def test_a_program_that_something_ended_ends_its_stream_by_a_reset(
    flags, script, status, how
):
    role, sock = head(["sh", "-c", script], *flags)
    with role, sock:
        assert read_to_end(sock) == (b"part\n", how)
        assert role.end()[0] == status


def test_a_grep_without_a_match_is_a_plain_end_with_its_status():
    with (
        Role(listen="127.0.0.1:0", program=["wc", "-c"]) as tail,
        Role(listen="127.0.0.1:0", to=tail.address, program=["grep", "x"]) as middle,
        connect(middle) as sock,
    ):
        sock.sendall(b"a\nb\n")
        sock.shutdown(socket.SHUT_WR)
        assert middle.end() == (1, b"", "")
        assert tail.end() == (0, b"0\n", "")


def test_with_strict_every_status_but_0_cuts_the_stream():
    role, sock = head(["sh", "-c", "echo part; exit 1"], "--strict")
    with role, sock:
        assert read_to_end(sock) == (b"part\n", "reset")
        status, _, err = role.end()
    assert status == 1
    assert err.startswith("superd-pipe: sh: exit 1; 127.0.0.1:")
    assert err.endswith("hears: cut short\n")


@pytest.mark.parametrize("flags", [[], ["--socket"]])
def test_a_kill_of_the_command_itself_is_a_reset_and_takes_the_program_along(flags):
    role, sock = head(PART, *flags)
    with role, sock:
        assert sock.recv(5) == b"part\n"
        child = role.child()
        assert is_running(child)
        role.process.kill()
        assert read_to_end(sock) == (b"", "reset")
        assert reached(lambda: not is_running(child))


@pytest.mark.parametrize("ends", ["whole", "reset", "killed"])
def test_a_program_sees_the_end_of_its_input_only_where_the_stream_was_whole(
    tmp_path, ends
):
    got, whole = tmp_path / "got", tmp_path / "got.whole"
    with Role(listen="127.0.0.1:0", program=["sh", "-c", ON_END, got]) as tail:
        sock = connect(tail)
        sock.sendall(b"some\n")
        assert reached(lambda: got.exists() and got.read_bytes() == b"some\n")
        shell = tail.child()
        if ends == "whole":
            sock.close()
        elif ends == "reset":
            reset(sock)
        else:
            tail.process.kill()
        status, _, err = tail.end()
        sock.close()
        assert reached(lambda: not is_running(shell))
    assert status == {"whole": 0, "reset": 74, "killed": -9}[ends]
    assert whole.exists() == (ends == "whole")
    if ends == "reset":
        assert "was cut short after 5 bytes: ECONNRESET" in err
        assert err.count("\n") == 1


def test_a_kill_of_the_command_never_lets_a_sort_write_half_of_it(tmp_path):
    """Twenty times: the kernel closes the pipe of a killed process before it tells."""
    for number in range(20):
        out = tmp_path / str(number)
        script = 'sort > "$0"; exit 0'
        with Role(listen="127.0.0.1:0", program=["sh", "-c", script, out]) as tail:
            sock = connect(tail)
            sock.sendall(b"b\na\n")
            assert reached(out.exists)
            shell = tail.child()
            tail.process.kill()
            tail.end()
            assert reached(lambda shell=shell: not is_running(shell))
            sock.close()
        assert out.read_bytes() == b""


def test_what_the_program_started_does_not_see_a_false_end_either(tmp_path):
    """The sort is a child of the shell: a kill of the shell alone would let it write."""
    out = tmp_path / "out"
    script = 'sort > "$0"; exit 0'
    with Role(listen="127.0.0.1:0", program=["sh", "-c", script, out]) as tail:
        sock = connect(tail)
        sock.sendall(b"b\na\n")
        assert reached(out.exists)
        reset(sock)
        assert tail.end()[0] == 74
    assert out.read_bytes() == b""


def test_a_program_that_ignores_term_is_killed_after_the_grace(tmp_path):
    script = 'trap "" TERM; echo ready >&2; cat; echo whole'
    with Role(
        "--grace", "100ms", listen="127.0.0.1:0", program=["sh", "-c", script]
    ) as tail:
        sock = connect(tail)
        assert tail.process.stderr.read(6) == b"ready\n"
        child = tail.child()
        reset(sock)
        status, out, _ = tail.end()
        assert (status, out) == (74, b"")
        assert not is_running(child)


def test_a_cut_stream_is_cut_at_every_stage_after_it():
    with (
        Role(listen="127.0.0.1:0", program=["cat"]) as tail,
        Role(listen="127.0.0.1:0", to=tail.address, program=["cat"]) as second,
        Role(listen="127.0.0.1:0", to=second.address) as first,
    ):
        sock = connect(first)
        sock.sendall(b"some\n")
        assert tail.process.stdout.read(5) == b"some\n"
        reset(sock)
        for role in (first, second, tail):
            status, _, err = role.end()
            assert status == 74
            assert "was cut short after 5 bytes: ECONNRESET" in err


def test_a_stage_that_is_killed_in_the_middle_breaks_both_sides():
    with (
        Role(listen="127.0.0.1:0", program=["cat"]) as tail,
        Role(listen="127.0.0.1:0", to=tail.address, program=["cat"]) as middle,
        Role(to=middle.address, program=["yes"]) as first,
    ):
        assert tail.process.stdout.read(2) == b"y\n"
        os.kill(middle.child(), signal.SIGKILL)
        assert middle.end()[0] == 137
        assert first.end()[::2] == (141, "")
        assert tail.end()[0] == 74


@pytest.mark.parametrize("flags", [[], ["--socket"]])
def test_a_head_behind_yes_ends_it_at_once(flags):
    with (
        Role(*flags, listen="127.0.0.1:0", program=["head", "-1"]) as tail,
        Role(
            *flags, listen="127.0.0.1:0", to=tail.address, program=["grep", "y"]
        ) as middle,
        Role(*flags, to=middle.address, program=["yes"]) as first,
    ):
        assert tail.end() == (0, b"y\n", "")
        ended = time.monotonic()
        for role in (middle, first):
            status, _, err = role.end()
            # A socket answers the first write with ECONNRESET, which is no SIGPIPE:
            # the program complains.
            assert (status, err) == (141, "") if not flags else status
        assert time.monotonic() - ended < 2


def test_a_quiet_program_is_not_waited_for_with_a_dead_joint():
    """A program that writes nothing sees nothing; its next write is its last."""
    script = "echo first; read line; echo second; echo third; echo late >&2"
    ours, theirs = os.pipe()
    role, sock = head(["sh", "-c", script], stdin=ours)
    os.close(ours)
    with role:
        assert sock.recv(6) == b"first\n"
        assert _sockets(role.pid) == 1
        reset(sock)
        assert reached(lambda: _sockets(role.pid) == 0)
        os.write(theirs, b"go on\n")
        os.close(theirs)
        assert role.end()[::2] == (141, "")


def _sockets(pid):
    folder = f"/proc/{pid}/fd"
    count = 0
    for fd in os.listdir(folder):
        with suppress(FileNotFoundError):  # closed meanwhile
            count += os.readlink(f"{folder}/{fd}").startswith("socket:")
    return count


def test_a_copy_whose_reader_has_gone_ends_as_cat_does():
    with open("/dev/zero", "rb") as zeros:
        role, sock = head([], stdin=zeros)
    with role:
        sock.recv(1)
        reset(sock)
        assert role.end() == (141, b"", "")


def test_a_full_disk_is_no_clean_end():
    with (
        open("/dev/full", "wb") as full,
        Role(listen="127.0.0.1:0", stdout=full) as tail,
        connect(tail) as sock,
    ):
        sock.sendall(b"x" * 100)
        assert read_to_end(sock)[1] == "reset"
        status, _, err = tail.end()
    assert status == 74
    assert "stdout takes no more after 0 bytes: ENOSPC" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_program_and_the_stream_is_cut(number):
    script = "trap 'echo caught >&2; exit 0' INT TERM HUP; echo part; "
    script += "while :; do sleep 0.05; done"
    role, sock = head(["sh", "-c", script])
    with role, sock:
        assert sock.recv(5) == b"part\n"
        os.kill(role.pid, number)
        assert read_to_end(sock) == (b"", "reset")
        status, _, err = role.end()
    assert status == 128 + number
    # The shell may say as well that its sleep was ended: the whole group hears it.
    assert err.endswith("caught\n")


def test_a_second_signal_does_not_ask():
    role, sock = head(["sh", "-c", "trap '' TERM; echo on; while :; do sleep 1; done"])
    with role, sock:
        assert sock.recv(3) == b"on\n"
        child = role.child()
        os.kill(role.pid, signal.SIGTERM)
        # The first has been handed on when the program has it among the ignored.
        os.kill(role.pid, signal.SIGINT)
        assert read_to_end(sock)[1] == "reset"
        assert role.end()[0] == 137
        assert not is_running(child)


@pytest.mark.parametrize("place", ["connecting", "listening", "copying"])
def test_ctrl_c_is_no_traceback_wherever_it_comes(place):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        if place == "connecting":
            role = Role(to=nobody.getsockname())
            assert reached(lambda: "nanosleep" in _waits_in(role.pid))
        else:
            role = Role(listen="127.0.0.1:0")
        with role:
            sock = connect(role) if place == "copying" else None
            if sock:
                sock.sendall(b"x")
                assert role.process.stdout.read(1) == b"x"
            role.process.send_signal(signal.SIGINT)
            assert role.end() == (130, b"", "")
            if sock:
                assert read_to_end(sock) == (b"", "reset")
                sock.close()


def _waits_in(pid):
    with open(f"/proc/{pid}/wchan") as file:
        return file.read()


def test_a_reader_that_does_not_read_holds_the_writer_up_in_bounded_memory():
    role, sock = head(["sh", "-c", "yes & echo $! >&2; wait $!"])
    with role, sock:
        yes = int(role.process.stderr.readline())
        assert reached(lambda: "pipe" in _waits_in(yes))
        with open(f"/proc/{role.pid}/statm") as file:
            pages = int(file.read().split()[1])
        assert pages * 4096 < 40 << 20
        # Control: what is read makes room, and it writes on.
        before = _written(yes)
        assert reached(lambda: len(sock.recv(1 << 20)) and _written(yes) > before)


def _written(pid):
    with open(f"/proc/{pid}/io") as file:
        return int(file.read().partition("wchar: ")[2].split()[0])


def test_a_program_that_closes_its_output_and_works_on_is_waited_for():
    """FIN says that it went well: that is not known before its end."""
    ours, theirs = os.pipe()
    script = "echo all; exec >&-; read line; kill -9 $$"
    role, sock = head(["sh", "-c", script], stdin=ours)
    os.close(ours)
    with role, sock:
        assert sock.recv(4) == b"all\n"
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        os.write(theirs, b"go on\n")
        os.close(theirs)
        assert read_to_end(sock) == (b"", "reset")
        assert role.end()[0] == 137


def test_what_a_program_left_behind_still_writes_to_the_stream():
    ours, theirs = os.pipe()
    script = "exec 3<&0; (read line <&3; echo late) & exit 0"
    role, sock = head(["sh", "-c", script], stdin=ours)
    os.close(ours)
    with role, sock:
        os.write(theirs, b"go on\n")
        os.close(theirs)
        assert read_to_end(sock) == (b"late\n", "end")
        assert role.end()[0] == 0


def test_a_plain_close_is_what_a_killed_nc_leaves():
    """Negative control: without the rule of joint.py a kill looks like the end."""
    with listener() as after:
        sock = socket.create_connection(after.getsockname())
        conn = after.accept()[0]
        pid = os.fork()
        if not pid:
            after.close()
            conn.close()
            sock.sendall(b"part")
            signal.pause()
        sock.close()
        with conn:
            assert conn.recv(4) == b"part"
            signal_and_wait(pid)
            os.waitpid(pid, 0)
            assert read_to_end(conn) == (b"", "end")
