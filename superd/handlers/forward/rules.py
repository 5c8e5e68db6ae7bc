"""Decide by host, port and path what may be asked of a proxy.

The rule of the file: a path has more than one reading, and nobody here knows which one
its server follows. A `deny` is met by any of them, an `allow` needs all of them; so no
spelling passes a rule. What a name leads to is not the business of this file but of
guard.py.

A pattern is HOST[:PORTS][/PATH], .SUFFIX[:PORTS][/PATH] (the domain and all below it),
*[:PORTS][/PATH] or ~REGEX. HOST is a name, an IPv4 address or an IPv6 address in brackets,
PORTS is N or N-M. PATH is compared by segments: /a is /a, /a/b and /a?x, and not /ab. REGEX
is searched in host:port/path?query, and in a CONNECT in host:port.

The path of a CONNECT is unknown: a `deny` with a path never refuses one, and an `allow`
with a path never allows one.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import warnings
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from superd.handlers.exits import SetupError
from superd.handlers.forward.guard import carried

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Path = tuple[bytes, ...]

SEARCHED: Final = 8192
"""Bytes that a regex is searched in at most: some take the square of that."""
_FORMS: Final = (
    "write HOST, .DOMAIN or *, each with :PORT and /PATH where wanted, or ~REGEX"
)
_PORT_MAX: Final = 65535
_ALL_PORTS: Final = range(_PORT_MAX + 1)
_DIGITS: Final = frozenset("0123456789")
_NUMERIC: Final = frozenset("0123456789abcdefx.")
"""What inet_aton(3) is asked about: it would let anything follow a space."""
_IPV4: Final = re.compile(r"[0-9]+(\.[0-9]+){3}")
_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_UNRESERVED: Final = re.compile(
    rb"%(2[dDeE]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|7[eE])"
)
_PLAIN_PATH: Final = re.compile(rb"(?:/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)*/?")
"""A path with one reading."""


# -- hosts and ports -------------------------------------------------------------------


def plain_host(host: str) -> str:
    """Spell a host in one way: lower case, no dot at its end, an address as itself.

    0x7f.1, 127.1, 2130706433 and ::ffff:127.0.0.1 are 127.0.0.1: to getaddrinfo(3), too.
    """
    host = host.lower().strip("[]").rstrip(".")
    if ":" in host:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return host
        # ::1 is not 0.0.0.1, though both have the same number.
        return str(carried(address) if int(address) >> 32 else address)
    if host and _NUMERIC.issuperset(host):
        try:
            return socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            return host
    return host


def is_address(host: str) -> bool:
    """Tell whether a plain host is no name."""
    return ":" in host or _IPV4.fullmatch(host) is not None


def _ports(text: str) -> range | None:
    """Read N or N-M; None for what is neither."""
    first, dash, last = text.partition("-")
    numbers = [
        int(one) if one and len(one) <= 5 and _DIGITS.issuperset(one) else 0  # noqa: PLR2004
        for one in (first, last if dash else first)
    ]
    low, high = numbers
    return range(low, high + 1) if 0 < low <= high <= _PORT_MAX else None


class Ports:
    """The ports that may be asked for."""

    def __init__(
        self, texts: Sequence[str], option: str = "--ports", what: str = "tunnel"
    ) -> None:
        """Take N, N-M and `any`, the value of an option. Raises SetupError."""
        self._what = what
        self._text = ", ".join(texts)
        self._ranges: list[range] = []
        for text in texts:
            ports = _ALL_PORTS if text == "any" else _ports(text)
            if ports is None:
                raise SetupError(
                    f"option {option}: {text}: write a port (443), a range (8000-8100)"
                    f" or any; a port is 1 to {_PORT_MAX}"
                )
            self._ranges.append(ports)

    def objection(self, port: int) -> str:
        """Say why there is nothing to this port; empty where there may be."""
        if any(port in ports for ports in self._ranges):
            return ""
        return f"no {self._what} to port {port}, only to {self._text or 'none'}"


# -- paths -----------------------------------------------------------------------------


def _readings(path: bytes) -> tuple[Path, ...]:
    """Return the names in a path as servers of different kinds find them.

    As RFC 3986 6.2.2 has it; with `//` made one before dots are removed, as nginx does;
    and with %2F, %5C and a backslash for a slash and without parameters, as others do.
    """
    path = path.partition(b"?")[0]
    if _PLAIN_PATH.fullmatch(path):
        names = tuple(name for name in path.split(b"/") if name)
        return names, names, names
    parts = path.split(b"/")[1:] if path.startswith(b"/") else [path]
    decoded = [unquote_to_bytes(part) for part in parts]
    lenient = b"/".join(decoded).replace(b"\\", b"/").split(b"/")
    return (
        tuple(name for name in _without_dots(decoded) if name),
        _without_dots([name for name in decoded if name]),
        _without_dots([found for one in lenient if (found := one.partition(b";")[0])]),
    )


def _without_dots(names: list[bytes]) -> Path:
    """Remove dot segments (RFC 3986 5.2.4)."""
    kept: list[bytes] = []
    for name in names:
        if name == b"..":
            del kept[-1:]
        elif name != b".":
            kept.append(name)
    return tuple(kept)


def _texts(host: str, port: int, path: bytes | None) -> tuple[str, ...]:
    """Return what a regex is searched in: as it came, and with the path made plain."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if path is None:
        return (where,)
    before, mark, query = path.partition(b"?")
    before = _UNRESERVED.sub(lambda found: bytes.fromhex(found[1].decode()), before)
    names = _without_dots([name for name in before.split(b"/") if name])
    slash = b"/" if names and before.endswith((b"/", b"/.", b"/..")) else b""
    plain = b"/" + b"/".join(names) + slash + mark + query
    return where + path.decode("latin-1"), where + plain.decode("latin-1")


