"""Write the effective configuration as YAML that means the same when it is read again.

Every default is filled in, every include taken in, every path absolute, so that it
may be read from anywhere.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import yaml

from superd.config.identity import Lookup
from superd.config.modes import (
    MODES_OF,
    is_warm,
    most_connections,
    worker_values,
)
from superd.config.scalars import resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.config.model import Log
    from superd.config.services import Settled

LINE = 4096
FIRST = ("listen", "exec", "handler", "options")


class _Dumper(yaml.SafeDumper):
    """Writes what our own reader reads back as the same value."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        """Write every value out: aliases are not read."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Text, in quotes where a bare word would be read as something else."""
    try:
        plain = isinstance(resolve(text), str)
    except ValueError:
        plain = False
    plain = plain and text.isprintable()
    style = None if plain else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)


def _float(dumper: yaml.SafeDumper, number: float) -> yaml.Node:
    """A number with a point; 1e-05 would be read as text."""
    text = f"{Decimal(repr(number)):f}"
    text = text if "." in text else f"{text}.0"
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(float, _float)
_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)


def dump_configuration(log: Log, services: Sequence[Settled]) -> str:
    """The configuration as one YAML document."""
    lookup = Lookup()
    data = {
        "include": [],
        "log": log.model_dump(mode="json"),
        "defaults": {},
        "services": {one.entry.name: _service(one, lookup) for one in services},
    }
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, width=LINE, allow_unicode=True
    )


def _service(settled: Settled, lookup: Lookup) -> dict[str, Any]:
    service = settled.service
    values = service.model_dump(mode="json", by_alias=True)
    values |= worker_values(service) | {"warm": is_warm(service)}
    values["limits"]["connections"] = most_connections(service)
    values["directory"] = settled.directory
    if settled.program is not None:
        if values["exec"] is not None:
            values["exec"] = settled.program.plan["exec"]
        values["options"] = settled.program.options
    if identity := settled.identity:
        values["user"] = identity.user
        values["group"] = lookup.group_name(identity.gid)
    values["listen"] = [_absolute(one, settled) for one in values["listen"]]
    unused = {"handler", "options"} if values["exec"] else {"exec"}
    unused |= {name for name, modes in MODES_OF.items() if service.mode not in modes}
    names = [*FIRST, *(name for name in values if name not in FIRST)]
    return {name: values[name] for name in names if name not in unused}


def _absolute(item: Any, settled: Settled) -> Any:
    """A listen item with the path of its unix socket absolute."""
    text = item["address"] if isinstance(item, dict) else item
    paths = [
        bound.listener.path
        for bound in settled.sockets
        if bound.text == text and bound.listener.path
    ]
    if not paths:
        return item
    whole = f"unix:{paths[0]}"
    return {"address": whole, "optional": True} if isinstance(item, dict) else whole
