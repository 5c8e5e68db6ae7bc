"""Find out who still holds a socket, from /proc.

The launcher keeps a descriptor of every connection so that the close can linger
(linger.py). The price: the peer would not see the end of a connection whose handler closed
it and lives on. So these questions are asked once a second, and cost one readlink for a
handler that simply still has its fd 0.
"""

from __future__ import annotations

import errno
import os

ERRNO_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


def socket_id(fd: int) -> str:
    """Name the socket behind a descriptor as /proc names it."""
    return f"socket:[{os.fstat(fd).st_ino}]"


def holds_still(pid: int, sock: str) -> bool:
    """Say whether a handler itself still has the socket; True where it cannot be seen."""
    folder = f"/proc/{pid}/fd"
    try:
        for fd in ("0", "1"):
            try:
                if os.readlink(f"{folder}/{fd}") == sock:
                    return True
            except FileNotFoundError:
                continue
        return _has(folder, sock)
    except PermissionError:
        return True  # a set-user-ID program: its descriptors are its own business
    except (FileNotFoundError, ProcessLookupError):
        # It has just ended, and until it is reaped its folder is there; or it is hidden
        # from us (hidepid, and it changed its user), or there is no /proc at all.
        return _is_ours(pid) and not os.path.exists(f"/proc/{pid}")
    except OSError as error:
        if error.errno not in ERRNO_NO_DESCRIPTOR:
            raise
        return True  # a folder cannot be opened just now: the next look will tell


def holds_besides(pid: int, sock: str, own: int) -> bool:
    """Say whether a process has more than `own` descriptors of a socket.

    True where it cannot be seen.
    """
    folder = f"/proc/{pid}/fd"
    found = 0
    try:
        for fd in ("0", "1", *os.listdir(folder)):
            try:
                found += os.readlink(f"{folder}/{fd}") == sock
            except FileNotFoundError:
                continue
            if found > own:
                return True
    except OSError:
        return True
    return False


def held_by_others(socks: set[str]) -> set[str]:
    """Look through every process we may look into, ourselves left out.

    Where we have no descriptor left to look with, or no /proc, all count as held.
    """
    if not can_look():
        return socks
    try:
        held = _look(socks)
        # Once more for the rest: the first look misses a process that was forked behind
        # it and a descriptor that moves, as those of a handler do while it starts.
        return held | _look(socks - held) if socks - held else held
    except OSError as error:
        if error.errno not in ERRNO_NO_DESCRIPTOR:
            raise
        return socks


def _look(socks: set[str]) -> set[str]:
    held: set[str] = set()
    me = str(os.getpid())
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or pid == me:
            continue
        folder = f"/proc/{pid}/fd"
        try:
            fds = os.listdir(folder)
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
        for fd in fds:
            try:
                target = os.readlink(f"{folder}/{fd}")
            except (PermissionError, FileNotFoundError, ProcessLookupError):
                continue
            if target in socks:
                held.add(target)
    return held


def can_look() -> bool:
    """Say whether there is a /proc."""
    return os.path.lexists("/proc/self")


def children() -> set[int]:
    """List our children, zombies as well; none where the kernel does not tell."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return set()  # the /proc of another PID namespace: its numbers are not ours
        fd = os.open("/proc/thread-self/children", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = b""
            while piece := os.read(fd, 1 << 16):
                text += piece
        finally:
            os.close(fd)
        return set(map(int, text.split()))
    except OSError:
        return set()


def group_lives(pid: int) -> bool:
    """Say whether a reaped handler left processes of its group behind."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_ours(pid: int) -> bool:
    """Say whether it is a child of ours that is not reaped: its pid is its own."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _has(folder: str, sock: str) -> bool:
    for fd in os.listdir(folder):
        try:
            if os.readlink(f"{folder}/{fd}") == sock:
                return True
        except FileNotFoundError:
            continue
    return False
