"""Who may go where: rules, networks, ports, users, limits.

The rule of the file: what is refused is refused before anybody is connected to, and the
page says which rule it was. Names here are looked up by nobody: rules come first.
"""

from __future__ import annotations

import base64
import shutil
import tempfile
from pathlib import Path

import pytest
from daemon_under_test import in_namespace
from handlers.test_forward_guard import SPELLINGS
from proxy.client import ask, connect, dialled, request
from proxy.origins import answers, reply

# `openssl passwd -6 -salt saltsalt secret`
HASH = (
    "$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U0aDehy0S5knV8wiOQSpT"
    "0Y77vwPZN.Pq.H91p5hVO1"
)


def page_of(answer):
    return answer.body.decode()


def basic(user, password="secret"):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# -- rules ----------------------------------------------------------------------------

DENY = ["blocked.test", ".below.test", "~/secret", "127.0.0.1/private", "*:81"]
DENIED = [
    "http://blocked.test/",
    "http://BLOCKED.test./",
    "http://blocked.test:8080/a?b",
    "http://below.test/",
    "http://a.b.Below.Test/",
    "http://other.test:81/",
    "http://127.0.0.1:1/a/secret",
    "http://127.0.0.1:1/private",
    "http://127.0.0.1:1/private/x",
    "http://127.0.0.1:1/%70rivate",
    "http://127.0.0.1:1/a/../private",
    "http://127.0.0.1:1/a/%2e%2e/private",
    "http://127.0.0.1:1//private",
    "http://127.0.0.1:1/./private?x",
    "http://127.1:1/private",
    "http://0x7f000001:1/private",
    "http://2130706433:1/private",
]


@pytest.mark.parametrize("url", DENIED)
def test_what_a_rule_denies_is_403_and_the_page_names_the_rule(looping, url):
    answer = ask(looping(deny=DENY), url)
    assert (answer.status, answer.why) == (403, "http_request_denied")
    assert "denied by the rule" in page_of(answer).lower()


@pytest.mark.parametrize("path", ["/", "/privately", "/a?private", "/Secret"])
def test_what_no_rule_denies_goes_on(proxy, origin, path):
    """The control."""
    server = origin()
    assert ask(proxy(deny=DENY), server.url(path)).status == 200


@pytest.mark.parametrize(
    "url", ["http://localhost:1/", "http://127.0.0.2:1/", "http://x.test/"]
)
def test_what_no_rule_allows_is_403(proxy, origin, url):
    server = origin()
    use = proxy(allow=["127.0.0.1", ".good.test/public"])
    answer = ask(use, url)
    assert (answer.status, answer.why) == (403, "http_request_denied")
    assert "no rule allows it" in page_of(answer).lower()
    assert ask(use, server.url()).status == 200


def test_deny_wins(proxy, origin):
    server = origin()
    use = proxy(allow=["127.0.0.1"], deny=["~/no$"])
    assert ask(use, server.url("/no")).status == 403
    assert ask(use, server.url("/yes")).status == 200


def test_a_rule_is_for_tunnels_too(proxy, origin):
    server = origin()
    use = proxy(deny=[f"127.0.0.1:{server.port}"])
    with dialled(use.address) as peer:
        answer = peer.send(connect(server.authority)).answer()
    assert (answer.status, answer.why) == (403, "http_request_denied")
    assert not server.connections


def test_no_host_field_passes_a_rule(proxy, origin):
    """What is judged is the target; Host is ignored (RFC 9112 3.2.2)."""
    server = origin()
    use = proxy(deny=DENY)
    assert ask(use, "http://blocked.test/", host="127.0.0.1").status == 403
    assert ask(use, server.url(), host="blocked.test").status == 200


# -- addresses ------------------------------------------------------------------------


def hosts():
    for text in SPELLINGS:
        yield f"[{text}]" if ":" in text else text


@pytest.mark.parametrize("how", ["GET", "CONNECT"])
@pytest.mark.parametrize("host", list(hosts()))
def test_no_spelling_of_a_private_address_is_connected_to(looping, origin, how, host):
    server = origin()
    use = looping(allow_private=False)
    authority = f"{host}:{server.port}"
    if how == "CONNECT":
        with dialled(use.address) as peer:
            answer = peer.send(connect(authority)).answer()
    else:
        answer = ask(use, f"http://{authority}/")
    assert (answer.status, answer.why) == (403, "destination_ip_prohibited")
    assert "private address" in page_of(answer)
    assert not server.connections


def test_private_addresses_are_refused_by_default(proxy, origin):
    server = origin()
    for path in ("/", "/x"):
        answer = ask(proxy(allow_private=False), server.url(path))
        assert (answer.status, answer.why) == (403, "destination_ip_prohibited")
    assert not server.connections


def test_one_network_may_be_allowed_and_another_denied(proxy, origin):
    one, two = origin(), origin(host="127.0.0.2")
    allows = {"networks": {"allow": ["127.0.0.1/32"]}, "allow_private": False}
    assert ask(proxy(**allows), one.url()).status == 200
    assert ask(proxy(**allows), two.url()).why == "destination_ip_prohibited"
    denies = {"networks": {"deny": ["127.0.0.1/32"]}}
    answer = ask(proxy(**denies), one.url())
    assert (answer.status, answer.why) == (403, "destination_ip_prohibited")
    assert "denied network" in page_of(answer)
    assert ask(proxy(**denies), two.url()).status == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "localhost", "2130706433"])
