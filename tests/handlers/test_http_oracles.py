"""Other people's readers of HTTP, h11 and Werkzeug, say what httpd should have understood.

Both are oracles, not models: httpd is asked over a connection, and its answer is compared
with what the oracle computes from the same text. Where they are known to be looser than
RFC 9110, the strategy leaves that out, and says so.
"""

from __future__ import annotations

import datetime as dt
import re

import pytest
from http_answers import the_answer_in
from httpd_root import STAMP, make_root
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from inetd import fork

from superd.handlers import httpd

pytestmark = pytest.mark.slow

DATA = bytes(range(100))
SIZE = len(DATA)
DATE = dt.datetime.fromtimestamp(STAMP, dt.UTC)
EXAMPLES = settings(derandomize=True, max_examples=50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = make_root(tmp_path_factory.mktemp("httpd"))
    (root / "file").write_bytes(DATA)
    (root / "file").chmod(0o644)
    return root


@pytest.fixture(scope="module")
def send(folder):
    def ask(data):
        with fork(httpd.main, "--root", str(folder), kind="pair") as served:
            stream = served.talk(data)
            assert served.wait() in (0, 110)
            assert not re.search("bug|LEAK|CRASH|Traceback", served.log), served.log
        return stream

    return ask


@pytest.fixture(scope="module")
def get(send):
    def ask(target, *lines):
        text = "\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *lines, "", ""])
        return the_answer_in(send(text.encode()))

    return ask


# Heads, for h11. Half of them are good; what one byte too many does is the question.

GOOD = 12
"""How often the usual comes for once that what is odd does."""
METHODS = st.sampled_from(["GET", "HEAD", "OPTIONS"])
NAMES = st.sampled_from(["file", "hello.txt", "sub", "", ".", "%66ile", "sub/..", "~"])
TARGETS = st.one_of(
    st.builds(
        "/{}{}".format, NAMES, st.sampled_from(["", "?", "?a=b", "?%zz", "??/.."])
    ),
    st.builds(
        "/file?{}".format, st.text(st.characters(max_codepoint=0xFF), max_size=2)
    ),
    st.sampled_from(["/"] * GOOD + ["*", "http://a/file", "http://a", "a:80", "file"]),
)
VERSIONS = st.sampled_from(["1.1"] * GOOD + ["1.0", "1.2", "2.0", "1.10", "1"])
HOSTS = st.sampled_from(
    [[("Host", ": ", "a")]] * GOOD
    + [[("hOST", ":", " a:80 ")], [], [("Host", ":", "")]]
)
FIELDS = st.tuples(
    st.sampled_from(
        ["A", "x-y_z", "!#$%&'*+-.^_`|~", "1"] * 3
        + ["Content-Length", "A\0", "\xe4", "(A"]
    ),
    st.sampled_from([":", ": ", ":\t "] * GOOD + [" :", ""]),
    st.one_of(
        st.sampled_from(["", "a", "0", "  a\tb  ", "a,b", "\xe4", "00", ":", '"']),
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=6),
        st.text(st.characters(max_codepoint=0xFF), max_size=2),
    ),
)
LINE_ENDS = st.sampled_from(["\r\n"] * GOOD + ["\n", "\r", "\r\r\n"])


@EXAMPLES
@given(
    METHODS,
    TARGETS,
    VERSIONS,
    HOSTS,
    st.lists(FIELDS, max_size=2),
    LINE_ENDS,
)
@example("GET", "/file", "1.1", [("Host", ": ", "a")], [], "\r\n")
@example("GET", "/file", "1.0", [], [("A", ":", "\xe4 \t")], "\r\n")
def test_what_httpd_serves_h11_reads_the_same_way(
    send, method, target, version, host, fields, end
):
    h11 = pytest.importorskip("h11")
    lines = [f"{method} {target} HTTP/{version}"]
    lines += [name + colon + value for name, colon, value in [*host, *fields]]
    data = "\r\n".join([*lines, ""]).encode("latin-1") + end.encode()
    stream = send(data)
    if not re.match(rb"HTTP/1\.1 [23]", stream):
        return
    answer = the_answer_in(stream, method)
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(data)
    request = peer.next_event()
    assert isinstance(request, h11.Request), f"h11 waits, httpd says {answer.status}"
    assert request.method == method.encode()
    assert request.target == target.encode("latin-1")
    assert list(request.headers) == [
        (name.lower().encode(), value.strip(" \t").encode("latin-1"))
        for name, _, value in [*host, *fields]
    ]
    assert isinstance(peer.next_event(), h11.EndOfMessage), "h11 sees a body"


