"""The finger handler's other sources: a directory, another host, a program's own mouth."""

from __future__ import annotations

import os
import signal
import socket
import textwrap
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inetd import DEADLINE, fork, reached
from looped import in_loop

from superd.handlers import finger
from superd.handlers.finger_forward import Hop, next_hop
from superd.handlers.finger_query import BadQuery, is_name, parse_query, shorten

DENIED = b"Finger forwarding service denied\r\n"
ME = "root"
KNOWN = ("--min-uid", "0")


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


@pytest.fixture
def program(tmp_path):
    def make(script):
        path = tmp_path / "finger"
        path.write_text("#!/bin/sh\n" + textwrap.dedent(script))
        path.chmod(0o755)
        return ("--program", str(path), *KNOWN)

    return make


# -- a directory ----------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "weather").write_bytes(b"\x1b[1mrain\n\xc3\xa9\n")
    (tmp_path / "long").write_bytes(b"\n" * 65536)
    os.mkfifo(tmp_path / "fifo", 0o644)
    return ("--source", "directory", "--directory", str(tmp_path))


def test_a_directory_answers_for_its_names(ask, directory):
    assert ask(b"weather\r\n", *directory) == b"[1mrain\r\n\r\n"
    both = b"/W weather\r\n"
    assert ask(both, "--utf8", *directory) == b"[1mrain\r\n\xc3\xa9\r\n"


@pytest.mark.parametrize("name", [b"root", b"fifo", b"..", b".plan"])
def test_a_directory_knows_nobody_else(ask, directory, name):
    assert ask(name + b"\r\n", *directory) == name + b": no such user.\r\n"


def test_a_directory_lists_its_names_where_that_is_wanted(ask, directory):
    assert ask(b"\r\n", *directory) == b"Finger online user list denied\r\n"
    assert ask(b"\r\n", "--list", *directory) == b"long\r\nweather\r\n"


def test_an_answer_is_bounded_after_its_line_ends_have_grown(ask, directory):
    assert ask(b"long\r\n", *directory) == b"\r\n" * 32768


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--source", "directory"], "needs --directory"),
        (["--directory", "/etc"], "needs --source directory"),
        (["--source", "directory", "--directory", "/nowhere"], "cannot be read"),
    ],
)
def test_a_directory_that_is_none_is_the_operators_fault(serve, flags, fault):
    with serve(*flags) as served:
        served.send(b"alice\r\n")
        assert served.wait() == 100
        assert fault in served.log


def test_who_is_logged_in_is_told_without_a_program(ask):
    answer = ask(b"\r\n", "--list", "--builtin", *KNOWN)
    assert answer.startswith((b"No one logged on.", b"Login "))


# -- another host ---------------------------------------------------------------------


