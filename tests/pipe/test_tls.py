"""Streams by TLS: the calls of a socket that never waits, and who is at the other end."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inetd import DEADLINE, connection

from superd.handlers.pipeline import auth, joining, joint
from superd.handlers.pipeline.channel import Channel
from superd.handlers.pipeline.failure import Failure
from superd.handlers.pipeline.identity import Identity, IdentityError
from superd.handlers.pipeline.tls import NoTls, TlsError, TlsStream

SECRET = b"what nobody on the way may read"


def identity(certificate):
    return Identity(*certificate)


def shake(server, client):
    """Let both ends shake hands at once; returns the errors of the server's."""
    errors = []

    def serve():
        try:
            server.shake_hands(time.monotonic() + DEADLINE)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.shake_hands(time.monotonic() + DEADLINE)
    finally:
        thread.join()
    return errors


@contextmanager
def streams(ours, theirs=None, **sizes):
    """Give two ends that have shaken hands, on sockets with small buffers."""
    one = identity(ours.issue())
    other = identity(theirs or ours.issue("URI:superd://caller,DNS:caller.example"))
    ends = connection()
    for sock in ends:
        sock.setblocking(False)
        for name, size in sizes.items():
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), size)
    client = TlsStream(ends[0], other.client(check_name=False), server=False)
    server = TlsStream(ends[1], one.server(), server=True)
    try:
        yield client, server, shake(server, client)
    finally:
        client.close()
        server.close()


def receive(stream, size, until=DEADLINE):
    """Read as a loop that waits in poll does."""
    data = b""
    while len(data) < size:
        assert select.select([stream], [], [], until)[0], "poll sees nothing"
        try:
            more = stream.recv(4096)
        except BlockingIOError:
            continue
        assert more
        data += more
    return data


def test_both_ends_see_the_certificate_of_the_other(ours):
    with streams(ours) as (client, server, errors):
        assert errors == []
        assert server.names == ["superd://caller", "caller.example"]
        assert client.names == ["localhost"]
        for name in ("superd://caller", "caller.example", "Caller.EXAMPLE"):
            assert server.has_name_of(["other", name])
        for name in ("superd://Caller", "example", "caller", ""):
            assert not server.has_name_of([name])
        assert client.fingerprint == identity(ours.issue()).fingerprint
        client.send(b"x")
        assert receive(server, 1) == b"x"


def test_it_is_tls_1_3_and_nothing_before(ours):
    old = identity(ours.issue()).client(check_name=False)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    ends = connection()
    client = TlsStream(ends[0], old, server=False)
    server = TlsStream(ends[1], identity(ours.issue()).server(), server=True)
    with ends[0], ends[1], pytest.raises(TlsError, match=r"it has no TLS 1\.3"):
        shake(server, client)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 60_000)), max_size=6),
    st.integers(1, 70_000),
)
def test_what_is_sent_either_way_arrives_and_poll_always_sees_it(ours, sends, size):
    """Both ends send until the socket is full, and read only when poll says so."""
    with streams(ours, SO_SNDBUF=8192) as (client, server, _):
        left = {client: bytearray(), server: bytearray()}
        got = {client: bytearray(), server: bytearray()}
        for number, (is_client, count) in enumerate(sends):
            left[client if is_client else server] += bytes([number + 1]) * count
        wanted = {client: bytes(left[server]), server: bytes(left[client])}
        until = time.monotonic() + DEADLINE
        while any(got[end] != wanted[end] for end in got):
            assert time.monotonic() < until
            writers = [end for end, data in left.items() if data]
            readable, writable, _ = select.select([client, server], writers, [], 1)
            assert readable or writable
            for end in writable:
                with suppress(BlockingIOError):
                    del left[end][: end.send(left[end])]
            for end in readable:
                with suppress(BlockingIOError):
                    got[end] += end.recv(size)


def test_several_parts_are_sent_as_one(ours):
    with streams(ours) as (client, server, _):
        assert client.sendmsg([b"ab", memoryview(b"cd")]) == 4
        assert receive(server, 4) == b"abcd"


def test_an_end_that_was_said_is_an_end_and_a_cut_is_an_error(ours):
    with streams(ours) as (client, server, _):
        client.send(b"all")
        joint.finish(client)
        assert receive(server, 3) == b"all"
        assert server.recv(100) == b""
    with streams(ours) as (client, server, _):
        client.send(b"part")
        client._sock.shutdown(socket.SHUT_WR)
        assert receive(server, 4) == b"part"
        with pytest.raises(TlsError, match="ended without a word"):
            server.recv(100)


