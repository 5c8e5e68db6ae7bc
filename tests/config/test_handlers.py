"""Look at handlers without importing them."""

from __future__ import annotations

import os
import sys

import pytest

from superd.config.handlers import Handlers, find_source, read_source_of
from superd.config.problems import ConfigError, Problems


@pytest.fixture
def handlers():
    return Handlers(Problems())


def test_looking_imports_neither_the_module_nor_its_package(handlers):
    found = handlers.find("explosive")

    assert found.stream
    assert "probes" not in sys.modules
    assert "probes.explosive" not in sys.modules


def test_folders_of_the_package_are_those_one_must_search(handlers):
    found = handlers.find("strict")

    assert [os.path.basename(folder) for folder in found.folders] == ["probes"]


def test_registered_handler_of_ours_is_found(handlers):
    found = handlers.find("echo")

    assert (found.module, found.stream, found.datagram) == (
        "superd.handlers.echo",
        True,
        True,
    )
    assert found.options == {}


@pytest.mark.parametrize(
    ("name", "stream", "loop", "datagram"),
    [
        ("strict", True, False, False),
        ("both", True, True, True),
        ("looping", False, True, False),
        ("plain", True, False, False),
        ("datagrams", False, False, True),
    ],
)
def test_what_a_handler_serves_is_seen(handlers, name, stream, loop, datagram):
    found = handlers.find(name)

    assert (found.stream, found.loop, found.datagram) == (stream, loop, datagram)


def test_options_that_are_no_literal_are_not_known(handlers):
    assert handlers.find("loose").options is None


@pytest.mark.parametrize(
    "text",
    ["def main(argv:", "\0", "(" * 5000, "x = " + "-" * 100_000 + "1", "'''"],
)
def test_module_that_is_no_python_is_told(tmp_path, text):
    path = tmp_path / "x.py"
    path.write_text(text)

    with pytest.raises(ConfigError, match="no valid Python"):
        read_source_of("x", str(path))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("def main(argv): ...", {"main"}),
        ("from y import main, other as datagram", {"main", "datagram"}),
        ("main = print", {"main"}),
        ("try:\n    import main\nexcept ImportError:\n    pass", {"main"}),
        (
            "if True:\n    def main(): ...\nelse:\n    def datagram(): ...",
            {"main", "datagram"},
        ),
        ("class A:\n    def main(self): ...", set()),
        ("async def serve(reader, writer, options): ...", {"serve"}),
        ("def serve(options): ...", set()),
        ("from y import serve", {"serve"}),
        ("from y import other as serve", {"serve"}),
        ("serve = make()", {"serve"}),
        ("if True:\n    async def serve(r, w, o): ...", {"serve"}),
        ("class A:\n    async def serve(self): ...", set()),
        ("def main(argv):\n    async def serve(): ...", {"main"}),
    ],
)
def test_names_of_the_top_level_are_seen(tmp_path, text, names):
    path = tmp_path / "x.py"
    path.write_text(text)

    assert read_source_of("x", str(path))[0] == names


@pytest.mark.parametrize(
    "module", ["sys", "nosuch", "json.nosuch", "os.path.x", "", "a..b"]
)
def test_module_without_a_source_is_told(module):
    with pytest.raises(ConfigError, match=r"is not found|no Python source"):
        find_source(module)


def test_annotated_options_are_read(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        'OPTIONS: dict[str, object] = {"a": {"type": "int", "default": 1}}\n'
    )

    assert read_source_of("x", str(path))[1] == {"a": {"type": "int", "default": 1}}
