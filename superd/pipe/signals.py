"""Take signals as bytes on a descriptor, for a loop that waits in poll.

The rule of the file: a signal interrupts nothing; it is read where it can be acted on.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What asks a command to end. A shell or nohup that ignores one is not overruled."""


class Signals:
    """The signals that came, as a context that leaves all as it was."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, _noted)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, action in self._before.items():
            signal.signal(number, action)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup)
        # What came too late for this loop does what it does without one.
        for late in self.take():
            os.kill(os.getpid(), late)
        os.close(self.fd)
        os.close(self._write)

    def take(self) -> list[int]:
        """The numbers that came since the last call."""
        try:
            return list(os.read(self.fd, 64))
        except BlockingIOError:
            return []


def _noted(_number: int, _frame: object) -> None:
    """Be a handler: the wakeup descriptor has the number already."""
