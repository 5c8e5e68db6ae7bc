"""Measure superd alone: idle, its start, its reloads."""

from __future__ import annotations

import signal
import socket
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from measure import read_kib
from peers import LOOP, PROCESS, superd_command
from rounds import tell
from server import DidNotStartError, Load, Server, finish, free_ports

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rounds import Effort

MASTER_RSS_MIB = 16.0
START_MS = 400.0
DELAY_MS = 20.0
RELOAD_SERVICES = 200
PACE_US = 2000
PACED_CLIENTS = 900  # below limits.connections: what waits is to show as waiting
IDLE_S = 15.0
IDLE_STILL_S = 1.0  # launchers that start by themselves come after the listeners
RELOAD_S = 3.0
RELOAD_DEADLINE_S = 20.0


@dataclass(slots=True)
class Table:
    """A table that is ready to be written: heads, rows of text, verdicts, remarks."""

    heads: list[str]
    rows: list[list[str]] = field(default_factory=list)
    verdicts: list[tuple[str, str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    effort: str = ""


def met(good: object) -> str:
    """Write a verdict."""
    return "yes" if good else "**no**"


def ten_services(ports: list[int], www: Path) -> dict[str, dict[str, Any]]:
    """Give ten services as an administrator would have them, each started when called."""
    services: dict[str, dict[str, Any]] = {
        name: {"handler": name}
        for name in ("echo", "discard", "daytime", "time", "chargen", "finger")
    }
    services["httpd"] = {"handler": "httpd", "options": {"root": str(www)}}
    for name in ("cat", "date", "uname"):
        services[name] = {"exec": [f"/bin/{name}"]}
    for service, port in zip(services.values(), ports, strict=True):
        service["listen"] = f"127.0.0.1:{port}"
    return services


def ten_loops(ports: list[int], _www: Path) -> dict[str, dict[str, Any]]:
    """Give ten echo services with an event loop each, started with superd."""
    return {
        f"echo{port}": {
            "listen": f"127.0.0.1:{port}",
            "handler": "echo",
            **LOOP,
            "workers": 1,
        }
        for port in ports
    }


KINDS = {"10 services": ten_services, "10 loop services, 1 worker each": ten_loops}


def start_ten(kind: str, folder: Path) -> Server:
    """Start superd with ten services."""
    ports = free_ports(10)
    own = folder / f"ten-{time.monotonic_ns()}"
    own.mkdir()
    services = KINDS[kind](ports, folder / "www")
    return Server("ten", superd_command(own, {"services": services}), ports, own)


def call(port: int) -> None:
    """Be a peer of any service: say nothing, and take one answer or the end."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.shutdown(socket.SHUT_WR)
        sock.recv(65536)


def idle(_effort: Effort, _programs: dict[str, str], folder: Path) -> Table:
    """Measure the memory of superd that has nothing to do."""
    table = Table(
        ["configuration", "processes", "PSS of all, MiB", "RSS of the master"]
    )
    for kind in KINDS:
        try:
            server = start_ten(kind, folder)
        except DidNotStartError as error:
            leave_out(table, kind, error)
            continue
        try:
            server.tree.settle(IDLE_S, still=IDLE_STILL_S)
            add_idle(table, f"{kind}, none called yet", server)
            for port in server.ports:
                call(port)
            server.tree.settle(IDLE_S, still=IDLE_STILL_S)
            add_idle(table, f"{kind}, each called once", server)
        finally:
            server.stop()
    return table


def leave_out(table: Table, name: str, error: DidNotStartError) -> None:
    """Note who does not take part."""
    table.left_out.append(f"{name}: {error}")
    tell(f"  left out: {name}: {error}")


def add_idle(table: Table, name: str, server: Server) -> None:
    """Add one row, and the verdict on the master."""
    master = server.process.pid
    rss = read_kib(master, "status", "VmRSS") / 1024
    count = len(server.tree.pids())
    table.rows.append([name, str(count), f"{server.tree.pss():.1f}", f"{rss:.1f}"])
    wanted = f"{name}: RSS of the master <= {MASTER_RSS_MIB:g} MiB"
    table.verdicts.append((wanted, f"{rss:.1f} MiB", met(rss <= MASTER_RSS_MIB)))


def start(effort: Effort, _programs: dict[str, str], folder: Path) -> Table:
    """Measure the time from exec to ten listeners."""
    table = Table(["configuration", "median, ms", "slowest, ms", "starts"])
    table.effort = f"{2 * effort.rounds} starts of each"
    for kind in KINDS:
        times = []
        try:
            for _ in range(2 * effort.rounds):
                server = start_ten(kind, folder)
                times.append(1000 * server.start_s)
                server.stop()
        except DidNotStartError as error:
            leave_out(table, kind, error)
            continue
        median = statistics.median(times)
        row = [kind, f"{median:.0f}", f"{max(times):.0f}", str(len(times))]
        table.rows.append(row)
        wanted = f"{kind}: exec to all listeners up <= {START_MS:g} ms"
        table.verdicts.append((wanted, f"{median:.0f} ms", met(median <= START_MS)))
    return table


class Reloads:
    """superd with 200 echo services, and the ways in which its file changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "reload"
        self._folder.mkdir()
        ports = free_ports(RELOAD_SERVICES)
        self._log = self._folder / "log"
        self._services: dict[str, dict[str, Any]] = {
            f"echo{number}": {
                "listen": f"127.0.0.1:{port}",
                "handler": "echo",
                **(PROCESS if number else {**LOOP, "workers": 1}),
                "limits": {"connections": 1000},
                "environment": {"STEP": "0"},
            }
            for number, port in enumerate(ports)
        }
        self._step = 0
        self.server = Server("reload", self._write(), ports, self._folder)

    def _write(self) -> list[str]:
        log = {"to": str(self._log)}
        config = {"log": log, "services": self._services}
        return superd_command(self._folder, config)

    def nothing(self) -> None:
        """Change nothing, and do not reload: how still the machine is."""

    def one(self) -> None:
        """Change one service, not the one that is called."""
        self._change("environment", ["echo1"])

    def limits(self) -> None:
        """Change all services in what is live."""
        self._change("limits", list(self._services))

    def others(self) -> None:
        """Change all services but the one that is called, so that launchers go."""
        self._change("environment", list(self._services)[1:])

    def launchers(self) -> None:
        """Change all services, so that even the one that is called gets a new launcher."""
        self._change("environment", list(self._services))

    def _change(self, key: str, names: list[str]) -> None:
        self._step += 1
        fresh = {
            "environment": {"STEP": str(self._step)},
            "limits": {"connections": 1000 + self._step},
        }
        for name in names:
            self._services[name][key] = fresh[key]
        self._write()
        before = self._reloads()
        self.server.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + RELOAD_DEADLINE_S
        while self._reloads() == before:
            if time.monotonic() > until:
                raise SystemExit(f"no reload within {RELOAD_DEADLINE_S:g} s")
            time.sleep(0.02)

    def _reloads(self) -> int:
        """Count the reloads that the log tells of."""
        lines = self._log.read_text().splitlines()
        told = [line for line in lines if " reload " in line]
        refused = [line for line in told if " error reload " in line]
        if refused:
            raise SystemExit(f"a reload was refused: {refused[-1]}")
        return len(told)


CHANGES = {
    "no reload": Reloads.nothing,
    "one other service changed": Reloads.one,
    "199 other services changed": Reloads.others,
    "all 200 changed in limits": Reloads.limits,
    "all 200 changed in environment: a new launcher": Reloads.launchers,
}


def reload(effort: Effort, programs: dict[str, str], folder: Path) -> Table:
    """Measure what the peers of one service notice of a reload of 200."""
    heads = ["change", "p50 ms", "p99 ms", "longest ms", "connections", "failed"]
    table = Table(heads)
    table.effort = f"{effort.rounds} rounds of {RELOAD_S:g} s, a connection each 2 ms"
    try:
        reloads = Reloads(folder)
    except DidNotStartError as error:
        leave_out(table, "superd with 200 services", error)
        return table
    load = Load((programs["load"], "paced"), PACED_CLIENTS, (str(PACE_US),))
    try:
        load.run(reloads.server.ports[0], 0.5)
        still = 0.0
        for name, change in CHANGES.items():
            said = [one_reload(reloads, change, load) for _ in range(effort.rounds)]
            longest = add_reload(table, name, said)
            if change is Reloads.nothing:
                still = longest
                continue
            verdict = judge_reload(still, longest, failures(said))
            wanted = f"{name}: connect to first answer <= {DELAY_MS:g} ms"
            table.verdicts.append((wanted, f"{longest:.1f} ms", verdict))
    finally:
        reloads.server.stop()
    return table


def one_reload(
    reloads: Reloads, change: Callable[[Reloads], None], load: Load
) -> dict[str, Any]:
    """Reload in the middle of a load that calls one service every 2 ms."""
    process = load.start(reloads.server.ports[0], RELOAD_S)
    time.sleep(RELOAD_S / 4)
    change(reloads)
    if process.poll() is not None:
        tell("  the reload took longer than the load: RELOAD_S is too short")
    return finish(process)


def add_reload(table: Table, name: str, said: list[dict[str, Any]]) -> float:
    """Add one row: medians, and the very longest of all rounds, which is returned."""
    longest: float = max(one["max_us"] for one in said) / 1000
    medians = (statistics.median(one[key] for one in said) for key in P50_P99)
    row = [name, *(f"{median / 1000:.2f}" for median in medians), f"{longest:.1f}"]
    row.append(str(sum(one["done"] + one["after"] for one in said)))
    row.append(str(failures(said)))
    table.rows.append(row)
    tell(f"  {'  '.join(row)}")
    return longest


def failures(said: list[dict[str, Any]]) -> int:
    """Count what failed, and what could not even be started in time."""
    return sum(one["failures"] + one["skipped"] for one in said)


def judge_reload(still: float, longest: float, failed: int) -> str:
    """Judge a reload; where nothing happens and it takes too long, nothing is shown."""
    if still > DELAY_MS and longest > DELAY_MS:
        return f"void: {still:.1f} ms without a reload, the machine is not still"
    return met(longest <= DELAY_MS and failed == 0)


P50_P99 = ("p50_us", "p99_us")
SOLOS: dict[str, Callable[[Effort, dict[str, str], Path], Table]] = {
    "idle": idle,
    "start": start,
    "reload": reload,
}
