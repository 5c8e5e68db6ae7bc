"""Nothing that one connection of a pool does shows in the next.

One worker, asked before and after a handler has changed something: the same process gives
the same answer. What cannot be put back ends the worker, and a fresh one answers.
"""

from __future__ import annotations

import shutil
import socket
import struct
import tempfile
from pathlib import Path

import pytest
from daemon_under_test import DaemonFactory, read_all
from plugin import begin, install_runner, run, runner


@pytest.fixture(scope="module")
def daemon():
    folder = Path(tempfile.mkdtemp(prefix="superd-test-"))
    folder.chmod(0o755)
    environment = install_runner(folder / "plugin")
    service = runner("pool", environment={"LANG": "C.UTF-8", "KEPT": "1"})
    factory = DaemonFactory(folder)
    daemon = factory({"services": {"w": service}}, environment=environment)
    yield daemon
    try:
        factory.finish()
    finally:
        shutil.rmtree(folder)


def pid(daemon) -> str:
    """Return the worker that serves."""
    return run(daemon, "say(os.getpid())").strip()


STATUS = """
for line in open("/proc/self/status"):
    if line.startswith("Sig"):
        say(line.strip())
say([signal.getsignal(n) for n in (1, 2, 10, 13, 15)])
"""
TIMERS = "say([signal.getitimer(kind) for kind in range(3)])"
PYTHON_ENVIRONMENT = """
changing = ("TCPREMOTEPORT", "REMOTE_PORT", "SUPERD_CONNECTION", "TCPCONNNUM")
say(sorted(item for item in os.environ.items() if item[0] not in changing))
"""
# What a program that the handler starts finds: the environment of the C library.
REAL_ENVIRONMENT = """
changing = ("TCPREMOTEPORT", "REMOTE_PORT", "SUPERD_CONNECTION", "TCPCONNNUM", "_")
out = subprocess.run(["/usr/bin/env"], capture_output=True, text=True, close_fds=False)
say(sorted(x for x in out.stdout.split("\\n") if x.partition("=")[0] not in changing))
"""
STREAMS = """
say([(x.encoding, x.errors, x.line_buffering, x.write_through, x.closed, x.fileno(),
      x.newlines, type(x).__name__) for x in (sys.stdin, sys.stdout, sys.stderr)])
say(sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__)
print("printed")
"""

