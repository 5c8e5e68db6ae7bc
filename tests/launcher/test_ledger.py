"""The page that a worker shares with its launcher."""

from __future__ import annotations

import os
import signal
import time

import pytest

from superd.launcher.ledger import RENEW, RETIRED, Ledger


@pytest.fixture
def ledger():
    page = Ledger()
    yield page
    page.close()


def in_child(work) -> None:
    """Run it in a forked process that is killed afterwards: no exit, no flush."""
    pid = os.fork()
    if not pid:
        work()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_fresh_page_says_nothing(ledger):
    assert (ledger.conn, ledger.served, ledger.left) == (0, 0, 0)
    assert ledger.silence(time.monotonic()) == 0.0


def test_what_a_worker_was_doing_is_known_after_its_death(ledger):
    in_child(lambda: ledger.begin(17))
    assert ledger.conn == 17
    assert ledger.served == 0
    assert ledger.left == 0
    assert 0 <= ledger.age(time.monotonic()) < 20


def test_an_ended_connection_is_counted_and_is_nobodys(ledger):
    def work():
        for conn in (1, 2, 3):
            ledger.begin(conn)
            ledger.end()

    in_child(work)
    assert (ledger.conn, ledger.served) == (0, 3)


@pytest.mark.parametrize("why", [RENEW, RETIRED])
def test_an_end_that_is_meant_is_told_from_a_death(ledger, why):
    in_child(lambda: ledger.leave(why))
    assert ledger.left == why


def test_a_number_of_64_bits_fits(ledger):
    in_child(lambda: ledger.begin((1 << 63) - 1))
    assert ledger.conn == (1 << 63) - 1


def test_ages_are_of_the_monotonic_clock(ledger):
    before = time.monotonic()
    ledger.begin(1)
    after = time.monotonic()
    assert ledger.age(after + 10) >= 10
    assert ledger.age(before + 10) <= 10


def test_silence_counts_from_the_last_beat_and_only_with_something_to_do(ledger):
    in_child(lambda: ledger.beat(3))
    now = time.monotonic()
    assert 30 <= ledger.silence(now + 30) < 50
    in_child(lambda: ledger.beat(0))
    assert ledger.silence(now + 3000) == 0.0


def test_the_next_worker_begins_with_a_clean_page(ledger):
    def work():
        ledger.begin(1)
        ledger.end()
        ledger.begin(2)
        ledger.beat(1)
        ledger.leave(RENEW)

    in_child(work)
    ledger.clear()
    assert (ledger.conn, ledger.served, ledger.left) == (0, 0, 0)
    assert ledger.silence(time.monotonic() + 100) == 0.0
