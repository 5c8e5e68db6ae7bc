"""The folder that is served: one descriptor, and always the right folder."""

from __future__ import annotations

import os

import pytest
from inetd import connection, fork
from looped import serve

from superd.handlers import httpd
from superd.handlers.http.root import Roots

ASK = b"GET /name HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


@pytest.fixture
def roots():
    made = Roots()
    yield made
    made.close()


def folder(path, name):
    path.mkdir()
    (path / "name").write_text(name)
    (path / "name").chmod(0o644)
    return str(path)


def name_in(root):
    fd = os.open("name", os.O_RDONLY, dir_fd=root.fd)
    with open(fd) as file:
        return file.read()


def test_connections_share_the_descriptor(roots, tmp_path):
    path = folder(tmp_path / "www", "one")
    first, second = roots.take(path), roots.take(path)
    assert first is second
    roots.give_back(first)
    roots.give_back(second)
    assert roots.take(path) is first
    roots.give_back(first)


def test_a_folder_that_was_replaced_is_for_those_who_come_later(roots, tmp_path):
    path = folder(tmp_path / "www", "one")
    before = roots.take(path)
    os.rename(path, tmp_path / "old")
    folder(tmp_path / "www", "two")
    after = roots.take(path)
    assert (name_in(before), name_in(after)) == ("one", "two")
    roots.give_back(before)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(before.fd)
    roots.give_back(after)


def test_a_folder_made_anew_is_never_taken_for_the_old_one(roots, tmp_path):
    """A number of an inode is given again at once, but not while it is open."""
    path = tmp_path / "www"
    for number in range(20):
        root = roots.take(folder(path, str(number)))
        assert name_in(root) == str(number)
        roots.give_back(root)
        (path / "name").unlink()
        path.rmdir()


def test_a_link_to_another_folder_is_followed_anew(roots, tmp_path):
    link = tmp_path / "www"
    link.symlink_to(folder(tmp_path / "a", "one"))
    first = roots.take(str(link))
    (tmp_path / "new").symlink_to(folder(tmp_path / "b", "two"))
    os.rename(tmp_path / "new", link)
    second = roots.take(str(link))
    assert (name_in(first), name_in(second)) == ("one", "two")
    roots.give_back(first)
    roots.give_back(second)


def test_a_folder_that_has_gone_is_an_error_and_may_come_back(roots, tmp_path):
    path = folder(tmp_path / "www", "one")
    roots.give_back(roots.take(path))
    os.rename(path, tmp_path / "old")
    with pytest.raises(FileNotFoundError):
        roots.take(path)
    folder(tmp_path / "www", "two")
    root = roots.take(path)
    assert name_in(root) == "two"
    roots.give_back(root)


def test_fifty_connections_of_a_loop_need_one_descriptor_of_the_root(tmp_path):
    path = folder(tmp_path / "www", "one")

    def main(_argv):
        pairs = [connection("pair") for _ in range(50)]
        for peer, _ in pairs:
            peer.sendall(ASK + LAST)
        statuses = serve(httpd, ["--root", path], [sock.fileno() for _, sock in pairs])
        answers = [peer.recv(1 << 16) for peer, _ in pairs]
        for pair in pairs:
            for sock in pair:
                sock.close()
        assert set(statuses) == {0}
        assert all(answer.count(b"one") == 2 for answer in answers)
        return 0

    with fork(main) as served:
        assert (served.wait(), served.log) == (0, "")
