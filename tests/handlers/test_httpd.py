"""The HTTP server over real connections: time, size, and peers that behave badly."""

from __future__ import annotations

import http.client
import os
import re
import resource
import time

import pytest
from httpd_root import make_root
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inetd import fork, spawn_handler
from looped import in_loop

from superd.handlers import httpd

STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Z][A-Za-z -]+\r\n")
HELLO = b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n"
BIG = b"GET /big.bin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("httpd"))


@pytest.fixture(params=["process", "loop"])
def main(request):
    return httpd.main if request.param == "process" else in_loop(httpd)


@pytest.fixture
def serve(folder, main):
    def start(*flags, kind="tcp", root=folder):
        return fork(main, "--root", str(root), *flags, kind=kind)

    return start


def split(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    assert STATUS_LINE.match(head + b"\r\n"), answer
    lines = head.decode().split("\r\n")
    return lines[0][9:12], dict(line.split(": ", 1) for line in lines[1:]), body


def test_a_big_file_comes_whole(serve, folder):
    with serve() as served:
        status, fields, body = split(served.send(BIG).read())
        assert status == "200"
        assert fields["Content-Type"] == "application/octet-stream"
        assert fields["Last-Modified"] == "Sun, 09 Sep 2001 01:46:40 GMT"
        assert body == (folder / "big.bin").read_bytes()
        assert int(fields["Content-Length"]) == len(body)
        assert served.end().wait() == 0
        assert served.log == ""


def test_the_standard_clients_parser_agrees(serve):
    with serve() as served:
        client = http.client.HTTPConnection("x")
        client.sock = served.sock
        for path, status, body in (
            ("/hello.txt", 200, b"hello\n"),
            ("/nothing", 404, None),
            ("/", 200, b"<h1>root</h1>\n"),
        ):
            client.request("GET", path)
            answer = client.getresponse()
            assert answer.status == status
            assert answer.getheader("X-Content-Type-Options") == "nosniff"
            assert answer.getheader("Server") is None
            text = answer.read()
            assert body is None or text == body
        client.request("HEAD", "/big.bin")
        answer = client.getresponse()
        assert (answer.length, answer.read()) == (0, b"")
        assert answer.getheader("Content-Length") == "1048576"


def test_a_second_request_may_come_later(serve):
    with serve() as served:
        assert served.send(HELLO).read_until(b"\r\n\r\nhello\n")
        assert served.send(HELLO).read_until(b"\r\n\r\nhello\n")
        assert served.end().read() == b""
        assert served.wait() == 0


def test_the_last_request_allowed_is_told_so(serve):
    with serve("--limits.requests", "2") as served:
        answer = served.send(HELLO * 5).read()
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert answer.count(b"Connection: close") == 1
        assert served.end().wait() == 0


def test_an_idle_peer_is_let_go_without_a_word(serve):
    with serve("--timeouts.idle", "0.1") as served:
        assert served.send(HELLO).read().endswith(b"hello\n")
        assert served.wait() == 0
        assert served.log == ""


def test_the_time_for_a_head_is_not_renewed_by_each_byte(serve):
    with serve("--timeouts.head", "0.3") as served:
        served.sock.settimeout(0.02)
        begun = time.monotonic()
        answer = b""
        while not answer:
            served.send(b"X")
            try:
                answer = served.sock.recv(9999)
            except TimeoutError:
                continue
        assert time.monotonic() - begun < 5
        assert split(answer)[0] == "408"
        served.end()
        assert served.wait() == 112


def test_a_peer_that_says_nothing_at_all_gets_408(serve):
    with serve("--timeouts.head", "0.1") as served:
        status, fields, _ = split(served.read())
        assert (status, fields["Connection"]) == ("408", "close")
        assert served.end().wait() == 112


def test_a_peer_that_closes_at_once_is_no_error(serve):
    with serve() as served:
        served.sock.close()
        assert served.wait() == 0
        assert served.log == ""


@pytest.mark.parametrize("before", [b"", HELLO[:9], HELLO, BIG, HELLO * 50])
def test_a_peer_that_resets_is_no_error(serve, before):
    with serve() as served:
        served.send(before)
        served.reset()
        assert served.wait() in (0, 110)
        assert "bug" not in served.log
        assert "LEAK" not in served.log


def test_a_peer_that_stops_reading_in_the_middle_and_goes_is_no_error(serve):
    with serve() as served:
        served.send(BIG * 20)
        assert served.sock.recv(100)
        served.sock.close()
        assert served.wait() == 0
        assert served.log == ""


@pytest.mark.parametrize(("size", "status"), [(50_000, "405"), (100_000, "413")])
def test_an_unread_body_does_not_cost_the_peer_its_answer(serve, size, status):
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    with serve() as served:
        answer = served.send(head + bytes(size)).end().read()
        found, fields, _ = split(answer)
        assert found == status
        assert fields.get("Allow") == (
            "GET, HEAD, OPTIONS" if status == "405" else None
        )
        assert fields.get("Connection") == (None if status == "405" else "close")
        assert served.wait() == 0


def test_a_fifo_does_not_hang_the_server(serve):
    with serve() as served:
        answer = served.talk(b"GET /fifo HTTP/1.1\r\nHost: x\r\n\r\n")
        assert split(answer)[0] == "403"


def test_a_file_that_shrinks_ends_the_connection(serve, tmp_path):
    path = tmp_path / "shrinks"
    path.write_bytes(bytes(64 << 20))
    path.chmod(0o644)
    with serve(root=tmp_path) as served:
        served.send(b"GET /shrinks HTTP/1.1\r\nHost: x\r\n\r\n" + HELLO)
        head = served.sock.recv(1000)
        os.truncate(path, 1000)
        rest = served.read()
        assert b"Content-Length: 67108864" in head
        assert len(head + rest) < 64 << 20
        assert b"404" not in rest[-1000:]
        assert served.end().wait() == 0
        assert "shrank" in served.log


def test_a_file_that_grows_is_sent_as_long_as_it_was(serve, tmp_path):
    path = tmp_path / "grows"
    path.write_bytes(b"x" * (8 << 20))
    path.chmod(0o644)
    with serve(root=tmp_path) as served:
        served.send(BIG.replace(b"big.bin", b"grows"))
        data = served.sock.recv(1000)
        with path.open("ab") as file:
            file.write(b"y" * 1000)
        data += served.read()
        assert split(data)[2] == b"x" * (8 << 20)


def test_under_plain_stdio_the_answer_goes_to_a_pipe(folder):
    read, write = os.pipe()
    ask, question = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(ask, 0)
        os.dup2(write, 1)
        os.closerange(3, 256)
        os._exit(httpd.main(["--root", str(folder)]))
    for fd in (ask, write):
        os.close(fd)
    os.write(question, BIG)
    os.close(question)
    with open(read, "rb") as answers:
        status, _, body = split(answers.read())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert status == "200"
    assert len(body) == 1 << 20


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--root", "/nowhere"], "option --root: /nowhere: ENOENT"),
        (["--root", "/etc/passwd"], "option --root: /etc/passwd: ENOTDIR"),
        (["--index", "a/b"], "option --index: a/b is not the name of a file"),
        (["--rooot", "x"], "unknown option --rooot; did you mean --root?"),
    ],
)
def test_a_wrong_flag_is_the_operators_fault(flags, problem):
    with fork(httpd.main, *flags) as served:
        assert served.wait() == 100
        assert served.log.startswith(f"httpd: {problem}")
        assert served.log.count("\n") == 1


