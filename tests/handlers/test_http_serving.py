"""Conditions, ranges, listings and the operator's fields, over real connections."""

from __future__ import annotations

import email
import email.policy
import os
import re

import pytest
from httpd_root import make_root
from inetd import fork
from looped import in_loop

from superd.handlers import httpd
from superd.handlers.http import style

BIG = bytes(range(256)) * 4096
DATE = "Sun, 09 Sep 2001 01:46:40 GMT"
HEADERS = ["--headers", "X-Frame-Options: DENY", "--headers", "X-Two: 2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("httpd"))


@pytest.fixture(params=["process", "loop"])
def get(request, folder):
    """Ask for a path with fields; returns the status, the fields, the body."""
    main = httpd.main if request.param == "process" else in_loop(httpd)

    def ask(path, *fields, flags=(), method="GET", root=folder):
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *fields, "Connection: close"]
        with fork(main, "--root", str(root), *flags) as served:
            answer = served.send("\r\n".join([*lines, "", ""]).encode()).read()
            assert served.end().wait() == 0
            assert served.log == ""
        return split(answer)

    return ask


def split(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0][9:12]), dict(line.split(": ", 1) for line in lines[1:]), body


def test_a_file_that_the_peer_has_is_not_sent_again(get):
    status, fields, body = get("/hello.txt")
    assert (status, body) == (200, b"hello\n")
    assert fields["Last-Modified"] == DATE
    assert fields["Accept-Ranges"] == "bytes"
    tag = fields["ETag"]
    assert re.fullmatch(r'"[0-9a-f]+-6-[0-9a-f]+"', tag)
    for line in (f"If-None-Match: {tag}", f"If-Modified-Since: {DATE}"):
        status, fields, body = get("/hello.txt", line)
        assert (status, body) == (304, b"")
        assert fields.keys() == {
            *("Date", "ETag", "X-Content-Type-Options", "Connection"),
        }
        assert fields["ETag"] == tag
    assert get("/hello.txt", f"If-Match: {tag}")[0] == 200
    assert get("/hello.txt", 'If-Match: "x"')[0] == 412


def test_a_condition_means_nothing_where_the_answer_is_another(get):
    for path, status in (("/nothing", 404), ("/sub", 301), ("/private.txt", 403)):
        assert get(path, "If-Match: x", "If-None-Match: *")[0] == status


def test_a_new_file_has_a_weak_tag_and_another_one_each_time(get, tmp_path):
    path = tmp_path / "new"
    tags = set()
    for number in range(3):
        path.write_bytes(b"%d" % number)
        path.chmod(0o644)
        os.utime(path, ns=(0, 4_000_000_000_000_000_000 + number))
        tags.add(get("/new", root=tmp_path)[1]["ETag"])
    assert len(tags) == 3
    assert all(tag.startswith("W/") for tag in tags)


@pytest.mark.parametrize(
    ("wish", "first", "end"),
    [
        ("0-9", 0, 10),
        ("-10", len(BIG) - 10, len(BIG)),
        ("1000-", 1000, len(BIG)),
        ("0-", 0, len(BIG)),
        ("5-70000", 5, 70001),
    ],
)
def test_a_part_of_a_file(get, wish, first, end):
    status, fields, body = get("/big.bin", f"Range: bytes={wish}")
    assert status == 206
    assert body == BIG[first:end]
    assert fields["Content-Range"] == f"bytes {first}-{end - 1}/{len(BIG)}"
    assert fields["Content-Length"] == str(len(body))
    assert fields["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    "spans", [[(500, 600), (0, 10)], [(7, 300_000), (1, 2), (900_000, 1_048_576)]]
)
def test_several_parts_come_in_the_order_of_the_request(get, spans):
    wish = ", ".join(f"{first}-{end - 1}" for first, end in spans)
    status, fields, body = get("/big.bin", f"Range: bytes={wish}")
    assert status == 206
    assert "Content-Range" not in fields
    assert fields["Content-Length"] == str(len(body))
    head = f"Content-Type: {fields['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    assert [part["Content-Range"] for part in message.iter_parts()] == [
        f"bytes {first}-{end - 1}/{len(BIG)}" for first, end in spans
    ]
    at = 0
    for first, end in spans:
        at = body.index(b"\r\n\r\n" + BIG[first:end] + b"\r\n--", at) + end - first


def test_a_range_behind_the_end_is_told_the_size(get):
    status, fields, _ = get("/hello.txt", "Range: bytes=6-")
    assert status == 416
    assert fields["Content-Range"] == "bytes */6"


@pytest.mark.parametrize(
    "lines",
    [
        ["Range: lines=0-1"],
        ["Range: bytes=0-,0-"],
        ["Range: bytes=0-1", "Range: bytes=2-3"],
        ["Range: bytes=0-1", 'If-Range: "stale"'],
        ["Range: bytes=0-1", "If-Range: Sat, 08 Sep 2001 01:46:40 GMT"],
        ["Range: bytes=0-1", "If-Range: Mon, 10 Sep 2001 01:46:40 GMT"],
        ["Range: bytes=6-", 'If-Range: "stale"'],
    ],
)
def test_a_range_that_does_not_count_gives_the_file(get, lines):
    assert get("/hello.txt", *lines)[::2] == (200, b"hello\n")


