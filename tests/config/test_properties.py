"""Throw text at the compiler: whatever comes, it answers with clean lines."""

from __future__ import annotations

import os
import re

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from superd.config.compile import compile_data
from superd.config.document import read_document
from superd.config.dump import dump_configuration
from superd.config.identity import Situation
from superd.config.listen import HIGHEST_PORT, parse_listen
from superd.config.loaders import LOADER, PYTHON_LOADER
from superd.config.model import Service
from superd.config.problems import ConfigError, Problems
from superd.config.source import Source, UnreadableError, decode
from superd.config.units import (
    LARGEST,
    format_duration,
    format_size,
    format_umask,
    parse_duration,
    parse_size,
    parse_umask,
)

HERE = os.path.dirname(os.path.abspath(__file__))
ORDINARY = Situation(root=False, check=True)
RELAXED = settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
    ],
)


def good(name):
    """A file of the corpus that is right."""
    with open(os.path.join(HERE, "good", name), encoding="utf-8") as file:
        return file.read()


GOOD = [good("everything-set.yaml"), good("modes.yaml")]

PIECES = [
    *[
        ":",
        "-",
        ",",
        "[",
        "]",
        "{",
        "}",
        "#",
        "&",
        "*",
        "!",
        "|",
        ">",
        "'",
        '"',
        "%",
        "@",
        "`",
        "?",
        "~",
        "=",
        "<<",
    ],
    *(
        "\n",
        "\n  ",
        "\n    ",
        " ",
        "\t",
        "\r\n",
        "---\n",
        "...\n",
        "\\",
        "\0",
        "é",
        "\x85",
    ),
    *("mode: ", "pool", "loop", "wait", "workers: 2", "max_workers: ", "requests: "),
    *("services:", "listen:", "exec:", "x", "null", "true", "no", "0x1F", "1_0", "5s"),
    *("::1", "[::1]:80", "*:80", ":80", "&a ", "*a", "!!str ", "? ", "- ", '"\\ud800"'),
    *('"\\U00110000"', "|\n", ">-\n", "|9\n", "%TAG ! x\n", "1" * 50, "127.0.0.1:7"),
]
YAMLISH = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
PLACE = re.compile(r"x\.yaml:[0-9]+:[0-9]+: ")
PYDANTIC = re.compile(
    r"Input should|Extra inputs|Field required|valid dictionary|Value error"
)


def problems_of(text):
    """The lines about a text, and what was read."""
    problems = Problems()
    document = read_document(Source("x.yaml", "/x.yaml", text), problems)
    return document, problems.error_lines()


def assert_clean(lines):
    """Each line has a place and says something of its own, in one line."""
    for line in lines:
        assert PLACE.match(line), line
        assert line.isprintable(), line
        assert not PYDANTIC.search(line), line


@RELAXED
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_told(compiled, data):
    result = compiled(data)

    assert result.plan is not None or result.problems.errors
    assert_clean(result.problems.error_lines())


@RELAXED
@given(YAMLISH)
def test_any_text_that_looks_like_yaml_is_read_or_told(compiled, text):
    result = compiled(text)

    assert result.plan is not None or result.problems.errors
    assert_clean(result.problems.error_lines())


@RELAXED
@given(
    st.sampled_from(GOOD), st.floats(0, 1), st.integers(0, 12), st.sampled_from(PIECES)
)
def test_a_good_file_with_one_change_is_read_or_told(
    compiled, text, part, length, piece
):
    at = int(part * len(text))
    result = compiled(text[:at] + piece + text[at + length :])

    assert result.plan is not None or result.problems.errors
    assert_clean(result.problems.error_lines())


def told(parse, *arguments):
    """The text with which something is refused, empty where it is not."""
    try:
        parse(*arguments)
    except ConfigError as error:
        return str(error)
    return ""


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["localhost:7007", "/bin/cat", "5s", "1M", "both", "strict", "pool", "loop"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from([*Service.model_fields, "frobnicate"])
NAME = st.text(max_size=4)
SERVICE = st.dictionaries(KEYS, ANYTHING, max_size=6)


@RELAXED
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "services": st.dictionaries(
                st.text(max_size=4), SERVICE | ANYTHING, max_size=3
            ),
            "defaults": SERVICE | ANYTHING,
            "log": ANYTHING,
            "include": st.none() | st.integers() | st.just([]),
        },
    )
)
def test_any_data_of_the_command_line_is_planned_or_told(data):
    result = compile_data(data, ORDINARY, "/")

    assert result.plan is not None or result.problems.errors
    for line in result.problems.error_lines():
        assert line.startswith("command line: ")
        assert line.isprintable()
        assert not PYDANTIC.search(line), line


WORKERS = st.integers(1, 30) | st.sampled_from([1, 1024])
KEYS_OF = {
    "process": [],
    "pool": ["workers", "max_workers", "requests"],
    "loop": ["workers", "selector"],
    "wait": [],
}
WORKER_KEYS = {
    "workers": WORKERS,
    "max_workers": WORKERS | st.none(),
    "requests": st.integers(1, 10**9),
    "selector": st.sampled_from(["auto", "epoll", "poll", "select"]),
    "limits": st.fixed_dictionaries({}, optional={"connections": st.integers(1, 99)}),
    "warm": st.booleans(),
}
FENCES = {
    "rlimits": st.fixed_dictionaries(
        {}, optional={"cpu": st.sampled_from(["5s", None])}
    ),
    "stderr": st.sampled_from(["log", "peer", None]),
}


