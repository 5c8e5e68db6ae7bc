"""Give tests the proxy under test, in the modes that it has, and servers behind it.

`proxy(option=...)` gives a running proxy with these options on top of USUAL; daemons are
shared by all tests of a module that ask for the same. `bare(flag, ...)` gives the handler
alone, as another inetd would run it. `origin(play, ...)` gives a server. How other proxies
are asked the same is in under_test.py.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from inetd import fork
from proxy.origins import OK, Origin, answers
from proxy.under_test import OTHER, Daemons, starter


@pytest.fixture(scope="module")
def daemons():
    folder = Path(tempfile.mkdtemp(prefix="superd-test-"))
    folder.chmod(0o755)
    running = Daemons(folder)
    try:
        yield running
    finally:
        try:
            running.finish()
        finally:
            shutil.rmtree(folder)


def _descriptors():
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that listed the folder
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
    return found


def _children():
    return set(
        map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
    )


@pytest.fixture(autouse=True)
def _nothing_is_left(daemons):
    """Fail a test that leaves anything behind, but a daemon that the next ones share."""
    descriptors, children = _descriptors(), _children()
    threads = threading.active_count()
    yield
    shared = {fd for one in daemons for fd in (one._read, one.notify.fileno())}
    left = {
        fd: name
        for fd, name in _descriptors().items()
        if descriptors.get(fd) != name and fd not in shared
    }
    assert not left, f"descriptors left open: {left}"
    assert _children() - {one.pid for one in daemons} <= children
    assert threading.active_count() == threads, "a thread is left"


@pytest.fixture(params=["loop", "process"])
def mode(request):
    return request.param


@pytest.fixture
def proxy(daemons, mode):
    """Give a proxy in loop and in process mode: `proxy(option=...)`."""
    yield starter(daemons, mode)
    daemons.read_logs()


@pytest.fixture
def looping(daemons):
    """Give a proxy in loop mode alone, for what does not depend on the mode."""
    yield starter(daemons, "loop")
    daemons.read_logs()


@pytest.fixture
def either(daemons, request):
    """Give a proxy in one mode for half of the tests, and in the other for the rest.

    One flow serves in both; a corpus need not be played twice.
    """
    number = zlib.crc32(request.node.name.encode())
    yield starter(daemons, "loop" if OTHER else ("loop", "process")[number % 2])
    daemons.read_logs()


@pytest.fixture
def pooled(daemons):
    """Give a proxy in pool mode."""
    if OTHER:
        pytest.skip("another proxy has one mode")
    yield starter(daemons, "pool")
    daemons.read_logs()


@pytest.fixture
def bare():
    """Give the handler alone, under a bare inetd: `with bare("--flag") as served`."""
    if OTHER:
        pytest.skip("another proxy is no handler of ours")
    from superd.handlers import proxy as handler  # noqa: PLC0415  only where it is ours

    def start(*flags, early=b""):
        usual = ("--allow-private", "--ports", "any")
        return fork(handler.main, *usual, *flags, early=early)

    return start


@pytest.fixture
def origin():
    """Give servers: `origin(play, ...)`; a fault that one has seen fails the test."""
    made = []

    def make(*plays, **more):
        made.append(Origin(*(plays or (answers(OK),)), **more))
        return made[-1]

    yield make
    for one in made:
        one.close()
    faults = [fault for one in made for fault in one.faults]
    assert not faults, f"the origin got what no proxy may send: {faults}"
