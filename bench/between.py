"""Say what is compared of servers that stand between a client and a web server.

That one is nginx with one worker, shared by all servers of a scene, which are loaded in
turn; its CPU time is nobody's.
"""

from __future__ import annotations

import peers
import relays
from peers import LOOP, POOL, PROCESS
from scenes import KEPT, LARGE, SMALL, Contestant, Scene, Target

POOL_KEPT = {**POOL, "max_workers": KEPT}
"""Of a pool each kept connection takes a worker."""
LARGE_MIB = 10
TINYPROXY = Contestant("tinyproxy", "peer", relays.tinyproxy, ("tinyproxy",))
SQUID = Contestant("squid", "peer", relays.squid(caches=False), ("squid",))
SOCAT = Contestant("socat", "peer", relays.socat(65536), ("socat",), "keep")
SOCAT_SMALL = Contestant("socat -b8192", "peer", relays.socat(8192), ("socat",), "keep")
XINETD = Contestant("xinetd redirect", "peer", relays.xinetd, ("xinetd",))
NGINX = Contestant("nginx", "shown", peers.nginx, ("nginx",), "keep")
"""Without anything between."""


def proxies(*modes: dict[str, object], caches: bool = False) -> tuple[Contestant, ...]:
    """Give the rows of superd's proxy."""
    return tuple(
        Contestant(
            f"superd {mode['mode']}",
            "superd",
            relays.superd_proxy(caches=caches, **mode),
        )
        for mode in modes
    )


def redirects(*modes: dict[str, object]) -> tuple[Contestant, ...]:
    """Give the rows of superd's relay."""
    return tuple(
        Contestant(f"superd {mode['mode']}", "superd", relays.superd_redirect(**mode))
        for mode in modes
    )


def rates(against: str, factor: float, *modes: str) -> tuple[Target, ...]:
    """Aim at so many times the rate of a peer."""
    return tuple(
        Target(f"superd {mode}", "rate", ">=", factor, against) for mode in modes
    )


BETWEEN = (
    Scene(
        "proxy-small",
        "http",
        (*proxies(LOOP, POOL), TINYPROXY, SQUID),
        rates("tinyproxy", 1.5, "loop", "pool"),
        argument=SMALL,
        behind="proxy",
    ),
    Scene(
        "proxy-kept",
        "keep",
        (*proxies(LOOP, POOL_KEPT), TINYPROXY, SQUID),
        rates("tinyproxy", 1.5, "loop", "pool"),
        unit="request",
        argument=SMALL,
        clients=KEPT,
        behind="proxy",
    ),
    Scene(
        "proxy-hit",
        "keep",
        (
            *proxies(LOOP, POOL_KEPT, caches=True),
            Contestant("squid", "peer", relays.squid(caches=True), ("squid",)),
            Contestant("nginx", "shown", relays.web_server, ("nginx",)),
        ),
        rates("nginx", 0.5, "loop"),
        unit="request",
        argument=SMALL,
        clients=KEPT,
        behind="cache",
    ),
    Scene(
        "proxy-tunnel",
        "tunnel",
        (
            *proxies(LOOP, PROCESS),
            TINYPROXY,
            SQUID,
            SOCAT,
            SOCAT_SMALL,
            NGINX,
        ),
        rates("socat", 0.8, "loop", "process"),
        unit="file of 10 MiB",
        argument=LARGE,
        clients=1,
        mib=LARGE_MIB,
        behind="proxy",
    ),
    Scene(
        "redirect",
        "keep",
        (
            *redirects(PROCESS, LOOP),
            SOCAT,
            SOCAT_SMALL,
            XINETD,
            NGINX,
        ),
        rates("socat", 0.8, "process", "loop"),
        unit="file of 10 MiB",
        argument=LARGE,
        clients=1,
        mib=LARGE_MIB,
        behind="relay",
    ),
    Scene(
        "redirect-connections",
        "http",
        (
            *redirects(PROCESS, POOL, LOOP),
            Contestant("socat", "peer", relays.socat(65536), ("socat",)),
            XINETD,
            Contestant("nginx", "shown", peers.nginx, ("nginx",)),
        ),
        (),
        argument=SMALL,
        behind="relay",
    ),
)
