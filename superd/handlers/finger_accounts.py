"""Say which accounts the world may hear of, and what.

The rule of the file: unknown, hidden and system accounts are one and the same None, so
that no answer tells which it was.
"""

from __future__ import annotations

import os
import pwd
from typing import Final, NamedTuple

from superd.handlers import stdio
from superd.handlers.finger_logins import logins
from superd.handlers.finger_texts import (
    ERRNO_NOT_TOLD,
    folder,
    is_open_to_all,
    read_text,
)
from superd.handlers.run import describe as describe_error

_NOBODY: Final = 65534
"""The kernel's overflow uid; no person has it."""

TEXT_BYTES: Final = 16384
"""Bytes told of one file in a home: four screens of a .plan are many."""

PROJECT: Final = ".project"


class Account(NamedTuple):
    """What superd itself tells of an account: the least RFC 1288 2.5.2 asks for."""

    login: str
    full_name: str
    uid: int = -1
    home: str = ""


def find(name: str, min_uid: int) -> Account | None:
    """Look up a login name; None if there is nobody to tell of."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    # LDAP and others match without case; the answer is about the name asked for.
    if entry.pw_name != name or entry.pw_uid < min_uid or entry.pw_uid == _NOBODY:
        return None
    if hides(entry.pw_dir):
        return None
    told = full_name(entry.pw_gecos, entry.pw_name)
    return Account(entry.pw_name, told, entry.pw_uid, entry.pw_dir)


def hides(home: str) -> bool:
    """Tell whether a user hides from finger(1), by ~/.nofinger; no link is followed."""
    return os.path.lexists(os.path.join(home, ".nofinger"))


def full_name(gecos: str, login: str) -> str:
    """Take the name out of a GECOS field: up to the first comma, & is the login."""
    name = gecos.partition(",")[0].strip()
    return name.replace("&", login.capitalize())


def tell(name: str, min_uid: int, *, plans: bool, long: bool) -> bytes | None:
    """Write all that is told of a login name; None if there is nobody to tell of."""
    account = find(name, min_uid)
    if account is None:
        return None
    return describe(account) + (texts_of(account, long=long) if plans else b"")


def describe(account: Account) -> bytes:
    """Write an account as finger(1) begins its answer."""
    left = f"Login: {account.login}"
    return f"{left:<40}Name: {account.full_name}\n".encode("utf-8", "surrogateescape")


def texts_of(account: Account, *, long: bool) -> bytes:
    """Write what a user has put into the files of finger(1), as finger(1) does.

    The first line of .project, the whole of .plan, and for /W of .pgpkey.
    """
    if not account.home.startswith("/"):
        return b""
    titles = {PROJECT: b"Project: ", ".plan": b"Plan:\n"}
    if long:
        titles[".pgpkey"] = b"PGP key:\n"
    told = b""
    try:
        with folder(account.home) as fd:
            # A home closed to others closes what is in it, also where we are root.
            if not is_open_to_all(fd):
                return b""
            for name, title in titles.items():
                text = read_text(fd, name, TEXT_BYTES, account.uid)
                if text and name == PROJECT:
                    text = text.partition(b"\n")[0]
                if text:
                    told += title + text.removesuffix(b"\n") + b"\n"
    except OSError as error:
        # Login and name are told all the same: the home may be on another machine.
        if error.errno not in ERRNO_NOT_TOLD:
            stdio.log(f"finger: the home of {account.login}: {describe_error(error)}")
    return told


def tell_logins(min_uid: int) -> bytes:
    """List who is logged in, of those the world may hear of (RFC 1288 2.5.1)."""
    known: dict[str, Account | None] = {}
    lines = [f"{'Login':<16} {'Name':<30} Tty"]
    for login in logins():
        if login.name not in known:
            known[login.name] = find(login.name, min_uid)
        account = known[login.name]
        if account is not None:
            lines.append(f"{account.login:<16} {account.full_name:<30} {login.line}")
    if len(lines) == 1:
        return b"No one logged on.\n"
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
