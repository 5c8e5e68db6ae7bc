"""Pass a connection on to another address: TCP or a Unix socket, and UDP where fd 0 is.

The rule of the file: it only brings flags and parts together; superd/handlers/relay/ has
the work. What could not be passed on ends by a reset, never as an empty answer.
"""

from __future__ import annotations

import os
import socket
import sys
from importlib import import_module
from select import POLLIN
from time import monotonic

from superd.handlers import exits, stdio
from superd.handlers.relay import copying, proxy_protocol
from superd.handlers.relay.backends import Search
from superd.handlers.relay.opening import open_backend
from superd.handlers.relay.plan import plan_of
from superd.handlers.relay.resetting import reset
from superd.handlers.relay.stopping import Stopped, die, stoppable
from superd.handlers.relay.story import STOPPED, Story, peer_of
from superd.handlers.run import run

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from typing import Any, Final

    from superd.handlers.options import Options
    from superd.handlers.relay.plan import Plan
    from superd.handlers.streams import Reader, Writer

OPTIONS: dict[str, dict[str, object]] = {
    "to": {
        "type": "list",
        "default": [],
        "help": "where to: HOST:PORT, [V6]:PORT or unix:/PATH, several to choose from",
    },
    "order": {
        "type": "choice",
        "choices": ["first", "random"],
        "default": "first",
        "help": "which is tried first: as written, the others when it is down, or any",
    },
    "retry": {
        "type": "duration",
        "default": 10.0,
        "help": "how long one that was down is tried last",
    },
    "proxy_protocol": {
        "type": "choice",
        "choices": ["none", "v1", "v2"],
        "default": "none",
        "help": "tell the backend who the peer is, in a header before the first byte",
    },
    "timeouts": {
        "type": "table",
        "keys": {
            "connect": {
                "type": "duration",
                "default": 10.0,
                "min": 0.1,
                "help": "for all backends together, the lookup of their names included",
            },
            "idle": {
                "type": "duration",
                "default": 600.0,
                "min": 0.1,
                "help": "without a byte either way; of UDP, until the process ends",
            },
            "half_closed": {
                "type": "duration",
                "default": 600.0,
                "min": 0.1,
                "help": "the same when one side has said all",
            },
            "session": {
                "type": "duration",
                "default": 60.0,
                "min": 0.1,
                "help": "of UDP: without a datagram either way until a peer is forgotten",
            },
        },
        "help": "how long is waited",
    },
    "sessions": {
        "type": "int",
        "default": 500,
        "min": 1,
        "max": 60000,
        "help": "of UDP: peers at once, each with a descriptor; then the most silent goes",
    },
    "log": {
        "type": "bool",
        "default": True,
        "help": "write a line for each connection at its end",
    },
}

_MOMENT: Final = 0.2
"""Seconds in which a peer that is just going is seen to go."""


def main(argv: list[str]) -> int:
    """Serve the connection on fd 0 and 1, or the peers of a UDP socket there."""
    return run("redirect", OPTIONS, _redirect, argv)


async def serve(reader: Reader, writer: Writer, options: Options) -> int:
    """Serve the connection in an event loop."""
    # By name: a handler that is started for each connection has no use for asyncio.
    in_loop = import_module("superd.handlers.relay.in_loop")
    status: int = await in_loop.redirect(reader, writer, options)
    return status


def _redirect(options: Options) -> int:
    peer, own, kind = _names_of_stdin()
    if kind == socket.SOCK_DGRAM:
        datagrams = import_module("superd.handlers.relay.datagrams")
        status: int = datagrams.relay(options)
        return status
    try:
        with stoppable():
            if not options["to"]:
                _let_go()
            return _relay(plan_of(options), peer, own)
    except Stopped:
        _reset_peer(kind, own)
        die()
        return exits.OK
    except Exception:
        _reset_peer(kind, own)
        raise


def _relay(plan: Plan, peer: Any, own: Any) -> int:
    """Find a backend and relay."""
    began = monotonic()
    ends = proxy_protocol.ends_of(os.environ, peer, own)
    hello = proxy_protocol.header(plan.proxy_protocol, ends)
    search = Search(plan.backends, began, began + plan.connect)
    opened = open_backend(search, own, hello)
    name = peer_of(os.environ, peer)
    tells = not _log_is_the_peer()
    if opened is None:
        if tells:
            stdio.log(f"redirect: peer={name or '-'} no backend: {search}")
        _reset_peer(socket.SOCK_STREAM, own)
        return exits.TEMPORARY
    backend, sock = opened
    story = Story(name, backend.text, began, told=plan.log and tells)
    with sock:
        try:
            return copying.relay(sock, story, plan.idle, plan.half_closed)
        except Stopped:
            story.end(STOPPED)
            raise


def _names_of_stdin() -> tuple[Any, Any, int]:
    """Return the names of the peer and of our end, and the kind of socket fd 0 is.

    Kind 0 is none: a pipe is relayed as well. Raises SetupError for a listening socket.
    """
    try:
        sock = socket.SocketType(fileno=0)
    except OSError:
        return None, None, 0
    try:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise exits.SetupError(stdio.NO_CONNECTION)
        own, kind = sock.getsockname(), int(sock.type)
        try:
            return sock.getpeername(), own, kind
        except OSError:
            return None, own, kind  # ENOTCONN: it has gone, or it is a UDP socket
    finally:
        sock.detach()


def _log_is_the_peer() -> bool:
    """Say whether fd 2 is the connection, as a classic inetd has it: no peer's business."""
    try:
        return os.path.samestat(os.fstat(1), os.fstat(2)) and not os.isatty(2)
    except OSError:
        return True


def _reset_peer(kind: int, own: Any) -> None:
    if kind and isinstance(own, tuple):
        reset(1)


def _let_go() -> None:
    """Raise PeerGone where the peer is about to go: then nothing was wrong for it."""
    deadline = monotonic() + _MOMENT
    while stdio.wait(0, POLLIN, deadline - monotonic()):
        if not stdio.read():
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
