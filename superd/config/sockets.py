"""Settle the sockets of all services: each address has one service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from superd.config.listen import (
    Listener,
    UnknownPortError,
    parse_listen,
    service_names,
)
from superd.config.presence import folder_trouble
from superd.config.problems import ConfigError, Place, Problems, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from superd.config.model import ListenAddress
    from superd.config.origin import Origin


ALIKE = 0.75
"""Of hundreds of names in /etc/services, one is always a little alike."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One socket of a service and the words that asked for it."""

    service: str
    listener: Listener
    text: str
    place: Place

    @property
    def key(self) -> str:
        """What makes two sockets the same across reloads.

        Port 0 is a port of its own for every service that asks for one.
        """
        key = self.listener.key
        return f"{key} {self.service}" if self.listener.port == 0 else key


def settle_listeners(items: Sequence[ListenAddress], origin: Origin) -> list[Bound]:
    """The sockets of one service."""
    found: list[Bound] = []
    for number, item in enumerate(items):
        key = ("listen", number)
        try:
            listeners = parse_listen(
                item.address,
                origin.entry.document.source.folder,
                optional=item.optional,
            )
        except UnknownPortError as error:
            names = service_names(error.protocol)
            near = origin.problems.nearest(error.word, names, ALIKE)
            told = f'{show(error.word)} is no port; did you mean "{near}"?'
            origin.error(key, told if near else str(error))
            continue
        except ConfigError as error:
            origin.error(key, str(error))
            continue
        for path in (one.path for one in listeners if one.path):
            if text := folder_trouble(path):
                origin.warn(key, text)
        found.extend(
            Bound(origin.entry.name, listener, item.address, origin.place(*key))
            for listener in listeners
        )
    return found


def refuse_meeting(sockets: Iterable[Bound], problems: Problems) -> None:
    """Note every pair of sockets that cannot be bound at once."""
    taken: dict[tuple[object, ...], dict[str, Bound]] = {}
    # localhost:80 and *:80 meet twice, once in each family: that is one mistake.
    told: set[tuple[Place, Place]] = set()
    for one in sockets:
        group, name = _slot(one)
        owners = taken.setdefault(group, {})
        first = _first_met(owners, one, name)
        if first is not None and (first.place, one.place) not in told:
            told.add((first.place, one.place))
            key = ("services", one.service, "listen")
            problems.error(one.place, key, _text(first, one))
        owners.setdefault(name, one)


def _slot(one: Bound) -> tuple[tuple[object, ...], str]:
    """What two sockets must have in common to meet, and the name within it."""
    listener = one.listener
    if not listener.port:
        return (one.key,), ""
    return (listener.family, listener.type, listener.port), listener.address or ""


def _first_met(owners: dict[str, Bound], one: Bound, name: str) -> Bound | None:
    """The first socket that cannot be bound beside this one."""
    if one.listener.is_wildcard:
        return next(iter(owners.values()), None)
    wildcard = "::" if one.listener.family == "inet6" else "0.0.0.0"
    met = [owners[other] for other in (name, wildcard) if other in owners]
    return met[0] if met else None


def _text(first: Bound, second: Bound) -> str:
    mine = first.service == second.service
    owner = "this service" if mine else f'service "{first.service}"'
    remedy = "leave one out" if mine else "choose another port"
    if first.listener.family in ("unix", "fd") and not mine:
        remedy = "choose another name"
    if first.key == second.key:
        return f"{owner} has {first.listener.key} too, at {first.place}; {remedy}"
    return (
        f"{second.listener.key} meets {first.listener.key} of {owner}, "
        f"at {first.place}; {remedy}"
    )
