"""The rules of superd/README.md, read from the source: who may import what, and the rest.

Every rule is a function of source text, so that each can be shown a text that breaks it.
"""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
from typing import NamedTuple

import pytest

from superd.core.verbs import VERBS

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAX_LINES = 450
MEDIAN_LINES = 220
MASTER_RSS_KIB = 16 * 1024

CORE_STDLIB = {
    "__future__",
    "collections",
    "enum",
    "heapq",
    "ipaddress",
    "typing",
}
SYSTEM_STDLIB = {
    "__future__",
    "array",
    "collections",
    "contextlib",
    "errno",
    "fcntl",
    "gc",
    "heapq",
    "importlib",
    "json",
    "os",
    "re",
    "resource",
    "select",
    "selectors",
    "signal",
    "socket",
    "stat",
    "struct",
    "sys",
    "termios",
    "time",
    "traceback",
    "typing",
}
"""What the long-lived processes may load: no threads, no asyncio, no logging."""

HEAVY = {
    "asyncio",
    "dataclasses",
    "email",
    "http",
    "logging",
    "multiprocessing",
    "pydantic",
    "ssl",
    "subprocess",
    "threading",
    "yaml",
}


class Room(NamedTuple):
    """What the files of one folder may import; None: all of the standard library."""

    ours: tuple[str, ...]
    stdlib: set[str] | None
    others: tuple[str, ...] = ()


ROOMS = {
    "core": Room(("superd.core",), CORE_STDLIB),
    "config": Room(("superd.config", "superd.core"), None, ("yaml", "pydantic")),
    "master": Room(("superd.master", "superd.core"), SYSTEM_STDLIB),
    "launcher": Room(
        ("superd.launcher", "superd.core", "superd.streams"), SYSTEM_STDLIB
    ),
    "handlers": Room(("superd.handlers", "superd.streams"), None, ("httptools",)),
    "streams": Room(("superd.streams",), SYSTEM_STDLIB | {"asyncio", "types"}),
    "pipe": Room(("superd.pipe", "superd.handlers"), None),
}

EXCEPTIONS = {
    # A command that only documentation runs; nothing imports it (see below).
    "superd/core/reference.py": {"argparse", "ast", "inspect", "itertools", "sys"},
    "superd/master/detach.py": {"daemon"},
    # Loaded by the half of a launcher that executes the other one (see below).
    "superd/launcher/capabilities.py": {"ctypes"},
    # Of a worker alone, which is another process: what it needs more than a launcher.
    "superd/launcher/ledger.py": {"mmap"},
    "superd/launcher/pristine.py": {"io"},
    "superd/launcher/loop_status.py": {"asyncio"},
    "superd/launcher/loop_ends.py": {"asyncio"},
    "superd/launcher/looping.py": {"asyncio", "selectors"},
    # The compile child is another program: only its version is asked for.
    "superd/config/compile.py": {"superd.__version__"},
}


class File(NamedTuple):
    """One file: its path from the root, and what is in it."""

    path: str
    text: str


def files(folder: str) -> list[File]:
    found = []
    for where, folders, names in os.walk(os.path.join(ROOT, folder)):
        folders[:] = [one for one in folders if not one.startswith(("__", "."))]
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(where, name)
                with open(path, encoding="utf-8") as file:
                    found.append(File(os.path.relpath(path, ROOT), file.read()))
    return sorted(found)


SOURCE = files("superd")
TESTS = files("tests")
ids = lambda file: file.path  # noqa: E731


def imports(text: str) -> set[str]:
    """List every module that a source text imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room"
            if node.module == "superd" or str(node.module).count(".") == 0:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            else:
                found.add(str(node.module))
    return found


def trespasses(file: File) -> list[str]:
    """Name the imports that a file's room does not allow."""
    parts = file.path.split("/")
    room = ROOMS.get(parts[1])
    if room is None:  # superd/__main__.py: the way in, of the master
        room = Room(("superd",), SYSTEM_STDLIB | {"argparse", "shutil"})
    allowed = EXCEPTIONS.get(file.path, set())
    bad = []
    for name in imports(file.text):
        top = name.partition(".")[0]
        if name in allowed or top in allowed or top in room.others:
            continue
        if top == "superd":
            if any(f"{name}.".startswith(f"{one}.") for one in room.ours):
                continue
        elif top in sys.stdlib_module_names and (
            room.stdlib is None or top in room.stdlib
        ):
            continue
        bad.append(name)
    return sorted(bad)


