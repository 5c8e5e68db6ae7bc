"""What may be asked of a proxy, however it is spelt."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.exits import SetupError
from superd.handlers.forward.rules import SEARCHED, Ports, Rules, _ports, plain_host

NOTHING = "no rule allows it"


def denied(pattern, host="a.example", port=80, path=b"/"):
    objection = Rules([], [pattern]).objection(host, port, path)
    assert objection in ("", f"denied by the rule {pattern}")
    return bool(objection)


def allowed(pattern, host="a.example", port=80, path=b"/"):
    objection = Rules([pattern], []).objection(host, port, path)
    assert objection in ("", NOTHING)
    return not objection


# -- hosts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "hosts", "others"),
    [
        ("a.example", ["a.example", "A.Example", "a.example."], ["b.a.example", "a"]),
        ("A.Example.", ["a.example"], ["xa.example", "a.example.org"]),
        (
            ".a.example",
            ["a.example", "b.a.example", "c.b.a.example.", "B.A.EXAMPLE"],
            ["ba.example", "example", "a.example.org"],
        ),
        (".example", ["example", "a.example"], ["127.0.0.1", "::1"]),
        ("*", ["a", "127.0.0.1", "::1"], []),
        ("_x-1.a", ["_x-1.a"], ["x-1.a"]),
        ("db1", ["db1"], ["db2"]),
        ("[::1]", ["::1", "[::1]", "0:0:0:0:0:0:0:1", "::1%lo"], ["::2", "0.0.0.1"]),
        ("[2001:DB8::0:1]", ["2001:db8::1"], ["2001:db8::2"]),
        ("~^b[0-9]\\.example:", ["b1.example"], ["a.b1.example", "bx.example"]),
        ("~\\d\\.example", ["1.example"], ["\u0661.example"]),
    ],
)
def test_a_host_is_met_by_its_pattern_and_others_are_not(pattern, hosts, others):
    for host in hosts:
        assert denied(pattern, host)
        assert allowed(pattern, host)
    for host in others:
        assert not denied(pattern, host)
        assert not allowed(pattern, host)


@pytest.mark.parametrize("pattern", ["127.0.0.1", "127.1", "0x7f.1", "[::ffff:7f00:1]"])
@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "0x7f.1", "0X7F.1", "127.1", "127.0.1", "2130706433", "0177.1"),
        *("0x7f000001", "017700000001", "127.0.0.1.", "::ffff:127.0.0.1"),
        *("[::ffff:127.0.0.1]", "::FFFF:7f00:1", "64:ff9b::127.0.0.1"),
    ],
)
def test_an_address_is_met_in_every_spelling(pattern, host):
    assert denied(pattern, host)
    assert allowed(pattern, host)
    assert denied("~^127\\.0\\.0\\.1:80", host)
    assert not denied(pattern, "127.0.0.2")


@given(st.ip_addresses(v=4))
def test_whatever_the_resolver_takes_for_an_address_is_that_address(address):
    number = int(address)
    high, low = number >> 24, number & 0xFFFFFF
    text = str(ipaddress.IPv6Address(0xFFFF << 32 | number))
    for one in (f"{number}", f"{number:#x}", f"0{number:o}", f"{high:#x}.{low}", text):
        assert plain_host(one) == str(address)
        assert denied(str(address), one)


@given(st.text(st.sampled_from("0123456789abcdefxX."), min_size=1, max_size=14))
def test_what_is_an_address_here_is_one_for_getaddrinfo_and_the_other_way_round(host):
    """But for a dot at the end, which makes a name for getaddrinfo."""
    try:
        found = socket.getaddrinfo(
            host.encode(), 80, socket.AF_INET, 1, 0, socket.AI_NUMERICHOST
        )
    except socket.gaierror:
        plain = plain_host(host)
        assert host.endswith(".") or plain == host.lower()
    else:
        assert plain_host(host) == found[0][4][0]


def test_a_long_list_is_as_good_as_a_short_one():
    rules = Rules([], [f"h{number}.example" for number in range(5000)] + [".x.example"])
    assert rules.objection("h4999.example", 80, b"/") == (
        "denied by the rule h4999.example"
    )
    assert rules.objection("a.b.x.example", 80, b"/") == (
        "denied by the rule .x.example"
    )
    assert rules.objection("h5000.example", 80, b"/") == ""


# -- ports ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [b"/", None])
def test_a_pattern_may_be_of_some_ports(path):
    for pattern in ("a.example:8000-8100", "*:8000-8100", ".example:8000-8100"):
        for port in (8000, 8050, 8100):
            assert denied(pattern, port=port, path=path)
        for port in (80, 7999, 8101):
            assert not denied(pattern, port=port, path=path)
    assert denied("[::1]:81", "::1", 81, path)
    assert not denied("[::1]:81", "::1", 80, path)


def test_tunnels_go_to_some_ports():
    ports = Ports(["443", "8000-8100"])
    for port in (443, 8000, 8100):
        assert ports.objection(port) == ""
    for port in (22, 444, 7999, 8101, 65535):
        assert (
            ports.objection(port) == f"no tunnel to port {port}, only to 443, 8000-8100"
        )
    assert Ports(["any"]).objection(22) == ""
    assert Ports([]).objection(443) == "no tunnel to port 443, only to none"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "0",
            "65536",
            "443 ",
            "+443",
            "4_4",
            "\u0664",
            "https",
            "1-",
            "-1",
            "2-1",
        ),
        *("1-2-3", "0-1", "1-65536", "99999999", "ANY", "443,80"),
    ],
)
def test_what_is_no_port_is_a_failure_of_the_set_up(text):
    with pytest.raises(SetupError) as caught:
        Ports(["443", text])
    assert str(caught.value).startswith(f"option --ports: {text}: write a port (443)")


@given(st.text(max_size=12))
def test_any_text_is_ports_or_none(text):
    ports = _ports(text)
    assert ports is None or (ports and 0 < ports[0] <= ports[-1] <= 65535)


# -- paths ----------------------------------------------------------------------------

SAME = [
    *(b"/private", b"/private/", b"/private/x", b"/private?x", b"/private/?x/.."),
    *(b"//private", b"///private//x", b"/./private", b"/x/../private"),
    *(b"/../private", b"/x/y/../../private/z", b"/x/./../private"),
    *(b"/%70rivate", b"/%70%72ivate", b"/%2e/private", b"/x/%2E%2e/private"),
    *(b"/x/.%2e/private", b"/private/../private", b"/x//../private"),
]
LIKELY = [
    # Some servers read these so, and others do not.
    *(b"/private//../x", b"/x//../private/;/.."),
    *(b"/x%2f..%2fprivate", b"/%2fprivate", b"/x%5c..%5cprivate", b"/x\\..\\private"),
    *(
        b"/private;x",
        b"/private;x=1/y",
        b"/x/..;/private",
        b"/x/../private;",
        b"/;/private",
    ),
]
OTHER = [
    *(b"/privat", b"/privatex", b"/x/private", b"/private.html", b"/", b"/?/private"),
    *(b"/Private", b"/private/..", b"/private/%2e%2e/x", b"/%2570rivate", b"*", b"/%"),
]


@pytest.mark.parametrize("path", SAME)
def test_no_spelling_of_a_path_passes_a_rule(path):
    assert denied("a.example/private", path=path)
    assert denied(".example/private/", path=path)
    assert denied("*:80/private", path=path)
    assert denied("a.example/x/../%70rivate", path=path)
    assert denied("~example:80/private", path=path) or b"//" in path


@pytest.mark.parametrize("path", LIKELY)
def test_what_may_be_a_denied_path_is_denied_and_not_allowed(path):
    assert denied("a.example/private", path=path)
    assert not allowed("a.example/private", path=path)


@pytest.mark.parametrize("path", OTHER)
def test_another_path_is_another_path(path):
    assert not denied("a.example/private", path=path)
    assert not allowed("a.example/private", path=path)


@pytest.mark.parametrize(
    "path",
    [
        *(b"/pub/../private", b"/pub/%2e%2e/private", b"/pub/x/../../private"),
        *(b"/pub/..%2fprivate", b"/pub/..;/private", b"/pub\\..\\private", b"/pub/.."),
        *(b"/public", b"/x/pub"),
    ],
)
def test_no_spelling_leads_out_of_an_allowed_path(path):
    assert not allowed("a.example/pub", path=path)
    assert not allowed("~example:80/pub/", path=path) or b"%2f" in path or b";" in path


@pytest.mark.parametrize("path", [b"/pub", b"/pub/", b"/pub/a%20b;c?d", b"/%70ub//x"])
def test_what_is_below_an_allowed_path_is_allowed(path):
    assert allowed("a.example/pub", path=path)


def test_the_path_as_a_whole_is_every_path():
    for path in (b"/", b"/x", b"*", b"", b"?x"):
        assert denied("a.example/", path=path)
        assert allowed("a.example/", path=path)


def test_a_letter_with_an_escape_is_the_same_letter_in_a_rule():
    assert denied("a.example/a%20b", path=b"/a%20b/c")
    assert denied("a.example/%c3%a4", path=b"/%C3%A4")


@given(
    st.lists(st.sampled_from([b"a", b"b", b".", b"..", b"", b"%61", b"%2e%2E"])),
    st.sampled_from([b"", b"/", b"?q"]),
)
def test_a_path_leads_where_it_would_lead_a_server(names, end):
    """And in each of its readings a rule and its path are one."""
    path = b"/" + b"/".join(names) + end
    kept = []
    plain = path.partition(b"?")[0].lower().replace(b"%61", b"a").replace(b"%2e", b".")
    for name in plain.split(b"/"):
        if name == b"..":
            del kept[-1:]
        elif name not in (b"", b"."):
            kept.append(name)
    pattern = f"a.example/{b'/'.join(kept).decode()}"
    assert denied(pattern, path=path)
    if kept:
        assert not denied(f"{pattern}x", path=path) or b"//" in path


# -- tunnels --------------------------------------------------------------------------


def test_a_path_in_a_rule_is_not_about_tunnels():
    for pattern in ("a.example/", "a.example/private", "*:80/", "~example:80/"):
        assert not denied(pattern, path=None)
        assert not allowed(pattern, path=None)
    for pattern in ("a.example", ".example", "*", "~example:80$", "a.example:80"):
        assert denied(pattern, path=None)
        assert allowed(pattern, path=None)


# -- regexes --------------------------------------------------------------------------


def test_a_regex_sees_host_port_path_and_query():
    assert denied("~^a\\.example:80/x\\?y=[0-9]+$", path=b"/x?y=12")
    assert denied("~^\\[::1\\]:8080/", "::1", 8080)
    assert denied("~ad[sv]/", path=b"/%61ds/x")
    assert denied("~/x/$", path=b"/y/../x/")
    assert not denied("~Example")
    # Letters are those of ASCII: what is not has come as it is, byte for byte.
    assert denied("~/\\xe4$", path=b"/\xe4")
    assert not denied("~/\\w$", path=b"/\xe4")


def test_a_text_too_long_to_be_searched_passes_no_rule():
    path = b"/" + b"x" * SEARCHED + b"secret"
    assert denied("~secret", path=path)
    assert not allowed("~x", path=path)
    assert not denied("~secret", path=path[:1000])


# -- rules ----------------------------------------------------------------------------


def test_without_rules_everything_is_allowed():
    for path in (b"/", None):
        assert Rules([], []).objection("a", 80, path) == ""


def test_to_deny_comes_before_to_allow():
    rules = Rules([".example", "other"], ["b.example", ".c.example:1-79"])
    assert rules.objection("a.example", 80, None) == ""
    assert rules.objection("other", 80, None) == ""
    assert rules.objection("b.example", 80, None) == "denied by the rule b.example"
    assert rules.objection("x.c.example", 25, None) == (
        "denied by the rule .c.example:1-79"
    )
    assert rules.objection("x.c.example", 80, None) == ""
    assert rules.objection("elsewhere", 80, None) == NOTHING


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("", "nothing is no name of a host"),
        (".", ". is no name of a host"),
        ("a b", "is no name of a host"),
        ("a..b", "is no name of a host"),
        ("b\u00fccher.example", "is no name of a host"),
        ("user@host", "is no name of a host"),
        ("a*", "is no name of a host"),
        ("*.example", "write .example for a domain and all below it"),
        ("http://a.example/", "a pattern has no scheme"),
        ("/private", "nothing is no name of a host"),
        ("::1", "write an IPv6 address in brackets"),
        ("[::1", "write an IPv6 address in brackets"),
        ("[::g]", "is no IPv6 address in brackets"),
        ("[127.0.0.1]", "is no IPv6 address in brackets"),
        ("[::1]x", "is no IPv6 address in brackets"),
        ("1.2.3.256", "1.2.3.256 is no IPv4 address"),
        ("a.1", "a.1 is no IPv4 address"),
        (".127.0.0.1", "nothing is below an address"),
        ("10.0.0.0/8", "a network belongs into option --networks"),
        ("[fd00::]/8", "a network belongs into option --networks"),
        ("a:", "nothing is no port N and no range N-M"),
        ("a:0", "0 is no port N and no range N-M"),
        ("a:http", "http is no port"),
        ("a:80-70", "80-70 is no port"),
        ("a:65536/x", "65536 is no port"),
        ("a/x?y", "a path has no space, ?, #"),
        ("a/x#y", "a path has no space, ?, #"),
        ("a/x y", "a path has no space, ?, #"),
        ("a/\u00e4", "a path has no space, ?, #"),
        ("~", "an empty regular expression is met by everything"),
        ("~[[a]", "no regular expression: Possible nested set"),
        ("~a{99999999999}", "no regular expression: the repetition number"),
        ("~(", "no regular expression: missing ), unterminated subpattern"),
    ],
)
def test_what_is_no_pattern_is_a_failure_of_the_set_up(pattern, problem):
    for rules, option in ((([pattern], []), "--allow"), (([], [pattern]), "--deny")):
        with pytest.raises(SetupError) as caught:
            Rules(*rules)
        assert str(caught.value).startswith(f"option {option}: {pattern}: ")
        assert problem in str(caught.value)
    with pytest.raises(SetupError, match=r"option --upstream\.except: "):
        Rules([], [pattern], "--upstream.except")


@given(st.one_of(st.text(max_size=30), st.text("~.[]*:/()\\a1-", max_size=12)))
def test_any_text_is_a_pattern_or_a_failure_of_the_set_up(text):
    told = ""
    rules = Rules([], [])
    try:
        rules = Rules([], [text])
    except SetupError as error:
        told = str(error)
    assert not told or text in told
    objection = rules.objection("a.example", 80, b"/x")
    assert objection in ("", f"denied by the rule {text}")


@given(
    st.text(st.characters(max_codepoint=127), max_size=30),
    st.binary(max_size=60),
)
def test_no_request_is_a_fault_of_ours(host, path):
    rules = Rules([".example/a"], ["~x", "a.example/%41", "[::1]:80", "127.1"])
    assert isinstance(rules.objection(host, 80, path), str)
    assert isinstance(rules.objection(host, 80, None), str)
