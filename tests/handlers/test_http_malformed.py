"""Heads that no two readers may read differently: each is refused, and that is the end.

Many are the payloads of the http-garden project (its list "Server Bugs"; the number is in
the comment), a Host added where it lacked one, for that alone would be a reason. Behind
each one comes a good request: were it answered, a peer could smuggle it past a proxy.
Bodies are in test_http_malformed_bodies.py.
"""

from __future__ import annotations

import re

import pytest
from http_answers import answers_in, the_answer_in
from httpd_root import make_root
from httpd_talk import main_for
from inetd import fork

REFUSED = {400, 414, 431, 501, 505}
NEXT = b"GET /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n"

# Each stands for METHOD TARGET VERSION, before a Host field.
LINES = {
    "version_of_two_digits": b"GET / HTTP/1.32",  # 5
    "version_of_returns": b"GET / HTTP/\r\r1.1",  # 15
    "version_that_overflows": b"GET / HTTP/4294967295.255",  # 24
    "version_of_dots": b"GET / HTTP/............0596.7407.",  # 40
    "version_2": b"GET / HTTP/2.0",
    "version_0_9": b"GET / HTTP/0.9",
    "version_without_minor": b"GET / HTTP/1",
    "version_without_digits": b"GET / HTTP/",
    "version_without_a_dot": b"GET / HTTP/11",
    "version_with_a_comma": b"GET / HTTP/1,1",
    "version_with_a_sign": b"GET / HTTP/+1.1",
    "version_with_a_zero": b"GET / HTTP/01.1",
    "version_of_three_parts": b"GET / HTTP/1.1.1",
    "version_with_a_tail": b"GET / HTTP/1.1x",
    "version_with_a_space": b"GET / HTTP/ 1.1",
    "version_in_lower_case": b"GET / http/1.1",
    "version_in_arabic_digits": b"GET / HTTP/\xd9\xa1.1",
    "version_of_another_protocol": b"GET / RTSP/1.0",
    "version_of_icecast": b"SOURCE / ICE/1.0",
    "no_version": b"GET /",
    "only_a_method": b"GET",
    "no_method": b"/ HTTP/1.1",
    "no_target": b"GET HTTP/1.1",
    "empty_target": b"GET  HTTP/1.1",
    "two_spaces_before_the_target": b"GET  / HTTP/1.1",
    "two_spaces_before_the_version": b"GET /  HTTP/1.1",
    "space_in_front": b" GET / HTTP/1.1",
    "space_behind": b"GET / HTTP/1.1 ",
    "tab_behind": b"GET / HTTP/1.1\t",
    "return_behind": b"GET / HTTP/1.1\r",
    "tabs_between": b"GET\t/\tHTTP/1.1",
    "vertical_tabs_between": b"GET\x0b/\x0bHTTP/1.1",
    "form_feeds_between": b"GET\x0c/\x0cHTTP/1.1",
    "no_break_spaces_between": b"GET\xa0/\xa0HTTP/1.1",
    "line_feed_between": b"GET /\nHTTP/1.1",  # 9
    "return_between": b"GET /\rHTTP/1.1",
    "method_of_separators": b'G=":<>(e),[T];?" / HTTP/1.1',  # 6
    "method_of_nul": b"\x00 / HTTP/1.1",  # 40
    "method_with_a_nul": b"GET\x00 / HTTP/1.1",
    "method_with_a_colon": b"GET: / HTTP/1.1",
    "method_with_a_slash": b"GET/ / HTTP/1.1",
    "method_with_an_umlaut": b"G\xc9T / HTTP/1.1",
    "target_of_no_form": b"GET ! HTTP/1.1",  # 7
    "target_without_a_slash": b"GET hello.txt HTTP/1.1",
    "target_of_a_query": b"GET ?q HTTP/1.1",
    "target_of_a_backslash": b"GET \\ HTTP/1.1",
    "target_of_an_authority": b"GET a:80 HTTP/1.1",
    "asterisk_for_get": b"GET * HTTP/1.1",
    "target_with_a_nul": b"GET /\x00 HTTP/1.1",
    "target_with_a_control": b"GET /\x01 HTTP/1.1",
    "target_with_a_tab": b"GET /\t HTTP/1.1",
    "target_with_a_delete": b"GET /\x7f HTTP/1.1",
    "target_with_an_umlaut": b"GET /\xe4 HTTP/1.1",
    "target_with_a_space": b"GET /a b HTTP/1.1",
    "target_with_a_fragment": b"GET /#a HTTP/1.1",
    "escape_without_digits": b"GET /% HTTP/1.1",
    "escape_with_one_digit": b"GET /%2 HTTP/1.1",
    "escape_of_no_digits": b"GET /%zz HTTP/1.1",
    "escape_with_a_sign": b"GET /%+2 HTTP/1.1",
    "escape_of_unicode": b"GET /%u0041 HTTP/1.1",
    "escape_of_nul": b"GET /%00 HTTP/1.1",
    "above_the_root": b"GET /../hello.txt HTTP/1.1",
    "above_the_root_escaped": b"GET /%2e%2E/hello.txt HTTP/1.1",
    "above_the_root_and_back": b"GET /sub/../../root/hello.txt HTTP/1.1",
    "absolute_without_a_host": b"GET http:///hello.txt HTTP/1.1",
    "absolute_with_one_slash": b"GET http:/a/ HTTP/1.1",
    "absolute_with_a_user": b"GET http://u@a/ HTTP/1.1",
    "absolute_of_another_scheme": b"GET ftp://a/ HTTP/1.1",
    "absolute_with_a_far_port": b"GET http://a:99999/ HTTP/1.1",
    "absolute_with_a_bad_port": b"GET http://a:8a/ HTTP/1.1",
    "absolute_with_an_open_bracket": b"GET http://[::1/ HTTP/1.1",
    "target_too_long": b"GET /" + b"a" * 9000 + b" HTTP/1.1",
    "method_too_long": b"G" * 9000 + b" / HTTP/1.1",
}

