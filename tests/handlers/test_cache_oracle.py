"""The policy beside hishel's, another reading of RFC 9111.

Where both are sure they agree, on generated answers; where they differ, each difference
is named here with the section that decides it, and holds for both sides.
"""

from __future__ import annotations

import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.cache.facts import facts_of
from superd.handlers.cache.policy import may_store, selects, to_store
from superd.handlers.cache.validation import freshened
from superd.handlers.cache.verdict import Verdict, judge
from superd.handlers.forward.fields import values
from superd.handlers.http.response import date_of

hishel = pytest.importorskip("hishel", reason="hishel is not installed")

URL = "http://a/"
OPTIONS = {"shared": True, "supported_methods": ["GET"], "allow_stale": False}
FRESH, STALE = "fresh", "stale"


def date(shift):
    return date_of(time.time() + shift)


def headers(fields):
    found = {}
    for name, value in fields:
        found.setdefault(name.lower(), []).append(value)
    return hishel.Headers(found)


def lines(fields):
    return [(name.encode(), value.encode()) for name, value in fields]


class Theirs:
    """What hishel decides."""

    @staticmethod
    def stores(request, status, reply):
        state = hishel.CacheMiss(
            options=OPTIONS, request=hishel.Request("GET", URL, headers(request))
        ).next(hishel.Response(status, headers(reply)))
        return isinstance(state, hishel.StoreAndUse)

    @staticmethod
    def entry(first, reply):
        return hishel.Entry(
            uuid.uuid4(),
            hishel.Request("GET", URL, headers(first)),
            hishel.Response(200, headers(reply)),
        )

    @classmethod
    def judges(cls, first, reply, request):
        """Hishel makes one question of Vary and freshness."""
        state = hishel.IdleClient(options=OPTIONS).next(
            hishel.Request("GET", URL, headers(request)), [cls.entry(first, reply)]
        )
        return FRESH if isinstance(state, hishel.FromCache) else STALE

    @classmethod
    def freshens(cls, reply, new):
        question = hishel.NeedRevalidation(
            options=OPTIONS,
            request=hishel.Request("GET", URL),
            original_request=hishel.Request("GET", URL),
            revalidating_entries=[cls.entry([], reply)],
        )
        state = question.next(hishel.Response(304, headers(new)))
        return state.updating_entries[0].response.headers


class Ours:
    """What is decided here."""

    @staticmethod
    def stores(request, status, reply):
        return may_store(b"GET", lines(request), status, lines(reply), now=time.time())

    @staticmethod
    def stored(first, reply):
        now = time.time()
        return to_store(
            URL.encode(),
            lines(first),
            200,
            b"OK",
            lines(reply),
            requested=now,
            received=now,
        )

    @classmethod
    def judges(cls, first, reply, request):
        facts = facts_of(cls.stored(first, reply))
        good = selects(facts, lines(request)) and (
            judge(facts, lines(request), time.time()) is Verdict.FRESH
        )
        return FRESH if good else STALE


def both(first, reply, request=()):
    return (
        Ours.judges(first, reply, list(request)),
        Theirs.judges(first, reply, list(request)),
    )


CONTROL = st.lists(
    st.sampled_from(
        [
            *("no-cache", "must-revalidate", "public", "foo", 'foo="max-age=1"'),
            *("NO-Cache", "proxy-revalidate", "immutable"),
        ]
    ),
    max_size=3,
)
AGES = st.sampled_from(["", "max-age=0", "max-age=1000", "Max-Age=100000"])
SHARED = st.sampled_from(["", "s-maxage=0", "s-maxage=1000", 's-maxage="100000"'])
SHIFTS = st.sampled_from([0, -500, -5000])
"""Of Date: far enough from every lifetime that a second more changes nothing."""
EXPIRES = st.sampled_from([None, -30000, 3000, 300000, "0", "never"])
MODIFIED = st.sampled_from([None, -100, -100000])


