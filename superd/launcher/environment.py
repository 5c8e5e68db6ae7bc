"""Build the environment of a handler: from nothing, never from superd's own.

Names of three families are set together, so that a program written for any superserver
finds its own: UCSPI (cr.yp.to/proto/ucspi.txt), systemd and CGI, superd.
"""

from __future__ import annotations

import socket


def stream_environment(
    base: dict[str, str], service: str, conn: str, sock: socket.socket, host: str
) -> dict[str, str]:
    """Describe one connection; `host` and the socket's family agree."""
    environment = dict(base)
    environment["SUPERD_SERVICE"] = service
    environment["SUPERD_CONNECTION"] = conn
    if sock.family == socket.AF_UNIX:
        environment["PROTO"] = "UNIX"
        path = sock.getsockname()
        environment["UNIXLOCALPATH"] = path if isinstance(path, str) else "@"
        environment["UNIXREMOTEEUID"] = host.removeprefix("unix:")
        environment["REMOTE_ADDR"] = host
        return environment
    environment["PROTO"] = "TCP"
    local = sock.getsockname()
    environment["TCPLOCALIP"] = local[0].removeprefix("::ffff:")
    environment["TCPLOCALPORT"] = str(local[1])
    return environment


def add_peer(
    environment: dict[str, str], host: str, port: str, number: str, name: str
) -> None:
    """Add the far end: its address, its number among its source's, its name."""
    environment["TCPREMOTEIP"] = environment["REMOTE_ADDR"] = host
    environment["TCPREMOTEPORT"] = environment["REMOTE_PORT"] = port
    environment["TCPCONNNUM"] = number
    if name:
        environment["TCPREMOTEHOST"] = environment["REMOTE_HOST"] = name
