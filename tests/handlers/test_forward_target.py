"""Targets of requests to a proxy, good, bad and anything."""

from __future__ import annotations

import string
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.forward.target import Target, parse_absolute, parse_authority
from superd.handlers.http.refusal import Refused

VISIBLE = [bytes((byte,)) for byte in range(0x21, 0x7F)]
PARTS = [
    *(b"http://", b"HTTP://", b"https://", b"//", b"://", b"/", b"?", b"#", b"@"),
    *(b":", b":80", b":0", b":99999", b"[", b"]", b"[::1]", b"a", b"A.b", b"."),
    *(b"..", b"%2e", b"%25", b"\\", b"127.1", b"0x7f", b"=", b"&", b"*"),
]
anything = st.lists(st.sampled_from(PARTS + VISIBLE), max_size=12).map(b"".join)
targets = anything | anything.map(lambda rest: b"http://" + rest)
names = st.lists(
    st.text(string.ascii_letters + string.digits, min_size=1, max_size=8),
    min_size=1,
    max_size=4,
).map(".".join)
paths = st.text(string.ascii_letters + string.punctuation, max_size=20).map(
    lambda text: "/" + text.replace("#", "")
)


def parsed(parse, *args):
    """Return the target, or the status of the refusal."""
    try:
        return parse(*args)
    except Refused as refused:
        return refused.status


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        (b"http://a.example/", "a.example", 80, b"/"),
        (b"HTTP://A.Example:8080/B?C=d", "a.example", 8080, b"/B?C=d"),
        (b"http://a.example", "a.example", 80, b"/"),
        (b"http://a.example?q", "a.example", 80, b"/?q"),
        (b"http://a.example?/", "a.example", 80, b"/?/"),
        (b"http://a.example:/x", "a.example", 80, b"/x"),
        (b"http://a.example./x", "a.example", 80, b"/x"),
        (b"http://a_b/", "a_b", 80, b"/"),
        (b"http://[::1]/", "::1", 80, b"/"),
        (b"http://[::1]:81/", "::1", 81, b"/"),
        (b"http://[FE80:0::0:1]/", "fe80::1", 80, b"/"),
        (b"http://0x7f.1/", "0x7f.1", 80, b"/"),
        (b"http://2130706433/", "2130706433", 80, b"/"),
        (b"http://127.1:65535/", "127.1", 65535, b"/"),
        (b"http://a//b/../%2e%2F%zz?@:[", "a", 80, b"//b/../%2e%2F%zz?@:["),
        (b"http://a/http://b/", "a", 80, b"/http://b/"),
        (b"http://a/x\\y|{}", "a", 80, b"/x\\y|{}"),
    ],
)
def test_an_absolute_url_is_taken_apart(text, host, port, path):
    assert parse_absolute(text, b"GET") == Target(host, port, path)


@pytest.mark.parametrize(
    ("text", "path"),
    [(b"http://a", b"*"), (b"http://a/", b"/"), (b"http://a?q", b"/?q")],
)
def test_options_of_no_path_is_for_the_server_as_a_whole(text, path):
    assert parse_absolute(text, b"OPTIONS").path == path


@pytest.mark.parametrize(
    "text",
    [
        *(b"/", b"/x", b"*", b"", b"//a/", b"a", b"a:80", b"http:/a/", b"http:a"),
        *(b"http://", b"http:///", b"http://?q", b"http://:80/", b"://a/"),
        *(b"1http://a/", b"a/b://c/", b"http//a://b", b"/http://a/"),
        *(b"http://u@a/", b"http://u:p@a/", b"http://@a/", b"http://a@b@c/"),
        *(b"http://a/#f", b"http://a#f", b"http://a/x#"),
        *(b"http://a:0/", b"http://a:00000/", b"http://a:65536/", b"http://a:99999/"),
        *(b"http://a:000080/", b"http://a:+80/", b"http://a:8_0/", b"http://a:b/"),
        *(b"http://a:80:80/", b"http://./", b"http://../", b"http://a../"),
        *(b"http://[::1/", b"http://::1/", b"http://[]/", b"http://[::1]x/"),
        *(b"http://[::1]80/", b"http://[fe80::1%25lo]/", b"http://[fe80::1%lo]/"),
        *(b"http://[dead]/", b"http://[1.2.3.4]/", b"http://[:::]/", b"http://[v1.a]/"),
        *(b"http://[[::1]]/", b"http://a%2eb/", b"http://a\\b/", b"http://a,b/"),
        b"http://" + b"a" * 64 + b"/",
        b"http://" + b"a." * 127 + b"a/",
    ],
)
def test_what_is_no_absolute_url_is_refused(text):
    assert parsed(parse_absolute, text, b"GET") == 400


