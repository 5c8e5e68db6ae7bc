"""Measure a pipeline of three stages over loopback: a head, a cat in the middle, a tail.

Noise is poured in at the head and compared at the tail. The pipelines take turns as the
servers of rounds.py do; all of their processes are new in each round, started from the
tail, each when the one after it listens.
"""

from __future__ import annotations

import json
import math
import re
import resource
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from report import factor_text
from rounds import tell
from server import START_S, free_ports, listening_ports
from solo import Table, met

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rounds import Effort

FACTOR = 0.9
MIB = 1 << 20
PATIENCE_S = 20.0
PLAIN = "superd-pipe"
SOCAT = "socat -b65536"
SOCAT_DEFAULT = "socat"
_POURED = re.compile(rb"poured (\d+)")


@dataclass(frozen=True, slots=True)
class Ends:
    """What a pipeline is made of: what is poured, what takes it, two ports."""

    pour: str
    drain: str
    ports: tuple[str, str]


@dataclass(slots=True)
class Pipeline:
    """One row: its shell commands from the tail on, each but the last of which listens."""

    name: str
    commands: Callable[[Ends], list[str]]
    needs: tuple[str, ...] = ()
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Give the median of the rounds, in MiB a second."""
        return statistics.median(self.rates) if self.rates else math.nan


def roles(*flags: str) -> Callable[[Ends], list[str]]:
    """Make the roles of superd-pipe that are started by hand."""
    ours = shlex.join([sys.executable, "-m", "superd.pipe", *flags])

    def commands(ends: Ends) -> list[str]:
        first, second = ends.ports
        return [
            f"{ours} --listen {second} -- {ends.drain}",
            f"{ours} --listen {first} --to {second} -- cat",
            f"{ours} --to {first} -- {ends.pour}",
        ]

    return commands


def copies(ends: Ends) -> list[str]:
    """Make the same of roles without a program at both ends, which only copy."""
    ours = shlex.join([sys.executable, "-m", "superd.pipe"])
    first, second = ends.ports
    return [
        f"{ours} --listen {second} | {ends.drain}",
        f"{ours} --listen {first} --to {second} -- cat",
        f"{ends.pour} | {ours} --to {first}",
    ]


def by_one_command(ends: Ends) -> list[str]:
    """Make it with superd-pipe run, which frames and sums what flows."""
    ours = shlex.join([sys.executable, "-m", "superd.pipe"])
    return [f"{ours} run {shlex.quote(f'{ends.pour} | cat | {ends.drain}')}"]


def socat(*flags: str) -> Callable[[Ends], list[str]]:
    """Make it with socat; -u, one way only, is what is fastest."""
    ours = shlex.join(["socat", "-u", *flags])

    def commands(ends: Ends) -> list[str]:
        first, second = (end.replace("127.0.0.1:", "") for end in ends.ports)
        listen = "TCP-LISTEN:{},bind=127.0.0.1,reuseaddr"
        take = f"{ours} {listen.format(first)} STDOUT"
        return [
            f"{ours} {listen.format(second)} STDOUT | {ends.drain}",
            f"{take} | cat | {ours} STDIN TCP:127.0.0.1:{second}",
            f"{ends.pour} | {ours} STDIN TCP:127.0.0.1:{first}",
        ]

    return commands


def shell(ends: Ends) -> list[str]:
    """Make it without a network."""
    return [f"{ends.pour} | cat | {ends.drain}"]


def pipe(effort: Effort, programs: dict[str, str], _folder: Path) -> Table:
    """Measure it."""
    heads = (
        "pipeline|MiB/s|slowest to fastest round|CPU ms per MiB|"
        "start to first byte ms|rate / the best socat's|failed"
    )
    table = Table(heads.split("|"))
    table.effort = f"{effort.rounds} rounds of {effort.seconds:g} s"
    pipelines = []
    for one in (
        Pipeline(PLAIN, roles()),
        Pipeline("superd-pipe, ends that copy", copies),
        Pipeline("superd-pipe --socket", roles("--socket")),
        Pipeline("superd-pipe run", by_one_command),
        Pipeline(SOCAT_DEFAULT, socat(), ("socat",)),
        Pipeline(SOCAT, socat("-b", "65536"), ("socat",)),
        Pipeline("pipes of a shell, no network", shell),
    ):
        missing = [name for name in one.needs if name not in programs]
        if missing:
            table.left_out.append(f"{one.name}: {missing[0]} is not installed")
        else:
            pipelines.append(one)
    for number in range(effort.rounds):
        for one in pipelines:
            measure(one, programs["pour"], effort.seconds)
            done = f"{one.rates[-1]:8.0f} MiB/s" if one.rates else ""
            tell(f"  round {number + 1}  {one.name:28} {done}  {one.failed or ''}")
    peers = {one.name: one for one in pipelines if one.needs}
    best = max((one.rate for one in peers.values() if one.rates), default=math.nan)
    table.rows = [row_of(one, best) for one in pipelines]
    plain = pipelines[0]
    table.verdicts = [verdict(plain, peers.get(name), name) for name in PEERS]
    return table


PEERS = (SOCAT, SOCAT_DEFAULT)


def measure(one: Pipeline, pour: str, seconds: float) -> None:
    """Run one round; what is not the whole, byte by byte, has no figure."""
    ports = free_ports(2)
    first, second = (f"127.0.0.1:{port}" for port in ports)
    commands = one.commands(Ends(f"{pour} {seconds:g}", pour, (first, second)))
    before = children_cpu()
    began = time.monotonic()
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command, port in zip(commands, [*reversed(ports), 0], strict=False):
            running.append(
                subprocess.Popen(
                    ["sh", "-c", command],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
            if command is not commands[-1] and not comes_up(port):
                one.failed.append(f"{command}: it does not listen")
                return
        said, told = finish(running, seconds + PATIENCE_S)
    except subprocess.TimeoutExpired:
        one.failed.append("it did not end")
        return
    finally:
        for process in running:
            process.kill()
            process.communicate()
    cpu = children_cpu() - before
    why = wrong_with(said, told, running)
    if why:
        one.failed.append(why)
        return
    moved = said["bytes"] / MIB
    one.rates.append(moved / said["seconds"])
    one.cpu.append(1000 * cpu / moved)
    one.start.append(1000 * (said["first_s"] - began))


def finish(
    running: list[subprocess.Popen[bytes]], patience: float
) -> tuple[dict[str, Any], int]:
    """Wait for all; returns the tail's figures, and how much was poured (-1: unsaid)."""
    until = time.monotonic() + patience
    said = [one.communicate(timeout=until - time.monotonic()) for one in running]
    told = _POURED.search(said[-1][1])
    try:
        return json.loads(said[0][0]), int(told[1]) if told else -1
    except json.JSONDecodeError:
        return {"bytes": 0, "wrong": 0, "seconds": 0.0}, -1


