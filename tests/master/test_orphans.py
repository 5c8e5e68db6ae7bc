"""Orphans: only a process that leads a session is watched, and only watched."""

from __future__ import annotations

import os
import resource
import select
import signal

import pytest
from master_rig import fds

from superd.core.protocol import PID_MAX
from superd.master import orphans


def start(*, setsid: bool) -> int:
    return os.posix_spawn("/bin/sleep", ["sleep", "600"], {}, setsid=setsid)


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_the_end_of_a_handler_makes_its_descriptor_readable():
    pid = start(setsid=True)
    fd = orphans.watch(pid)
    assert not select.select([fd], [], [], 0)[0]
    os.kill(pid, signal.SIGKILL)
    assert select.select([fd], [], [], 10)[0]
    os.waitpid(pid, 0)
    os.close(fd)


def test_a_pid_that_leads_no_session_is_somebody_elses_by_now():
    before = fds()
    pid = start(setsid=False)
    assert orphans.watch(pid) is None
    assert fds() == before
    end(pid)


def test_a_pid_that_nobody_has_is_gone():
    pid = start(setsid=True)
    end(pid)
    assert orphans.watch(pid) is None


@pytest.mark.parametrize("pid", [0, PID_MAX])
def test_the_ends_of_what_a_launcher_may_name_are_no_error(pid):
    assert orphans.watch(pid) is None


def test_a_shortage_of_descriptors_is_not_taken_for_an_end():
    """It freed the slot of a handler that was still there."""
    pid = start(setsid=True)
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            orphans.watch(pid)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        end(pid)
