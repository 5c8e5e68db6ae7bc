"""Write the header of the PROXY protocol, which tells a backend who its peer is.

The protocol is haproxy.org's doc/proxy-protocol.txt, versions 1 and 2. The rule of the
file: what is not known for certain is UNKNOWN, never made up.
"""

from __future__ import annotations

import os
import socket
import struct

from superd.handlers.relay.addresses import plain

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_PROXY: Final = 0x21
"""Version 2, command PROXY: the connection is relayed for somebody."""
_UNSPEC, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_SUN_PATH: Final = 108


class Ends:
    """The two ends of the peer's connection; `family` 0 where they are not known."""

    __slots__ = ("destination", "family", "source")

    def __init__(
        self, family: int, source: Any = None, destination: Any = None
    ) -> None:
        self.family = family
        self.source = source
        """(address, port), or the path of a Unix socket."""
        self.destination = destination


def header(version: str, ends: Ends) -> bytes:
    """Write the header of version `v1` or `v2`; nothing for `none`."""
    if version == "none":
        return b""
    return _text(ends) if version == "v1" else _binary(ends)


def ends_of(environment: Mapping[str, str], source: Any, destination: Any) -> Ends:
    """Tell the ends by a handler's environment, else by the names of its socket."""
    if environment.get("PROTO") == "UNIX" or isinstance(destination, str | bytes):
        return Ends(
            socket.AF_UNIX,
            _path_of(source),
            environment.get("UNIXLOCALPATH", "") or _path_of(destination),
        )
    keys = ("TCPREMOTEIP", "TCPREMOTEPORT", "TCPLOCALIP", "TCPLOCALPORT")
    told = [environment.get(key, "") for key in keys]
    if all(told):
        return _inet(told[0], told[1], told[2], told[3])
    if isinstance(source, tuple) and isinstance(destination, tuple):
        return _inet(source[0], source[1], destination[0], destination[1])
    return Ends(0)


def _inet(host: str, port: Any, own: str, own_port: Any) -> Ends:
    """Make both ends the same family, or none."""
    source, destination = plain(host), plain(own)
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            for one in (source, destination):
                socket.inet_pton(family, one)
            ports = int(port), int(own_port)
        except (OSError, ValueError):
            continue
        if all(0 <= one < 1 << 16 for one in ports):
            return Ends(family, (source, ports[0]), (destination, ports[1]))
    return Ends(0)


def _path_of(name: Any) -> str:
    return os.fsdecode(name) if isinstance(name, str | bytes) else ""


def _text(ends: Ends) -> bytes:
    # Version 1 has no word for a Unix socket.
    if ends.family not in (socket.AF_INET, socket.AF_INET6):
        return b"PROXY UNKNOWN\r\n"
    word = "TCP4" if ends.family == socket.AF_INET else "TCP6"
    hosts = f"{ends.source[0]} {ends.destination[0]}"
    ports = f"{ends.source[1]} {ends.destination[1]}"
    return f"PROXY {word} {hosts} {ports}\r\n".encode("ascii")


def _binary(ends: Ends) -> bytes:
    kind, body = _UNSPEC, b""
    if ends.family == socket.AF_UNIX:
        kind = _UNIX
        paths = [os.fsencode(one) for one in (ends.source, ends.destination)]
        body = b"".join(one[:_SUN_PATH].ljust(_SUN_PATH, b"\0") for one in paths)
    elif ends.family:
        kind = _TCP4 if ends.family == socket.AF_INET else _TCP6
        for host in (ends.source[0], ends.destination[0]):
            body += socket.inet_pton(ends.family, host)
        body += struct.pack("!HH", ends.source[1], ends.destination[1])
    return SIGNATURE + struct.pack("!BBH", _PROXY, kind, len(body)) + body
