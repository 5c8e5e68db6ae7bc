"""No file outside the root, whatever the names and the links: against an oracle."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

import pytest
from httpd_root import SECRET, make_root
from hypothesis import given
from hypothesis import strategies as st
from inetd import open_fds

from superd.handlers.http.files import (
    INSIDE,
    NEVER,
    OWNER,
    File,
    Rules,
    open_index,
    open_path,
)
from superd.handlers.http.refusal import Refused
from superd.handlers.http.root import open_root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    """A folder full of links, good and bad, among few names."""
    top = tmp_path_factory.mktemp("maze")
    root = top / "a"
    for name in ("a/a", "a/a/b", "a/b", "b", "b/a"):
        (top / name).mkdir(parents=True)
    for name, inside in (
        ("a/f", 1),
        ("a/a/f", 1),
        ("a/a/b/f", 1),
        ("b/f", 0),
        ("f", 0),
    ):
        (top / name).write_text("inside" if inside else "outside")
    for number, target in enumerate(
        [
            "f",
            "a",
            "..",
            "../f",
            "../b",
            "../a",
            "a/../f",
            "../a/f",
            "b/../../f",
            ".",
            "c0",
            "c2/c1",
            "../../f",
            "a/b/../../f",
            "c13",
            "c12",
            str(root),
            "/",
            "f/..",
            "a/",
            "f/",
            "../c4",
        ]
    ):
        for below in ("", "a", "a/b"):
            (root / below / f"c{number}").symlink_to(target)
    return root


def serve(root, names, **options):
    fd = open_root(str(root))
    try:
        before = open_fds()
        try:
            file = open_path(fd, names, Rules(**{"world_readable": False, **options}))
        except Refused as refused:
            assert open_fds() == before
            return refused.status
        if file is None:
            assert open_fds() == before
            return None
        assert isinstance(file, File)
        try:
            # A link of /proc tells where the descriptor really leads.
            return os.readlink(f"/proc/self/fd/{file.fd}")
        finally:
            os.close(file.fd)
    finally:
        os.close(fd)


words = st.sampled_from(["a", "b", "f", *(f"c{n}" for n in range(22))])


@given(st.lists(words, min_size=1, max_size=6))
def test_whatever_is_opened_lies_inside_by_the_kernels_account(maze, parts):
    """The kernel decides by realpath: inside and a file, or it is not served."""
    served = serve(maze, [part.encode() for part in parts])
    real = os.path.realpath(os.path.join(maze, *parts))
    inside = real == str(maze) or real.startswith(f"{maze}/")
    if isinstance(served, str):
        assert served == real
        assert inside
        assert stat.S_ISREG(os.stat(real).st_mode)
    elif served is None:
        assert inside
        assert os.path.isdir(real)


@given(st.lists(words, min_size=1, max_size=4))
def test_what_lies_inside_all_the_way_is_served(maze, parts):
    """The other direction: a walk that never leaves the root by `..` gets its file."""
    try:
        expected = _slow_walk(maze, parts)
    except OSError:
        expected = 404
    assert serve(maze, [part.encode() for part in parts]) == expected


def _slow_walk(root, parts):
    """Resolve one link at a time with whole paths, the way of a textbook."""
    here, ahead, links = str(root), list(parts), 0
    while ahead:
        name = ahead.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            if here == str(root):
                raise OSError
            here = os.path.dirname(here)
            continue
        path = os.path.join(here, name)
        if os.path.islink(path):
            links += 1
            target = os.readlink(path)
            if target.startswith("/") or links > 40:
                raise OSError
            ahead = target.split("/") + ahead
        elif os.path.isdir(path):
            here = path
        elif os.path.isfile(path) and not ahead:
            return path
        else:
            raise OSError
    return None


def test_the_oracle_can_fail(maze):
    """A naive open does leave the root, so the maze is one."""
    escaped = [
        name
        for name in os.listdir(maze)
        if not os.path.realpath(maze / name).startswith(str(maze))
        and os.path.isfile(maze / name)
    ]
    assert escaped


def test_no_name_of_the_folder_gives_the_secret(folder):
    seen = set()
    for path, folders, names in os.walk(folder, followlinks=False):
        for name in [*folders, *names]:
            parts = os.path.relpath(os.path.join(path, name), folder).split("/")
            served = serve(folder, [p.encode() for p in parts], world_readable=True)
            if isinstance(served, str) and "/." not in served:
                with open(served, "rb") as file:
                    assert file.read() != SECRET
                seen.add(name)
    assert {"hello.txt", "inside", "up"} <= seen


def test_only_world_readable_files_are_served_unless_told_otherwise(folder):
    for names in ([b"private.txt"], [b"closed", b"secret.txt"]):
        assert serve(folder, names, world_readable=True) == 403
    if os.getuid() == os.stat(folder).st_uid:
        assert serve(folder, [b"private.txt"]) == str(folder / "private.txt")


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_what_is_no_file_is_not_even_opened(folder, kind, tmp_path):
    if kind == "fifo":
        assert serve(folder, [b"fifo"]) == 403
        return
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert serve(tmp_path, [b"s"]) == 403


def test_the_root_may_be_a_link(folder, tmp_path):
    (tmp_path / "www").symlink_to(folder)
    assert serve(tmp_path / "www", [b"hello.txt"]) == str(folder / "hello.txt")


def test_a_tree_deeper_than_the_walk_is_not_followed(tmp_path):
    (tmp_path / "here").symlink_to(".")
    (tmp_path / "f").write_text("x")
    assert serve(tmp_path, [b"here"] * 40 + [b"f"]) == str(tmp_path / "f")
    assert serve(tmp_path, [b"here"] * 41 + [b"f"]) == 404
    deep = tmp_path
    for _ in range(130):
        deep = deep / "d"
    os.makedirs(deep)
    assert serve(tmp_path, [b"d"] * 128) is None
    assert serve(tmp_path, [b"d"] * 129) == 404


def test_a_file_swapped_for_a_link_is_never_followed_outside(tmp_path):
    """Rename a link over the file again and again while it is asked for."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_bytes(SECRET)
    (root / "good").write_text("good")
    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            while os.getppid() != 1:
                os.symlink("../secret", root / "l")
                os.rename(root / "l", root / "f")
                os.link(root / "good", root / "g")
                os.rename(root / "g", root / "f")
        os._exit(0)
    try:
        answers = {str(serve(root, [b"f"])) for _ in range(3000)}
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert str(tmp_path / "secret") not in answers
    assert any(a.startswith(str(root)) for a in answers)


