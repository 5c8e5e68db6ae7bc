"""What superd itself tells of a name: texts of a folder, plans of a user, logins."""

from __future__ import annotations

import os
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers import finger_directory, finger_logins
from superd.handlers.exits import SetupError
from superd.handlers.finger_accounts import TEXT_BYTES, Account, texts_of
from superd.handlers.finger_logins import RECORD, Login, logins, parse_logins
from superd.handlers.finger_texts import folder, read_text

SECRET = b"not for the world\n"


@pytest.fixture
def place(tmp_path):
    """Make a folder with everything in it that is not to be told, beside a secret."""
    (tmp_path / "secret").write_bytes(SECRET)
    path = tmp_path / "people"
    path.mkdir(mode=0o755)
    (path / "alice").write_bytes(b"at sea\n")
    (path / "closed").write_bytes(SECRET)
    (path / "closed").chmod(0o640)
    (path / ".hidden").write_bytes(SECRET)
    (path / "link").symlink_to("../secret")
    (path / "inside").symlink_to("alice")
    (path / "folder").mkdir()
    (path / "folder" / "x").write_bytes(SECRET)
    (path / "up").symlink_to("..")
    os.mkfifo(path / "fifo", 0o644)
    return path


NOT_TOLD = ["closed", ".hidden", "link", "inside", "folder", "fifo", "nobody"]
NOT_TOLD += ["..", ".", "../secret", "folder/x", "up/secret", "/etc/passwd", "x" * 300]


def test_a_name_has_the_text_of_its_file(place):
    assert finger_directory.tell(str(place), "alice", 100) == b"at sea\n"
    assert finger_directory.tell(str(place), "alice", 2) == b"at"


@pytest.mark.parametrize("name", NOT_TOLD)
def test_what_is_no_public_file_of_the_directory_is_not_told(place, name):
    assert finger_directory.tell(str(place), name, 100) is None


def test_the_names_of_the_directory_are_those_it_tells(place):
    (place / "no name").write_bytes(b"x")
    (place / "-l").write_bytes(b"x")
    (place / "bob").write_bytes(b"")
    assert finger_directory.tell_names(str(place)) == b"alice\nbob\n"


def test_an_empty_directory_has_nobody(tmp_path):
    assert finger_directory.tell_names(str(tmp_path)) == b"Nobody is here.\n"


def test_a_directory_that_is_none_is_the_operators_fault(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for path in ("missing", "file"):
        with pytest.raises(SetupError, match="--directory"):
            finger_directory.tell(str(tmp_path / path), "alice", 9)
        with pytest.raises(SetupError, match="--directory"):
            finger_directory.tell_names(str(tmp_path / path))


def test_a_name_that_turns_into_a_link_or_a_fifo_meanwhile_tells_nothing_else(place):
    """Somebody swaps the file while it is asked for: the text or nothing, never more."""
    target, going = place / "alice", threading.Event()

    def swap():
        kinds = [
            lambda path: path.symlink_to("../secret"),
            lambda path: os.mkfifo(path, 0o644),
            lambda path: path.write_bytes(b"at sea\n"),
        ]
        number = 0
        while not going.is_set():
            fresh = place / f"fresh{number}"
            kinds[number % 3](fresh)
            fresh.replace(target)
            number += 1

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        seen = {finger_directory.tell(str(place), "alice", 100) for _ in range(2000)}
    finally:
        going.set()
        swapper.join()
    assert seen <= {None, b"at sea\n", b""}


@given(name=st.text(alphabet="./ax-\u00e4", max_size=12))
def test_no_name_leads_out_of_the_folder(tmp_path_factory, name):
    top = tmp_path_factory.getbasetemp() / "names"
    (top / "in").mkdir(parents=True, exist_ok=True)
    for path in (top / "a", top / "x"):
        path.write_bytes(SECRET)
    with folder(str(top / "in")) as fd:
        assert read_text(fd, name, 100) is None


# -- users ----------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path):
    path = tmp_path / "home"
    path.mkdir(mode=0o755)
    (path / ".project").write_bytes(b"superd\nsecond line\n")
    (path / ".plan").write_bytes(b"to rest\nat last")
    (path / ".pgpkey").write_bytes(b"0xABC\n")
    return path


def account(path, uid=None):
    return Account("alice", "Alice", os.getuid() if uid is None else uid, str(path))


def test_a_user_is_told_of_by_the_files_of_finger(home):
    short = b"Project: superd\nPlan:\nto rest\nat last\n"
    assert texts_of(account(home), long=False) == short
    assert texts_of(account(home), long=True) == short + b"PGP key:\n0xABC\n"


def test_a_plan_that_is_a_link_or_not_for_all_is_not_told(home, tmp_path):
    (tmp_path / "secret").write_bytes(SECRET)
    (home / ".plan").unlink()
    (home / ".plan").symlink_to(tmp_path / "secret")
    (home / ".project").chmod(0o600)
    (home / ".pgpkey").unlink()
    os.mkfifo(home / ".pgpkey", 0o644)
    assert texts_of(account(home), long=True) == b""


def test_a_plan_of_somebody_else_is_not_told(home):
    if os.getuid() == 0:
        for name in (".plan", ".project"):
            os.chown(home / name, 1234, -1)
    assert texts_of(account(home, uid=4321), long=False) == b""


def test_a_home_that_is_closed_closes_what_is_in_it(home):
    home.chmod(0o700)
    assert texts_of(account(home), long=True) == b""


@pytest.mark.parametrize("path", ["", "relative", "/nonexistent", "/etc/passwd"])
def test_a_home_that_is_none_has_no_plan(path):
    assert texts_of(account(path), long=True) == b""


def test_a_plan_is_told_up_to_a_bound(home):
    (home / ".plan").write_bytes(b"x" * (TEXT_BYTES + 1))
    told = texts_of(account(home), long=False)
    assert told.count(b"x") == TEXT_BYTES


# -- logins ---------------------------------------------------------------------------


def record(kind, name, line):
    head = struct.pack("=hxxi32s4s32s", kind, 1, line, b"", name)
    return head.ljust(RECORD, b"\1")


def test_the_sessions_of_users_are_the_logins(tmp_path):
    path = tmp_path / "utmp"
    path.write_bytes(
        record(2, b"reboot", b"~")
        + record(7, b"alice", b"pts/0")
        + record(8, b"gone", b"pts/1")
        + record(7, b"b" * 32, b"pts/2")
        + record(7, b"torn", b"pts/3")[:-1]
    )
    assert logins(str(path)) == [Login("alice", "pts/0"), Login("b" * 32, "pts/2")]


@given(st.binary(max_size=3 * RECORD))
def test_anything_may_be_in_utmp(data):
    for login in parse_logins(data):
        assert login.name
        assert "\0" not in login.name + login.line
        assert len(login.name) <= 32


def test_utmp_is_read_as_far_as_it_may_be_long():
    assert finger_logins.MOST_BYTES // RECORD > 1000
