"""Ask whether a service's user can reach what it needs, as that user.

Root may do everything, so root cannot tell: a grandchild takes on the identity and asks
the kernel. Permission bits alone would miss access lists and a closed folder above.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.config.identity import Identity
    from superd.config.problems import Path, Place

FIRST_LINE = 256
"""As much of a script as the kernel reads for its #! line."""


@dataclass(frozen=True, slots=True)
class Want:
    """One thing to be reached, and where the operator asked for it."""

    place: Place
    key: Path
    purpose: Literal["become", "run", "enter", "import"]
    path: str
    identity: Identity | None


def unreachable(wants: Sequence[Want]) -> list[tuple[Want, str]]:
    """The wants that cannot be had, each with the reason."""
    by_identity: dict[Identity | None, list[Want]] = {}
    for want in wants:
        by_identity.setdefault(want.identity, []).append(want)
    found: list[tuple[Want, str]] = []
    for identity, group in by_identity.items():
        if identity is None or (identity.uid == 0 and os.geteuid() == 0):
            answers = [_trouble(want) for want in group]
        else:
            answers = _ask_as(identity, group)
        found.extend(
            (want, text) for want, text in zip(group, answers, strict=True) if text
        )
    return found


def _ask_as(identity: Identity, wants: Sequence[Want]) -> list[str]:
    """The answers of a child that has become the user."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read_fd)
            answers = _become_and_ask(identity, wants)
            with os.fdopen(write_fd, "wb") as pipe:
                pipe.write(json.dumps(answers).encode())
            status = 0
        finally:
            # Whatever happened, this process must not return into the caller's code.
            os._exit(status)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    try:
        return [str(answer) for answer in json.loads(data)]
    except ValueError:
        return _once(f"could not be looked at as {identity.user}", wants)


def _become_and_ask(identity: Identity, wants: Sequence[Want]) -> list[str]:
    try:
        os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as error:
        text = f"superd cannot become {identity.user}: {_reason(error)}"
        if error.errno == errno.EPERM:
            text += "; give it CAP_SETUID and CAP_SETGID, or name its own user"
        return _once(text, wants)
    return [_trouble(want) for want in wants]


def _once(text: str, wants: Sequence[Want]) -> list[str]:
    """What is true for all of them, told of the first."""
    return [text] + [""] * (len(wants) - 1)


def _trouble(want: Want) -> str:
    """Why this process cannot reach it, or nothing."""
    who = want.identity.user if want.identity else "superd's user"
    path = want.path
    if want.purpose == "become":
        return ""
    try:
        status = os.stat(path)
    except PermissionError:
        return _closed(want, who)
    except OSError as error:
        return _absent(path, error)
    except ValueError:
        return f"'{path!a}' is no path; it holds a NUL character"
    is_folder = stat.S_ISDIR(status.st_mode)
    if want.purpose == "run":
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if is_folder else "no regular file"
            return f"{path} is {kind}; name a program"
        if not os.access(path, os.X_OK):
            return f"{path} is not executable for {who}; chmod +x {path}"
        return _script_trouble(path)
    if not is_folder:
        return f"{path} is no folder; name one"
    if want.purpose == "enter":
        return "" if os.access(path, os.X_OK) else _closed(want, who)
    return "" if os.access(path, os.R_OK | os.X_OK) else _closed(want, who)


def _closed(want: Want, who: str) -> str:
    folder = want.path
    for above in _folders_above(want.path):
        if not os.access(above, os.X_OK):
            folder = above
            break
    remedy = f"chmod o+x {folder}, or let another user run the service"
    if want.purpose == "import":
        return (
            f"a Python handler needs {want.path}, and {folder} is closed to {who}; "
            f"chmod o+rx {folder}, or install superd where {who} may read"
        )
    what = "is in" if folder != want.path else "cannot be entered:"
    return f"{want.path} {what} {folder}, which is closed to {who}; {remedy}"


def _folders_above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) or "/" for count in range(1, len(parts))]


def _absent(path: str, error: OSError) -> str:
    if error.errno != errno.ENOENT:
        return f"{path} cannot be reached: {_reason(error)}"
    above = next(
        (folder for folder in _folders_above(path) if not os.path.isdir(folder)), None
    )
    if above is not None:
        return f"{path} is not there, nor is the folder {above}; check the path"
    return f"{path} is not there; check the path"


def _script_trouble(path: str) -> str:
    """Why the kernel would refuse a script: what its first line names is missing."""
    try:
        with open(path, "rb") as script:
            line = script.read(FIRST_LINE)
    except OSError:
        return ""
    if not line.startswith(b"#!"):
        return ""
    words = line[2:].split(b"\n")[0].strip(b" \t").split(b" ")
    if words[0].endswith(b"\r"):
        return f"the first line of {path} ends with CR LF; save it with LF"
    interpreter = os.fsdecode(words[0])
    if interpreter and not os.path.exists(interpreter):
        return f"the first line of {path} names {interpreter}, which is not there"
    return ""


def _reason(error: OSError) -> str:
    number = error.errno or 0
    return f"{os.strerror(number)} ({errno.errorcode.get(number, str(number))})"
