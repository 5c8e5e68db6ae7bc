"""Decide when a failing service is not polled, and for how long.

The rule is Postfix's: a child that fails on its first job shows a structural problem
(wrong program, wrong options), a child that fails later may only have met a bad peer. So
plain failures count only until a service's first success; after that only what no peer
can cause (a program that cannot be executed, exit 100, a launcher that dies, a wait
program that eats nothing) throttles. Every throttle ends by itself.
"""

from __future__ import annotations

FIRST_FAILURES = 5
"""Plain failures in a row, before any success, that throttle: one may be a stray peer."""

BASE = 1.0
"""Seconds of the first throttle."""

TOP = 60.0
"""Seconds of the longest throttle: Postfix's service_throttle_time."""

PLAIN_TOP = 4.0
"""Seconds of the longest throttle for plain failures: before a service's first success a
peer that always fails could otherwise keep everybody else waiting for a minute."""


class Throttle:
    """The standing of one service: its failures in a row and when it is released."""

    __slots__ = ("failures", "proven", "strikes", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.strikes = 0
        self.proven = False
        self.until: float | None = None

    def structural(self, now: float, top: float = TOP) -> float:
        """Count a failure that no peer can cause; returns the delay of the throttle.

        Handlers that fail while the throttle runs were started before it: forty of them
        are forty witnesses of one fault, and not forty strikes.
        """
        if self.until is not None and now < self.until:
            return self.until - now
        delay: float = min(top, BASE * 2 ** min(self.strikes, 16))
        self.strikes += 1
        self.failures = 0
        self.until = now + delay
        return delay

    def plain(self, now: float) -> float | None:
        """Count a handler that failed; returns the delay if that throttles."""
        if self.proven:
            return None
        self.failures += 1
        if self.failures < FIRST_FAILURES and not self.strikes:
            return None
        return self.structural(now, PLAIN_TOP)

    def success(self) -> None:
        """A handler did its job: the service is proven, old failures are forgotten."""
        self.failures = 0
        self.strikes = 0
        self.proven = True

    def renewed(self) -> None:
        """A reload changed what runs: nothing is proven, nothing is held against it."""
        self.failures = 0
        self.strikes = 0
        self.proven = False
        self.until = None

    def is_over(self, now: float) -> bool:
        """The throttle has ended (or there is none)."""
        return self.until is None or now >= self.until
