"""Conditions of RFC 9110 13, against other parsers and a slow oracle."""

from __future__ import annotations

import email.utils
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.http.conditional import (
    Validators,
    judge,
    may_use_range,
    parse_date,
    validators_of,
)
from superd.handlers.http.request import Request
from superd.handlers.http.response import date_of

NOW = 1_800_000_000.0
STAMP = 1_000_000_000
SAME = date_of(STAMP).encode()
BEFORE = date_of(STAMP - 1).encode()
AFTER = date_of(STAMP + 1).encode()
STRONG = Validators('"a,b"', STAMP)
WEAK = Validators('W/"a,b"', STAMP)
NOTHING = Validators("", None)
NAMES = ("if-match", "if-unmodified-since", "if-none-match", "if-modified-since")


def ask(**fields):
    """Make a request of if_match=b"...", a list for several fields of one name."""
    found = {
        name.replace("_", "-").encode(): value if isinstance(value, list) else [value]
        for name, value in fields.items()
    }
    return Request(b"GET", b"/", 1, found, 0)


@given(st.integers(0, 253402300799))
def test_the_three_forms_of_a_date_are_one_moment(moment):
    t = time.gmtime(moment)
    assert parse_date(date_of(moment).encode(), NOW) == moment
    assert parse_date(time.asctime(t).encode(), NOW) == moment
    assert email.utils.parsedate_to_datetime(date_of(moment)).timestamp() == moment


@given(st.integers(int(NOW - 49 * 365 * 86400), int(NOW + 49 * 365 * 86400)))
def test_a_year_of_two_digits_is_the_near_one(moment):
    text = time.strftime("%A, %d-%b-%y %H:%M:%S GMT", time.gmtime(moment))
    assert parse_date(text.encode(), NOW) == moment


@pytest.mark.parametrize(
    "text",
    [
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
    ],
)
def test_the_examples_of_the_rfc(text):
    assert parse_date(text, NOW) == 784111777


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"0",
        b"784111777",
        b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 06 Nov 1994 08:49:37 +0000",
        b"sun, 06 nov 1994 08:49:37 gmt",
        b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"Sun, 00 Nov 1994 08:49:37 GMT",
        b"Thu, 31 Nov 1994 08:49:37 GMT",
        b"Wed, 29 Feb 1995 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:00:00 GMT",
        b"Sun, 06 Nov 1994 08:60:37 GMT",
        b"Sun, 06 Nov 1994 08:49:61 GMT",
        b" Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37 GMT\n",
        "Sun, \u0660\u0666 Nov 1994 08:49:37 GMT".encode(),
    ],
)
def test_what_is_no_date_is_none(text):
    assert parse_date(text, NOW) is None


@given(st.binary(max_size=40))
def test_any_bytes_are_a_date_or_none(text):
    assert parse_date(text, NOW) is None or len(text) > 20


@pytest.mark.parametrize(
    ("fields", "there", "status"),
    [
        ({}, STRONG, None),
        ({"if_match": b"*"}, STRONG, None),
        ({"if_match": b"*"}, NOTHING, None),
        ({"if_match": b'"a,b"'}, STRONG, None),
        ({"if_match": b'"x", "a,b"'}, STRONG, None),
        ({"if_match": [b'"x"', b'"a,b"']}, STRONG, None),
        ({"if_match": b'"x"'}, STRONG, 412),
        ({"if_match": b'W/"a,b"'}, STRONG, 412),
        ({"if_match": b'W/"a,b"'}, WEAK, 412),
        ({"if_match": b'"a,b"'}, WEAK, 412),
        ({"if_match": b"a,b"}, STRONG, 412),
        ({"if_match": b'"a'}, STRONG, 412),
        ({"if_match": b""}, STRONG, 412),
        ({"if_match": b'"x"'}, NOTHING, 412),
        ({"if_none_match": b"*"}, STRONG, 304),
        ({"if_none_match": b'"a,b"'}, STRONG, 304),
        ({"if_none_match": b'W/"a,b"'}, STRONG, 304),
        ({"if_none_match": b'"a,b"'}, WEAK, 304),
        ({"if_none_match": b' , "x" ,,"a,b", '}, STRONG, 304),
        ({"if_none_match": b'"x"'}, STRONG, None),
        ({"if_none_match": b'w/"a,b"'}, STRONG, None),
        ({"if_none_match": b'"a,b" "x"'}, STRONG, None),
        ({"if_none_match": b'"A,B"'}, STRONG, None),
        ({"if_modified_since": SAME}, STRONG, 304),
        ({"if_modified_since": AFTER}, STRONG, 304),
        ({"if_modified_since": BEFORE}, STRONG, None),
        ({"if_modified_since": b"yesterday"}, STRONG, None),
        ({"if_modified_since": [SAME, SAME]}, STRONG, None),
        ({"if_modified_since": SAME}, NOTHING, None),
        ({"if_unmodified_since": SAME}, STRONG, None),
        ({"if_unmodified_since": AFTER}, STRONG, None),
        ({"if_unmodified_since": BEFORE}, STRONG, 412),
        ({"if_unmodified_since": b"yesterday"}, STRONG, None),
        ({"if_unmodified_since": BEFORE}, NOTHING, None),
        # The precedence of 13.2.2.
        ({"if_match": b"*", "if_unmodified_since": BEFORE}, STRONG, None),
        ({"if_none_match": b'"x"', "if_modified_since": SAME}, STRONG, None),
        ({"if_none_match": b'"a,b"', "if_modified_since": BEFORE}, STRONG, 304),
        ({"if_none_match": b"*", "if_match": b'"x"'}, STRONG, 412),
        ({"if_none_match": b"*", "if_unmodified_since": BEFORE}, STRONG, 412),
    ],
)
def test_a_condition_gives_its_status(fields, there, status):
    assert judge(ask(**fields), there, NOW) == status


