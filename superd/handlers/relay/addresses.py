"""Read the addresses of backends: HOST:PORT, [V6]:PORT, unix:/PATH.

The rule of the file: what is not clearly one of the three is the operator's error, with
what would be right; nothing is guessed, and no name is looked up.
"""

from __future__ import annotations

import socket

from superd.handlers.exits import SetupError

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from typing import Any, Final

_FORMS: Final = "write HOST:PORT, [V6]:PORT or unix:/PATH"
_PATH_MAX: Final = 107
"""Bytes of sun_path without its NUL, unix(7)."""
_NAME_MAX: Final = 253
"""Bytes of a name, RFC 1035 2.3.4 as it is written."""
_PORT_MAX: Final = 65535
_DIGITS: Final = frozenset("0123456789")
_IN_NAMES: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


class Backend:
    """Where to connect to: a host and a port, or the path of a Unix socket."""

    __slots__ = ("host", "path", "port", "text")

    def __init__(self, text: str, host: str, port: int, path: str) -> None:
        self.text = text
        """As the operator has written it."""
        self.host = host
        self.port = port
        self.path = path


class Target:
    """One address to try: what socket(2) and connect(2) take."""

    __slots__ = ("address", "family")

    def __init__(self, family: int, address: Any) -> None:
        self.family = family
        self.address = address

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Target):
            return NotImplemented
        return (self.family, self.address) == (other.family, other.address)

    def __hash__(self) -> int:
        return hash((self.family, self.address))

    def __repr__(self) -> str:
        return f"Target({self.family}, {self.address!r})"


def parse(text: str, option: str = "--to") -> Backend:
    """Read one address, the value of an option; raises SetupError."""
    if text.startswith("unix:"):
        return Backend(text, "", 0, _path(text, option))
    host, colon, digits = text.rpartition(":")
    if not colon or not host or (host.startswith("[") and not host.endswith("]")):
        raise SetupError(f"option {option}: {text}: no port; {_FORMS}")
    if not digits or len(digits) > 5 or not _DIGITS.issuperset(digits):  # noqa: PLR2004
        raise SetupError(f"option {option}: {text}: {digits or 'nothing'} is no port")
    port = int(digits)
    if not 0 < port <= _PORT_MAX:
        raise SetupError(f"option {option}: {text}: a port is 1 to {_PORT_MAX}")
    if host.startswith("["):
        host = host[1:-1]
        if not _is_inet6(host):
            raise SetupError(f"option {option}: {text}: {host} is no IPv6 address")
    elif ":" in host:
        raise SetupError(f"option {option}: {text}: write IPv6 as [{host}]:{port}")
    else:
        _check_name(text, host, option)
    return Backend(text, host, port, "")


def parse_all(texts: list[str]) -> list[Backend]:
    """Read every address; the same one twice is an error."""
    if not texts:
        raise SetupError(f"option --to names no backend; {_FORMS}")
    twice = {text for text in texts if texts.count(text) > 1}
    if twice:
        raise SetupError(f"option --to: {min(twice)} is there twice")
    return [parse(text) for text in texts]


def numeric(host: str, port: int) -> Target | None:
    """Return what a numeric address is to connect(2); None for a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):
            continue
        if family == socket.AF_INET:
            return Target(family, (host, port)) if "%" not in host else None
        # Only getaddrinfo knows the number of a zone, as in fe80::1%eth0.
        if "%" in host:
            flags = int(socket.AI_NUMERICHOST)
            [found, *_] = socket.getaddrinfo(host, port, family, flags=flags)
            return Target(family, found[4])
        return Target(family, (host, port, 0, 0))
    return None


def plain(host: str) -> str:
    """Spell an address as IPv4 where it is IPv4 in IPv6's clothes, without its zone."""
    return host.partition("%")[0].removeprefix("::ffff:")


def spell(host: str, port: int) -> str:
    """Spell an address and a port as one word."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _path(text: str, option: str) -> str:
    path = text.removeprefix("unix:")
    if not path.startswith("/"):
        raise SetupError(f"option {option}: {text}: the path must begin with /")
    try:
        size = len(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise SetupError(f"option {option}: {text}: that is no path") from None
    if "\0" in path or size > _PATH_MAX:
        raise SetupError(
            f"option {option}: {text}: a path has {_PATH_MAX} bytes at most"
        )
    return path


def _is_inet6(host: str) -> bool:
    address, percent, zone = host.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return False
    return bool(zone) or not percent


def _check_name(text: str, host: str, option: str) -> None:
    strange = not _IN_NAMES.issuperset(host.lower())
    if strange or len(host) > _NAME_MAX or host.startswith(".") or ".." in host:
        raise SetupError(f"option {option}: {text}: {host} is no name of a host")
    # getaddrinfo takes 127.1, 1 and 0x7f.1 for addresses, as nobody would expect.
    last = host.rstrip(".").rpartition(".")[2].lower()
    hexadecimal = last.startswith("0x") and _is_hexadecimal(last[2:])
    if _DIGITS.issuperset(last) or hexadecimal:
        try:
            socket.inet_pton(socket.AF_INET, host)
        except OSError:
            raise SetupError(
                f"option {option}: {text}: {host} is no IPv4 address"
            ) from None


def _is_hexadecimal(text: str) -> bool:
    return frozenset("0123456789abcdef").issuperset(text)
