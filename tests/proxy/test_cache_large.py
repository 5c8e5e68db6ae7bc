"""Large bodies from the store, to readers who are quick, slow, or no readers at all."""

from __future__ import annotations

import hashlib
import socket

import pytest
from proxy.cache_rig import LASTING, Crowd, said, url, with_cache
from proxy.client import Peer, ask, dialled, request
from proxy.origins import answers, reply

SIZE = 10 << 20
BODY = hashlib.shake_128(b"large").digest(1 << 16) * (SIZE >> 16)
HASH = hashlib.sha256(BODY).digest()
HASTE = {"send": 0.7}


@pytest.fixture
def kept(proxy, daemons, origin):
    """Give a proxy that has stored a large body, and its address."""
    server = origin(answers(reply(BODY, LASTING)))
    use = with_cache(proxy, daemons, timeouts=HASTE)
    assert hashlib.sha256(ask(use, url(server)).body).digest() == HASH
    yield use, url(server)
    gets = [one for one in server.requests if one.method == b"GET"]
    assert len(gets) == 1


def narrow(address):
    """Connect with a window that is soon full."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sock.settimeout(10)
    sock.connect(address)
    return sock


def test_a_large_body_comes_whole_from_the_store(kept):
    use, place = kept
    with dialled(use.address) as peer:
        for _ in range(2):
            answer = peer.send(request(place)).answer()
            assert said(answer) == "hit"
            assert hashlib.sha256(answer.body).digest() == HASH


def test_parts_of_a_large_body_come_from_the_store(kept):
    use, place = kept
    middle = SIZE // 2 + 7
    answer = ask(use, place, f"Range: bytes={middle}-")
    assert (answer.status, answer.body) == (206, BODY[middle:])
    answer = ask(use, place, f"Range: bytes=5-{1 << 20},{middle}-,-9")
    assert answer.status == 206
    assert BODY[5 : (1 << 20) + 1] in answer.body
    assert BODY[middle:] in answer.body


def test_many_have_a_large_body_at_the_same_time(kept):
    use, place = kept

    def work(_):
        return hashlib.sha256(ask(use, place).body).digest()

    assert set(Crowd(6, work).join()) == {HASH}


def test_a_slow_reader_has_all_of_it(kept):
    """It takes little at a time, so that every step of the sender has to wait."""
    use, place = kept
    with narrow(use.address) as sock:
        peer = Peer(sock)
        peer.send(request(place))
        assert b"hit" in peer.until(b"\r\n\r\n")
        hashed, count = hashlib.sha256(peer._rest), len(peer._rest)
        while count < SIZE:
            data = sock.recv(min(1 << 14, SIZE - count))
            assert data, f"{SIZE - count} bytes are missing"
            hashed.update(data)
            count += len(data)
        assert hashed.digest() == HASH
        # And the connection goes on.
        peer._rest = b""
        assert peer.send(request(place, method="HEAD")).answer("HEAD").status == 200


def test_who_reads_nothing_is_left_in_time(kept):
    use, place = kept
    with narrow(use.address) as sock:
        port = sock.getsockname()[1]
        Peer(sock).send(request(place))
        line = use.daemon.wait_log(rf"peer=127.0.0.1:{port} .* cache=hit .*note=")
        assert "too slow" in line
    # Others have all of it.
    assert hashlib.sha256(ask(use, place).body).digest() == HASH


def test_who_leaves_in_the_middle_disturbs_nobody(kept):
    use, place = kept
    with narrow(use.address) as sock:
        port = sock.getsockname()[1]
        assert len(Peer(sock).send(request(place)).exactly(1 << 16)) == 1 << 16
    use.daemon.wait_log(rf"end .*peer=127.0.0.1:{port} ")
    assert hashlib.sha256(ask(use, place).body).digest() == HASH


def test_a_large_body_that_is_removed_goes_on_to_who_has_begun(kept):
    use, place = kept
    with narrow(use.address) as sock:
        peer = Peer(sock).send(request(place))
        assert b"hit" in peer.until(b"\r\n\r\n")
        changed = ask(use, place, method="DELETE")
        assert changed.status == 200
        assert hashlib.sha256(peer.exactly(SIZE)).digest() == HASH
