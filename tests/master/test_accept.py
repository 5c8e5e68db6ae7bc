"""accept: in batches, whatever it answers, and with the address that it returned."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest
from fakeos import every_fault
from master_rig import FaultyPlayed, PlayedKernel, Rig, entry, fds

from superd.master.accept import BATCH, accept_batch
from superd.master.reserve import GONE, SHORT

KEY = "tcp 127.0.0.1:0 echo"


def test_a_flooded_listener_gets_a_batch_in_a_turn_and_another_its_turn():
    with Rig() as rig:
        rig.apply(entry(connections=500), entry("other"))
        for _ in range(3 * BATCH):
            rig.connect(KEY)
        rig.connect("tcp 127.0.0.1:0 other")
        rig.turn()
        hosts = [conn.listener for conn in rig.shell.core.conns.values()]
        assert hosts.count(KEY) == BATCH
        assert hosts.count("tcp 127.0.0.1:0 other") == 1


def test_a_full_service_stops_in_the_middle_of_a_batch():
    with Rig() as rig:
        rig.apply(entry(connections=3))
        for _ in range(9):
            rig.connect(KEY)
        rig.settle()
        assert len(rig.shell.core.conns) == 3


@pytest.mark.parametrize("error", GONE)
def test_an_error_of_one_connection_costs_nothing_else(error):
    with Rig(FaultyPlayed(1, error, "accept")) as rig:
        rig.apply(entry())
        with rig.connect(KEY):
            rig.until(lambda: rig.shell.core.conns)
        assert rig.kernel.fired
        assert rig.shell.aborted == 1
        assert not rig.logged("throttle")


@pytest.mark.parametrize("error", [*SHORT, errno.EINVAL, errno.EIO])
def test_any_other_error_rests_the_listener_and_is_over_by_itself(error):
    """An errno of no list was raised, turn after turn, until the daemon left."""
    with Rig(FaultyPlayed(1, error, "accept")) as rig:
        rig.apply(entry())
        with rig.connect(KEY), rig.connect(KEY):
            rig.until(lambda: rig.kernel.fired)
            assert not rig.shell.listeners[KEY].polled
            rig.until(lambda: rig.shell.core.conns)
        assert len(rig.logged("throttle service=echo listener=")) == 1


def test_a_listener_that_somebody_shut_down_does_not_spin():
    with Rig() as rig:
        rig.apply(entry())
        rig.shell.listeners[KEY].sock.shutdown(socket.SHUT_RDWR)
        rig.settle(50)
        assert len(rig.logged("Invalid argument")) == 1


def test_from_accept_to_the_launcher_any_call_may_fail():
    """The peer is served, or its connection closed; nothing leaks, the daemon goes on."""

    def scenario(kernel) -> None:
        only, kernel._only = kernel._only, "none yet"
        with Rig(kernel) as rig:
            rig.apply(entry(), entry("other"))
            other = rig.connect("tcp 127.0.0.1:0 other")
            rig.until(lambda: rig.played)
            rig.launcher()
            kernel._only = only
            with other, rig.connect(KEY) as peer:
                rig.until(lambda: len(rig.played) == 2 or kernel.fired)
                rig.settle()
                if len(rig.played) == 2:
                    launcher = rig.launcher(2)
                    rig.settle()
                    conns = [words[1] for words in launcher.hear()]
                    assert len(conns) == 1 or kernel.fired
                else:
                    peer.setblocking(True)
                    assert peer.recv(1) == b""
                kernel._only = "no more"
                before = len(rig.played[0].hear())
                with rig.connect("tcp 127.0.0.1:0 other"):
                    rig.until(lambda: rig.played[0].hear() or before > 1)

    errors = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN]
    assert every_fault(scenario, errors, make=FaultyPlayed) >= 7


def test_a_shortage_sheds_one_connection_and_leaks_nothing():
    with Rig(FaultyPlayed(1, errno.EMFILE, "accept")) as rig:
        rig.apply(entry())
        before = fds()
        with rig.connect(KEY) as peer:
            rig.until(lambda: rig.kernel.fired)
            assert peer.recv(1) == b""
        assert fds() == before


def test_a_peer_that_has_gone_is_known_by_the_address_that_accept_returned():
    with Rig() as rig:
        rig.apply(entry())
        with rig.connect(KEY) as peer:
            peer.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            host, port = peer.getsockname()
        rig.until(lambda: rig.shell.core.conns)
        (conn,) = rig.shell.core.conns.values()
        assert (conn.host, conn.port) == (host, port)


def test_a_unix_peer_is_known_by_its_user(tmp_path):
    key = f"unix {tmp_path}/s"
    with Rig() as rig:
        rig.apply(entry("u", key))
        with rig.connect(key):
            rig.until(lambda: rig.shell.core.conns)
            (conn,) = rig.shell.core.conns.values()
            assert (conn.host, conn.port) == (f"unix:{os.geteuid()}", os.getpid())


def test_an_accepted_connection_is_close_on_exec_and_blocks():
    class Keeping(PlayedKernel):
        def accept(self, sock):
            conn, address = super().accept(sock)
            assert not conn.get_inheritable()
            assert conn.getblocking()
            return conn, address

    with Rig(Keeping()) as rig:
        rig.apply(entry())
        with rig.connect(KEY):
            rig.until(lambda: rig.shell.core.conns)


def test_nothing_to_accept_is_no_event():
    with Rig() as rig:
        rig.apply(entry())
        accept_batch(rig.shell, KEY, rig.shell.listeners[KEY])
        assert rig.shell.next_conn == 0