# Each stands behind a good request line and a good Host field.
FIELDS = {
    "nul_and_return_in_a_value": b"Header: v\x00\ralue",  # 2
    "space_before_the_colon": b"Content-Length : 34",  # 3
    "tab_before_the_colon": b"Content-Length\t: 34",
    "vertical_tab_before_the_colon": b"Transfer-Encoding\x0b: chunked",
    "coding_with_a_space_before_the_colon": b"Transfer-Encoding : chunked",
    "name_with_a_high_byte": b"\xefoo: bar",  # 8
    "return_between_fields": b"Visible: :/\rSmuggled: :)",  # 13
    "name_of_every_separator": b'\x00\x01\x08\t\x0b\x0c\x1f "(),/;<=>?@[/]{}: a',  # 14
    "name_of_nothing": b": ignored",  # 18
    "line_feeds_after_the_colon": b"Useless:\n\nGET / HTTP/1.1",  # 19
    "name_with_a_next_line_byte": b"Content-Length\x85: 10",  # 20
    "only_a_colon": b":\r\nI: am chopped off",  # 27
    "no_colon": b"Content-Length 10",  # 28
    "no_colon_in_one_word": b"Word",
    "return_in_front_of_a_line": b"\rZGET /evil: HTTP/1.1",  # 30
    "return_in_a_value": b"Header: va\rlue",  # 34
    "nul_in_a_value": b"Test: test\x00THESE BYTES GET DROPPED",  # 35
    "name_over_two_lines": b"Transfer-\r\nEncoding: chunked",  # 37
    "nul_behind_a_value": b"Evil: evil\x00",  # 43
    "line_feed_in_a_name": b"Te\nst: test",
    "line_feed_in_a_value": b"Test: te\nst",
    "line_feed_behind_a_value": b"A: b\nC: d",
    "return_behind_a_value": b"A: b\r",
    "control_in_a_value": b"A: b\x01c",
    "backspace_in_a_value": b"A: b\x08c",
    "vertical_tab_in_a_value": b"A: b\x0bc",
    "escape_in_a_value": b"A: \x1b[2J",
    "delete_in_a_value": b"A: b\x7fc",
    "folded_by_a_space": b"A: b\r\n c",
    "folded_by_a_tab": b"A: b\r\n\tc",
    "folded_from_the_start": b"Transfer-Encoding:\r\n chunked",
    "folded_line_of_nothing": b"A: b\r\n ",
    "name_with_a_space": b"A B: c",
    "name_with_an_at_sign": b"A@B: c",
    "name_with_a_slash": b"A/B: c",
    "name_with_parentheses": b"A(B): c",
    "name_with_braces": b"{A}: c",
    "name_in_quotes": b'"A": c',
    "name_with_a_nul": b"A\x00: c",
    "name_with_a_delete": b"A\x7f: c",
    "length_with_sign_and_underscore": b"Content-Length: +1_0",  # 10
    "length_with_a_sign": b"Content-Length: +5",
    "length_with_an_underscore": b"Content-Length: 1_0",
    "length_negative": b"Content-Length: -48",  # 26
    "length_negative_zero": b"Content-Length: -0",
    "length_of_nothing": b"Content-Length: ",  # 16, 38
    "length_with_a_tail": b"Content-Length: 1Z",  # 29
    "length_in_hex": b"Content-Length: 0x10",
    "length_in_words": b"Content-Length: five",
    "length_with_a_point": b"Content-Length: 5.0",
    "length_with_an_exponent": b"Content-Length: 1e1",
    "length_in_quotes": b'Content-Length: "5"',
    "length_with_a_parameter": b"Content-Length: 5;q=1",
    "length_of_two_words": b"Content-Length: 5 5",
    "length_as_a_list": b"Content-Length: 5, 6",
    "length_with_a_comma": b"Content-Length: 5,",
    "length_in_arabic_digits": b"Content-Length: \xd9\xa5",
    "length_in_wide_digits": b"Content-Length: \xef\xbc\x95",
    "length_with_a_vertical_tab": b"Content-Length: 5\x0b",
    "length_with_a_no_break_space": b"Content-Length: \xa05",
    "length_of_2_to_the_64": b"Content-Length: 18446744073709551616",
    "length_of_2_to_the_64_and_5": b"Content-Length: 18446744073709551621",
    "length_of_100_digits": b"Content-Length: " + b"9" * 100,
    "lengths_1_and_0": b"Content-Length: 1\r\nContent-Length: 0",  # 23
    "lengths_0_and_1": b"Content-Length: 0\r\nContent-Length: 1",  # 33
    "lengths_in_two_spellings": b"Content-Length: 0\r\ncontent-length: 37",
    "lengths_empty_and_37": b"Content-Length: \r\nContent-Length: 37",  # 42
    "codings_twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",  # 11
    "coding_in_no_break_spaces": b"Transfer-Encoding: \xa0chunked\xa0",  # 12
    "coding_in_high_bytes": b"Transfer-Encoding: \xffchunked\xff",  # 46
    "coding_with_comma_and_length": (
        b"Transfer-Encoding: ,chunked\r\nContent-Length: 5"  # 21
    ),
    "coding_unknown": b"Transfer-Encoding: blegh",  # 44
    "coding_identity": b"Transfer-Encoding: identity",
    "coding_gzip_and_chunked": b"Transfer-Encoding: gzip, chunked",
    "coding_empty": b"Transfer-Encoding: ",
    "coding_chunked_twice": b"Transfer-Encoding: chunked, chunked",
    "coding_chunked_first": b"Transfer-Encoding: chunked, identity",
    "coding_chunked_and_unknown": (
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow"
    ),
    "coding_with_a_tail": b"Transfer-Encoding: chunkedx",
    "coding_with_a_start": b"Transfer-Encoding: xchunked",
    "coding_in_quotes": b'Transfer-Encoding: "chunked"',
    "coding_with_a_parameter": b"Transfer-Encoding: chunked;a=b",
    "coding_of_two_words": b"Transfer-Encoding: chun ked",
    "coding_after_a_vertical_tab": b"Transfer-Encoding: \x0bchunked",
    "coding_with_a_nul": b"Transfer-Encoding: chunked\x00",
    "coding_over_two_lines": b"Transfer-Encoding: chu\r\n nked",
    "length_and_coding": b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    "coding_and_length": b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    "length_0_and_coding": b"Content-Length: 0\r\nTransfer-Encoding: chunked",
    "length_and_coding_unknown": b"Content-Length: 5\r\nTransfer-Encoding: x",
    "host_twice": b"Host: b",
    "host_twice_the_same": b"host: a",
    "field_of_100_kb": b"A: " + b"b" * 100_000,
    "name_of_100_kb": b"A" * 100_000 + b": b",
    "2000_fields": b"\r\n".join(b"A%d: b" % number for number in range(2000)),
}