@given(CONTROL, AGES, SHARED, SHIFTS, EXPIRES, MODIFIED, st.booleans())
def test_both_think_the_same_answers_fresh(
    words, oldest, shared, shift, expires, modified, reload
):
    control = ", ".join(word for word in (*words, oldest, shared) if word)
    reply = [("Date", date(shift)), ("Cache-Control", control)]
    if expires is not None:
        reply.append(
            ("Expires", expires if isinstance(expires, str) else date(expires))
        )
    if modified is not None:
        reply.append(("Last-Modified", date(shift + modified)))
    request = [("Cache-Control", "no-cache")] if reload else []

    ours, theirs = both([], reply, request)

    assert ours == theirs


STORING = st.lists(
    st.sampled_from(
        [
            *("no-store", "No-Store", "private", "PRIVATE", "public", "no-cache"),
            *("max-age=9", "s-maxage=9", "must-revalidate", "foo"),
        ]
    ),
    max_size=3,
)
STATUSES = st.sampled_from([200, 201, 204, 206, 301, 302, 304, 404, 410, 500, 503, 599])


@given(STORING, STATUSES, st.booleans(), st.booleans())
def test_both_keep_the_same_answers(words, status, expires, known):
    reply = [("ETag", '"a"'), ("Cache-Control", ", ".join(words))]
    if expires:
        reply.append(("Expires", date(900)))
    request = [("Authorization", "x")] if known else []

    assert Ours.stores(request, status, reply) == Theirs.stores(request, status, reply)


FIELDS = st.dictionaries(st.sampled_from(["Foo", "Bar"]), st.sampled_from(["1", "2"]))


@given(st.sampled_from(["", "Foo", "foo, bar", "*", "Foo, *"]), FIELDS, FIELDS)
def test_both_give_an_answer_to_the_same_requests(vary, first, second):
    reply = [("Cache-Control", "max-age=900"), ("Date", date(0)), ("Vary", vary)]

    ours, theirs = both(list(first.items()), reply, list(second.items()))

    assert ours == theirs


@given(st.lists(st.sampled_from(["A", "Cache-Control", "Set-Cookie", "Link"])))
def test_both_take_the_same_fields_from_a_304(names):
    reply = [("ETag", '"a"'), ("A", "1"), ("B", "1"), ("Date", date(-9))]
    new = [("ETag", '"a"'), ("Date", date(0)), *((name, "2") for name in names)]
    mine = freshened(Ours.stored([], reply), lines(new), [], 1.0, 2.0)

    other = Theirs.freshens(reply, new)

    for name in ("a", "b", "etag", "date", "cache-control", "set-cookie", "link"):
        mine_here = [value.decode() for value in values(mine.fields, name.encode())]
        assert mine_here == (other.get_list(name) or [])


