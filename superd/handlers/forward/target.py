"""Read the target of a request to a proxy: an absolute URL, or the authority of CONNECT.

The rule of the file: the host is found once, by one grammar, and everything else (rules,
look-up, Host, cache key, log) is given what was found here. The path is not looked into:
a proxy sends on the bytes that it received (RFC 9110 7.7). How a host is spelt decides
nothing: addresses are judged after the look-up (guard.py).
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from superd.handlers.http.refusal import Refused
from superd.handlers.http.request import is_host

HTTP_PORT: Final = 80
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*")
_MOST_NAME: Final = 253
_USUAL: Final = re.compile(
    rb"http://([a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){0,3})(?::([1-9][0-9]{0,4}))?"
    rb"(/[^#]*)"
)
"""A target with nothing to say against it, and nothing to spell in another way."""
_MOST_PORT: Final = 65535
_MOST_LABEL: Final = 63
"""Bytes of a name and of each of its labels (RFC 1035 2.3.4)."""


class Target(NamedTuple):
    """Where a request goes."""

    host: str
    """In lower case, without brackets, without the dot of a rooted name."""
    port: int
    path: bytes
    """Path and query as received, `*` for a server as a whole; empty for CONNECT."""

    @property
    def endpoint(self) -> bytes:
        """HOST:PORT, the target of CONNECT."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}".encode("ascii")

    @property
    def authority(self) -> bytes:
        """The value of Host: the port only where it is not that of http."""
        return self.endpoint.removesuffix(b":80")

    @property
    def url(self) -> bytes:
        """The absolute URL, for the log and as the key of a cache."""
        path = b"" if self.path == b"*" else self.path
        return b"http://" + self.authority + path


def parse_absolute(target: bytes, method: bytes) -> Target:
    """Read a target in absolute form (RFC 9112 3.2.2). Raises Refused."""
    usual = _USUAL.fullmatch(target)
    if usual and (port := int(usual[2] or b"80")) <= _MOST_PORT:
        return Target(usual[1].decode("ascii"), port, usual[3])
    if target.startswith(b"/") or target == b"*":
        raise Refused(400, "this is a proxy: the target has to be an absolute URL")
    scheme, separator, rest = target.partition(b"://")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise Refused(400, "the target is no absolute URL")
    if scheme.lower() != b"http":
        raise Refused(
            501, "only http URLs are fetched here: for https and the like use CONNECT"
        )
    if b"#" in rest:
        raise Refused(400, "a fragment has no place in a request")
    cut = min((rest + b"/").index(b"/"), (rest + b"?").index(b"?"))
    host, told = _read_authority(rest[:cut])
    return Target(host, HTTP_PORT if told is None else told, _path(rest[cut:], method))


def _path(rest: bytes, method: bytes) -> bytes:
    if rest.startswith(b"/"):
        return rest
    if not rest and method == b"OPTIONS":
        # RFC 9112 3.2.4: the last proxy spells it so.
        return b"*"
    return b"/" + rest


def parse_authority(target: bytes) -> Target:
    """Read the target of CONNECT, HOST:PORT (RFC 9110 9.3.6). Raises Refused."""
    if target.translate(None, b"/?#") != target:
        raise Refused(400, "the target of CONNECT is HOST:PORT and nothing else")
    host, port = _read_authority(target)
    if port is None:
        raise Refused(400, "the target of CONNECT needs a port")
    return Target(host, port, b"")


def _read_authority(text: bytes) -> tuple[str, int | None]:
    """Take host and port apart; None: there is no port, or an empty one."""
    if b"@" in text:
        # RFC 9110 4.2.4: it is there to hide which host is meant.
        raise Refused(400, "a user name has no place in a target")
    if not is_host(text):
        raise Refused(400, "the target names no host, or no port there is")
    if text.startswith(b"["):
        inner, _, port = text[1:].partition(b"]")
        host, port = _read_literal(inner), port[1:]
    else:
        name, _, port = text.partition(b":")
        host = _read_name(name)
    if not port:
        return host, None
    if not (number := int(port)):
        raise Refused(400, "there is no port 0")
    return host, number


def _read_literal(text: bytes) -> str:
    """Spell an IPv6 address in the one way there is for it (RFC 5952).

    A rule about a host has to see through the other ways; and `[dead]` would be looked
    up as a name.
    """
    try:
        return str(IPv6Address(text.decode("ascii")))
    except ValueError:
        raise Refused(400, "no IPv6 address is in the brackets") from None


def _read_name(text: bytes) -> str:
    """Spell a name in the one way that rules are written in.

    The dot of a rooted name goes: `denied.example.` is `denied.example`.
    """
    name = text.decode("ascii").lower().removesuffix(".")
    if len(name) > _MOST_NAME or max(map(len, name.split("."))) > _MOST_LABEL:
        raise Refused(400, "the name of the host is too long")
    return name
