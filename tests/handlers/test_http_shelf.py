"""What is kept of a file is served only while the file is what it was."""

from __future__ import annotations

import os
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.conversation import Read, Write
from superd.handlers.http.caching import CacheControl
from superd.handlers.http.connection import converse
from superd.handlers.http.files import File, Rules, open_path
from superd.handlers.http.root import open_root
from superd.handlers.http.shelf import LARGEST, SHELF, Shelf
from superd.handlers.http.site import Site


def later():
    """A clock by which whatever was done in this test has settled."""
    return time.time() + 10


def keep(shelf, path):
    """Read a file as the server does, and keep it."""
    with open(path, "rb") as file:
        info = os.fstat(file.fileno())
        content = file.read()
        known = File(file.fileno(), info.st_size, info.st_mtime_ns, info.st_ino)
        shelf.keep(known, content)
    return content


def test_a_file_is_kept_and_found_again(tmp_path):
    (tmp_path / "f").write_bytes(b"hello")
    shelf = Shelf(clock=later)
    assert shelf.find(os.stat(tmp_path / "f")) is None
    keep(shelf, tmp_path / "f")
    assert shelf.find(os.stat(tmp_path / "f")) == b"hello"


def test_a_file_that_has_just_changed_is_not_kept(tmp_path):
    (tmp_path / "f").write_bytes(b"hello")
    shelf = Shelf()
    keep(shelf, tmp_path / "f")
    assert shelf.find(os.stat(tmp_path / "f")) is None
    # Its mtime may say anything.
    os.utime(tmp_path / "f", (1, 1))
    keep(shelf, tmp_path / "f")
    assert shelf.find(os.stat(tmp_path / "f")) is None


def replaced(path):
    path.with_name("new").write_bytes(b"HELLO")
    os.rename(path.with_name("new"), path)


CHANGES = {
    "written": lambda path: path.write_bytes(b"HELLO"),
    "longer": lambda path: path.write_bytes(b"hello!"),
    "replaced": replaced,
    "closed": lambda path: path.chmod(0o600),
    "touched": lambda path: os.utime(path, ns=(5, 5)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen_even_if_the_old_time_is_put_back(tmp_path, change):
    path = tmp_path / "f"
    path.write_bytes(b"hello")
    os.utime(path, ns=(1, 1))
    shelf = Shelf(clock=later)
    keep(shelf, path)
    before = os.stat(path)
    change(path)
    os.utime(path, ns=(1, 1))
    assert shelf.find(os.stat(path)) is None
    assert shelf.find(before) == b"hello"


def test_what_changed_while_it_was_read_is_not_kept(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"hello")
    shelf = Shelf(clock=later)
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        os.utime(path, ns=(7, 7))
        known = File(file.fileno(), info.st_size, info.st_mtime_ns, info.st_ino)
        shelf.keep(known, file.read())
    assert shelf.find(os.stat(path)) is None


def test_a_large_file_is_not_kept_nor_half_a_one(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(bytes(LARGEST + 1))
    shelf = Shelf(clock=later)
    keep(shelf, path)
    assert shelf.find(os.stat(path)) is None
    path.write_bytes(b"hello")
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        known = File(file.fileno(), info.st_size, info.st_mtime_ns, info.st_ino)
        shelf.keep(known, b"hell")
    assert shelf.find(os.stat(path)) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60)), max_size=30))
