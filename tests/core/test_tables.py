"""The records of the core, and its deadlines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playbook import service

from superd.core.tables import Conn, Deadlines, Service


def test_nothing_to_wait_for_has_no_deadline():
    deadlines = Deadlines()
    assert deadlines.next() is None
    assert deadlines.due(1e9) == []


def test_the_earliest_deadline_is_next():
    deadlines = Deadlines()
    for when in (3.0, 1.0, 2.0):
        deadlines.add(when, "x", None)
    assert deadlines.next() == 1.0
    deadlines.due(1.0)
    assert deadlines.next() == 2.0


def test_a_deadline_is_due_at_its_time_and_not_before():
    deadlines = Deadlines()
    deadlines.add(5.0, "x", "key")
    assert deadlines.due(4.999) == []
    assert deadlines.due(5.0) == [("x", "key")]


def test_deadlines_of_one_moment_come_in_the_order_they_were_made():
    """Their keys cannot be compared: services, numbers, nothing."""
    deadlines = Deadlines()
    keys = [Service(service()), 7, None, "key", Service(service())]
    for key in keys:
        deadlines.add(1.0, "x", key)
    assert [key for _, key in deadlines.due(1.0)] == keys


times = st.lists(st.floats(0, 100, allow_nan=False))


@given(times, times)
def test_every_deadline_comes_once_and_none_early(whens, looks):
    deadlines = Deadlines()
    for when in whens:
        deadlines.add(when, "x", when)
    seen = []
    for now in [*sorted(looks), 100.0]:
        due = [key for _, key in deadlines.due(now)]
        assert all(when <= now for when in due)
        seen += due
    assert seen == sorted(whens)
    assert deadlines.next() is None


@pytest.mark.parametrize(
    ("host", "port", "spelt"),
    [
        ("192.0.2.1", 80, "192.0.2.1:80"),
        ("2001:db8::1", 80, "[2001:db8::1]:80"),
        ("unix:1000", 4711, "unix:1000"),
        ("", 0, ""),
    ],
)
def test_a_peer_is_spelt_as_the_operator_knows_it(host, port, spelt):
    conn = Conn(1, Service(service()), "tcp echo", 0.0)
    conn.host, conn.port = host, port
    assert conn.peer() == spelt
