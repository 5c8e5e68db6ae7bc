"""Run the compile child: the configuration's text goes in, a plan comes out.

The child may crash, hang or eat memory: it has limits of its own, a deadline here, and a
bound on what we take from it. What comes out is data of our own program, checked for its
version and shape by those who use it.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from superd.master.kernel import Kernel

DEADLINE = 20.0
HIGH_FD = 10
VERSION = 1
"""The plan's format that this master reads (superd/README.md)."""

MAX_PLAN = 64 << 20
"""Bytes: 10,000 services make about 10 MiB."""


class Result(NamedTuple):
    """What the compile child said."""

    plan: dict[str, Any] | None
    errors: list[str]
    warnings: list[str]


def compile_argv(arguments: list[str]) -> list[str]:
    """Give the command line of the compile child.

    -I and -S: nothing from the environment or the working directory is imported. The
    import path is ours, spelled out, because without site there is none.
    """
    code = (
        "import sys; sys.path[:0] = sys.argv.pop(1).splitlines(); "
        "from superd.config.compile import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-I", "-S", "-c", code, import_path(), *arguments]


def import_path() -> str:
    """Our own import path, a line each, ours first.

    Without what Python puts before it unasked (the working directory for -m, the folder
    of the script otherwise): a yaml.py that somebody left there is not for root.
    """
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    inherited = sys.path if sys.flags.safe_path else sys.path[1:]
    return "\n".join(dict.fromkeys([here, *(entry for entry in inherited if entry)]))


class CompileChild:
    """One run of the compile child; poll `fileno` and call `read` until it returns."""

    def __init__(self, kernel: Kernel, arguments: list[str], now: float) -> None:
        self.until = now + DEADLINE
        self.reaped = False
        """It was waited for: its pid may be somebody else's by now."""
        self._data = bytearray()
        self._read, write = kernel.pipe()
        os.set_blocking(self._read, False)
        target = write
        argv = compile_argv(arguments)
        try:
            target = kernel.dup(write, HIGH_FD)
            self.pid = kernel.spawn(
                argv,
                os.environ,
                [
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, target, 1),
                ],
                setpgroup=0,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError:
            os.close(self._read)
            raise
        finally:
            for fd in {write, target}:
                os.close(fd)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._read

    def read(self) -> bool:
        """Take what is there; True: that was all."""
        while True:
            try:
                data = os.read(self._read, 1 << 16)
            except BlockingIOError:
                return False
            if not data or len(self._data) > MAX_PLAN:
                return True
            self._data += data

    def kill(self) -> None:
        """End it: it is late."""
        if self.reaped:
            return
        try:
            os.kill(self.pid, signal.SIGKILL)
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise

    def close(self) -> None:
        """Let go of the pipe."""
        os.close(self._read)

    def result(self) -> Result:
        """Read the answer; whatever is not one is an error that says so."""
        try:
            raw = json.loads(bytes(self._data))
            plan = raw["plan"]
            lines = [[str(line) for line in raw[key]] for key in ("errors", "warnings")]
            if plan is None or plan["version"] == VERSION:
                return Result(plan, *lines)
            text = "the compile child's plan is of another version"
        except (ValueError, KeyError, TypeError, RecursionError):
            text = "the configuration could not be compiled: the compile child "
            text += "was ended" if not self._data else "gave no plan"
        return Result(None, [f"superd: {text}"], [])


def run_compile(kernel: Kernel, arguments: list[str], now: float) -> Result:
    """Run the compile child to its end: at the start, when nothing else is served yet."""
    child = CompileChild(kernel, arguments, now)
    os.set_blocking(child.fileno(), True)
    child.read()  # the child's own alarm bounds this
    child.close()
    os.waitpid(child.pid, 0)
    return child.result()
