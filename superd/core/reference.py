"""Write the tables of the core into the documents: states, exits, reasons, verbs.

A document holds a pair of comments, `<!-- generated: NAME -->` and `<!-- end -->`; what is
between them is made here from the tables that the code runs on. `--check` is what a test
and CI ask: it changes nothing and exits 1 where a document is behind the code.

The one file of this room that reads and writes: it is a command, nothing imports it.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

from superd.core import admission, exitcodes, lifecycle
from superd.core.verbs import VERBS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

END = "<!-- end -->"

EFFECTS = {
    "success": "the service is proven; its failures are forgotten",
    "plain": "counts as a failure until the service's first success",
    "peer": "nothing: not the handler's fault",
    "throttle": "the service is throttled at once",
}


def states() -> str:
    """Draw the life cycle: every line one step of lifecycle.TRANSITIONS."""
    rows = [
        (f"`{state.value}`", f"{by.value}", f"`{to.value}`")
        for state, steps in lifecycle.TRANSITIONS.items()
        for by, to in steps.items()
    ]
    diagram = [
        "```mermaid",
        "stateDiagram-v2",
        f"    [*] --> {next(iter(lifecycle.State)).value}",
        *(
            f"    {state.value} --> {to.value}: {by.value}"
            for state, steps in lifecycle.TRANSITIONS.items()
            for by, to in steps.items()
        ),
        *(
            f"    {state.value} --> [*]"
            for state, steps in lifecycle.TRANSITIONS.items()
            if not steps
        ),
        "```",
    ]
    return "\n".join(
        [*_table(("state", "what happens", "next state"), rows), "", *diagram]
    )


def exits() -> str:
    """List what a handler's exit status says and what superd does about it."""
    rows = [
        (str(row.status), row.name, row.sentence, EFFECTS[row.effect])
        for row in exitcodes.TABLE
    ]
    signals = ", ".join(exitcodes.NO_FAULT.values())
    rows.append(("any other", "", "a failure of the handler", EFFECTS["plain"]))
    rows.append((signals, "", "the peer went, or superd ended it", EFFECTS["peer"]))
    rows.append(("any other signal", "", "the handler crashed", EFFECTS["plain"]))
    return "\n".join(_table(("status", "name", "it says", "superd"), rows))


def reasons() -> str:
    """List why a connection is refused: admission.Reason and its docstrings."""
    tree = ast.parse(inspect.getsource(admission.Reason))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    rows = []
    for statement, after in pairwise(body):
        if isinstance(statement, ast.Assign) and isinstance(after, ast.Expr):
            value = ast.literal_eval(statement.value)
            rows.append((f"`{value}`", ast.literal_eval(after.value)))
    if len(rows) != len(admission.Reason):
        raise ValueError("a Reason without a docstring")
    return "\n".join(_table(("reason", "when"), rows))


def verbs() -> str:
    """List the verbs of the log."""
    rows = [(f"`{verb}`", meaning) for verb, meaning in VERBS.items()]
    return "\n".join(_table(("verb", "what has happened"), rows))


BLOCKS: dict[str, Callable[[], str]] = {
    "states": states,
    "exits": exits,
    "reasons": reasons,
    "verbs": verbs,
}


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def renew(text: str) -> str:
    """Give a document with its blocks made anew; ValueError for one we cannot make."""
    pieces = text.split("<!-- generated: ")
    out = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition(" -->")
        _, end, after = rest.partition(END)
        if name not in BLOCKS:
            raise ValueError(f"no such block: {name}; there are {', '.join(BLOCKS)}")
        if not end:
            raise ValueError(f"the block {name} has no {END}")
        out.append(f"<!-- generated: {name} -->\n\n{BLOCKS[name]()}\n\n{END}{after}")
    return "".join(out)


def main(argv: list[str] | None = None) -> int:
    """Write or check each document; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m superd.core.reference")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument(
        "--write", action="store_true", help="bring the blocks up to date"
    )
    mode.add_argument("--check", action="store_true", help="exit 1 where one is behind")
    parser.add_argument("files", nargs="+", metavar="FILE")
    arguments = parser.parse_args(argv)
    stale = 0
    for path in arguments.files:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        try:
            new = renew(text)
        except ValueError as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
        if new == text:
            continue
        if arguments.check:
            print(f"{path}: behind the code; --write brings it up to date")
            stale = 1
        else:
            with open(path, "w", encoding="utf-8") as file:
                file.write(new)
    return stale


if __name__ == "__main__":
    sys.exit(main())
