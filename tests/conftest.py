"""Rules that hold for every test: nothing is left behind, root-only tests say so."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemon_under_test import Daemon, DaemonFactory

if TYPE_CHECKING:
    from collections.abc import Iterator


MODES = frozenset(
    {
        *("process", "pool", "loop", "workers", "in-process", "in-loop"),
        *("asyncio", "uvloop", "epoll", "poll", "select"),
    }
)
"""Words in the name of a test that say in which way something is served."""


def spread(names: list[str]) -> set[int]:
    """Choose of each test that is played in several modes the one for the quick run.

    Returns the numbers of all others. Which one it is depends on the name alone, so that
    tests of a kind are played in different modes, and each one always in the same.
    """
    alike: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        test, bracket, words = name.partition("[")
        parts = re.split(r"(in-process|in-loop|[-.\]])", words)
        if not MODES.isdisjoint(parts):
            parts = ["*" if part in MODES else part for part in parts]
            alike.setdefault(test + bracket + "".join(parts), []).append(number)
    others: set[int] = set()
    for name, numbers in alike.items():
        others |= set(numbers) - {numbers[zlib.crc32(name.encode()) % len(numbers)]}
    return others


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what a quick run leaves out; skip root's tests for an ordinary user."""
    for number in spread([item.nodeid for item in items]):
        items[number].add_marker(pytest.mark.modes)
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root: identities, namespaces")
    for item in items:
        if "root" in item.keywords:
            item.add_marker(skip)


def _descriptors() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the one that listed the folder
    return found


def _children() -> list[str]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return file.read().split()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Fail a test that leaves a descriptor, a child or a thread behind."""
    descriptors, children = _descriptors(), _children()
    threads = threading.active_count()
    yield
    left = {
        fd: name for fd, name in _descriptors().items() if descriptors.get(fd) != name
    }
    assert not left, f"descriptors left open: {left}"
    assert _children() == children, "children left, or not reaped"
    assert threading.active_count() == threads, "a thread is left"


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Give a folder that a service's user may enter: pytest's own is closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="superd-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def superd(tmp_path) -> Iterator[DaemonFactory]:
    """Start real daemons: `superd({...services...})`; they are stopped and judged."""
    factory = DaemonFactory(tmp_path)
    yield factory
    factory.finish()


__all__ = ["Daemon"]
