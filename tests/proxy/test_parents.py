"""A proxy behind a proxy: how it is asked, and that nothing goes round for ever."""

from __future__ import annotations

import socket

import pytest
from proxy.client import ask, connect, dialled, request
from proxy.origins import OK, answers
from proxy.test_access import basic
from proxy.under_test import USUAL


def test_a_parent_is_asked_in_absolute_form(proxy, origin, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("me:pass\n")
    secret.chmod(0o644)
    parent, direct = origin(answers(OK)), origin()
    to = {
        "proxy": parent.authority,
        "except": [f"127.0.0.1:{direct.port}"],
        "user_file": str(secret),
    }
    use = proxy(upstream=to)
    assert ask(use, "http://127.0.0.1:4009/a?b", host="x").status == 200
    assert parent.last.target == b"http://127.0.0.1:4009/a?b"
    assert parent.last.the("host") == b"127.0.0.1:4009"
    assert parent.last.the("proxy-authorization") == basic("me", "pass").encode()
    assert ask(use, direct.url("/d")).status == 200
    assert direct.last.target == b"/d"
    assert "proxy-authorization" not in direct.last.names


def test_a_tunnel_goes_through_a_parent(proxy, origin):
    def play(connection):
        connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nearly ")
        connection.send(connection.read_to_end())

    parent = origin(play)
    with dialled(proxy(upstream=parent.authority).address) as peer:
        peer.send(connect("127.0.0.1:9"))
        assert peer.answer("CONNECT").status == 200
        assert peer.send(b"hello").half_close().read_to_end() == b"early hello"
    assert parent.last.target == b"127.0.0.1:9"


@pytest.mark.parametrize("mode", ["loop", "process"])
def test_a_proxy_that_is_its_own_parent_is_found_out(superd, origin, mode):
    """It came in at one address and is asked at another: Via tells that it goes round."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        options = {**USUAL, "upstream": f"127.0.0.2:{port}", "timeouts": {"idle": "1s"}}
        service = {"listen": "fd:p", "handler": "proxy", "mode": mode}
        superd(
            {"services": {"p": {**service, "options": options}}},
            inherit={"p": listener},
        )
    with dialled(("127.0.0.1", port)) as peer:
        answer = peer.send(request(origin().url())).answer()
    assert answer.status == 508
    assert b"proxy_loop_detected" in answer.head
