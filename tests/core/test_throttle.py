"""When a failing service is not polled, and for how long."""

from __future__ import annotations

import pytest

from superd.core.throttle import BASE, FIRST_FAILURES, TOP, Throttle


def strike(throttle: Throttle, now: float) -> float:
    delay = throttle.structural(now)
    assert throttle.until == now + delay
    return delay


def test_the_delay_doubles_up_to_a_minute():
    throttle, now, delays = Throttle(), 0.0, []
    for _ in range(9):
        delays.append(strike(throttle, now))
        now += delays[-1]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert (delays[0], delays[-1]) == (BASE, TOP)


def test_a_thousand_strikes_do_not_overflow():
    throttle = Throttle()
    throttle.strikes = 100_000
    assert throttle.structural(0.0) == TOP


def test_failures_of_one_moment_are_one_strike():
    """Forty handlers were running when the program was replaced by a broken one."""
    throttle = Throttle()
    delays = [throttle.structural(100.0 + n / 100) for n in range(40)]
    assert delays[0] == BASE
    assert throttle.until == 100.0 + BASE
    assert throttle.structural(101.0) == 2 * BASE


def test_a_throttle_is_over_at_its_time_and_not_before():
    throttle = Throttle()
    assert throttle.is_over(0.0)
    throttle.structural(10.0)
    assert not throttle.is_over(10.999)
    assert throttle.is_over(11.0)


def test_success_resets_the_delay():
    throttle = Throttle()
    strike(throttle, 0.0)
    strike(throttle, 10.0)
    throttle.success()
    assert strike(throttle, 20.0) == BASE


def test_success_does_not_end_a_throttle_that_runs():
    throttle = Throttle()
    throttle.structural(0.0)
    throttle.success()
    assert not throttle.is_over(0.5)


def test_plain_failures_before_any_success_throttle():
    throttle = Throttle()
    delays = [throttle.plain(0.0) for _ in range(FIRST_FAILURES)]
    assert delays == [None] * (FIRST_FAILURES - 1) + [BASE]


def test_after_a_throttle_the_next_plain_failure_is_enough():
    throttle = Throttle()
    for _ in range(FIRST_FAILURES):
        throttle.plain(0.0)
    assert throttle.plain(2.0) == 2 * BASE


def test_plain_failures_after_a_success_never_throttle():
    throttle = Throttle()
    throttle.success()
    assert [throttle.plain(0.0) for _ in range(1000)] == [None] * 1000


def test_a_success_between_forgives_the_failures_before_it():
    throttle = Throttle()
    throttle.plain(0.0)
    throttle.success()
    assert (throttle.failures, throttle.proven) == (0, True)


def test_what_is_renewed_is_neither_proven_nor_guilty():
    throttle = Throttle()
    throttle.success()
    throttle.structural(5.0)
    throttle.renewed()
    assert throttle.is_over(5.0)
    assert not throttle.proven
    assert throttle.structural(5.0) == BASE


@pytest.mark.parametrize("count", range(1, 12))
def test_every_throttle_has_an_end(count):
    throttle, now = Throttle(), 50.0
    for _ in range(count):
        now = now + throttle.structural(now)
    assert throttle.is_over(now)
