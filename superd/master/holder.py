"""Find out from /proc who listens on an address that we wanted.

Looks at every process; called when superd cannot start, never while it serves.
"""

from __future__ import annotations

import os
from typing import Any

_LISTEN = "0A"


def who_holds(spec: dict[str, Any]) -> str:
    """Name the processes: `nginx (pid 812)`; "" where /proc does not tell."""
    inodes = _inodes(spec)
    if not inodes:
        return ""
    found = []
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            fds = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue  # another user's process, or one that has just ended
        if any(_link(pid, fd) in inodes for fd in fds):
            found.append(f"{_comm(pid)} (pid {pid})")
    return ", ".join(sorted(found))


def _inodes(spec: dict[str, Any]) -> set[str]:
    if spec["family"] == "unix":
        return {
            f"socket:[{words[6]}]"
            for words in _table("unix")
            if " ".join(words[7:]) == spec["path"]
        }
    proto = "tcp" if spec["type"] == "stream" else "udp"
    port = f"{spec['port']:04X}"
    return {
        f"socket:[{words[9]}]"
        for table in (proto, f"{proto}6")
        for words in _table(table)
        if words[1].endswith(f":{port}") and (proto == "udp" or words[3] == _LISTEN)
    }


def _table(name: str) -> list[list[str]]:
    try:
        with open(f"/proc/net/{name}", encoding="ascii", errors="replace") as file:
            return [line.split() for line in file.readlines()[1:]]
    except OSError:
        return []  # no /proc, or no such family


def _link(pid: str, fd: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return ""


def _comm(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"
