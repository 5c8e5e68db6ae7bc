"""Turn a forked child of the launcher into a worker of a pool or a loop.

What it keeps of the launcher is the imported handler and the identity. Everything else
goes: descriptors but its own few, signals, the session.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from superd.core.exitcodes import BUG
from superd.launcher.channel import Channel
from superd.launcher.child import (
    name_process,
    say_bug,
    set_limits,
)
from superd.launcher.ledger import RETIRED
from superd.launcher.stage import MAX_FD, reset_signals

if TYPE_CHECKING:
    from superd.launcher.child import Limits
    from superd.launcher.seats import Place
    from superd.launcher.spec import Spec

SEAT, BACK, DIRECTORY, FIRST_KEPT = 3, 4, 5, 6


WORK = {"pool": "superd.launcher.pooling", "loop": "superd.launcher.looping"}
"""What a worker of each mode runs. Only the launcher of such a service loads it: asyncio
alone takes 50 ms and 5 MiB."""


def prepare(spec: Spec, module: Any) -> None:
    """Load, in the launcher, what its handlers will need: they share the pages."""
    own = getattr(module, "prepare", None)
    if own is not None:
        try:
            own(list(spec.argv))
        except Exception as error:  # noqa: BLE001  whatever a handler's own code does
            say_bug(spec.handler, error)
    if spec.mode in WORK:
        importlib.import_module(WORK[spec.mode])
    if spec.mode == "loop" and spec.selector in ("auto", "uvloop"):
        with contextlib.suppress(ImportError):
            importlib.import_module("uvloop")


def become_worker(
    spec: Spec, module: Any, place: Place, back: int, limits: Limits
) -> int:
    """Serve what comes on the seat; returns the exit status."""
    try:
        os.setsid()
        reset_signals()
        kept = _place(place, back)
        set_limits(limits)
        name_process(spec.name)
        if spec.mode == "pool":
            return _pool(spec, module, place, kept)
        return _loop(spec, module, place, kept)
    except BaseException as error:  # noqa: BLE001  the last frame of the process
        say_bug(spec.handler, error)
        return BUG


def _place(place: Place, back: int) -> list[tuple[list[str], int]]:
    """Put our descriptors at their numbers and close all others."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    wanted = [place.sock.fileno(), back, directory, *(fd for _, fd in place.kept)]
    above = SEAT + len(wanted)
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in wanted]
    os.dup2(null, 0)
    os.dup2(null, 1)
    for number, fd in enumerate(copies, SEAT):
        os.dup2(fd, number, inheritable=False)
    os.closerange(above, MAX_FD)
    return [(words, number) for number, (words, _) in enumerate(place.kept, FIRST_KEPT)]


def _pool(
    spec: Spec, module: Any, place: Place, kept: list[tuple[list[str], int]]
) -> int:
    pooling = importlib.import_module(WORK["pool"])
    fds = (SEAT, BACK, DIRECTORY)
    status: int = pooling.work(spec, module.main, fds, place.ledger, kept)
    return status


def _loop(
    spec: Spec, module: Any, place: Place, kept: list[tuple[list[str], int]]
) -> int:
    looping = importlib.import_module(WORK["loop"])
    channel = Channel(SEAT)
    back = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=BACK)
    sys.argv = [spec.handler, *spec.argv]
    channel.report(f"hello {os.getpid()}")
    channel.flush()
    status: int = looping.work(spec, module, channel, back, place.ledger.beat, kept)
    if status == 0:
        place.ledger.leave(RETIRED)
    return status
