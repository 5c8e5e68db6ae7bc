"""From the target of a request to the names of a path."""

from __future__ import annotations

from urllib.parse import quote_from_bytes, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.http.refusal import Refused
from superd.handlers.http.target import Path, parse_target

segments = st.one_of(
    st.sampled_from([b"", b".", b"..", b"%2e", b"%2E%2e", b".a", b"%2f", b"%00", b"%"]),
    st.sampled_from([b"a", b"..%2f", b"%252e", b"...", b"\\", b"%5c..", b"%ff", b"~"]),
    st.text("ab.%2eEfF/", max_size=8).map(str.encode),
)
targets = st.lists(segments, min_size=1, max_size=10).map(
    lambda parts: b"/" + b"/".join(parts)
)
names = st.lists(
    st.binary(min_size=1, max_size=8).filter(
        lambda n: n not in (b".", b"..") and b"/" not in n and b"\0" not in n
    ),
    max_size=8,
)


@given(targets)
def test_no_path_has_a_name_that_is_more_than_a_name(target):
    try:
        path = parse_target(target)
    except Refused:
        return
    for name in path.names:
        assert name not in (b"", b".", b"..")
        assert b"/" not in name
        assert b"\0" not in name


@given(names)
def test_every_name_of_a_file_can_be_asked_for(parts):
    target = "/" + "/".join(quote_from_bytes(part, safe="") for part in parts)
    assert parse_target(target.encode()) == Path(tuple(parts), not parts, b"")


@given(targets)
def test_a_redirect_leads_to_the_same_directory_here(target):
    try:
        path = parse_target(target)
    except Refused:
        return
    where = path.as_directory()
    assert where.startswith(b"/")
    assert not where.startswith(b"//")
    assert where.isascii()
    again = parse_target(where)
    assert again == Path(path.names, slash=True, query=b"")


@given(targets)
def test_an_independent_decoder_agrees(target):
    """What was accepted is what urllib makes of it, decoded once and normalised."""
    try:
        path = parse_target(target)
    except Refused:
        return
    stack = []
    for segment in target.split(b"/"):
        name = unquote_to_bytes(segment)
        if name == b"..":
            stack.pop()
        elif name not in (b"", b"."):
            stack.append(name)
    assert path.names == tuple(stack)


@pytest.mark.parametrize(
    ("target", "hidden"),
    [
        (b"/a/b", False),
        (b"/.a", True),
        (b"/a/.b", True),
        (b"/%2ea", True),
        (b"/x/../.a", True),
        (b"/.a/../b", False),
        (b"/...", True),
        (b"/.well-known/a", False),
        (b"/.well-known", False),
        (b"/.well-known/.a", True),
        (b"/a/.well-known/b", True),
        (b"/.well-known/.well-known", True),
        (b"/.WELL-KNOWN/a", True),
    ],
)
def test_dotfiles_are_hidden_by_what_the_path_came_to(target, hidden):
    assert parse_target(target).hidden == hidden


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/..", 400),
        (b"/a/../..", 400),
        (b"/%", 400),
        (b"/%2", 400),
        (b"/%zz", 400),
        (b"/%+1", 400),
        (b"/% 1", 400),
        (b"/%00", 400),
        (b"/a%2fb", 404),
        (b"/#", 400),
        (b"*", 400),
        (b"", 400),
        (b"a", 400),
        (b"http:/a", 400),
        (b"http://", 400),
        (b"http:///a", 400),
        (b"http://a:b/", 400),
        (b"gopher://a/", 400),
        (b"/a" * 65, 404),
    ],
)
def test_a_target_that_leads_nowhere_is_refused(target, status):
    with pytest.raises(Refused) as caught:
        parse_target(target)
    assert caught.value.status == status


def test_the_query_is_cut_off_and_kept():
    assert parse_target(b"/a?b/../c?%zz") == Path(
        (b"a",), slash=False, query=b"b/../c?%zz"
    )
    whole = parse_target(b"http://h:80?q")
    assert whole == Path((), slash=True, query=b"q", host=b"h:80")


@given(st.lists(st.text("ab0-_~.", max_size=4), min_size=1, max_size=70))
def test_a_plain_path_is_read_as_any_other(parts):
    target = ("/" + "/".join(parts)).encode()
    # With a query it goes the long way.
    assert read(target) == read(target + b"?")


def read(target):
    try:
        return parse_target(target)
    except Refused as refused:
        return refused.status
