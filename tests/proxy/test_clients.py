"""Clients that others wrote: curl, urllib, http.client, h11, httptools, Chromium."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request

import h11
import httptools
import pytest
from browser import Driver
from proxy.client import DEADLINE, dialled, request
from proxy.origins import OK, Over, answers, bare, chunked, closes, reply
from proxy.test_access import HASH
from proxy.under_test import OTHER, starter

BODY = hashlib.shake_128(b"body").digest(300_000)


@pytest.fixture
def curl(tmp_path):
    """Run curl; returns its exit code and what it has got."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("no curl here: apt-get install curl")

    def run(use, *words, data=b""):
        argv = [program, "-q", "-sS", "-m", "10", "-x", f"http://{use.authority}"]
        clean = {key: os.environ[key] for key in ("PATH",)}
        done = subprocess.run(
            [*argv, *words], input=data, capture_output=True, env=clean, cwd=tmp_path
        )
        return done.returncode, done.stdout

    return run


def echoes(asked):
    return reply(asked.method + b" " + asked.body)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Make a certificate for 127.0.0.1 that nobody but its maker trusts."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl here: apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    paths = str(folder / "key"), str(folder / "certificate")
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    words += ["-nodes", "-keyout", paths[0], "-out", paths[1], "-subj", "/CN=test"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([program, *words], check=True, capture_output=True)
    return paths


@pytest.fixture
def secure(origin, certificate):
    """Give an origin behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])

    def play(connection):
        try:
            connection.sock = context.wrap_socket(connection.sock, server_side=True)
        except (OSError, ssl.SSLError) as error:
            raise Over from error
        answers(echoes)(connection)

    return origin(play)


# -- curl -----------------------------------------------------------------------------


def test_curl_gets(proxy, origin, curl):
    server = origin(answers(reply(BODY)))
    assert curl(proxy(), server.url("/a")) == (0, BODY)
    assert curl(proxy(), "-I", origin(answers(bare("X: y"))).url())[0] == 0


@pytest.mark.parametrize("coded", [chunked(BODY[:9], BODY[9:]), reply(BODY)])
@pytest.mark.parametrize("flag", ["--http1.0", "--http1.1"])
def test_curl_gets_in_any_version(proxy, origin, curl, coded, flag):
    assert curl(proxy(), flag, origin(answers(coded)).url()) == (0, BODY)


def test_curl_sees_what_was_cut(proxy, origin, curl):
    """18: a partial file; 56: a failure to receive."""
    sized = origin(closes(bare("Content-Length: 100"), b"hello"))
    assert curl(proxy(), sized.url())[0] == 18
    cut = origin(closes(bare("Transfer-Encoding: chunked"), b"5\r\nhello\r\n"))
    assert curl(proxy(), cut.url())[0] in {18, 56}


def test_curl_posts_and_uploads(proxy, origin, curl):
    server = origin(answers(echoes))
    assert curl(proxy(), "-d", "a=b", server.url()) == (0, b"POST a=b")
    words = ["-T", "-", server.url("/put")]
    assert curl(proxy(), *words, data=BODY) == (0, b"PUT " + BODY)
    assert server.last.all("transfer-encoding") == [b"chunked"]


def test_curl_expects_100_and_gets_it(proxy, origin, curl, tmp_path):
    def play(connection):
        head = connection.head()
        assert head.the("expect") == b"100-continue"
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        asked = connection.body(head)
        connection.send(reply(hashlib.sha256(asked.body).hexdigest().encode()))

    (tmp_path / "file").write_bytes(BODY)
    words = ["-T", "file", "-H", "Expect: 100-continue", "--expect100-timeout", "9"]
    found = curl(proxy(), *words, origin(play).url())
    assert found == (0, hashlib.sha256(BODY).hexdigest().encode())


def test_curl_uses_a_connection_again(proxy, origin, curl):
    server = origin(answers(echoes))
    words = ["-w", "%{num_connects}", server.url("/1"), server.url("/2")]
    assert curl(proxy(), *words) == (0, b"GET 1GET 0")


def test_curl_goes_through_a_tunnel_to_tls(proxy, secure, curl, certificate):
    url = f"https://{secure.authority}/a"
    words = ["--cacert", certificate[1], "-d", "x=y"]
    assert curl(proxy(), *words, url) == (0, b"POST x=y")
    # 60: without it the certificate is nobody's, and the proxy cannot help that.
    assert curl(proxy(), url)[0] == 60


def test_curl_says_who_it_is(proxy, origin, secure, curl, certificate, tmp_path):
    (tmp_path / "users").write_text(f"ann:{HASH}\n")
    (tmp_path / "users").chmod(0o644)
    use = proxy(auth=str(tmp_path / "users"))
    server = origin(answers(echoes))
    words = ["--proxy-user", "ann:secret", server.url()]
    assert curl(use, *words) == (0, b"GET ")
    assert curl(use, "--proxy-anyauth", *words) == (0, b"GET ")
    words = ["-w", "%{http_code}", "-o", "/dev/null"]
    assert curl(use, *words, "--proxy-user", "ann:no", server.url()) == (0, b"407")
    words = ["--cacert", certificate[1], "--proxy-user", "ann:secret"]
    assert curl(use, *words, f"https://{secure.authority}/") == (0, b"GET ")


# -- Python ---------------------------------------------------------------------------


def test_urllib_gets_and_posts(proxy, origin):
    server = origin(answers(echoes))
    handler = urllib.request.ProxyHandler({"http": f"http://{proxy().authority}"})
    opener = urllib.request.build_opener(handler)
    with opener.open(server.url(), timeout=DEADLINE) as answer:
        assert answer.read() == b"GET "
    with opener.open(server.url(), data=b"x", timeout=DEADLINE) as answer:
        assert answer.read() == b"POST x"


def test_urllib_is_told_of_an_error(proxy):
    handler = urllib.request.ProxyHandler({"http": f"http://{proxy().authority}"})
    opener = urllib.request.build_opener(handler)
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(f"http://{proxy().authority}/", timeout=DEADLINE)
    assert caught.value.code in {403, 508}
    caught.value.close()


def test_http_client_goes_through_a_tunnel(proxy, secure, certificate):
    context = ssl.create_default_context(cafile=certificate[1])
    host, port = proxy().address
    link = http.client.HTTPSConnection(host, port, context=context, timeout=DEADLINE)
    link.set_tunnel("127.0.0.1", secure.port)
    try:
        for n in range(2):
            link.request("PUT", f"/{n}", body=BODY)
            answer = link.getresponse()
            assert (answer.status, answer.read()) == (200, b"PUT " + BODY)
    finally:
        link.close()


ANSWERS = {
    "sized": reply(BODY),
    "chunked": chunked(BODY, b"x", trailers=["X-Sum: 1"]),
    "empty": reply(b""),
    "no_content": bare(status="204 No Content"),
    "early": b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK,
    "garbage": b"garbage\r\n\r\n",
}


def through(proxy, origin, name):
    """Return every byte that comes back."""
    server = origin(closes(ANSWERS[name]))
    with dialled(proxy().address) as peer:
        peer.send(request(server.url(), "Connection: close"))
        return peer.read_to_end()


def body_by_h11(data):
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(data)
    reader.receive_data(b"")
    status, parts = 0, []
    while True:
        event = reader.next_event()
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            return status, b"".join(parts)
        else:
            assert isinstance(event, h11.InformationalResponse), event


class _Parts:
    def __init__(self):
        self.parts = []
        self.whole = False

    def on_body(self, data):
        self.parts.append(data)

    def on_message_complete(self):
        self.whole = True


def body_by_httptools(data):
    while data.startswith(b"HTTP/1.1 1"):  # llhttp takes an interim one for an answer
        data = data.partition(b"\r\n\r\n")[2]
    parts = _Parts()
    parser = httptools.HttpResponseParser(parts)
    parser.feed_data(data)
    assert parts.whole
    return parser.get_status_code(), b"".join(parts.parts)


@pytest.mark.parametrize("read", [body_by_h11, body_by_httptools])
@pytest.mark.parametrize("name", ANSWERS)
def test_the_readers_of_others_read_the_same(proxy, origin, name, read):
    status, body = read(through(proxy, origin, name))
    expected = {
        "sized": (200, BODY),
        "chunked": (200, BODY + b"x"),
        "empty": (200, b""),
        "no_content": (204, b""),
        "early": (200, b"ok"),
    }
    if name == "garbage":
        assert status == 502
    else:
        assert (status, body) == expected[name]


# -- a browser ------------------------------------------------------------------------

PAGE = b"""<!DOCTYPE html><title>home</title><link rel=stylesheet href=/style.css>
<p id=said>nothing</p><img src=/a.svg><script src=/script.js></script>"""
SITE = {
    b"/": (PAGE, "text/html"),
    b"/style.css": (b"p { color: rgb(1, 2, 3) }", "text/css"),
    b"/a.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
    b"/script.js": (b"said.textContent = 'spoken'", "text/javascript"),
    b"/post": (b"posted", "text/plain"),
}


def site(asked):
    body, kind = SITE.get(asked.target, (b"", "text/plain"))
    return reply(asked.body or body, f"Content-Type: {kind}")


class ProxiedDriver(Driver):
    """Starts browsers that ask a proxy, for loopback too."""

    through = ""

    def call(self, method, path, body=None):
        if path == "/session":
            options = body["capabilities"]["alwaysMatch"]["goog:chromeOptions"]
            words = [one for one in options["args"] if one != "--no-proxy-server"]
            words.append(f"--proxy-server=http://{self.through}")
            words.append("--proxy-bypass-list=<-loopback>")
            options["args"] = words
        return super().call(method, path, body)


@pytest.fixture(scope="module")
def program(daemons):
    """Start the browser, which takes a second: once."""
    if OTHER:
        pytest.skip("needs options of our own")
    use = starter(daemons, "loop")(deny=["~/secret"])
    driver = ProxiedDriver()
    driver.through = use.authority
    try:
        yield driver.browser()
    finally:
        driver.close()


@pytest.fixture
def browser(program):
    """Give a window that has never been anywhere."""
    program.renew()
    return program


@pytest.mark.slow
def test_a_browser_reads_pages_through_the_proxy(origin, browser):
    server = origin(answers(site))
    browser.open(server.url())
    assert browser.title == "home"
    assert browser.texts("#said") == ["spoken"]
    color = browser.ask("getComputedStyle(document.querySelector('p')).color")
    assert color == "rgb(1, 2, 3)"
    script = (
        "fetch('/post', {method: 'POST', body: 'hello'}).then(a => a.text()).then(done)"
    )
    assert browser.wait(script) == "hello"
    assert {one.target for one in server.requests} >= set(SITE) - {b"/favicon.ico"}
    assert all(one.all("via") for one in server.requests)


@pytest.mark.slow
def test_a_browser_shows_why_something_was_refused(origin, browser):
    server = origin()
    browser.open(server.url("/secret?<script>document.title='owned'</script>"))
    assert browser.title == "403 Forbidden"
    assert browser.texts("h1") == ["403 Forbidden"]
    assert "denied by the rule" in browser.texts("p")[0].lower()
    assert not server.requests


@pytest.mark.slow
def test_a_browser_speaks_websocket_through_a_tunnel(origin, browser):
    """Chromium asks for a tunnel even for ws:, so no Upgrade is needed."""

    def play(connection):
        asked = connection.request()
        if asked.target != b"/ws":
            connection.send(reply(PAGE, "Content-Type: text/html"))
            return
        key = asked.the("sec-websocket-key") + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        digest = hashlib.sha1(key, usedforsecurity=False).digest()
        accept = base64.b64encode(digest).decode()
        connection.send(
            bare(
                *("Upgrade: websocket", "Connection: Upgrade"),
                f"Sec-WebSocket-Accept: {accept}",
                status="101 Switching Protocols",
            )
        )
        connection.send(b"\x81\x05hello")
        connection.wait_gone()

    server = origin(play)
    browser.open(server.url())
    script = (
        "const w = new WebSocket('ws://' + location.host + '/ws');"
        "w.onmessage = m => done(m.data); w.onerror = () => done('error');"
    )
    assert browser.wait(script) == "hello"
