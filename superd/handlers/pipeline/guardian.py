"""Hold a program's stdin open while we live, and see to it that it dies before it closes.

A process that is killed closes its files first and signals its children afterwards
(do_exit: exit_files, then exit_notify), so PR_SET_PDEATHSIG comes too late: for a moment
the program sees the end of its input, and a `sort > file` writes half a text as if it
were all. So the pipe has a second holder, a process that waits for our end.

The rule of the file: the guardian has the pipe, the line to us and nothing else; a socket
in its hands would never be reset by our close.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import Final

_ALL_IS_WELL: Final = b"."


class Guardian:
    """Guards the stdin of one program, from its start to `dismiss`."""

    def __init__(self, program: int, pidfd: int, stdin: int) -> None:
        read, self._line = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if not self._pid:
            try:
                _guard(program, {read, pidfd, stdin}, read, pidfd)
            finally:
                os._exit(0)
        os.close(read)

    def dismiss(self) -> None:
        """Let the pipe go: its end is a true one now, or nobody is left to see it."""
        if self._pid:
            with suppress(BrokenPipeError):  # somebody has killed it
                os.write(self._line, _ALL_IS_WELL)
            os.close(self._line)
            os.waitpid(self._pid, 0)
            self._pid = 0


def _guard(program: int, kept: set[int], line: int, pidfd: int) -> None:
    # Of no group that anybody signals together with us or the program.
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in kept:
            with suppress(OSError):  # EBADF: the one that listed the folder
                os.close(fd)
    if os.read(line, 1) == _ALL_IS_WELL:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(program, signal.SIGKILL)
    # Its end, not its being about to end, is what the pipe must outlive.
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.poll()