@st.composite
def configurations(draw):
    """One service whose keys mostly go with its mode, and defaults with any of them."""
    mode = draw(st.sampled_from(sorted(KEYS_OF)))
    name = draw(st.sampled_from(["both", "both", "both", "strict", "looping"]))
    program = {"exec": ["/bin/cat"]} if mode == "wait" else {"handler": name}
    known = [*KEYS_OF[mode], "limits", "warm", *FENCES]
    stray = draw(st.sampled_from(["", "", "", *WORKER_KEYS]))
    kinds = {**WORKER_KEYS, **FENCES}
    own = {name: kinds[name] for name in {*known, stray} - {""}}
    address = draw(st.sampled_from(["localhost:7007"] * 3 + ["localhost:7007/udp"]))
    service = {"listen": address, "mode": mode, **program}
    service |= draw(st.fixed_dictionaries({}, optional=own))
    if draw(st.booleans()):
        service |= {"stderr": "log", "rlimits": {"cpu": None}}
    defaults = draw(st.fixed_dictionaries({}, optional=kinds))
    return {"defaults": defaults, "services": {"x": service}}


@settings(RELAXED, max_examples=300)
@given(configurations())
def test_any_mode_is_told_or_planned_as_its_dump_says(data):
    result = compile_data(data, ORDINARY, "/")
    if result.plan is None:
        assert result.problems.errors
        return

    (planned,) = result.plan["services"]
    assert_workers_make_sense(planned)
    text = dump_configuration(result.log, result.services)
    document, lines = problems_of(text)
    again = compile_data(document.data, ORDINARY, "/")
    assert lines == again.problems.error_lines() == again.problems.warning_lines() == []
    (replanned,) = again.plan["services"]
    # The dump writes every default of a handler: flags that were not there.
    for one in (planned, replanned):
        one["launcher"]["program"].pop("argv", None)
    assert replanned == planned
    assert [one.program.options for one in again.services] == [
        one.program.options for one in result.services
    ]


def assert_workers_make_sense(planned):
    """What holds of workers in every plan, whatever was written."""
    launcher, mode = planned["launcher"], planned["mode"]
    keys = ("workers", "max_workers", "requests", "selector")
    workers, most, requests, selector = (launcher[key] for key in keys)
    if mode in ("process", "wait"):
        assert (workers, most, requests, selector) == (None,) * 4
        return
    assert planned["warm"]
    assert "handler" in launcher["program"]
    assert 1 <= workers <= most <= 1024
    if mode == "pool":
        assert planned["admission"]["connections"] <= most
        assert selector is None
        assert requests >= 1
    else:
        assert (most, requests) == (workers, None)
        assert selector in {"auto", "epoll", "poll", "select"}
        assert "cpu" not in launcher["rlimits"]
        assert launcher["stderr"] != "peer"


@pytest.mark.skipif(LOADER is PYTHON_LOADER, reason="PyYAML is built without libyaml")
@settings(RELAXED, max_examples=300)
@given(YAMLISH)
def test_both_parsers_accept_and_refuse_the_same_texts(text):
    try:
        text = decode(text.encode())
    except UnreadableError:
        return
    answers = []
    for loader in (LOADER, PYTHON_LOADER):
        problems = Problems()
        document = read_document(Source("x", "/x", text), problems, loader)
        found = document and (document.data, document.keys, document.values)
        answers.append("refused" if problems.errors else found)

    assert answers[0] == answers[1]


@RELAXED
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**30), 10**30)
        | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=6), inner, max_size=3)
        ),
        max_leaves=10,
    ).map(lambda value: {"top": value})
)
def test_what_a_strict_yaml_writer_quotes_is_read_as_it_was(data):
    text = yaml.safe_dump(data, default_style='"', allow_unicode=False)
    # The default style quotes numbers too, with a tag: only the text is compared.
    if "!!" in text or "\\0" in text:
        return
    document, lines = problems_of(text)

    assert lines == []
    assert document.data == data


@given(st.integers(0, 10_000 * 86_400_000))
def test_a_duration_is_read_as_it_is_written(milliseconds):
    text = format_duration(milliseconds / 1000)

    assert round(parse_duration(text) * 1000) == milliseconds
    assert format_duration(parse_duration(text)) == text


@given(st.integers(0, LARGEST))
def test_a_size_is_read_as_it_is_written(size):
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 0o777))
def test_a_mask_is_read_as_it_is_written(mask):
    assert parse_umask(format_umask(mask)) == mask


@given(st.text(max_size=20) | st.integers() | st.booleans() | st.none() | st.floats())
def test_no_value_makes_a_unit_crash(value):
    for parse in (parse_duration, parse_size, parse_umask):
        assert told(parse, value).isprintable()


@given(
    st.ip_addresses(v=4), st.integers(0, HIGHEST_PORT), st.sampled_from(["tcp", "udp"])
)
def test_an_ipv4_address_listens_as_its_key_says(address, port, protocol):
    found = parse_listen(f"{address}:{port}/{protocol}", "/")

    assert [one.key for one in found] == [f"{protocol} {address}:{port}"]


@given(st.ip_addresses(v=6), st.integers(0, HIGHEST_PORT))
def test_an_ipv6_address_listens_as_its_key_says(address, port):
    if address.ipv4_mapped or address.scope_id:
        return
    found = parse_listen(f"[{address.exploded}]:{port}", "/")

    assert [one.key for one in found] == [f"tcp [{address}]:{port}"]


@given(st.text(max_size=30))
def test_any_text_listens_or_is_told_why_not(text):
    assert told(parse_listen, text, "/").isprintable()
