"""Compare superd with its peers: `make bench`, or one scene by itself.

    python bench/run.py --scene cat --rounds 5 --seconds 2

Needs root: peers are installed, and servers start handlers as user nobody. What is
measured and how is told in docs/benchmarks.md, where `--write` puts the tables: of the
scenes that were run, each with its date and what superd it was; the others stay. The
machine is described by a run of all scenes.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

from between import BETWEEN
from install import install
from measure import Tree
from report import commit, has_room, machine_block, put, scene_block, solo_block
from rounds import Effort, clients_of, run_scene, tell
from scenes import LARGE, SMALL
from scenes import SCENES as DIRECT
from slow import slow
from solo import SOLOS
from stages import pipe

SCENES = (*DIRECT, *BETWEEN)
TABLES = {"httpd-slow": slow, "pipe": pipe, **SOLOS}
NAMES = [*(scene.name for scene in SCENES), *TABLES]
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
    if given.write:
        check_room([*given.scene, "machine"])
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
            parts = (time.strftime("%Y-%m-%d"), f"superd{commit()}", how)
            block = f"{', '.join(part for part in parts if part)}.\n\n{block}"
            print(f"\n## {scene}\n\n{block}", flush=True)
            if given.write:
                put(DOCUMENT, scene, block)
    machine = machine_block(versions, busy, is_exact=is_exact())
    print(f"\n## machine\n\n{machine}")
    if given.write and set(given.scene) == set(NAMES):
        put(DOCUMENT, "machine", machine)


def check_room(names: list[str]) -> None:
    """Say at once what the document has no place for, not after minutes of work."""
    missing = [name for name in names if not has_room(DOCUMENT, name)]
    if missing:
        raise SystemExit(f"{DOCUMENT}: no <!-- generated: NAME --> for {missing}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scene", action="append", choices=NAMES, help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load, a round")
    parser.add_argument("--clients", type=int, default=8, help="connections at once")
    parser.add_argument(
        "--write", action="store_true", help="put the tables into docs/benchmarks.md"
    )
    given = parser.parse_args()
    given.scene = given.scene or NAMES
    return given


def run(
    name: str, effort: Effort, programs: dict[str, str], folder: Path
) -> tuple[str, str]:
    """Run one scene; give its tables, and how much was done for them."""
    if name in TABLES:
        table = TABLES[name](effort, programs, folder)
        return solo_block(table), table.effort
    (scene,) = (scene for scene in SCENES if scene.name == name)
    block = scene_block(run_scene(scene, effort, programs, folder))
    return block, effort_text(effort, clients_of(scene, effort))


def furnish(folder: Path) -> None:
    """Put what handlers read where user nobody can read it."""
    folder.chmod(0o755)
    shutil.copy(ROOT / "bench" / "echo.py", folder / "echo.py")
    (folder / "www").mkdir()
    line = "".join(chr(ord("a") + number % 26) for number in range(63)) + "\n"
    (folder / "www" / SMALL).write_text(line * 16)
    (folder / "www" / LARGE).write_bytes(random.Random(1).randbytes(10 << 20))
    for path in (folder / "echo.py", *(folder / "www").iterdir()):
        path.chmod(0o644)


def effort_text(effort: Effort, clients: int) -> str:
    """Say how much was done."""
    rounds = f"{effort.rounds} rounds of {effort.seconds:g} s"
    return f"{rounds}, {clients} clients at once"


def is_exact() -> bool:
    """Try whether a control group can be had."""
    tree = Tree("try")
    exact = tree.is_exact
    tree.close()
    return exact


if __name__ == "__main__":
    main()
