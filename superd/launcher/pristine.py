"""Put a pool worker back into the state in which its first connection found it.

Everything here costs on every connection, so it asks before it acts: the standard streams
are made anew only when they were used, a signal is set only when it is not as it was.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, TextIO

from superd.launcher.stage import on_sockets

if TYPE_CHECKING:
    from superd.launcher.spec import Spec

_signal: Any = importlib.import_module("_signal")
"""What signal wraps: signal.getsignal makes an enum of each answer, in 1.5 us, and each
of 62 signals is asked for after every connection."""

_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


class _Raw(io.FileIO):
    """A descriptor that knows whether anybody has read or written through it."""

    used = False

    def readinto(self, buffer: Any) -> int | None:
        self.used = True
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self.used = True
        return super().readall()

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        self.used = True
        return super().write(data)


class _Text(io.TextIOWrapper):
    """A text stream that counts as used when its settings were changed."""

    def reconfigure(self, *args: Any, **keys: Any) -> None:
        self.buffer.raw.used = True  # type: ignore[attr-defined]
        super().reconfigure(*args, **keys)


class _Stream:
    """One of the standard streams, made when needed and known to be fresh."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._raw, self.text = self._make()

    def _make(self) -> tuple[_Raw, TextIO]:
        raw = _Raw(self._fd, "r" if self._fd == 0 else "w", closefd=False)
        if self._fd == 0:
            return raw, _Text(io.BufferedReader(raw), errors="replace")
        lines = self._fd == 2  # noqa: PLR2004
        buffered = io.BufferedWriter(raw)
        errors = "backslashreplace" if lines else "strict"
        return raw, _Text(buffered, errors=errors, line_buffering=lines)

    def renew(self, current: object) -> None:
        """Make it anew unless `current` is it, unused and unchanged."""
        if current is self.text and not self._raw.used and not self.text.closed:
            return
        # What it still holds was for a peer that is gone. Closed like this it writes
        # nothing, neither now nor when it is collected.
        self._raw.close()
        self._raw, self.text = self._make()


class Pristine:
    """What a worker looks like before a connection."""

    def __init__(self, spec: Spec, directory: int) -> None:
        self._directory = directory
        self._umask = spec.umask
        self._argv = [spec.handler, *spec.argv]
        self._signals = [(int(one), _signal.getsignal(one)) for one in _SIGNALS]
        self._environ = os.environ
        self._environment = dict(os.environ)
        self._encoded = self._raw_environment()
        with on_sockets():
            self._streams = tuple(_Stream(fd) for fd in range(3))
        self._install()

    def _install(self) -> None:
        stdin, stdout, stderr = self._streams
        sys.stdin, sys.stdout, sys.stderr = stdin.text, stdout.text, stderr.text
        # The spare ones as well: what is left in their buffers would be the next peer's.
        spare: Any = sys
        spare.__stdin__, spare.__stdout__ = stdin.text, stdout.text
        spare.__stderr__ = stderr.text

    def prepare(self, environment: dict[str, str]) -> None:
        """Give the handler its streams, arguments and environment."""
        sys.argv = list(self._argv)
        before = self._environment
        for name, value in environment.items():
            if before.get(name) != value:
                os.environ[name] = value
        if before.keys() != environment.keys():
            for name in before.keys() - environment.keys():
                del os.environ[name]
        self._environment = environment
        self._encoded = self._raw_environment()

    def _raw_environment(self) -> dict[bytes, bytes]:
        """Copy what os.environ holds.

        Its own dictionary, where it has one as CPython's has: through the mapping each
        name and value is decoded, and that costs ten times as much.
        """
        data = getattr(os.environ, "_data", None)
        if isinstance(data, dict):
            return data.copy()
        return dict(os.environb)

    def restore(self) -> bool:
        """Undo what a handler may have done; False: it left what cannot be undone."""
        os.umask(self._umask)
        os.fchdir(self._directory)
        for kind in _TIMERS:
            signal.setitimer(kind, 0.0)
        for number, action in self._signals:
            if _signal.getsignal(number) is not action:
                signal.signal(number, action)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for stream, current in zip(
            self._streams, (sys.stdin, sys.stdout, sys.stderr), strict=True
        ):
            stream.renew(current)
        self._install()
        os.environ = self._environ  # noqa: B003  it is the true one, not another
        if self._raw_environment() != self._encoded:
            self._environment = dict(os.environ)  # prepare() compares with it
        threading = sys.modules.get("threading")
        return threading is None or threading.active_count() <= 1
