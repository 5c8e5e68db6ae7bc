"""What an answer is made of."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import html
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.http import style
from superd.handlers.http.media import type_of
from superd.handlers.http.response import REASONS, date_of, head_of, lines_of, page_of


@given(st.integers(0, 253402300799))
def test_a_date_is_read_back_by_another_parser(moment):
    text = date_of(moment)
    assert len(text) == 29
    assert email.utils.parsedate_to_datetime(text).timestamp() == moment


@pytest.mark.parametrize("moment", [-1e18, -1, 0, 1e18])
def test_a_date_out_of_range_is_the_nearest_that_can_be_written(moment):
    nearest = min(max(moment, 0), 253402300799)
    assert date_of(moment) == date_of(nearest)
    assert len(date_of(moment)) == 29


@given(st.text(), st.sampled_from(sorted(REASONS)))
def test_a_page_has_no_tag_of_the_peer(text, status):
    class Tags(HTMLParser):
        seen = ()

        def handle_starttag(self, tag, attrs):
            self.seen = (*self.seen, tag)

    tags = Tags()
    page = page_of(status, text.encode("utf-8", "replace").decode()).decode()
    tags.feed(page)
    assert tags.seen == (
        "html",
        "head",
        *["meta"] * 3,
        "title",
        "style",
        "body",
        "h1",
        "p",
    )
    if text.isalnum():
        assert text[1:] in html.unescape(page)


def test_a_head_has_date_and_nosniff_and_no_version():
    lines = lines_of([("A", "b")], ["C: d"])
    head = head_of(200, lines, now=0.9, keep=True, minor=1)
    assert head == (
        b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nA: b\r\n"
        b"X-Content-Type-Options: nosniff\r\nC: d\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("keep", "minor", "line"),
    [
        (True, 1, b""),
        (True, 0, b"Connection: keep-alive\r\n"),
        (False, 1, b"Connection: close\r\n"),
        (False, 0, b"Connection: close\r\n"),
    ],
)
def test_connection_is_said_where_it_is_not_understood(keep, minor, line):
    head = head_of(404, lines_of([]), now=0, keep=keep, minor=minor)
    assert head.endswith(b"nosniff\r\n" + line + b"\r\n")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"a.html", "text/html; charset=utf-8"),
        (b"A.HTML", "text/html; charset=utf-8"),
        (b"a.tar.gz", "application/gzip"),
        (b"a.js", "text/javascript; charset=utf-8"),
        (b"a.png", "image/png"),
        (b"html", "application/octet-stream"),
        (b"a.", "application/octet-stream"),
        (b"a.\xff", "application/octet-stream"),
        (b"a.html\r\nX: y", "application/octet-stream"),
    ],
)
def test_the_type_is_that_of_the_suffix(name, kind):
    assert type_of(name) == kind


@pytest.mark.parametrize(
    ("page", "policy"),
    [(style.PLAIN, style.PLAIN_POLICY), (style.TABLE, style.TABLE_POLICY)],
)
def test_the_policy_of_a_page_names_its_style_and_no_other(page, policy):
    digest = base64.b64encode(hashlib.sha256(page.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'"
    assert "<" not in page
