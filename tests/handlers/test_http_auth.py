"""Who may see the files: passwords, and the access log that names who did."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import re

import pytest
from httpd_talk import MAINS, asker, write
from hypothesis import given
from hypothesis import strategies as st
from inetd import fork

from superd.handlers.http.accesslog import AccessLog, Entry
from superd.handlers.http.credentials import credentials_of
from superd.handlers.http.passwords import Passwords
from superd.handlers.http.request import Limits, Request, parse_head

try:
    CRYPT = ctypes.CDLL("libcrypt.so.1").crypt
except (OSError, AttributeError):
    pytest.skip("no libcrypt.so.1 (libcrypt1)", allow_module_level=True)
CRYPT.restype = ctypes.c_char_p
SETTINGS = {
    "bcrypt": b"$2y$04$abcdefghijklmnopqrstuu",
    "sha512-crypt": b"$6$rounds=1000$salt$",
    "sha256-crypt": b"$5$rounds=1000$salt$",
}


def basic(user, password):
    text = base64.b64encode(f"{user}:{password}".encode()).decode()
    return f"Authorization: Basic {text}"


def hashed(password, kind="sha512-crypt"):
    return CRYPT(password.encode(), SETTINGS[kind])


@pytest.fixture
def passwords(tmp_path):
    lines = [b"# who may\n", b"\n"]
    lines += [b"%b:%b\n" % (kind.encode(), hashed("secret", kind)) for kind in SETTINGS]
    lines.append(b"uml\xc3\xa4ut:%b:a comment\r\n" % hashed("p\u00e4ss:word"))
    return write(tmp_path / "htpasswd", b"".join(lines), 0o600)


@pytest.fixture(params=["process", "loop"])
def ask(request, tmp_path, passwords):
    folder = tmp_path / "www"
    tmp_path.chmod(0o755)
    write(folder / "f.txt", b"for members\n")
    write(folder / "401.html", b"members only\n")
    asking = asker(request.param, folder)

    def ask(path, *fields, flags=(), **more):
        return asking(path, *fields, flags=["--auth", str(passwords), *flags], **more)

    return ask


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_right_password_opens_and_a_wrong_one_does_not(ask, kind):
    assert ask("/f.txt", basic(kind, "secret"))[::2][:2] == (200, b"for members\n")
    for line in (basic(kind, "Secret"), basic(kind, ""), basic("nobody", "secret")):
        status, fields, body, log = ask("/f.txt", line)
        assert status == 401
        assert fields["WWW-Authenticate"] == 'Basic realm="files", charset="UTF-8"'
        assert b"members" not in body
        assert log == ""


def test_a_password_may_have_colons_and_any_letter(ask):
    assert ask("/f.txt", basic("uml\u00e4ut", "p\u00e4ss:word"))[0] == 200


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Authorization: Basic"],
        ["Authorization: Basic !!!!"],
        ["Authorization: Basic c2VjcmV0"],
        ["Authorization: Bearer c2VjcmV0"],
        [basic("sha512-crypt", "secret")] * 2,
        [basic("sha512-crypt", "secret\0")],
        [basic("sha512-crypt", "x" * 5000)],
        [basic("", "secret")],
    ],
)
def test_what_is_no_password_is_asked_for_one(ask, lines):
    for path in ("/f.txt", "/missing", "/", "/.htaccess"):
        assert ask(path, *lines)[0] == 401


def test_the_answer_without_a_password_may_be_the_operators_page(ask):
    flags = ["--error-pages", "401: /401.html", "--auth.realm", "the club"]
    status, fields, body, _ = ask("/f.txt", flags=flags)
    # A page is below the root, and the root is for members.
    assert (status, b"members only" in body) == (401, True)
    assert fields["WWW-Authenticate"] == 'Basic realm="the club", charset="UTF-8"'


@pytest.mark.parametrize("mode", MAINS)
def test_a_password_that_was_right_is_not_hashed_again_but_follows_the_file(
    mode, tmp_path, passwords
):
    folder = tmp_path / "www"
    tmp_path.chmod(0o755)
    write(folder / "f.txt", b"x")
    head = f"GET /f.txt HTTP/1.1\r\nHost: x\r\n{basic('bcrypt', 'secret')}\r\n\r\n"
    with fork(MAINS[mode], "--root", str(folder), "--auth", str(passwords)) as served:
        for _ in range(3):
            assert served.send(head.encode()).read_until(b"\r\n\r\nx")[9:12] == b"200"
        passwords.write_bytes(b"bcrypt:" + hashed("another") + b"\nwrong\n")
        assert served.send(head.encode()).read_until(b"</html>\n")[9:12] == b"401"
        passwords.unlink()
        assert served.send(head.encode()).read_until(b"</html>\n")[9:12] == b"401"
        assert served.end().wait() == 0
        assert "htpasswd: line 2: not USER:HASH" in served.log
        assert "htpasswd: ENOENT" in served.log
        assert "secret" not in served.log


def test_a_password_is_hashed_once_and_for_nobody_as_well(passwords):
    known = Passwords(str(passwords), "x")
    calls = []
    crypt = known._crypt
    known._crypt = lambda *words: calls.append(words) or crypt(*words)
    who = credentials_of(request_with(basic("bcrypt", "secret")))
    stranger = credentials_of(request_with(basic("nobody", "secret")))
    assert not known.knows(who)
    assert known.check(who)
    assert known.knows(who)
    assert not known.knows(who._replace(password=b"other"))
    assert not known.check(stranger)
    assert not known.knows(stranger)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "line", [b"a:plain", b"a:$1$md5$x", b"a:{SHA}x", b"a", b":$6$x", b"a:$apr1$x"]
)
def test_a_hash_that_protects_nothing_is_refused_at_the_start(tmp_path, line):
    path = write(tmp_path / "htpasswd", b"ok:" + hashed("x") + b"\n" + line + b"\n")
    with fork(MAINS["process"], "--auth", str(path)) as served:
        assert served.wait() == 100
        assert "line 2: not USER:HASH with a hash of bcrypt or sha512" in served.log


def request_with(line):
    return parse_head(f"GET / HTTP/1.1\r\nHost: x\r\n{line}".encode(), Limits())


# -- the access log -----------------------------------------------------------------------

COMBINED = re.compile(
    r'(\S+) - (\S+) \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] "([^"]*)" '
    r'(\d{3}) (\d+) "([^"]*)" "([^"]*)"'
)


def test_each_request_is_a_line_in_combined_form(ask):
    flags = ["--access-log", "combined"]
    lines = ["Referer: http://a/", "User-Agent: me"]
    *_, log = ask("/f.txt?q", *lines, basic("bcrypt", "secret"), flags=flags)
    found = COMBINED.fullmatch(log.rstrip("\n"))
    assert found.groups() == (
        *("127.0.0.1", "bcrypt", "GET /f.txt?q HTTP/1.1", "200", "12"),
        *("http://a/", "me"),
    )
    *_, log = ask("/f.txt", flags=flags, method="HEAD")
    assert COMBINED.fullmatch(log.rstrip("\n")).groups()[1:5] == (
        *("-", "HEAD /f.txt HTTP/1.1", "401", "0"),
    )


def test_each_request_is_an_object_in_json(ask, tmp_path):
    path = tmp_path / "access.log"
    flags = ["--access-log", "json", "--access-log.file", str(path)]
    *_, log = ask(
        "/f.txt", "User-Agent: \u00e4", basic("bcrypt", "secret"), flags=flags
    )
    assert log == ""
    assert path.stat().st_mode & 0o777 == 0o640
    record = json.loads(path.read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("time"))
    assert record.pop("seconds") >= 0
    assert record == {
        "peer": "127.0.0.1",
        "user": "bcrypt",
        "request": "GET /f.txt HTTP/1.1",
        "host": "x",
        "status": 200,
        "bytes": 12,
        "referer": "",
        "user_agent": "\u00e4",
    }


def test_a_log_that_cannot_be_written_is_in_the_other_one(ask):
    flags = ["--access-log", "combined", "--access-log.file", "/nonexistent/log"]
    status, _, _, log = ask("/f.txt", basic("bcrypt", "secret"), flags=flags)
    assert status == 200
    assert "/nonexistent/log: No such file or directory: 127.0.0.1 - bcrypt" in log


def test_a_rotated_file_is_made_anew(ask, tmp_path):
    path = tmp_path / "access.log"
    flags = ["--access-log", "combined", "--access-log.file", str(path)]
    ask("/f.txt", flags=flags)
    os.rename(path, tmp_path / "access.log.1")
    ask("/f.txt", flags=flags)
    assert path.read_text().count("\n") == 1


@pytest.mark.parametrize("form", ["combined", "json"])
def test_what_could_not_be_read_is_logged_as_it_came(tmp_path, form):
    with fork(
        MAINS["process"], "--root", str(tmp_path), "--access-log", form
    ) as served:
        served.talk(b'GET /"\x1b[31m \xff\\\r\n\r\n')
        assert served.wait() == 110
        line = served.log.splitlines()[0]
    if form == "json":
        assert json.loads(line)["request"] == 'GET /"\x1b[31m \\xff\\'
    else:
        assert '"GET /\\x22\\x1b[31m \\xff\\x5c" 400' in line


@given(*[st.binary(max_size=40)] * 4)
def test_no_peer_writes_a_line_or_a_field_of_its_own(line, user, referer, agent):
    fields = {b"referer": [referer], b"user-agent": [agent]}
    request = Request(b"GET", b"/", 1, fields, 0)
    entry = Entry("192.0.2.7", user, line, request, 200, 5, 0.1)
    combined = AccessLog("combined", None)._form(entry, 1.0)
    assert combined.isprintable()
    assert combined.isascii()
    assert COMBINED.fullmatch(combined)
    text = AccessLog("json", None)._form(entry, 1.0)
    assert text.isprintable()
    assert text.isascii()
    assert json.loads(text)["request"] == line.decode("utf-8", "backslashreplace")