KEPT = ("Cache-Control", "max-age=3600")
DIFFERENT_FRESHNESS = {
    "Age is part of the age (RFC 9111 4.2.3)": (
        [KEPT, ("Age", "7200")],
        [],
        (STALE, FRESH),
    ),
    "a max-age that is no number makes stale (4.2.1)": (
        [("Cache-Control", "max-age=x"), ("Expires", 3600)],
        [],
        (STALE, FRESH),
    ),
    "of two the first one counts (4.2.1)": (
        [("Cache-Control", "max-age=0, max-age=3600")],
        [],
        (STALE, FRESH),
    ),
    "a zone other than GMT is no date (4.2)": (
        [("Expires", "Thu, 18 Aug 2050 02:01:18 UTC")],
        [],
        (STALE, FRESH),
    ),
    "a malformed date is past (5.3)": (
        [("Expires", "Thu 18 Aug 2050 2:01:18 GMT")],
        [],
        (STALE, FRESH),
    ),
    "a guess ends within a day, not a week (4.2.2 leaves it open)": (
        [("Last-Modified", -(10**8)), ("Date", -100000)],
        [],
        (STALE, FRESH),
    ),
    "a cookie that does not say so is not shared (7.3 would allow it)": (
        [("Last-Modified", -100000), ("Set-Cookie", "a=b")],
        [],
        (STALE, FRESH),
    ),
    "of two ways to say no-cache the stricter one counts (4.2.1)": (
        [("Cache-Control", 'max-age=3600, no-cache, no-cache="a"')],
        [],
        (STALE, FRESH),
    ),
    "the client says how old an answer may be (5.2.1.1)": (
        [KEPT, ("Date", -500)],
        [("Cache-Control", "max-age=60")],
        (STALE, FRESH),
    ),
    "the client says how long it is to be good (5.2.1.3)": (
        [KEPT],
        [("Cache-Control", "min-fresh=9000")],
        (STALE, FRESH),
    ),
    "Pragma is the Cache-Control of the old (5.4)": (
        [KEPT],
        [("Pragma", "no-cache")],
        (STALE, FRESH),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT_FRESHNESS)
def test_the_section_decides_what_is_fresh(name):
    fields, request, expected = DIFFERENT_FRESHNESS[name]
    reply = [
        (key, value if isinstance(value, str) else date(value)) for key, value in fields
    ]
    if "Date" not in dict(reply):
        reply.append(("Date", date(0)))

    assert both([], reply, request) == expected


@pytest.mark.parametrize(
    ("vary", "first", "second"),
    [
        # Spaces of a list say nothing (4.1).
        ("Foo", "1,2", "1, 2"),
        # Nor does the order of preferences (4.1, RFC 9110 12.5).
        ("Accept-Language", "en, de", "de, en"),
        ("Accept-Encoding", "gzip, br", "BR,gzip"),
    ],
)
def test_values_that_mean_the_same_are_the_same(vary, first, second):
    reply = [KEPT, ("Date", date(0)), ("Vary", vary)]

    assert both([(vary, first)], reply, [(vary, second)]) == (FRESH, STALE)


NO_STORE = [("Cache-Control", "no-store")]
DIFFERENT_STORING = {
    "the client wants that nothing is kept (5.2.1.5)": (NO_STORE, 200, [KEPT], False),
    "of two ways to say private the stricter one counts (4.2.1)": (
        [],
        200,
        [("Cache-Control", 'max-age=9, private, private="a"')],
        False,
    ),
    "who does not understand a status does not keep it (5.2.2.3)": (
        [],
        599,
        [("Cache-Control", "max-age=9, must-understand")],
        False,
    ),
    "who does, may (5.2.2.3)": (
        [],
        200,
        [("Cache-Control", "max-age=9, no-store, must-understand")],
        True,
    ),
    "what no request is given is of no use (4.1)": (
        [],
        200,
        [KEPT, ("Vary", "*")],
        False,
    ),
    "nor what is stale at once and cannot be validated (4.3)": (
        [],
        200,
        [("Cache-Control", "max-age=0")],
        False,
    ),
}


@pytest.mark.parametrize("name", DIFFERENT_STORING)
def test_the_section_decides_what_is_kept(name):
    request, status, reply, ours = DIFFERENT_STORING[name]

    assert Ours.stores(request, status, reply) is ours
    assert Theirs.stores(request, status, reply) is not ours


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        # What is said of the type is taken from a 304 (3.2): only what follows from the
        # bytes is not.
        ("Content-Type", "b/b", "a/a"),
        ("Content-MD5", "a/a", "b/b"),
    ],
)
def test_the_section_decides_what_a_304_changes(name, ours, theirs):
    reply = [("ETag", '"a"'), (name, "a/a")]
    new = [("ETag", '"a"'), (name, "b/b")]
    mine = freshened(Ours.stored([], reply), lines(new), [], 1.0, 2.0)

    assert values(mine.fields, name.lower().encode()) == [ours.encode()]
    assert Theirs.freshens(reply, new).get_list(name) == [theirs]


def test_what_connection_names_is_not_kept():
    """RFC 9111 3.1: hishel keeps it."""
    fields = [("Connection", "a"), ("A", "1"), KEPT]
    state = hishel.CacheMiss(options=OPTIONS, request=hishel.Request("GET", URL)).next(
        hishel.Response(200, headers(fields))
    )

    assert values(Ours.stored([], fields).fields, b"a") == []
    assert state.response.headers.get_list("A") == ["1"]
