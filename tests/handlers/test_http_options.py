"""What the operator can choose: hosts, compressed files, error pages, types."""

from __future__ import annotations

import os

import pytest
from httpd_talk import MAINS, asker, write
from inetd import fork

OLD, NEW = 1_000_000_000, 1_000_000_100


@pytest.fixture(params=["process", "loop"])
def ask(request, tmp_path):
    tmp_path.chmod(0o755)
    return asker(request.param, tmp_path)


def stamp(path, when):
    os.utime(path, (when, when))


# -- virtual hosts ------------------------------------------------------------------------


@pytest.fixture
def hosts(tmp_path):
    write(tmp_path / "a.example" / "index.html", b"a")
    write(tmp_path / "a.example" / "404.html", b"none of a")
    write(tmp_path / "b.example" / "sub" / "f.txt", b"b")
    write(tmp_path / "default" / "index.html", b"default")
    write(tmp_path / "secret.txt", b"secret")
    (tmp_path / "www.a.example").symlink_to("a.example")
    (tmp_path / "b.example" / "other").symlink_to("../a.example/index.html")
    (tmp_path / "[::1]").symlink_to("b.example")
    return tmp_path


@pytest.mark.parametrize(
    ("host", "path", "status", "body"),
    [
        ("a.example", "/", 200, b"a"),
        ("A.Example.:80", "/", 200, b"a"),
        ("www.a.example", "/", 200, b"a"),
        ("b.example", "/sub/f.txt", 200, b"b"),
        ("[::1]:8080", "/sub/f.txt", 200, b"b"),
        ("c.example", "/", 200, b"default"),
        ("secret.txt", "/", 200, b"default"),
        ("a.example", "http://b.example/sub/f.txt", 200, b"b"),
        # Of another host, though below the common root.
        ("b.example", "/other", 404, None),
        ("a.example", "/../secret.txt", 400, None),
        ("..", "/secret.txt", 400, None),
        (".", "/secret.txt", 400, None),
        ("a.example/../..", "/secret.txt", 400, None),
        ("", "/secret.txt", 400, None),
        ("%2e%2e", "/secret.txt", 400, None),
    ],
)
def test_a_host_is_the_folder_of_its_name_and_nothing_outside_of_it(
    ask, hosts, host, path, status, body
):
    if status == 400:
        with fork(MAINS["loop"], "--root", str(hosts), "--vhosts") as served:
            text = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            answer = served.send(text.encode()).read()
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"secret\n" not in answer
        return
    answered, _, found, _ = ask(path, host=host, flags=["--vhosts"])
    assert answered == status
    assert body is None or found == body


def test_a_request_without_a_host_is_served_by_default(hosts):
    for mode in MAINS.values():
        with fork(mode, "--root", str(hosts), "--vhosts") as served:
            assert served.talk(b"GET / HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\ndefault")


def test_without_a_default_an_unknown_host_is_missing(ask, hosts):
    (hosts / "default" / "index.html").unlink()
    (hosts / "default").rmdir()
    assert ask("/", host="c.example", flags=["--vhosts"])[0] == 404


def test_an_error_page_is_that_of_the_host(ask, hosts):
    flags = ["--vhosts", "--error-pages", "404: /404.html"]
    assert ask("/no", host="a.example", flags=flags)[::2][:2] == (404, b"none of a")
    assert b"no such file" in ask("/no", host="b.example", flags=flags)[2]


# -- compressed files ---------------------------------------------------------------------


@pytest.fixture
def sidecars(tmp_path):
    for name, data in (
        ("", b"plain"),
        (".br", b"BR"),
        (".zst", b"ZST"),
        (".gz", b"GZ"),
    ):
        stamp(write(tmp_path / f"app.js{name}", data), OLD)
    stamp(write(tmp_path / "bare.js", b"bare"), OLD)
    stamp(write(tmp_path / "stale.js", b"fresh"), NEW)
    stamp(write(tmp_path / "stale.js.gz", b"old"), OLD)
    stamp(write(tmp_path / "private.js", b"plain"), OLD)
    stamp(write(tmp_path / "private.js.gz", b"private", 0o600), OLD)
    stamp(write(tmp_path / "index.html", b"<p>"), OLD)
    stamp(write(tmp_path / "index.html.gz", b"GZ"), OLD)
    (tmp_path / "odd.js.gz").mkdir()
    stamp(write(tmp_path / "odd.js", b"plain"), OLD)
    (tmp_path / "link.js").symlink_to("app.js")
    return tmp_path


