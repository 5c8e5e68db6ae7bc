"""The same bytes to httpd, lighttpd and nginx: what the two agree on is the custom.

Compared is the class of the status. Where one of three differs, a table or a rule here
says why; where nothing does, httpd is wrong, or this file is.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from httpd_root import make_root
from hypothesis import given, settings
from hypothesis import strategies as st
from inetd import DEADLINE, fork, reached

from superd.handlers import httpd

pytestmark = pytest.mark.slow

NOBODY = 65534
SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
NGINX = """
daemon off; master_process off; pid {run}/pid; error_log {run}/nginx.log;
events {{ worker_connections 64; }}
http {{
    access_log off; default_type text/plain;
    client_body_temp_path {run}/body; proxy_temp_path {run}/proxy;
    fastcgi_temp_path {run}/fastcgi; uwsgi_temp_path {run}/uwsgi;
    scgi_temp_path {run}/scgi;
    if_modified_since before;  # its default wants the very date
    server {{ listen unix:{run}/nginx; root {root}; index index.html; }}
}}
"""
LIGHTTPD = """
server.document-root = "{root}"
server.bind = "{run}/lighttpd"
server.errorlog = "{run}/lighttpd.log"
server.modules = ()
index-file.names = ("index.html")
mimetype.assign = ("" => "text/plain")
"""
COMMANDS = {
    "lighttpd": ["lighttpd", "-D", "-f", "{run}/lighttpd.conf"],
    "nginx": ["nginx", "-e", "stderr", "-p", "{run}", "-c", "{run}/nginx.conf"],
}
PACKAGES = {"lighttpd": "lighttpd", "nginx": "nginx-light"}


class Case(NamedTuple):
    """A request, our class, and why another server has another one."""

    name: str
    data: str
    ours: int
    lighttpd: str = ""
    nginx: str = ""


OLD = "1.4.69 calls every version that it cannot read 505, we call it malformed"
LENIENT = "nginx takes it; two readers may differ over it, and that is smuggling"
UNCHECKED = "nginx does not look at it"
CODING = "501 is right as well: which of two faults is told is nobody's concern"
CODE = "405 means a method we know (9110 15.5.6), 501 one we do not"
HOST = "\r\nHost: a\r\n\r\n"
GET = "GET /hello.txt HTTP/1.1\r\nHost: a\r\n"
END = "\r\n\r\n"
SINCE = "If-Modified-Since: "
UNTIL = "If-Unmodified-Since: "

CASES = [
    Case("file", GET + "\r\n", 2),
    Case("head", "HEAD /hello.txt HTTP/1.1" + HOST, 2),
    Case("http_1_0", "GET /hello.txt HTTP/1.0\r\n\r\n", 2),
    Case("missing", "GET /no HTTP/1.1" + HOST, 4),
    Case("index", "GET / HTTP/1.1" + HOST, 2),
    Case("directory", "GET /sub HTTP/1.1" + HOST, 3),
    Case("no_index", "GET /empty/ HTTP/1.1" + HOST, 4),
    Case("closed_directory", "GET /closed/secret.txt HTTP/1.1" + HOST, 4),
    Case("fifo", "GET /fifo HTTP/1.1" + HOST, 4),
    Case("links_in_a_loop", "GET /loop HTTP/1.1" + HOST, 4, "500 for what is no fault"),
    Case("dangling_link", "GET /dangling HTTP/1.1" + HOST, 4),
    Case("link_inside", "GET /sub/up HTTP/1.1" + HOST, 2),
    Case("version_1_9", "GET / HTTP/1.9" + HOST, 2, lighttpd=OLD),
    Case("version_1_32", "GET / HTTP/1.32" + HOST, 4, OLD, LENIENT),
    Case("version_2", "GET / HTTP/2.0" + HOST, 5),
    Case("version_0_9", "GET / HTTP/0.9" + HOST, 5, nginx="400 is right as well"),
    Case("version_of_digits", "GET / HTTP/11" + HOST, 4, OLD, "505 as well"),
    Case("no_version", "GET /" + END, 4, nginx="HTTP/0.9: nginx answers without a head"),
    Case("two_spaces", "GET  / HTTP/1.1" + HOST, 4, nginx=LENIENT),
    Case("space_behind", "GET / HTTP/1.1 " + HOST, 4, nginx=LENIENT),
    Case("tabs", "GET\t/\tHTTP/1.1" + HOST, 4),
    Case("no_method", " / HTTP/1.1" + HOST, 4, lighttpd="501 for a method of nothing"),
    Case("method_of_signs", "G(T / HTTP/1.1" + HOST, 4, "501 for any it knows not"),
    Case("method_unknown", "BREW / HTTP/1.1" + HOST, 5, nginx=CODE),
    Case("method_delete", "DELETE /hello.txt HTTP/1.1" + HOST, 4, lighttpd=CODE),
    Case("method_options", "OPTIONS * HTTP/1.1" + HOST, 2, nginx="it knows it not"),
    Case("target_without_slash", "GET hello.txt HTTP/1.1" + HOST, 4),
    Case("target_of_8_kb", f"GET /{'a' * 9000} HTTP/1.1{HOST}", 4),
    Case("absolute_form", "GET http://a/ HTTP/1.1" + HOST, 2),
    Case("absolute_form_other_host", "GET http://b/ HTTP/1.1" + HOST, 2,
         "it wants both to be the same; 9112 3.2.2: the target's counts"),
    Case("absolute_form_alone", "GET http://a/ HTTP/1.1" + END, 4,
         "9112 3.2: no Host is 400, whatever the target says"),
    Case("absolute_form_of_ftp", "GET ftp://a/ HTTP/1.1" + HOST, 4, nginx=UNCHECKED),
    Case("above_the_root", "GET /../hello.txt HTTP/1.1" + HOST, 4,
         "it stays at the root; who asks for more than there is has a fault"),
    Case("nul_escaped", "GET /hello.txt%00 HTTP/1.1" + HOST, 4),
    Case("escape_bad", "GET /%zz HTTP/1.1" + HOST, 4),
    Case("fragment", "GET /hello.txt#a HTTP/1.1" + HOST, 4,
         "it cuts it off; 9112 3.2 has no fragment", "as lighttpd"),
    Case("query_bad", "GET /?%zz HTTP/1.1" + HOST, 2, "it wants good escapes there too"),
    Case("no_host", "GET / HTTP/1.1" + END, 4),
    Case("two_hosts", GET + "Host: b" + END, 4),
    Case("two_hosts_alike", GET + "Host: a" + END, 4, "9112 3.2: more than one is 400"),
    Case("host_of_markup", "GET / HTTP/1.1\r\nHost: <a>" + END, 4, nginx=UNCHECKED),
    Case("host_with_a_space", "GET / HTTP/1.1\r\nHost: a b" + END, 4),
    Case("host_with_a_slash", "GET / HTTP/1.1\r\nHost: a/b" + END, 4),
    Case("host_with_far_port", "GET / HTTP/1.1\r\nHost: a:65536" + END, 4,
         nginx=UNCHECKED),
    Case("folded", GET + "A: b\r\n c" + END, 4, "9112 5.2 leaves the choice"),
    Case("space_before_colon", GET + "A : b" + END, 4),
    Case("no_name", GET + ": b" + END, 4),
    Case("no_colon", GET + "A b" + END, 4),
    Case("name_with_a_high_byte", GET + "\xe4: b" + END, 4, nginx=UNCHECKED),
    Case("name_of_signs", GET + "A(B): c" + END, 4, nginx=UNCHECKED),
    Case("nul_in_a_value", GET + "A: b\0" + END, 4),
    Case("return_in_a_value", GET + "A: b\rc" + END, 4, nginx=LENIENT),
    Case("control_in_a_value", GET + "A: \x01" + END, 4, nginx=UNCHECKED),
    Case("high_byte_in_a_value", GET + "A: \xe4" + END, 2),
    Case("line_feeds", GET.replace("\r", "") + "\n", 4, nginx=LENIENT),
    Case("line_feed_at_the_end", GET + "\n", 4,
         "it takes the last one", LENIENT),
    Case("empty_line_in_front", "\r\n" + GET + "\r\n", 2,
         "9112 2.2: one empty line is to be ignored, but not by a server just opened"),
    Case("length_twice", GET + "Content-Length: 1\r\nContent-Length: 2" + END, 4),
    Case("length_with_a_sign", GET + "Content-Length: +1" + END, 4),
    Case("length_negative", GET + "Content-Length: -1" + END, 4),
    Case("length_empty", GET + "Content-Length:" + END, 4, "a fault mended in 1.4.72"),
    Case("length_too_big", GET + f"Content-Length: {1 << 70}" + END, 4),
    Case("length_and_coding",
         GET + "Content-Length: 1\r\nTransfer-Encoding: chunked" + END, 4),
    Case("coding_unknown", GET + "Transfer-Encoding: x" + END, 5),
    Case("coding_twice", GET + "Transfer-Encoding: chunked, chunked" + END, 4,
         CODING, CODING),
    Case("coding_empty", GET + "Transfer-Encoding:" + END, 4, "it ignores it", CODING),
    Case("large_field", GET + f"A: {'b' * 100_000}" + END, 4),
    Case("hidden", "GET /.htpasswd HTTP/1.1" + HOST, 4,
         "it serves them: htpasswd files, .git", "as lighttpd"),
    Case("link_outside", "GET /outside HTTP/1.1" + HOST, 4,
         "it follows every link", "as lighttpd"),
    Case("other_host_in_front", "GET //e.example/..%2fsub HTTP/1.1" + HOST, 4,
         "it takes an escaped slash for a separator", "as lighttpd"),
    Case("expect_bogus", GET + "Expect: bogus" + END, 4,
         "9110 10.1.1 leaves the choice", "as lighttpd"),
    Case("if_match_miss", GET + 'If-Match: "a"' + END, 4, "it knows it not"),
    Case("none_match_star", GET + "If-None-Match: *" + END, 3),
    Case("modified_since", GET + SINCE + "Mon, 10 Sep 2001 01:46:40 GMT" + END, 3),
    Case("modified_since_asctime", GET + SINCE + "Mon Sep 10 01:46:40 2001" + END, 3),
    Case("modified_since_before", GET + SINCE + "Sat, 08 Sep 2001 01:46:40 GMT" + END, 2),
    Case("unmodified_since", GET + UNTIL + "Sat, 08 Sep 2001 01:46:40 GMT" + END, 4,
         "it knows it not"),
    Case("range", GET + "Range: bytes=0-1" + END, 2),
    Case("range_behind", GET + "Range: bytes=6-" + END, 4),
    Case("range_of_an_empty_file",
         GET.replace("hello", "empty") + "Range: bytes=0-" + END, 2),
    Case("range_of_lines", GET + "Range: lines=0-1" + END, 2),
]  # fmt: skip


class Rival:
    """Another server on a Unix socket, a child of ours, run by nobody."""

    def __init__(self, name, run):
        self.name = name
        self._path = str(run / name)
        command = [word.format(run=run) for word in COMMANDS[name]]
        command[0] = shutil.which(command[0], path=SEARCH)
        # What they serve must be what anybody may read, also where the test is root.
        who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        with (run / f"{name}.out").open("wb") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, **(who if os.geteuid() == 0 else {})
            )

    def listens(self):
        assert self._process.poll() is None, f"{self.name} has ended"
        try:
            self._connect().close()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def _connect(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE)
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        return sock

    def ask(self, data):
        """Return the class of the first status."""
        answer = b""
        with self._connect() as sock:
            try:
                sock.sendall(data)
                while b"\r\n" not in answer and (more := sock.recv(65536)):
                    answer += more
            except (BrokenPipeError, ConnectionResetError):
                pass
        return class_of(answer)

    def end(self):
        self._process.terminate()
        self._process.wait(DEADLINE)


def class_of(answer):
    found = re.match(rb"HTTP/1\.[01] ([2345])\d\d ", answer)
    return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def place():
    """Make a folder that nobody may enter and write to."""
    folder = Path(tempfile.mkdtemp(prefix="superd-test-"))
    folder.chmod(0o755)
    run = folder / "run"
    run.mkdir()
    if os.geteuid() == 0:
        os.chown(run, NOBODY, NOBODY)
    root = make_root(folder)
    # Closed to the two as well where they are run by its owner.
    (root / "closed" / "secret.txt").chmod(0)
    yield root, run
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def rivals(place):
    for name, package in PACKAGES.items():
        if not shutil.which(name, path=SEARCH):
            pytest.skip(f"{name} is not installed: apt install {package}")
    root, run = place
    for name, text in (("nginx", NGINX), ("lighttpd", LIGHTTPD)):
        (run / f"{name}.conf").write_text(text.format(root=root, run=run))
    started = {}
    try:
        for name in COMMANDS:
            started[name] = Rival(name, run)
        for name, rival in started.items():
            assert reached(rival.listens), f"{name} does not listen"
        yield started
    finally:
        for rival in started.values():
            rival.end()


def ask_httpd(root, data):
    with fork(httpd.main, "--root", str(root), kind="pair") as served:
        answer = served.talk(data)
        assert served.wait() in (0, 110)
        assert not re.search("bug|LEAK|CRASH|Traceback", served.log), served.log
    return class_of(answer)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_three_servers_say_the_same(place, rivals, case):
    data = case.data.encode("latin-1")
    assert ask_httpd(place[0], data) == case.ours
    for name, rival in rivals.items():
        said = rival.ask(data)
        assert said == case.ours or getattr(case, name), f"{name} says {said}xx"


def is_malformed_range(data):
    for line in re.findall(rb"(?mi)^Range: *bytes(.*?)\r$", data):
        if not re.fullmatch(rb"=[\d, -]*", line):
            return True
        for spec in line[1:].split(b","):
            first, dash, last = spec.strip().partition(b"-")
            if not dash or b"-" in last or not (first or last):
                return True
            if first and last and int(first) > int(last):
                return True
    return False


def has(pattern):
    return re.compile(pattern, re.MULTILINE).search


# Where the two agree and httpd does not, one of these is the reason.
RULES = {
    # A name with a dot in front is nobody's business; the two serve .htpasswd.
    "hidden": has(rb"^GET [^ ]*/(\.|%2[eE])[^ /?]*[a-z]"),
    # No file has a slash in its name; the two take %2f for a separator.
    "slash_escaped": has(rb"^GET [^ ?]*%2[fF]"),
    # 9112 3.2: a target has no fragment; the two cut it off.
    "fragment": has(rb"^GET [^ ]*#"),
    # 9110 10.1.1: 417 for what cannot be met; the two do not look.
    "expectation": has(rb"^Expect: (?!100-continue)"),
    # 9112 6.1, 6.3: 400 or 501, refused it is.
    "coding": has(rb"^Transfer-Encoding:"),
    # 9110 14.2: one that cannot be read may be ignored; the two say 416.
    "range": is_malformed_range,
    # 9110 13.1.3, 13.1.4: two dates are to be ignored; the two say 400.
    "two_dates": has(rb"(?s)^(If-(?:Unm|M)odified-Since:).*^\1"),
}


def explained(data):
    return [name for name, rule in RULES.items() if rule(data)]


SEGMENTS = st.sampled_from(
    [
        *["", ".", "..", "%2e", "%2E%2e", ".%2e", "...", "%2e%2e%2e"],
        *[
            "hello.txt",
            "%68ello.txt",
            "hello%2Etxt",
            "HELLO.TXT",
            "hello.txt;a",
            "noext",
        ],
        *["sub", "s%75b", "deep", "page.html", "index.html", "empty", "empty.txt"],
        *["up", "subdir", "data", "inside", "loop", "dangling", "fifo", "closed"],
        *[".htpasswd", "%2ehtpasswd", ".hidden", ".well-known", "security.txt"],
        *[
            "%2f",
            "sub%2fdeep",
            "%5c",
            "\\",
            "%00",
            "hello.txt%00",
            "%",
            "%4",
            "%zz",
            "%25",
        ],
        *["with%20space%20&%20%3Cb%3E.txt", "%c3%a4", "a:b", "~", "{}", "%252e%252e"],
    ]
)
QUERIES = st.sampled_from(["", "", "", "?", "?a=b", "?/../", "?a?b", "#a", "?#", "%3f"])
TARGETS = st.builds(
    lambda segments, query: "/" + "/".join(segments) + query,
    st.lists(SEGMENTS, max_size=5),
    QUERIES,
)
NUMBERS = st.sampled_from(
    ["", "0", "1", "5", "6", "7", "00", "99999", "9" * 30, "-1", "a"]
)
SPECS = st.builds(
    "{}{}{}".format, NUMBERS, st.sampled_from(["-", "-", "-", "", "--"]), NUMBERS
)
RANGES = st.builds(
    lambda unit, specs, comma: f"Range: {unit}{comma.join(specs)}",
    st.sampled_from(["bytes=", "bytes=", "bytes=", "Bytes=", "lines=", "bytes", ""]),
    st.lists(SPECS, max_size=4),
    st.sampled_from([",", ", ", " ,", ",,"]),
)
DATES = st.sampled_from(
    [
        *["Sun, 09 Sep 2001 01:46:40 GMT", "Sat, 08 Sep 2001 01:46:40 GMT"],
        *["Mon, 10 Sep 2001 01:46:40 GMT", "Sunday, 09-Sep-01 01:46:40 GMT"],
        *["Sun Sep  9 01:46:40 2001", "Sat Sep  8 01:46:40 2001", "yesterday", ""],
        *["Sun, 09 Sep 2001 01:46:39 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"],
    ]
)
TAGS = st.sampled_from(["*", '"a"', 'W/"a"', '"a", "b"', "a", '"', ""])
CONDITIONS = st.one_of(
    st.builds("If-Modified-Since: {}".format, DATES),
    st.builds("If-Unmodified-Since: {}".format, DATES),
    st.builds("If-None-Match: {}".format, TAGS),
    st.builds("If-Match: {}".format, TAGS),
    st.builds("If-Range: {}".format, st.one_of(DATES, TAGS)),
)
SHAPES = st.sampled_from(
    [
        *["A: b", "a:b", "A:", "A: \t b \t", "A_B: c", "A-B: c", "1: 2", "A: \xe4"],
        *["A : b", " A: b", "A b", ": b", "A\0: b", "A: b\0", "A: b\rc", "A\t: b"],
        *["Host: a", "Host: b", "Connection: close", "Connection: keep-alive, x"],
        *["Content-Length: 0", "Content-Length: -1", "Content-Length: 0x0"],
        *["Content-Length: 0, 1", "Transfer-Encoding: x", "Transfer-Encoding: gzip"],
        *["Expect: tea", "Upgrade: x", "Accept-Encoding: gzip;q=0", "TE: trailers"],
    ]
)


def request_of(method, target, lines):
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: a", *lines, "", ""])


@settings(derandomize=True, max_examples=120)
@given(
    st.one_of(
        st.builds(request_of, st.just("GET"), TARGETS, st.just([])),
        st.builds(
            request_of,
            st.sampled_from(["GET", "HEAD"]),
            st.sampled_from(["/hello.txt", "/empty.txt", "/", "/no", "/sub"]),
            st.lists(st.one_of(RANGES, CONDITIONS), max_size=3),
        ),
        st.builds(
            request_of,
            st.sampled_from(["GET", "HEAD", "POST", "get", "G"]),
            st.sampled_from(["/hello.txt", "/", "*", "http://a/", "hello.txt"]),
            st.lists(SHAPES, min_size=1, max_size=3),
        ),
    )
)
def test_what_the_two_agree_on_holds_here_too(place, rivals, text):
    data = text.encode("latin-1")
    lighttpd, nginx = (rival.ask(data) for rival in rivals.values())
    if lighttpd == nginx:
        ours = ask_httpd(place[0], data)
        assert ours == lighttpd or explained(data), f"they say {lighttpd}, we {ours}"
