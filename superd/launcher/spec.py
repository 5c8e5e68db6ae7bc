"""Read the launcher's part of the plan, from the descriptor that the master left."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

CHANNEL_FD = 3
SPEC_FD = 4

PER_PROCESS = ("nofile", "cpu", "as", "data")
"""Limits that a handler gets at its start and the launcher must not have itself: it holds
a descriptor for each connection, works longer than one handler, and maps an interpreter.
All other limits are the launcher's own, inherited."""


class Spec(NamedTuple):
    """What a launcher becomes and what it starts."""

    name: str
    exec: list[str] | None
    module: str
    handler: str
    argv: list[str]
    uid: int | None
    gid: int | None
    groups: list[int]
    user: str
    umask: int
    nice: int
    directory: str
    environment: dict[str, str]
    rlimits: dict[str, tuple[int, int | None]]
    stderr: str
    resolve: bool
    banner: bytes
    lifetime: float | None
    mode: str
    workers: int
    """Of a pool or a loop; 0: a process for each connection."""
    requests: int
    """Connections of a pool's worker before it is renewed."""
    selector: str
    """What a loop's worker waits with: auto, uvloop, epoll, poll, select."""
    path: list[str]


def read_spec(name: str) -> Spec:
    """Read the whole of descriptor 4; it stays open for the next stage."""
    size = os.fstat(SPEC_FD).st_size
    raw: dict[str, Any] = json.loads(os.pread(SPEC_FD, size, 0))
    program = raw["program"]
    return Spec(
        name=name,
        exec=program.get("exec"),
        module=program.get("module", ""),
        handler=program.get("handler", ""),
        argv=program.get("argv", []),
        uid=raw["uid"],
        gid=raw["gid"],
        groups=raw["groups"] or [],
        user=raw["user"] or "",
        umask=raw["umask"],
        nice=raw["nice"],
        directory=raw["directory"],
        environment=raw["environment"],
        rlimits={key: tuple(pair) for key, pair in raw["rlimits"].items() if pair},
        stderr=raw["stderr"],
        resolve=raw["resolve"],
        banner=raw["banner"].encode(),
        lifetime=raw["lifetime"],
        mode=raw["mode"],
        workers=raw.get("workers") or 0,
        requests=raw.get("requests") or 0,
        selector=raw.get("selector") or "auto",
        path=raw["path"],
    )