@pytest.mark.parametrize("text", [b"https://a/", b"ftp://a/", b"ws://a/", b"HTTPS://a"])
def test_other_schemes_are_told_what_to_use(text):
    assert parsed(parse_absolute, text, b"GET") == 501
    with pytest.raises(Refused, match="CONNECT"):
        parse_absolute(text, b"GET")


def test_who_takes_the_proxy_for_a_server_is_told_so():
    with pytest.raises(Refused, match="this is a proxy"):
        parse_absolute(b"/index.html", b"GET")


def test_a_user_name_is_refused_by_its_name():
    with pytest.raises(Refused, match="a user name"):
        parse_absolute(b"http://a.example@b.example/", b"GET")
    with pytest.raises(Refused, match="a user name"):
        parse_authority(b"a.example:443@b.example:443")


def test_the_longest_name_there_can_be_is_taken():
    name = b".".join([b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61])
    assert len(parse_absolute(b"http://" + name + b"./", b"GET").host) == 253


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (b"a.example:443", "a.example", 443),
        (b"A.EXAMPLE.:443", "a.example", 443),
        (b"127.0.0.1:1", "127.0.0.1", 1),
        (b"[2001:DB8::1]:65535", "2001:db8::1", 65535),
        (b"a:00080", "a", 80),
    ],
)
def test_the_target_of_connect_is_host_and_port(text, host, port):
    assert parse_authority(text) == Target(host, port, b"")


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b":", b"a", b"a:", b":443", b"443", b"a:443/", b"a:443/x", b"/a:443"),
        *(b"a:443?q", b"a:443?", b"a:443#f", b"a:443#", b"u@a:443", b"u:p@a:443"),
        *(b"@a:443", b"http://a:443", b"https://a:443/", b"//a:443", b"a:0"),
        *(b"a:65536", b"a:99999", b"a:123456", b"a:x", b"a:-1", b"a:4 3", b"a:80:80"),
        *(b"[::1]", b"[::1]:", b"[::1]:0", b"::1:443", b"[::1:443", b"[]:443"),
        *(b"[fe80::1%lo]:443", b"*", b"*:443", b"a..b:443", b".:443", b"a\\b:443"),
    ],
)
def test_what_is_not_host_and_port_is_no_target_of_connect(text):
    assert parsed(parse_authority, text) == 400


@pytest.mark.parametrize(
    ("target", "authority", "endpoint", "url"),
    [
        (Target("a", 80, b"/x?y"), b"a", b"a:80", b"http://a/x?y"),
        (Target("a", 8080, b"/"), b"a:8080", b"a:8080", b"http://a:8080/"),
        (Target("a", 180, b"/"), b"a:180", b"a:180", b"http://a:180/"),
        (Target("::1", 80, b"/"), b"[::1]", b"[::1]:80", b"http://[::1]/"),
        (Target("::80", 81, b"/"), b"[::80]:81", b"[::80]:81", b"http://[::80]:81/"),
        (Target("a", 80, b"*"), b"a", b"a:80", b"http://a"),
    ],
)
def test_a_target_is_spelt_again(target, authority, endpoint, url):
    assert target.authority == authority
    assert target.endpoint == endpoint
    assert target.url == url


@given(targets, st.sampled_from([b"GET", b"OPTIONS"]))
def test_any_text_is_a_target_or_a_refusal(text, method):
    target = parsed(parse_absolute, text, method)
    if target in (400, 501):
        return
    assert target.host == target.host.lower()
    assert target.host.isascii()
    assert not set(target.host) & set("/?#@[]%\\ ")
    assert 0 < target.port < 65536
    assert target.path == b"*" or target.path.startswith(b"/")
    assert text.endswith(target.path.removeprefix(b"/")) or target.path == b"*"
    # What was understood is understood again.
    assert parse_absolute(target.url, method) == target


@given(targets)
def test_any_text_is_a_target_of_connect_or_a_refusal(text):
    target = parsed(parse_authority, text)
    if target == 400:
        return
    assert target.path == b""
    assert parse_authority(target.endpoint) == target


@given(targets)
def test_the_host_is_the_one_that_pythons_library_finds(text):
    """Wherever this one finds any; the library takes much more, and says so."""
    target = parsed(parse_absolute, text, b"GET")
    if target in (400, 501):
        return
    theirs = urlsplit(text.decode("ascii"))
    if ":" not in target.host:
        assert (theirs.hostname or "").removesuffix(".") == target.host
    assert (theirs.port or 80) == target.port
    assert theirs.username is None


@given(names, st.integers(1, 65535), paths)
def test_a_good_url_is_taken_whole(name, port, path):
    target = parse_absolute(f"http://{name}:{port}{path}".encode(), b"GET")
    assert target == Target(name.lower(), port, path.encode())
