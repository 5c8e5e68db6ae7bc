"""Receive signals: the handler notes the number, a pipe wakes the main loop.

A Python signal handler runs between any two instructions; whatever it did there could
meet a half-made change. So it only adds to a set. The pipe is written by the interpreter's
C part and may be full (then the loop is awake anyway): nothing is read from its bytes.
EINTR needs no care: PEP 475 retries.
"""

from __future__ import annotations

import os
import signal

CAUGHT = (
    signal.SIGCHLD,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class SignalPipe:
    """The read end is for the selector; `take` says what came."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._came: set[int] = set()
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in CAUGHT:
            signal.signal(number, self._note)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._read

    def take(self) -> set[int]:
        """Return the signals that came, each once: they coalesce in the kernel too."""
        while True:
            try:
                if len(os.read(self._read, 4096)) < 4096:  # noqa: PLR2004  as just said
                    break
            except BlockingIOError:
                break
        # A signal between the two halves of this line lands in the set we return.
        came, self._came = self._came, set()
        return came

    def _note(self, number: int, _frame: object) -> None:
        self._came.add(number)

    def close(self) -> None:
        """Let go of both ends."""
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)
