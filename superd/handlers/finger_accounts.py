"""Say which accounts the world may hear of, and what.

The rule of the file: unknown, hidden and system accounts are one and the same None, so
that no answer tells which it was.
"""

from __future__ import annotations

import os
import pwd
from typing import Final, NamedTuple

_NOBODY: Final = 65534
"""The kernel's overflow uid; no person has it."""


class Account(NamedTuple):
    """What superd itself tells of an account: the least RFC 1288 2.5.2 asks for."""

    login: str
    full_name: str


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
    return Account(entry.pw_name, full_name(entry.pw_gecos, entry.pw_name))


def hides(home: str) -> bool:
    """Tell whether a user hides from finger(1), by ~/.nofinger; no link is followed."""
    return os.path.lexists(os.path.join(home, ".nofinger"))


def full_name(gecos: str, login: str) -> str:
    """Take the name out of a GECOS field: up to the first comma, & is the login."""
    name = gecos.partition(",")[0].strip()
    return name.replace("&", login.capitalize())


def describe(account: Account) -> bytes:
    """Write an account as finger(1) begins its answer."""
    left = f"Login: {account.login}"
    return f"{left:<40}Name: {account.full_name}\n".encode("utf-8", "surrogateescape")
