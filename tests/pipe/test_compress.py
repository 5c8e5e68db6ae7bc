"""Joints that are compressed: of roles, and by one command through the pipe service."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest
from commands import ROOT, environment
from inetd import DEADLINE, reached
from roles import (
    COMMAND,
    Role,
    Run,
    connect,
    listener,
    pipe_service,
    read_to_end,
    write_key,
)

from superd.handlers.pipeline import joint, zstd
from superd.handlers.pipeline.failure import Failure
from superd.handlers.pipeline.frames import FrameError
from superd.pipe.party import Party

try:
    zstd.library()
except Failure as failure:
    pytest.skip(str(failure), allow_module_level=True)

GREETING = b"superd-pipe zstd\n"
TEXT = b"".join(b"%d\n" % n for n in range(100_000))
NOISE = os.urandom(1 << 20)


def compress(data):
    packer = zstd.Packer(3)
    return packer.pack(data) + packer.finish()


@pytest.fixture
def without_zstd(tmp_path):
    """An environment whose Python has no zstd: a package that hides the one there is."""
    folder = tmp_path / "hidden"
    for name in ("backports", "compression"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


# -- roles ---------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [TEXT, NOISE, b""], ids=["text", "noise", "none"])
@pytest.mark.parametrize("program", [["cat"], []])
def test_three_roles_give_what_went_in(data, program):
    flags = ["--compress"]
    with (
        Role(*flags, listen="127.0.0.1:0") as tail,
        Role(*flags, listen="127.0.0.1:0", to=tail.address, program=program) as middle,
        Role("--compress=9", to=middle.address, stdin=subprocess.PIPE) as head,
    ):
        assert head.end(data)[::2] == (0, "")
        assert middle.end()[::2] == (0, "")
        assert tail.end() == (0, data, "")


def test_what_goes_over_the_wire_is_one_stream_of_zstd_and_its_end():
    with listener() as after, Role("--compress", to=after.getsockname()) as head:
        with after.accept()[0] as sock:
            sock.sendall(GREETING)
            data, how = read_to_end(sock)
        assert head.end()[0] == 0
    unpacker = zstd.Unpacker()
    assert (unpacker.unpack(data, 10), unpacker.is_whole, how) == (b"", True, "end")


@pytest.mark.parametrize(
    ("script", "how", "status"),
    [
        ("echo part; kill -9 $$", "reset", 137),
        ("echo part; exit 124", "reset", 124),
        ("echo part; exit 1", "end", 1),
    ],
)
def test_what_is_not_whole_is_without_its_end_as_well(script, how, status):
    """A proxy on the way may make FIN of the reset, and it is still not whole."""
    with (
        listener() as after,
        Role(
            "--compress", to=after.getsockname(), program=["sh", "-c", script]
        ) as head,
    ):
        with after.accept()[0] as sock:
            sock.sendall(GREETING)
            data, ended = read_to_end(sock)
        assert (head.end()[0], ended) == (status, how)
    unpacker = zstd.Unpacker()
    assert unpacker.unpack(data, 10) == b"part\n"
    assert unpacker.is_whole == (how == "end")


def test_what_a_slow_program_says_is_there_at_once():
    script = "echo one; read line; echo two"
    ours, theirs = os.pipe()
    with (
        Role("--compress", listen="127.0.0.1:0") as tail,
        Role(
            "--compress", to=tail.address, program=["sh", "-c", script], stdin=ours
        ) as head,
    ):
        os.close(ours)
        assert tail.process.stdout.read(4) == b"one\n"
        os.write(theirs, b"go on\n")
        os.close(theirs)
        assert tail.process.stdout.read(4) == b"two\n"
        assert (head.end()[0], tail.end()[0]) == (0, 0)


def test_the_report_has_the_bytes_before_and_after():
    with (
        Role("--compress", listen="127.0.0.1:0", program=["wc", "-c"]) as tail,
        Role(
            "--compress",
            "--report",
            to=tail.address,
            program=["head", "-c", "3000000", "/dev/zero"],
        ) as head,
    ):
        status, _, err = head.end()
        assert (status, tail.end()[1]) == (0, b"3000000\n")
    names, row = map(str.split, err.splitlines())
    assert " ".join(names) == "stage host command exit in out sent time note"
    assert row[4:7] == ["-", "3.0", "MB"]
    assert row[8] in ("B", "kB")


def test_who_has_not_asked_for_it_is_sent_nothing_compressed():
    with (
        Role(listen="127.0.0.1:0", program=["cat"]) as tail,
        Role("--compress", "--wait", "300ms", to=tail.address) as head,
    ):
        status, _, err = head.end()
        assert status == 69
        assert "has not said in 0.3 s that it takes --compress; that is for both" in err
        assert tail.end()[:2] == (74, b"")


def test_a_stage_after_that_says_something_else_does_not_take_it():
    with (
        listener() as after,
        Role("--compress", to=after.getsockname()) as head,
        after.accept()[0] as sock,
    ):
        sock.sendall(b"220 mail.example\r\n")
        status, _, err = head.end()
    assert status == 69
    assert "does not take --compress; that is for both ends of a joint\n" in err


def test_what_does_not_come_compressed_is_no_data():
    with (
        Role("--compress", listen="127.0.0.1:0", program=["cat"]) as tail,
        Role(to=tail.address, program=["yes"]) as head,
    ):
        status, out, err = tail.end()
        assert (status, out) == (74, b"")
        assert "was cut short after 0 bytes: it does not come compressed" in err
        assert head.end()[0] in (74, 141)


@pytest.mark.parametrize(
    ("wire", "said"),
    [
        (b"", "0 bytes: nothing has come; the stage before needs --compress too"),
        (compress(b"part\n")[:-4], "5 bytes: the compressed stream has no end"),
        (compress(b"part\n")[:-1] + b"\0", "no stream of zstd"),
        (compress(b"part\n") + b"x", "something came after the end"),
    ],
    ids=["nothing", "truncated", "changed", "longer"],
)
def test_a_stream_that_is_not_whole_is_cut_whatever_its_fin_says(tmp_path, wire, said):
    whole = tmp_path / "whole"
    program = ["sh", "-c", f"cat; echo > {whole}"]
    with Role("--compress", listen="127.0.0.1:0", program=program) as tail:
        with connect(tail) as sock:
            assert sock.recv(100) == GREETING
            sock.sendall(wire)
            sock.shutdown(socket.SHUT_WR)
            read_to_end(sock)
        status, out, err = tail.end()
    assert status == 74
    assert b"part\n".startswith(out)
    assert said in err
    assert not whole.exists()


def test_a_bomb_is_unpacked_as_the_program_takes_it():
    """A gigabyte in 60 kB, and a program that reads nothing of it."""
    packer = zstd.Packer(3)
    wire = packer.pack(bytes(1 << 20))
    piece = packer.pack(bytes(1 << 20))
    wire += piece * (60_000 // len(piece))
    assert 60_000 // len(piece) > 1000
    with Role("--compress", listen="127.0.0.1:0", program=["sleep", "60"]) as tail:
        with connect(tail) as sock:
            assert sock.recv(100) == GREETING
            sock.sendall(wire)
            assert reached(lambda: _written(tail.pid) >= 1 << 20)
            with open(f"/proc/{tail.pid}/statm") as file:
                pages = int(file.read().split()[1])
            assert pages * 4096 < 60 << 20
            # A pipe of 1 MiB, and no more.
            assert _written(tail.pid) < 2 << 20
        tail.process.kill()
        tail.process.wait()


def _written(pid):
    with open(f"/proc/{pid}/io") as file:
        return int(file.read().partition("wchar: ")[2].split()[0])


def test_with_keep_every_peer_is_greeted():
    with Role("--compress", "--keep", listen="127.0.0.1:0", program=["cat"]) as tail:
        for word in (b"one\n", b"two\n"):
            with Role(
                "--compress", to=tail.address, program=["printf", word.decode()]
            ) as head:
                assert head.end()[0] == 0
                assert tail.process.stdout.read(4) == word
        tail.process.terminate()
        assert tail.end()[0] in (-15, 143)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--compress=0"], "0 is no level from 1 to 19"),
        (["--compress=20"], "20 is no level from 1 to 19"),
        (["--compress=x"], "x is no level from 1 to 19"),
        (["--compress", "--socket"], "--socket leaves nobody to do what --compress"),
    ],
)
def test_a_level_that_is_none_is_a_wrong_command_line(flags, said):
    with Role(*flags, to="127.0.0.1:1", program=["cat"]) as role:
        status, _, err = role.end()
    assert status == 64
    assert said in err


def test_without_the_library_nothing_begins(without_zstd):
    with Role("--compress", to="127.0.0.1:1", env=environment(**without_zstd)) as role:
        status, _, err = role.end()
    assert status == 69
    assert "has no zstd for --compress; Python 3.14 has it" in err
    assert err.count("\n") == 1


# -- by one command ------------------------------------------------------------------------


def test_by_one_command_the_joints_between_hosts_are_compressed(superd, tmp_path):
    key = write_key(tmp_path)
    daemon = superd({"services": pipe_service(key)})
    host, port = daemon.address("pipe")
    # By another name it is another host, as far as the caller knows.
    text = f"@{host}:{port} cat | @localhost:{port} cat | @localhost:{port} wc -c"
    with Run(text, "--compress", "--report", key=key, stdin=subprocess.PIPE) as running:
        status, out, err = running.end(TEXT)
    assert (status, out) == (0, b"%d\n" % len(TEXT))
    names, *rows = (line.split() for line in err.splitlines())
    assert " ".join(names) == "stage host command exit in out sent time note"
    # 588.9 kB from host to host, and from one stage to the next on one host.
    assert rows[0][4:8] == rows[1][4:8] == ["588.9", "kB"] * 2
    assert float(rows[0][8]) < 200
    assert rows[1][8] == "-"


def test_by_one_command_a_line_is_there_at_once(superd, tmp_path):
    key = write_key(tmp_path)
    daemon = superd({"services": pipe_service(key)})
    host, port = daemon.address("pipe")
    text = f"@{host}:{port} cat | @localhost:{port} cat"
    with Run(text, "--compress", key=key, stdin=subprocess.PIPE) as running:
        for line in (b"one\n", b"two\n"):
            running.process.stdin.write(line)
            running.process.stdin.flush()
            assert running.process.stdout.read(4) == line
        assert running.end() == (0, b"", "")


def test_a_stage_that_is_killed_is_told_over_a_compressed_joint(superd, tmp_path):
    key, whole = write_key(tmp_path), tmp_path / "whole"
    daemon = superd({"services": pipe_service(key)})
    host, port = daemon.address("pipe")
    text = f"yes | @{host}:{port} sh -c 'head -1; kill -9 $$' | "
    text += f"@localhost:{port} sh -c 'cat; echo > {whole}'"
    with Run(text, "--compress", key=key) as running:
        status, _, err = running.end()
    assert status == 137
    assert "killed by SIGKILL; what came of it is not the whole" in err
    assert not whole.exists()


def test_a_host_without_the_library_is_named_and_nothing_runs(
    superd, tmp_path, without_zstd
):
    key, mark = write_key(tmp_path), tmp_path / "mark"
    daemon = superd({"services": pipe_service(key)}, environment=without_zstd)
    host = "{}:{}".format(*daemon.address("pipe"))
    text = f"sh -c 'echo > {mark}' | @{host} cat"
    with Run(text, "--compress", key=key) as running:
        status, _, err = running.end()
    assert status == 69
    assert err.startswith("superd-pipe: stage 2 @127.0.0.1: ")
    assert "has no zstd for --compress" in err
    assert not mark.exists()
    # Control: without the flag nobody misses it.
    with Run(f"seq 3 | @{host} wc -l", key=key) as running:
        assert running.end() == (0, b"3\n", "")


def test_a_host_that_does_not_know_compression_is_no_party_to_it():
    party = Party(2, ["cat"], joint.Address("hostB", 7040))
    party.hear({"is": "ready", "ports": {"in": 9}})
    party.levels["in"] = 3
    party.hear({"is": "ready", "ports": {"in": 9}, "compress": {"in": 3, "out": 0}})
    for answer in ({}, {"compress": {"in": 0, "out": 0}}):
        with pytest.raises(FrameError, match="does not know --compress"):
            party.hear({"is": "ready", "ports": {"in": 9}, **answer})


def test_a_caller_without_the_library_begins_nothing(superd, tmp_path, without_zstd):
    done = subprocess.run(
        [*COMMAND, "run", "--compress", "cat | @127.0.0.1:1 cat"],
        env=environment(**without_zstd),
        capture_output=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 69
    assert b"has no zstd for --compress" in done.stderr