@pytest.mark.parametrize("file", SOURCE, ids=ids)
def test_a_file_imports_only_what_its_room_allows(file):
    assert trespasses(file) == []


@pytest.mark.parametrize(
    ("path", "text", "bad"),
    [
        ("superd/core/x.py", "import time", ["time"]),
        ("superd/core/x.py", "from os import path", ["os.path"]),
        ("superd/core/x.py", "import argparse", ["argparse"]),
        ("superd/core/x.py", "def f():\n    import random", ["random"]),
        ("superd/core/x.py", "from superd.master import loop", ["superd.master"]),
        ("superd/core/x.py", "from superd import master", ["superd.master"]),
        ("superd/core/x.py", "import superd.corelike", ["superd.corelike"]),
        (
            "superd/config/x.py",
            "from superd.master.loop import L",
            ["superd.master.loop"],
        ),
        ("superd/config/x.py", "import daemon", ["daemon"]),
        ("superd/master/x.py", "import yaml", ["yaml"]),
        ("superd/master/x.py", "import threading", ["threading"]),
        ("superd/master/x.py", "from superd.config import model", ["superd.config"]),
        (
            "superd/master/x.py",
            "import superd.launcher.serve",
            ["superd.launcher.serve"],
        ),
        ("superd/master/x.py", "import daemon", ["daemon"]),
        (
            "superd/launcher/x.py",
            "import superd.handlers.echo",
            ["superd.handlers.echo"],
        ),
        ("superd/launcher/x.py", "import logging", ["logging"]),
        ("superd/handlers/x.py", "from superd.core import source", ["superd.core"]),
        ("superd/handlers/x.py", "import pydantic", ["pydantic"]),
        ("superd/pipe/x.py", "from superd.core import source", ["superd.core"]),
        ("superd/pipe/x.py", "import httptools", ["httptools"]),
        ("superd/handlers/x.py", "import superd.pipe.run", ["superd.pipe.run"]),
        ("superd/__main__.py", "import asyncio", ["asyncio"]),
    ],
)
def test_a_trespass_is_seen(path, text, bad):
    assert trespasses(File(path, text)) == bad


def test_nothing_imports_the_command_that_the_core_has():
    for file in SOURCE:
        assert not any(
            name.startswith("superd.core.reference") for name in imports(file.text)
        ), file.path
        assert not re.search(r"superd\.core import .*\breference\b", file.text)


