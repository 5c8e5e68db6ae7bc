"""Notice TERM as an exception, so that what it cuts short ends by a reset.

The rule of the file: the process still dies by the signal, as whoever sent it expects.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from collections.abc import Iterator


class Stopped(BaseException):
    """TERM has come. No Exception: nobody is to take it for a failure of his own."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn TERM into Stopped inside of this."""
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def die() -> None:
    """End by TERM."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def _stop(_number: int, _frame: object) -> None:
    # Once: a second one must not interrupt what the first has begun to end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped
