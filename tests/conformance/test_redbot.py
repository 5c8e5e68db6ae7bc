"""REDbot and httplint, which know the HTTP specifications, find nothing wrong in httpd."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import pytest
from daemon_under_test import DEADLINE, read_all

httplint = pytest.importorskip("httplint", reason="pip install httplint")
pytest.importorskip("redbot", reason="pip install redbot")

pytestmark = pytest.mark.conformance

TEXT = "a line of text\n" * 400

# REDbot brings an event loop of its own, so it gets a process of its own. It also asks
# again with conditions, ranges and other encodings, and judges those answers.
REDBOT = """
import json, sys
from configparser import ConfigParser
import thor
from redbot.resource import HttpResource
url, method, *lines = sys.argv[1:]
config = ConfigParser()
config.read_dict({"redbot": {"enable_local_access": "True"}})
resource = HttpResource(config["redbot"])
resource.set_request(url, method, [tuple(line.split(": ", 1)) for line in lines])
resource.on("check_done", thor.stop)
resource.check()
thor.run()
assert resource.check_done and not resource.fetch_error, resource.fetch_error
def flat(notes):
    for note in notes:
        yield [note.level.name, note.subject, note.summary]
        yield from flat(note.subnotes)
asked = {"itself": resource, **resource.subreqs}
found = {name: list(flat(one.response.notes)) for name, one in asked.items()}
print(json.dumps([resource.response.status_code, found]))
"""


class Case(NamedTuple):
    """A request and the status that it gets."""

    status: int
    path: str
    method: str = "GET"
    headers: tuple[str, ...] = ()


CASES = {
    "a file": Case(200, "/file.txt"),
    "the head of a file": Case(200, "/file.txt", "HEAD"),
    "a part of a file": Case(206, "/file.txt", "GET", ("Range: bytes=5-99",)),
    "a file with a compressed twin": Case(200, "/packed.txt"),
    "an index": Case(200, "/indexed/"),
    "a listing": Case(200, "/listed/"),
    "a directory without its slash": Case(301, "/listed"),
    "nothing": Case(404, "/nothing"),
    "a method for something else": Case(405, "/file.txt", "POST"),
    "a range behind the end": Case(416, "/file.txt", "GET", ("Range: bytes=999999-",)),
}
EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


@pytest.fixture
def web(superd, tmp_path):
    """Serve a small site whose operator said how long it may be kept."""
    root = tmp_path / "root"
    for folder in (root, root / "indexed", root / "listed"):
        folder.mkdir(mode=0o755)
    page = "<!DOCTYPE html><title>index</title><p>" + "word " * 400
    files = {
        "file.txt": TEXT,
        "packed.txt": TEXT,
        "indexed/index.html": page,
        "listed/one.txt": "one\n",
        "listed/<two>.txt": "two\n",
    }
    for name, text in files.items():
        (root / name).write_text(text)
        (root / name).chmod(0o644)
    (root / "packed.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (root / "packed.txt.gz").chmod(0o644)
    options = {"root": str(root), "listing": True, "cache_control": "max-age=60"}
    service = {"listen": "127.0.0.1:0", "handler": "httpd", "options": options}
    return superd({"services": {"web": service}})


def redbot(address: tuple[str, int], case: Case) -> tuple[int, list[str]]:
    """Let REDbot ask; returns the status, and what it finds wrong."""
    url = f"http://{address[0]}:{address[1]}{case.path}"
    result = subprocess.run(
        [sys.executable, "-c", REDBOT, url, case.method, *case.headers],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert result.returncode == 0, result.stderr
    status, found = json.loads(result.stdout)
    return status, [
        f"{name}: {level} {subject}: {text}"
        for name, notes in found.items()
        for level, subject, text in notes
        if level in ("WARN", "BAD")
    ]


def lint(answer: bytes, *, head: bool = False) -> list[str]:
    """Let httplint judge the very bytes; returns what it finds wrong."""
    top, _, rest = answer.partition(b"\r\n")
    fields, _, content = rest.partition(b"\r\n\r\n")
    version, status, phrase = top.split(b" ", 2)
    linter = httplint.HttpResponseLinter(start_time=time.time(), no_content=head)
    linter.is_head_response = head
    linter.process_response_topline(version.removeprefix(b"HTTP/"), status, phrase)
    lines = [line.partition(b":") for line in fields.split(b"\r\n") if line]
    linter.process_headers([(name, value.strip()) for name, _, value in lines])
    linter.feed_content(content)
    linter.finish_content(True)
    return [
        f"{note.level.name} {note.subject}: {note.summary}"
        for parent in linter.notes
        for note in (parent, *parent.subnotes)
        if note.level in (httplint.levels.WARN, httplint.levels.BAD)
    ]


def ask(address: tuple[str, int], case: Case) -> bytes:
    lines = [f"{case.method} {case.path} HTTP/1.1", "Host: localhost"]
    lines += ["Connection: close", *case.headers, "", ""]
    with socket.create_connection(address, timeout=DEADLINE) as sock:
        sock.sendall("\r\n".join(lines).encode())
        return read_all(sock)


@EVERY_CASE
def test_redbot_finds_nothing_wrong_with(web, case):
    status, wrong = redbot(web.address("web"), case)
    assert status == case.status
    assert not wrong, "\n".join(wrong)


@EVERY_CASE
def test_httplint_finds_nothing_wrong_with_the_bytes_of(web, case):
    answer = ask(web.address("web"), case)
    assert answer.startswith(b"HTTP/1.1 %d " % case.status)
    wrong = lint(answer, head=case.method == "HEAD")
    assert not wrong, "\n".join(wrong)


def test_both_find_what_is_wrong_with_an_answer(superd, tmp_path):
    """Negative control: no Date, a length that is not that of the content, a bad date."""
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nLast-Modified: yesterday\r\n"
        b"Content-Length: 9\r\nConnection: close\r\n\r\n<p>hello\n"
    )
    (tmp_path / "answer").write_bytes(answer)
    (tmp_path / "answer").chmod(0o644)
    argv = ["/bin/cat", str(tmp_path / "answer")]
    daemon = superd({"services": {"bad": {"listen": "127.0.0.1:0", "exec": argv}}})
    status, wrong = redbot(daemon.address("bad"), Case(200, "/"))
    assert status == 200
    assert any(text.startswith("itself: BAD field-last-modified") for text in wrong)
    assert any("BAD field-last-modified" in text for text in lint(answer))
    longer = lint(answer.replace(b": 9", b": 10"))
    assert any("BAD field-content-length" in text for text in longer)
