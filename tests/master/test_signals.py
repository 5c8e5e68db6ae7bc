"""Signals: noted by a handler, told by a pipe, taken once."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys

import pytest

from superd.master.signals import CAUGHT, SignalPipe


@pytest.fixture
def pipe():
    kept = {number: signal.getsignal(number) for number in (*CAUGHT, signal.SIGPIPE)}
    pipe = SignalPipe()
    yield pipe
    pipe.close()
    for number, handler in kept.items():
        signal.signal(number, handler)


def is_readable(pipe: SignalPipe) -> bool:
    return bool(select.select([pipe], [], [], 0)[0])


def test_what_came_is_told_once(pipe):
    assert pipe.take() == set()
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGTERM)
    assert is_readable(pipe)
    assert pipe.take() == {signal.SIGHUP, signal.SIGTERM}
    assert not is_readable(pipe)
    assert pipe.take() == set()


def test_a_storm_of_one_signal_is_one(pipe):
    for _ in range(10_000):
        signal.raise_signal(signal.SIGHUP)
    assert pipe.take() == {signal.SIGHUP}
    assert not is_readable(pipe)


def test_a_pipe_that_is_full_loses_no_signal(pipe):
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe._write, bytes(4096))
    signal.raise_signal(signal.SIGTERM)
    assert pipe.take() == {signal.SIGTERM}
    assert not is_readable(pipe)


def test_the_end_of_a_real_child_wakes_the_loop(pipe):
    pid = os.posix_spawn("/bin/true", ["true"], {})
    assert select.select([pipe], [], [], 10)[0]
    assert pipe.take() == {signal.SIGCHLD}
    assert os.waitpid(pid, 0) == (pid, 0)


def test_a_peer_that_has_gone_is_an_error_and_no_death(pipe):
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)


def test_what_is_caught_and_ignored_here_is_not_in_a_program_that_we_start():
    code = """
import os, signal, sys
from superd.master.signals import SignalPipe
from superd.master.launching import ALL_SIGNALS
SignalPipe()
pid = os.posix_spawn("/bin/cat", ["cat", "/proc/self/status"], {},
                     setsigmask=[], setsigdef=ALL_SIGNALS)
os.waitpid(pid, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    sets = dict(line.split(":\t") for line in done.stdout.splitlines() if "Sig" in line)
    ours = sum(1 << (number - 1) for number in (*CAUGHT, signal.SIGPIPE))
    assert all(not int(sets[one], 16) & ours for one in ("SigIgn", "SigCgt", "SigBlk"))