def test_the_proxy_does_not_go_to_itself(proxy, host):
    use = proxy()
    answer = ask(use, f"http://{host}:{use.address[1]}/")
    assert answer.status in {403, 508}
    assert "own address" in page_of(answer)


def test_the_proxy_opens_no_tunnel_to_itself(proxy):
    use = proxy()
    with dialled(use.address) as peer:
        answer = peer.send(connect(f"127.0.0.1:{use.address[1]}")).answer()
    assert answer.status in {403, 508}


def test_another_address_of_the_proxy_is_a_loop_that_ends(looping):
    """It listens at all, and the peer came in at one; a request without a host ends it."""
    use = looping(keys={"listen": "0.0.0.0:0"})
    address = ("127.0.0.1", use.address[1])
    with dialled(address) as peer:
        answer = peer.send(request(f"http://127.0.0.2:{address[1]}/")).answer()
    assert answer.status in {400, 403, 508}


@pytest.mark.root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize("mode", ["loop", "process"])
def test_a_name_is_judged_by_its_address(superd, mode):
    """And one that nobody has is 502; the only name server is nobody."""
    found = r"127.0.0.1 localhost\n10.1.2.3 rebind.test\n169.254.169.254 cloud.test\n"
    service = {"listen": "127.0.0.1:0", "handler": "proxy", "mode": mode}
    daemon = superd(
        {"services": {"p": service}},
        prefix=in_namespace(found, r"nameserver 127.0.0.1\noptions attempts:1\n"),
    )
    with daemon.connect("p") as sock:
        address = sock.getpeername()
    for name in ("rebind.test", "cloud.test", "localhost"):
        with dialled(address) as peer:
            answer = peer.send(request(f"http://{name}/")).answer()
        assert (answer.status, answer.why) == (403, "destination_ip_prohibited")
    with dialled(address) as peer:
        answer = peer.send(request("http://nobody.test/")).answer()
    assert answer.why in {"dns_error", "dns_timeout"}
    assert answer.status == {"dns_error": 502, "dns_timeout": 504}[answer.why]


# -- ports of tunnels -----------------------------------------------------------------


@pytest.mark.parametrize("port", [25, 80, 442, 444, 8443])
def test_a_tunnel_goes_to_443_alone(looping, port):
    with dialled(looping(ports=["443"]).address) as peer:
        answer = peer.send(connect(f"127.0.0.1:{port}")).answer()
    assert (answer.status, answer.why) == (403, "http_request_denied")
    assert str(port) in page_of(answer)


@pytest.mark.parametrize("port", [1, 22, 25, 110, 143])
def test_no_request_goes_to_a_port_of_another_protocol(looping, port):
    """A server of lines might take the body of a POST for its commands."""
    url = f"http://127.0.0.1:{port}/"
    answer = ask(looping(), url, method="POST", body=b"HELO x\r\n")
    assert (answer.status, answer.why) == (403, "http_request_denied")


def test_a_tunnel_may_go_to_a_range_of_ports(proxy, origin):
    server = origin(lambda connection: connection.send(b"hello"))
    use = proxy(ports=["443", f"{server.port - 1}-{server.port}"])
    with dialled(use.address) as peer:
        assert peer.send(connect(server.authority)).answer("CONNECT").status == 200
        assert peer.exactly(5) == b"hello"
    with dialled(use.address) as peer:
        answer = peer.send(connect(f"127.0.0.1:{server.port + 1}")).answer()
        assert answer.status == 403


# -- users ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def user_file():
    """Write it where a service's user may enter: pytest's own folder is closed."""
    folder = Path(tempfile.mkdtemp(prefix="superd-test-"))
    folder.chmod(0o755)
    path = folder / "users"
    path.write_text(f"ann:{HASH}\n")
    path.chmod(0o644)
    yield str(path)
    shutil.rmtree(folder)


@pytest.fixture
def guarded(proxy, user_file):
    return proxy(auth={"file": user_file, "realm": "the house"})


WRONG = [
    [],
    [basic("ann", "wrong")],
    [basic("bob")],
    [basic("ann") + "x"],
    ["Bearer abc"],
    ["Basic"],
    ["Basic !!!"],
    [basic("ann"), basic("ann")],
    [basic("ann") + ", " + basic("bob")],
]


@pytest.mark.parametrize("values", WRONG)
def test_who_is_not_known_is_407(guarded, origin, values):
    server = origin()
    lines = [f"Proxy-Authorization: {value}" for value in values]
    answer = ask(guarded, server.url(), *lines)
    assert answer.status in ({407, 400} if len(values) > 1 else {407})
    if answer.status == 407:
        assert answer.the("proxy-authenticate").startswith(b'Basic realm="the house"')
    assert not server.connections


