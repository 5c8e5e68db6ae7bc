"""One direction of a relay: what it holds, and the pipes that many of them share."""

from __future__ import annotations

import os
import resource
import select
import socket
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superd.handlers.relay.flow import SPARE, SPLICE_AFTER, End, Flow, Pipes
from superd.handlers.relay.story import BACKEND_RESET, PEER_RESET, Reset


def pipe_ends():
    """Count this process's descriptors of pipes."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")
        except FileNotFoundError:
            continue  # the one that listed the folder
    return count


@contextmanager
def flowing(pipes, moved=0):
    """Give what a flow reads from, the flow, and what reads from it."""
    a, source = socket.socketpair()
    sink, b = socket.socketpair()
    with a, b, source, sink:
        for sock in (a, b, source, sink):
            sock.setblocking(False)
        flow = Flow(
            End(source.fileno(), PEER_RESET), End(sink.fileno(), BACKEND_RESET), pipes
        )
        flow.count = moved
        try:
            yield a, flow, b
        finally:
            flow.close()
            flow.source.let_go()
            flow.sink.let_go()


def flood(sock, flow):
    """Send until nothing more fits; returns how much did."""
    sent = 0
    while select.select([], [sock], [], 0)[1]:
        sent += sock.send(bytes(4096))
        flow.move()
    return sent


@pytest.mark.parametrize("moved", [0, SPLICE_AFTER])
def test_what_one_side_does_not_take_is_not_read_from_the_other(moved):
    pipes = Pipes(1)
    with flowing(pipes, moved) as (a, flow, _):
        sent = flood(a, flow)
        held = flow.count
        assert flow.is_held
        for _ in range(100):
            flow.move()
        assert flow.count == held
        assert sent - (flow.count - moved) < 1 << 20
    pipes.close()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 70_000), max_size=12),
    st.sampled_from([0, SPLICE_AFTER - 100_000, SPLICE_AFTER]),
    st.integers(0, 1),
)
def test_bytes_come_out_as_they_went_in_whichever_way_they_are_moved(
    sizes, moved, most
):
    """A way that changes in the middle, with a pipe or without, changes no byte."""
    pipes = Pipes(most)
    data = b"".join(bytes([number]) * size for number, size in enumerate(sizes))
    got = b""
    left = memoryview(data)
    with flowing(pipes, moved) as (a, flow, b):
        while len(got) < len(data):
            if left and select.select([], [a], [], 0)[1]:
                left = left[a.send(left[:30_000]) :]
            flow.move()
            if select.select([b], [], [], 0)[0]:
                got += b.recv(20_000)
        a.shutdown(socket.SHUT_WR)
        assert not flow.done
        while not flow.done:
            flow.move()
        assert b.recv(1) == b""
        assert flow.count - moved == len(data)
    assert got == data
    pipes.close()


def test_flows_that_hold_nothing_share_one_pipe():
    before = pipe_ends()
    pipes = Pipes(64)
    with ExitStack() as stack:
        flows = [stack.enter_context(flowing(pipes, SPLICE_AFTER)) for _ in range(20)]
        for a, flow, b in flows:
            a.send(b"bytes")
            assert flow.move()
            assert b.recv(100) == b"bytes"
        assert pipe_ends() == before + 2
    pipes.close()
    assert pipe_ends() == before


def test_no_more_pipes_are_lent_than_there_may_be_and_the_others_go_on():
    before = pipe_ends()
    most = SPARE + 2
    pipes = Pipes(most)
    with ExitStack() as stack:
        flows = [
            stack.enter_context(flowing(pipes, SPLICE_AFTER)) for _ in range(most * 2)
        ]
        for a, flow, _ in flows:
            flood(a, flow)
            assert flow.is_held
        assert pipe_ends() == before + 2 * most
        for _, flow, b in flows:
            while select.select([b], [], [], 0)[0]:
                b.recv(1 << 18)
                flow.move()
            assert not flow.is_held
        assert pipe_ends() == before + 2 * SPARE
    pipes.close()
    assert pipe_ends() == before


def test_a_pipe_with_something_in_it_is_given_to_nobody():
    pipes = Pipes(1)
    with flowing(pipes, SPLICE_AFTER) as (a, flow, _):
        flood(a, flow)
        assert flow.is_held
    with flowing(pipes, SPLICE_AFTER) as (a, flow, b):
        a.send(b"mine")
        flow.move()
        assert b.recv(100) == b"mine"
    pipes.close()


def test_where_no_pipe_can_be_had_bytes_are_read_and_written():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    pipes = Pipes(1)
    with flowing(pipes, SPLICE_AFTER) as (a, flow, b):
        a.send(b"bytes")
        highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        fillers = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limit[1]))
        try:
            while True:
                fillers.append(os.dup(0))
        except OSError:
            pass
        try:
            flow.move()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            for fd in fillers:
                os.close(fd)
        assert b.recv(100) == b"bytes"
    pipes.close()


def test_a_sink_that_is_gone_is_a_reset_though_the_pipe_is_full():
    pipes = Pipes(1)
    with flowing(pipes, SPLICE_AFTER) as (a, flow, b):
        flood(a, flow)
        b.close()
        with pytest.raises(Reset, match=BACKEND_RESET):
            flow.move()
    pipes.close()
