"""Good messages with a few bytes changed: whatever becomes of them, nobody is misled.

The rule of the file: the judges know HTTP and not the change. The origin (origins.py)
faults what is no well-formed request, the client (client.py) what is no well-formed
answer, and each answer says which request it belongs to.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from proxy.client import dialled, request
from proxy.origins import reply

pytestmark = pytest.mark.slow

MODEST = settings(
    max_examples=120,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TOKENS = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"1", b"5"),
    *(b"\r\n\r\n", b"\r\n ", b"0\r\n\r\n", b"-", b"+", b"\xa0", b"\x7f", b"GET /x "),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: x\r\n"),
    *(b"Connection: close\r\n", b"HTTP/1.1 ", b"HTTP/1.0", b"chunked", b"#", b"%"),
]
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True), st.integers(0, 3), st.sampled_from(TOKENS)
    ),
    min_size=1,
    max_size=3,
)
"""Where, how many bytes are taken out there, and what comes in."""


def edited(data, edits):
    for place, taken, token in edits:
        at = int(place * len(data))
        data = data[:at] + token + data[at + taken :]
    return data


def requests(url):
    """Spell three kinds of requests."""
    coded = request(url, "Transfer-Encoding: chunked", "A: b", method="POST")
    return [
        request(url, "A: b", "Connection: keep-alive"),
        request(url, "A: b", method="POST", body=b"12345"),
        coded + b"5;a=b\r\n12345\r\n0\r\nX: y\r\n\r\n",
    ]


@MODEST
@given(which=st.integers(0, 2), edits=EDITS)
@example(which=1, edits=[(0.99, 0, b"0")])
def test_a_changed_request_arrives_well_formed_or_not_at_all(
    either, origin, which, edits
):
    server = origin(_says_back)
    data = edited(requests(server.url("/first"))[which], edits)
    with dialled(either().address) as peer:
        peer.send(data + request(server.url("/behind"))).half_close()
        found = []
        while (answer := peer.answer()) is not None:
            found.append(answer)
            if answer.closes:
                break
    said = [one.body for one in found if one.status == 200]
    # Answered in the order in which they arrived, each once.
    arrived = [one.target for one in server.requests]
    assert said == [one for one in arrived if one in said]
    assert arrived.count(b"/behind") <= 1
    server.close()


def _says_back(connection):
    while True:
        connection.send(reply(connection.request().target))


REPLIES = [
    b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\nfirst",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst",
]


@MODEST
@given(which=st.integers(0, 3), edits=EDITS, closes=st.booleans())
@example(which=0, edits=[(0.99, 0, REPLIES[0])], closes=False)
def test_a_changed_answer_is_never_the_answer_to_the_next(
    either, origin, which, edits, closes
):
    data = edited(REPLIES[which], edits)

    def play(connection):
        asked = connection.head()
        while asked.target == b"/first":
            connection.send(data)
            if closes:
                connection.half_close()
            asked = connection.head()
        connection.send(reply(b"of the next"))
        connection.wait_gone()

    server = origin(play)
    use = either(timeouts={"reply": 0.3})
    with dialled(use.address) as peer:
        first = peer.send(request(server.url("/first"))).answer()
        if first is not None and first.whole and not first.closes:
            second = peer.send(request(server.url("/next"))).answer()
            assert second is None or second.body == b"of the next"
    server.close()
