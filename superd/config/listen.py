"""Read what a `listen` says into the sockets it means.

Names of hosts are never looked up: a superserver that starts before its resolver would
listen on nothing. Every IPv6 socket is for IPv6 only, so that a port may have one
socket of each family, each with its own peers.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import socket
from dataclasses import dataclass, replace
from typing import Literal

from superd.config.problems import ConfigError, printable, show

LONGEST_UNIX_PATH = 107
"""sun_path of Linux holds 108 bytes with the final NUL."""

HIGHEST_PORT = 65535
PORT = re.compile(r"0|[1-9][0-9]{0,9}")
NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?")
FD_NAME = re.compile(r"[A-Za-z0-9._+-]{1,255}")
BRACKETS = re.compile(r"\[([^\]]*)\](?::(.*))?")
EXAMPLES = "for example 7007, localhost:7007, 127.0.0.1:7007/udp"

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(/.*)?")
SEVERAL = re.compile(r"[0-9]+([-,;\s]+[0-9]+)+")
SERVICES = "/etc/services"
MOST_SERVICES = 1 << 20
"""Bytes of /etc/services that are looked at for a similar name."""

Family = Literal["inet", "inet6", "unix", "fd"]
Type = Literal["stream", "dgram"]


class UnknownPortError(ConfigError):
    """A word for a port that /etc/services does not have."""

    def __init__(self, word: str, protocol: str) -> None:
        super().__init__(
            f"{show(word)} is neither a port nor a name in {SERVICES}; {EXAMPLES}"
        )
        self.word = word
        self.protocol = protocol


@dataclass(frozen=True, slots=True)
class Listener:
    """One socket to listen on."""

    family: Family
    type: Type
    address: str | None = None
    port: int | None = None
    path: str | None = None
    name: str | None = None
    optional: bool = False

    @property
    def key(self) -> str:
        """What makes two listeners the same socket."""
        if self.family == "unix":
            return f"unix {self.path}"
        if self.family == "fd":
            return f"fd {self.name}"
        host = f"[{self.address}]" if self.family == "inet6" else self.address
        return f"{'tcp' if self.type == 'stream' else 'udp'} {host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """Whether it is for all addresses of its family."""
        return self.address in ("0.0.0.0", "::")


def parse_listen(text: str, folder: str, *, optional: bool = False) -> list[Listener]:
    """The sockets of one item of `listen`; raises ConfigError."""
    if text.startswith("unix:"):
        found = [_unix(text.removeprefix("unix:"), folder)]
    elif text.startswith("fd:"):
        found = [_inherited(text.removeprefix("fd:"))]
    else:
        found = _internet(text)
    return [replace(one, optional=True) for one in found] if optional else found


def _unix(path: str, folder: str) -> Listener:
    if path.startswith("@"):
        raise ConfigError(
            "an abstract socket has no permissions; write unix:/run/NAME.sock"
        )
    if path.startswith(("./", "../")):
        path = os.path.normpath(os.path.join(folder, path))
    if not path.startswith("/") or path.endswith("/"):
        raise ConfigError(
            f"expected unix: and an absolute path, got {show(path)}; "
            "for example unix:/run/x.sock, unix:./x.sock is beside this file"
        )
    if (size := len(os.fsencode(path))) > LONGEST_UNIX_PATH:
        raise ConfigError(
            f"the path has {size} bytes and a socket's may have {LONGEST_UNIX_PATH}; "
            "choose a shorter one"
        )
    return Listener("unix", "stream", path=path)


def _inherited(text: str) -> Listener:
    name, kind = _split_protocol(text)
    if not FD_NAME.fullmatch(name):
        raise ConfigError(
            f"expected fd: and a name of letters, digits and ._+-, got {show(name)}; "
            "it is the FileDescriptorName= of the socket unit"
        )
    return Listener("fd", kind, name=name)


def _internet(text: str) -> list[Listener]:
    if found := SCHEME.fullmatch(text):
        raise ConfigError(_without_scheme(found[1].lower(), found[2]))
    if any(char in text for char in ",;") and not SEVERAL.fullmatch(text):
        words = ", ".join(word for word in re.split(r"[,;\s]+", text) if word)
        raise ConfigError(
            "one address each; write a list for several"
            + (f": [{printable(words)}]" if words and "[" not in words else "")
        )
    rest, kind = _split_protocol(text)
    host, port_text = _split_host(rest, text)
    port = _port(port_text, kind)
    if host in ("", "*"):
        return [
            Listener("inet", kind, "0.0.0.0", port),
            Listener("inet6", kind, "::", port, optional=True),
        ]
    if host.lower() == "localhost":
        return [
            Listener("inet", kind, "127.0.0.1", port),
            Listener("inet6", kind, "::1", port, optional=True),
        ]
    address = _address(host)
    family: Family = "inet" if address.version == 4 else "inet6"  # noqa: PLR2004
    return [Listener(family, kind, str(address), port)]


def _without_scheme(scheme: str, rest: str) -> str:
    protocol = "udp" if scheme == "udp" else "tcp"
    host, port = rest, ""
    if found := re.fullmatch(r"(\[[^\]]*\]|[^:]*):([^:]*)", rest):
        host, port = found[1], found[2]
    if not PORT.fullmatch(port) and _service_port(port, protocol) is None:
        known = _service_port(scheme, protocol)
        port = str(known) if known else "7007"
    suffix = "/udp" if protocol == "udp" else ""
    address = f"{printable(host)}:{port}{suffix}"
    if address.startswith("["):
        address = f'"{address}"'
    return f"an address has no scheme; write {address}"


def _split_protocol(text: str) -> tuple[str, Type]:
    rest, slash, protocol = text.rpartition("/")
    if not slash:
        return text, "stream"
    match protocol.lower():
        case "tcp":
            return rest, "stream"
        case "udp":
            return rest, "dgram"
    if rest == "" or text.startswith(("/", "./", "../")):
        raise ConfigError(f'a unix socket is written "unix:{printable(text)}"')
    raise ConfigError(f"expected /tcp or /udp, got {show('/' + protocol)}; {EXAMPLES}")


def _split_host(rest: str, text: str) -> tuple[str, str]:
    """Host and port; the host of a bare port is empty."""
    if rest.startswith("["):
        found = BRACKETS.fullmatch(rest)
        if not found or not found[2]:
            inside = printable(rest[1:].partition("]")[0]) or "::1"
            raise ConfigError(f'no port in {show(text)}; write "[{inside}]:7007"')
        if _is_ipv4(found[1]):
            raise ConfigError(
                f"brackets are for IPv6; write {printable(found[1])}:{printable(found[2])}"
            )
        return found[1], found[2]
    host, colon, port = rest.rpartition(":")
    if not colon:
        if _is_address(rest) or rest.lower() in ("localhost", "*"):
            raise ConfigError(f"no port in {show(text)}; write {printable(rest)}:7007")
        return "", rest
    if not host:
        raise ConfigError(
            f'nothing before ":"; write {printable(port)} or "*{printable(rest)}"'
        )
    if ":" in host:
        if _is_address(rest):
            whole = f'"[{printable(rest)}]:7007"'
            if _is_address(host) and PORT.fullmatch(port):
                raise ConfigError(
                    f'brackets are missing; write "[{host}]:{port}" or {whole}'
                )
            raise ConfigError(f"brackets and a port are missing; write {whole}")
        raise ConfigError(
            f"too many colons in {show(text)}; an IPv6 address stands in brackets: "
            f'"[{printable(host)}]:{printable(port)}"'
        )
    if not port:
        raise ConfigError(f"no port in {show(text)}; write {printable(host)}:7007")
    return host, port


def _port(text: str, kind: Type) -> int:
    if PORT.fullmatch(text) and int(text) <= HIGHEST_PORT:
        return int(text)
    if not text or NUMBER.fullmatch(text):
        raise ConfigError(
            f"a port is from 0 to {HIGHEST_PORT}, got {show(text)}; {EXAMPLES}"
        )
    if SEVERAL.fullmatch(text):
        raise ConfigError("one port each; write a list for several")
    protocol, other = ("tcp", "udp") if kind == "stream" else ("udp", "tcp")
    if (port := _service_port(text, protocol)) is not None:
        return port
    if _service_port(text, other) is not None:
        raise ConfigError(
            f"/etc/services has {show(text)} for {other} only; "
            f"write {printable(text)}/{other} or a number"
        )
    if "." in text:
        raise ConfigError(f"{show(text)} is no port; {EXAMPLES}")
    raise UnknownPortError(text, protocol)


@functools.cache
def service_names(protocol: str) -> frozenset[str]:
    """The names that /etc/services has for ports of a protocol."""
    try:
        with open(SERVICES, encoding="utf-8", errors="replace") as file:
            lines = file.read(MOST_SERVICES).splitlines()
    except OSError:
        return frozenset()
    found: set[str] = set()
    for line in lines:
        name, *rest = line.partition("#")[0].split() or [""]
        if rest and rest[0].endswith(f"/{protocol}"):
            found.update((name, *rest[1:]))
    return frozenset(found)


def _service_port(name: str, protocol: str) -> int | None:
    try:
        return socket.getservbyname(name, protocol)
    except (OSError, ValueError):
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if "%" in host:
        raise ConfigError(
            f"a zone as in {show(host)} cannot be listened on; "
            'listen on "[::]:PORT" or on an address that is not link-local'
        )
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(_no_address(host)) from None
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        raise ConfigError(
            f"{show(host)} is an IPv4 address in disguise; write {mapped}"
        )
    return address


def _no_address(host: str) -> str:
    if re.fullmatch(r"[0-9.]+", host):
        return f"{show(host)} is no address; four numbers from 0 to 255: 127.0.0.1"
    if ":" in host:
        return f"{show(host)} is no IPv6 address; for example [::1]"
    return (
        f"{show(host)} is a name, and names of hosts are not looked up; "
        "write an address, localhost or *"
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_ipv4(text: str) -> bool:
    return ":" not in text and _is_address(text)
