"""Every example over a real socket, started the inetd way."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from inetd import spawn

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PACKAGES = {"awk": "mawk", "perl": "perl", "cc": "gcc", "python3": "python3"}
SCRIPTS = ["greet.sh", "upper.py", "sum.awk", "wc.pl"]
DIALOGUES = {
    "greet.sh": (
        b"Zo\x1b[1me\r\n",
        b"welcome, 192.0.2.7; who are you?\r\nhello Zo1me\r\nbye\r\n",
    ),
    "upper.py": (b"hello\r\nw\xc3\xb6rld", b"HELLO\r\nW\xc3\xb6RLD"),
    "rot13": (b"Hello, World!\r\nuryyb\n\x00", b"Uryyb, Jbeyq!\r\nhello\n\x00"),
    "sum.awk": (
        b"1\r\n2.5\nx\r\n-3\r\n+1e5\r\n",
        b"1\r\n3.5\r\nnot a number\r\n0.5\r\nnot a number\r\n",
    ),
    "wc.pl": (b"one two\r\nthree\nfour", b"2 lines, 4 words, 19 bytes\r\n"),
}
AT_ONCE = {
    "upper.py": (b"a\n", b"A\n"),
    "rot13": (b"a", b"n"),
    "sum.awk": (b"4\r\n", b"4\r\n"),
}


def needs(tool):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: apt install {PACKAGES[tool]}")


@pytest.fixture(scope="session")
def rot13(tmp_path_factory):
    needs("cc")
    program = tmp_path_factory.mktemp("rot13") / "rot13"
    source = EXAMPLES / "rot13.c"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source]
    subprocess.run(command, check=True)
    return str(program)


@pytest.fixture
def start(request):
    def start(name):
        env = {"TCPREMOTEIP": "192.0.2.7"}
        if name == "rot13":
            return spawn([request.getfixturevalue("rot13")], env=env)
        suffix = name.rpartition(".")[2]
        needs({"sh": "sh", "py": "python3", "awk": "awk", "pl": "perl"}[suffix])
        if suffix == "awk" and "mawk" in os.path.realpath(shutil.which("awk")):
            return spawn(["mawk", "-W", "interactive", "-f", EXAMPLES / name], env=env)
        return spawn([EXAMPLES / name], env=env)

    return start


@pytest.mark.parametrize("name", DIALOGUES)
def test_an_example_answers_after_a_half_close(start, name):
    question, answer = DIALOGUES[name]
    with start(name) as served:
        assert served.talk(question) == answer
        assert served.wait() == 0
        assert served.log == ""


@pytest.mark.parametrize("name", DIALOGUES)
def test_an_example_waits_for_a_slow_peer(start, name):
    question, answer = DIALOGUES[name]
    with start(name) as served:
        served.sock.setsockopt(6, 1, 1)  # TCP_NODELAY: every byte is a packet
        assert served.talk(*(bytes((byte,)) for byte in question)) == answer
        assert served.wait() == 0


@pytest.mark.parametrize("name", AT_ONCE)
def test_an_example_answers_before_the_peer_has_ended(start, name):
    question, answer = AT_ONCE[name]
    with start(name) as served:
        assert served.send(question).read_until(answer) == answer
        served.end()
        assert served.wait() == 0


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_peer_that_goes_leaves_no_process_and_no_traceback(start, name):
    with start(name) as served:
        served.send(b"1\n" * 50_000)
        served.reset()
        served.wait()
        assert "Traceback" not in served.log


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_peer_that_says_nothing_is_no_error(start, name):
    with start(name) as served:
        served.talk()
        assert served.wait() == 0
        assert served.log == ""


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_can_be_executed_as_it_is(name):
    assert os.access(EXAMPLES / name, os.X_OK)
    assert (EXAMPLES / name).read_bytes().startswith(
        b"#!/usr/bin/"
    ) or name == "greet.sh"


def test_every_example_says_what_it_shows_and_how_to_run_it():
    readme = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.suffix in (".sh", ".py", ".c", ".awk", ".pl"):
            comment = path.read_text().splitlines()[:4]
            program = f"examples/{path.stem if path.suffix == '.c' else path.name}"
            assert any("listen:" in line and program in line for line in comment)
            assert f"[{path.name}]({path.name})" in readme
