"""Look up the addresses of a backend, with a deadline.

The rule of the file: getaddrinfo() has no deadline, so it never runs where it would hold
up a connection past its own. Here a process does it and is killed; in a loop it is a
thread's work (in_loop.py). A numeric address asks nobody.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from select import POLLIN
from time import monotonic

from superd.handlers import stdio
from superd.handlers.relay.addresses import Target, numeric

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from typing import Final

    from superd.handlers.relay.addresses import Backend

MOST: Final = 16
"""Addresses of one name that are tried: more would only be late."""


def without_asking(backend: Backend) -> list[Target] | None:
    """Return the targets of what needs no lookup; None for a name."""
    if backend.path:
        return [Target(socket.AF_UNIX, backend.path)]
    target = numeric(backend.host, backend.port)
    return None if target is None else [target]


def ask(backend: Backend) -> list[Target]:
    """Look a name up here and now; blocks, and has no deadline."""
    return interleave(addresses_of(backend.host, backend.port))


def addresses_of(host: str, port: int, flags: int = 0) -> list[Target]:
    """Ask getaddrinfo(3), as it is; `host` is ASCII. Blocks, and has no deadline."""
    # As bytes: a text would load the codec of international names, in 10 ms.
    found = socket.getaddrinfo(
        host.encode("ascii"), port, type=socket.SOCK_STREAM, flags=flags
    )
    return [Target(int(one[0]), one[4]) for one in found]


def interleave(targets: list[Target]) -> list[Target]:
    """Let the families take turns, the first one first (RFC 8305 4)."""
    if not targets:
        return []
    first = [one for one in targets if one.family == targets[0].family]
    second = [one for one in targets if one.family != targets[0].family]
    mixed: list[Target] = []
    for number in range(max(len(first), len(second))):
        mixed += first[number : number + 1] + second[number : number + 1]
    return list(dict.fromkeys(mixed))[:MOST]


def targets_of(backend: Backend, deadline: float) -> list[Target]:
    """Return the addresses to try; OSError where there is none in time."""
    targets = without_asking(backend)
    return _ask_apart(backend, deadline) if targets is None else targets


def _ask_apart(backend: Backend, deadline: float) -> list[Target]:
    """Have a process ask; only where there are no threads, whose locks it would copy."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _answer(backend, writer)
    os.close(writer)
    text = b""
    try:
        while stdio.wait(reader, POLLIN, deadline - monotonic()):
            data = os.read(reader, stdio.CHUNK)
            if not data:
                return _read_answer(text.decode())
            text += data
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    raise TimeoutError("its name was not found in time")


def _answer(backend: Backend, out: int) -> None:
    """Write a line for each address, or `!` and what is wrong; ends the process."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            lines = [_line(one) for one in ask(backend)]
        except OSError as error:
            lines = [f"! {error.strerror or error}"]
        os.write(out, "\n".join(lines).encode())
    finally:
        os._exit(0)


def _line(target: Target) -> str:
    host, port, *rest = target.address
    return " ".join(map(str, (target.family, host, port, *rest)))


def _read_answer(text: str) -> list[Target]:
    targets = []
    for line in text.splitlines():
        if line.startswith("!"):
            raise OSError(line[2:])
        family, host, *numbers = line.split(" ")
        targets.append(Target(int(family), (host, *map(int, numbers))))
    if not targets:
        raise OSError("its name has no address")
    return targets
