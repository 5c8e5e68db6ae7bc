"""Declare every key of the configuration, once.

A key that is not here does not exist. The declarations are for what one key may hold by
itself; what depends on a second key, on the system or on a file is looked at later.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from superd.config.keys import (
    Command,
    Duration,
    Identity,
    Keys,
    ListOfOne,
    LogTarget,
    Spelled,
    Stderr,
    Umask,
    VariableName,
    Word,
    key,
)
from superd.config.problems import ConfigError, show
from superd.config.rlimits import Rlimits

LATER = (
    "access",
    "chroot",
    "control",
    "proxy_protocol",
    "rate",
    "rate_per_source",
    "sandbox",
    "tls",
)
"""Keys that the design knows and this version does not."""

MOST_WORKERS = 1024
"""Of one service: each is a process, and a channel that the master holds."""

SERVICE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$"


class ListenAddress(Keys):
    """One address, where more is to be said about it than the address."""

    address: Word = key(
        ...,
        "The address, in any of the forms of `listen`.",
        cost="listener",
        example="localhost:79",
    )
    optional: bool = key(
        False,
        "Go on with a warning where the address cannot be bound.",
        cost="listener",
        example="true",
    )


def _listen(value: object) -> object:
    """Any spelling as a mapping; what the address says is looked at by `listen.py`."""
    if isinstance(value, dict):
        return value
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ConfigError(
            f"expected a port or an address, got {show(value)}; "
            "for example 7007, localhost:7007, unix:/run/x.sock"
        )
    return {"address": str(value)}


def _spell_listen(item: ListenAddress) -> object:
    if item.optional:
        return {"address": item.address, "optional": True}
    return item.address


LISTEN_SCHEMA: Final = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": 65535},
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "properties": {
                "address": {"type": "string"},
                "optional": {"type": "boolean"},
            },
            "required": ["address"],
            "additionalProperties": False,
        },
    ]
}

ListenItem = Annotated[
    ListenAddress,
    BeforeValidator(_listen),
    PlainSerializer(_spell_listen),
    WithJsonSchema(LISTEN_SCHEMA),
]


class SourcePrefix(Keys):
    """The keys of `source_prefix`."""

    ipv4: int = key(
        32, "Bits of an IPv4 address.", cost="live", example="24", ge=1, le=32
    )
    ipv6: int = key(
        64,
        "Bits of an IPv6 address; 64 because one peer has a whole /64 to choose from.",
        cost="live",
        example="56",
        ge=1,
        le=128,
    )


class Limits(Keys):
    """The keys of `limits`."""

    connections: int = key(
        40,
        "Connections at a time; the rest waits in the backlog, or is refused. In mode "
        "pool at most `max_workers`.",
        cost="live",
        example="100",
        ge=1,
        le=1_000_000,
    )
    per_source: int | None = key(
        None,
        "Connections at a time from one source; more are refused. null: no such limit.",
        cost="live",
        example="10",
        ge=1,
        le=1_000_000,
    )
    source_prefix: SourcePrefix = key(
        SourcePrefix(),
        "How much of an address counts as one source.",
        example="{ipv4: 24, ipv6: 56}",
    )
    when_full: Literal["queue", "refuse"] = key(
        "queue",
        "A full service lets peers wait in the backlog (queue), or accepts and closes.",
        cost="live",
        example="refuse",
    )
    message: Word = key(
        "",
        "What a refused peer of a TCP or unix stream is told before the close.",
        cost="live",
        example=r'"busy, try later\r\n"',
        longest=512,
    )


class Timeouts(Keys):
    """The keys of `timeouts`."""

    lifetime: Duration | None = key(
        None,
        "A handler that runs longer on one connection is ended: SIGTERM, 5 s later "
        "SIGKILL; in mode loop its task is cancelled. null: no limit.",
        cost="launcher",
        example="1h",
        unit="duration",
        ge=0.1,
    )
    stop: Duration = key(
        5.0,
        "How long handlers may finish when superd stops, or after SIGTERM.",
        cost="live",
        example="30s",
        unit="duration",
        ge=0,
        le=86400,
    )


class Common(Keys):
    """The keys that `defaults` may set for all services."""

    mode: Literal["process", "pool", "loop", "wait"] = key(
        "process",
        "process: a fresh process for every connection. pool: warm workers, one "
        "connection at a time each. loop: event loops, many connections each. wait: "
        "the program gets the listening socket itself, and all of its peers, until it "
        "exits.",
        cost="launcher",
        example="pool",
    )
    workers: int = key(
        4,
        "How many workers there are from the start. Modes pool and loop only.",
        cost="launcher",
        example="8",
        ge=1,
        le=MOST_WORKERS,
    )
    max_workers: int | None = key(
        None,
        "How many workers there may be under load, and so how many connections at a "
        "time. null: 16, or `workers` where that is more. Mode pool only.",
        cost="launcher",
        example="32",
        ge=1,
        le=MOST_WORKERS,
    )
    requests: int = key(
        10_000,
        "After so many connections a worker leaves and a fresh one takes its place. "
        "Mode pool only.",
        cost="launcher",
        example="1000",
        ge=1,
        le=1_000_000_000,
    )
    selector: Literal["auto", "uvloop", "epoll", "poll", "select"] = key(
        "auto",
        "What a worker waits with. auto: uvloop where it is installed, else the best "
        "of the system. Mode loop only.",
        cost="launcher",
        example="poll",
    )
    warm: bool = key(
        False,
        "Start the launcher with superd rather than with the first connection. Modes "
        "pool and loop always do.",
        cost="live",
        example="true",
    )
    user: Identity | None = key(
        None,
        "Whom the handler runs as, by name or number. "
        "null: nobody where superd runs as root, else superd's own user.",
        cost="launcher",
        example="www-data",
    )
    group: Identity | None = key(
        None,
        "The handler's group. null: the user's primary group.",
        cost="launcher",
        example="www-data",
    )
    groups: list[Identity] = key(
        [],
        "Further groups; those that the system gives the user are not added.",
        cost="launcher",
        example="[adm]",
    )
    umask: Umask = key(
        0o022,
        "What a handler's new files do not allow; octal, in quotes.",
        cost="launcher",
        example='"077"',
    )
    nice: int = key(
        0,
        "Scheduling priority: 19 is the most modest; below 0 needs root.",
        cost="launcher",
        example="10",
        ge=-20,
        le=19,
    )
    directory: Word = key(
        "/",
        "The folder a handler starts in; absolute, or relative to this file.",
        cost="launcher",
        example="/srv/www",
    )
    rlimits: Rlimits = key(
        Rlimits(),
        "Resource limits. One value sets the soft and the hard limit, `[soft, hard]` "
        "each, null leaves what superd has.",
        example="{nofile: 256, as: 512M}",
    )
    environment: dict[VariableName, Spelled] = key(
        {},
        "Variables a handler gets besides PATH and those of the connection.",
        cost="launcher",
        example="{LANG: C.UTF-8}",
    )
    pass_environment: list[VariableName] = key(
        [],
        "Variables a handler gets as superd has them.",
        cost="launcher",
        example="[TZ]",
    )
    stderr: Stderr = key(
        "log",
        "Where a handler's stderr goes: the log, the peer (not in mode loop), or nowhere "
        "(null).",
        cost="launcher",
        example="peer",
    )
    limits: Limits = key(
        Limits(), "How many connections at a time.", example="{connections: 100}"
    )
    timeouts: Timeouts = key(
        Timeouts(), "How long things may take.", example="{lifetime: 1h}"
    )
    launcher_idle: Duration = key(
        600.0,
        "A launcher without a connection for so long ends; the next one starts it.",
        cost="live",
        example="1h",
        unit="duration",
        ge=1,
    )
    banner: Word = key(
        "",
        "Text that a peer gets before the handler starts.",
        cost="launcher",
        example=r'"hello\r\n"',
        longest=4096,
    )
    resolve: bool = key(
        False,
        "Look up the peer's name (confirmed by its address) for TCPREMOTEHOST.",
        cost="launcher",
        example="true",
    )
    enabled: bool = key(
        True,
        "false: as if the service were not in the file.",
        cost="listener",
        example="false",
    )


class Service(Common):
    """One service: where it listens, what it runs, as whom, how much of it."""

    # Required, but by `services.py`: a model that is complete without it can be looked
    # at further when its listen is wrong.
    listen: Annotated[list[ListenItem], ListOfOne, Field(min_length=1)] = key(
        [],
        "Where peers come in, one or a list of: `PORT`, `ADDRESS:PORT`, "
        '`"[::1]:PORT"`, `localhost:PORT`, `"*:PORT"`, a name of /etc/services for '
        "PORT, each with `/tcp` or `/udp` behind it; `unix:/run/x.sock`; `fd:NAME` "
        "(inherited); a mapping with `address` and `optional`.",
        cost="listener",
        example='[localhost:7007, "[::1]:7008"]',
        values="PORT 0 to 65535; 0: any free one",
    )
    exec: Command | None = key(
        None,
        "The program and its arguments, without a shell. Absolute, or relative to this "
        "file. Exactly one of exec and handler.",
        cost="launcher",
        example="[/usr/bin/cat]",
    )
    handler: Word | None = key(
        None,
        "A Python handler by its registered name. Exactly one of exec and handler.",
        cost="launcher",
        example="httpd",
    )
    options: dict[str, Any] = key(
        {},
        "The handler's options; they become its --flags.",
        cost="launcher",
        example="{root: ./www}",
    )


class Log(Keys):
    """The keys of `log`."""

    format: Literal["text", "json"] = key(
        "text", "Lines for people, or JSON objects.", cost="log", example="json"
    )
    level: Literal["debug", "info", "warning", "error"] = key(
        "info",
        "The least important lines that are kept.",
        cost="log",
        example="warning",
    )
    to: LogTarget = key(
        "stderr",
        "stderr, syslog, journal, or an absolute file (SIGUSR1 opens it again).",
        cost="log",
        example="/var/log/superd.log",
    )


class Configuration(Keys):
    """A whole configuration."""

    include: Annotated[list[Word], ListOfOne] = key(
        [],
        "Further files with `services:` in them, as patterns relative to this file.",
        cost="live",
        example="[superd.d/*.yaml]",
    )
    log: Log = key(Log(), "What is logged, and where.", example="{level: warning}")
    defaults: Common = key(
        Common(),
        "Any key of a service but listen, exec, handler, options. A service's own key "
        "wins; mappings merge key by key.",
        example="{user: daemon}",
    )
    services: dict[Annotated[str, Field(pattern=SERVICE_NAME)], Service] = key(
        {},
        "The services by name: letters, digits and `._+-`, at most 64.",
        example="{echo: {listen: 7007, handler: echo}}",
    )