@pytest.mark.parametrize("place", [0, 3, 7, -1])
def test_a_byte_that_was_changed_on_the_way_is_an_error(ours, place):
    with streams(ours) as (client, server, _):
        raw = client._sock
        client._sock, tap = socket.socketpair()
        client.send(SECRET)
        record = bytearray(tap.recv(4096))
        tap.close()
        assert SECRET not in record
        record[place] ^= 1
        raw.send(record)
        raw.shutdown(socket.SHUT_WR)
        with pytest.raises(TlsError):
            receive(server, 1)
        raw.close()


def test_a_peer_that_says_nothing_is_not_waited_for(ours):
    for is_server in (True, False):
        mine, other = connection()
        own = identity(ours.issue())
        context = own.server() if is_server else own.client(check_name=False)
        with mine, other:
            start = time.monotonic()
            with pytest.raises(TimeoutError, match="no end of the handshake in time"):
                TlsStream(mine, context, server=is_server).shake_hands(start + 0.1)
            assert time.monotonic() - start < 2


def test_a_peer_that_says_a_byte_at_a_time_is_not_waited_for_longer(ours):
    mine, other = connection()
    with mine, other:
        other.sendall(b"\x16\x03\x01\x02\x00" + b"\x01")
        start = time.monotonic()
        stop = threading.Event()

        def trickle():
            while not stop.wait(0.02):
                other.send(b"\0")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            stream = TlsStream(mine, identity(ours.issue()).server(), server=True)
            with pytest.raises(TimeoutError):
                stream.shake_hands(start + 0.2)
        finally:
            stop.set()
            thread.join()
        assert time.monotonic() - start < 2


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40), st.sampled_from([b"", b"\x16\x03\x01\x00\x10"]))
def test_whatever_a_stranger_says_is_an_error_of_tls(ours, data, head):
    mine, other = connection()
    with mine, other:
        other.sendall(head + data)
        other.shutdown(socket.SHUT_WR)
        stream = TlsStream(mine, _server(ours), server=True)
        wanted = TlsError if not head + data else (TlsError, NoTls)
        with pytest.raises(wanted):
            stream.shake_hands(time.monotonic() + DEADLINE)


def _server(ours, known={}):  # noqa: B006  once, as each takes a millisecond
    if "server" not in known:
        known["server"] = identity(ours.issue()).server()
    return known["server"]


@pytest.mark.parametrize("said", [b"220 mail.example\r\n", b"\x05\0\0\0\x10", b"\0"])
def test_a_peer_without_tls_is_known_by_its_first_byte(ours, said):
    for is_server in (True, False):
        mine, other = connection()
        own = identity(ours.issue())
        context = own.server() if is_server else own.client(check_name=False)
        with mine, other:
            other.sendall(said)
            with pytest.raises(NoTls, match="it speaks no TLS"):
                TlsStream(mine, context, server=is_server).shake_hands(
                    time.monotonic() + DEADLINE
                )


@pytest.mark.parametrize(
    ("issue", "said"),
    [
        ({"names": "DNS:a", "expired": True}, "our certificate has expired"),
        ({"names": "DNS:a", "usage": "serverAuth"}, "our certificate is not for this"),
        (None, "our certificate is of no CA known there"),
    ],
)
def test_a_client_hears_why_its_certificate_is_not_taken(
    ours, authorities, issue, said
):
    """It hears so by its first read: its own part of the handshake was right."""
    if issue is None:
        foreign = authorities("foreign").issue()
        theirs = foreign._replace(ca=ours.issue().ca)
    else:
        theirs = ours.issue(**issue)
    with streams(ours, theirs) as (client, _, errors):
        assert [type(error) for error in errors] == [TlsError]
        assert "its certificate is not valid: " in str(errors[0])
        with pytest.raises(TlsError, match=said):
            receive(client, 1)


def test_a_client_without_a_certificate_hears_that_one_is_wanted(ours):
    bare = identity(ours.issue())
    context = bare.client(check_name=False)
    fresh = type(context)(context.protocol)
    fresh.check_hostname = False
    fresh.load_verify_locations(ours.issue().ca)
    ends = connection()
    client = TlsStream(ends[0], fresh, server=False)
    server = TlsStream(ends[1], bare.server(), server=True)
    with ends[0], ends[1]:
        [error] = shake(server, client)
        assert "it has shown no certificate" in str(error)
        with pytest.raises(TlsError, match="it wants a certificate of ours"):
            receive(client, 1)


# -- the files -----------------------------------------------------------------------------


