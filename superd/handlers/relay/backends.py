"""Decide which backend is tried next, and remember which ones were down.

The rule of the file: a decision is a function of what was said and of `now`; no socket and
no clock is here. What is remembered is this process's own: a pool's or a loop's worker
learns, a process that serves one connection starts with nothing.
"""

from __future__ import annotations

import errno
import os

from superd.handlers.run import describe

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from superd.handlers.relay.addresses import Backend

ERRNO_OURS: Final = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EADDRNOTAVAIL,
    }
)
"""What is no fault of a backend: descriptors, memory or local ports have run out."""


class Backends:
    """The backends of one service, and until when those that failed come last."""

    def __init__(self, backends: list[Backend], order: str, retry: float) -> None:
        self._all = backends
        self._shuffles = order == "random"
        self._retry = retry
        self._down: dict[str, float] = {}

    def in_order(self, now: float) -> list[Backend]:
        """Return all of them, the first to try first; those that failed come last."""
        found = list(self._all)
        if self._shuffles:
            # Not the module random: it is loaded in the time of two connections, and a
            # fork of a warm process would inherit its state.
            found.sort(key=lambda _: os.urandom(8))
        return sorted(found, key=lambda one: self._down.get(one.text, now) > now)

    def note_down(self, backend: Backend, now: float) -> None:
        """Try it last for a while."""
        self._down[backend.text] = now + self._retry

    def note_up(self, backend: Backend) -> None:
        """Try it again as the others."""
        self._down.pop(backend.text, None)


class Search:
    """One connection's way from backend to backend, up to its deadline."""

    def __init__(self, backends: Backends, began: float, deadline: float) -> None:
        self._backends = backends
        self._candidates = backends.in_order(began)
        self._now = began
        self._deadline = deadline
        self._failures: list[str] = []

    def backends(self) -> Iterator[tuple[Backend, float]]:
        """Give each backend with its own deadline: an equal share of the time left.

        Who asks for the next says `failed` of the last.
        """
        left = len(self._candidates)
        for backend in self._candidates:
            yield backend, self._now + (self._deadline - self._now) / left
            left -= 1

    def failed(self, backend: Backend, error: OSError, now: float) -> None:
        """Remember why this one did not do."""
        self._now = min(now, self._deadline)
        self._failures.append(f"{backend.text}: {reason(error)}")
        if error.errno not in ERRNO_OURS:
            self._backends.note_down(backend, now)

    def found(self, backend: Backend) -> None:
        """Remember that this one did."""
        self._backends.note_up(backend)

    def __str__(self) -> str:
        return "; ".join(self._failures)


def reason(error: OSError) -> str:
    """Say why a backend did not do."""
    if error.errno is not None:
        return describe(error)
    return str(error) or "it did not answer in time"
