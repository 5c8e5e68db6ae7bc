"""Say what is compared: the load, the servers that take it in turn, the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import peers
from peers import LOOP, POOL, PROCESS, superd

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers import Place


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row: `role` is superd, peer, limit, or shown (no peer, for orientation only).

    `mode` is its own mode of the load, for who is no proxy in a scene of proxies.
    """

    name: str
    role: str
    build: Callable[[Place], list[str]]
    needs: tuple[str, ...] = ()
    mode: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """`who` has at least (or at most) `factor` times the figure of `against`."""

    who: str
    figure: str
    relation: str
    factor: float
    against: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One table: `mode`, `argument` and `clients` are the load's.

    `unit` is what is counted. Where it is its size that counts, `mib` is that. `behind`
    tells what stands before a web server here: a `relay`, a `proxy`, or a `cache`, which
    asks for nothing that it has; empty: nothing, it is the servers themselves.
    """

    name: str
    mode: str
    contestants: tuple[Contestant, ...]
    targets: tuple[Target, ...]
    unit: str = "connection"
    argument: str = ""
    clients: int | None = None
    mib: float | None = None
    behind: str = ""


def xinetd(
    name: str, handler: Callable[[Place], list[str]] | None, *needs: str
) -> Contestant:
    """Give the row of xinetd."""
    return Contestant(name, "peer", peers.xinetd(handler), ("xinetd", *needs))


def httpd(kept: int = 0) -> tuple[Contestant, ...]:
    """Give the rows of httpd; of a pool each kept connection takes a worker."""
    pool = {**POOL, "max_workers": max(16, kept)}
    return tuple(
        Contestant(f"superd {how['mode']}", "superd", superd(**HTTPD, **how))
        for how in (PROCESS, pool, LOOP)
    )


ECHO = {"handler": "echo"}
HTTPD = {"handler": "httpd"}
CAT = {"exec": ["/bin/cat"]}
NGINX = Contestant("nginx", "shown", peers.nginx, ("nginx",))
SMALL, LARGE = "1k.txt", "10m.bin"
"""The files to be served: of 1 KiB and of 10 MiB."""
FILES = ("http", "keep", "tunnel")
"""Modes of the load whose argument is one of them."""
KEPT = 32


def stream(
    name: str, depth: int, socat: Callable[[Place], list[str]], against: str
) -> Scene:
    """Make the scene of long connections, `depth` messages of each on their way.

    A target is judged where its peer is at its best, so each scene has one peer's.
    """
    return Scene(
        name,
        "stream",
        (
            Contestant("superd process", "superd", superd(**ECHO, **PROCESS)),
            Contestant("superd pool", "superd", superd(**ECHO, **POOL)),
            Contestant("superd loop", "superd", superd(**ECHO, **LOOP)),
            Contestant("socat", "peer", socat, ("socat",)),
            Contestant(
                "socat + cat",
                "peer",
                peers.socat(65536, "EXEC:/bin/cat"),
                ("socat",),
            ),
            xinetd("xinetd INTERNAL", None),
        ),
        tuple(
            Target(f"superd {mode}", "rate", ">=", 1.5, against)
            for mode in ("process", "pool", "loop")
        ),
        unit="message of 64 KiB",
        argument=str(depth),
        mib=1 / 16,
    )


SCENES = (
    Scene(
        "cat",
        "cat",
        (
            Contestant("superd", "superd", superd(**CAT)),
            Contestant(
                "superd, log level warning", "superd", superd(**CAT, log="warning")
            ),
            xinetd("xinetd", peers.cat),
            Contestant("tcpserver", "peer", peers.tcpserver, ("tcpserver",)),
            Contestant("openbsd-inetd", "peer", peers.openbsd_inetd, ("inetd",)),
            Contestant("the limit", "limit", peers.limit(peers.cat)),
        ),
        (
            Target("superd", "rate", ">=", 1.3, "xinetd"),
            Target("superd", "rate", ">=", 1.1, "tcpserver"),
            Target("superd", "cpu", "<=", 0.9, "xinetd"),
            Target("superd", "cpu", "<=", 0.9, "tcpserver"),
            Target("superd", "rate", ">=", 1.0, "the limit"),
        ),
    ),
    Scene(
        "python",
        "echo",
        (
            Contestant("superd process", "superd", superd(**ECHO, **PROCESS)),
            Contestant("superd pool", "superd", superd(**ECHO, **POOL)),
            xinetd("xinetd + python3", peers.python()),
            xinetd("xinetd + python3 -I -S", peers.python("-I", "-S")),
            Contestant("the limit + python3", "limit", peers.limit(peers.python())),
        ),
        (
            Target("superd process", "rate", ">=", 8, "xinetd + python3"),
            Target("superd pool", "rate", ">=", 50, "xinetd + python3"),
        ),
    ),
    Scene(
        "echo",
        "echo",
        (
            Contestant("superd process", "superd", superd(**ECHO, **PROCESS)),
            Contestant("superd pool", "superd", superd(**ECHO, **POOL)),
            Contestant("superd loop", "superd", superd(**ECHO, **LOOP)),
            xinetd("xinetd INTERNAL", None),
        ),
        (
            Target("superd loop", "rate", ">=", 3, "xinetd INTERNAL"),
            Target("superd pool", "rate", ">=", 2.5, "xinetd INTERNAL"),
        ),
    ),
    stream("stream", 1, peers.socat(65536, "PIPE"), "socat"),
    stream("stream2", 2, peers.socat(8192, "PIPE"), "xinetd INTERNAL"),
    Scene(
        "httpd-1k",
        "http",
        (
            *httpd(),
            xinetd("xinetd + micro-httpd", peers.micro_httpd, "micro-httpd"),
            NGINX,
            Contestant(
                "the limit + micro-httpd",
                "limit",
                peers.limit(peers.micro_httpd),
                ("micro-httpd",),
            ),
        ),
        (
            *(
                Target(f"superd {mode}", "rate", ">=", 5, "xinetd + micro-httpd")
                for mode in ("process", "pool", "loop")
            ),
            Target("superd loop", "rate", ">=", 0.5, "nginx"),
        ),
        argument=SMALL,
    ),
    Scene(
        "httpd-keepalive",
        "keep",
        (*httpd(KEPT), NGINX),
        (Target("superd loop", "rate", ">=", 0.4, "nginx"),),
        unit="request",
        argument=SMALL,
        clients=KEPT,
    ),
    Scene(
        "httpd-10m",
        "http",
        (*httpd(), NGINX),
        tuple(
            Target(f"superd {mode}", "rate", ">=", 0.9, "nginx")
            for mode in ("process", "pool", "loop")
        ),
        unit="file of 10 MiB",
        argument=LARGE,
        mib=10,
    ),
)
