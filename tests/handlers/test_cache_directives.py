"""Cache-Control, in every way that it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.cache.directives import (
    FAR,
    directives_of,
    named,
    number,
    seconds,
    whole,
    wishes_of,
)

BYTES = st.text("ab0=\", \t\\;-'", max_size=30).map(str.encode)


def read(*lines):
    return directives_of([(b"cache-CONTROL", line) for line in lines])


@pytest.mark.parametrize(
    ("line", "lifetime"),
    [
        (b"max-age=3600", 3600),
        (b"MaX-aGe=3600", 3600),
        (b"foobar, max-age=3600", 3600),
        (b"max-age=003600", 3600),
        (b'max-age="3600"', 3600),
        (b'max-age="36\\00"', 3600),
        (b"max-age=2147483647", 2147483647),
        (b"max-age=2147483649", FAR),
        (b"max-age=99999999999", FAR),
        (b"max-age=" + b"9" * 6000, FAR),
        (b",, max-age=1,,", 1),
        (b"max-age=3600, max-age=1800", 3600),
        (b"max-age=1, max-age=1800", 1),
        (b'extension="max-age=3600", max-age=1', 1),
        (b'max-age=1, extension="max-age=3600"', 1),
        (b'extension="\\", max-age=3600", max-age=1', 1),
        (b'extension="max-age=3600', None),
        (b"s-maxage=5", None),
        # A number that is none is there, and says that nothing is fresh.
        (b"max-age", 0),
        (b"max-age=", 0),
        (b"max-age=-3600", 0),
        (b"max-age=+3600", 0),
        (b"max-age='3600'", 0),
        (b"max-age=3600.0", 0),
        (b"max-age=a3600", 0),
        (b"max-age=3600a", 0),
        (b'max-age="3600"a', 0),
        (b"max-age =3600", 0),
        (b"max-age= 3600", 0),
        (b"max-age=3_600", 0),
        ("max-age=\u0663".encode(), 0),
    ],
)
def test_a_number_of_seconds_is_digits_and_nothing_else(line, lifetime):
    assert seconds(read(line), b"max-age") == lifetime


def test_the_first_of_two_lines_counts():
    assert seconds(read(b"max-age=1800", b"max-age=1"), b"max-age") == 1800


def test_an_open_quote_hides_no_directive():
    assert b"no-store" in read(b'foo="bar, no-store')
    assert b"no-store" in read(b'foo="bar', b"no-store")
    assert b"no-store" not in read(b'foo="bar, no-store"')


@pytest.mark.parametrize(
    "line", [b"private", b"x, PRIVATE", b"private ,x", b"private=x y"]
)
def test_what_is_said_of_the_whole_answer_holds_for_all_of_it(line):
    assert whole(read(line), b"private")


@pytest.mark.parametrize(
    ("line", "names"),
    [
        (b'private="a"', {b"a"}),
        (b'private="A, b"', {b"a", b"b"}),
        (b"private=a", {b"a"}),
        (b'private="a", private="b"', {b"a", b"b"}),
        (b"public", set()),
    ],
)
def test_fields_can_be_private_in_an_answer_that_is_not(line, names):
    assert named(read(line), b"private") == names
    assert not whole(read(line), b"private")


@pytest.mark.parametrize(
    "line",
    [b'private=""', b'private="a", private', b'private="a/b"', b'private="vary"'],
)
def test_a_list_that_cannot_be_obeyed_is_about_the_whole_answer(line):
    assert whole(read(line), b"private")


def test_pragma_counts_only_where_there_is_no_cache_control():
    pragma = (b"Pragma", b"x, No-Cache")
    assert b"no-cache" in wishes_of([pragma])
    assert b"no-cache" not in wishes_of([pragma, (b"Cache-Control", b"max-age=1")])
    assert not wishes_of([(b"Pragma", b"extension")])


@given(st.lists(BYTES, max_size=3))
def test_nothing_that_is_written_is_too_much(lines):
    found = read(*lines)
    for name in found:
        assert name == name.lower().strip()
        assert 0 <= (seconds(found, name) or 0) <= FAR
        assert whole(found, name) in (True, False)
        assert all(named(found, name))


@given(st.lists(BYTES, max_size=2), st.sampled_from([b"", b" ", b"\t,"]))
def test_no_store_is_seen_whatever_stands_before_it_on_another_line(lines, before):
    assert b"no-store" in read(*lines, before + b"No-Store")


@given(st.integers(0, 10**12))
def test_a_number_is_what_it_was_up_to_the_largest(value):
    assert number(b"%d" % value) == min(value, FAR)
