"""The seam of the system calls: each is the real one, and nothing of it is inherited."""

from __future__ import annotations

import os
import socket

import pytest
from fakeos import CALLS, FaultyKernel

from superd.master.kernel import Kernel


def test_no_descriptor_of_it_is_inherited_by_a_program():
    kernel = Kernel()
    sock = kernel.open_socket(socket.AF_INET, socket.SOCK_STREAM)
    kernel.bind(sock, ("127.0.0.1", 0))
    kernel.listen(sock, 1)
    peer = socket.create_connection(sock.getsockname(), timeout=10)
    conn, _ = kernel.accept(sock)
    one, other = kernel.socketpair()
    opened = [
        *kernel.pipe(), kernel.memfd("name"), kernel.open_null(), kernel.dup(0, 20),
        *(end.detach() for end in (sock, peer, conn, one, other)),
    ]  # fmt: skip
    assert not any(os.get_inheritable(fd) for fd in opened)
    for fd in opened:
        os.close(fd)


def test_a_channel_keeps_the_bounds_of_what_was_sent_and_carries_descriptors():
    kernel = Kernel()
    one, other = kernel.socketpair()
    kernel.send(one, b"first", [0])
    kernel.send(one, b"second", [])
    data, fds, _, _ = socket.recv_fds(other, 100, 4)
    assert (data, len(fds)) == (b"first", 1)
    assert other.recv(100) == b"second"
    os.close(fds[0])
    one.close()
    other.close()


def test_a_program_that_is_started_has_no_signal_blocked():
    script = "grep -q 'SigBlk:.*0000$' /proc/self/status"
    pid = Kernel().spawn(["/bin/sh", "-c", script], {}, [])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("name", CALLS)
def test_the_tests_can_let_every_call_fail(name):
    kernel = FaultyKernel(1, 24, name)
    with pytest.raises(OSError, match="Too many open files"):
        getattr(kernel, name)()
    assert kernel.fired
