"""What is one person's, or one server's, is never given to another.

The rule of the file: each test has somebody who was answered first, and another who must
not get that answer.
"""

from __future__ import annotations

import time
from functools import partial

import pytest
from proxy.cache_rig import (
    LASTING,
    OLD,
    TAG,
    ago,
    asked,
    by_field,
    in_order,
    said,
    unchanged,
    url,
    with_cache,
)
from proxy.client import ask, dialled, request, tell
from proxy.origins import answers, reply

ALICE, BOB = "Authorization: Basic YTph", "Authorization: Basic YjpiIA=="


@pytest.fixture
def cached(proxy, daemons):
    """Give a proxy with a cache."""
    return partial(with_cache, proxy, daemons)


def values_of(line):
    return line.partition(": ")[2].encode()


# -- persons --------------------------------------------------------------------------


def test_what_was_asked_for_with_a_password_is_for_nobody_else(cached, origin):
    server = origin(answers(by_field("authorization", LASTING, TAG)))
    use = cached()
    for line in (ALICE, BOB, ALICE):
        assert ask(use, url(server), line).body == values_of(line)
    assert ask(use, url(server)).body == b"none"
    assert asked(server) == 4


@pytest.mark.parametrize(
    "words", ["public", "s-maxage=900", "must-revalidate, max-age=900"]
)
def test_what_the_server_says_is_for_all_is_shared(cached, origin, words):
    """RFC 9111 3.5."""
    lines = [f"Cache-Control: {words}", "Expires: Fri, 01 Jan 2100 00:00:00 GMT"]
    server = origin(answers(reply(b"one", *lines)))
    use = cached()
    for line in (ALICE, BOB):
        assert ask(use, url(server), line).body == b"one"
    assert asked(server) == 1


def test_a_password_in_vary_parts_those_who_share(cached, origin):
    lines = ["Cache-Control: public, max-age=900", "Vary: Authorization"]
    server = origin(answers(by_field("authorization", *lines)))
    use = cached()
    for _ in range(2):
        for line in (ALICE, BOB):
            assert ask(use, url(server), line).body == values_of(line)
    assert asked(server) == 2


def test_a_validation_tells_nothing_of_another_person(cached, origin):
    """Bob's question goes to the server with Bob's password, and is his answer."""
    first = by_field("authorization", "Cache-Control: public, no-cache", TAG)
    server = origin(in_order(first, reply(b"not for Bob", status="403 No")))
    use = cached()
    ask(use, url(server), ALICE)
    answer = ask(use, url(server), BOB)
    assert (answer.status, answer.body) == (403, b"not for Bob")
    assert server.requests[1].the("authorization") == values_of(BOB)


def test_cookies_part_what_varies_by_them(cached, origin):
    server = origin(answers(by_field("cookie", LASTING, "Vary: Cookie")))
    use = cached()
    for _ in range(2):
        for who in ("a=1, b", "a=1,b", "a=1; b"):
            assert ask(use, url(server), f"Cookie: {who}").body == who.encode()
    assert ask(use, url(server)).body == b"none"
    assert asked(server) == 4


def test_an_answer_that_sets_a_cookie_is_not_kept_on_a_guess(cached, origin):
    modified = f"Last-Modified: {ago(999_999, time.time())}"
    steps = [reply(b"", modified, f"Set-Cookie: id={number}") for number in range(2)]
    server = origin(in_order(*steps))
    use = cached()
    assert ask(use, url(server)).the("set-cookie") == b"id=0"
    assert ask(use, url(server)).the("set-cookie") == b"id=1"
    # A negative control: without a cookie the guess is good for a day.
    plain = origin(answers(reply(b"", modified)))
    for _ in range(2):
        ask(use, url(plain))
    assert asked(plain) == 1


@pytest.mark.parametrize(
    "words",
    ['private="Set-Cookie", max-age=900', 'no-cache="set-cookie", max-age=900'],
)
def test_a_field_that_is_for_one_person_is_not_kept(cached, origin, words):
    """RFC 9111 5.2.2.4, 5.2.2.7."""
    lines = [f"Cache-Control: {words}", "Set-Cookie: id=1", "X-A: b"]
    server = origin(answers(reply(b"one", *lines)))
    use = cached()
    assert ask(use, url(server)).the("set-cookie") == b"id=1"
    answer = ask(use, url(server))
    if said(answer) == "hit":
        assert (answer.body, answer.the("x-a")) == (b"one", b"b")
        assert "set-cookie" not in answer.names


