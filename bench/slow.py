"""Measure what a good client notices of a thousand slow ones at the same web server.

The servers take turns as in rounds.py, each with nobody slow and then with all of them.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peers import LOOP, superd
from rounds import WARM_UP_S, Row, sample_memory, start, tell
from scenes import HTTPD, LARGE, NGINX, SMALL, Contestant, Scene
from server import SETTLE_S, DidNotStartError, Load
from solo import P50_P99, Table, failures, leave_out, met

if TYPE_CHECKING:
    from pathlib import Path

    from rounds import Effort
    from server import Server

SLOW = 1000
PACE_US = 5000
P99_MS = 50.0
OWN = "superd loop"
ROOM = {"connections": 2 * SLOW, "rlimits": {"nofile": 8192}}
"""What an administrator gives a service for so many: a descriptor each, and a file."""

SCENE = Scene(
    "httpd-slow",
    "slow",
    (Contestant(OWN, "superd", superd(**HTTPD, **LOOP, **ROOM)), NGINX),
    (),
)


@dataclass(slots=True)
class Case:
    """One row: a server, with so many slow clients, and what each round said."""

    server: Server
    name: str
    load: Load
    said: list[dict[str, Any]] = field(default_factory=list)

    @property
    def slow(self) -> int:
        """The slow clients there should be."""
        return self.load.clients

    def run(self, seconds: float) -> None:
        """Run one round."""
        self.server.tree.settle(SETTLE_S)
        self.said.append(self.load.run(self.server.ports[0], seconds))


def slow(effort: Effort, programs: dict[str, str], folder: Path) -> Table:
    """Measure it; half as long where nobody is slow, for that is the control."""
    heads = (
        "server|slow clients|p50 ms|p99 ms|longest ms|connections|peak PSS MiB|failed"
    )
    table = Table(heads.split("|"))
    table.effort = (
        f"{effort.rounds} rounds of {effort.seconds:g} s, a good client each "
        f"{PACE_US / 1000:g} ms"
    )
    cases: list[Case] = []
    try:
        for contestant in SCENE.contestants:
            try:
                server = start(contestant, SCENE, programs, folder)
            except DidNotStartError as error:
                leave_out(table, contestant.name, error)
                continue
            for count in (0, SLOW):
                load = load_with(count, programs, folder)
                cases.append(Case(server, contestant.name, load))
        for case in cases:
            case.load.run(case.server.ports[0], WARM_UP_S)
        for _ in range(effort.rounds):
            for case in cases:
                case.run(effort.seconds if case.slow else effort.seconds / 2)
        for case in cases:
            add(table, case)
    finally:
        for server in {id(case.server): case.server for case in cases}.values():
            server.stop()
    return table


def load_with(count: int, programs: dict[str, str], folder: Path) -> Load:
    """Give the load with so many slow clients."""
    files = (str(folder / "www" / name) for name in (SMALL, LARGE))
    return Load((programs["slow"],), count, (*files, str(PACE_US)))


def add(table: Table, case: Case) -> None:
    """Add one row, and the verdict on superd."""
    row = Row(case.name, "")
    if case.slow:  # what they take stays with the server, so only this tells anything
        row.pss = sample_memory(case.server, row, case.load)
    p50, p99 = (statistics.median(one[key] for one in case.said) for key in P50_P99)
    longest = max(one["max_us"] for one in case.said)
    failed = failures(case.said) + sum(row.kinds.values())
    cells = [case.name, str(min(one["held"] for one in case.said))]
    cells += [f"{p50 / 1000:.2f}", f"{p99 / 1000:.2f}", f"{longest / 1000:.1f}"]
    cells.append(str(sum(one["done"] + one["after"] for one in case.said)))
    cells += [f"{row.pss:.1f}" if case.slow else "-", str(failed)]
    table.rows.append(cells)
    tell(f"  {'  '.join(cells)}")
    if case.name == OWN and case.slow:
        wanted = f"{OWN}: p99 < {P99_MS:g} ms beside {SLOW} slow clients"
        good = p99 / 1000 < P99_MS and not failed
        table.verdicts.append((wanted, f"{p99 / 1000:.2f} ms", met(good)))