@contextmanager
def host(*, port=0):
    """Play the finger server of another host."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(DEADLINE)
        number = listener.getsockname()[1]
        flags = ("--forward-to", "localhost", "--forward-to", "127.0.0.1")
        yield listener, (*flags, "--forward-port", str(number))


def accept(listener):
    """Take the question; gives it, and the connection for the answer."""
    conn, _ = listener.accept()
    conn.settimeout(DEADLINE)
    line = b""
    while not line.endswith(b"\n"):
        line += conn.recv(100)
    return line, conn


def talk_for_ever(conn):
    with suppress(ConnectionError):
        while True:
            conn.sendall(b"for ever\n" * 1000)


@pytest.mark.parametrize(
    ("query", "passed_on"),
    [
        (b"alice@localhost", b"alice\r\n"),
        (b"/W alice@LocalHost", b"/W alice\r\n"),
        (b"@127.0.0.1", b"\r\n"),
        (b"/W @localhost", b"/W\r\n"),
    ],
)
def test_a_host_that_is_listed_is_asked(serve, query, passed_on):
    with host() as (listener, flags), serve(*flags) as served:
        served.send(query + b"\r\n")
        line, conn = accept(listener)
        with conn:
            assert line == passed_on
            conn.sendall(b"\x1b[2JAlice\nis \xff out\n")
        assert served.end().read() == b"[2JAlice\r\nis  out\r\n"
        assert served.wait() == 0
        assert served.log == ""


@pytest.mark.parametrize(
    "query",
    [
        b"alice@elsewhere",
        b"alice@127.0.0.2",
        b"alice@localhost@localhost",
        b"@localhost@127.0.0.1",
        b"-l@localhost",
        b"../x@localhost",
        b"alice;id@localhost",
        b"alice@localhost bob@localhost",
        b"alice bob@localhost",
        b"alice@localhost.",
        b"alice@ localhost",
        b"alice@localhost:22",
        b"alice@",
        b"@",
        b"al\xe9ice@localhost",
    ],
)
def test_no_other_host_and_no_second_hop_is_asked(ask, query):
    with host() as (listener, flags):
        assert ask(query + b"\r\n", *flags) == DENIED
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_host_that_says_nothing_in_time_is_left(serve):
    flags_more = ("--forward-timeout", "0.3")
    with host() as (listener, flags), serve(*flags, *flags_more) as served:
        served.send(b"alice@127.0.0.1\r\n")
        conn = accept(listener)[1]
        with conn:
            conn.sendall(b"so far\n")
            assert served.end().read() == b"so far\r\n"
            assert served.wait() == 0
            assert "the host took too long" in served.log
            assert conn.recv(1) == b""


def test_a_host_that_talks_for_ever_is_cut(serve):
    with host() as (listener, flags), serve(*flags) as served:
        served.send(b"alice@127.0.0.1\r\n")
        conn = accept(listener)[1]
        with conn:
            talk_for_ever(conn)
        answer = served.end().read()
        assert 65536 - 10 <= len(answer) <= 65536
        assert answer.endswith(b"\r\n")
        assert served.wait() == 0
        assert "said more than 65536 bytes" in served.log


def test_a_host_that_refuses_is_answered_for(serve):
    with host() as (_, flags):
        pass
    with serve(*flags) as served:
        assert (
            served.talk(b"x@localhost\r\n") == b"finger: no answer from localhost\r\n"
        )
        assert served.wait() == 0
        assert served.log.count("\n") == 1
        assert "finger: localhost: ECONNREFUSED" in served.log


def test_a_host_without_an_address_is_answered_for(serve):
    name = "no.such.host.invalid"
    with serve("--forward-to", name) as served:
        answer = served.talk(f"x@{name}\r\n".encode())
        assert answer == f"finger: no answer from {name}\r\n".encode()
        assert served.wait() == 0
        assert served.log.startswith(f"finger: {name}: ")


def test_whoever_stops_the_handler_stops_the_question(serve):
    with host() as (listener, flags), serve(*flags) as served:
        served.send(b"alice@127.0.0.1\r\n")
        conn = accept(listener)[1]
        with conn:
            os.kill(served.pid, signal.SIGTERM)
            assert conn.recv(1) == b""
        served.wait()


HOSTS = ["here", "192.0.2.7", "::1"]


@given(st.text(alphabet="ab@/W -.:;hHere1\u00e9", max_size=40))
def test_a_hop_leads_to_a_listed_host_and_asks_it_about_a_name(text):
    try:
        query = parse_query(text.encode("latin-1"))
    except BadQuery:
        return
    hop = next_hop(query, HOSTS, 79)
    if hop is None:
        return
    assert query.forward
    assert hop.host in HOSTS
    words = hop.line.removesuffix(b"\r\n").decode("ascii").split()
    assert all(is_name(word) for word in words if word != "/W")
    again = parse_query(hop.line.removesuffix(b"\r\n"))
    assert not again.forward
    assert again.long == query.long


@pytest.mark.parametrize("host", HOSTS)
def test_every_kind_of_address_can_be_listed(host):
    query = parse_query(f"/W bob@{host}".encode())
    assert next_hop(query, HOSTS, 7079) == Hop(host, 7079, b"/W bob\r\n")


@given(st.text(alphabet="aé\r\n", max_size=60), st.integers(1, 40))
def test_a_shortened_answer_is_a_whole_beginning(text, cap):
    answer = text.encode()
    short = shorten(answer, cap)
    assert len(short) <= cap
    assert answer.startswith(short)
    short.decode()
    assert short == answer or b"\r\n" not in answer[:cap] or short.endswith(b"\r\n")


# -- a program on the connection itself -----------------------------------------------

SOCKET = ("--plumbing", "socket")


def test_a_program_may_have_the_connection_itself(ask, program):
    script = (
        'printf "%s\\033[1m\\n" "$*"; [ -S /dev/fd/1 ] && echo socket; cat; echo e >&2'
    )
    answer = ask(f"/W {ME}\r\nmore".encode(), *program(script), *SOCKET)
    assert answer == f"-l -m -- {ME}\x1b[1m\nsocket\ne\n".encode()


def test_a_program_lists_on_the_connection_itself(ask, program):
    answer = ask(b"/W\r\n", "--list", *program('echo "list $*"'), *SOCKET)
    assert answer == b"list -l\n"


def test_a_program_on_the_connection_may_say_more_than_it_holds(serve, program):
    """Also where the worker's side does not block: no byte is lost to EAGAIN."""
    script = "head -c 8388608 /dev/zero || echo lost"
    with serve(*program(script), *SOCKET) as served:
        served.send(f"{ME}\r\n".encode())
        assert len(served.end().read()) == 8388608
        assert served.wait() == 0
        assert served.log == ""


def test_a_program_on_the_connection_has_its_time(serve, program):
    flags = (*program("echo partial; sleep 1000 & sleep 1000"), *SOCKET)
    with serve(*flags, "--program-timeout", "0.3") as served:
        assert served.talk(f"{ME}\r\n".encode()) == b"partial\n"
        assert served.wait() == 0
        assert "took too long" in served.log


def test_whoever_stops_the_handler_stops_the_program_on_the_connection(
    serve, program, tmp_path
):
    pid = tmp_path / "pid"
    script = f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 1000"
    with serve(*program(script), *SOCKET) as served:
        served.send(f"{ME}\r\n".encode())
        assert reached(pid.exists)
        os.kill(served.pid, signal.SIGTERM)
        served.wait()
        assert served.read() == b""


@pytest.mark.parametrize("query", [b"-l", b"|id", b"root;id", b"../x", b"nosuchuser"])
def test_what_is_no_user_gets_no_program_on_the_connection(ask, query, program):
    answer = ask(query + b"\r\n", *program("echo ran"), *SOCKET)
    assert answer.startswith((b"finger: that is no", b"nosuchuser: no such user"))


def test_a_program_on_the_connection_is_asked_for_one_name(ask, program):
    flags = (*program("echo ran"), *SOCKET, "--max-names", "3")
    query = f"{ME} {ME}\r\n".encode()
    assert ask(query, *flags) == b"finger: at most 1 in one query\r\n"
