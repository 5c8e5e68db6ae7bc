"""Hold what the operator chose for the proxy, checked.

The rule of the file: a Plan is made once for each set of options and serves every
connection; what is wrong with the options is said when it is made, not by an answer.
"""

from __future__ import annotations

import os
import re
import zlib
from base64 import b64encode
from importlib import import_module
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from superd.handlers.exits import SetupError
from superd.handlers.forward.counters import Counters
from superd.handlers.forward.fields import Identity, Trace
from superd.handlers.forward.guard import Guard
from superd.handlers.forward.rules import Ports, Rules
from superd.handlers.http.request import Limits, is_token
from superd.handlers.proxy import OPTIONS
from superd.handlers.relay import addresses
from superd.handlers.run import describe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from superd.handlers.forward.desk import Desk
    from superd.handlers.forward.users import Users
    from superd.handlers.options import Options

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
"""A token of a message, and of Proxy-Status as well (RFC 8941 3.3.4)."""
_PATH: Final = re.compile(r"/[!-~]*")
_NEEDED: Final = frozenset(
    {
        *(b"connection", b"content-encoding", b"content-length", b"expect", b"host"),
        *(b"proxy-authorization", b"trailer", b"transfer-encoding", b"upgrade", b"via"),
    }
)
"""Without these a request is another one, or goes round for ever."""
NAME: Final = "superd"


class Timeouts(NamedTuple):
    """Seconds."""

    head: float = 30.0
    body: float = 60.0
    idle: float = 60.0
    connect: float = 10.0
    reply: float = 60.0
    send: float = 30.0
    tunnel: float = 600.0


class Bounds(NamedTuple):
    """What a peer may have at most."""

    head: Limits = Limits()
    body: int = 0
    """Bytes of a request's body; 0: any number."""
    requests: int = 1000


class Parent(NamedTuple):
    """Another proxy that requests are given to."""

    host: str
    port: int
    exempt: Rules
    """What these object to is reached without it."""
    credentials: bytes
    """The value of Proxy-Authorization; empty: none."""


class Plan(NamedTuple):
    """Who may go where, how, and what is told of it."""

    identity: Identity
    rules: Rules
    ports: Ports
    """Of tunnels."""
    http_ports: Ports
    guard: Guard
    users: Users | None
    upgrade: bool
    parent: Parent | None
    desk: Desk | None
    """The cache."""
    timeouts: Timeouts
    bounds: Bounds
    log: str
    status: bytes
    """Path of the counters; empty: nowhere."""
    counters: Counters


def plan_of(options: Options, counters: Counters) -> Plan:
    """Check the options of proxy. Raises SetupError."""
    limits = options["limits"]
    networks = options["networks"]
    return Plan(
        identity=Identity(
            _name(options).encode("ascii"),
            Trace(options["forwarded"]),
            frozenset(_hidden(options["hide"])),
        ),
        rules=Rules(options["allow"], options["deny"]),
        ports=Ports(options["ports"]),
        http_ports=Ports(options["http_ports"], "--http-ports", "request"),
        guard=_guard(networks, allow_private=options["allow_private"]),
        users=_users(options["auth"]),
        upgrade=options["upgrade"],
        parent=_parent(options["upstream"]),
        desk=_desk(options["cache"]),
        timeouts=Timeouts(**options["timeouts"]),
        bounds=Bounds(
            Limits(limits["line"], limits["head"], limits["fields"]),
            limits["body"],
            limits["requests"],
        ),
        log=options["log"],
        status=_status(options["status"]),
        counters=counters,
    )


def _name(options: Options) -> str:
    text: str = options["name"]
    if not text:
        return f"{NAME}-{_mark_of(options):08x}"
    if not _NAME.fullmatch(text):
        raise SetupError(
            f"option --name: {text!r}: write a letter, then letters, digits, . _ or -"
        )
    return text