def wrong_with(
    said: dict[str, Any], told: int, running: list[subprocess.Popen[bytes]]
) -> str:
    """Say what is wrong with a round; empty: nothing."""
    statuses = [process.returncode for process in running]
    if any(statuses):
        return f"ended with {statuses}"
    if said["wrong"] or said["bytes"] != told:
        return f"{said['bytes']} bytes came of {told}, {said['wrong']} pieces wrong"
    return "" if said["seconds"] else "nothing came"


def comes_up(port: int) -> bool:
    """Wait until a port is listened on; a connection would be the one that is served."""
    until = time.monotonic() + START_S
    while port not in listening_ports():
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True


def children_cpu() -> float:
    """Add up the seconds of all children that have ended, with theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def row_of(one: Pipeline, best: float) -> list[str]:
    """Write one row."""
    failed = "; ".join(sorted(set(one.failed))) or "0"
    if not one.rates:
        return [one.name, *["-"] * 5, failed]
    return [
        one.name,
        f"{one.rate:.0f}",
        f"{min(one.rates):.0f} to {max(one.rates):.0f}",
        f"{statistics.median(one.cpu):.3f}",
        f"{statistics.median(one.start):.0f}",
        factor_text(one.rate / best),
        failed,
    ]


def verdict(one: Pipeline, peer: Pipeline | None, name: str) -> tuple[str, str, str]:
    """Judge against one peer."""
    wanted = f"{one.name}: rate >= {FACTOR:g} x {name}"
    if peer is None:
        return wanted, "-", f"not judged: {name} is left out"
    found = one.rate / peer.rate
    if one.failed:
        return wanted, factor_text(found), "**no**: superd-pipe failed"
    if peer.failed:
        return wanted, factor_text(found), f"void: {name} failed"
    return wanted, factor_text(found), met(found >= FACTOR)
