"""Compare superd with its peers: `make bench`, or one scene by itself.

    python bench/run.py --scene cat --rounds 5 --seconds 2

Needs root: peers are installed, and servers start handlers as user nobody. What is
measured and how is told in docs/benchmarks.md, where `--write` puts the tables.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from install import install
from measure import Tree
from report import machine_block, put, scene_block, solo_block
from rounds import Effort, run_scene, tell
from scenes import SCENES
from solo import SOLOS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "benchmarks.md"


def main() -> None:
    """Run the scenes that are asked for, print their tables, and file them."""
    given = parse()
    if os.geteuid() != 0:
        raise SystemExit(
            "bench: needs root: it installs the peers, and each server starts its "
            "handlers as user nobody; run it with sudo"
        )
    effort = Effort(given.rounds, given.seconds, given.clients)
    programs, versions = install()
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="superd-bench-") as name:
        folder = Path(name)
        furnish(folder)
        for scene in given.scene:
            began = time.monotonic()
            tell(f"{scene}:")
            block, how = run(scene, effort, programs, folder)
            tell(f"  {time.monotonic() - began:.0f} s")
            when = ", ".join(part for part in (time.strftime("%Y-%m-%d"), how) if part)
            block = f"{when}.\n\n{block}"
            print(f"\n## {scene}\n\n{block}", flush=True)
            if given.write:
                put(DOCUMENT, scene, block)
    machine = machine_block(versions, busy, is_exact=is_exact())
    print(f"\n## machine\n\n{machine}")
    if given.write:
        put(DOCUMENT, "machine", machine)


def parse() -> argparse.Namespace:
    """Read the command line."""
    names = [scene.name for scene in SCENES] + list(SOLOS)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scene", action="append", choices=names, help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load, a round")
    parser.add_argument("--clients", type=int, default=8, help="connections at once")
    parser.add_argument(
        "--write", action="store_true", help="put the tables into docs/benchmarks.md"
    )
    given = parser.parse_args()
    given.scene = given.scene or names
    return given


def run(
    name: str, effort: Effort, programs: dict[str, str], folder: Path
) -> tuple[str, str]:
    """Run one scene; give its tables, and how much was done for them."""
    if name in SOLOS:
        table = SOLOS[name](effort, programs, folder)
        return solo_block(table), table.effort
    (scene,) = (scene for scene in SCENES if scene.name == name)
    block = scene_block(run_scene(scene, effort, programs, folder))
    return block, effort_text(effort)


def furnish(folder: Path) -> None:
    """Put what handlers read where user nobody can read it."""
    folder.chmod(0o755)
    shutil.copy(ROOT / "bench" / "echo.py", folder / "echo.py")
    (folder / "www").mkdir()
    line = "".join(chr(ord("a") + number % 26) for number in range(63)) + "\n"
    (folder / "www" / "1k.txt").write_text(line * 16)
    for path in (folder / "echo.py", folder / "www" / "1k.txt"):
        path.chmod(0o644)


def effort_text(effort: Effort) -> str:
    """Say how much was done."""
    rounds = f"{effort.rounds} rounds of {effort.seconds:g} s"
    return f"{rounds}, {effort.clients} clients at once"


def is_exact() -> bool:
    """Try whether a control group can be had."""
    tree = Tree("try")
    exact = tree.is_exact
    tree.close()
    return exact


if __name__ == "__main__":
    main()
