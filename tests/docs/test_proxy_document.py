"""What docs/handlers-proxy.md says of the proxy is what its code says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from superd.config.units import format_duration, format_size
from superd.handlers.exits import SetupError
from superd.handlers.forward.counters import Counters
from superd.handlers.forward.pages import ERRORS
from superd.handlers.forward.record import Record
from superd.handlers.forward.rules import Rules
from superd.handlers.proxy import OPTIONS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "handlers-proxy.md").read_text()


def table_under(heading):
    """The rows of the table with this heading, as lists of cells."""
    lines = TEXT.split("\n")
    start = next(number for number, line in enumerate(lines) if heading in line) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


SPELL = {
    "bool": lambda value: f"`{str(value).lower()}`",
    "choice": lambda value: f"`{value}`",
    "list": lambda value: f"`[{', '.join(value)}]`" if value else "none",
    "path": lambda value: f"`{value}`" if value else "none",
    "str": lambda value: f"`{value}`" if value else "none",
}
WITHIN = {"duration": format_duration, "size": format_size, "int": str}
ROWS = {name.strip("`"): rest for name, *rest in table_under("| option | default |")}


def test_every_option_of_proxy_is_documented_and_no_other():
    assert ROWS.keys() == OPTIONS.keys()


@pytest.mark.parametrize("name", OPTIONS)
def test_every_default_of_proxy_is_the_documented_one(name):
    default, meaning = ROWS[name]
    row = OPTIONS[name]
    if row["type"] != "table":
        assert default == SPELL[row["type"]](row["default"])
    for key, below in row.get("keys", {}).items():
        if below["type"] in WITHIN:
            told = f"{key}: {WITHIN[below['type']](below['default'])}"
            assert re.search(rf"\b{re.escape(told)}(?![\w.])", meaning), told
        elif key != row.get("lone"):
            assert f"{key}:" in meaning or f"`{key}`" in meaning, key
    for choice in row.get("choices", ()):
        assert f"`{choice}`" in meaning, choice


def test_every_status_of_a_refusal_is_documented_with_its_error():
    told = {}
    for status, errors, _ in table_under("| status | `error=`"):
        told.setdefault(int(status), []).extend(re.findall(r"`(\w+)`", errors))
    for status, error in ERRORS.items():
        assert error in told[status], status


def test_the_sample_of_the_counters_has_all_of_them_and_no_other():
    told = re.findall(r"^    (superd_proxy_\S+) \d", TEXT, re.MULTILINE)
    lines = Counters().text().splitlines()
    assert told == [line.split()[0] for line in lines if not line.startswith("#")]


def record_told(form, capfd):
    record = Record()
    record.method, record.url, record.note = b"GET", b"http://example.org/", "why"
    record.tell("127.0.0.1:1", form, None)
    return capfd.readouterr().err


def test_the_sample_of_the_log_has_its_fields_in_their_order(capfd):
    sample = re.findall(r"^    proxy: peer=.*note=.*$", TEXT, re.MULTILINE)
    assert len(sample) == 1
    names = re.findall(r' (\w+)=(?:"[^"]*"|\S+)', record_told("line", capfd))
    assert re.findall(r' (\w+)=(?:"[^"]*"|\S+)', sample[0].strip()) == names


def test_the_sample_of_the_json_log_has_its_fields_in_their_order(capfd):
    sample = re.findall(r'^    (\{"time".*\})$', TEXT, re.MULTILINE)
    told = json.loads(record_told("json", capfd).strip())
    assert [list(json.loads(one)) for one in sample] == [list(told)]


# Within a table of Markdown a bar is escaped.
PATTERNS = [
    text.replace("\\|", "|")
    for cell, _ in table_under("| pattern | is met by |")
    for text in re.findall(r"`([^`]+)`", cell)
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_of_the_table_is_one(pattern):
    Rules([pattern], [])


@pytest.mark.parametrize(
    ("pattern", "host", "port", "path", "met"),
    [
        ("example.org", "example.org", 81, b"/x", True),
        ("example.org", "www.example.org", 80, b"/", False),
        (".example.org", "example.org", 80, b"/", True),
        (".example.org", "a.b.example.org", 80, b"/", True),
        (".example.org", "notexample.org", 80, b"/", False),
        ("192.0.2.7", "0xc0.0.2.7", 80, b"/", True),
        ("*:8000-8099", "example.org", 8099, b"/", True),
        ("*:8000-8099", "example.org", 8100, b"/", False),
        ("example.org/repo", "example.org", 80, b"/repo?x", True),
        ("example.org/repo", "example.org", 80, b"/repository", False),
        ("example.org/repo", "example.org", 80, b"/repo%2f..%2fx", False),
        ("example.org/repo", "example.org", 443, None, False),
        (r"~\.exe(\?|$)", "example.org", 80, b"/x.exe?a", True),
    ],
)
def test_patterns_are_met_by_what_the_table_says(pattern, host, port, path, met):
    assert (Rules([pattern], []).objection(host, port, path) == "") is met


def test_the_wrong_pattern_in_the_document_is_refused_in_these_words():
    text = re.search(r'text="proxy: (option --allow: (\S+): .*)"$', TEXT, re.MULTILINE)
    with pytest.raises(SetupError) as raised:
        Rules([text[2]], [])
    assert str(raised.value) == text[1]