# -- patterns --------------------------------------------------------------------------


class _Asked(NamedTuple):
    """A request, as patterns see it."""

    host: str
    port: int
    readings: tuple[Path, ...]
    """None of them: a CONNECT."""
    texts: tuple[str, ...]

    @classmethod
    def of(cls, host: str, port: int, path: bytes | None) -> _Asked:
        """Take a host in any spelling; `path` is with its query, None for CONNECT."""
        host = plain_host(host)
        readings = () if path is None else _readings(path)
        return cls(host, port, readings, _texts(host, port, path))


class _Pattern(NamedTuple):
    text: str
    """As the operator has written it."""
    ports: range = _ALL_PORTS
    readings: tuple[Path, ...] = ()
    regex: re.Pattern[str] | None = None

    def matches(self, asked: _Asked, *, surely: bool) -> bool:
        """Tell whether it is met, `surely`: in every reading; the host is seen to."""
        ask = all if surely else any
        if self.regex is not None:
            search = self.regex.search
            # A text too long to be searched may be anything.
            return ask(
                search(text) is not None if len(text) <= SEARCHED else not surely
                for text in asked.texts
            )
        if asked.port not in self.ports:
            return False
        if not self.readings:
            return True
        if not asked.readings:
            return False
        pairs = zip(self.readings, asked.readings, strict=True)
        return ask(path[: len(prefix)] == prefix for prefix, path in pairs)


class _Patterns:
    """The patterns of one option, found by host: a list may have thousands."""

    def __init__(self, option: str, texts: Sequence[str]) -> None:
        """Read them; `option` is named in the SetupError of one that is none."""
        self._by_host: dict[str, list[_Pattern]] = {}
        for text in texts:
            try:
                host, pattern = _parse(text)
            except ValueError as error:
                raise SetupError(f"option {option}: {text}: {error}") from None
            self._by_host.setdefault(host, []).append(pattern)

    def __bool__(self) -> bool:
        return bool(self._by_host)

    def find(self, asked: _Asked, *, surely: bool = False) -> str:
        """Return the pattern that is met, empty for none.

        Met in one reading of the path, or `surely`: in all of them.
        """
        for key in _keys(asked.host):
            for pattern in self._by_host.get(key, ()):
                if pattern.matches(asked, surely=surely):
                    return pattern.text
        return ""


