"""Age and lifetime of RFC 9111 4.2, with what has misled other caches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.cache.directives import FAR
from superd.handlers.cache.facts import age_of, facts_of
from superd.handlers.cache.freshness import initial_age, lifetime_of, moment_of
from superd.handlers.cache.policy import to_store
from superd.handlers.http.response import date_of

NOW = 1_800_000_000.25
DAY = 86400


def date(shift):
    return date_of(NOW + shift).encode()


def lifetime(*fields, status=200):
    return lifetime_of(status, list(fields), NOW)


def control(text):
    return (b"Cache-Control", text)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([control(b"max-age=9")], 9),
        ([control(b"max-age=9, s-maxage=3")], 3),
        ([control(b"s-maxage=30, max-age=9")], 30),
        ([control(b"max-age=9"), control(b"s-maxage=3")], 3),
        ([control(b"max-age=0, s-maxage=30"), (b"Expires", date(-10))], 30),
        ([control(b"max-age=9"), (b"Expires", date(-7200))], 9),
        ([control(b"max-age=9"), (b"Expires", b"0")], 9),
        ([control(b"max-age=0"), (b"Expires", date(3600))], 0),
        ([control(b"max-age=x"), (b"Expires", date(3600))], 0),
        ([control(b"s-maxage=x, max-age=9")], 0),
        ([(b"Expires", date(300)), (b"Date", date(0))], 300),
        ([(b"Expires", date(300)), (b"Date", date(400))], 0),
        ([(b"Expires", date(20)), (b"Date", date(10))], 10),
        ([(b"Expires", date(10)), (b"Date", b"foo")], 10),
        ([(b"Expires", date(10))], 10),
        ([(b"Expires", b"0"), (b"Last-Modified", date(-DAY))], 0),
        ([(b"Expires", b""), (b"Last-Modified", date(-DAY))], 0),
        ([(b"Expires", date(9)), (b"Expires", date(99))], 9),
        ([], 0),
        ([(b"Last-Modified", date(-DAY))], DAY / 10),
        ([(b"Last-Modified", date(-DAY)), (b"Date", date(-DAY))], 0),
        ([(b"Last-Modified", date(-1000 * DAY))], DAY),
        ([(b"Last-Modified", date(DAY))], 0),
        ([(b"Last-Modified", b"yesterday")], 0),
        ([(b"Last-Modified", date(-DAY)), (b"Set-Cookie", b"a=b")], 0),
    ],
)
def test_the_lifetime_is_what_the_most_special_field_says(fields, expected):
    assert lifetime(*fields) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"Tue, 19 Jan 2038 14:14:08 GMT",
        b"Sun, 21 Nov 2286 04:46:39 GMT",
        b"Thursday, 18-Aug-50 02:01:18 GMT",
        b"Thu Aug  8 02:01:18 2050",
        b"THU, 18 Aug 2050 02:01:18 GMT",
        b"Thu, 18 AUG 2050 02:01:18 GMT",
        b"Thu, 18 Aug 2050 02:01:18 gMT",
    ],
)
def test_a_date_may_be_in_any_case_and_as_far_as_there_are_years(text):
    assert lifetime((b"Expires", text)) > 0


@pytest.mark.parametrize(
    "text",
    [
        b"Thu, 18 Aug 2050 02:01:18 UTC",
        b"Thu, 18 Aug 2050 02:01:18 AEST",
        b"Thu, 18 Aug 50 02:01:18 GMT",
        b"Thu 18 Aug 2050 02:01:18 GMT",
        b"Thu, 18  Aug  2050 02:01:18 GMT",
        b"Thu, 18-Aug-2050 02:01:18 GMT",
        b"Thu, 18 Aug 2050 02.01.18 GMT",
        b"Thu, 18 Aug 2050 2:01:18 GMT",
        b"4102444800",
        b"-1",
    ],
)
def test_an_expires_that_is_no_date_is_past(text):
    assert moment_of([(b"Expires", text)], b"expires", NOW) is None
    assert lifetime((b"Expires", text)) == 0


@pytest.mark.parametrize(
    "status", [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501]
)
def test_of_some_statuses_it_is_guessed_how_long_they_hold(status):
    assert lifetime((b"Last-Modified", date(-DAY)), status=status) > 0


@pytest.mark.parametrize("status", [201, 202, 302, 403, 500, 502, 503, 504, 599])
def test_of_others_it_is_not_unless_they_are_public(status):
    old = (b"Last-Modified", date(-DAY))
    assert lifetime(old, status=status) == 0
    assert lifetime(old, control(b"public"), status=status) > 0


@pytest.mark.parametrize(
    ("ages", "expected"),
    [
        ([], 0),
        ([b"0"], 0),
        ([b"30"], 30),
        ([b"2147483647"], 2147483647),
        ([b"2147483648"], FAR),
        ([b"99999999999999999999"], FAR),
        # The first one counts (5.1).
        ([b"7200,0"], 7200),
        ([b"0, 7200"], 0),
        ([b"7200", b"0"], 7200),
        ([b"0", b"7200"], 0),
        ([b"0, 0"], 0),
        ([b"3600", b"3600"], 3600),
        # What is no number says that nothing is fresh.
        ([b""], FAR),
        ([b"abc"], FAR),
        ([b"-7200"], FAR),
        ([b"7200.0"], FAR),
        ([b"7200;foo=111"], FAR),
    ],
)
def test_age_is_a_number_or_as_old_as_can_be(ages, expected):
    assert initial_age([(b"Age", age) for age in ages], NOW, NOW) == expected


def test_the_age_is_the_larger_of_what_is_told_and_what_date_shows():
    slow = (b"Date", date(-10))
    assert initial_age([slow], NOW, NOW) == 10
    assert initial_age([slow, (b"Age", b"25")], NOW, NOW) == 25
    assert initial_age([slow, (b"Age", b"5")], NOW, NOW) == 10
    assert initial_age([(b"Date", date(10)), (b"Age", b"15")], NOW, NOW) == 15


def test_the_time_that_the_answer_took_is_part_of_its_age():
    assert initial_age([(b"Age", b"30")], NOW, NOW + 5) == 35
    assert initial_age([], NOW + 5, NOW) == 0


FIELDS = st.lists(
    st.tuples(
        st.sampled_from(
            [b"Age", b"Date", b"Expires", b"Cache-Control", b"Last-Modified"]
        ),
        st.one_of(
            st.integers(-(10**6), 10**6).map(date),
            st.integers(-9, 10**11).map(lambda number: b"%d" % number),
            st.integers(0, 10**11).map(lambda number: b"max-age=%d" % number),
            st.binary(max_size=8),
        ),
    ),
    max_size=6,
)


@given(FIELDS, st.floats(-100, 100), st.lists(st.floats(-1e9, 1e9), min_size=2))
def test_an_age_is_never_negative_and_never_less_later(fields, delay, moments):
    stored = to_store(
        b"http://a/", [], 200, b"OK", fields, requested=NOW - delay, received=NOW
    )
    facts = facts_of(stored)
    ages = [age_of(facts, NOW + moment) for moment in sorted(moments)]
    assert ages[0] >= 0
    assert ages == sorted(ages)
    assert facts.lifetime >= 0
