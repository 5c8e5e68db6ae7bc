"""Turn a request target into the names of a file below the root (RFC 9112 3.2).

The rule of the file: it is decoded once, and every rule is applied to what that gave,
never to the text before. A path that was checked in one spelling and opened in another
is the fault behind most holes of static servers (thttpd `/./.htpasswd`, nginx
CVE-2013-4547, npm serve CVE-2019-5417).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from superd.handlers.http.refusal import Refused
from superd.handlers.http.request import is_host

MOST_NAMES: Final = 64
"""Names in a path: the walk holds one descriptor for each."""

_PLAIN_PATH: Final = re.compile(rb"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?|/")
"""A path that stands for itself: no escape, no name that begins with a dot or is empty."""
_HEX: Final = b"0123456789abcdefABCDEF"
_PLAIN: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
)


class Path(NamedTuple):
    """A path with nothing left to decode: names from the root down."""

    names: tuple[bytes, ...]
    slash: bool
    """It ends in a slash: a directory is meant."""
    query: bytes
    host: bytes = b""
    """The authority of a target in absolute form."""

    @property
    def hidden(self) -> bool:
        """A name begins with a dot; /.well-known/ is for the world (RFC 8615)."""
        names = self.names[1:] if self.names[:1] == (b".well-known",) else self.names
        return b"/." in b"/" + b"/".join(names)

    def as_directory(self) -> bytes:
        """Spell the path as a Location with a slash at its end.

        One slash in front and one between names, whatever the peer sent: a Location
        that begins with two is another host (CVE-2021-28861).
        """
        path = b"".join(b"/" + encode(name) for name in self.names) + b"/"
        return path + (b"?" + self.query if self.query else b"")


def parse_target(target: bytes) -> Path:
    """Read an origin-form or absolute-form target. Raises Refused."""
    if _PLAIN_PATH.fullmatch(target):
        # Nothing to decode, no dots, no query: most targets.
        names = target.split(b"/")[1:]
        if slash := not names[-1]:
            names.pop()
        if len(names) <= MOST_NAMES:
            return Path(tuple(names), slash, b"")
    if b"#" in target:
        raise Refused(400, "a fragment has no place in a request")
    host, rest = _origin(target)
    path, _, query = rest.partition(b"?")
    names = []
    segments = path.split(b"/")[1:]
    last = b""
    for segment in segments:
        last = _decode(segment)
        if last == b"..":
            if not names:
                raise Refused(400, "the path leads above the root")
            names.pop()
        elif last not in (b"", b"."):
            names.append(last)
    if len(names) > MOST_NAMES:
        raise Refused(404, "the path is too deep")
    return Path(tuple(names), last in (b"", b".", b".."), query, host)


def _origin(target: bytes) -> tuple[bytes, bytes]:
    """Take the host, and the path and query, out of either form (9112 3.2.1, 3.2.2)."""
    if target.startswith(b"/"):
        return b"", target
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise Refused(400, "the target is no path")
    cut = min((rest + b"/").index(b"/"), (rest + b"?").index(b"?"))
    authority, path = rest[:cut], rest[cut:]
    if not is_host(authority):
        raise Refused(400, "the target names no host")
    return authority, path if path.startswith(b"/") else b"/" + path


def _decode(segment: bytes) -> bytes:
    """Undo percent-encoding, once."""
    first, *rest = segment.split(b"%")
    decoded = bytearray(first)
    for part in rest:
        code = part[:2]
        if len(code) != 2 or code.translate(None, _HEX):  # noqa: PLR2004
            raise Refused(400, "a bad %-escape in the path")
        decoded += bytes.fromhex(code.decode("ascii")) + part[2:]
    if b"\0" in decoded:
        raise Refused(400, "a NUL byte in the path")
    if b"/" in decoded:
        # No file has a slash in its name; to read it as a separator would be to decode
        # twice.
        raise Refused(404, "a slash within a name")
    return bytes(decoded)


def encode(name: bytes) -> bytes:
    """Spell a name as one segment of a path: what is not plain is escaped."""
    return b"".join(
        bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in name
    )
