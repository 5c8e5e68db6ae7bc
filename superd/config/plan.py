"""Write the plan: settled services as the plain data that the master applies.

The format is in `superd/README.md`. Every value is there, in base units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from superd.config.modes import is_warm, most_connections, worker_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.config.model import Log
    from superd.config.rlimits import Rlimits
    from superd.config.services import Settled
    from superd.config.sockets import Bound

VERSION = 1


def make_plan(
    files: Sequence[str], log: Log, services: Sequence[Settled]
) -> dict[str, Any]:
    """The whole plan; a disabled service is not in it."""
    return {
        "version": VERSION,
        "files": list(files),
        "log": {"format": log.format, "level": log.level, "to": log.to},
        "services": [_service(one) for one in services if one.service.enabled],
    }


def _service(settled: Settled) -> dict[str, Any]:
    service, limits = settled.service, settled.service.limits
    return {
        "name": settled.entry.name,
        "place": str(settled.entry.place),
        "mode": service.mode,
        "warm": is_warm(service),
        "listeners": [_listener(bound) for bound in settled.sockets],
        "admission": {
            "connections": most_connections(service),
            "per_source": limits.per_source,
            "ipv4_prefix": limits.source_prefix.ipv4,
            "ipv6_prefix": limits.source_prefix.ipv6,
            "when_full": limits.when_full,
            "message": limits.message,
        },
        "timeouts": {
            "stop": service.timeouts.stop,
            "launcher_idle": service.launcher_idle,
        },
        "launcher": _launcher(settled),
    }


def _listener(bound: Bound) -> dict[str, Any]:
    listener = bound.listener
    return {
        "key": bound.key,
        "family": listener.family,
        "type": listener.type,
        "address": listener.address,
        "port": listener.port,
        "path": listener.path,
        "name": listener.name,
        "optional": listener.optional,
        "text": bound.text,
        "place": str(bound.place),
    }


def _launcher(settled: Settled) -> dict[str, Any]:
    service, identity = settled.service, settled.identity
    return {
        "program": settled.program.plan if settled.program else None,
        "user": identity.user if identity else None,
        "uid": identity.uid if identity else None,
        "gid": identity.gid if identity else None,
        "groups": list(identity.groups) if identity else None,
        "umask": service.umask,
        "nice": service.nice,
        "directory": settled.directory,
        "environment": settled.environment,
        "rlimits": _rlimits(service.rlimits),
        "stderr": service.stderr,
        "resolve": service.resolve,
        "banner": service.banner,
        "lifetime": service.timeouts.lifetime,
        **worker_values(service),
    }


def _rlimits(rlimits: Rlimits) -> dict[str, list[int | None]]:
    """The limits that are to be set, each soft and hard; the others are left alone."""
    fields = type(rlimits).model_fields.items()
    limits = ((field.alias or name, getattr(rlimits, name)) for name, field in fields)
    return {name: list(limit) for name, limit in limits if limit is not None}