def test_files_that_are_not_what_they_have_to_be_are_told(ours, tmp_path):
    good, other = ours.issue(), ours.issue("DNS:other")
    (tmp_path / "empty").touch()
    (tmp_path / "bad").write_text(
        "-----BEGIN CERTIFICATE-----\nxxxx\n-----END CERTIFICATE-----\n"
    )
    (tmp_path / "locked").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    (tmp_path / "locked").chmod(0o600)
    (tmp_path / "empty").chmod(0o600)
    (tmp_path / "open").write_text("-----BEGIN PRIVATE KEY-----\n")
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "broken").write_text("-----BEGIN PRIVATE KEY-----\n")
    (tmp_path / "broken").chmod(0o600)
    for change, field, said in (
        ({"certificate": ""}, "certificate", "no file; TLS needs a certificate"),
        ({"ca": ""}, "ca", "no file"),
        ({"ca": f"{tmp_path}/no"}, "ca", "no: No such file"),
        ({"ca": f"{tmp_path}/empty"}, "ca", "has no certificate in PEM form"),
        ({"ca": f"{tmp_path}/bad"}, "ca", "cannot be read"),
        ({"certificate": f"{tmp_path}/bad"}, "certificate", "cannot be read"),
        ({"key": f"{tmp_path}/empty"}, "key", "has no key in PEM form"),
        ({"key": f"{tmp_path}/locked"}, "key", "has a passphrase"),
        ({"key": f"{tmp_path}/open"}, "key", "is open to everybody; chmod o="),
        ({"key": f"{tmp_path}/broken"}, "certificate", "it or its key cannot be read"),
        ({"key": other.key}, "key", "is not the key of the certificate"),
    ):
        with pytest.raises(IdentityError, match=said) as error:
            Identity(*good._replace(**change))
        assert error.value.field == field


def test_one_file_may_have_both(ours, tmp_path):
    good, both = ours.issue(), tmp_path / "both"
    with open(good.certificate) as one, open(good.key) as other:
        both.write_text(other.read() + one.read())
    both.chmod(0o600)
    assert Identity(str(both), "", good.ca).fingerprint == identity(good).fingerprint


# -- joints --------------------------------------------------------------------------------


def meet(pins, tokens):
    """Let a stage connect to another, whose neighbour has the first of each pair."""
    with joint_listener() as (listener, where):
        ends = socket.socketpair()
        quiet = Channel(ends[0])
        found = []

        def take():
            try:
                found.append(
                    joining.accept([listener], tokens[0], 9.0, quiet, pins[0], 0.6)
                )
            except Failure as failure:
                found.append(failure)

        thread = threading.Thread(target=take)
        thread.start()
        try:
            found.append(joining.dial(where, tokens[1], 9.0, None, pins[1], 0.6))
        except Failure as failure:
            found.append(failure)
        finally:
            thread.join()
            for end in ends:
                end.close()
    for end in found:
        if not isinstance(end, Failure):
            end.close()
    return sorted(str(end) if isinstance(end, Failure) else "" for end in found)


@contextmanager
def joint_listener():
    [listener] = joint.listen(joint.Address("127.0.0.1", 0))
    with listener:
        yield listener, joint.Address(*listener.getsockname())


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("right", ""),
        ("no token", "closed the joint|reset by peer|ended without a word"),
        ("another certificate here", "not the certificate that the caller has seen"),
        ("another certificate there", "closed|reset|ended without a word"),
        ("no TLS", "closed|reset|no proof"),
        ("no TLS there", "speaks no TLS|reset by peer"),
    ],
)
def test_a_joint_needs_the_token_and_the_very_certificate(ours, case, said):
    one, two = identity(ours.issue()), identity(ours.issue("DNS:two"))
    third = identity(ours.issue("DNS:three"))
    token = bytes(auth.TOKEN)
    pins = [joining.Pin(one, two.fingerprint), joining.Pin(two, one.fingerprint)]
    tokens = [token, token]
    if case == "no token":
        tokens[1] = b"x" * auth.TOKEN
    elif case == "another certificate here":
        pins[1] = joining.Pin(two, third.fingerprint)
    elif case == "another certificate there":
        pins[1] = joining.Pin(third, one.fingerprint)
    elif case == "no TLS":
        pins[1] = None
    elif case == "no TLS there":
        pins[0] = None
    ends = meet(pins, tokens)
    if case == "right":
        assert ends == ["", ""]
        return
    late, error = sorted(ends, key=lambda text: "has not come" not in text)
    assert "the stage before has not come in 0.6 s" in late
    assert any(part in error for part in said.split("|")), error
