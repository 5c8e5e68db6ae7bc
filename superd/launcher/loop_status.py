"""Turn the end of a handler's serve() into an exit status and at most one line of log.

What handlers/run.py does around main(), for handlers that share a process: the same
statuses, the same lines, and never a traceback.
"""

from __future__ import annotations

import importlib
import os
from asyncio import CancelledError, LimitOverrunError
from typing import TYPE_CHECKING, Any

from superd.core.exitcodes import BUG, DONE, PEER, SETUP, SLOW, TEMPORARY
from superd.streams.reader import ERRNO_PEER_GONE, LineTooLong

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORST_FIRST = (BUG, SETUP, TEMPORARY, PEER, SLOW)

CAUGHT = (
    Exception,
    SystemExit,
    KeyboardInterrupt,
    BaseExceptionGroup,
    CancelledError,
)
"""What a handler can end with. Not GeneratorExit: that ends the coroutine itself."""


class Judge:
    """Knows a handler's name, and the exceptions of the handlers' own room."""

    def __init__(self, name: str) -> None:
        self._name = name
        # By name: a launcher imports no handler, and one that is not ours none of this.
        self._exits: Any = importlib.import_module("superd.handlers.exits")
        self._run: Any = importlib.import_module("superd.handlers.run")
        self._stdio: Any = importlib.import_module("superd.handlers.stdio")
        self._blame = (
            (self._exits.PeerError, PEER),
            (self._exits.TooSlow, SLOW),
            (self._exits.SetupError, SETUP),
            ((LimitOverrunError, LineTooLong), PEER),
        )

    def options(self, argv: list[str], module: Any) -> Any:
        """Parse the flags; raises what `judge` makes a status of."""
        parser: Any = importlib.import_module("superd.handlers.options")
        try:
            return parser.parse(argv, getattr(module, "OPTIONS", {}), self._name)
        except parser.HelpWanted as wish:
            raise self._exits.SetupError("--help is no option of a service") from wish

    def judge(self, error: BaseException) -> int:
        """Return the status of a handler that raised, and log what is to be said."""
        status, text = self._verdict(error)
        if text:
            self.log(text)
        return status

    def log(self, text: str) -> None:
        """Write one line to fd 2."""
        self._stdio.log(" ".join(f"{self._name}: {text}".split()))

    def unasked(self, _loop: object, context: dict[str, Any]) -> None:
        """Log what nobody awaited: the exception handler of the event loop."""
        error = context.get("exception")
        if error is None:
            self.log(str(context.get("message")))
            return
        status, text = self._verdict(error)
        if status != DONE:
            self.log(f"a task nobody waits for: {text}")

    def _verdict(self, error: BaseException) -> tuple[int, str]:
        if isinstance(error, BaseExceptionGroup):
            found = [self._verdict(one) for one in _leaves(error)]
            return min(found, key=_severity)
        if isinstance(error, (self._exits.PeerGone, ConnectionError, EOFError)):
            return DONE, ""
        for kinds, status in self._blame:
            if isinstance(error, kinds):
                return status, str(error)
        if isinstance(error, OSError):
            if error.errno in ERRNO_PEER_GONE:
                return DONE, ""
            if isinstance(error, TimeoutError):
                return SLOW, str(error) or "a deadline passed"
            return TEMPORARY, self._run.describe(error)
        if isinstance(error, SystemExit):
            return _leave(error.code)
        return BUG, f"{type(error).__name__}: {error} ({_where(error)})"


def _leave(code: object) -> tuple[int, str]:
    """Read sys.exit()'s argument as the interpreter does."""
    if code is None or isinstance(code, int):
        return (code or DONE) & 0xFF, ""
    return 1, str(code)


def _severity(verdict: tuple[int, str]) -> int:
    status = verdict[0]
    if status == DONE:
        return len(_WORST_FIRST) + 1
    return _WORST_FIRST.index(status) if status in _WORST_FIRST else len(_WORST_FIRST)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "nowhere"
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
