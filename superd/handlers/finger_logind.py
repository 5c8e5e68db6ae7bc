"""Read who is logged in, from logind, where no utmp is kept (Debian 13 has none).

The rule of the file: logind may be away, and libsystemd with it; then nobody is known to
be logged in. Only the question for a list loads this, because ctypes is no light start.
"""

from __future__ import annotations

import ctypes
import pwd
from typing import Final

from superd.handlers.finger_logins import Login, text_of

LIBRARY: Final = "libsystemd.so.0"
PEOPLE: Final = frozenset(
    {b"user", b"user-early", b"user-light", b"user-early-light"}  # systemd 256, 257
)
"""Classes of a person's session: others are of greeters, of cron, of a user's manager."""

HERE: Final = frozenset({b"online", b"active"})
"""Not opening; and closing is that of somebody who has left something running."""

MOST: Final = 2730
"""Sessions that are looked at: as many as are read of utmp."""

NO_TTY: Final = "?"
"""The terminal of a session that has none, as in ps(1): sshd opens it before its own."""


def logins(library: str = LIBRARY) -> list[Login]:
    """Return the sessions of people; none where no logind tells."""
    try:
        sessions = _Sessions(ctypes.CDLL(library))
    except (OSError, AttributeError):  # no such library, or not with these calls
        return []
    found = []
    for session in sessions.names():
        kind, state = sessions.ask("class", session), sessions.ask("state", session)
        if kind not in PEOPLE or state not in HERE:
            continue
        name = sessions.user(session)
        if name is not None:
            tty = sessions.ask("tty", session)
            found.append(Login(name, text_of(tty) if tty else NO_TTY))
    return found


class _Sessions:
    """The few calls of sd-login(3). What they give is allocated, and freed here."""

    def __init__(self, systemd: ctypes.CDLL) -> None:
        self._list = systemd.sd_get_sessions
        self._list.argtypes = [ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p))]
        self._ask = {}
        for what in ("class", "state", "tty"):
            call = getattr(systemd, f"sd_session_get_{what}")
            call.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)]
            self._ask[what] = call
        # Not sd_session_get_username: it came with systemd 254.
        self._user = systemd.sd_session_get_uid
        self._user.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint32)]
        self._free = ctypes.CDLL(None).free
        self._free.argtypes = [ctypes.c_void_p]
        self._free.restype = None

    def names(self) -> list[bytes]:
        """List the sessions there are now."""
        found = ctypes.POINTER(ctypes.c_void_p)()
        count = self._list(ctypes.byref(found))
        names = [self._take(found[number]) for number in range(max(0, count))]
        self._free(ctypes.cast(found, ctypes.c_void_p))
        return names[:MOST]

    def ask(self, what: str, session: bytes) -> bytes | None:
        """Ask for one thing; None where it is not known, or the session has gone."""
        value = ctypes.c_void_p()
        if self._ask[what](session, ctypes.byref(value)) < 0:
            return None
        return self._take(value.value) if value.value else None

    def user(self, session: bytes) -> str | None:
        """Say whose it is; None where the session has gone, or the user."""
        uid = ctypes.c_uint32()
        if self._user(session, ctypes.byref(uid)) < 0:
            return None
        try:
            return pwd.getpwuid(uid.value).pw_name
        except KeyError:
            return None

    def _take(self, address: int) -> bytes:
        text: bytes = ctypes.string_at(address)
        self._free(address)
        return text
