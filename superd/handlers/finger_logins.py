"""Read who is logged in, from utmp(5), or where there is none from logind.

The rule of the file: utmp may be torn, stale or somebody's invention. It is read once, so
much of it and no more, and what is no whole record is no login.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH: Final = "/run/utmp"
MOST_BYTES: Final = 1 << 20
"""2,730 logins; a file that is longer is no utmp any more."""

# glibc: ut_type, ut_pid, ut_line, ut_id, ut_user; what follows is of no use here.
_HEAD: Final = struct.Struct("=hxxi32s4s32s")
_USER_PROCESS: Final = 7
_WIDE: Final = frozenset({"aarch64", "riscv64", "loongarch64"})
"""Machines whose utmp never had 32-bit times (glibc __WORDSIZE_TIME64_COMPAT32 is 0)."""
RECORD: Final = 400 if os.uname().machine in _WIDE else 384


class Login(NamedTuple):
    """One session: whose, and on what terminal."""

    name: str
    line: str


def logins(path: str = PATH) -> list[Login]:
    """Return the sessions there are; logind's where no utmp is kept."""
    try:
        with open(path, "rb") as file:
            return list(parse_logins(file.read(MOST_BYTES)))
    except FileNotFoundError:
        pass
    try:
        # Loaded for this question alone: ctypes is slow, and there are Pythons without.
        from superd.handlers import finger_logind  # noqa: PLC0415
    except ImportError:
        return []
    return finger_logind.logins()


def parse_logins(data: bytes) -> Iterator[Login]:
    """Read records one after the other."""
    for start in range(0, len(data) - RECORD + 1, RECORD):
        kind, _pid, line, _id, name = _HEAD.unpack_from(data, start)
        if kind == _USER_PROCESS and name[:1] != b"\0":
            yield Login(text_of(name), text_of(line))


def text_of(field: bytes) -> str:
    """Decode a field up to its NUL; what is not ASCII is nobody's name."""
    return field.partition(b"\0")[0].decode("ascii", "replace")
