"""Measure a server with all its processes: CPU time and memory.

The rule of the file: a server is a set of processes that a control group keeps, for
nothing else counts them all. A handler that has come and gone between two looks, and a
daemon that has forked away from who started it, are in the group's cpu.stat, in
microseconds (cgroups v2, cpu.stat; it needs no controller). Where no group can be made the
sum of /proc has to do: the living, each with the children that it has reaped, in ticks of
10 ms; what died unreaped or is nobody's child any more is missing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
QUIET_S = 0.001
GONE = (FileNotFoundError, ProcessLookupError)
"""What reading of /proc says about a process that has just ended."""


def find_groups() -> Path | None:
    """Find where control groups v2 are mounted; None without them."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    return None


class Tree:
    """The processes of one server. `wrap` its command, start that, then call `began`."""

    def __init__(self, name: str) -> None:
        self._root = 0
        self._group: Path | None = None
        groups = find_groups()
        if groups is not None:
            group = groups / f"superd-bench-{os.getpid()}-{name}"
            with contextlib.suppress(PermissionError, OSError):
                group.mkdir()
                self._group = group

    @property
    def is_exact(self) -> bool:
        """Whether a control group counts, not /proc."""
        return self._group is not None

    def wrap(self, command: list[str]) -> list[str]:
        """Give the command that enters the group before it becomes `command`."""
        if self._group is None:
            return command
        enter = 'echo $$ > "$0" && exec "$@"'
        return ["sh", "-c", enter, str(self._group / "cgroup.procs"), *command]

    def began(self, pid: int) -> None:
        """Take note of the first process."""
        self._root = pid

    def pids(self) -> list[int]:
        """List the living processes."""
        if self._group is not None:
            text = (self._group / "cgroup.procs").read_text()
            return [int(word) for word in text.split()]
        parents = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(*GONE):
                parents[int(folder.name)] = int(_stat(int(folder.name))[1])
        found = [self._root]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def cpu(self) -> float:
        """Add up the seconds, user and system, of all that ever lived in the tree."""
        if self._group is not None:
            text = (self._group / "cpu.stat").read_text()
            stat = dict(line.split() for line in text.splitlines())
            return int(stat["usage_usec"]) / 1e6
        total = 0.0
        for pid in self.pids():
            with contextlib.suppress(*GONE):
                total += TICK * sum(int(word) for word in _stat(pid)[11:15])
        return total

    def settle(self, seconds: float, still: float = 0.05) -> None:
        """Wait until the tree was idle for `still` seconds, at most `seconds` in all.

        The end of a connection is a part of its cost, and may come after the answer.
        """
        until = time.monotonic() + seconds
        before = self.cpu()
        since = time.monotonic()
        while time.monotonic() < until:
            time.sleep(0.05)
            after = self.cpu()
            if after - before >= QUIET_S:
                since = time.monotonic()
            elif time.monotonic() - since >= still:
                return
            before = after

    def pss(self) -> float:
        """Add up the proportional set size, in MiB: shared pages are counted once."""
        return sum(read_kib(pid, "smaps_rollup", "Pss") for pid in self.pids()) / 1024

    def close(self) -> None:
        """Kill what is left, and remove the group."""
        until = time.monotonic() + 10
        while self._group is not None:
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                self._group.rmdir()
            except OSError:  # EBUSY: they are still dying
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
            else:
                self._group = None


def _stat(pid: int) -> list[str]:
    """Read the words of /proc/PID/stat that follow the name: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def read_kib(pid: int, file: str, key: str) -> int:
    """Read one number of /proc/PID/status or smaps_rollup; 0 for a process that is gone."""
    with contextlib.suppress(*GONE):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0])
    return 0
