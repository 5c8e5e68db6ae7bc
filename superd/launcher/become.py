"""Become the service's user, for ever, and go on to the serving half of the launcher.

Where the user changes, or capabilities are given up, the serving half is a fresh program:
nothing that root's half had in memory is in it, and /proc shows it as the user's own (a
process that merely called setuid stays root's in /proc and cannot look after its own
handlers there).

The order is that of privilege: what needs root first, then groups, gid, uid, and a proof
that there is no way back (setuid first would keep root's groups, CVE of xinetd 2.1.5).
"""

from __future__ import annotations

import os
import resource
import sys

from superd.launcher.channel import Channel
from superd.launcher.spec import CHANNEL_FD, PER_PROCESS, SPEC_FD, Spec, read_spec

_RUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run.py")
_HERITAGE = ("CapInh:", "CapAmb:")
SERVE = [sys.executable, "-I", "-S", _RUN, "serve"]


class BecomeError(Exception):
    """One stage failed; the text says which and why."""

    def __init__(self, stage: str, text: str) -> None:
        super().__init__(text)
        self.stage = stage


def main(name: str) -> None:
    """Take on everything that the spec names, then execute `run.py serve`."""
    spec = read_spec(name)
    before = os.getresuid()
    try:
        become(spec)
        if not give_up_heritage() and os.getresuid() == before:
            from superd.launcher.serve import main as serve_main  # noqa: PLC0415

            serve_main(name)
            return
        for fd in (CHANNEL_FD, SPEC_FD):
            os.set_inheritable(fd, True)
        try:
            os.execve(SERVE[0], [*SERVE, name], {"LC_CTYPE": "C.UTF-8"})
        except OSError as error:
            raise BecomeError(
                "exec",
                f"{sys.executable}: {error.strerror}; may user {spec.user} read it?",
            ) from error
    except BecomeError as error:
        Channel(CHANNEL_FD).refuse(error.stage, str(error))
        sys.exit(1)


def become(spec: Spec) -> None:
    """Take on nice, limits, umask and identity; BecomeError names the failed stage."""
    unprotect_from_oom()
    if spec.nice:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, spec.nice)
        except OSError as error:
            raise BecomeError("nice", f"{spec.nice}: {error.strerror}") from error
    set_limits(spec)
    os.umask(spec.umask)
    if spec.uid is not None and spec.gid is not None:
        set_identity(spec.uid, spec.gid, spec.groups)


def set_limits(spec: Spec) -> None:
    """Set the launcher's own limits, and raise the ceilings of the handlers' ones."""
    for name, (soft, hard) in spec.rlimits.items():
        number = getattr(resource, f"RLIMIT_{name.upper()}")
        now_soft, now_hard = resource.getrlimit(number)
        unlimited = resource.RLIM_INFINITY
        ceiling = now_hard if hard is None else hard
        try:
            if name not in PER_PROCESS:
                resource.setrlimit(number, (soft, ceiling))
            elif now_hard != unlimited and (ceiling == unlimited or ceiling > now_hard):
                resource.setrlimit(number, (now_soft, ceiling))
        except (OSError, ValueError) as error:
            raise BecomeError("rlimits", f"{name}: {soft}: {error}") from error


def set_identity(uid: int, gid: int, groups: list[int]) -> None:
    """Give up who we are: groups, gid, uid; then prove that it cannot be undone."""
    me = (os.getresuid(), os.getresgid())
    if me == ((uid,) * 3, (gid,) * 3) and uid != 0:
        return  # superd runs as this user: there is nothing to give up
    try:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise BecomeError("identity", f"uid {uid} gid {gid}: {error}") from error
    taken = (os.getresuid(), os.getresgid(), sorted(os.getgroups()))
    if taken != ((uid,) * 3, (gid,) * 3, sorted(set(groups))):
        raise BecomeError("identity", f"the system did not take it: {taken}")
    if uid != 0 and _can_return():
        raise BecomeError("identity", "root can be regained")


def _can_return() -> bool:
    try:
        os.setuid(0)
    except PermissionError:
        pass  # as it must be; now the groups
    else:
        return True
    try:
        os.setgroups([0])
    except PermissionError:
        return False
    return True


def give_up_heritage(path: str = "/proc/self/status") -> bool:
    """Clear the capabilities that programs would get from us; False: there are none.

    A unit's AmbientCapabilities= are for the ports of the master. What is effective and
    permitted goes with the exec that must follow, except for root.
    """
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            sets = [line.split()[1] for line in file if line[:7] in _HERITAGE]
    except OSError:
        return False  # no /proc: nothing is known of any
    if not any(int(one, 16) for one in sets):
        return False
    try:
        from superd.launcher.capabilities import clear_heritage  # noqa: PLC0415

        clear_heritage()
    except (ImportError, OSError, MemoryError) as error:
        raise BecomeError("identity", f"capabilities: {error}") from error
    return True


def unprotect_from_oom(path: str = "/proc/self/oom_score_adj") -> None:
    """Give up a protection from the OOM killer that is meant for the master."""
    # A master with OOMScoreAdjust=-900 would make its handlers unkillable: inherited.
    try:
        with open(path, "r+", encoding="ascii") as file:
            if int(file.read()) < 0:
                file.seek(0)
                file.write("0")
    except FileNotFoundError:
        return  # no /proc: then there is nothing to inherit from a unit either
    except PermissionError:
        return  # a container's runtime owns it
