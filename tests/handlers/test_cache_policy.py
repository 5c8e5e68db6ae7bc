"""What is kept, under which key, and what is thrown away (RFC 9111 2, 3, 4.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.cache.policy import (
    invalidated,
    key_of,
    may_keep,
    may_store,
    to_store,
)
from superd.handlers.forward.fields import values
from superd.handlers.http.response import date_of

NOW = 1_800_000_000.0
OLD = (b"Last-Modified", date_of(NOW - 86400).encode())
LATER = (b"Expires", date_of(NOW + 3600).encode())
PAST = (b"Expires", date_of(NOW - 3600).encode())
TAG = (b"ETag", b'"a"')
AUTHORIZATION = [(b"authorization", b"Basic x")]


def control(text):
    return (b"Cache-Control", text)


def stores(*fields, status=200, method=b"GET", request=()):
    return may_store(method, list(request), status, fields, now=NOW)


@pytest.mark.parametrize(
    "fields",
    [
        [control(b"max-age=3600")],
        [control(b"s-maxage=3600")],
        [LATER],
        [OLD],
        [TAG],
        [PAST, OLD],
        [control(b"no-cache"), TAG],
        [control(b"max-age=0"), TAG],
        [control(b"max-age=3600"), (b"Set-Cookie", b"a=b")],
        [control(b'private="a", max-age=3600')],
        [control(b"max-age=3600, no-store, must-understand")],
        [control(b"max-age=3600"), (b"Content-Range", b"x")],
        [control(b"max-age=3600"), (b"Vary", b"Foo")],
    ],
)
def test_what_can_be_given_again_is_kept(fields):
    assert stores(*fields)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [control(b"max-age=0")],
        [control(b"max-age=-3600")],
        [PAST],
        [(b"Expires", b"0")],
        [(b"ETag", b"malformed")],
        [control(b"no-store, max-age=10000"), LATER, TAG],
        [control(b"No-StOrE"), OLD],
        [control(b"private, max-age=3600")],
        [control(b"max-age=3600"), control(b"PRIVATE")],
        [control(b'private="", max-age=3600')],
        [control(b"max-age=3600"), (b"Vary", b"*")],
    ],
)
def test_what_is_of_no_use_or_for_one_person_is_not(fields):
    assert not stores(*fields)


@pytest.mark.parametrize(
    "status",
    [
        *(200, 203, 204, 299, 301, 302, 303, 307, 308),
        *(400, 404, 410, 499, 500, 502, 503, 504, 599),
    ],
)
def test_any_final_status_is_kept_that_says_how_long(status):
    assert stores(control(b"max-age=9"), status=status)


@pytest.mark.parametrize("status", [100, 103, 206, 304])
def test_what_is_not_the_whole_answer_is_not_kept(status):
    assert not stores(control(b"max-age=9"), status=status)


@pytest.mark.parametrize("status", [201, 202, 403, 502, 503, 504, 599])
def test_other_statuses_are_kept_only_if_they_say_so(status):
    assert not stores(OLD, TAG, status=status)
    assert stores(OLD, TAG, control(b"public"), status=status)


def test_what_has_to_be_understood_is_kept_by_who_does():
    assert not stores(control(b"max-age=9, must-understand"), status=599)
    assert not stores(control(b"max-age=9, no-store, must-understand"), status=599)
    assert stores(control(b"max-age=9, must-understand"), status=404)


@pytest.mark.parametrize("method", [b"HEAD", b"POST", b"PUT", b"OPTIONS", b"get"])
def test_only_answers_to_get_are_kept(method):
    assert not stores(control(b"max-age=9"), method=method)


def test_an_answer_to_one_who_is_known_is_kept_only_if_it_is_for_all():
    assert not stores(LATER, request=AUTHORIZATION)
    assert not stores(control(b"max-age=9"), request=AUTHORIZATION)
    for word in (b"public", b"must-revalidate", b"s-maxage=9"):
        assert stores(control(b"max-age=9, " + word), request=AUTHORIZATION)
        assert not stores(control(b"private, " + word), request=AUTHORIZATION)


def test_the_client_can_want_that_nothing_is_kept():
    assert not stores(control(b"max-age=9"), request=[control(b"no-store")])
    understand = control(b"no-store, must-understand")
    assert not stores(control(b"max-age=9"), request=[understand])


def test_an_answer_is_kept_without_what_is_of_the_connection():
    fields = [
        *((b"Connection", b"a, b"), (b"a", b"1"), (b"b", b"2"), (b"c", b"3")),
        *((b"Keep-Alive", b"x"), (b"Proxy-Authenticate", b"x"), (b"TE", b"x")),
        *((b"Proxy-Authentication-Info", b"x"), (b"Transfer-Encoding", b"x")),
        *((b"Upgrade", b"x"), (b"Set-Cookie", b"x"), (b"Date", b"foo")),
    ]
    request = [(b"Foo", b"1")]
    stored = to_store(
        b"u", request, 200, b"OK", fields, requested=NOW, received=NOW + 1, size=7
    )
    assert stored.fields == [(b"c", b"3"), (b"Set-Cookie", b"x"), (b"Date", b"foo")]
    assert (stored.request, stored.size) == ([], 7)


def test_an_answer_without_a_date_gets_that_of_its_arrival():
    stored = to_store(b"u", [], 200, b"OK", [], requested=NOW, received=NOW + 1.5)
    assert stored.fields == [(b"Date", date_of(NOW + 1).encode())]


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        (b"max-age=1", True),
        (b"no-store", False),
        (b"private", False),
        (b"no-cache", True),
    ],
)
def test_what_a_validation_forbids_to_keep_is_not_kept(text, stays):
    stored = to_store(
        b"u", [], 200, b"OK", [control(text)], requested=NOW, received=NOW
    )
    assert may_keep(stored) is stays


@pytest.mark.parametrize(
    ("url", "key"),
    [
        (b"http://A.example/B", b"http://a.example/B"),
        (b"HTTP://a:80/", b"http://a/"),
        (b"http://a:/", b"http://a/"),
        (b"http://a:8080/", b"http://a:8080/"),
        (b"https://a:443/x", b"https://a/x"),
        (b"https://a:80/x", b"https://a:80/x"),
        (b"http://a", b"http://a/"),
        (b"http://a?b", b"http://a/?b"),
        (b"http://a/?B=1&c#d", b"http://a/?B=1&c"),
        (b"http://a/#", b"http://a/"),
        (b"http://[::1]:80/", b"http://[::1]/"),
        (b"a:443", b""),
        (b"", b""),
    ],
)
def test_urls_that_are_one_have_one_key(url, key):
    assert key_of(b"GET", url) == key_of(b"HEAD", url) == key
    assert key_of(b"POST", url) == b""


URL = b"http://a/x/y?z"


@pytest.mark.parametrize(
    "method", [b"POST", b"PUT", b"DELETE", b"PATCH", b"M-SEARCH", b"FOO"]
)
def test_a_change_that_succeeds_invalidates(method):
    for status in (200, 204, 303):
        assert invalidated(method, status, URL, []) == [URL]
    for status in (400, 404, 500):
        assert invalidated(method, status, URL, []) == []


@pytest.mark.parametrize(
    "method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"PROPFIND"]
)
def test_what_only_reads_does_not(method):
    assert invalidated(method, 200, URL, [(b"Location", b"/b")]) == []


@pytest.mark.parametrize("name", [b"Location", b"Content-Location"])
@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b"/b", b"http://a/b"),
        (b"b?c#d", b"http://a/x/b?c"),
        (b"http://A:80/b", b"http://a/b"),
        (b"//a/b", b"http://a/b"),
        # Of other servers nothing is believed.
        (b"http://b/", None),
        (b"//b/", None),
        (b"https://a/b", None),
        (b"http://a:81/", None),
        (b"http://a@b/", None),
        (b"http://[/", None),
        (b"mailto:x", None),
        (URL, None),
    ],
)
def test_it_invalidates_what_it_names_on_the_same_server(name, value, key):
    found = invalidated(b"POST", 201, URL, [(name, value)])
    assert found == ([URL, key] if key else [URL])


@given(st.text("ab:/?#@[]%.\x80\xff ", max_size=20))
def test_no_location_leads_to_another_server(text):
    value = text.encode("latin-1")
    for key in invalidated(b"POST", 200, URL, [(b"Location", value)]):
        assert key.startswith(b"http://a/")


DIRECTIVES = st.lists(
    st.sampled_from(
        [
            *(b"max-age=9", b"public", b"s-maxage=9", b"no-cache", b"must-revalidate"),
            *(b"No-Store", b"Private", b"private=", b"x=y", b'x="', b""),
        ]
    ),
    max_size=5,
).filter(lambda words: words.count(b'x="') < 2)
"""Two quotes would be a quoted string, in which No-Store is a text."""


@given(DIRECTIVES, st.booleans(), st.sampled_from([200, 302, 599]))
def test_what_is_private_is_never_kept(words, known, status):
    request = AUTHORIZATION if known else []
    fields = [control(b", ".join(words)), TAG, LATER]
    if stores(*fields, status=status, request=request):
        assert not {b"No-Store", b"Private", b"private="}.intersection(words)
        assert not known or {b"public", b"s-maxage=9", b"must-revalidate"} & set(words)
        assert values(fields, b"expires")
