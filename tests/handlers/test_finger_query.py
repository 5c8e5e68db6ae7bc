"""The grammar of a finger query, and what may leave in an answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.finger_accounts import Account, describe, full_name
from superd.handlers.finger_query import (
    BadQuery,
    Query,
    clean,
    is_name,
    parse_query,
)


@pytest.mark.parametrize(
    ("line", "query"),
    [
        (b"", Query(long=False, names=(), forward=False)),
        (b"   ", Query(long=False, names=(), forward=False)),
        (b"/W", Query(long=True, names=(), forward=False)),
        (b"/w ", Query(long=True, names=(), forward=False)),
        (b"alice", Query(long=False, names=("alice",), forward=False)),
        (b"/W alice", Query(long=True, names=("alice",), forward=False)),
        (b"/W   alice  ", Query(long=True, names=("alice",), forward=False)),
        (b"/Walice", Query(long=False, names=("/Walice",), forward=False)),
        (b"alice /W", Query(long=False, names=("alice", "/W"), forward=False)),
        (b"alice bob", Query(long=False, names=("alice", "bob"), forward=False)),
        (b"alice@host", Query(long=False, names=("alice@host",), forward=True)),
        (b"@host", Query(long=False, names=("@host",), forward=True)),
        (b"/W @a@b@c", Query(long=True, names=("@a@b@c",), forward=True)),
        (b"@" * 500, Query(long=False, names=("@" * 500,), forward=True)),
    ],
)
def test_the_whole_grammar_is_read(line, query):
    assert parse_query(line) == query


@pytest.mark.parametrize("byte", [*range(9), *range(10, 32), 127])
def test_a_control_byte_is_no_query(byte):
    with pytest.raises(BadQuery):
        parse_query(b"ali" + bytes((byte,)) + b"ce")


@pytest.mark.parametrize(
    "name", ["a", "alice", "_apt", "a.b-c_d", "0", "A" * 32, "systemd-resolve", ".a"]
)
def test_a_login_name_is_a_name(name):
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-s",
        "--",
        "-",
        "A" * 33,
        "/etc/passwd",
        "../x",
        "a/b",
        "a;b",
        "a|b",
        "`id`",
        "$(id)",
        "a*",
        "a\n",
        "a\0",
        "ä",
        "\u0660",
        "a b",
        "a=b",
        "~root",
        "search.*",
    ],
)
def test_what_could_mean_more_than_a_name_is_none(name):
    assert not is_name(name)


def test_an_answer_loses_escapes_and_gets_crlf():
    dirty = b"\x1b[31mred\x07\tx\r\nnext\x00\xff\x7f\nlast"
    assert clean(dirty) == b"[31mred\tx\r\nnext\r\nlast\r\n"


def test_an_answer_keeps_printable_utf8_where_it_is_wanted():
    dirty = "Zoë\u202e\x1b\u009b \u00e9\n".encode() + b"\xff\n"
    assert clean(dirty, utf8=True) == "Zoë \u00e9\r\n\ufffd\r\n".encode()
    assert clean(dirty) == b"Zo \r\n\r\n"


@given(st.binary(max_size=300), st.booleans())
def test_no_answer_has_a_byte_for_the_terminal_alone(data, utf8):
    lines = clean(data, utf8=utf8).split(b"\r\n")
    assert lines.pop() == b""
    for line in lines:
        text = line.decode("utf-8" if utf8 else "ascii")
        assert all(c == "\t" or c.isprintable() for c in text)


@given(st.binary(max_size=512))
def test_any_line_is_a_query_or_a_refusal(line):
    try:
        query = parse_query(line)
    except BadQuery:
        return
    assert all(name and " " not in name for name in query.names)
    assert query.forward == any("@" in name for name in query.names)


@pytest.mark.parametrize(
    ("gecos", "name"),
    [
        ("Alice Liddell,Room 1,555", "Alice Liddell"),
        ("& Liddell", "Alice Liddell"),
        ("", ""),
        (",,,", ""),
    ],
)
def test_the_full_name_is_the_first_part_of_gecos(gecos, name):
    assert full_name(gecos, "alice") == name


def test_the_own_answer_has_login_and_full_name():
    line = describe(Account("alice", "Alice \udcff"))
    assert line.split() == [b"Login:", b"alice", b"Name:", b"Alice", b"\xff"]
