"""Find out whom a service runs as: names to numbers, and who superd is itself.

Identities are looked up here, in the compile child, for a look-up may ask a directory
server; the launcher gets numbers.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from superd.config.problems import ConfigError, show

if TYPE_CHECKING:
    from collections.abc import Mapping

NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Situation:
    """What the answer depends on besides the text."""

    root: bool = field(default_factory=lambda: os.geteuid() == 0)
    default_user: str = NOBODY
    check: bool = False
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user with exactly these groups."""

    user: str
    uid: int
    gid: int
    groups: tuple[int, ...]


class Lookup:
    """Users and groups by name or number, each asked for once."""

    def __init__(self) -> None:
        self._users: dict[str, pwd.struct_passwd | None] = {}
        self._groups: dict[str, grp.struct_group | None] = {}

    def user(self, name: str) -> pwd.struct_passwd | None:
        """The entry of a user, or None where there is none."""
        if name not in self._users:
            try:
                self._users[name] = (
                    pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
                )
            except (KeyError, ValueError, OverflowError):
                self._users[name] = None
        return self._users[name]

    def uid(self, name: str) -> int:
        """A user's number; raises ConfigError."""
        if entry := self.user(name):
            return entry.pw_uid
        if name.isdecimal():
            return int(name)
        raise ConfigError(
            f"no user {show(name)} on this system; create it or name another"
        )

    def gid(self, name: str) -> int:
        """A group's number; raises ConfigError."""
        if name not in self._groups:
            try:
                self._groups[name] = None if name.isdecimal() else grp.getgrnam(name)
            except (KeyError, ValueError):
                self._groups[name] = None
        if entry := self._groups[name]:
            return entry.gr_gid
        if name.isdecimal():
            return int(name)
        raise ConfigError(
            f"no group {show(name)} on this system; create it or name another"
        )

    def primary_gid(self, user: str) -> int:
        """The number of a user's own group; raises ConfigError."""
        if entry := self.user(user):
            return entry.pw_gid
        raise ConfigError(
            f"user {user} is not in the system's list, so its group is unknown; "
            "give the group too"
        )

    def user_name(self, uid: int) -> str:
        """A user's name, or the number where it has none."""
        entry = self.user(str(uid))
        return entry.pw_name if entry else str(uid)

    def group_name(self, gid: int) -> str:
        """A group's name, or the number where it has none."""
        try:
            return grp.getgrgid(gid).gr_name
        except (KeyError, OverflowError):
            return str(gid)