def calls(text: str) -> set[str]:
    """List the names of builtins and functions that a text calls."""
    return {
        node.func.id
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


IMPURE = {"open", "print", "input", "exec", "eval", "__import__", "globals"}


@pytest.mark.parametrize(
    "file", [one for one in SOURCE if one.path.startswith("superd/core/")], ids=ids
)
def test_the_core_reads_and_writes_nothing(file):
    if file.path not in EXCEPTIONS:
        assert not calls(file.text) & IMPURE


def test_an_impure_call_is_seen():
    assert calls("def f():\n    print(open('x'))") & IMPURE == {"print", "open"}


# -- what really gets loaded ----------------------------------------------------------


def loaded_by(module: str) -> tuple[set[str], int]:
    """Import a module in a fresh interpreter; returns its modules and its RSS in KiB."""
    code = (
        f"import sys; sys.path.insert(0, {ROOT!r}); import {module}\n"
        "print(*sys.modules)\n"
        "status = open('/proc/self/status').read()\n"
        "print(status.partition('VmRSS:')[2].split()[0])"
    )
    # With site-packages, so that a forbidden import is found and not merely missing.
    paths = [path for path in sys.path if path.endswith("site-packages")]
    code = f"import sys; sys.path += {paths!r}\n{code}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    modules, rss = done.stdout.splitlines()
    return set(modules.split()), int(rss)


def test_the_master_loads_nothing_heavy():
    modules, rss = loaded_by("superd.__main__")
    assert sorted(modules & HEAVY) == []
    assert {name for name in modules if name.startswith("superd.config")} == set()
    assert rss <= MASTER_RSS_KIB, f"{rss} KiB"


@pytest.mark.parametrize("module", ["superd.launcher.serve", "superd.launcher.become"])
def test_a_launcher_loads_nothing_heavy(module):
    modules, _ = loaded_by(module)
    heavy = HEAVY | {"argparse", "ctypes", "superd.core.supervisor"}
    assert sorted(modules & heavy) == []
    assert {name for name in modules if name.startswith("superd.master")} == set()


def test_the_core_loads_only_itself():
    modules, _ = loaded_by("superd.core.supervisor")
    ours = {name for name in modules if name.startswith("superd.")}
    assert all(name.startswith("superd.core") for name in ours), ours
    assert not modules & {*HEAVY, "socket", "random", "selectors", "argparse"}


def test_a_heavy_module_is_seen():
    modules, _ = loaded_by("logging.handlers")
    assert modules & HEAVY >= {"logging", "threading"}


# -- the shape of files ---------------------------------------------------------------


def length(file: File) -> int:
    return len(file.text.splitlines())


@pytest.mark.parametrize("file", SOURCE, ids=ids)
def test_a_file_past_450_lines_is_two_files(file):
    assert length(file) <= MAX_LINES


def test_the_usual_file_is_short():
    lengths = [length(file) for file in SOURCE if length(file) > 3]
    assert statistics.median(lengths) <= MEDIAN_LINES


NO_ROOM = {"utils", "util", "common", "helpers", "misc"}


def test_no_file_is_a_drawer():
    names = {
        os.path.basename(file.path).removesuffix(".py") for file in [*SOURCE, *TESTS]
    }
    assert not names & NO_ROOM


def heading_problem(text: str) -> str:
    """Say what is wrong with a module's docstring, if anything is."""
    heading = ast.get_docstring(ast.parse(text))
    if not heading:
        return "no docstring"
    first, *rest = heading.split("\n")
    if rest and rest[0]:
        return "the first line is not alone"
    begins = first[0].isupper() or first.startswith("superd")
    if not begins or not first.endswith((".", ":")):
        return "the first line is no sentence"
    return ""


@pytest.mark.parametrize("file", SOURCE, ids=ids)
def test_a_file_says_what_it_does(file):
    assert heading_problem(file.text) == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import os\n", "no docstring"),
        ('"""Do this\nand that."""', "the first line is not alone"),
        ('"""Do this"""', "the first line is no sentence"),
        ('"""do this."""', "the first line is no sentence"),
        ('"""Do this."""', ""),
    ],
)
def test_a_bad_heading_is_seen(text, problem):
    assert heading_problem(text) == problem