tags = st.sampled_from([b"*", b'"a,b"', b'"x"', b'W/"a,b"', b"junk"])
dates = st.sampled_from([BEFORE, SAME, AFTER, b"junk"])


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "if_match": tags,
            "if_none_match": tags,
            "if_modified_since": dates,
            "if_unmodified_since": dates,
        },
    )
)
def test_the_steps_are_taken_in_the_order_of_the_rfc(fields):
    """13.2.2 as it is written, for a file with a strong tag."""

    def steps():
        if "if_match" in fields:
            if fields["if_match"] not in (b"*", b'"a,b"'):
                return 412
        elif fields.get("if_unmodified_since") == BEFORE:
            return 412
        if "if_none_match" in fields:
            if fields["if_none_match"] in (b"*", b'"a,b"', b'W/"a,b"'):
                return 304
        elif fields.get("if_modified_since") in (SAME, AFTER):
            return 304
        return None

    assert judge(ask(**fields), STRONG, NOW) == steps()


@given(st.lists(st.binary(max_size=30), max_size=3), st.sampled_from(NAMES))
def test_any_bytes_are_answered(values, name):
    fields = {name.replace("-", "_"): values}
    assert judge(ask(**fields), STRONG, NOW) in (None, 304, 412)


@pytest.mark.parametrize(
    ("value", "there", "good"),
    [
        (None, STRONG, True),
        (None, WEAK, True),
        (b'"a,b"', STRONG, True),
        (b'"x"', STRONG, False),
        (b'W/"a,b"', STRONG, False),
        (b'W/"a,b"', WEAK, False),
        (b'"a,b"', WEAK, False),
        (b'"a,b", "x"', STRONG, False),
        (b"*", STRONG, False),
        (SAME, STRONG, True),
        (SAME, WEAK, False),
        (BEFORE, STRONG, False),
        (AFTER, STRONG, False),
        (b"junk", STRONG, False),
        (b"junk", Validators('"a"', None), False),
        ([b'"a,b"', b'"a,b"'], STRONG, False),
    ],
)
def test_if_range_is_compared_strongly(value, there, good):
    fields = {} if value is None else {"if_range": value}
    assert may_use_range(ask(**fields), there, NOW) is good


@pytest.mark.parametrize(
    ("age", "tag"),
    [(2, '"'), (1e6, '"'), (1.9, 'W/"'), (0, 'W/"'), (-100, 'W/"')],
)
def test_a_tag_is_weak_as_long_as_the_file_is_young(age, tag):
    there = validators_of(int((NOW - age) * 1e9), 10, 0x77, NOW)
    assert there.tag.startswith(tag)
    assert there.tag.endswith('-a-77"')
    assert there.strong is (tag == '"')
    assert there.modified <= NOW


numbers = st.integers(-(2**63), 2**63 - 1)
sizes = st.integers(0, 2**63 - 1)


@given(numbers, sizes, sizes)
def test_a_tag_is_one_and_says_what_it_is_made_of(mtime_ns, size, inode):
    there = validators_of(mtime_ns, size, inode, NOW)
    parts = there.tag.removeprefix("W/").strip('"').rsplit("-", 2)
    assert [int(part, 16) for part in parts] == [mtime_ns, size, inode]
    assert judge(ask(if_none_match=there.tag.encode()), there, NOW) == 304
    assert (there.modified is None) == (mtime_ns < 0)
