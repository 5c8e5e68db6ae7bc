"""Let the N-th system call of the master fail, with the errno that the kernel would give.

`FaultyKernel` is the real kernel but for the one call; what a test has not listed is real.
After SQLite: run the scenario with the first call failing, then the second, and so on
until it runs through without the fault; after each, nothing may be left open.
"""

from __future__ import annotations

import os
from itertools import count
from typing import TYPE_CHECKING, Any

from superd.master.kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = [name for name in vars(Kernel) if not name.startswith("_")]


class FaultyKernel(Kernel):
    """Counts every call; the one with number `nth` fails with `error`."""

    def __init__(self, nth: int, error: int, only: str = "") -> None:
        self.calls: list[str] = []
        self._nth = nth
        self._error = error
        self._only = only
        self.fired = False

    def __getattribute__(self, name: str) -> Any:
        if name not in CALLS:
            return super().__getattribute__(name)
        real = super().__getattribute__(name)
        return lambda *args, **kwargs: self._call(name, real, args, kwargs)

    def _call(self, name: str, real: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._only in ("", name):
            self.calls.append(name)
            if len(self.calls) == self._nth:
                self.fired = True
                raise OSError(self._error, os.strerror(self._error))
        return real(*args, **kwargs)


def every_fault(
    scenario: Callable[[FaultyKernel], None],
    errors: list[int],
    only: str = "",
    make: type[FaultyKernel] = FaultyKernel,
) -> int:
    """Run a scenario with each of its calls failing in turn; returns how many there are."""
    for nth in count(1):
        fired = False
        for error in errors:
            kernel = make(nth, error, only)
            before = sorted(os.listdir("/proc/self/fd"))
            scenario(kernel)
            after = sorted(os.listdir("/proc/self/fd"))
            assert after == before, (nth, kernel.calls, error)
            fired = fired or kernel.fired
        if not fired:
            return nth - 1
    raise AssertionError("count is endless")
