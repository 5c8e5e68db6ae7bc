"""A plan comes into force whole or not at all, whatever call fails on the way."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from fakeos import every_fault
from master_rig import FaultyPlayed, Rig, entry, fds, listener

from superd.core.audit import check
from superd.master.generations import ApplyError, spell

SHORTAGES = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS]
REFUSALS = [errno.EACCES, errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT]


def quiet(kernel, *services) -> Rig:
    """Make a rig, and serve, before the first call counts."""
    only, kernel._only = kernel._only, "none yet"
    rig = Rig(kernel)
    if services:
        rig.apply(*services)
    kernel._only = only
    return rig


def three(tmp_path) -> list[dict]:
    """Name one service of each family."""
    return [
        entry("a", "tcp 127.0.0.1:0 a", "udp 127.0.0.1:0 a"),
        entry("b", f"unix {tmp_path}/b.sock"),
        entry("c", "tcp 127.0.0.1:0 c"),
    ]


def outcome(rig: Rig, *services) -> bool:
    """Apply; False if it was refused, with its books in order."""
    try:
        rig.apply(*services)
    except ApplyError:
        check(rig.shell.core)
        return False
    check(rig.shell.core)
    return True


def test_a_start_in_which_any_call_fails_is_refused_and_leaves_nothing(tmp_path):
    def start(kernel) -> None:
        with quiet(kernel) as rig:
            done = outcome(rig, *three(tmp_path))
            assert done == (not kernel.fired)
            assert os.path.exists(tmp_path / "b.sock") == done
            if not done:
                assert not rig.shell.listeners
                assert rig.generations.number == 0
                # The fault is over: the same plan comes into force.
                assert outcome(rig, *three(tmp_path))
        assert not os.path.exists(tmp_path / "b.sock")

    assert every_fault(start, SHORTAGES + REFUSALS, make=FaultyPlayed) == 11


def test_a_reload_in_which_any_call_fails_leaves_the_old_generation_in_force(tmp_path):
    old = [entry("a", "tcp 127.0.0.1:0 a"), entry("old", "tcp 127.0.0.1:0 old")]

    def reload(kernel) -> None:
        with quiet(kernel, *old) as rig:
            before = {key: one.sock for key, one in rig.shell.listeners.items()}
            done = outcome(rig, *three(tmp_path))
            # What is last is no opening any more: the backlog of what goes is served.
            assert done == (not kernel.fired or "accept" in kernel.calls)
            if not done:
                now = {key: one.sock for key, one in rig.shell.listeners.items()}
                assert now == before
                assert rig.generations.number == 1
                assert not os.path.exists(tmp_path / "b.sock")
                with rig.connect("tcp 127.0.0.1:0 old"):
                    rig.until(lambda: rig.shell.core.conns)
                assert outcome(rig, *three(tmp_path))
            assert list(rig.shell.core.services) == ["a", "b", "c"]
            a = "tcp 127.0.0.1:0 a"
            assert rig.shell.listeners[a].sock is before[a]

    assert every_fault(reload, SHORTAGES + REFUSALS, make=FaultyPlayed) == 9


def test_every_wrong_address_of_a_plan_is_told_at_once():
    with Rig() as rig, pytest.raises(ApplyError) as caught:
        rig.apply(
            entry("a", "tcp 203.0.113.1:0 a"),
            entry("b"),
            entry("c", "tcp 203.0.113.2:0 c"),
        )
    assert len(caught.value.lines) == 2
    assert caught.value.status == os.EX_UNAVAILABLE
    assert not rig.shell.listeners


def test_a_permission_that_is_missing_has_a_status_of_its_own():
    class Kernel(FaultyPlayed):
        pass

    with Rig(Kernel(1, errno.EACCES, "bind")) as rig:
        with pytest.raises(ApplyError) as caught:
            rig.apply(entry())
        assert caught.value.status == os.EX_NOPERM
        assert "CAP_NET_BIND_SERVICE" in caught.value.lines[0]


def test_an_optional_address_that_cannot_be_had_is_a_warning_and_is_tried_again():
    wanted = entry("a", "tcp 127.0.0.1:0 a", listener("tcp [::1]:0 a", optional=True))
    with Rig(FaultyPlayed(2, errno.EADDRNOTAVAIL, "bind")) as rig:
        rig.apply(wanted)
        assert list(rig.shell.listeners) == ["tcp 127.0.0.1:0 a"]
        assert rig.logged("going on without it")
        rig.apply(wanted)
        assert list(rig.shell.listeners) == ["tcp 127.0.0.1:0 a", "tcp [::1]:0 a"]


def test_both_families_of_one_port_0_get_the_same_port():
    with Rig() as rig:
        rig.apply(entry("a", "tcp 127.0.0.1:0 a", "tcp [::1]:0 a"))
        assert rig.address("tcp 127.0.0.1:0 a")[1] == rig.address("tcp [::1]:0 a")[1]
        assert spell(rig.shell.listeners["tcp [::1]:0 a"].sock).startswith("[::1]:")


def test_what_waits_in_the_backlog_of_a_removed_listener_is_still_served():
    with Rig() as rig:
        rig.apply(entry("a"), entry("b"))
        with rig.connect("tcp 127.0.0.1:0 a"), rig.connect("tcp 127.0.0.1:0 a"):
            rig.apply(entry("b"))
            assert len(rig.shell.core.conns) == 2


def test_a_reload_does_not_wait_at_a_wait_programs_listener():
    """It blocks: an accept of ours there stopped the whole daemon."""
    with Rig() as rig:
        rig.apply(entry("w", mode="wait"), entry("b"))
        assert rig.shell.listeners["tcp 127.0.0.1:0 w"].sock.getblocking()
        rig.apply(entry("b"))
        assert list(rig.shell.core.services) == ["b"]


def test_a_connection_for_a_removed_wait_program_is_not_accepted_by_us():
    with Rig() as rig:
        rig.apply(entry("w", mode="wait"))
        with rig.connect("tcp 127.0.0.1:0 w"):
            rig.apply(entry("b"))
            assert not rig.shell.core.conns


def test_a_listener_that_moves_to_another_mode_blocks_or_not_as_that_needs():
    key = "tcp 127.0.0.1:0 a"
    with Rig() as rig:
        rig.apply(entry("a", key))
        sock = rig.shell.listeners[key].sock
        assert not sock.getblocking()
        rig.apply(entry("other", key, mode="wait"))
        assert rig.shell.listeners[key].sock is sock
        assert sock.getblocking()
        rig.apply(entry("a", key))
        assert not sock.getblocking()
        with rig.connect(key):
            rig.until(lambda: rig.shell.core.conns)


class TestInherited:
    def test_sockets_of_one_name_are_served_and_never_closed(self):
        with Rig() as rig:
            both = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
            rig.inherited.by_name["web"] = both
            rig.apply(entry("a", "fd web"))
            assert list(rig.shell.listeners) == ["fd web", "fd web 2"]
            rig.apply(entry("b"))
            assert list(rig.shell.kept) == ["fd web", "fd web 2"]
            assert all(sock.fileno() >= 0 for sock in both)
            rig.apply(entry("a", "fd web"))
            assert not rig.shell.kept
            rig.connect("fd web 2")
            rig.until(lambda: rig.shell.core.conns)
            rig.apply(entry("b"))

    def test_a_name_that_is_not_there_is_refused(self):
        with Rig() as rig, pytest.raises(ApplyError) as caught:
            rig.apply(entry("a", "fd web"))
        assert "none at all" in caught.value.lines[0]
        assert caught.value.status == os.EX_CONFIG

    def test_one_that_does_not_listen_is_refused(self):
        with Rig() as rig, socket.socket() as sock:
            rig.inherited.by_name["web"] = [sock]
            with pytest.raises(ApplyError, match="does not listen"):
                rig.apply(entry("a", "fd web"))

    def test_a_refused_plan_leaves_them_open(self):
        with Rig() as rig, socket.create_server(("127.0.0.1", 0)) as sock:
            rig.inherited.by_name["web"] = [sock]
            with pytest.raises(ApplyError):
                rig.apply(entry("a", "fd web"), entry("b", "tcp 203.0.113.1:0 b"))
            assert sock.fileno() >= 0
            assert not rig.shell.listeners


class TestLog:
    def test_a_log_that_cannot_be_written_refuses_the_plan(self, tmp_path):
        before = fds()
        with Rig() as rig:
            with pytest.raises(ApplyError, match=r"log\.to"):
                rig.apply(entry(), to=f"{tmp_path}/no/such/folder")
            assert not rig.shell.listeners
        assert fds() == before

    def test_a_refused_plan_closes_the_log_that_it_opened(self, tmp_path):
        with Rig() as rig:
            before = fds()
            with pytest.raises(ApplyError):
                rig.apply(entry("a", "tcp 203.0.113.1:0 a"), to=f"{tmp_path}/log")
            assert fds() == before
            rig.apply(entry())
            assert rig.logged("listen service=echo")