def test_a_validation_does_not_hand_on_the_cookie_of_another(cached, origin):
    lines = [TAG, 'Cache-Control: private="Set-Cookie", max-age=50', "Age: 100"]
    fresh = unchanged(
        TAG, 'Cache-Control: private="Set-Cookie", max-age=900', "Set-Cookie: id=1"
    )
    server = origin(in_order(reply(b"one", *lines), fresh))
    use = cached()
    ask(use, url(server))
    ask(use, url(server))
    answer = ask(use, url(server))
    assert (answer.body, said(answer)) == (b"one", "hit")
    assert "set-cookie" not in answer.names


def test_private_is_for_nobody_else_however_it_is_spelt(cached, origin):
    for words in (
        "max-age=900, Private",
        'private=""',
        'max-age=900, private="',
        "private=, max-age=900",
        "max-age=900,private ",
        'private="content-type", max-age=900',
    ):
        server = origin(answers(reply(b"one", f"Cache-Control: {words}")))
        use = cached()
        ask(use, url(server))
        ask(use, url(server))
        assert asked(server) == 2, words


def test_fields_that_only_the_proxy_needs_are_not_kept(cached, origin):
    lines = [LASTING, "Connection: X-Hop", "X-Hop: a", "Proxy-Authenticate: Basic"]
    lines += ["Keep-Alive: timeout=5"]
    server = origin(answers(reply(b"one", *lines)))
    use = cached()
    ask(use, url(server))
    answer = ask(use, url(server))
    assert said(answer) == "hit"
    assert not answer.names & {"x-hop", "keep-alive", "proxy-authenticate"}


# -- servers --------------------------------------------------------------------------


def test_another_port_is_another_server(cached, origin):
    one, two = (origin(answers(reply(body, LASTING))) for body in (b"one", b"two"))
    use = cached()
    place = "/the-same"
    for _ in range(2):
        assert ask(use, one.url(place + str(two.port))).body == b"one"
        assert ask(use, two.url(place + str(two.port))).body == b"two"


def test_another_name_is_another_server_and_another_case_is_not(cached, origin):
    server = origin(answers(by_field("host", LASTING)))
    use = cached()
    path = url(server).removeprefix(server.url(""))
    for name in ("127.0.0.1", "localhost", "LOCALHOST"):
        answer = ask(use, f"http://{name}:{server.port}{path}")
        assert answer.body.lower() == f"{name}:{server.port}".lower().encode()
    assert asked(server) == len({one.the("host").lower() for one in server.requests})


def test_the_host_field_of_a_client_names_no_other_server(cached, origin):
    """RFC 9112 3.2.2: it is the target that counts, for the store as for the server."""
    server = origin(answers(by_field("host", LASTING)))
    victim = origin(answers(by_field("host", LASTING)))
    use = cached()
    for host in (victim.authority, "victim.example", "", f"{server.authority},x"):
        answer = ask(use, url(server), host=host)
        assert answer.status in {200, 400}
        if answer.status == 200:
            assert answer.body == server.authority.encode()
    path = url(server).removeprefix(server.url(""))
    assert ask(use, victim.url(path)).body == victim.authority.encode()
    assert ask(use, url(server)).body == server.authority.encode()
    assert len(victim.requests) == 1


@pytest.mark.parametrize(
    "line",
    [
        "X-Forwarded-Host: evil.example",
        "Forwarded: host=evil.example",
        "X-Original-URL: /evil",
        "X-HTTP-Method-Override: POST",
    ],
)
def test_a_field_that_changes_the_answer_is_the_servers_to_name(cached, origin, line):
    """With Vary the poisoned answer is nobody else's."""
    name = line.partition(": ")[0].lower()
    server = origin(answers(by_field(name, LASTING, f"Vary: {name}")))
    use = cached()
    assert ask(use, url(server), line).body != b"none"
    assert ask(use, url(server)).body == b"none"


