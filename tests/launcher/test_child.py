"""The forked child of a Python handler: its ends, its streams, and nothing of the last."""

from __future__ import annotations

import os
import socket

import pytest
from daemon_under_test import read_all

DEF = "import os, sys\ndef main(argv):\n"


def run(launcher, body, data=b"", **keys):
    """Run one connection; returns the answer, its end's record and the stderr."""
    it = launcher.python(DEF + body, **keys)
    answer = it.talk(data)
    _, _, signal, status, _ = it.wait("^end 1 ").split()
    return answer, (int(signal), int(status)), it


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (" return None", 0, b""),
        (" return 0", 0, b""),
        (" return 7", 7, b""),
        (" return True", 1, b""),
        (" return 256 + 3", 3, b""),
        (" sys.exit()", 0, b""),
        (" sys.exit(None)", 0, b""),
        (" sys.exit(0)", 0, b""),
        (" sys.exit(110)", 110, b""),
        (" sys.exit('no\\nway')", 1, b"no way\n"),
        (" sys.exit(2.5)", 1, b"2.5\n"),
        (" os._exit(9)", 9, b""),
        (" raise BrokenPipeError", 0, b""),
        (
            " raise ValueError('a\\n b')",
            101,
            b"probe: ValueError: a b (handler0.py:3)\n",
        ),
        (
            " raise KeyboardInterrupt",
            101,
            b"probe: KeyboardInterrupt: (handler0.py:3)\n",
        ),
        (
            " 1 / 0",
            101,
            b"probe: ZeroDivisionError: division by zero (handler0.py:3)\n",
        ),
        (" os.fork.x", 101, b"(handler0.py:3)\n"),
        (" raise Exception('\\udcff' * 3)", 101, b"???"),
    ],
)
def test_every_end_of_main_is_a_status_and_at_most_one_line(
    launcher, body, status, text
):
    _, end, it = run(launcher, body + "\n")
    assert end == (0, status)
    if text:
        it.wait_stderr(text)
        assert it.stderr.count(b"\n") == 1
        assert b"Traceback" not in it.stderr
    else:
        with pytest.raises(BlockingIOError):
            os.read(it.pipe, 1)


def test_a_signal_that_ends_the_handler_is_reported_as_that(launcher):
    _, end, _ = run(launcher, " os.kill(os.getpid(), 11)\n")
    assert end == (11, 0)


@pytest.mark.parametrize(
    "leave", ["return 0", "sys.exit(0)", "sys.exit('word')", "raise ValueError", "pass"]
)
def test_what_was_printed_arrives_without_a_flush_whatever_the_end(launcher, leave):
    # Regression: after sys.exit() what was printed was thrown away.
    answer, _, _ = run(
        launcher, f" print('a line'); print('no end', end='')\n {leave}\n"
    )
    assert answer == b"a line\nno end"


def test_a_line_on_stderr_without_its_end_arrives(launcher):
    _, _, it = run(launcher, " print('half', end='', file=sys.stderr)\n")
    it.wait_stderr(b"half")


def test_a_peer_that_has_gone_is_no_line_and_no_fault(launcher):
    it = launcher.python(
        DEF + " sys.stdin.read(1)\n for _ in range(1000): print('x' * 10000)\n"
    )
    peer = it.connect()
    it.handler(1)
    # A close with unread bytes, and bytes behind it, is a reset.
    peer.sendall(b"xyz")
    peer.recv(1)
    peer.close()
    record = it.wait("^end 1 ")
    assert record.split()[2:4] in (["0", "0"], ["0", "101"], ["13", "0"])


def test_text_streams_are_utf8_and_take_any_byte(launcher):
    body = (
        " text = sys.stdin.readline()\n"
        " print(text.strip()[::-1], sys.stdin.encoding, sys.stdout.encoding)\n"
    )
    answer, _, _ = run(launcher, body, b"\xc3\xa4b\xff\n")
    assert answer.decode().lower() == "\ufffdb\xe4 utf-8 utf-8\n"