def test_what_is_kept_is_never_more_than_there_is_room_for(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("shelf")
    shelf = Shelf(room=100, clock=later)
    for name, size in steps:
        path = folder / str(name)
        path.write_bytes(bytes(size))
        content = keep(shelf, path)
        assert shelf.find(os.stat(path)) == content
        total = sum(map(len, shelf._kept.values()))
        assert total <= 100
        assert shelf._free == 100 - total


def test_what_lies_beside_a_file_is_looked_for_again_when_the_folder_changes(tmp_path):
    shelf = Shelf(clock=later)
    endings = (b".br", b".gz")
    folder = os.open(tmp_path, os.O_PATH)
    try:
        assert shelf.siblings(b"f", folder, endings) == []
        (tmp_path / "f.gz").write_bytes(b"")
        os.utime(tmp_path, ns=(1, 1))
        assert shelf.siblings(b"f", folder, endings) == [b".gz"]
        assert shelf.siblings(b"g", folder, endings) == []
        os.rename(tmp_path / "f.gz", tmp_path / "f.br")
        os.utime(tmp_path, ns=(2, 2))
        assert shelf.siblings(b"f", folder, endings) == [b".br"]
        (tmp_path / "f.br").unlink()
        os.utime(tmp_path, ns=(3, 3))
        assert shelf.siblings(b"f", folder, endings) == []
        assert list(shelf.siblings(b"f", folder, ())) == []
    finally:
        os.close(folder)


def test_in_a_folder_that_changes_now_it_is_looked_for_each_time(tmp_path):
    shelf = Shelf()
    folder = os.open(tmp_path, os.O_PATH)
    try:
        for there in (False, True, False):
            if there:
                (tmp_path / "f.gz").write_bytes(b"")
            elif (tmp_path / "f.gz").exists():
                (tmp_path / "f.gz").unlink()
            os.utime(tmp_path, ns=(1, 1))
            assert shelf.siblings(b"f", folder, (b".gz",)) == [b".gz"] * there
    finally:
        os.close(folder)


OLD = os.path.join(os.path.dirname(os.__file__), "this.py")


@pytest.mark.skipif(
    not os.path.exists(OLD) or time.time() - os.stat(OLD).st_ctime < 60,
    reason="the standard library is not there, or was installed this minute",
)
def test_a_kept_file_is_served_as_an_open_one_and_opened_no_more():
    root = open_root(os.path.dirname(OLD))
    try:
        site = Site(described={})
        answers = [play(root, site) for _ in range(3)]
        again = open_path(root, [b"this.py"], Rules())
        assert again.fd == -1
        again.close()
    finally:
        os.close(root)
    with open(OLD, "rb") as file:
        content = file.read()
    assert SHELF.find(os.stat(OLD)) == content
    for whole, part, parts, head in answers:
        assert whole.endswith(b"\r\n\r\n" + content)
        assert part.endswith(b"\r\n\r\n" + content[5:10])
        assert b"\r\n\r\n" + content[-3:] + b"\r\n--" in parts
        assert head.endswith(b"\r\n\r\n")
    # Head and all, but for the dates and the boundary.
    dates = re.compile(rb"Date: [^\r]*|[0-9a-f]{32}")
    assert (
        len({tuple(dates.sub(b"", one) for one in answer) for answer in answers}) == 1
    )


def test_what_is_known_of_a_file_is_told_as_its_path_and_site_say():
    """The same file under two paths and in two sites."""
    root = open_root(os.path.dirname(OLD))
    sites = [
        Site(headers=("X-A: b",), described={}),
        Site(cache_control=CacheControl([("*", "no-store")]), described={}),
    ]
    try:
        found = [play(root, site)[0] for _ in range(2) for site in sites]
    finally:
        os.close(root)
    for answer, line in zip(
        found, [b"X-A: b", b"Cache-Control: no-store"] * 2, strict=True
    ):
        assert b"\r\n" + line + b"\r\n" in answer
        assert sum(one in answer for one in (b"X-A", b"no-store")) == 1


def play(root, site=None):
    """Ask for the file in four ways on one connection."""
    site = site or Site(described={})
    ask = b"%b /this.py HTTP/1.1\r\nHost: x\r\n%b\r\n"
    waiting = [
        ask % (b"GET", b""),
        ask % (b"GET", b"Range: bytes=5-9\r\n"),
        ask % (b"GET", b"Range: bytes=-3,0-1\r\n"),
        ask % (b"HEAD", b""),
        b"",
    ]
    written = []
    talk = converse(site, root)
    step = next(talk)
    try:
        while True:
            if isinstance(step, Write):
                written.append(step.data)
            step = talk.send(waiting.pop(0) if isinstance(step, Read) else None)
    except StopIteration:
        return written
