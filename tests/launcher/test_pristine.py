"""Putting a process back: what it costs nothing to leave alone stays as it is.

That every change is undone is asked of a real pool, in tests/system/test_pool_state.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# In a process of its own: it is the state of a whole process.
HEAD = """
import json, os, signal, sys
from superd.launcher.pristine import Pristine
from superd.launcher.spec import Spec
spec = Spec(**dict.fromkeys(Spec._fields))._replace(
    handler="probe", argv=["--x"], umask=0o22
)
directory = os.open("/", os.O_PATH)
os.chdir("/")
it = Pristine(spec, directory)
base = {"PATH": "/bin", "A": "1"}
it.prepare(base)
found = {}
"""


def after(source: str) -> dict[str, object]:
    """Run it in a process that has a Pristine called `it`; returns `found`."""
    code = f"{HEAD}\n{source}\nos.write(3, json.dumps(found).encode())"
    wrapper = 'exec 3>&1 1>/dev/null; exec "$@"'
    done = subprocess.run(
        ["/bin/sh", "-c", wrapper, "sh", sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return json.loads(done.stdout)


def test_streams_that_nobody_used_are_not_made_anew():
    found = after(
        "before = sys.stdin, sys.stdout, sys.stderr\nit.restore()\n"
        "found['same'] = before == (sys.stdin, sys.stdout, sys.stderr)"
    )
    assert found == {"same": True}


@pytest.mark.parametrize(
    "use",
    [
        "sys.stdin.read()",
        "sys.stdin.buffer.read1(1)",
        "sys.stdout.write('x'); sys.stdout.flush()",
        "sys.stdout.buffer.raw.write(b'x')",
        "sys.stdout.close()",
        "sys.stdout = None",
        "sys.stdin = open('/dev/null')",
        "sys.stderr.reconfigure(errors='strict')",
    ],
)
def test_streams_that_were_used_are(use):
    found = after(
        f"before = [sys.stdin, sys.stdout, sys.stderr]\n{use}\nit.restore()\n"
        "now = [sys.stdin, sys.stdout, sys.stderr]\n"
        "found['new'] = sum(x is not y for x, y in zip(before, now))\n"
        "found['closed'] = any(x.closed for x in now)"
    )
    assert found == {"new": 1, "closed": False}


def test_the_environment_is_that_of_the_connection_and_of_no_other():
    found = after(
        "it.prepare({**base, 'B': '2'})\nfound['second'] = dict(os.environ)\n"
        "os.environ.update(A='x', C='3'); del os.environ['PATH']\nit.restore()\n"
        "it.prepare(base)\nfound['third'] = dict(os.environ)"
    )
    base = {"PATH": "/bin", "A": "1"}
    assert found == {"second": {**base, "B": "2"}, "third": base}


def test_arguments_are_a_copy_for_each_connection():
    found = after("sys.argv.append('y')\nit.prepare(base)\nfound['argv'] = sys.argv")
    assert found == {"argv": ["probe", "--x"]}


def test_a_thread_cannot_be_put_back():
    found = after(
        "import threading\nfound['before'] = it.restore()\n"
        "threading.Thread(target=signal.pause, daemon=True).start()\n"
        "found['after'] = it.restore()"
    )
    assert found == {"before": True, "after": False}
