"""The flags of a handler: what is taken, and what is said of the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.exits import SetupError
from superd.handlers.options import HelpWanted, flag_of, parse, usage

TABLE = {
    "root": {"type": "path", "default": ".", "help": "folder to serve"},
    "index": {"type": "list", "default": ["index.html"], "help": "names"},
    "max_names": {"type": "int", "default": 1, "min": 1, "max": 3, "help": "names"},
    "time": {"type": "float", "default": 1.5, "min": 0.0, "help": "seconds"},
    "list": {"type": "bool", "default": False, "help": "answer"},
    "via": {"type": "choice", "choices": ["a", "b"], "default": "a", "help": "way"},
    "title": {"type": "str", "default": "", "help": "text"},
}


def read(*argv):
    return parse(argv, TABLE, "demo")


def test_without_flags_every_option_has_its_default():
    assert read() == {
        "root": ".",
        "index": ["index.html"],
        "max_names": 1,
        "time": 1.5,
        "list": False,
        "via": "a",
        "title": "",
    }


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--root", "/srv"], "root", "/srv"),
        (["--root=/srv"], "root", "/srv"),
        (["--root="], "root", ""),
        (["--root", "--list"], "root", "--list"),
        (["--title=a=b"], "title", "a=b"),
        (["--max-names", "3"], "max_names", 3),
        (["--time", "0.25"], "time", 0.25),
        (["--list"], "list", True),
        (["--no-list"], "list", False),
        (["--list", "--no-list"], "list", False),
        (["--list=true"], "list", True),
        (["--list=no"], "list", False),
        (["--via", "b"], "via", "b"),
        (["--index", "a"], "index", ["a"]),
        (["--index", "a", "--index=b"], "index", ["a", "b"]),
    ],
)
def test_a_flag_sets_its_option(argv, key, value):
    assert read(*argv)[key] == value


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--rooot", "x"], "unknown option --rooot; did you mean --root?"),
        (["--zzzzzz"], "unknown option --zzzzzz"),
        (["--max_names", "1"], "unknown option --max_names; did you mean --max-names?"),
        (["--no-root"], "unknown option --no-root"),
        (["--root"], "option --root needs a value"),
        (["x"], "unexpected argument x"),
        (["-l"], "unexpected argument -l"),
        (["--"], "unexpected argument --"),
        (["--max-names", "0"], "option --max-names: 0 is less than 1"),
        (["--max-names", "4"], "option --max-names: 4 is more than 3"),
        (["--max-names", "1_0"], "option --max-names: 1_0 is no whole number"),
        (["--max-names", "+1"], "option --max-names: +1 is no whole number"),
        (["--max-names", "٣"], "option --max-names: ٣ is no whole number"),
        (["--max-names", "-"], "option --max-names: - is no whole number"),
        (["--time", "soon"], "option --time: soon is no number"),
        (["--time", "nan"], "option --time: nan is no finite number"),
        (["--time", "-1"], "option --time: -1.0 is less than 0.0"),
        (["--via", "c"], "option --via: c is none of a, b"),
        (["--list=maybe"], "option --list: maybe is neither true nor false"),
        (["--no-list=true"], "option --no-list takes no value"),
        (["--root", "a\0b"], "option --root: a NUL byte is no text"),
    ],
)
def test_a_bad_flag_is_named_with_what_is_wrong(argv, problem):
    with pytest.raises(SetupError) as caught:
        read(*argv)
    assert str(caught.value) == problem


def test_the_table_is_not_changed_by_what_was_given():
    read("--index", "a")["index"].append("b")
    read()["index"].append("c")
    assert read()["index"] == ["index.html"]


def test_help_names_every_flag_and_its_default():
    with pytest.raises(HelpWanted) as caught:
        read("--list", "--help")
    text = str(caught.value)
    assert text == usage(TABLE, "demo")
    for flag in map(flag_of, TABLE):
        assert flag in text
    assert "--list, --no-list" in text
    assert "--via a|b" in text
    assert "(default: index.html)" in text


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_arguments_give_options_or_a_reason(argv):
    try:
        options = read(*argv)
    except (SetupError, HelpWanted):
        return
    assert set(options) == set(TABLE)


NESTED = {
    "wait": {"type": "duration", "default": 5.0, "min": 0.5, "help": "time"},
    "room": {"type": "size", "default": 1024, "max": 65536, "help": "bytes"},
    "marks": {"type": "map", "lone": "*", "default": [["*", "x"]], "help": "pairs"},
    "fields": {"type": "map", "default": [], "help": "pairs"},
    "log": {
        "type": "table",
        "lone": "form",
        "keys": {
            "form": {
                "type": "choice",
                "choices": ["a", "b"],
                "default": "a",
                "help": "",
            },
            "idle_time": {"type": "duration", "default": 1.0, "help": "time"},
            "open": {"type": "bool", "default": True, "help": "switch"},
        },
        "help": "further options",
    },
}


@pytest.mark.parametrize(
    ("argv", "changes"),
    [
        ([], {}),
        (["--wait", "0.5"], {"wait": 0.5}),
        (["--room=65536"], {"room": 65536}),
        (["--marks", "*.css: a: b"], {"marks": [("*.css", "a: b")]}),
        (["--marks", "a"], {"marks": [("*", "a")]}),
        (
            ["--fields", "a: b", "--fields", "a: c"],
            {"fields": [("a", "b"), ("a", "c")]},
        ),
        (["--log", "b"], {"log": {"form": "b", "idle_time": 1.0, "open": True}}),
        (
            ["--log.idle-time=2", "--no-log.open"],
            {"log": {"form": "a", "idle_time": 2.0, "open": False}},
        ),
    ],
)
def test_options_below_a_name_and_pairs_have_their_flags(argv, changes):
    before = {
        "wait": 5.0,
        "room": 1024,
        "marks": [["*", "x"]],
        "fields": [],
        "log": {"form": "a", "idle_time": 1.0, "open": True},
    }
    assert parse(argv, NESTED, "demo") == before | changes
    assert parse([], NESTED, "demo") == before


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--wait", "0.4"], "option --wait: 0.4 is less than 0.5"),
        (["--wait", "5s"], "option --wait: 5s is no number"),
        (["--room", "65537"], "option --room: 65537 is more than 65536"),
        (["--room", "-1"], "option --room: -1 is less than 0"),
        (["--room", "64k"], "option --room: 64k is no whole number"),
        (["--fields", "a"], "option --fields: a is not KEY: VALUE"),
        (["--fields", ": a"], "option --fields: : a is not KEY: VALUE"),
        (["--fields", "a: \0"], "option --fields: a NUL byte is no text"),
        (["--log.idle-time", "-1"], "option --log.idle-time: -1.0 is less than 0"),
        (["--log.from", "a"], "unknown option --log.from; did you mean --log.form?"),
        (["--log", "c"], "option --log: c is none of a, b"),
        (["--no-log"], "unknown option --no-log"),
    ],
)
def test_what_such_a_flag_cannot_be_is_said(argv, text):
    with pytest.raises(SetupError) as caught:
        parse(argv, NESTED, "demo")
    assert text in str(caught.value)


def test_the_usage_shows_what_is_below_a_name():
    text = usage(NESTED, "demo")
    for line in (
        "  --wait SECONDS\n      time (default: 5.0)\n",
        "  --room BYTES\n",
        "  --marks 'KEY: VALUE'\n      pairs (default: *: x)\n",
        "  --log.NAME: further options\n",
        "  --log.idle-time SECONDS\n",
        "  --log.open, --no-log.open\n",
    ):
        assert line in text


def test_what_a_handler_does_to_its_options_is_not_in_the_next_ones():
    argv = ["--fields", "a: b", "--log.open"]
    for _ in range(2):
        options = parse(argv, NESTED, "demo")
        assert options["fields"] == [("a", "b")]
        assert options["log"]["open"]
        options["fields"].append(("c", "d"))
        options["log"]["open"] = options["wait"] = False
    assert parse(["--fields", "a: b"], NESTED, "demo")["wait"] == 5.0
