"""List the declared keys: path, model, what was declared of each.

`services.*.limits.connections` is the path of a key in any service.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from superd.config.keys import COSTS, Keys
from superd.config.model import Common, Configuration, ListenAddress, Service
from superd.config.units import format_duration

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

ANY = "*"


@dataclass(frozen=True, slots=True)
class Declared:
    """One key as it was declared."""

    path: tuple[str, ...]
    field: FieldInfo
    owner: type[Keys]
    below: type[Keys] | None

    @property
    def name(self) -> str:
        """The last part of its path, as the operator writes it."""
        return self.path[-1]

    @property
    def text(self) -> str:
        """Its help."""
        return self.field.description or ""

    def note(self, name: str) -> str:
        """A further declaration of it (cost, example, unit, values), or nothing."""
        extra = self.field.json_schema_extra
        return str(extra.get(f"x-{name}", "")) if isinstance(extra, dict) else ""

    @property
    def cost(self) -> str:
        """What the change of it costs at a reload, one of COSTS; empty for a mapping."""
        cost = self.note("reload")
        return cost if cost in COSTS else ""

    def bounds(self) -> tuple[str, str]:
        """Its least and its greatest value as the operator writes them, or nothing."""
        least = greatest = ""
        for part in self.field.metadata:
            if (low := getattr(part, "ge", None)) is not None:
                least = self._spell(low)
            if (high := getattr(part, "le", None)) is not None:
                greatest = self._spell(high)
        return least, greatest

    def _spell(self, number: float) -> str:
        return format_duration(number) if self.note("unit") else str(number)


@functools.cache
def declared_keys() -> dict[tuple[str, ...], Declared]:
    """All keys by path, in the order in which a reader wants them."""
    found: dict[tuple[str, ...], Declared] = {}
    _walk(Configuration, (), found)
    _walk(Service, ("services", ANY), found)
    return found


def declared_at(path: tuple[str | int, ...]) -> Declared | None:
    """What was declared of the key at a path of a document."""
    names = tuple(part for part in path if isinstance(part, str))
    if names[:1] == ("services",) and len(names) > 1:
        names = ("services", ANY, *names[2:])
    elif names[:1] == ("defaults",) and len(names) > 1:
        names = ("services", ANY, *names[1:])
    return declared_keys().get(names)


def known_names(path: tuple[str | int, ...]) -> list[str]:
    """The keys that the mapping at a path may have."""
    if path[:1] == ("defaults",) and len(path) == 1:
        return list(Common.model_fields)
    names = tuple(part for part in path if isinstance(part, str))
    if names[-1:] == ("listen",):
        return list(ListenAddress.model_fields)
    if names[:1] in (("services",), ("defaults",)):
        names = ("services", ANY, *names[2 if names[0] == "services" else 1 :])
    return [
        key.name
        for key in declared_keys().values()
        if key.path[:-1] == names and key.name != ANY
    ]


def _walk(
    model: type[Keys], path: tuple[str, ...], found: dict[tuple[str, ...], Declared]
) -> None:
    fields = model.model_fields
    own = [name for name in fields if name in model.__annotations__]
    for name in [*own, *(name for name in fields if name not in own)]:
        field = fields[name]
        below = _mapping_of(field)
        here = (*path, field.alias or name)
        found[here] = Declared(here, field, model, below)
        if below is not None and below is not Common:
            _walk(below, here, found)


def _mapping_of(field: FieldInfo) -> type[Keys] | None:
    kind: Any = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Keys) else None