def test_the_first_index_that_is_there_is_served(folder):
    fd = open_root(str(folder))
    try:
        name, file = open_index(fd, [b"sub"], [b"default.htm", b"index.html"], Rules())
        os.close(file.fd)
        assert name == b"index.html"
        with pytest.raises(Refused):
            open_index(fd, [b"empty"], [b"index.html"], Rules())
    finally:
        os.close(fd)


@pytest.fixture
def owned(tmp_path):
    """Files and links of two owners; only root may give things away."""
    root = tmp_path / "root"
    (root / "mine").mkdir(parents=True)
    (root / "theirs").mkdir()
    for name in ("mine/f", "theirs/f"):
        (root / name).write_bytes(b"x")
    for link, target in {
        "mine/own": "f",
        "mine/other": "../theirs/f",
        "mine/others": "../theirs",
        "mine/up": "../mine",
        "theirs/other": "../mine/f",
        "theirs/twice": "../mine/other",
    }.items():
        (root / link).symlink_to(target)
    for name in ("theirs", "theirs/f", "theirs/other", "theirs/twice"):
        os.chown(root / name, 12345, 12345, follow_symlinks=False)
    return root


@pytest.mark.root
@pytest.mark.parametrize(
    ("path", "never", "owner", "inside"),
    [
        ("mine/f", "mine/f", "mine/f", "mine/f"),
        ("mine/own", 404, "mine/f", "mine/f"),
        ("mine/up/own", 404, "mine/f", "mine/f"),
        ("mine/other", 404, 404, "theirs/f"),
        ("mine/others/f", 404, 404, "theirs/f"),
        ("theirs/other", 404, 404, "mine/f"),
        # A link to a link: each has to belong to who has what it leads to.
        ("theirs/twice", 404, 404, "theirs/f"),
        ("theirs/f", "theirs/f", "theirs/f", "theirs/f"),
    ],
)
def test_a_link_is_followed_by_the_rule_for_links(owned, path, never, owner, inside):
    names = [name.encode() for name in path.split("/")]
    for rule, wanted in ((NEVER, never), (OWNER, owner), (INSIDE, inside)):
        found = serve(owned, names, links=rule)
        assert found == (f"{owned}/{wanted}" if isinstance(wanted, str) else wanted)


def test_without_root_links_are_followed_by_the_rule_too(maze):
    for parts, wanted in (([b"a", b"f"], None), ([b"c0"], 404)):
        found = serve(maze, parts, links=NEVER)
        assert found == wanted or isinstance(found, str)
    assert serve(maze, [b"c0"], links=OWNER) == serve(maze, [b"c0"], links=INSIDE)


@given(st.lists(words, min_size=1, max_size=6), st.sampled_from([NEVER, OWNER]))
def test_a_stricter_rule_serves_what_inside_serves_or_nothing(maze, parts, rule):
    names = [part.encode() for part in parts]
    loose, strict = serve(maze, names, links=INSIDE), serve(maze, names, links=rule)
    assert strict in (loose, 404)
    if rule == NEVER and isinstance(strict, str):
        assert strict == os.path.join(maze, *parts)
