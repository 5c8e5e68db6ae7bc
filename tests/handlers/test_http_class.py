"""Nine other servers of static files were asked all this; httpd is to be the best of them.

They are darkhttpd, busybox, lighttpd, nginx, mini_httpd, micro_httpd, webfs, Python's
http.server and npm's http-server. Each row of ROWS is a question and the answer that the
best of them gives, or that none gives though RFC 9110 and 9112 ask for it; behind it
stands who else gives it. What is more than one question follows below the table.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from typing import NamedTuple

import pytest
from http_answers import answers_in, the_answer_in
from httpd_root import make_root
from inetd import fork
from looped import in_loop

from superd.handlers import httpd

DATA = bytes(range(250)) * 4
TEXT = b"f\n"
ZIPPED = b"\x1f\x8bzipped\n"
STAMP = 1_000_000_000
DATE = "Sun, 09 Sep 2001 01:46:40 GMT"
EARLIER = "Sat, 08 Sep 2001 01:46:40 GMT"
LATER = "Mon, 10 Sep 2001 01:46:40 GMT"
IMS = "If-Modified-Since: "
IUS = "If-Unmodified-Since: "
TEN = "Range: bytes=0-9"
HOST = "HTTP/1.1\r\nHost: a"
ALLOW = {"allow": "GET, HEAD, OPTIONS"}
BEHIND = {"content-range": "bytes */1000"}
TO_SUB = {"location": "/sub/"}


class Row(NamedTuple):
    """A request, and what has to come back; TAG stands for the tag of /file."""

    name: str
    target: str
    status: int
    lines: tuple[str, ...] = ()
    fields: dict[str, str] = {}  # noqa: RUF012  nobody writes to it
    body: bytes | None = None
    method: str = "GET"
    flags: tuple[str, ...] = ()
    start: str = ""
    """The request line and Host field, where they are not the usual ones."""


def part(first, last):
    return {"content-range": f"bytes {first}-{last}/1000"}


ROWS = [
    # Validators and conditions.
    Row("etag", "/file", 200, fields={"etag": "TAG"}, body=DATA),
    Row("inm_hit", "/file", 304, ("If-None-Match: TAG",), {"etag": "TAG"}),
    Row("inm_weak_hit", "/file", 304, ("If-None-Match: W/TAG",)),
    Row("inm_in_a_list", "/file", 304, ('If-None-Match: "a", TAG, "b"',)),
    Row("inm_miss", "/file", 200, ('If-None-Match: "a"',), body=DATA),
    Row("inm_star", "/file", 304, ("If-None-Match: *",)),  # lighttpd, nginx
    Row("inm_star_for_nothing", "/no", 404, ("If-None-Match: *",)),
    Row("inm_before_ims", "/file", 200, ('If-None-Match: "a"', IMS + DATE), body=DATA),
    Row("ims_exact", "/file", 304, (IMS + DATE,)),
    Row("ims_later", "/file", 304, (IMS + LATER,)),
    Row("ims_earlier", "/file", 200, (IMS + EARLIER,), body=DATA),
    Row("ims_rfc850", "/file", 304, (IMS + "Sunday, 09-Sep-01 01:46:40 GMT",)),
    Row("ims_asctime", "/file", 304, (IMS + "Sun Sep  9 01:46:40 2001",)),
    Row("ims_no_date", "/file", 200, (IMS + "yesterday",), body=DATA),
    Row("if_match_miss", "/file", 412, ('If-Match: "a"',)),  # nginx
    Row("if_match_hit", "/file", 200, ("If-Match: TAG",), body=DATA),
    Row("if_match_weak", "/file", 412, ("If-Match: W/TAG",)),
    Row("if_match_star", "/file", 200, ("If-Match: *",), body=DATA),
    Row("ius_earlier", "/file", 412, (IUS + EARLIER,)),  # nginx, webfs
    Row("ius_exact", "/file", 200, (IUS + DATE,), body=DATA),
    Row("ius_rfc850", "/file", 412, (IUS + "Saturday, 08-Sep-01 01:46:40 GMT",)),
    # Parts.
    Row("range_first", "/file", 206, (TEN,), part(0, 9), DATA[:10]),
    Row("range_last", "/file", 206, ("Range: bytes=-9",), part(991, 999), DATA[-9:]),
    Row("range_of_all", "/file", 206, ("Range: bytes=-5000",), part(0, 999), DATA),
    Row("range_in_a_unit", "/file", 200, ("Range: lines=0-9",), body=DATA),
    Row("range_behind", "/file", 416, ("Range: bytes=5000-",), BEHIND),  # nginx
    Row("range_many", "/file", 200, ("Range: bytes=" + "0-1," * 500,), body=DATA),
    Row("if_range_stale_tag", "/file", 200, (TEN, 'If-Range: "a"'), body=DATA),
    Row("if_range_stale_date", "/file", 200, (TEN, f"If-Range: {EARLIER}"), body=DATA),
    Row("if_range_later_date", "/file", 200, (TEN, f"If-Range: {LATER}"), body=DATA),
    Row("if_range_weak", "/file", 200, (TEN, "If-Range: W/TAG"), body=DATA),
    Row("if_range_tag", "/file", 206, (TEN, "If-Range: TAG"), part(0, 9)),
    Row("if_range_date", "/file", 206, (TEN, f"If-Range: {DATE}"), part(0, 9)),
    # Methods.
    Row("head", "/file", 200, fields={"content-length": "1000"}, method="HEAD"),
    Row("head_of_nothing", "/no", 404, method="HEAD"),
    Row("head_of_a_directory", "/sub", 301, fields=TO_SUB, method="HEAD"),
    Row("options_star", "*", 204, fields=ALLOW, method="OPTIONS"),  # lighttpd
    Row("options_path", "/file", 204, fields=ALLOW, method="OPTIONS"),
    Row("delete", "/file", 405, fields=ALLOW, method="DELETE"),  # with Allow: none
    Row("put", "/file", 405, fields=ALLOW, method="PUT"),
    Row("post", "/file", 405, fields=ALLOW, method="POST"),
    Row("patch", "/file", 405, fields=ALLOW, method="PATCH"),
    Row("trace", "/file", 405, fields=ALLOW, method="TRACE"),
    Row("connect", "a:80", 405, fields=ALLOW, method="CONNECT"),
    Row("unknown_method", "/file", 501, method="BREW"),
    Row("method_in_lower_case", "/file", 501, method="get"),
    # What is a file, and what is none of the peer's business.
    Row("hidden_file", "/.htpasswd", 404),  # none
    Row("hidden_behind_dots", "/./.htpasswd", 404),
    Row("hidden_behind_slashes", "//.htpasswd", 404),
    Row("hidden_escaped", "/%2ehtpasswd", 404),
    Row("hidden_file_on_request", "/.htpasswd", 200, flags=("--dotfiles",)),
    Row("well_known", "/.well-known/security.txt", 200, body=b"contact\n"),
    Row("link_to_passwd", "/passwd", 404),  # none
    Row("link_up_to_passwd", "/uppasswd", 404),
    Row("fifo", "/fifo", 403),  # darkhttpd, lighttpd, nginx; the others hang
    Row("private_file", "/private.txt", 403),  # none
    Row("above_the_root", "/../f.txt", 400),  # darkhttpd, busybox, nginx, micro_httpd
    Row("above_the_root_escaped", "/%2e%2e/%2e%2e/etc/passwd", 400),
    Row("slash_escaped", "/..%2f..%2f..%2fetc%2fpasswd", 404),
    Row("backslash", "/..%5c..%5cetc%5cpasswd", 404),
    Row("escaped_twice", "/%252e%252e/etc/passwd", 404),
    Row("nul", "/f.txt%00.html", 400),  # lighttpd, nginx, micro_httpd
    Row("escape_without_digits", "/f.txt%", 400),  # busybox, nginx, http-server
    Row("escape_cut_off", "/f.txt%2", 400),
    Row("escape_of_no_digits", "/f.txt%zz", 400),
    Row("slash_behind_a_file", "/f.txt/", 404),  # busybox, nginx, mini_, micro_httpd
    Row("path_behind_a_file", "/f.txt/x", 404),
    # Redirects stay here.
    Row("directory", "/sub", 301, fields=TO_SUB),
    Row("directory_query", "/sub?a=b", 301, fields={"location": "/sub/?a=b"}),
    Row("directory_two_slashes", "//sub", 301, fields=TO_SUB),
    Row("directory_odd", "/%5ce.example", 301, fields={"location": "/%5Ce.example/"}),
    Row("directory_split", "/sub?%0d%0aA:", 301, fields={"location": "/sub/?%0d%0aA:"}),
    Row("other_host", "//e.example/..%2fsub", 404),  # darkhttpd, http-server go there
    Row("other_host_dots", "//e.example/../sub", 301, fields=TO_SUB),
    Row("other_host_escaped", "/%2f%2fe.example", 404),
    # Request lines and heads.
    Row("absolute_form", "/", 200, (), {}, DATA, start=f"GET http://b/file {HOST}"),
    Row("no_host", "/", 400, start="GET /file HTTP/1.1"),  # lighttpd, nginx, http-server
    Row("no_host_in_1_0", "/", 200, body=DATA, start="GET /file HTTP/1.0"),
    Row("two_hosts", "/file", 400, ("Host: b",)),
    Row("http_2", "/", 505, start="GET /file HTTP/2.0\r\nHost: a"),  # lighttpd, nginx
    Row("http_0_9", "/", 400, start="GET /file"),
    Row("long_target", "/" + "a" * 9000, 414),  # nginx
    Row("target_of_8000", "/file?" + "a" * 7980, 200, body=DATA),  # RFC 9112 3
    Row("long_field", "/file", 431, ("A: " + "b" * 100_000,)),  # lighttpd, Python
    Row("2000_fields", "/file", 431, tuple(f"A{n}: b" for n in range(2000))),
    Row("line_feeds", "/", 400, start="GET /file HTTP/1.1\nHost: a\nA: b"),  # lighttpd
    Row("unknown_expectation", "/file", 417, ("Expect: bogus",)),  # http-server
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = make_root(tmp_path_factory.mktemp("httpd"))
    files = {"file": DATA, "f.txt": TEXT, "z.txt": b"plain\n", "z.txt.gz": ZIPPED}
    for name, data in files.items():
        path = root / name
        path.write_bytes(data)
        path.chmod(0o644)
        os.utime(path, (STAMP, STAMP))
    (root / "passwd").symlink_to("/etc/passwd")
    (root / "uppasswd").symlink_to("../" * 30 + "etc/passwd")
    for name in ("list", "\\e.example"):
        (root / name).mkdir(mode=0o755)
    for name in ("<script>alert(1)<", '"&quot;', "a b?c#d%e", "\u00e4", "javascript:a"):
        path = root / "list" / name
        path.write_bytes(TEXT)
        path.chmod(0o644)
    return root


@pytest.fixture(params=["process", "loop"])
def serve(request, folder):
    main = httpd.main if request.param == "process" else in_loop(httpd)

    def start(*flags, root=folder, kind="tcp"):
        return fork(main, "--root", str(root), *flags, kind=kind)

    return start


@pytest.fixture
def get(serve):
    def ask(row):
        begin = row.start or f"{row.method} {row.target} HTTP/1.1\r\nHost: a"
        text = "\r\n".join([begin, *row.lines, "Connection: close", "", ""])
        with serve(*row.flags) as served:
            # Who waits for the end of the answer must not wait for a timeout.
            stream = served.send(text.encode()).read()
            assert served.end().wait() in (0, 110)
            assert not re.search("bug|LEAK|CRASH|Traceback", served.log), served.log
        return the_answer_in(stream, row.method)

    return ask


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_it_is_as_good_as_the_best(get, row):
    tag = get(Row("", "/file", 200)).fields["etag"]
    assert re.fullmatch(r'"[!#-~]+"', tag), "a strong one: the file is old"
    lines = tuple(line.replace("TAG", tag) for line in row.lines)
    answer = get(row._replace(lines=lines))
    assert answer.status == row.status
    for name, value in row.fields.items():
        assert answer.fields[name] == value.replace("TAG", tag)
    if row.body is not None:
        assert answer.body == row.body
    assert b"root:" not in answer.body
    # Of every answer, errors too; none of the nine says nosniff.
    assert answer.fields["x-content-type-options"] == "nosniff"
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", answer.fields["date"])
    assert "server" not in answer.fields
    assert ("content-type" in answer.fields) == (row.status not in (204, 304))


def test_head_is_get_less_the_body(get):
    for target in ("/file", "/", "/sub", "/no", "/private.txt", "/z.txt"):
        by_get = get(Row("", target, 0)).fields
        by_head = get(Row("", target, 0, method="HEAD")).fields
        assert by_head | {"date": ""} == by_get | {"date": ""}


def test_several_ranges_are_several_parts(get):  # nginx, webfs
    answer = get(Row("", "/file", 206, ("Range: bytes=0-1,5-6",)))
    assert answer.status == 206
    kind, _, boundary = answer.fields["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    assert "content-range" not in answer.fields
    before, first, second, end = answer.body.split(b"--" + boundary.encode())
    assert (before, end.strip()) == (b"", b"--")
    for text, where, data in (
        (first, b"Content-Range: bytes 0-1/1000\r\n", DATA[:2]),
        (second, b"Content-Range: bytes 5-6/1000\r\n", DATA[5:7]),
    ):
        assert where in text
        assert text.endswith(b"\r\n\r\n" + data + b"\r\n")


def test_pipelined_requests_are_all_answered(
    serve,
):  # lighttpd, nginx, webfs, http-server
    data = b"GET /f.txt HTTP/1.1\r\nHost: a\r\n\r\n"
    with serve() as served:
        found = answers_in(served.talk(data * 20))
        assert served.wait() == 0
    assert [answer.body for answer in found] == [TEXT] * 20


def test_a_connection_is_kept(serve):
    data = b"GET /f.txt HTTP/1.1\r\nHost: a\r\n\r\n"
    with serve() as served:
        for _ in range(3):
            assert served.send(data).read_until(TEXT)
        assert served.end().read() == b""
        assert served.wait() == 0


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [
        ("gzip", True),
        ("gzip, deflate, br", True),
        ("GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),  # busybox takes it for a yes
        ("gzip;q=0.000", False),
        ("*;q=0", False),
        ("identity", False),
        ("gzipped", False),
        ("", False),
    ],
)
def test_what_is_packed_already_is_sent_to_who_can_read_it(get, accepted, zipped):
    answer = get(Row("", "/z.txt", 200, (f"Accept-Encoding: {accepted}",)))
    plain = get(Row("", "/z.txt", 200))
    assert (plain.status, plain.body) == (200, b"plain\n")
    assert plain.fields["vary"].lower() == "accept-encoding"
    assert answer.fields["vary"].lower() == "accept-encoding"
    assert "content-encoding" not in plain.fields
    assert answer.fields["content-type"].startswith("text/plain")
    if not zipped:
        assert answer.body == b"plain\n"
        return
    assert (answer.status, answer.body) == (200, ZIPPED)
    assert answer.fields["content-encoding"] == "gzip"
    assert answer.fields["etag"] != plain.fields["etag"]


def test_a_listing_is_no_place_for_markup(
    get, folder
):  # mini_httpd, micro_httpd, webfs
    page = get(Row("", "/list/", 200, flags=("--listing",)))
    assert page.status == 200
    assert "default-src 'none'" in page.fields["content-security-policy"]
    text = page.body.decode()
    assert "<script" not in text
    links = re.findall(r'<td><a href="([^"]*)"', text)
    links.remove("../")
    assert len(links) == len(os.listdir(folder / "list"))
    for link in links:
        target = urllib.parse.urljoin("http://a/list/", link.replace("&amp;", "&"))
        assert target.startswith("http://a/list/"), "a scheme, or another host"
        answer = get(Row("", target.removeprefix("http://a"), 200))
        assert answer.body == TEXT


def test_no_listing_is_no_news(get):
    """404: that there is a directory is nobody's business (darkhttpd)."""
    assert get(Row("", "/list/", 404)).status == 404
    assert get(Row("", "/nothing/", 404)).status == 404


