"""Write figures as tables, and put them where docs/benchmarks.md has room for them.

That file holds pairs of comments, `<!-- generated: NAME -->` and `<!-- end -->`, for each
scene and for the machine. What stands between them is replaced, the rest is by hand.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import superd

if TYPE_CHECKING:
    from rounds import Result, Row
    from scenes import Target
    from solo import Table

END = "<!-- end -->"
FIGURES = {
    "rate": "{:.0f}",
    "p50": "{:.2f}",
    "p99": "{:.2f}",
    "cpu": "{:.3f}",
    "pss": "{:.1f}",
}
BEST = {"rate": max, "p50": min, "p99": min, "cpu": min, "pss": min}

ROLES = {"peer": "the best peer", "limit": "the limit", "shown": "nginx"}


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Write a table; the first column is text, the others are figures."""
    lines = [heads, ["---", *["--:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdicts(found: list[tuple[str, str, str]]) -> str:
    """Write what was aimed at, and whether it was reached."""
    rows = [list(verdict) for verdict in found]
    return table(["target", "found", "met"], rows)


def join(parts: list[str], left_out: list[str]) -> str:
    """Put a block together."""
    if left_out:
        parts.append("Left out:\n\n" + "\n".join(f"- {text}" for text in left_out))
    return "\n\n".join(part for part in parts if part)


def solo_block(found: Table) -> str:
    """Write the block of a scene without peers."""
    parts = [table(found.heads, found.rows)] if found.rows else []
    if found.verdicts:
        parts.append(verdicts(found.verdicts))
    return join(parts, found.left_out)


def scene_block(result: Result) -> str:
    """Write the block of a scene: figures, ratios, targets."""
    rows = [row for row in result.rows if row.rounds]
    if not rows:
        return join([], result.left_out)
    per = result.scene.unit
    factor = result.scene.mib
    heads = [
        "server",
        "MiB/s" if factor else f"{per}s/s",
        "slowest to fastest round",
        "p50 ms",
        "p99 ms",
        f"CPU ms per {per}",
        "peak PSS MiB",
        "load's own CPU ms",
        "failed",
    ]
    figures = [figure_row(row, factor or 1.0) for row in rows]
    parts = [table(heads, figures), ratios(result), targets(result), remarks(rows)]
    return join(parts, result.left_out)


def figure_row(row: Row, factor: float) -> list[str]:
    """Write one server's figures; `factor` turns its rate into what the table counts."""
    rates = sorted(one["rate"] * factor for one in row.rounds)
    failed = ", ".join(f"{number} {kind}" for kind, number in row.kinds.items())
    return [
        row.name,
        f"{row.median('rate') * factor:.0f}",
        f"{rates[0]:.0f} to {rates[-1]:.0f}",
        *(FIGURES[key].format(row.median(key)) for key in ("p50", "p99", "cpu", "pss")),
        f"{row.median('load'):.3f}",
        failed or "0",
    ]


def ratios(result: Result) -> str:
    """Write superd's figures against those of the best peer, the limit, and nginx.

    The best peer is another one for each figure: whoever has the best one.
    """
    rows = []
    for role, name in ROLES.items():
        others = [row for row in result.rows if row.role == role]
        for row in (row for row in result.rows if row.role == "superd"):
            if others:
                cells = [ratio(row, others, figure) for figure in FIGURES]
                rows.append([f"{row.name} / {name}", *cells])
    return table(["ratio", "rate", "p50", "p99", "CPU", "memory"], rows) if rows else ""


def ratio(row: Row, others: list[Row], figure: str) -> str:
    """Write one figure against the best of others."""
    return factor_text(
        quotient(row, BEST[figure](o.median(figure) for o in others), figure)
    )


def quotient(row: Row, by: float, figure: str) -> float:
    """Divide; no figure (a server that answered nothing) gives no ratio."""
    own = row.median(figure)
    return own / by if by and math.isfinite(by) and math.isfinite(own) else math.nan


def factor_text(value: float) -> str:
    """Write a factor."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def targets(result: Result) -> str:
    """Write the verdicts on a scene's targets; one that cannot be judged says why."""
    rows = {row.name: row for row in result.rows}
    found = []
    for target in result.scene.targets:
        missing = [name for name in (target.who, target.against) if name not in rows]
        if missing:
            verdict = f"not judged: {missing[0]} is left out"
            found.append((wanted(target), "-", verdict))
        else:
            found.append(judge(target, rows[target.who], rows[target.against]))
    return verdicts(found) if found else ""


def wanted(target: Target) -> str:
    """Write a target."""
    figure = {"rate": "rate", "cpu": "CPU"}[target.figure]
    factor = f"{target.factor:g} x {target.against}"
    return f"{target.who}: {figure} {target.relation} {factor}"


def judge(target: Target, row: Row, against: Row) -> tuple[str, str, str]:
    """Judge one target: what was wanted, what is, and whether that is enough.

    Figures of servers that failed connections are no figures: not met, or not judged.
    """
    value = quotient(row, against.median(target.figure), target.figure)
    good = value >= target.factor if target.relation == ">=" else value <= target.factor
    verdict = "yes" if good else "**no**"
    if row.kinds:
        verdict = "**no**: superd failed connections"
    elif against.kinds:
        verdict = f"void: {against.name} failed connections"
    return wanted(target), factor_text(value), verdict


def remarks(rows: list[Row]) -> str:
    """Say what the load had to do beside its work.

    It runs out of ports of 127.0.0.1 and goes on from 127.0.0.2; and a proxy ends a
    connection that it has not said it would end.
    """
    moved = ", ".join(f"{row.name} {row.elsewhere}" for row in rows if row.elsewhere)
    again = ", ".join(f"{row.name} {row.again}" for row in rows if row.again)
    said = []
    if moved:
        said.append(f"Connections from other addresses of loopback: {moved}.")
    if again:
        said.append(f"Asked again, after an end that was not announced: {again}.")
    return "\n".join(said)


def machine_block(versions: dict[str, str], load: float, *, is_exact: bool) -> str:
    """Describe the machine, the versions and the run."""
    cpu = _first("/proc/cpuinfo", "model name")
    memory = int(_first("/proc/meminfo", "MemTotal").split()[0]) / 1024**2
    libc = " ".join(platform.libc_ver())
    peers = ", ".join(f"{name} {version}" for name, version in versions.items())
    rows = [
        ["CPU", f"{cpu}, {os.cpu_count()} of them"],
        ["memory", f"{memory:.0f} GiB"],
        ["system", f"{_system()}, Linux {platform.release()}, {libc}"],
        [
            "superd",
            f"{superd.__version__}{commit()}, Python {platform.python_version()}",
        ],
        ["peers", peers],
        ["load average before", f"{load:.2f}"],
        [
            "CPU time from",
            "a control group" if is_exact else "/proc, in ticks of 10 ms",
        ],
    ]
    return table(["what", "which"], rows).replace("--:", "---")


def _first(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "unknown"


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return "unknown system"


def commit() -> str:
    """Name the commit, where there is a checkout and git."""
    ask = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(ask, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""


def has_room(file: Path, name: str) -> bool:
    """Tell whether the document has a place for a block."""
    _, found, rest = file.read_text().partition(f"<!-- generated: {name} -->")
    return bool(found) and END in rest


def put(file: Path, name: str, block: str) -> None:
    """Replace one block of the document, which has a place for it."""
    begin = f"<!-- generated: {name} -->"
    before, _, rest = file.read_text().partition(begin)
    after = rest.partition(END)[2]
    file.write_text(f"{before}{begin}\n\n{block}\n\n{END}{after}")
