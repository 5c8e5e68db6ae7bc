"""Compare two generations: what a reload adds, removes, renews and adjusts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from superd.core.spec import ServiceSpec


class Diff(NamedTuple):
    """Names of services, in the order of the generation they come from."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    renewed: tuple[str, ...]
    """Another launcher for new connections: what runs, or as whom, has changed."""
    adjusted: tuple[str, ...]
    """Listeners, limits or timeouts changed; the launcher stays."""


def diff(old: Iterable[ServiceSpec], new: Iterable[ServiceSpec]) -> Diff:
    """Compare by value: a service whose lines moved in the file has not changed."""
    before = {spec.name: spec for spec in old}
    after = {spec.name: spec for spec in new}
    both = [name for name in after if name in before]
    renewed = [name for name in both if before[name].launcher != after[name].launcher]
    return Diff(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        renewed=tuple(renewed),
        adjusted=tuple(
            name
            for name in both
            if name not in renewed
            and before[name]._replace(place="") != after[name]._replace(place="")
        ),
    )