# Ranges, for Werkzeug.

NUMBERS = st.sampled_from(
    ["", "0", "1", "9", "50", "98", "99", "100", "101", "007", "x"]
)
# Of -0 it says that it is no range; by 9110 14.1.2 it is one, and cannot be satisfied.
SPECS = st.builds("{}-{}".format, NUMBERS, NUMBERS).filter(lambda spec: spec != "-0")


def served_spans(answer):
    """Return what was sent as [(start, end)], None for the file as it is."""
    if answer.status == 200:
        assert answer.body == DATA
        return None
    if answer.status == 416:
        assert answer.fields["content-range"] == f"bytes */{SIZE}"
        return []
    assert answer.status == 206
    text = f"Content-Range: {answer.fields.get('content-range')}\r\n\r\n".encode()
    parts = (text if "content-range" in answer.fields else b"") + answer.body
    spans = [
        (int(first), int(last) + 1)
        for first, last in re.findall(rb"Content-Range: bytes (\d+)-(\d+)/100\r", parts)
    ]
    bodies = re.split(rb"Content-Range: [^\r]*\r\n\r\n", parts)[1:]
    for (start, stop), body in zip(spans, bodies, strict=True):
        assert body.startswith(DATA[start:stop])
    return spans


@EXAMPLES
@given(
    st.sampled_from(["bytes", "bytes", "bytes", "lines"]),
    st.lists(SPECS, min_size=1, max_size=3),
    st.sampled_from([",", ", "]),
)
def test_werkzeug_reads_a_range_the_same_way(get, unit, specs, comma):
    http = pytest.importorskip("werkzeug.http")
    value = f"{unit}={comma.join(specs)}"
    parsed = http.parse_range_header(value)
    spans = served_spans(get("/file", f"Range: {value}"))
    if unit != "bytes":
        assert spans is None
        return
    if parsed is None:
        # It wants several to be in order and apart; 9110 14.2 only advises against it.
        alone = [http.parse_range_header(f"bytes={spec}") for spec in specs]
        assume(len(specs) == 1 or None in alone)
        assert spans is None
        return
    wanted = []
    for start, stop in parsed.ranges:
        begin = max(0, SIZE + start) if start < 0 else start
        end = SIZE if stop is None else min(stop, SIZE)
        if begin < end:
            wanted.append((begin, end))
    if sum(end - begin for begin, end in wanted) > SIZE:
        wanted = None  # more bytes than the file has: it is sent as it is
    assert spans == wanted


# Dates, for Werkzeug; its parser is that of e-mail.

DAYS = st.datetimes(
    dt.datetime(1971, 1, 1),  # noqa: DTZ001  its zone follows
    dt.datetime(2037, 12, 31),  # noqa: DTZ001  its zone follows
    timezones=st.just(dt.UTC),
)
NEAR = st.builds(
    lambda seconds: DATE + dt.timedelta(seconds=seconds), st.integers(-2, 2)
)
FORMS = {
    "imf": "%a, %d %b %Y %H:%M:%S GMT",
    "rfc850": "%A, %d-%b-%y %H:%M:%S GMT",
    "asctime": "%a %b %e %H:%M:%S %Y",
}
# What is no date, for both.
NO_DATES = [
    *[
        "",
        "yesterday",
        "0",
        "1000000000",
        "Sun, 09 Sep",
        "Sun, 32 Sep 2001 01:46:40 GMT",
    ],
    *["Sun, 09 Foo 2001 01:46:40 GMT", "Sun, 09 Sep 2001 25:46:40 GMT", "GMT", "Sun"],
    *["Sun, 09 Sep 2001 01:60:40 GMT", "Sun, 31 Feb 2038 01:46:40 GMT", "2038-01-01"],
]


