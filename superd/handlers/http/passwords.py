"""Check passwords against a file of hashes.

The rule of the file: an answer takes as long for a user who does not exist as for a
wrong password, and neither is written anywhere. Hashes are the business of the system's
libcrypt: bcrypt, the crypts of SHA-2, yescrypt.
"""

from __future__ import annotations

import ctypes
import hmac
import os
from typing import TYPE_CHECKING, Final

from superd.handlers import stdio
from superd.handlers.exits import SetupError
from superd.handlers.run import describe

if TYPE_CHECKING:
    from superd.handlers.http.credentials import Credentials

_KINDS: Final = (b"$2a$", b"$2b$", b"$2y$", b"$5$", b"$6$", b"$y$")
_LIBRARIES: Final = ("libcrypt.so.1", "libcrypt.so.2", "libcrypt.so")
_ROOM: Final = 1 << 18
"""Bytes of a struct crypt_data: glibc's is the largest, with 128 KiB."""
_LARGEST: Final = 1 << 20
_REMEMBERED: Final = 1024


class Passwords:
    """A file of `user:hash` lines, read again when it has changed."""

    def __init__(self, path: str, realm: str, handler: str = "httpd") -> None:
        """Read the file; the log has lines of `handler`. Raises SetupError."""
        if not realm.isascii() or not realm.isprintable() or set(realm) & set('"\\'):
            raise SetupError(f"option --auth.realm: {realm!r} cannot be put in quotes")
        self._path = path
        self._handler = handler
        self.challenge = f'Basic realm="{realm}", charset="UTF-8"'
        self._crypt = _crypt()
        # Not a password is kept for those who come again, but what only this process
        # can make of it.
        self._key = os.urandom(32)
        self._seen: dict[bytes, bytes] = {}
        self._state: tuple[int, int, int] | None = None
        try:
            self._hashes, wrong = self._read()
        except OSError as error:
            raise SetupError(f"option --auth.file: {describe(error)}") from None
        if wrong:
            raise SetupError(f"option --auth.file: {path}: {wrong[0]}")

    def knows(self, who: Credentials) -> bool:
        """Tell whether this password was found right already, and still is."""
        self._refresh()
        good = self._hashes.get(who.user)
        return good is not None and self._seen.get(self._mark(who)) == good

    def check(self, who: Credentials) -> bool:
        """Tell whether the password is right. It takes as long as a hash does."""
        good = self._hashes.get(who.user)
        # Somebody's, so that nobody can tell users from others by the time.
        setting = good or next(iter(self._hashes.values()), b"")
        hashed = self._crypt(who.password, setting) if setting else b""
        if good is None or not hmac.compare_digest(hashed, good):
            return False
        if len(self._seen) >= _REMEMBERED:
            self._seen.clear()
        self._seen[self._mark(who)] = good
        return True

    def _mark(self, who: Credentials) -> bytes:
        text = b"%d:%b:%b" % (len(who.user), *who)
        return hmac.digest(self._key, text, "sha256")

    def _refresh(self) -> None:
        try:
            if _state_of(os.stat(self._path)) == self._state:
                return
            self._hashes, wrong = self._read()
        except OSError as error:
            # Nobody, rather than those who were in it.
            self._hashes, wrong, self._state = {}, [describe(error)], None
        for text in wrong:
            stdio.log(f"{self._handler}: option --auth.file: {self._path}: {text}")

    def _read(self) -> tuple[dict[bytes, bytes], list[str]]:
        """Read the file: the hashes, and what is wrong with the other lines."""
        with open(self._path, "rb") as file:
            self._state = _state_of(os.fstat(file.fileno()))
            lines = file.read(_LARGEST).split(b"\n")
        hashes: dict[bytes, bytes] = {}
        wrong = []
        for number, line in enumerate(lines, 1):
            user, colon, text = line.strip(b"\r \t").partition(b":")
            if user.startswith(b"#") or not (user or colon):
                continue
            # As in passwd(5), what follows a further colon is a comment.
            hashed = text.partition(b":")[0]
            if user and hashed.startswith(_KINDS):
                hashes[user] = hashed
            else:
                wrong.append(
                    f"line {number}: not USER:HASH with a hash of bcrypt or "
                    "sha512-crypt; htpasswd -B writes one"
                )
        return hashes, wrong


def _state_of(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_mtime_ns, info.st_size, info.st_ino


class _Crypt:
    """crypt_r(3), which leaves the interpreter to others while it works."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = library.crypt_r
        self._call.restype = ctypes.c_char_p
        self._call.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)

    def __call__(self, phrase: bytes, setting: bytes) -> bytes:
        room = ctypes.create_string_buffer(_ROOM)
        found: bytes | None = self._call(phrase, setting, room)
        return found or b""


def _crypt() -> _Crypt:
    for name in _LIBRARIES:
        try:
            return _Crypt(ctypes.CDLL(name))
        except (OSError, AttributeError):
            continue  # not that one: musl, say, has its own name for it
    raise SetupError("option --auth.file: this system has no libcrypt.so")
