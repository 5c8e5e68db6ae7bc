"""The page that shows a directory: what is on it, and what never is."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from urllib.parse import unquote_to_bytes, urljoin

import pytest
from httpd_root import STAMP, make_root
from hypothesis import given
from hypothesis import strategies as st
from inetd import open_fds

from superd.handlers.http import folder
from superd.handlers.http.files import Rules
from superd.handlers.http.folder import Entry, read_folder
from superd.handlers.http.listing import (
    Order,
    page_of,
    parse_order,
    printable,
    size_of,
)
from superd.handlers.http.refusal import Refused
from superd.handlers.http.root import open_root


class Page(HTMLParser):
    """The links of a page in their order, its tags, and its text."""

    def __init__(self, page):
        super().__init__()
        self.links, self.tags, self.text = [], [], ""
        self.feed(page.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key == "href"]

    def handle_data(self, data):
        self.text += data


names = st.binary(min_size=1, max_size=20).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
entries = st.builds(
    Entry, names, st.booleans(), st.integers(0, 2**62), st.integers(-(2**62), 2**62)
)
orders = st.builds(Order, st.sampled_from(["name", "size", "date"]), st.booleans())


@given(st.lists(names, max_size=3), st.lists(entries, max_size=8), orders)
def test_every_name_is_one_link_that_leads_to_it_and_no_tag(path, found, order):
    page = Page(page_of(path, found, order, more=False))
    plain = Page(page_of(path, [], order, more=False))
    assert page.tags.count("a") == 3 + len(found) + bool(path)
    assert set(page.tags) <= {*plain.tags, "td"}
    base = "http://x/a/"
    leads = page.links[3 + bool(path) :]
    reached = sorted(
        unquote_to_bytes(urljoin(base, link).partition("?")[0]) for link in leads
    )
    assert reached == sorted(
        b"http://x/a/" + entry.name + (b"/" if entry.folder else b"") for entry in found
    )


@given(st.binary())
def test_what_does_not_print_is_not_shown(name):
    text = printable(name)
    assert text.isprintable() or "\ufffd" in text
    assert not set(text) & set("\0\x1b\r\n\u202e\u200f\x7f\x9b")


def test_lines_are_sorted_directories_first():
    found = [
        Entry(b"b", False, 1, 3),
        Entry(b"z", True, 0, 9),
        Entry(b"a", False, 2, 2),
        Entry(b"c", False, 3, 1),
        Entry(b"y", True, 0, 8),
    ]
    for order, wanted in (
        (Order(), "y/ z/ a b c"),
        (Order("name", True), "z/ y/ c b a"),
        (Order("size"), "y/ z/ b a c"),
        (Order("size", True), "y/ z/ c a b"),
        (Order("date"), "y/ z/ c a b"),
        (Order("date", True), "z/ y/ b a c"),
    ):
        links = Page(page_of([], found, order, more=False)).links[3:]
        assert [link.partition("?")[0] for link in links] == wanted.split()


def test_a_head_turns_its_own_order_and_begins_that_of_another():
    links = Page(page_of([], [], Order("size"), more=False)).links
    assert links == [
        "?sort=name&order=asc",
        "?sort=size&order=desc",
        "?sort=date&order=asc",
    ]


def test_the_order_goes_along_into_directories_and_to_the_parent():
    found = [Entry(b"d", True, 0, 0), Entry(b"f", False, 0, 0)]
    page = Page(page_of([b"p"], found, Order("date", True), more=False))
    assert page.links[3:] == [
        "../?sort=date&order=desc",
        "d/?sort=date&order=desc",
        "f",
    ]


@pytest.mark.parametrize(
    ("query", "order"),
    [
        (b"", Order()),
        (b"sort=size", Order("size")),
        (b"sort=date&order=desc", Order("date", True)),
        (b"order=desc", Order("name", True)),
        (b"order=up&sort=owner", Order()),
        (b"sort=<script>&&=&order", Order()),
        (b"sort=\xff", Order()),
    ],
)
def test_an_order_is_one_of_six(query, order):
    assert parse_order(query) == order


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (10**9, "1.0 GB"),
        (2**63, "9.2 EB"),
    ],
)
def test_a_size_has_at_most_four_digits(size, text):
    assert size_of(size) == text


def test_a_page_that_is_not_all_says_so():
    page = Page(page_of([], [Entry(b"a", False, 1, 0)], Order(), more=True))
    assert "The first 1 entry; there are more." in page.text


@pytest.fixture
def listed(tmp_path):
    """List a directory below the root of the httpd tests."""
    root = open_root(str(make_root(tmp_path)))

    def read(*path, world_readable=True, hidden=False):
        before = open_fds()
        try:
            found, more = read_folder(root, path, Rules(world_readable), hidden=hidden)
        finally:
            assert open_fds() == before
        assert not more
        return {entry.name.decode(): entry for entry in found}

    yield read
    os.close(root)


def test_what_would_not_be_served_is_not_listed(listed):
    assert set(listed()) == {
        *("index.html", "hello.txt", "empty.txt", "big.bin", "noext"),
        *("with space & <b>.txt", "sub", "empty", "inside", "data"),
    }


def test_an_entry_has_size_and_date_a_link_those_of_its_file(listed):
    found = listed()
    assert found["big.bin"] == Entry(b"big.bin", False, 1 << 20, STAMP)
    assert found["inside"] == Entry(b"inside", False, 6, STAMP)
    assert found["data"].folder
    assert found["sub"].folder


def test_hidden_names_are_listed_only_where_they_are_served(listed):
    found = set(listed(hidden=True)) - set(listed())
    assert found == {".hidden", ".well-known", ".htpasswd"}


def test_private_files_are_listed_only_where_they_are_served(listed):
    found = set(listed(world_readable=False)) - set(listed())
    assert found == {"private.txt", "closed"}


@pytest.mark.parametrize(
    ("path", "status"),
    [((b"closed",), 403), ((b"nothing",), 404), ((b"outdir",), 404), ((b"fifo",), 403)],
)
def test_a_directory_that_is_not_for_everybody_is_refused(listed, path, status):
    with pytest.raises(Refused) as caught:
        listed(*path)
    assert caught.value.status == status


def test_a_directory_that_may_be_passed_but_not_listed_is_refused(listed, tmp_path):
    (tmp_path / "root" / "sub").chmod(0o751)
    with pytest.raises(Refused) as caught:
        listed(b"sub")
    assert caught.value.status == 403


def test_a_directory_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "MOST", 5)
    for number in range(7):
        (tmp_path / f"f{number}").touch(0o644)
    root = open_root(str(tmp_path))
    try:
        found, more = read_folder(root, [], Rules(), hidden=False)
    finally:
        os.close(root)
    assert (len(found), more) == (5, True)