# Each is the value of the only Host field.
HOSTS = {
    "nothing": b"",
    "high_bytes": b"\xffa\xff",  # 46
    "nul": b"a\x00.b",
    "space": b"a b",
    "slash": b"a/b",
    "backslash": b"a\\b",
    "list": b"a, b",
    "user": b"u@a",
    "query": b"a?b",
    "fragment": b"a#b",
    "url": b"http://a/",
    "only_dots": b"..",
    "empty_label": b"a..b",
    "only_a_port": b":80",
    "far_port": b"a:65536",
    "two_ports": b"a:80:80",
    "port_with_a_sign": b"a:+80",
    "port_with_an_underscore": b"a:8_0",
    "port_in_words": b"a:http",
    "bare_ipv6": b"::1",
    "open_bracket": b"[::1",
    "closed_bracket": b"::1]",
    "tail_behind_a_bracket": b"[::1]a",
    "name_in_brackets": b"[a.example]",
    "markup": b"<a>",
}

WHOLE = {
    "no_host": b"GET / HTTP/1.1\r\n\r\n",
    "no_host_with_an_absolute_target": b"GET http://a/ HTTP/1.1\r\n\r\n",
    "tab_before_the_first_field": b"GET / HTTP/1.1\r\n\tHost: a\r\n\r\n",  # 4
    "space_before_the_first_field": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "line_of_a_space_first": b"GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n",
    "line_feeds_only": b"GET / HTTP/1.1\nHost: a\n\n",
    "line_feed_behind_the_request_line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "line_feed_behind_a_field": b"GET / HTTP/1.1\r\nHost: a\n\r\n",
    "line_feed_at_the_end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "returns_only": b"GET / HTTP/1.1\rHost: a\r\r",
    "two_returns_before_a_line_feed": b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
    "two_returns_before_the_last_line_feed": b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n",
    "line_feeds_in_front": b"\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "line_feed_before_return": b"GET / HTTP/1.1\n\rHost: a\n\r\n\r",
    "empty_lines_in_front": b"\r\n" * 100,
    "coding_in_http_1_0": (
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "start_of_http_2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "answer_of_a_server": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "proxy_line": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "proxy_bytes": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x00",
    "hello_of_tls": b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\n",
    "hello_of_ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "hello_of_smtp": b"EHLO a.example\r\n",
    "hello_of_socks": b"\x05\x01\x00\n",
    "only_nuls": bytes(100),
    "line_without_an_end": b"GET /" + b"a" * 70_000,
    "head_without_an_end": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 20_000,
}

# Strict is not deaf: all this is good HTTP, and the request behind it is the next one.
GOOD = {
    "empty_line_in_front": b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "later_minor_version": b"GET / HTTP/1.9\r\nHost: a\r\n\r\n",
    "kept_http_1_0": b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "absolute_target": b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
    "absolute_target_in_capitals": b"GET HTTP://A:80/ HTTP/1.1\r\nHost: b\r\n\r\n",
    "names_in_any_case": b"GET / HTTP/1.1\r\nhOST: a\r\nCONNECTION: Keep-Alive\r\n\r\n",
    "no_space_behind_the_colon": b"GET / HTTP/1.1\r\nHost:a\r\nA:b\r\n\r\n",
    "space_around_values": b"GET / HTTP/1.1\r\nHost: \t a \t\r\nA:\t\r\n\r\n",
    "high_bytes_in_a_value": b"GET / HTTP/1.1\r\nHost: a\r\nA: \x85b\xa0\r\n\r\n",  # 41
    "every_byte_of_a_name": b"GET / HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~: b\r\n\r\n",
    "underscores_are_no_dashes": b"GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 9\r\n\r\n",
    "host_with_a_port": b"GET / HTTP/1.1\r\nHost: a.example.:65535\r\n\r\n",
    "host_of_ipv6": b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n",
    "length_of_zero": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",  # 48
    "offer_of_http_2": (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
    ),
    "query_of_anything": b"GET /?%zz=../..&%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "dots_inside": b"GET /sub/../sub/./deep/%2e%2e/../ HTTP/1.1\r\nHost: a\r\n\r\n",
}


def _requests():
    for name, line in LINES.items():
        yield pytest.param(line + b"\r\nHost: a\r\n\r\n", id=f"line-{name}")
    good = b"GET / HTTP/1.1\r\nHost: a\r\n"
    for name, field in FIELDS.items():
        yield pytest.param(good + field + b"\r\n\r\n", id=f"field-{name}")
    for name, host in HOSTS.items():
        text = b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host
        yield pytest.param(text, id=f"host-{name}")
    for name, whole in WHOLE.items():
        yield pytest.param(whole, id=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("httpd"))


@pytest.fixture
def serve(request, folder):
    main = main_for(request)

    def start(*, kind="tcp", early=b""):
        return fork(main, "--root", str(folder), kind=kind, early=early)

    return start


@pytest.mark.parametrize("request_bytes", list(_requests()))
def test_it_is_refused_and_nothing_behind_it_is_answered(serve, request_bytes):
    with serve() as served:
        # Read to the end before our own end is closed: it is the server that ends it.
        stream = served.send(request_bytes + NEXT).read()
        assert served.end().wait() in (0, 110)
        assert not re.search("bug|LEAK|CRASH|Traceback", served.log), served.log
    answer = the_answer_in(stream)
    assert answer.status in REFUSED
    assert answer.fields["connection"] == "close"
    for text in (b"hello\n", b"<h1>root</h1>"):
        assert text not in stream


@pytest.mark.parametrize("request_bytes", GOOD.values(), ids=GOOD.keys())
def test_it_is_answered_and_so_is_the_next(serve, request_bytes):
    with serve() as served:
        first, second = answers_in(served.talk(request_bytes, NEXT))
        assert served.wait() == 0
        assert served.log == ""
    assert (first.status, first.body) == (200, b"<h1>root</h1>\n")
    assert (second.status, second.body) == (200, b"hello\n")


@pytest.mark.parametrize(
    "fields", [b"A : b", b"Host: b", b"A: b\r\n c", b"Content-Length: x", b"A: \0"]
)
def test_no_body_follows_the_answer_to_head_even_where_it_is_refused(serve, fields):
    """The method is beyond doubt (RFC 9110 9.3.2); lighttpd and nginx do the same."""
    with serve() as served:
        data = b"HEAD / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % fields
        stream = served.talk(data + NEXT)
        assert served.wait() == 110
    assert the_answer_in(stream, "HEAD").status == 400


def test_what_follows_the_last_request_is_not_looked_at(serve):  # 45
    last = NEXT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with serve() as served:
        stream = served.send(last + b"Invalid\r\n\r\n" + NEXT).read()
        assert served.end().wait() == 0
        assert served.log == ""
    assert the_answer_in(stream).body == b"hello\n"


@pytest.mark.parametrize("end", range(1, len(NEXT)))
def test_a_part_of_a_head_is_no_request(serve, end):
    with serve() as served:
        answer = the_answer_in(served.talk(NEXT[:end]))
        assert served.wait() == 110
    assert answer.status == 400
    assert b"hello" not in answer.body


@pytest.mark.parametrize("kind", ["records", "tcp"])
def test_a_head_in_single_bytes_is_waited_for(serve, kind):
    with serve(kind=kind) as served:
        for at in range(len(NEXT)):
            served.send(NEXT[at : at + 1])
        assert the_answer_in(served.end().read()).body == b"hello\n"
        assert served.wait() == 0


def test_a_head_that_was_there_before_the_server_is_refused_the_same_way(serve):
    with serve(early=b"GET / HTTP/1.1\n\n" + NEXT) as served:
        assert the_answer_in(served.read()).status == 400
        assert served.end().wait() == 110
