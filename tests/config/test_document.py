"""Read YAML with the places of everything in it."""

from __future__ import annotations

import pytest

from superd.config.document import MOST_LEVELS, read_document
from superd.config.loaders import LOADER, PYTHON_LOADER
from superd.config.problems import Problems
from superd.config.scalars import resolve
from superd.config.source import Source

TRAPS = """
    no yes on off y n NO 0755 +5 1_000 22:22 1:2:3 2024-01-01 2024-13-45 1e3 .5 5.
    .inf .nan 0b1 1,000 1.2.3.4 << = 0o8 0xg - -- ٣ nUll tRue
"""


@pytest.fixture(params=[LOADER, PYTHON_LOADER], ids=["libyaml", "python"])
def read(request):
    """Read a text with one of the parsers: the document and its error lines."""

    def read_text(text):
        problems = Problems()
        document = read_document(Source("x", "/x", text), problems, request.param)
        return document, problems.error_lines()

    return read_text


def test_every_key_and_value_has_its_place(read):
    document, lines = read("a:\n  b: [1, {c: d}]\n")

    assert lines == []
    assert str(document.keys["a", "b"]) == "x:2:3"
    assert str(document.values["a", "b"]) == "x:2:6"
    assert str(document.values["a", "b", 0]) == "x:2:7"
    assert str(document.keys["a", "b", 1, "c"]) == "x:2:11"
    assert str(document.values["a", "b", 1, "c"]) == "x:2:14"


def test_place_of_what_is_not_there_is_that_of_what_is_around_it(read):
    document, _ = read("a:\n  b: 1\n")

    assert str(document.value_place(("a", "z", "y"))) == "x:1:1"
    assert str(document.value_place(("z",))) == "x:1:1"


def test_keys_are_text_however_they_look(read):
    document, _ = read("{1: a, true: b, null: c, on: d, 0x1F: e}")

    assert document.data == {"1": "a", "true": "b", "null": "c", "on": "d", "0x1F": "e"}


def test_written_text_of_a_number_is_kept(read):
    document, _ = read("a: [1.50, 0x10, 007]")

    assert document.data == {"a": [1.5, 16, "007"]}
    assert document.texts["a", 0] == "1.50"
    assert document.texts["a", 1] == "0x10"


def test_spoiled_value_spoils_what_is_below_it_only(read):
    document, lines = read("a: &x {b: 1}\nc: 2\n")

    assert len(lines) == 1
    assert document.is_spoiled(("a", "b"))
    assert not document.is_spoiled(("c",))


def test_32_levels_are_read_and_33_are_not(read):
    fits = "a: " + "[" * (MOST_LEVELS - 1) + "]" * (MOST_LEVELS - 1)
    deeper = "a: " + "[" * MOST_LEVELS + "]" * MOST_LEVELS

    assert read(fits)[1] == []
    assert read(deeper)[1] == ["x:1:35: a: more than 32 levels deep"]


@pytest.mark.parametrize(
    "text", ["[" * 500_000, "a:\n" + "- " * 300_000, "{a: " * 9000]
)
def test_bottomless_file_is_told_at_once(read, text):
    _, lines = read(text)

    assert len(lines) == 1
    assert "32 levels" in lines[0]


def test_alias_bomb_is_refused_without_growing(read):
    text = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
    )
    document, lines = read(text)

    assert len(lines) == 30 + 29 * 9
    assert document.data["a29"] == [None] * 9


def test_merge_bomb_is_refused_without_growing(read):
    text = "a0: &a0 {k: v}\n" + "".join(
        f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 30)
    )

    assert any("merge keys are not read" in line for line in read(text)[1])


def test_first_of_two_equal_keys_counts_and_the_second_is_not_looked_into(read):
    document, lines = read("a: 1\na: {b: *c}\n")

    assert document.data == {"a": 1}
    assert lines[0] == (
        "x:2:1: a: written twice; the first one is at x:1:1, delete one of them"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("0", 0),
        ("-17", -17),
        ("0o17", 15),
        ("0xfF", 255),
        ("1.50", 1.5),
        ("-0.5", -0.5),
    ],
)
def test_word_of_the_core_schema_means_a_value(text, value):
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    TRAPS.split(),
)
def test_trap_of_yaml_1_1_is_plain_text(text):
    assert resolve(text) == text
