"""What every handler owes, whoever starts it."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import textwrap
import time
import tomllib
import types
from pathlib import Path

import httptools
import pytest
from inetd import DEADLINE, fork, spawn_handler
from looped import in_loop

from superd.core import exitcodes
from superd.handlers import exits, stdio
from superd.handlers.options import TYPES
from superd.handlers.run import run
from superd.handlers.wire import Wire

ROOT = Path(__file__).resolve().parents[2]
ROOM = ROOT / "superd" / "handlers"
with (ROOT / "pyproject.toml").open("rb") as file:
    ENTRY_POINTS = tomllib.load(file)["project"]["entry-points"]["superd.handlers"]
NAMES = sorted(ENTRY_POINTS)
# What a start costs under other inetds: modules that take milliseconds and are not needed.
HEAVY = {"argparse", "asyncio", "subprocess", "email", "http", "threading", "json"}
HEAVY |= {"re", "dataclasses", "typing", "logging", "shutil", "tempfile", "urllib"}
LIBRARIES = {"httptools"}
ALLOWED = {"finger": {"re", "typing"}, "httpd": {"re", "typing"}}


def module(name):
    return importlib.import_module(ENTRY_POINTS[name])


@pytest.mark.parametrize("name", NAMES)
def test_options_are_a_literal_with_known_types(name):
    tree = ast.parse((ROOM / f"{name}.py").read_text())
    [value] = [
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and node.target.id == "OPTIONS"
    ]
    table = ast.literal_eval(value)
    assert table == module(name).OPTIONS
    below = [row["keys"] for row in table.values() if row["type"] == "table"]
    for rows in (table, *below):
        for row in rows.values():
            assert row["type"] in TYPES
            assert row["help"]
            assert "default" in row or row["type"] == "table"


@pytest.mark.parametrize("name", NAMES)
def test_help_is_printed_and_is_no_failure(name):
    with fork(module(name).main, "--help") as served:
        assert served.read().startswith(f"usage: {name} ".encode())
        assert served.wait() == exits.OK


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_flag_is_a_failure_of_the_set_up(name):
    with fork(module(name).main, "--nonsense") as served:
        assert served.read() == b""
        assert served.wait() == exits.SETUP
        assert served.log == f"{name}: unknown option --nonsense\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_peer_that_is_gone_already_is_no_failure(name):
    with spawn_handler(name) as served:
        served.reset()
        assert served.wait() == exits.OK
        assert served.log == ""


@pytest.mark.parametrize("name", NAMES)
def test_every_handler_serves_in_a_loop_by_the_same_options(name):
    assert inspect.iscoroutinefunction(module(name).serve)
    with fork(in_loop(module(name)), "--nonsense") as served:
        assert served.read() == b""
        assert served.wait() == exits.SETUP
        assert served.log == f"{name}: unknown option --nonsense\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_peer_that_resets_ends_a_loops_connection_quietly(name):
    with fork(in_loop(module(name)), early=b"hello") as served:
        served.reset()
        assert served.wait() in (exits.OK, exits.PEER)
        assert "bug" not in served.log


@pytest.mark.parametrize("name", ["httpd", "finger", "daytime", "time"])
def test_under_superd_the_end_of_a_connection_is_left_to_the_launcher(name):
    """Its peer would be waited for here, while a worker has others to serve."""

    def main(argv):
        os.environ["SUPERD_SERVICE"] = "test"
        status = module(name).main(argv)
        # Not shut down for writing, and what else has come is not read away.
        os.write(1, b"still open:" + os.read(0, 100))
        return status

    questions = {"httpd": b"GET /nothing HTTP/1.0\r\n\r\n", "finger": b"a@b\r\n"}
    with fork(main, early=questions.get(name, b"x"), kind="records") as served:
        if name in questions:
            served.send(b"x")
        assert served.read().endswith(b"still open:x")
        assert served.wait() == exits.OK


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=str)
def test_the_room_imports_nothing_of_superd_but_itself(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top = name.partition(".")[0]
            ours = name.startswith(("superd.handlers", "superd.streams"))
            assert ours or top in {*sys.stdlib_module_names, *LIBRARIES}


@pytest.mark.parametrize("name", NAMES)
def test_the_start_is_light(name):
    library = os.path.dirname(os.path.dirname(httptools.__file__))
    code = f"import sys; sys.path[:0] = {[str(ROOT), library]!r}; "
    code += f"import {ENTRY_POINTS[name]}; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not HEAVY & set(loaded.stdout.split()) - ALLOWED.get(name, set())


def test_exit_codes_are_the_ones_superd_knows():
    known = {row.name: row.status for row in exitcodes.TABLE}
    assert known == {
        "done": exits.OK,
        "setup": exits.SETUP,
        "bug": exits.BUG,
        "peer": exits.PEER,
        "temporary": exits.TEMPORARY,
        "slow": exits.SLOW,
    }


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (exits.PeerGone("EPIPE"), 0, ""),
        (exits.PeerError("rude"), 110, "demo: rude\n"),
        (exits.TooSlow("late"), 112, "demo: late\n"),
        (exits.SetupError("wrong"), 100, "demo: wrong\n"),
        (OSError(5, "I/O", "/x"), 111, "demo: /x: EIO (I/O)\n"),
        (PermissionError(13, "no"), 111, "demo: EACCES (no)\n"),
    ],
)
def test_what_goes_wrong_becomes_an_exit_code_and_a_line(error, code, line):
    def fail(_options):
        raise error

    with fork(lambda argv: run("demo", {}, fail, argv)) as served:
        assert served.read() == b""
        assert served.wait() == code
        assert served.log == line


def test_a_bug_is_one_line_and_never_a_traceback():
    with fork(
        lambda argv: run("demo", {}, lambda options: options["x"], argv)
    ) as served:
        assert served.read() == b""
        assert served.wait() == exits.BUG
        assert served.log.startswith("demo: bug: KeyError: 'x' (")
        assert served.log.count("\n") == 1


def test_the_log_cannot_be_given_a_second_line():
    with fork(lambda _: stdio.log("a\nb\r\x1b[2J\u2028é") or 0) as served:
        assert served.wait() == 0
        assert served.log == "a\\nb\\r\\x1b[2J\\u2028é\n"


def example():
    """Make the module that README.md shows: the program and, further down, its serve."""
    blocks = re.findall(r"(?m)(?:^    .*\n|^\n)+", (ROOM / "README.md").read_text())
    [program] = [one for one in blocks if "Count the bytes" in one]
    [serve] = [one for one in blocks if "async def serve" in one]
    made = types.ModuleType("count")
    exec(textwrap.dedent(program) + textwrap.dedent(serve), made.__dict__)
    return made


@pytest.mark.parametrize("mode", ["process", "loop"])
def test_the_example_of_the_readme_serves(mode):
    made = example()
    main = made.main if mode == "process" else in_loop(made)
    with fork(main, "--most", "10") as served:
        assert served.talk(b"x" * 10) == b"10\r\n"
        assert served.wait() == exits.OK
    with fork(main, "--most", "10") as served:
        served.send(b"x" * 11)
        assert served.wait() == exits.PEER
        assert served.log == "count: more than 10 bytes\n"


def nonblocking(work):
    """Run work with O_NONBLOCK set by somebody else on both descriptors."""

    def main(argv):
        os.set_blocking(0, False)
        return run("demo", {}, work, argv)

    return main


def test_descriptors_that_do_not_block_are_served_as_well():
    data = bytes(1 << 20)

    def work(_options):
        while more := stdio.read():
            stdio.write(more)
        return 0

    with fork(nonblocking(work)) as served:
        writer = os.fork()
        if not writer:
            served.send(data).end()
            os._exit(0)
        assert served.read() == data
        assert os.waitpid(writer, 0)[1] == 0
        assert served.wait() == 0


def test_a_peer_that_does_not_read_in_time_is_too_slow():
    def work(_options):
        with Wire() as wire:
            wire.write(bytes(64 << 20), time.monotonic() + 0.2, "a flood")
        return 0

    with fork(lambda argv: run("demo", {}, work, argv)) as served:
        assert served.wait() == exits.SLOW
        assert served.log == "demo: the peer was too slow to read a flood\n"


def test_a_peer_that_does_not_read_a_file_in_time_is_too_slow(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(b"")
    os.truncate(path, 64 << 20)

    def work(_options):
        fd = os.open(path, os.O_RDONLY)
        try:
            with Wire() as wire:
                wire.write_file(fd, 0, 64 << 20, time.monotonic() + 0.2, "a file")
        finally:
            os.close(fd)
        return 0

    with fork(lambda argv: run("demo", {}, work, argv)) as served:
        assert served.wait() == exits.SLOW
        assert served.log == "demo: the peer was too slow to read a file\n"


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "udp") for name in NAMES if name != "discard"]
    + [(name, "listener") for name in NAMES if name not in ("daytime", "time")],
)
def test_a_socket_that_is_no_connection_is_the_operators_fault(name, kind):
    sort = socket.SOCK_STREAM if kind == "listener" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, sort) as sock:
        sock.bind(("127.0.0.1", 0))
        if kind == "listener":
            sock.listen()
        else:
            sock.sendto(b"x\r\n", sock.getsockname())
        done = subprocess.run(
            [sys.executable, "-m", f"superd.handlers.{name}"],
            cwd=ROOT,
            stdin=sock,
            stdout=sock,
            stderr=subprocess.PIPE,
            timeout=DEADLINE,
            check=False,
        )
    assert done.returncode == exits.SETUP, done.stderr
    assert b"fd 0 is no connection" in done.stderr


def need(tool):
    path = shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{tool} is not installed: apt install {tool}")
    return path


@pytest.mark.parametrize(
    ("name", "question", "answer"),
    [
        ("echo", b"hello", b"hello"),
        ("discard", b"hello", b""),
        ("finger", b"a@b\r\n", b"Finger forwarding service denied\r\n"),
    ],
)
def test_socat_can_be_the_inetd(name, question, answer):
    command = f"EXEC:{sys.executable} -m superd.handlers.{name}"
    done = subprocess.run(
        [need("socat"), "-t5", "-", command],
        input=question,
        capture_output=True,
        cwd=ROOT,
        timeout=DEADLINE,
        check=True,
    )
    assert done.stdout == answer


XINETD = """
defaults
{
    log_type = FILE /dev/null
}
service echo
{
    type = UNLISTED
    port = 7
    socket_type = stream
    protocol = tcp
    wait = no
    user = root
    env = PYTHONPATH=%(root)s
    server = %(python)s
    server_args = -m superd.handlers.echo
}
"""
TALK = """
import socket, subprocess, sys, time
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
server = subprocess.Popen(sys.argv[1:])
limit = time.monotonic() + 10
while True:
    try:
        peer = socket.create_connection(("127.0.0.1", 7), timeout=10)
        break
    except ConnectionRefusedError:
        if server.poll() is not None or time.monotonic() > limit:
            sys.exit("the server does not listen")
        time.sleep(0.01)
peer.sendall(b"hello")
peer.shutdown(socket.SHUT_WR)
print(peer.makefile("rb").read())
peer.close()
server.terminate()
server.wait()
"""


@pytest.mark.root
def test_xinetd_can_be_the_inetd(tmp_path):
    """In a network namespace of its own, where port 7 is free."""
    config = tmp_path / "xinetd.conf"
    config.write_text(XINETD % {"root": ROOT, "python": sys.executable})
    (tmp_path / "log").touch()
    server = [need("xinetd"), "-f", config, "-dontfork", "-filelog", tmp_path / "log"]
    server += ["-pidfile", tmp_path / "pid"]
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", TALK, *server],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("no network namespace may be made here")
    assert done.stdout == "b'hello'\n", (done.stderr, (tmp_path / "log").read_text())


def test_a_pipe_is_as_good_as_a_socket():
    read, write = os.pipe()
    command = [sys.executable, "-m", "superd.handlers.chargen"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=write, stderr=-1
    ) as process:
        os.close(write)
        assert select.select([read], [], [], DEADLINE)[0]
        assert os.read(read, 74).endswith(b"efg\r\n")
        os.close(read)
        assert process.wait(DEADLINE) == 0
        assert process.stderr.read() == b""