def _keys(host: str) -> Iterator[str]:
    """List what patterns for this host are kept under."""
    yield host
    if not is_address(host):
        rest = host
        while rest:
            yield f".{rest}"
            rest = rest.partition(".")[2]
    yield "*"


def _parse(text: str) -> tuple[str, _Pattern]:
    """Read a pattern: what it is kept under, and what else it asks for."""
    if text.startswith("~"):
        return "*", _Pattern(text, regex=_regex(text[1:]))
    if "://" in text:
        raise ValueError(f"a pattern has no scheme; {_FORMS}")
    authority, slash, path = text.partition("/")
    host, ports = _parse_authority(authority)
    readings: tuple[Path, ...] = ()
    if slash:
        if not path.isascii() or not path.isprintable() or set(path) & set(" ?#"):
            raise ValueError("a path has no space, ?, # or letter that is not ASCII")
        if is_address(host) and len(path) <= 3 and _DIGITS.issuperset(path or "x"):  # noqa: PLR2004
            raise ValueError("a network belongs into option --networks")
        readings = _readings(b"/" + path.encode("ascii"))
    return host, _Pattern(text, ports, readings)


def _regex(text: str) -> re.Pattern[str]:
    if not text:
        raise ValueError("an empty regular expression is met by everything; write *")
    try:
        with warnings.catch_warnings():
            # What Python warns of it will read differently one day.
            warnings.simplefilter("error")
            return re.compile(text, re.ASCII)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"no regular expression: {error}") from None


def _parse_authority(text: str) -> tuple[str, range]:
    bracket = text.rfind("]")
    host, colon, digits = text[bracket + 1 :].partition(":")
    host = text[: bracket + 1] + host
    if colon and ":" in digits:
        raise ValueError("write an IPv6 address in brackets")
    ports = _ports(digits) if colon else _ALL_PORTS
    if ports is None:
        raise ValueError(f"{digits or 'nothing'} is no port N and no range N-M")
    return _parse_host(host), ports


def _parse_host(text: str) -> str:
    if text == "*":
        return text
    if text.startswith("["):
        try:
            ipaddress.IPv6Address(text[1:-1] if text.endswith("]") else "")
        except ValueError:
            raise ValueError(f"{text} is no IPv6 address in brackets") from None
        return plain_host(text)
    if text.startswith("*."):
        raise ValueError(f"write {text[1:]} for a domain and all below it")
    suffix = text.startswith(".")
    name = plain_host(text.removeprefix("."))
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text or 'nothing'} is no name of a host; {_FORMS}")
    if not name.rpartition(".")[2].isdigit():
        return f".{name}" if suffix else name
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        raise ValueError(f"{name} is no IPv4 address") from None
    if suffix:
        raise ValueError(
            "nothing is below an address; a network belongs into --networks"
        )
    return name


class Rules:
    """What may be asked for: all that is allowed, and not denied."""

    def __init__(
        self, allow: Sequence[str], deny: Sequence[str], denying: str = "--deny"
    ) -> None:
        """Take patterns; no `allow` allows everything. Raises SetupError.

        `denying` is the option that `deny` comes from.
        """
        self._allow = _Patterns("--allow", allow)
        self._deny = _Patterns(denying, deny)

    def objection(self, host: str, port: int, path: bytes | None) -> str:
        """Say why this is not done, and name the rule; empty where it may be.

        `path` is with its query, and None for a CONNECT: see the head of this file.
        """
        if not self._allow and not self._deny:
            return ""
        asked = _Asked.of(host, port, path)
        denied = self._deny.find(asked)
        if denied:
            return f"denied by the rule {denied}"
        if self._allow and not self._allow.find(asked, surely=True):
            return "no rule allows it"
        return ""
