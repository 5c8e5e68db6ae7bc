"""When a stored answer is given, validated or withheld (RFC 9111 4, 5.2, RFC 5861)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.cache.facts import age_of, facts_of
from superd.handlers.cache.policy import to_store
from superd.handlers.cache.verdict import (
    Failure,
    Verdict,
    judge,
    may_serve_stale,
    wants_only_cached,
)

NOW = 1_800_000_000.5
FRESH, STALE, REVALIDATE = Verdict.FRESH, Verdict.STALE, Verdict.REVALIDATE
BEHIND = Verdict.STALE_WHILE_REVALIDATE


def stored(control, *more):
    fields = [(b"Cache-Control", control), *more]
    return facts_of(
        to_store(b"http://a/", [], 200, b"OK", fields, requested=NOW, received=NOW)
    )


def wish(control):
    return [(b"Cache-Control", control)] if control else []


@pytest.mark.parametrize(
    ("reply", "request_", "age", "verdict"),
    [
        (b"max-age=10", b"", 0, FRESH),
        (b"max-age=10", b"", 9.5, FRESH),
        (b"max-age=10", b"", 10, REVALIDATE),
        (b"max-age=0", b"", 0, REVALIDATE),
        (b"max-age=10, must-revalidate", b"", 9, FRESH),
        (b"max-age=10, must-revalidate", b"", 11, REVALIDATE),
        (b"max-age=10, immutable", b"", 11, REVALIDATE),
        # What the server forbids.
        (b"max-age=10, no-cache", b"", 0, REVALIDATE),
        (b"max-age=10, No-CaChE", b"", 0, REVALIDATE),
        (b'max-age=10, no-cache="a"', b"", 0, FRESH),
        (b'max-age=10, no-cache=""', b"", 0, REVALIDATE),
        (b"max-age=10, no-store", b"", 0, REVALIDATE),
        (b"max-age=10, private", b"", 0, REVALIDATE),
        (b"max-age=10, no-store, must-understand", b"", 0, FRESH),
        # What the client wants.
        (b"max-age=10", b"nothing-to-see-here", 0, FRESH),
        (b"max-age=10", b"no-cache", 0, REVALIDATE),
        (b"max-age=10", b"no-store", 0, FRESH),
        (b"max-age=10", b"max-age=0", 0, REVALIDATE),
        (b"max-age=10", b"max-age=x", 0, REVALIDATE),
        (b"max-age=10", b"max-age=5", 4, FRESH),
        (b"max-age=10", b"max-age=5", 6, REVALIDATE),
        (b"max-age=10", b"max-age=50", 11, REVALIDATE),
        (b"max-age=10", b"min-fresh=5", 4, FRESH),
        (b"max-age=10", b"min-fresh=5", 6, REVALIDATE),
        (b"max-age=10", b"max-stale", 5, FRESH),
        (b"max-age=10", b"max-stale", 1e9, STALE),
        (b"max-age=10", b"max-stale=5", 15, STALE),
        (b"max-age=10", b"max-stale=5", 16, REVALIDATE),
        (b"max-age=10", b"max-stale=x", 11, REVALIDATE),
        (b"max-age=10", b"max-age=5, max-stale=5", 9, STALE),
        (b"max-age=10", b"max-age=5, max-stale=5", 11, REVALIDATE),
        # Nobody can allow what the server forbids.
        (b"max-age=10, must-revalidate", b"max-stale", 11, REVALIDATE),
        (b"max-age=10, proxy-revalidate", b"max-stale", 11, REVALIDATE),
        (b"s-maxage=10", b"max-stale", 11, REVALIDATE),
        (b"max-age=10, no-cache", b"max-stale", 11, REVALIDATE),
        # Stale while revalidate.
        (b"max-age=1, stale-while-revalidate=9", b"", 0, FRESH),
        (b"max-age=1, stale-while-revalidate=9", b"", 3, BEHIND),
        (b"max-age=1, stale-while-revalidate=9", b"", 10, REVALIDATE),
        (b"max-age=1, stale-while-revalidate=x", b"", 3, REVALIDATE),
        (b"max-age=1, stale-while-revalidate=9", b"no-cache", 3, REVALIDATE),
        (b"max-age=1, stale-while-revalidate=9", b"max-age=5", 3, REVALIDATE),
        (b"max-age=1, stale-while-revalidate=9", b"min-fresh=0", 3, REVALIDATE),
        (b"s-maxage=1, stale-while-revalidate=9", b"", 3, REVALIDATE),
    ],
)
def test_the_server_says_how_long_and_the_client_how_fresh(
    reply, request_, age, verdict
):
    assert judge(stored(reply), wish(request_), NOW + age) is verdict


def test_an_age_that_was_told_is_part_of_it():
    old = (b"Age", b"1800")
    assert judge(stored(b"max-age=3600", old), [], NOW) is FRESH
    assert judge(stored(b"max-age=3600", old), wish(b"max-age=600"), NOW) is REVALIDATE
    assert judge(stored(b"max-age=1500", old), wish(b"max-stale=500"), NOW) is STALE
    assert judge(stored(b"max-age=1500", old), [], NOW) is REVALIDATE


def test_pragma_is_obeyed():
    assert judge(stored(b"max-age=9"), [(b"Pragma", b"no-cache")], NOW) is REVALIDATE
    assert judge(stored(b"max-age=9"), [(b"Pragma", b"foo")], NOW) is FRESH


@pytest.mark.parametrize(
    ("reply", "request_", "age", "unreachable", "error"),
    [
        (b"max-age=2", b"", 3, True, False),
        (b"max-age=2", b"", 1003, False, False),
        (b"max-age=2", b"", 1, True, True),
        (b"max-age=2, stale-if-error=60", b"", 30, True, True),
        (b"max-age=2, stale-if-error=60", b"", 63, False, False),
        (b"max-age=2, stale-if-error=x", b"", 3, False, False),
        (b"max-age=2", b"stale-if-error=60", 30, True, True),
        (b"max-age=2, stale-if-error=5", b"stale-if-error=60", 30, True, True),
        (b"max-age=2", b"no-cache", 3, False, False),
        (b"max-age=2", b"max-age=0", 1, False, False),
        (b"max-age=2, must-revalidate", b"", 3, False, False),
        (b"max-age=2, proxy-revalidate", b"", 3, False, False),
        (b"max-age=2, no-cache", b"", 1, False, False),
        (b"max-age=2, s-maxage=2", b"", 3, False, False),
        (b"max-age=2, must-revalidate, stale-if-error=60", b"", 3, False, False),
        (b"max-age=2, must-revalidate", b"stale-if-error=60", 3, False, False),
    ],
)
def test_a_stale_answer_is_better_than_none_where_it_is_allowed(
    reply, request_, age, unreachable, error
):
    facts, fields, now = stored(reply), wish(request_), NOW + age
    for failure, expected in (
        (Failure.UNREACHABLE, unreachable),
        (Failure.ERROR, error),
    ):
        given_ = may_serve_stale(facts, fields, now, failure=failure, cut_off=1000)
        assert given_ is expected


def test_without_leave_of_anybody_a_stale_answer_is_not_given():
    facts = stored(b"max-age=2")
    assert not may_serve_stale(facts, [], NOW + 3, failure=Failure.UNREACHABLE)


def test_a_client_may_want_what_is_stored_or_nothing():
    assert wants_only_cached(wish(b"max-age=1, Only-If-Cached"))
    assert not wants_only_cached(wish(b"max-age=1"))
    assert not wants_only_cached([])


DIRECTIVE = st.sampled_from(
    [
        *(b"no-store", b"private", b"no-cache", b"must-revalidate", b"s-maxage=5"),
        *(b"public", b"max-age=5", b"max-age=x", b"stale-while-revalidate=9"),
        *(b"stale-if-error=9", b'private="a"', b"max-age=0", b"proxy-revalidate"),
        *(b"max-stale", b"max-stale=3", b"min-fresh=2", b"only-if-cached"),
    ]
)
CONTROL = st.lists(DIRECTIVE, max_size=4).map(b", ".join)


@given(CONTROL, CONTROL, st.floats(0, 30))
def test_what_is_fresh_is_within_its_lifetime(reply, request, age):
    facts = stored(reply)
    if judge(facts, wish(request), NOW + age) is FRESH:
        assert age_of(facts, NOW + age) <= age < facts.lifetime + 1e-6


@given(CONTROL, CONTROL, st.floats(0, 30), st.sampled_from(Failure))
def test_what_is_private_or_not_to_be_stored_is_given_to_nobody(
    reply, request, age, failure
):
    forbidden = {b"private", b"no-store", b"no-cache"}.intersection(reply.split(b", "))
    if forbidden:
        facts, now = stored(reply), NOW + age
        assert judge(facts, wish(request), now) is REVALIDATE
        assert not may_serve_stale(
            facts, wish(request), now, failure=failure, cut_off=1e9
        )