CASES = {
    "directory": ("os.chdir('/usr')", "say(os.getcwd())"),
    "directory that is gone": (
        "import tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)",
        "say(os.getcwd())",
    ),
    "umask": ("os.umask(0o777)", "old = os.umask(0); os.umask(old); say(old)"),
    "signals ignored": (
        "for n in (1, 2, 10, 13, 15, 34): signal.signal(n, signal.SIG_IGN)",
        STATUS,
    ),
    "signals caught": (
        "for n in (1, 2, 10, 13, 15, 34): signal.signal(n, lambda *_: None)",
        STATUS,
    ),
    "signals blocked": (
        "signal.pthread_sigmask(signal.SIG_BLOCK, {1, 2, 10, 15, 34})",
        STATUS,
    ),
    "wakeup descriptor": (
        "r, w = os.pipe2(os.O_NONBLOCK); os.close(r); signal.set_wakeup_fd(w)\nos.close(w)",
        "say(signal.set_wakeup_fd(-1))",
    ),
    "alarm": ("signal.alarm(1000)", TIMERS),
    "timers": (
        "for kind in range(3): signal.setitimer(kind, 1000, 1000)",
        TIMERS,
    ),
    "variable added": ("os.environ['SECRET'] = 'x'", PYTHON_ENVIRONMENT),
    "variable changed": ("os.environ['KEPT'] = '2'", PYTHON_ENVIRONMENT),
    "variable of the connection changed": (
        "os.environ['REMOTE_ADDR'] = '192.0.2.1'",
        PYTHON_ENVIRONMENT,
    ),
    "variable removed": (
        "del os.environ['KEPT'], os.environ['PATH']",
        REAL_ENVIRONMENT,
    ),
    "environment cleared": ("os.environ.clear()", REAL_ENVIRONMENT),
    "environment changed for programs": (
        "os.environ['SECRET'] = 'x'",
        REAL_ENVIRONMENT,
    ),
    "environment replaced": ("os.environ = {'SECRET': 'x'}", PYTHON_ENVIRONMENT),
    "arguments": ("sys.argv.append('x')", "say(sys.argv)"),
    "arguments replaced": ("sys.argv = []", "say(sys.argv)"),
    "stdout replaced": ("sys.stdout = io.StringIO(); print('secret')", STREAMS),
    "stdout closed": ("sys.stdout.close()", STREAMS),
    "all streams closed": (
        "for x in (sys.stdin, sys.stdout, sys.stderr): x.close()",
        STREAMS,
    ),
    "streams gone": ("sys.stdin = sys.stdout = sys.stderr = None", STREAMS),
    "stdout detached": ("sys.stdout = sys.stdout.detach()", STREAMS),
    "streams configured": (
        """
        for x in (sys.stdout, sys.stderr):
            x.reconfigure(encoding="latin-1", errors="ignore", write_through=True)
        sys.stdin.reconfigure(encoding="latin-1", errors="ignore")
        """,
        STREAMS,
    ),
    "stdout buffered by lines": (
        "sys.stdout.reconfigure(line_buffering=True)",
        STREAMS,
    ),
    "line ends": ("sys.stdout.reconfigure(newline='\\r\\n')", "print('x')"),
    "spare streams gone": ("sys.__stdout__ = sys.__stdin__ = None", STREAMS),
    "stderr redirected": (
        "null = os.open('/dev/null', os.O_WRONLY); os.dup2(null, 2); os.close(null)",
        "say(os.readlink('/proc/self/fd/2'))",
    ),
    "stderr closed": ("os.close(2)", "say(os.readlink('/proc/self/fd/2'))"),
    "socket not blocking": (
        "os.set_blocking(0, False)",
        "say(os.get_blocking(0), os.get_blocking(1))",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_worker_is_as_before(daemon, case):
    change, look = CASES[case]
    worker, before = pid(daemon), run(daemon, look)
    assert before
    run(daemon, change)
    assert run(daemon, look) == before
    assert pid(daemon) == worker, "it is put back, not renewed"


def test_each_change_would_show(daemon):
    """Negative control: in the connection that made it, the look tells the difference."""
    blind = []
    for case, (change, look) in CASES.items():
        before = run(daemon, look)
        if run(daemon, f"{_flat(change)}\n{look}") == before:
            blind.append(case)
    assert blind == []


def _flat(source: str) -> str:
    lines = source.strip("\n").split("\n")
    margin = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[margin:] for line in lines)


# -- buffers ---------------------------------------------------------------------------


def test_what_a_peer_sent_and_nobody_read_is_not_the_next_peers(daemon):
    worker = pid(daemon)
    read = "say(repr(sys.stdin.readline()))"
    assert run(daemon, read, then=b"one\nsecret\n" * 100) == "'one\\n'\n"
    assert run(daemon, read, then=b"two\n") == "'two\\n'\n"
    assert run(daemon, "sys.stdin.buffer.peek(1)", then=b"secret\n") == ""
    assert run(daemon, read, then=b"three\n") == "'three\\n'\n"
    assert pid(daemon) == worker


@pytest.mark.parametrize(
    "write",
    [
        "print('secret')",
        "sys.stdout.buffer.write(b'secret')",
        "sys.stdout.buffer.write(b'secret' * 100_000)",
        "sys.__stdout__.write('secret')",
        "sys.stderr = sys.stdout; print('secret', file=sys.stderr)",
        "print('secret'); sys.stdout = io.StringIO()",
        "print('secret'); sys.stdout = None",
    ],
)
def test_what_was_written_for_a_dead_peer_is_not_the_next_peers(daemon, write):
    worker = pid(daemon)
    ignore = "signal.signal(signal.SIGPIPE, signal.SIG_IGN)\nsay('on')\n"
    wait = "try: os.read(0, 1)\nexcept ConnectionResetError: pass\n"
    with begin(daemon, f"{ignore}{wait}{write}") as sock:
        assert sock.recv(3) == b"on\n"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert run(daemon, "print('mine')") == "mine\n"
    gone = "sys.stdout.flush(); sys.__stdout__.flush(); gc.collect()"
    assert run(daemon, gone) == ""
    assert pid(daemon) == worker


def test_what_was_printed_and_not_flushed_arrives(daemon):
    assert run(daemon, "print('all of it', end='')") == "all of it"
    assert run(daemon, "sys.stdout.write('x' * 100_000)") == "x" * 100_000


def test_an_answer_of_one_is_never_the_answer_of_another(daemon):
    for number in range(50):
        write = ("print", "sys.stderr.write", "say", "sys.stdin.readline; print")
        source = f"{write[number % 4]}('{number}')"
        expected = "" if number % 4 == 1 else f"{number}\n"
        assert run(daemon, source, then=b"unread\n") == expected
    assert not daemon.log("secret")


# -- what cannot be put back -----------------------------------------------------------


@pytest.mark.parametrize(
    "leak",
    [
        "import threading; threading.Thread(target=signal.pause, daemon=True).start()",
        "subprocess.Popen(['/bin/sleep', '60'], stdin=-3, stdout=-3, stderr=-3)",
        "raise RuntimeError('a bug')",
    ],
    ids=["thread", "child", "bug"],
)
def test_what_cannot_be_put_back_is_followed_by_a_fresh_worker(daemon, leak):
    worker = pid(daemon)
    with begin(daemon, f"say('answer')\n{leak}") as sock:
        assert read_all(sock) == b"answer\n"
    assert pid(daemon) != worker


def test_children_that_have_ended_are_reaped_and_the_worker_stays(daemon):
    worker = pid(daemon)
    fork = "p = os.fork()\nif not p: os._exit(0)\n"
    run(daemon, fork + "os.waitid(os.P_PID, p, os.WEXITED | os.WNOWAIT)")
    look = "say(open(f'/proc/self/task/{os.getpid()}/children').read())"
    assert run(daemon, look) == "\n"
    assert pid(daemon) == worker


def test_a_copy_of_the_connection_that_leaked_does_not_keep_its_peer_waiting(daemon):
    for end in (False, True):
        leak = "sys.leaked = os.dup(0)\nos.write(1, b'answer')"
        with begin(daemon, leak) as sock:
            if end:
                sock.shutdown(1)
            assert read_all(sock) == b"answer"
    leak = "sys.leaked = os.dup(0)\nwhile os.read(0, 100): pass"
    assert daemon.talk("w", leak.encode() + b"\nend\n") == b""
