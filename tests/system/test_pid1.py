"""superd as PID 1 of a container: it reaps what others leave, and ends when it is told."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from commands import status_of
from daemon_under_test import eventually, read_all

pytestmark = pytest.mark.root
PREFIX = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def child_of(pid):
    path = f"/proc/{pid}/task/{pid}/children"
    return [int(word) for word in Path(path).read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_reaps_orphans_and_ends_with_0(superd, number):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # The grandchild outlives its parent, and its launcher inherits it.
        orphan = ["/bin/sh", "-c", "(sleep 0.1 <&- >&- 2>&- &) ; echo $$"]
        daemon = superd(
            {"services": {"orphan": {"listen": "fd:x", "exec": orphan}}},
            inherit={"x": listener},
            prefix=PREFIX,
        )
        (pid,) = child_of(daemon.pid)
        assert status_of(pid)["NSpid"].split()[-1] == "1"
        with socket.create_connection(listener.getsockname(), timeout=10) as sock:
            assert int(read_all(sock)) > 1
        daemon.wait_log("end service=orphan conn=1 ")

        def reaped():
            # Its launcher is all that is left.
            return len(child_of(pid)) == 1 and not child_of(child_of(pid)[0])

        eventually(reaped, "the orphan is reaped")
        os.kill(pid, number)
    daemon.wait_end()
    assert daemon.process.returncode == 0


def test_it_reaps_what_a_dead_launcher_leaves(superd):
    program = ["/bin/sh", "-c", "setsid sleep 60 <&- >&- 2>&- & echo"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        daemon = superd(
            {"services": {"orphan": {"listen": "fd:x", "exec": program}}},
            inherit={"x": listener},
            prefix=PREFIX,
        )
        (pid,) = child_of(daemon.pid)
        with socket.create_connection(listener.getsockname(), timeout=10) as sock:
            assert read_all(sock) == b"\n"
        daemon.wait_log("end service=orphan conn=1 ")
        (launcher,) = child_of(pid)
        (orphan,) = child_of(launcher)
        os.kill(launcher, signal.SIGKILL)
        eventually(lambda: child_of(pid) == [orphan], "PID 1 has inherited it")
        os.kill(orphan, signal.SIGKILL)
        eventually(lambda: child_of(pid) == [], "it is reaped")
        os.kill(pid, signal.SIGTERM)
    daemon.wait_end()
    assert daemon.process.returncode == 0
