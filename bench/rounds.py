"""Give the same load to each server of a scene in turn, round after round.

A B C A B C, not A A B B C C: a machine whose speed drifts drifts for all. All servers of a
scene run from its beginning to its end; one that gets no load just now sleeps.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from origin import Origin
from peers import Place
from scenes import FILES
from server import SETTLE_S, DidNotStartError, Load, Server, finish, free_ports

if TYPE_CHECKING:
    from pathlib import Path

    from scenes import Contestant, Scene

WARM_UP_S = 0.5
SAMPLE_S = 0.1


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of it: rounds, seconds of load a round, clients at once."""

    rounds: int
    seconds: float
    clients: int


@dataclass(slots=True)
class Row:
    """What one server did: a list of figures, one of each round, and its peak memory."""

    name: str
    role: str
    rounds: list[dict[str, float]] = field(default_factory=list)
    pss: float = math.nan
    kinds: dict[str, int] = field(default_factory=dict)
    elsewhere: int = 0
    again: int = 0

    def median(self, figure: str) -> float:
        """Give the median of the rounds; `pss` is the highest of one round's samples."""
        if figure == "pss":
            return self.pss
        return statistics.median(one[figure] for one in self.rounds)

    def add(self, said: dict[str, Any], cpu: float) -> None:
        """Take in a round: what the load said, and the server's CPU seconds."""
        count = said["done"] + said["after"]
        self.rounds.append(
            {
                "rate": said["done"] / said["seconds"],
                # A server that answers nothing has no latency: not a very good one.
                "p50": said["p50_us"] / 1000 if count else math.inf,
                "p99": said["p99_us"] / 1000 if count else math.inf,
                "cpu": 1000 * cpu / count if count else math.inf,
                "load": 1000 * said["cpu_s"] / count if count else math.inf,
            }
        )
        self.elsewhere += said["elsewhere"]
        self.again += said["again"]
        self.count_failures(said)

    def count_failures(self, said: dict[str, Any]) -> None:
        """Take in the failures, by their kind."""
        for kind, number in said["kinds"].items():
            self.kinds[kind] = self.kinds.get(kind, 0) + number


@dataclass(slots=True)
class Result:
    """A scene's rows, and who was left out and why."""

    scene: Scene
    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def clients_of(scene: Scene, effort: Effort) -> int:
    """Give the clients at once: some scenes are about their number."""
    return scene.clients or effort.clients


def run_scene(
    scene: Scene, effort: Effort, programs: dict[str, str], folder: Path
) -> Result:
    """Start all, load each in turn, stop all."""
    result = Result(scene)
    with contextlib.ExitStack() as running:
        origin = None
        if scene.behind:
            try:
                origin = Origin(scene, programs, folder)
            except DidNotStartError as error:
                result.left_out.append(f"all: no web server behind them: {error}")
                return result
            running.callback(origin.stop)
        servers: list[tuple[Server, Row, Load]] = []
        for contestant in scene.contestants:
            try:
                server = start(contestant, scene, programs, folder, origin)
            except DidNotStartError as error:
                result.left_out.append(f"{contestant.name}: {error}")
                tell(f"  left out: {contestant.name}: {error}")
                continue
            running.callback(server.stop)
            row = Row(contestant.name, contestant.role)
            result.rows.append(row)
            mode = contestant.mode or scene.mode
            arguments = arguments_of(scene, mode, folder, origin)
            load = Load((programs["load"], mode), clients_of(scene, effort), arguments)
            servers.append((server, row, load))
        for server, row, load in servers:
            row.count_failures(load.run(server.ports[0], WARM_UP_S))
        for number in range(effort.rounds):
            for server, row, load in servers:
                measure(server, row, load, effort.seconds, origin)
                one = row.rounds[-1]
                figures = f"{one['rate']:8.0f}/s {one['cpu']:7.3f} ms CPU"
                tell(
                    f"  round {number + 1}  {row.name:28} {figures}  {row.kinds or ''}"
                )
        for server, row, load in servers:
            row.pss = sample_memory(server, row, load)
    return result


def arguments_of(
    scene: Scene, mode: str, folder: Path, origin: Origin | None
) -> tuple[str, ...]:
    """Give the load's arguments; it speaks to a proxy where it is told of an origin."""
    argument = str(folder / "www" / scene.argument) if mode in FILES else scene.argument
    arguments = [argument] if argument else []
    if origin is not None and mode == scene.mode and scene.behind != "relay":
        arguments.append(f"127.0.0.1:{origin.port}")
    return tuple(arguments)


def start(
    contestant: Contestant,
    scene: Scene,
    programs: dict[str, str],
    folder: Path,
    origin: Origin | None = None,
) -> Server:
    """Start one; DidNotStartError says why it cannot take part."""
    for program in contestant.needs:
        if program not in programs:
            raise DidNotStartError(f"{program} is not installed")
    own = folder / scene.name / contestant.name.replace(" ", "-")
    own.mkdir(parents=True)
    (port,) = free_ports(1)
    behind = 0 if origin is None else origin.port
    place = Place(own, port, folder / "www", folder / "echo.py", programs, behind)
    name = f"{scene.name}-{contestant.name}"
    return Server(name, contestant.build(place), [port], own)


def measure(
    server: Server, row: Row, load: Load, seconds: float, origin: Origin | None
) -> None:
    """Run one round."""
    server.tree.settle(SETTLE_S)
    before = server.tree.cpu()
    asked = 0 if origin is None else origin.count()
    said = load.run(server.ports[0], seconds)
    if (
        origin is not None and row.role != "shown"
    ):  # who is shown is a web server itself
        said["kinds"] |= origin.judge(asked, said["done"] + said["after"])
    server.tree.settle(SETTLE_S)
    row.add(said, server.tree.cpu() - before)


def sample_memory(server: Server, row: Row, load: Load) -> float:
    """Look at the memory, in a round of its own: looking costs time."""
    process = load.start(server.ports[0], 1.0)
    peak = 0.0
    running = True
    while running:
        peak = max(peak, server.tree.pss())
        try:
            process.wait(SAMPLE_S)
            running = False
        except subprocess.TimeoutExpired:
            pass  # it still runs: look again
    row.count_failures(finish(process))
    return peak


def tell(text: str) -> None:
    """Say on stderr how far it is."""
    print(text, file=sys.stderr, flush=True)
