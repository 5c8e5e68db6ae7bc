"""Ask another host's finger server (RFC 1288 2.4), and take what it says.

The rule of the file: whom to ask is the operator's to say, host by host, and no question
is passed on that would have that host ask a third one. Everything ends at the deadline,
the search for the host's address too: getaddrinfo() has none, so a process of its own
does all of it and is killed.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from superd.handlers import finger_program, stdio
from superd.handlers.finger_query import is_name
from superd.handlers.run import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.handlers.finger_query import Query


class Hop(NamedTuple):
    """Whom to ask, and what."""

    host: str
    port: int
    line: bytes


def next_hop(query: Query, hosts: Sequence[str], port: int) -> Hop | None:
    """Return where to pass a query on to; None if nowhere.

    One hop, `[user]@host`, to a host as the operator has spelt it: by another name for
    the same address the peer would choose what is resolved.
    """
    if len(query.names) != 1:
        return None
    user, _, wanted = query.names[0].partition("@")
    if user and not is_name(user):
        return None
    for host in hosts:
        if host.lower() == wanted.lower():
            words = ["/W"] * query.long + [user] * bool(user)
            return Hop(host, port, " ".join(words).encode("ascii") + b"\r\n")
    return None


def ask(hop: Hop, deadline: float, cap: int) -> tuple[bytes, str]:
    """Ask; returns `cap` bytes of answer at most, and what went wrong."""
    with finger_program.stoppable() as allow_stop:
        pid, reader = _start(hop, deadline)
        try:
            allow_stop()
            return finger_program.collect(reader, deadline, cap, "the host")
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def addresses_of(hop: Hop) -> list[Any]:
    """Look up the host, as socket.getaddrinfo does; blocks, and has no deadline."""
    return socket.getaddrinfo(hop.host, hop.port, type=socket.SOCK_STREAM)


def share(deadline: float, left: int) -> float:
    """Divide the time up to the deadline by the addresses left to try."""
    return max(0.001, (deadline - monotonic()) / left)


def _start(hop: Hop, deadline: float) -> tuple[int, int]:
    """Fork the process that asks; returns its pid and a descriptor with what it hears.

    Only where there are no threads: a fork would copy their locks.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    status = 1
    try:
        os.close(reader)
        _relay(hop, writer, deadline)
        status = 0
    except OSError as error:
        stdio.log(f"finger: {hop.host}: {describe(error)}")
    except Exception as error:  # noqa: BLE001  no exception crosses a fork
        stdio.log(f"finger: bug: {type(error).__name__}: {error}")
    finally:
        os._exit(status)


def _relay(hop: Hop, out: int, deadline: float) -> None:
    """Send the line, pass on all that comes."""
    with _connect(hop, deadline) as sock:
        sock.settimeout(None)
        sock.sendall(hop.line)
        while data := sock.recv(stdio.CHUNK):
            try:
                while data:
                    data = data[os.write(out, data) :]
            except BrokenPipeError:
                return  # who asked has heard enough, and says so


def _connect(hop: Hop, deadline: float) -> socket.socket:
    found = addresses_of(hop)
    for number, (family, kind, protocol, _, address) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(share(deadline, len(found) - number))
            sock.connect(address)
        except OSError:
            sock.close()
            if number == len(found) - 1:
                raise
        else:
            return sock
    raise OSError(f"{hop.host} has no address")
