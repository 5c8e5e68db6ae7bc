"""Prepare the folder of a cache, or say why it will not do.

The rule of the file: a folder is used that is this user's alone to write to, and that is
empty or was made by this layout. Eviction removes files: in a folder that somebody else
filled, or fills, it has no business. Where the names come from is never the wire: they
are hashes and random numbers.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from superd.handlers.cache import locks
from superd.handlers.cache.ledger import Ledger
from superd.handlers.exits import SetupError

VERSION: Final = b"superd cache 1\n"
_NAME: Final = "version"
_IGNORED: Final = frozenset({"lost+found", f"{_NAME}.new"})
"""Of a file system mounted here; of another process that begins at the same time."""
_OWN: Final = frozenset({_NAME, "ledger", "claims"})
DIGITS: Final = "0123456789abcdef"
ROOMS: Final = tuple(a + b for a in DIGITS for b in DIGITS)
"""The folders in it, by the first digits of a key's hash."""


def prepare(path: str, size: int) -> Ledger:
    """Make the folder if it is missing and judge it; returns its count.

    Raises SetupError, which says what is to be done.
    """
    try:
        _make(path)
        _judge(path)
        ledger = Ledger(path, size)
        if _is_new(path):
            ledger.begin()
            _write_version(path)
        ledger.look()
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "unknown")
        raise SetupError(f"cache {path}: {name}: {_remedy(error)}") from error
    return ledger


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return f"user {os.geteuid()} may not; give the folder to that user"
        case errno.ENOENT:
            return "the folder that it should be in does not exist; make that first"
        case errno.ENOTDIR | errno.EEXIST:
            return "it, or what it should be in, is no folder; name another"
        case errno.EROFS:
            return "the file system is read-only; name a folder on another"
        case errno.ENOSPC | errno.EDQUOT:
            return "there is no room; make some or name a folder elsewhere"
        case _:
            return str(error.strerror)


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def _judge(path: str) -> None:
    """Object to what others can write to or lead elsewhere."""
    user = os.geteuid()
    link = os.lstat(path)
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, user):
        raise SetupError(
            f"cache {path}: ELOOP: a symbolic link of user {link.st_uid}, who may turn "
            "it anywhere; name the folder itself"
        )
    info = os.stat(path)
    if info.st_uid != user:
        raise SetupError(
            f"cache {path}: EPERM: belongs to user {info.st_uid}, not to {user}; "
            f"chown it to {user} or name another"
        )
    if info.st_mode & 0o022:
        raise SetupError(
            f"cache {path}: EPERM: others may write to it "
            f"(mode {stat.S_IMODE(info.st_mode):04o}); chmod it to 0700"
        )


def _is_new(path: str) -> bool:
    """Tell whether the folder is empty; SetupError if it is anybody else's."""
    try:
        fd = os.open(
            os.path.join(path, _NAME), os.O_RDONLY | os.O_NONBLOCK | locks.FLAGS
        )
    except FileNotFoundError:
        names = set(os.listdir(path))
        others = names - _IGNORED - _OWN
        if others and "claims" in names:
            # Somebody has emptied the folder of a proxy that ran on.
            others -= set(ROOMS)
        if others:
            raise SetupError(
                f"cache {path}: ENOTEMPTY: holds {min(others)!r}, which no cache of "
                "superd made; name an empty folder, or a new one"
            ) from None
        return True
    try:
        found = os.read(fd, 64)
    finally:
        os.close(fd)
    if found != VERSION:
        raise SetupError(
            f"cache {path}: EINVAL: its layout is {found!r}, and this superd knows "
            f"{VERSION!r}; empty the folder or name another"
        )
    return False


def _write_version(path: str) -> None:
    name = os.path.join(path, _NAME)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | locks.FLAGS
    fd = os.open(f"{name}.new", flags, locks.MODE)
    try:
        os.write(fd, VERSION)
    finally:
        os.close(fd)
    try:
        os.rename(f"{name}.new", name)
    except FileNotFoundError:
        # Another process began here at the same time, and was faster.
        os.stat(name)
