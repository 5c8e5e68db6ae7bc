"""Read the small texts of a folder that are for the whole world.

The rule of the file: a name is one component below the descriptor of its folder, and no
link is followed (CVE-1999-1165: a ~/.plan that was a link told any file). What counts is
the descriptor: a regular file, readable for everybody, and no more of it than asked for.
A FIFO or a device is not even opened: that waits for a writer, or rewinds a tape.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_TEXT: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
ERRNO_NOT_TOLD: Final = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ELOOP,  # O_NOFOLLOW met a link
        errno.ENXIO,  # a FIFO or a socket has taken the name meanwhile
        errno.ENAMETOOLONG,
        errno.EACCES,
        errno.EPERM,
    }
)
"""A text that is not there, or not for us: to the peer one is as good as the other."""


@contextmanager
def folder(path: str) -> Iterator[int]:
    """Hold a folder by a descriptor. The path is the operator's: its links are meant."""
    fd = os.open(path, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


def is_open_to_all(fd: int) -> bool:
    """Tell whether every user of this machine may enter the folder."""
    return bool(os.fstat(fd).st_mode & stat.S_IXOTH)


def read_text(fd: int, name: str, cap: int, owner: int | None = None) -> bytes | None:
    """Return `cap` bytes of a text at most; None if there is none for the world.

    `owner`: whose it must be, or root's: a hard link tells nothing of somebody else.
    """
    if "/" in name or name in ("", ".", ".."):
        return None
    try:
        if not _is_public(os.stat(name, dir_fd=fd, follow_symlinks=False), owner):
            return None
        text = os.open(name, _TEXT, dir_fd=fd)
    except OSError as error:
        if error.errno in ERRNO_NOT_TOLD:
            return None
        raise
    try:
        # Looked at again: between stat and open the name may have changed its meaning.
        if not _is_public(os.fstat(text), owner):
            return None
        return _read(text, cap)
    finally:
        os.close(text)


def names_of(path: str, most: int) -> list[str]:
    """List the public texts of a folder, sorted; `most` at most, and no dot files."""
    names = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                public = _is_public(entry.stat(follow_symlinks=False), None)
            except FileNotFoundError:
                continue  # gone since it was listed
            if public:
                names.append(entry.name)
    return sorted(names)[:most]


def _is_public(info: os.stat_result, owner: int | None) -> bool:
    return (
        stat.S_ISREG(info.st_mode)
        and bool(info.st_mode & stat.S_IROTH)
        and (owner is None or info.st_uid in (0, owner))
    )


def _read(fd: int, cap: int) -> bytes:
    text = b""
    while len(text) < cap:
        data = os.read(fd, cap - len(text))
        if not data:
            break
        text += data
    return text