def test_binary_streams_carry_every_byte(launcher):
    body = " sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])\n"
    data = bytes(range(256)) * 300
    assert run(launcher, body, data)[0] == data[::-1]


def test_input_reads_a_line_and_argv_is_the_handlers(launcher):
    body = " print(input(), sys.argv, argv)\n"
    answer, _, _ = run(launcher, body, b"hi\nmore\n", argv=["--a", "b c"])
    assert answer == b"hi ['probe', '--a', 'b c'] ['--a', 'b c']\n"


def test_nothing_of_one_connection_shows_in_the_next(launcher, tmp_path):
    source = (
        "import os, sys, signal\nseen = []\ndef main(argv):\n"
        " mask = os.umask(0o77); os.umask(0)\n"
        " print(len(seen), sys.argv, argv, sorted(set(os.environ) & {'LEFT', 'A'}),\n"
        "       os.getcwd(), oct(mask), os.environ['SUPERD_CONNECTION'],\n"
        "       signal.getsignal(signal.SIGUSR1).name, sys.stdin.read())\n"
        " seen.append(1); sys.argv.append('x'); argv.append('y'); os.chdir('/proc')\n"
        " os.environ['LEFT'] = '1'; os.environ.pop('A')\n"
        " signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
        " os.dup(0); open('/dev/null')\n"
    )
    it = launcher.python(
        source, argv=["one"], environment={"A": "b"}, directory=str(tmp_path)
    )
    for number in (1, 2, 3):
        assert (
            it.talk(b"data%d" % number)
            == (
                f"0 ['probe', 'one'] ['one'] ['A'] {tmp_path} 0o22 {number} SIG_DFL "
                f"data{number}\n"
            ).encode()
        )


def test_a_python_handler_has_three_descriptors_and_default_signals(launcher):
    body = (
        " import signal\n"
        " print(sorted(int(x) for x in os.listdir('/proc/self/fd'))[:3],\n"
        "       len(os.listdir('/proc/self/fd')), os.getsid(0) == os.getpid(),\n"
        "       os.getpgid(0) == os.getpid(), signal.pthread_sigmask(0, []),\n"
        "       [n for n in range(1, 32) if n not in (9, 19)\n"
        "        and signal.getsignal(n) != signal.SIG_DFL])\n"
    )
    # The fourth is the folder that is listed.
    assert run(launcher, body)[0] == b"[0, 1, 2] 4 True True set() []\n"


def test_limits_are_exact_for_a_python_handler(launcher):
    body = (
        " import resource as r\n"
        " print(*r.getrlimit(r.RLIMIT_NOFILE), *r.getrlimit(r.RLIMIT_CPU))\n"
    )
    limits = {"nofile": [50, 60], "cpu": [7, 9]}
    assert run(launcher, body, rlimits=limits)[0] == b"50 60 7 9\n"


def test_the_handler_shows_by_its_service_in_ps(launcher):
    body = " print(open('/proc/self/comm').read(), end='')\n"
    assert run(launcher, body)[0] == b"superd: probe\n"


def test_a_handler_that_forks_ends_once(launcher):
    body = " pid = os.fork()\n if pid: os.waitpid(pid, 0)\n print('one', bool(pid))\n"
    answer, end, it = run(launcher, body)
    assert sorted(answer.split(b"\n")) == [b"", b"one False", b"one True"]
    assert end == (0, 0)
    it.talk()
    assert len([one for one in it.records if one.startswith("end ")]) == 2


def test_an_exec_way_limit_that_is_not_to_be_had_is_a_failed_start(launcher):
    # Little memory: the exec works or fails, and either way the launcher says so.
    it = launcher(rlimits={"as": [1 << 16, 1 << 16]})
    peer = it.connect()
    peer.shutdown(socket.SHUT_WR)
    assert read_all(peer) == b""
    it.wait("^(fail|end) 1 (exec|[0-9]+)")
    assert it.is_alive()