def test_a_system_call_that_fails_is_answered_with_500(folder):
    def starved(argv):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, limit[1]))
        try:
            return httpd.main(argv)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)

    with fork(starved, "--root", str(folder)) as served:
        status, _, body = split(served.talk(HELLO))
        assert status == "500"
        assert b"hello" not in body
        assert served.wait() == 111
        assert "EMFILE" in served.log
        assert str(folder).encode() not in body


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from([HELLO, HELLO[:-2], b"\r\n", b"\n", b"GET ", b" HTTP/1.1"]),
            st.sampled_from([b"Host: x\r\n", b"/../", b"%00", b"HEAD / HTTP/1.0\r\n"]),
        ),
        max_size=6,
    )
)
def test_any_bytes_get_a_status_line_or_a_close(serve, pieces):
    with serve(kind="pair") as served:
        answer = served.talk(*pieces)
        assert served.wait() in (0, 110)
        assert not re.search("bug|LEAK|CRASH|Traceback", served.log), served.log
    if not answer:
        assert not b"".join(pieces) or b"".join(pieces) == b"\r\n"
    else:
        assert STATUS_LINE.match(answer)


def test_it_runs_as_a_module_under_any_inetd(folder):
    with spawn_handler("httpd", "--root", str(folder)) as served:
        assert split(served.talk(HELLO))[2] == b"hello\n"
        assert served.wait() == 0
        assert served.log == ""
