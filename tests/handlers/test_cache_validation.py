"""What a validation asks, and what its answer changes (RFC 9111 3.2, 4.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.cache.facts import age_of, facts_of
from superd.handlers.cache.policy import to_store
from superd.handlers.cache.validation import REPLACED, conditions, freshened, kept
from superd.handlers.forward.fields import values
from superd.handlers.http.response import date_of

NOW = 1_800_000_000.0
URL = b"http://a/"
LM = b"Wed, 01 Jan 2020 00:00:00 GMT"
OTHER_LM = b"Wed, 01 Jan 2020 00:00:01 GMT"


def stored(*fields, request=(), size=5):
    return to_store(
        URL, list(request), 200, b"OK", fields, requested=NOW, received=NOW, size=size
    )


def after(there, *fields, request=(), head=False):
    return freshened(there, fields, list(request), NOW + 10, NOW + 11, head=head)


def test_a_validation_asks_by_all_that_is_known():
    facts = facts_of(stored((b"etag", b'W/"a,b"'), (b"Last-Modified", LM)))
    assert conditions(facts) == [
        (b"If-None-Match", b'W/"a,b"'),
        (b"If-Modified-Since", LM),
    ]
    assert {name.lower() for name, _ in conditions(facts)} <= REPLACED


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"ETag", b"abc")],
        [(b"ETag", b'w/"abc"')],
        [(b"ETag", b'"a"b"')],
        [(b"ETag", b'"a"'), (b"ETag", b'"b"')],
        [(b"Last-Modified", b"yesterday")],
    ],
)
def test_it_does_not_ask_by_what_is_malformed(fields):
    assert conditions(facts_of(stored(*fields))) == []


@pytest.mark.parametrize(
    ("there", "reply"),
    [
        ([(b"ETag", b'"a"')], [(b"ETag", b'"a"')]),
        ([(b"ETag", b'W/"a"')], [(b"ETag", b'W/"a"')]),
        # nginx compresses: the answer had a weak tag, its 304 has that of the file.
        ([(b"ETag", b'W/"a"')], [(b"ETag", b'"a"')]),
        ([(b"ETag", b'"a"'), (b"Last-Modified", LM)], [(b"ETag", b'"a"')]),
        ([(b"Last-Modified", LM)], [(b"Last-Modified", LM)]),
        ([(b"ETag", b'"a"'), (b"Last-Modified", LM)], [(b"Last-Modified", LM)]),
        # Without a validator at all it can be about nothing else.
        ([(b"ETag", b'"a"')], []),
    ],
)
def test_a_304_with_the_same_validator_freshens(there, reply):
    new = after(stored(*there), *reply, (b"Cache-Control", b"max-age=9"))
    assert new is not None
    assert facts_of(new).lifetime == 9
    assert values(new.fields, b"etag") == values(there, b"etag")


@pytest.mark.parametrize(
    ("there", "reply"),
    [
        ([(b"ETag", b'"a"')], [(b"ETag", b'"b"')]),
        (
            [(b"ETag", b'"a"'), (b"Last-Modified", LM)],
            [(b"ETag", b'"b"'), (b"Last-Modified", LM)],
        ),
        ([(b"Last-Modified", LM)], [(b"ETag", b'"b"')]),
        ([(b"Last-Modified", LM)], [(b"Last-Modified", OTHER_LM)]),
        ([(b"ETag", b'"a"')], [(b"Last-Modified", LM)]),
    ],
)
def test_a_304_with_another_validator_is_about_another_answer(there, reply):
    assert after(stored(*there), *reply) is None


@pytest.mark.parametrize(
    "name",
    [
        *(b"Test-Header", b"X-Test-Header", b"Content-Foo", b"X-Content-Foo"),
        *(b"Cache-Control", b"Content-Location", b"Content-Security-Policy"),
        *(b"Content-Type", b"Clear-Site-Data", b"Expires", b"Set-Cookie"),
        *(b"Public-Key-Pins", b"X-Frame-Options", b"Last-Modified", b"Vary", b"Date"),
    ],
)
def test_a_304_changes_what_is_said(name):
    there = stored((b"ETag", b'"a"'), (name, b"one"), (name, b"more"))
    new = after(there, (b"ETag", b'"a"'), (name.lower(), b"two"))
    assert values(new.fields, name.lower()) == [b"two"]


@pytest.mark.parametrize(
    "name",
    [
        *(b"Content-Encoding", b"Content-Length", b"Content-MD5", b"Content-Range"),
        *(b"Content-Digest", b"Repr-Digest", b"Digest"),
    ],
)
def test_a_304_changes_nothing_of_the_body(name):
    there = stored((b"ETag", b'"a"'), (name, b"one"))
    new = after(there, (b"ETag", b'"a"'), (name, b"two"))
    assert values(new.fields, name.lower()) == [b"one"]
    assert after(stored((b"ETag", b'"a"')), (name, b"two")).fields == [
        (b"ETag", b'"a"'),
        (b"Date", date_of(NOW + 11).encode()),
    ]


def test_what_a_304_does_not_name_stays():
    there = stored((b"Test", b"1"), (b"ETag", b'"a"'))
    assert values(after(there).fields, b"test") == [b"1"]


def test_the_age_of_the_old_message_is_not_that_of_the_new_one():
    there = stored((b"Age", b"5000"), (b"Date", date_of(NOW - 6000).encode()))
    new = facts_of(after(there))
    assert age_of(new, NOW + 11) == 1
    assert (new.stored.requested, new.stored.received) == (NOW + 10, NOW + 11)
    told = facts_of(after(there, (b"Age", b"7")))
    assert age_of(told, NOW + 11) == 8


def test_what_is_of_a_connection_does_not_come_with_a_304():
    new = after(
        stored((b"A", b"1")), (b"Connection", b"b"), (b"B", b"2"), (b"TE", b"x")
    )
    assert [name for name, _ in new.fields] == [b"A", b"Date"]


def test_an_answer_that_varies_by_more_now_keeps_more_of_the_request():
    request = [(b"Foo", b"1"), (b"Bar", b"2"), (b"If-None-Match", b'"a"')]
    there = stored((b"Vary", b"Foo"), request=request)
    assert there.request == [(b"Foo", b"1")]
    new = after(there, (b"Vary", b"Foo, Bar"), request=request)
    assert new.request == [(b"Foo", b"1"), (b"Bar", b"2")]


def test_a_head_freshens_what_has_the_same_length_and_validators():
    there = stored((b"ETag", b'"a"'), size=5)
    assert after(there, head=True)
    assert after(there, (b"Content-Length", b"5"), head=True)
    assert after(there, (b"Content-Length", b"6"), head=True) is None
    assert after(there, (b"Content-Length", b"5a"), head=True) is None
    assert after(there, (b"ETag", b'"b"'), head=True) is None
    # In a 304 a length says nothing.
    assert after(there, (b"Content-Length", b"6"))


def test_fields_for_the_first_client_are_not_kept():
    fields = [
        (b"Cache-Control", b'no-cache="a, B", private="c"'),
        *((name, b"1") for name in (b"A", b"b", b"C", b"D", b"Set-Cookie")),
    ]
    assert [name for name, _ in kept(fields)] == [b"Cache-Control", b"D", b"Set-Cookie"]
    there = stored((b"Cache-Control", b'no-cache="a"'), (b"D", b"1"))
    assert values(after(there, (b"A", b"2"), (b"D", b"2")).fields, b"a") == []


NAMES = st.sampled_from(
    [
        b"ETag",
        b"Content-Encoding",
        b"content-length",
        b"Content-MD5",
        b"A",
        b"Vary",
        b"Age",
    ]
)
FIELDS = st.lists(
    st.tuples(NAMES, st.sampled_from([b"1", b'"a"', b'W/"a"'])), max_size=5
)


@given(FIELDS, FIELDS)
def test_what_describes_a_body_is_what_came_with_it(there, reply):
    old = stored(*there)
    new = after(old, *reply)
    if new is not None:
        assert new.size == old.size
        for name in (b"etag", b"content-encoding", b"content-length", b"content-md5"):
            assert values(new.fields, name) == values(old.fields, name)
        assert values(new.fields, b"a") == (values(reply, b"a") or values(there, b"a"))
