"""Turn the plan's services into values that the core compares and counts by."""

from __future__ import annotations

from typing import Any, NamedTuple


class Limits(NamedTuple):
    """How many connections a service has at once, and what the next one meets."""

    connections: int
    per_source: int | None
    ipv4_prefix: int
    ipv6_prefix: int
    when_full: str
    message: str


class ListenerSpec(NamedTuple):
    """One address of a service. `kind` says who accepts on it.

    stream: the master; wait: the program itself; datagram: the launcher's handler.
    """

    key: str
    kind: str


class ServiceSpec(NamedTuple):
    """One service of a generation. Equal `launcher` values share a launcher."""

    name: str
    place: str
    listeners: tuple[ListenerSpec, ...]
    limits: Limits
    warm: bool
    stop: float
    launcher_idle: float
    launcher: dict[str, Any]
    mode: str = "process"
    workers: int = 0
    """Of a pool or a loop; 0: a process for each connection."""
    max_workers: int = 0
    resolve: bool = False


def service_spec(service: dict[str, Any]) -> ServiceSpec:
    """Read one service of the plan (its format is in superd/README.md)."""
    admission = service["admission"]
    launcher = dict(service["launcher"], mode=service["mode"])
    return ServiceSpec(
        name=service["name"],
        place=service["place"],
        listeners=tuple(
            ListenerSpec(one["key"], _kind(one, service["mode"]))
            for one in service["listeners"]
        ),
        limits=Limits(
            connections=admission["connections"],
            per_source=admission["per_source"],
            ipv4_prefix=admission["ipv4_prefix"],
            ipv6_prefix=admission["ipv6_prefix"],
            when_full=admission["when_full"],
            message=admission["message"],
        ),
        warm=service["warm"],
        stop=service["timeouts"]["stop"],
        launcher_idle=service["timeouts"]["launcher_idle"],
        launcher=launcher,
        mode=service["mode"],
        workers=launcher.get("workers") or 0,
        max_workers=launcher.get("max_workers") or 0,
        resolve=launcher["resolve"],
    )


def _kind(listener: dict[str, Any], mode: str) -> str:
    if listener["type"] == "dgram":
        return "wait" if mode == "wait" else "datagram"
    return "wait" if mode == "wait" else "stream"
