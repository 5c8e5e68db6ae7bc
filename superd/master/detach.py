"""Detach with python-daemon, and let the parent tell how it went.

python-daemon's parent leaves with 0 before anything is known, its default streams come
out close-on-exec, and its defaults for core limit, signals and umask are inherited by
every handler. So: one fork before it, whose parent waits for a verdict on a pipe; explicit
streams; everything else switched off.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn


class Verdict:
    """The daemon's end of the pipe: one word to the parent, once."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def give(self, status: int, text: str = "") -> None:
        """Tell the parent its exit status and what to print."""
        if self._fd is not None:
            os.write(self._fd, f"{status} {text}".encode())
            os.close(self._fd)
            self._fd = None


def detach(keep: list[int]) -> Verdict:
    """Become a daemon; returns in the daemon only. `keep` are descriptors to keep."""
    import daemon  # noqa: PLC0415  only -d needs it, and it is large

    read, write = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(write)
        _await(read)
    os.close(read)
    null = [open(os.devnull, mode) for mode in ("r", "w", "w")]  # noqa: SIM115
    daemon.DaemonContext(
        detach_process=True,
        umask=0o022,
        working_directory="/",
        prevent_core=False,
        signal_map={},
        stdin=null[0],
        stdout=null[1],
        stderr=null[2],
        files_preserve=[*keep, write],
    ).open()
    return Verdict(write)


def _await(fd: int) -> NoReturn:
    """Be the parent: wait for the verdict, or for the end of whoever owes it."""
    with os.fdopen(fd, "rb") as pipe:
        word = pipe.read().decode("utf-8", "replace")
    status, _, text = word.partition(" ")
    if not status.isdigit():
        status, text = str(os.EX_SOFTWARE), "superd: ended before it was ready"
    if text:
        print(text, file=sys.stderr, flush=True)
    os._exit(int(status))