@pytest.mark.parametrize(
    "target",
    [
        "/a b",
        "/a\rb",
        "/a\nb",
        "/a HTTP/1.1\r\nX: y\r\n\r\nGET http://PLACE/b",
        "/a\tb",
        "/a\0b",
        "/\x7f",
        "/é",
    ],
)
def test_an_address_that_could_be_two_is_refused(cached, origin, target):
    server = origin(answers(by_field("host", LASTING)))
    use = cached()
    target = target.replace("PLACE", server.authority)
    asked_for = request(url(server, target), host=server.authority)
    answer = tell(use, asked_for)
    if "\r\n\r\n" in target:
        # Two well-formed requests, then: each has an answer, and a key, of its own.
        assert answer.status in {200, 400}
        return
    assert answer.status == 400
    assert not server.requests


def test_paths_that_are_spelt_otherwise_are_others(cached, origin):
    server = origin(answers(lambda one: reply(one.target, LASTING)))
    use = cached()
    paths = ["/a", "/a/", "/A", "/%61", "/a?", "/a?b", "//a", "/./a", "/a;b", "/a%3Fb"]
    for _ in range(2):
        for path in paths:
            assert ask(use, url(server, path)).body == f"{server.place}{path}".encode()
    assert len(server.requests) == len(paths)


def test_the_answer_to_one_method_is_not_that_to_another(cached, origin):
    server = origin(answers(lambda one: reply(one.method, LASTING)))
    use = cached()
    for method in ("GET", "OPTIONS", "POST", "GET", "PROPFIND", "GET"):
        answer = ask(use, url(server), method=method)
        assert answer.body == method.encode()


def test_a_question_with_a_body_is_not_answered_from_the_store(cached, origin):
    server = origin(answers(lambda one: reply(one.body or b"none", LASTING)))
    use = cached()
    for body in (None, b"a", b"b", None):
        assert ask(use, url(server), body=body).body == body or b"none"
    assert asked(server) == 3


@pytest.mark.parametrize("line", ['If-Match: "a"', "If-Unmodified-Since: x"])
def test_what_only_the_server_can_judge_is_asked_of_it(cached, origin, line):
    server = origin(answers(reply(b"one", LASTING, TAG)))
    use = cached()
    ask(use, url(server))
    ask(use, url(server), line)
    assert asked(server) == 2


def test_what_is_denied_is_not_given_from_the_store(cached, origin, daemons):
    server = origin(answers(reply(b"one", LASTING)))
    use = cached()
    ask(use, url(server, "/denied"))
    strict = cached(deny=["~/denied$"])
    assert ask(strict, url(server, "/denied")).status == 403
    assert ask(strict, url(server, "/other")).status == 200


def test_a_split_answer_is_no_second_entry(cached, origin):
    """What an origin sends behind its answer is not the answer to the next question."""
    evil = reply(b"one", LASTING) + reply(b"evil", LASTING)

    def play(connection):
        connection.request()
        connection.send(evil)
        connection.wait_gone()

    server = origin(play, answers(reply(b"two", LASTING)))
    use = cached()
    with dialled(use.address) as peer:
        assert peer.send(request(url(server, "/1"))).answer().body == b"one"
        assert peer.send(request(url(server, "/2"))).answer().body == b"two"
    assert ask(use, url(server, "/2")).body == b"two"


def test_old_and_new_do_not_mix(cached, origin):
    """The head of one answer never goes with the body of another."""
    bodies = [bytes([number]) * (100 * number + 50_000) for number in range(5)]
    steps = [
        reply(body, f'ETag: "{len(body)}"', f"X-Size: {len(body)}", *OLD)
        for body in bodies
    ]
    server = origin(in_order(*steps))
    use = cached()
    for body in bodies:
        answer = ask(use, url(server))
        assert (answer.body, answer.the("x-size")) == (body, b"%d" % len(body))


@pytest.mark.parametrize("kept", [True, False])
def test_a_cookie_of_a_stored_answer_is_for_all_or_for_the_first(
    looping, daemons, origin, kept
):
    server = origin(answers(reply(b"one", LASTING, "Set-Cookie: a=b")))
    use = with_cache(looping, daemons, cache={"cookies": kept})
    assert "set-cookie" in ask(use, url(server)).names
    again = ask(use, url(server))
    assert said(again) == "hit"
    assert ("set-cookie" in again.names) == kept