def _mark_of(options: Options) -> int:
    """Return a number of this proxy: the same for all its processes, no other one's.

    A request that has come through a proxy of the same name is taken for a loop.
    """
    try:
        with open("/etc/machine-id", "rb") as file:
            machine = file.read(64)
    except OSError:
        machine = b""
    where = f"{os.uname().nodename} {sorted(options.items())!r}"
    return zlib.crc32(machine + where.encode("utf-8", "backslashreplace"))


def _hidden(names: Iterable[str]) -> Iterable[bytes]:
    for name in names:
        hidden = name.encode("utf-8").lower()
        if not is_token(hidden):
            raise SetupError(f"option --hide: {name!r} is no name of a field")
        if hidden in _NEEDED:
            raise SetupError(f"option --hide: no request can do without {name}")
        yield hidden


def _refuse_alone(name: str, given: Options, needed: str) -> None:
    """Raise SetupError where what is given has no effect without what is not."""
    rows: Any = OPTIONS[name]["keys"]
    for key, row in rows.items():
        if given[key] != row["default"]:
            raise SetupError(
                f"option --{name}.{key}: without --{name}.{needed} it does nothing;"
                f" give {needed} too, or leave {name} out"
            )


def _guard(networks: Options, *, allow_private: bool) -> Guard:
    for key in ("allow", "deny"):
        for text in networks[key]:
            _check_network(f"--networks.{key}", text)
    try:
        return Guard(
            allow_private=allow_private,
            allow=networks["allow"],
            deny=networks["deny"],
        )
    except ValueError as error:
        raise SetupError(f"option --networks: {error}") from None


def _check_network(option: str, text: str) -> None:
    try:
        ip_network(text)
    except ValueError as error:
        raise SetupError(
            f"option {option}: {error}; write a network such as 10.0.0.0/8"
        ) from None


def _users(auth: Options) -> Users | None:
    if not auth["file"]:
        # An open proxy by a slip of the pen is what nobody wants.
        _refuse_alone("auth", auth, "file")
        return None
    # By name: who has no users need not load ctypes and hashes.
    module: Any = import_module("superd.handlers.forward.users")
    users: Users = module.Users(auth["file"], auth["realm"])
    return users


def _parent(upstream: Options) -> Parent | None:
    text = upstream["proxy"]
    if not text:
        _refuse_alone("upstream", upstream, "proxy")
        return None
    if ":" not in text or "/" in text:
        raise SetupError(f"option --upstream.proxy: {text}: write HOST:PORT, no more")
    backend = addresses.parse(text, "--upstream.proxy")
    credentials = b""
    if upstream["user_file"]:
        try:
            with open(upstream["user_file"], "rb") as file:
                user = file.read(4096).strip(b"\r\n")
        except OSError as error:
            raise SetupError(
                f"option --upstream.user-file: {describe(error)}"
            ) from None
        if b":" not in user or b"\n" in user:
            raise SetupError(
                f"option --upstream.user-file: {upstream['user_file']}:"
                " write one line, USER:PASSWORD"
            )
        credentials = b"Basic " + b64encode(user)
    exempt = Rules([], upstream["except"], "--upstream.except")
    return Parent(backend.host, backend.port, exempt, credentials)


def _desk(cache: Options) -> Desk | None:
    if not cache["folder"]:
        _refuse_alone("cache", cache, "folder")
        return None
    # By name: who caches nothing loads nothing of it.
    module: Any = import_module("superd.handlers.forward.desk")
    desk: Desk = module.open_desk(cache)
    return desk


def _status(text: str) -> bytes:
    if text and not _PATH.fullmatch(text):
        raise SetupError(f"option --status: {text!r} is no path; write /status")
    return text.encode("ascii")


class Plans:
    """The plans of a process: made once, for the options that are asked for again."""

    def __init__(self) -> None:
        self._key: Any = None
        self._plan: Plan | None = None
        self._counters = Counters()

    def take(self, key: object, options: Options) -> Plan:
        """Return the plan of these options, which `key` stands for."""
        if self._plan is None or self._key != key:
            self._plan = plan_of(options, self._counters)
            self._key = key
        return self._plan
