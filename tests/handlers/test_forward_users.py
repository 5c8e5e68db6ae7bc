"""Who may use the proxy."""

from __future__ import annotations

import asyncio
import base64
import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.exits import SetupError
from superd.handlers.forward.users import Users

try:
    CRYPT = ctypes.CDLL("libcrypt.so.1").crypt
except (OSError, AttributeError):
    pytest.skip("no libcrypt.so.1 (libcrypt1)", allow_module_level=True)
CRYPT.restype = ctypes.c_char_p
SETTING = b"$6$rounds=1000$salt$"


def basic(user, password, scheme=b"Basic"):
    return scheme + b" " + base64.b64encode(user + b":" + password)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "users"
    path.write_bytes(b"anna:%b\n" % CRYPT(b"secret", SETTING))
    return path


@pytest.fixture
def users(path):
    return Users(str(path), "the club")


def who_is(users, *values):
    """Find out who asks, as the proxy does."""
    who = users.read(values)
    good = who is not None and (users.knows(who) or users.check(who))
    return who.user if good else None


@pytest.mark.parametrize("scheme", [b"Basic", b"basic", b"BASIC"])
def test_a_user_with_the_right_password_is_known(users, scheme):
    assert who_is(users, basic(b"anna", b"secret", scheme)) == b"anna"


@pytest.mark.parametrize(
    "values",
    [
        *([], [b""], [b"Basic"], [b"Basic "], [b"Basic !"], [b"Bearer c2VjcmV0"]),
        *([basic(b"anna", b"Secret")], [basic(b"anna", b"")], [basic(b"", b"secret")]),
        *([basic(b"otto", b"secret")], [basic(b"anna", b"secret\0")]),
        [basic(b"anna", b"secret"), basic(b"anna", b"secret")],
        [basic(b"anna", b"secret") + b", Basic x"],
        [basic(b"anna", b"x" * 2000)],
        [base64.b64encode(b"anna:secret")],
        [b"Basic " + base64.b64encode(b"anna")],
    ],
)
def test_anybody_else_is_nobody(users, values):
    assert who_is(users, *values) is None


def test_who_is_to_say_who_asks_is_told_how(users):
    assert users.challenge == 'Basic realm="the club", charset="UTF-8"'


def test_a_password_that_was_right_needs_no_second_hash_until_the_file_changes(
    users, path, capfd
):
    who = users.read([basic(b"anna", b"secret")])
    assert not users.knows(who)
    assert users.check(who)
    assert users.knows(who)
    assert not users.knows(who._replace(password=b"other"))
    path.write_bytes(b"anna:%b\nwrong\n" % CRYPT(b"another", SETTING))
    assert not users.knows(who)
    assert not users.check(who)
    path.unlink()
    assert not users.knows(who)
    log = capfd.readouterr().err
    assert f"proxy: option --auth.file: {path}: line 2: not USER:HASH" in log
    assert "secret" not in log
    assert "another" not in log


def test_many_are_checked_at_once_by_threads(users):
    good = users.read([basic(b"anna", b"secret")])
    bad = good._replace(password=b"x")

    async def everybody():
        jobs = [asyncio.to_thread(users.check, who) for who in [good, bad] * 20]
        return await asyncio.gather(*jobs)

    assert asyncio.run(everybody()) == [True, False] * 20


def test_a_file_that_is_not_there_is_a_failure_of_the_set_up(tmp_path):
    with pytest.raises(SetupError, match=r"option --auth.file: .*ENOENT"):
        Users(str(tmp_path / "nothing"), "x")


def test_a_hash_that_protects_nothing_is_a_failure_of_the_set_up(path):
    path.write_bytes(b"anna:secret\n")
    with pytest.raises(
        SetupError, match=r"option --auth.file: .*line 1: not USER:HASH"
    ):
        Users(str(path), "x")


@pytest.mark.parametrize("realm", ['"', "\\", "a\nb", "\u00e4"])
def test_a_realm_that_cannot_be_quoted_is_a_failure_of_the_set_up(path, realm):
    with pytest.raises(SetupError, match=r"option --auth.realm"):
        Users(str(path), realm)


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_no_bytes_are_a_fault_of_ours(values):
    who = Users.read(values)
    assert who is None or (len(values) == 1 and who.user and b"\0" not in b"".join(who))


@given(
    st.binary(min_size=1, max_size=40).filter(lambda x: not set(x) & set(b":\0")),
    st.binary(max_size=40).filter(lambda x: 0 not in x),
)
def test_any_user_and_password_are_read_as_they_were_written(user, password):
    assert Users.read([basic(user, password)]) == (user, password)