def test_an_authorization_for_the_origin_is_none_for_the_proxy(guarded, origin):
    server = origin()
    answer = ask(guarded, server.url(), f"Authorization: {basic('ann')}")
    assert answer.status == 407
    assert not server.connections


def test_who_is_known_is_served_on_the_same_connection(guarded, origin):
    server = origin()
    lines = [f"Proxy-Authorization: {basic('ann')}", "Authorization: Basic bzpv"]
    with dialled(guarded.address) as peer:
        assert peer.send(request(server.url())).answer().status == 407
        for _ in range(2):
            assert peer.send(request(server.url(), *lines)).answer().status == 200
    assert server.last.the("authorization") == b"Basic bzpv"
    assert "proxy-authorization" not in server.last.names
    assert b"YW5u" not in server.received


def test_a_body_is_not_in_the_way_of_407(guarded, origin):
    server = origin()
    with dialled(guarded.address) as peer:
        answer = peer.send(
            request(server.url(), method="POST", body=b"x" * 999)
        ).answer()
        assert answer.status == 407
        if not answer.closes:
            line = f"Proxy-Authorization: {basic('ann')}"
            data = request(server.url(), line, method="POST", body=b"pay")
            assert peer.send(data).answer().status == 200
            assert server.last.body == b"pay"


def test_a_tunnel_needs_a_user_too(guarded, origin):
    server = origin(lambda connection: connection.send(b"hello"))
    with dialled(guarded.address) as peer:
        answer = peer.send(connect(server.authority)).answer()
        assert answer.status == 407
    assert not server.connections
    with dialled(guarded.address) as peer:
        line = f"Proxy-Authorization: {basic('ann')}"
        peer.send(connect(server.authority, line))
        assert peer.answer("CONNECT").status == 200
        assert peer.exactly(5) == b"hello"


def test_the_challenge_of_an_origin_is_not_the_proxys(proxy, origin):
    """A 407 of an origin would have a browser send the proxy's password there."""
    line = 'Proxy-Authenticate: Basic realm="evil"'
    server = origin(answers(reply(b"no", line, status="407 Give it to me")))
    answer = ask(proxy(), server.url())
    assert "proxy-authenticate" not in answer.names


# -- limits, and what is told ---------------------------------------------------------


LIMITS = {"limits": {"line": 200, "head": 1000, "fields": 10, "body": 100}}


@pytest.mark.parametrize(
    ("status", "lines", "path", "body"),
    [
        (414, [], "/" + "a" * 300, None),
        (431, ["A: " + "b" * 1000], "/", None),
        (431, ["A: b"] * 20, "/", None),
        (413, [], "/", b"x" * 101),
        (200, ["A: b"] * 5, "/" + "a" * 100, b"x" * 100),
    ],
)
def test_a_limit_is_told_by_its_status(proxy, origin, status, lines, path, body):
    server = origin()
    use = proxy(**LIMITS)
    answer = ask(use, server.url(path), *lines, method="POST", body=body or b"")
    assert answer.status == status
    assert bool(server.requests) == (status == 200)


def test_a_chunked_body_over_the_limit_is_413_and_no_whole_request(proxy, origin):
    server = origin()
    data = request(server.url(), "Transfer-Encoding: chunked", method="POST")
    chunks = b"3c\r\n" + b"x" * 60 + b"\r\n"
    with dialled(proxy(**LIMITS).address) as peer:
        answer = peer.send(data + chunks * 2 + b"0\r\n\r\n").answer()
        assert answer.status == 413
    assert not server.requests


def test_an_expectation_that_nobody_knows_is_417(proxy, origin):
    server = origin()
    assert ask(proxy(), server.url(), "Expect: bogus").status == 417


TOLD = {
    "keep": {b"X-Forwarded-For": [b"192.0.2.1"], b"Forwarded": [b"for=192.0.2.1"]},
    "add": {b"X-Forwarded-For": [b"192.0.2.1, 127.0.0.1"]},
    "remove": {b"X-Forwarded-For": [], b"Forwarded": []},
}


@pytest.mark.parametrize("how", TOLD)
def test_the_peer_is_named_as_the_operator_wants(looping, origin, how):
    server = origin()
    lines = ["X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1", "Referer: x"]
    use = looping(forwarded=how, hide=["Referer", "x-own"], name="gate.example")
    assert ask(use, server.url(), *lines, "X-Own: a", "X-Other: b").status == 200
    for name, expected in TOLD[how].items():
        assert server.last.all(name.decode().lower()) == expected
    if how == "add":
        joined = b", ".join(server.last.all("forwarded"))
        assert joined == b"for=192.0.2.1, for=127.0.0.1"
    assert not server.last.names & {"referer", "x-own"}
    assert server.last.the("x-other") == b"b"
    assert server.last.the("via") == b"1.1 gate.example"


def test_the_counters_are_shown_where_asked_for(proxy, origin):
    server = origin()
    use = proxy(status="/status")
    assert ask(use, server.url()).status == 200
    answer = ask(use, "/status", host=use.authority)
    assert answer.status == 200
    assert b"\n" in answer.body
    assert ask(use, "/other", host=use.authority).status == 400
    assert ask(proxy(), "/status", host=use.authority).status == 400
