"""Settle what depends on the mode: who serves a connection, and which keys that has.

A key of the defaults is for the services whose mode has it, and the others pass it by. On
a service whose mode does not have it, it shows that the mode is misunderstood: an error.
"""

from __future__ import annotations

from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from superd.config.model import Service
    from superd.config.origin import Origin

WORKER_MODES = ("pool", "loop")
"""The modes whose processes outlive a connection; all of them run Python handlers."""

MODES_OF = {
    "workers": ("pool", "loop"),
    "max_workers": ("pool",),
    "requests": ("pool",),
    "selector": ("loop",),
}
"""The keys that not every mode has, and the modes that have them."""

USUAL_MAX_WORKERS = 16


def is_warm(service: Service) -> bool:
    """Whether its launcher starts with superd: without it there are no workers."""
    return service.warm or service.mode in WORKER_MODES


def most_workers(service: Service) -> int:
    """How many workers a service may have at a time, in mode pool or loop."""
    if service.mode == "loop":
        return service.workers
    return service.max_workers or max(service.workers, USUAL_MAX_WORKERS)


def most_connections(service: Service) -> int:
    """How many connections a service may have at a time: a pool's worker has one."""
    connections = service.limits.connections
    if service.mode == "pool":
        return min(connections, most_workers(service))
    return connections


def worker_values(service: Service) -> dict[str, Any]:
    """What the plan says of workers; None where the mode has no such thing."""
    in_pool, in_loop = service.mode == "pool", service.mode == "loop"
    return {
        "workers": service.workers if in_pool or in_loop else None,
        "max_workers": most_workers(service) if in_pool or in_loop else None,
        "requests": service.requests if in_pool else None,
        "selector": service.selector if in_loop else None,
    }


def check_mode(service: Service, origin: Origin) -> None:
    """Tell which keys do not go with the mode, or with each other in it."""
    if not origin.fits(service.mode, "mode"):
        return
    for name, modes in MODES_OF.items():
        if service.mode not in modes and origin.has(name):
            origin.error(
                (name,),
                f"mode {service.mode} has no {name}; "
                f"leave it out, or write mode: {' or '.join(modes)}",
            )
    if service.mode in WORKER_MODES and origin.has("warm") and not service.warm:
        origin.warn(
            ("warm",), f"mode {service.mode} is always warm; leave it out or say true"
        )
    if service.mode == "pool":
        _check_pool(service, origin)
    elif service.mode == "loop":
        _check_loop(service, origin)


def _check_pool(service: Service, origin: Origin) -> None:
    workers, most = service.workers, most_workers(service)
    if not origin.fits(workers, "workers"):
        return
    if not origin.fits(service.max_workers, "max_workers"):
        return
    if workers > most:
        # Told in the service's own lines, where one of the two keys is in the defaults.
        if origin.has("workers") and not origin.has("max_workers"):
            origin.error(
                ("workers",),
                f"{workers} is above max_workers: {most}; lower it or raise max_workers",
            )
        else:
            origin.error(
                ("max_workers",),
                f"{most} is below workers: {workers}; raise it or lower workers",
            )
        return
    key = ("limits", "connections")
    connections = service.limits.connections
    if origin.has(*key) and origin.fits(connections, *key) and connections > most:
        origin.warn(
            key,
            f"at most {most} at once: max_workers; raise it or lower "
            "limits.connections",
        )


def _check_loop(service: Service, origin: Origin) -> None:
    # fits() tells what was written from a default that took the place of a refused value.
    if service.rlimits.cpu is not None and not origin.fits(None, "rlimits", "cpu"):
        origin.error(
            ("rlimits", "cpu"),
            "it would end a worker of mode loop with all of its connections; write "
            f"rlimits: {{cpu: null}} for service {origin.entry.name}",
        )
    if service.stderr == "peer" and origin.fits("peer", "stderr"):
        origin.error(
            ("stderr",),
            "a worker of mode loop has one stderr for many peers; write log or null "
            f"for service {origin.entry.name}",
        )
    uvloop = service.selector == "uvloop" and origin.fits("uvloop", "selector")
    if uvloop and not _is_installed("uvloop"):
        origin.error(
            ("selector",),
            "uvloop is not installed; install it, or write auto to use it where it is",
        )


def _is_installed(package: str) -> bool:
    """Whether a launcher could import a package, which is not done here."""
    return PathFinder.find_spec(package) is not None
