"""Play one role of a pipeline: head, middle or tail, by what it is given.

The rule of the file: nothing is started before every joint of this role is connected,
and the next stage is told of a clean end only after the program's status was judged.
"""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING

from superd.handlers.pipeline import joint
from superd.handlers.pipeline.failure import UNREACHABLE, USAGE, Failure
from superd.handlers.pipeline.zstd import library
from superd.pipe import packed
from superd.pipe.report import say
from superd.pipe.stage import Stage

if TYPE_CHECKING:
    import argparse
    import socket

    IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def serve(flags: argparse.Namespace) -> int:
    """Serve one peer, or with --keep one after the other; returns the exit status."""
    if flags.compress:
        library()
    if flags.listen is None:
        return _one(flags, None, _dial(flags))[0]
    wanted = _address(flags.source) if flags.source else None
    listeners = joint.listen(flags.listen)
    try:
        _announce(flags, listeners)
        if flags.keep:
            return _keep_on(flags, listeners, wanted)
        downstream = None
        if flags.to is not None:
            downstream = _dial(flags)
        try:
            upstream = _accept(flags, listeners, wanted, downstream)
            _greet(flags, upstream)
        except BaseException:
            if downstream is not None:
                downstream.close()
            raise
    finally:
        joint.close_all(listeners)
    return _one(flags, upstream, downstream)[0]


def _keep_on(
    flags: argparse.Namespace, listeners: list[socket.socket], wanted: IPAddress | None
) -> int:
    """Serve one after the other until a signal; what fails is said, and no end."""
    while True:
        upstream = _accept(flags, listeners, wanted, None)
        try:
            downstream = None
            if flags.to is not None:
                downstream = _dial(flags)
            _greet(flags, upstream)
            status, was_asked = _one(flags, upstream, downstream)
        except Failure as failure:
            say(str(failure))
            continue
        finally:
            upstream.close()
        if was_asked:
            return status


def _one(
    flags: argparse.Namespace,
    upstream: socket.socket | None,
    downstream: socket.socket | None,
) -> tuple[int, bool]:
    """Serve one peer; returns the status, and whether a signal asked for the end."""
    stage = Stage(flags, upstream, downstream)
    try:
        return stage.run(), stage.was_asked
    finally:
        stage.close()


def _dial(flags: argparse.Namespace) -> socket.socket:
    """Connect to the stage after, which takes what is compressed where we compress."""
    downstream = joint.dial(flags.to, flags.wait, flags.dead)
    if flags.compress:
        try:
            packed.await_offer(downstream, str(flags.to), flags.wait)
        except BaseException:
            downstream.close()
            raise
    return downstream


def _greet(flags: argparse.Namespace, upstream: socket.socket) -> None:
    if flags.compress:
        packed.offer(upstream)


def _accept(
    flags: argparse.Namespace,
    listeners: list[socket.socket],
    wanted: IPAddress | None,
    downstream: socket.socket | None,
) -> socket.socket:
    while True:
        try:
            sock = joint.accept(listeners, downstream)
        except BrokenPipeError:
            raise Failure(
                UNREACHABLE,
                f"{flags.to}: the stage after has gone before the one before came",
            ) from None
        joint.guard(sock, flags.dead)
        peer = joint.name_of_peer(sock)
        if wanted is None or _address(sock.getpeername()[0]) == wanted:
            return sock
        say(f"refused {peer}: --from {flags.source}")
        sock.close()


def _address(text: str) -> IPAddress:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise Failure(USAGE, f"--from {text}: no IP address") from None


def _announce(flags: argparse.Namespace, listeners: list[socket.socket]) -> None:
    """Say where we listen, where that was left to the kernel or is asked for."""
    host, port = listeners[0].getsockname()[:2]
    if flags.listen.port == 0 and flags.ready_fd is None:
        say(f"listening on {joint.Address(flags.listen.host or host, port)}")
    if flags.ready_fd is not None:
        try:
            os.write(flags.ready_fd, f"{joint.Address(host, port)}\n".encode())
            os.close(flags.ready_fd)
        except OSError as error:
            raise Failure(
                USAGE, f"--ready-fd {flags.ready_fd}: {error.strerror}"
            ) from None