def test_if_range_with_the_true_validator_gives_the_part(get):
    tag = get("/hello.txt")[1]["ETag"]
    for line in (f"If-Range: {tag}", f"If-Range: {DATE}"):
        assert get("/hello.txt", "Range: bytes=1-2", line)[::2] == (206, b"el")


def test_a_condition_comes_before_the_range(get):
    lines = ["Range: bytes=0-1", f"If-Modified-Since: {DATE}"]
    assert get("/hello.txt", *lines)[0] == 304
    assert get("/hello.txt", "Range: bytes=9-", 'If-Match: "x"')[0] == 412


def test_for_head_there_is_no_range(get):
    for line in ("Range: bytes=0-1", "Range: bytes=9-"):
        status, fields, body = get("/hello.txt", line, method="HEAD")
        assert (status, body) == (200, b"")
        assert fields["Content-Length"] == "6"


def test_the_operators_fields_are_on_every_answer(get):
    flags = [*HEADERS, "--cache-control", "max-age=60"]
    for path, line, status in (
        ("/hello.txt", "A: b", 200),
        ("/hello.txt", "If-None-Match: *", 304),
        ("/hello.txt", "Range: bytes=0-0", 206),
        ("/hello.txt", "Range: bytes=9-", 416),
        ("/nothing", "A: b", 404),
        ("/sub", "A: b", 301),
    ):
        answered, fields, _ = get(path, line, flags=flags)
        assert answered == status
        assert (fields["X-Frame-Options"], fields["X-Two"]) == ("DENY", "2")
        assert fields["X-Content-Type-Options"] == "nosniff"
        # A redirect holds as long as the folder is one.
        control = {301: "max-age=0", 404: None, 416: None}.get(status, "max-age=60")
        assert fields.get("Cache-Control") == control


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--headers", "a"], "option --headers: a is not KEY: VALUE"),
        (["--headers", "Date: a"], "option --headers: Date is set by httpd itself"),
        (["--cache-control", "\n"], "option --cache-control: '\\n' is no value of"),
    ],
)
@pytest.mark.parametrize("main", [httpd.main, in_loop(httpd)])
def test_a_wrong_field_is_the_operators_fault(main, flags, problem):
    with fork(main, *flags) as served:
        assert served.read() == b""
        assert served.wait() == 100
        assert served.log.startswith(f"httpd: {problem}")


def test_hidden_files_are_served_only_on_request(get):
    for path in ("/.htpasswd", "/.hidden/secret.txt", "/.well-known/.secret"):
        assert get(path)[0] == 404
        assert get(path, flags=["--dotfiles"])[::2] == (200, b"the secret\n")


def test_a_directory_is_listed_only_on_request(get):
    assert get("/empty/")[0] == 404
    status, fields, body = get("/empty/", flags=["--listing"])
    assert status == 200
    assert fields["Content-Type"] == "text/html; charset=utf-8"
    assert fields["Content-Security-Policy"] == style.TABLE_POLICY
    assert f"<style>{style.TABLE}</style>".encode() in body
    assert fields["Cache-Control"] == "max-age=0"
    assert b'<a href="../">' in body
    assert b"<script" not in body
    status, fields, nothing = get("/empty/", flags=["--listing"], method="HEAD")
    assert (status, nothing) == (200, b"")
    assert fields["Content-Length"] == str(len(body))


def test_an_index_comes_before_a_listing(get):
    assert get("/sub/", flags=["--listing"])[2] == b"<h1>sub</h1>\n"


def test_a_listing_links_to_what_is_served_and_names_nothing_else(get):
    flags = ["--listing", "--index", "none"]
    _, _, body = get("/?sort=size&order=desc", flags=flags)
    links = re.findall(r'<td><a href="([^"]*)"', body.decode())
    assert links[:3] == [
        f"{name}/?sort=size&amp;order=desc" for name in ("data", "empty", "sub")
    ]
    assert links[3] == "big.bin"
    assert "with%20space%20%26%20%3Cb%3E.txt" in links
    for link in links:
        assert get("/" + link.replace("&amp;", "&"), flags=flags)[0] == 200
    for name in (b"secret", b"private", b"fifo", b"outside", b"loop", b".htpasswd"):
        assert name not in body


def test_a_listing_is_in_no_state(get):
    flags = ["--listing"]
    assert get("/empty/", 'If-Match: "x"', flags=flags)[0] == 412
    assert get("/empty/", "If-None-Match: *", flags=flags)[0] == 304
    assert get("/empty/", f"If-Modified-Since: {DATE}", flags=flags)[0] == 200
    assert get("/empty/", "Range: bytes=0-1", flags=flags)[0] == 200