def test_a_file_of_the_same_size_and_second_is_another(serve, tmp_path):
    """Lighttpd serves what was there before, out of its cache."""
    data = b"GET /new HTTP/1.1\r\nHost: a\r\n%b\r\n"
    path = tmp_path / "new"
    tag = b""
    with serve(root=tmp_path) as served:
        for text in (b"one\n", b"two\n", b"six\n"):
            path.write_bytes(text)
            path.chmod(0o644)
            os.utime(path, ns=(0, STAMP * 10**9 + text[0]))
            served.send(data % (b"If-None-Match: %b\r\n" % tag if tag else b""))
            answer = served.read_until(text)
            assert answer.startswith(b"HTTP/1.1 200 ")
            tag = re.search(rb"(?i)ETag: ([^\r]*)", answer)[1]
        assert served.end().read() == b""


def test_a_file_of_the_year_10000_is_served(
    get, folder
):  # its suite has one: darkhttpd
    path = folder / "far"
    path.write_bytes(TEXT)
    path.chmod(0o644)
    for seconds in (253_402_300_800, 1 << 33, -1):
        os.utime(path, (seconds, seconds))
        answer = get(Row("", "/far", 200))
        assert (answer.status, answer.body) == (200, TEXT)
        assert get(Row("", "/far", 0, (f"If-Modified-Since: {DATE}",))).status in (
            200,
            304,
        )
