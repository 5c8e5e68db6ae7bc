"""What goes through takes no room: the memory of a worker while 200 MiB pass."""

from __future__ import annotations

import select
from pathlib import Path

import pytest
from proxy.client import connect, dialled, request
from proxy.origins import OK, Over, answers, bare

pytestmark = pytest.mark.slow

SIZE = 200 << 20
BLOCK = bytes(1 << 20)
MOST = 20 << 10
"""KiB that a worker may grow by."""


def peak(proxy):
    """Return the most that any of its processes has ever taken, in KiB."""
    found = []
    for pid in proxy.processes():
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except FileNotFoundError:
            continue  # it has ended meanwhile
        found.append(int(text.partition("VmHWM:")[2].split()[0]))
    return max(found)


def sends(head):
    def play(connection):
        connection.request()
        connection.send(head)
        for _ in range(SIZE // len(BLOCK)):
            connection.send(BLOCK)
        connection.wait_gone()

    return play


def count(peer, size):
    buffer, left = bytearray(1 << 20), size
    while left:
        got = peer.sock.recv_into(buffer, min(left, len(buffer)))
        assert got, f"{left} bytes are missing"
        left -= got


@pytest.fixture
def warm(proxy, origin):
    """Give a proxy that has served, and what it took for that."""
    use = proxy()
    if not use.is_ours:
        pytest.skip("looks into processes of ours")
    server = origin(answers(OK))
    with dialled(use.address) as peer:
        assert peer.send(request(server.url())).answer().status == 200
        return use, peak(use)


def test_a_large_answer_takes_no_room_though_its_client_is_slow(warm, origin):
    use, before = warm
    server = origin(sends(bare(f"Content-Length: {SIZE}")))
    with dialled(use.address) as peer:
        assert peer.send(request(server.url())).until(b"\r\n\r\n")
        # Until all that the kernel holds is full; then the origin can send no more.
        sock = server.connections[0].sock
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        while poll.poll(300):
            pass
        left = SIZE - len(peer._rest)
        peer._rest = b""
        count(peer, left)
        assert peak(use) - before < MOST


def test_a_large_request_takes_no_room_though_its_origin_is_slow(warm, origin):
    use, before = warm

    def play(connection):
        connection.head()
        poll = select.poll()
        # The client has filled all that is between: nothing moves for a while.
        poll.poll(500)
        left = SIZE - len(connection._rest)
        while left:
            got = connection.sock.recv(min(left, 1 << 20))
            if not got:
                raise Over
            left -= len(got)
        connection.send(OK)

    server = origin(play)
    with dialled(use.address) as peer:
        peer.send(request(server.url(), f"Content-Length: {SIZE}", method="POST"))
        for _ in range(SIZE // len(BLOCK)):
            peer.sock.sendall(BLOCK)
        assert peer.answer().status == 200
        assert peak(use) - before < MOST


def test_a_tunnel_takes_no_room_though_its_client_is_slow(warm, origin):
    use, before = warm

    def play(connection):
        for _ in range(SIZE // len(BLOCK)):
            connection.send(BLOCK)

    server = origin(play)
    with dialled(use.address) as peer:
        assert peer.send(connect(server.authority)).answer("CONNECT").status == 200
        select.poll().poll(300)
        left = SIZE - len(peer._rest)
        peer._rest = b""
        count(peer, left)
        assert peak(use) - before < MOST