@pytest.mark.parametrize(
    ("accept", "coding", "body"),
    [
        (None, None, b"plain"),
        ("gzip", "gzip", b"GZ"),
        ("x-gzip", "gzip", b"GZ"),
        ("gzip, deflate, br, zstd", "br", b"BR"),
        ("gzip, zstd", "zstd", b"ZST"),
        ("br;q=0.1, gzip;q=0.9", "gzip", b"GZ"),
        ("br;q=0, gzip;q=0, *", "zstd", b"ZST"),
        ("*", "br", b"BR"),
        ("gzip;q=0", None, b"plain"),
        ("gzip;q=0.000, br;q=0", None, b"plain"),
        ("identity, gzip;q=0.5", None, b"plain"),
        ("identity;q=0.5, gzip", "gzip", b"GZ"),
        ("*;q=0", None, b"plain"),
        ("deflate", None, b"plain"),
        ("", None, b"plain"),
        ("gzip;q=2, br;q=x, zstd;q=-1", None, b"plain"),
        ("GZIP", "gzip", b"GZ"),
    ],
)
def test_a_compressed_file_is_sent_to_who_can_read_it(
    ask, sidecars, accept, coding, body
):
    lines = [] if accept is None else [f"Accept-Encoding: {accept}"]
    status, fields, found, _ = ask("/app.js", *lines)
    assert (status, found) == (200, body)
    assert fields.get("Content-Encoding") == coding
    assert fields["Vary"] == "Accept-Encoding"
    assert fields["Content-Type"] == "text/javascript; charset=utf-8"


def test_each_form_of_a_file_has_its_own_tag_and_ranges(ask, sidecars):
    plain = ask("/app.js")[1]["ETag"]
    line = "Accept-Encoding: gzip"
    packed = ask("/app.js", line)[1]["ETag"]
    assert plain != packed
    status, fields, _, _ = ask("/app.js", line, f"If-None-Match: {packed}")
    assert (status, fields["Vary"], fields["ETag"]) == (304, "Accept-Encoding", packed)
    assert ask("/app.js", line, f"If-None-Match: {plain}")[0] == 200
    status, fields, body, _ = ask("/app.js", line, "Range: bytes=1-")
    assert (status, body, fields["Content-Encoding"]) == (206, b"Z", "gzip")
    assert ask("/app.js", line, method="HEAD")[1]["Content-Encoding"] == "gzip"


@pytest.mark.parametrize(
    ("path", "body", "vary"),
    [
        ("/bare.js", b"bare", None),
        ("/stale.js", b"fresh", "Accept-Encoding"),
        ("/private.js", b"plain", "Accept-Encoding"),
        ("/odd.js", b"plain", "Accept-Encoding"),
        ("/link.js", b"plain", None),
        ("/", b"GZ", "Accept-Encoding"),
        ("/app.js.gz", b"GZ", None),
    ],
)
def test_what_is_no_good_copy_of_a_file_is_not_sent_for_it(
    ask, sidecars, path, body, vary
):
    status, fields, found, _ = ask(path, "Accept-Encoding: gzip")
    assert (status, found, fields.get("Vary")) == (200, body, vary)


def test_compressed_files_can_be_left_alone(ask, sidecars):
    flags = ["--no-precompressed"]
    _, fields, body, _ = ask("/app.js", "Accept-Encoding: gzip", flags=flags)
    assert body == b"plain"
    assert "Vary" not in fields


# -- pages, types, caching ----------------------------------------------------------------