MARKS = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b(?!\(#\d+\))")


SLEEPERS = {
    # States of /proc that no descriptor announces, up to a deadline.
    "tests/inetd.py": 1,
    # A program of its own in a container: the same, and one watchdog period.
    "tests/system/in_the_box.py": 2,
}
"""How often a file may sleep, and why."""


def forbidden(text: str, *, test: bool) -> list[str]:
    """List what no file (or no test) of ours may say."""
    found = MARKS.findall(text)
    if test:
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                spelt = ast.unparse(node.func)
                if spelt == "time.sleep" or re.match(
                    r"(unittest\.)?mock\.patch", spelt
                ):
                    found.append(spelt)
            if isinstance(node, ast.ImportFrom | ast.Import):
                module = getattr(node, "module", None) or ""
                found += [
                    f"{module}.{one.name}".strip(".")
                    for one in node.names
                    if "mock" in f"{module}.{one.name}".split(".")
                    or (module, one.name) == ("time", "sleep")
                ]
    return found


@pytest.mark.parametrize("file", SOURCE, ids=ids)
def test_a_file_leaves_nothing_for_later(file):
    assert forbidden(file.text, test=False) == []


@pytest.mark.parametrize("file", TESTS, ids=ids)
def test_a_test_neither_sleeps_nor_patches(file):
    found = forbidden(file.text, test=True)
    assert found == ["time.sleep"] * SLEEPERS.get(file.path, 0)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# TO" + "DO: later", ["TO" + "DO"]),
        ("# TO" + "DO(#12): later", []),
        ("import time\ntime.sleep(1)", ["time.sleep"]),
        ("from time import sleep", ["time.sleep"]),
        ("mock.patch('x')", ["mock.patch"]),
        ("mock.patch.object(x, 'y')", ["mock.patch.object"]),
        ("from unittest import mock", ["unittest.mock"]),
        ("from unittest.mock import patch", ["unittest.mock.patch"]),
        ("select.poll().poll(5)", []),
    ],
)
def test_what_is_forbidden_is_seen(text, found):
    assert forbidden(text, test=True) == found


def wrong_names(text: str) -> list[str]:
    """List test functions whose name is not test_ and words."""
    return [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
        and node.name.lower().startswith("test")
        and not re.fullmatch(r"test(_[a-z0-9]+)+", node.name)
    ]


@pytest.mark.parametrize("file", TESTS, ids=ids)
def test_the_name_of_a_test_is_a_sentence(file):
    assert wrong_names(file.text) == []


def test_a_name_that_is_no_sentence_is_seen():
    text = "def testThing(): ...\ndef test(): ...\ndef test_a_thing_works(): ..."
    assert wrong_names(text) == ["testThing", "test"]


# -- the words of the log -------------------------------------------------------------

LEVELS = {"debug", "info", "warning", "error"}


def log_calls(text: str) -> list[tuple[str, ...]]:
    """List (level, verb, ...) of every log call whose level or verb is a literal."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        name = ast.unparse(node.func)
        if not name.endswith(("log.write", "_log", "_write", "Log")):
            continue
        levels, verbs = literals(node.args[0]), literals(node.args[1])
        if levels:
            found.append((*levels, "|", *verbs))
    return found


def literals(node: ast.expr) -> list[str]:
    """List the strings that an expression can be, as far as it is written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return [*literals(node.body), *literals(node.orelse)]
    return []


def strange_words(text: str) -> list[str]:
    """List levels and verbs of the log that are in no table."""
    strange = []
    for call in log_calls(text):
        levels, verbs = call[: call.index("|")], call[call.index("|") + 1 :]
        strange += [level for level in levels if level not in LEVELS]
        strange += [verb for verb in verbs if verb not in VERBS]
        if not verbs:
            strange.append("a verb that is not written there")
    return strange


@pytest.mark.parametrize("file", SOURCE, ids=ids)
def test_the_log_uses_only_verbs_of_the_table(file):
    assert strange_words(file.text) == []


def test_every_verb_of_the_table_is_used():
    used = {word for file in SOURCE for call in log_calls(file.text) for word in call}
    assert set(VERBS) <= used


@pytest.mark.parametrize(
    ("text", "strange"),
    [
        ("self._log('info', 'acept', ('a', 1))", ["acept"]),
        ("self._log('notice', 'accept')", ["notice"]),
        ("log.write('info', 'denied', ())", ["denied"]),
        ("self.log.write('info', 'x' if y else 'stop')", ["x"]),
        ("cmd.Log('info', 'paused', ())", ["paused"]),
        ("self._log('info', verb)", ["a verb that is not written there"]),
        ("self._log('debug' if x else 'error', 'reap')", []),
    ],
)
def test_a_strange_word_in_the_log_is_seen(text, strange):
    assert strange_words(text) == strange


def test_every_verb_has_a_meaning_of_one_line():
    for verb, meaning in VERBS.items():
        assert re.fullmatch(r"[a-z]+", verb)
        assert meaning
        assert "\n" not in meaning
    assert list(VERBS) == sorted(VERBS)