@EXAMPLES
@given(st.one_of(DAYS, NEAR), st.sampled_from(sorted(FORMS)))
@example(DATE, "imf")
@example(DATE, "rfc850")
@example(DATE, "asctime")
def test_werkzeug_reads_a_date_the_same_way(get, moment, form):
    http = pytest.importorskip("werkzeug.http")
    if form == "rfc850":
        # Of two digits it takes 69 to 99 for 1969 to 1999, always; httpd asks how far
        # in the future that would be (9110 5.6.7).
        moment = moment.replace(year=max(moment.year, 2000))
    text = moment.strftime(FORMS[form])
    parsed = http.parse_date(text)
    assert parsed == moment.replace(microsecond=0)
    later = parsed >= DATE
    assert get("/hello.txt", f"If-Modified-Since: {text}").status == 200 + later * 104
    answer = get("/hello.txt", f"If-Unmodified-Since: {text}")
    assert answer.status == (200 if later else 412)


@pytest.mark.parametrize("text", NO_DATES)
def test_what_is_no_date_for_werkzeug_is_ignored(get, text):
    http = pytest.importorskip("werkzeug.http")
    assert http.parse_date(text) is None
    for name in ("If-Modified-Since", "If-Unmodified-Since"):
        assert get("/hello.txt", f"{name}: {text}").status == 200


def test_werkzeug_reads_what_httpd_writes(get):
    http = pytest.importorskip("werkzeug.http")
    fields = get("/hello.txt").fields
    assert http.parse_date(fields["last-modified"]) == DATE
    now = dt.datetime.now(dt.UTC)
    assert abs(http.parse_date(fields["date"]) - now) < dt.timedelta(minutes=1)
    assert http.unquote_etag(fields["etag"])[1] is False
    part = get("/file", "Range: bytes=3-5").fields["content-range"]
    read = http.parse_content_range_header(part)
    assert (read.units, read.start, read.stop, read.length) == ("bytes", 3, 6, SIZE)
    behind = get("/file", "Range: bytes=100-").fields["content-range"]
    assert http.parse_content_range_header(behind).length == SIZE
    kind, options = http.parse_options_header(fields["content-type"])
    assert (kind, options) == ("text/plain", {"charset": "utf-8"})
    allowed = http.parse_set_header(get("/file", "Host: b").fields.get("allow", "GET"))
    assert "get" in allowed


# Entity tags, for Werkzeug. It reads tags without quotes as tags, so all have some.

TAGS = st.sampled_from(['"TAG"', 'W/"TAG"', '"a"', 'W/"a"', '""', '"a,b"', '"\xe4"'])


@EXAMPLES
@given(
    st.one_of(st.just("*"), st.lists(TAGS, min_size=1, max_size=3)),
    st.sampled_from([",", ", ", " , "]),
)
@example("*", ",")
@example(['W/"TAG"'], ",")
@example(['"a,b"', '"TAG"'], ",")
def test_werkzeug_reads_entity_tags_the_same_way(get, tags, comma):
    http = pytest.importorskip("werkzeug.http")
    tag = http.unquote_etag(get("/hello.txt").fields["etag"])[0]
    text = (tags if tags == "*" else comma.join(tags)).replace("TAG", tag)
    parsed = http.parse_etags(text)
    answer = get("/hello.txt", f"If-None-Match: {text}")
    assert answer.status == (304 if parsed.contains_weak(tag) else 200)
    answer = get("/hello.txt", f"If-Match: {text}")
    assert answer.status == (200 if parsed.contains(tag) else 412)