def test_an_error_page_of_the_operator_keeps_status_and_fields(ask, tmp_path):
    write(tmp_path / "errors" / "404.html", b"<h1>gone fishing</h1>")
    write(tmp_path / "errors" / "405.txt", b"no")
    write(tmp_path / "errors" / "416.html", b"private", 0o600)
    write(tmp_path / "f", b"x")
    flags = [
        "--error-pages",
        "404: errors/404.html",
        "--error-pages",
        "405: /errors/405.txt",
    ]
    flags += ["--error-pages", "416: errors/416.html", "--error-pages", "417: missing"]
    status, fields, body, _ = ask("/no", flags=flags)
    assert (status, body) == (404, b"<h1>gone fishing</h1>")
    assert fields["Content-Type"] == "text/html; charset=utf-8"
    status, fields, body, _ = ask("/f", flags=flags, method="POST")
    assert (status, body, fields["Allow"]) == (405, b"no", "GET, HEAD, OPTIONS")
    assert fields["Content-Type"] == "text/plain; charset=utf-8"
    status, fields, body, _ = ask("/f", "Range: bytes=5-", flags=flags)
    assert (status, fields["Content-Range"]) == (416, "bytes */1")
    assert b"416 Range" in body
    assert b"417 Exp" in ask("/f", "Expect: x", flags=flags)[2]
    status, fields, body, _ = ask("/no", flags=flags, method="HEAD")
    assert (status, body, fields["Content-Length"]) == (404, b"", "21")


def test_a_types_file_adds_types_and_wins(ask, tmp_path):
    types = write(
        tmp_path / "mime.types", b"# mine\ntext/x-new new .NEWER\nfont/x css\n\n"
    )
    for name in ("a.new", "a.newer", "a.css", "a.png"):
        write(tmp_path / name, b"x")
    found = [
        ask(f"/{name}", flags=["--types", str(types)])[1]["Content-Type"]
        for name in ("a.new", "a.newer", "a.css", "a.png")
    ]
    new = "text/x-new; charset=utf-8"
    assert found == [new, new, "font/x", "image/png"]


def test_how_long_a_file_is_kept_hangs_on_its_path(ask, tmp_path):
    write(tmp_path / "assets" / "a.js", b"x")
    write(tmp_path / "index.html", b"x")
    flags = ["--cache-control", "/assets/*: max-age=31536000, immutable"]
    flags += ["--cache-control", "no-cache"]
    assert ask("/assets/a.js", flags=flags)[1]["Cache-Control"].endswith("immutable")
    assert ask("/", flags=flags)[1]["Cache-Control"] == "no-cache"
    assert "Cache-Control" not in ask("/assets/", flags=flags)[1]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--error-pages", "200: x"], "--error-pages: 200 is no status of an error"),
        (["--error-pages", "4xx: x"], "--error-pages: 4xx is no status of an error"),
        (
            ["--error-pages", "404: ../x"],
            "--error-pages: ../x is no file below the root",
        ),
        (["--error-pages", "404: /"], "--error-pages: / is no file below the root"),
        (["--index", "a/b"], "--index: a/b is not the name of a file"),
        (["--types", "/nonexistent"], "--types: /nonexistent: ENOENT"),
        (["--types", "/dev/stdin"], "--types: /dev/stdin: "),
        (["--auth.file", "/nonexistent"], "--auth.file: /nonexistent: ENOENT"),
        (["--auth.file", "/dev/null", "--auth.realm", 'a"b'], "--auth.realm: 'a\"b'"),
        (["--symlinks", "all"], "--symlinks: all is none of never, owner, inside"),
    ],
)
@pytest.mark.parametrize("main", MAINS.values(), ids=MAINS)
def test_a_wrong_choice_is_the_operators_fault(main, flags, problem, tmp_path):
    with fork(main, "--root", str(tmp_path), *flags) as served:
        assert served.end().read() == b""
        assert served.wait() == 100
        assert f"option {problem}" in served.log


def test_a_file_of_types_with_a_wrong_line_is_refused(tmp_path):
    types = write(tmp_path / "mime.types", b"text/plain txt\ntext html\n")
    with fork(MAINS["process"], "--types", str(types)) as served:
        assert served.wait() == 100
        assert served.log.endswith("mime.types: line 2: 'text' is no type\n")
