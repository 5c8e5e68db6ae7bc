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
    """One row: `role` is superd, peer, limit, or shown (no peer, for orientation only)."""

    name: str
    role: str
    build: Callable[[Place], list[str]]
    needs: tuple[str, ...] = ()


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
    """One table: `unit` is what is counted, `mode` and `argument` are the load's."""

    name: str
    mode: str
    contestants: tuple[Contestant, ...]
    targets: tuple[Target, ...]
    unit: str = "connection"
    argument: str = ""


def xinetd(name: str, handler: Callable[[Place], list[str]] | None) -> Contestant:
    """Give the row of xinetd."""
    return Contestant(name, "peer", peers.xinetd(handler), ("xinetd",))


ECHO = {"handler": "echo"}
HTTPD = {"handler": "httpd"}
CAT = {"exec": ["/bin/cat"]}


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
        "http",
        "http",
        (
            Contestant("superd process", "superd", superd(**HTTPD, **PROCESS)),
            Contestant("superd pool", "superd", superd(**HTTPD, **POOL)),
            Contestant("superd loop", "superd", superd(**HTTPD, **LOOP)),
            Contestant(
                "xinetd + micro-httpd",
                "peer",
                peers.xinetd(peers.micro_httpd),
                ("xinetd", "micro-httpd"),
            ),
            Contestant("nginx", "shown", peers.nginx, ("nginx",)),
            Contestant(
                "the limit + micro-httpd",
                "limit",
                peers.limit(peers.micro_httpd),
                ("micro-httpd",),
            ),
        ),
        tuple(
            Target(f"superd {mode}", "rate", ">=", 4, "xinetd + micro-httpd")
            for mode in ("process", "pool", "loop")
        ),
    ),
)
