"""The descriptor in reserve: given up for one connection, taken back afterwards."""

from __future__ import annotations

import errno
import os
import resource
import socket

import pytest
from fakeos import FaultyKernel, every_fault
from master_rig import fds

from superd.master.kernel import Kernel
from superd.master.reserve import GONE, SHORT, Reserve


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


def test_one_connection_is_accepted_and_closed_with_it(listening):
    reserve = Reserve(Kernel())
    with socket.create_connection(listening.getsockname(), timeout=10) as peer:
        before = fds()
        assert reserve.shed(listening)
        assert fds() == before
        assert peer.recv(1) == b""
        assert not reserve.shed(listening)  # nobody is there
        assert fds() == before
    reserve.close()
    reserve.close()


def test_with_no_descriptor_left_at_all_it_still_gets_one_connection_out(listening):
    reserve = Reserve(Kernel())
    with socket.create_connection(listening.getsockname(), timeout=10) as peer:
        free = os.dup(0)
        os.close(free)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                listening.accept()
            assert reserve.shed(listening)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert peer.recv(1) == b""
    reserve.close()


def test_whatever_call_of_it_fails_nothing_is_left(listening):
    def scenario(kernel) -> None:
        reserve = Reserve(kernel)
        with socket.create_connection(listening.getsockname(), timeout=10):
            reserve.shed(listening)
            reserve.shed(listening)
            while reserve.shed(listening):
                pass
        reserve.close()

    assert every_fault(scenario, list(SHORT)) >= 4


def test_a_reserve_that_somebody_else_took_is_had_again_when_there_is_one(listening):
    """It was lost for good, and with it the way out of the next shortage."""
    kernel = FaultyKernel(2, errno.ENFILE, "open_null")
    reserve = Reserve(kernel)
    with socket.create_connection(listening.getsockname(), timeout=10):
        assert reserve.shed(listening)
    assert kernel.fired
    with socket.create_connection(listening.getsockname(), timeout=10):
        assert not reserve.shed(listening)  # there was none to give up
        assert reserve.shed(listening)
    reserve.close()


def test_a_start_without_any_reserve_is_possible(listening):
    reserve = Reserve(FaultyKernel(1, errno.EMFILE))
    assert not reserve.shed(listening)
    reserve.close()


def test_a_machine_without_dev_null_is_told():
    with pytest.raises(FileNotFoundError):
        Reserve(FaultyKernel(1, errno.ENOENT))


def test_an_error_is_of_the_machine_or_of_the_connection():
    assert not set(SHORT) & set(GONE)
