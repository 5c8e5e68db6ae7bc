"""For which requests an answer was made (RFC 9111 4.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.cache.facts import facts_of
from superd.handlers.cache.policy import choose, may_store, selects, to_store
from superd.handlers.http.response import date_of

NOW = 1_800_000_000.0
URL = b"http://a/"


def stored(vary, request, *more):
    lines = [vary] if isinstance(vary, bytes) else vary
    fields = [(b"Vary", line) for line in lines]
    fields += [(b"Cache-Control", b"max-age=5000"), *more]
    return facts_of(
        to_store(URL, request, 200, b"OK", fields, requested=NOW, received=NOW)
    )


def fields(**named):
    return [
        (name.replace("_", "-").encode(), value)
        for name, values in named.items()
        for value in ([values] if isinstance(values, bytes) else values)
    ]


@pytest.mark.parametrize(
    ("vary", "first", "second"),
    [
        (b"Foo", {"foo": b"1"}, {"foo": b"1"}),
        (b"foo", {"Foo": b"1", "other": b"2"}, {"FOO": b"1", "other": b"3"}),
        (b"Foo, Bar", {"foo": b"1", "bar": b"abc"}, {"bar": b"abc", "foo": b"1"}),
        ([b"Foo", b"Bar"], {"foo": b"1", "bar": b"2"}, {"foo": b"1", "bar": b"2"}),
        (b"Foo, Bar, Baz", {"foo": b"1", "baz": b"7"}, {"foo": b"1", "baz": b"7"}),
        (b"", {"foo": b"1"}, {"foo": b"2"}),
        # Lists, whatever their spaces and lines.
        (b"Foo", {"foo": b"1, 2"}, {"foo": [b"1", b"2"]}),
        (b"Foo", {"foo": b"1,2"}, {"foo": b"1, 2 "}),
        # Preferences, whatever their order.
        (
            b"accept-language",
            {"accept_language": b"en, de"},
            {"accept_language": b"de, en"},
        ),
        (
            b"accept-language",
            {"accept_language": b"en, de"},
            {"accept_language": b"eN, De"},
        ),
        (
            b"accept-language",
            {"accept_language": b"en, de"},
            {"accept_language": b"en ,   de"},
        ),
        (
            b"accept-encoding",
            {"accept_encoding": b"gzip, br;q=0.5"},
            {"accept_encoding": b"BR ; q=0.5,gzip"},
        ),
    ],
)
def test_a_request_like_the_first_one_gets_its_answer(vary, first, second):
    assert selects(stored(vary, fields(**first)), fields(**second))


@pytest.mark.parametrize(
    ("vary", "first", "second"),
    [
        (b"Foo", {"foo": b"1"}, {"foo": b"2"}),
        (b"Foo", {"foo": b"1"}, {}),
        (b"Foo", {}, {"foo": b"1"}),
        (b"Foo", {}, {"foo": b""}),
        (b"Foo", {"foo": b"a"}, {"foo": b"A"}),
        (b"Foo", {"foo": b"1, 2"}, {"foo": b"2, 1"}),
        (b"Foo, Bar", {"foo": b"1"}, {}),
        (b"Foo, Bar, Baz", {"foo": b"1", "bar": b"abc4"}, {"foo": b"1", "bar": b"abc"}),
        (b"Cookie", {"cookie": b"a=1, 2"}, {"cookie": b"a=1,2"}),
        (
            b"accept-language",
            {"accept_language": b"en"},
            {"accept_language": b"en;q=0.5"},
        ),
        (b"accept", {"accept": b"a/b;c=D"}, {"accept": b"a/b;c=d"}),
    ],
)
def test_another_request_does_not(vary, first, second):
    assert not selects(stored(vary, fields(**first)), fields(**second))


@pytest.mark.parametrize(
    "lines",
    [[b"*"], [b"*, *"], [b"*", b"*"], [b", *"], [b"", b"*"], [b"*, Foo"], [b"Foo, *"]],
)
def test_an_answer_that_varies_by_everything_is_for_nobody(lines):
    request = fields(foo=b"1")
    assert not selects(stored(lines, request), request)
    reply = [(b"Vary", line) for line in lines] + [
        (b"Expires", date_of(NOW + 9).encode())
    ]
    assert not may_store(b"GET", request, 200, reply, now=NOW)


@pytest.mark.parametrize(
    ("wanted", "fit"),
    [
        (b"fr;q=0.5, de;q=1.0", True),
        (b"DE", True),
        (b"fr, de", False),
        (b"de;q=0.5, fr", False),
        (b"de;q=0", False),
        (b"de;q=x", False),
        (b"*", False),
        (b"de-AT", False),
        (b"", False),
    ],
)
def test_who_wants_this_language_first_can_get_no_better_answer(wanted, fit):
    german = (b"Content-Language", b"de")
    facts = stored(b"Accept-Language", fields(accept_language=b"en, it"), german)
    assert selects(facts, fields(accept_language=wanted)) is fit


def test_the_most_recent_answer_that_fits_is_given():
    def made(second, value):
        when = (b"Date", date_of(NOW + second).encode())
        return stored(b"Foo", fields(foo=value), when)

    old, new, other = made(-9, b"1"), made(-5, b"1"), made(0, b"2")
    assert choose([new, old, other], fields(foo=b"1")) is new
    assert choose([old, new, other], fields(foo=b"1")) is new
    assert choose([old, new, other], fields(foo=b"2")) is other
    assert choose([old, new, other], []) is None
    assert choose([], []) is None


FIELD = st.tuples(
    st.sampled_from([b"Foo", b"foo", b"Accept", b"Accept-Language", b"Cookie"]),
    st.text('de,;q=01. \t*"', max_size=8).map(str.encode),
)
VARY = st.lists(st.sampled_from([b"Foo", b"accept", b"ACCEPT-LANGUAGE", b"Cookie"]))


@given(VARY, st.lists(FIELD, max_size=5))
def test_a_request_is_always_like_itself(names, request):
    assert selects(stored(b",".join(names), request), request)


@given(VARY, st.lists(FIELD, max_size=5), st.lists(FIELD, max_size=5))
def test_to_be_alike_is_mutual(names, one, other):
    vary = b",".join(names)
    assert selects(stored(vary, one), other) == selects(stored(vary, other), one)
