"""Open a file below the root, and none that is not.

The rule of the file: a name is one component, opened below the descriptor of its
directory, and never by the kernel's own walk over a path. So `..` and a symbolic link
are ours to decide: `..` pops the stack of directories we came through, and popping more
than was pushed is leaving. A directory that somebody moves away meanwhile is left the
way it was entered. (openat2 with RESOLVE_BENEATH does the same in one call; Python has
no openat2 yet.)

What counts is the descriptor: kind, size and time are fstat's. A FIFO or a device is
not even opened: opening has effects (a writer wakes, a tape rewinds).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from superd.handlers.http.refusal import Refused
from superd.handlers.http.shelf import SHELF
from superd.handlers.http.target import MOST_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NEVER, OWNER, INSIDE = "never", "owner", "inside"
"""Which symbolic links are followed: none, those whose owner has what they lead to, or
all; and none that leads out of the root, or is absolute."""
MOST_LINKS: Final = 40
"""Symbolic links followed for one path: Linux's own limit."""
_DEEPEST: Final = 2 * MOST_NAMES

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTED: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_MISSING: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
)
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM})


class Rules(NamedTuple):
    """What may be served, besides that it is a regular file below the root."""

    world_readable: bool = True
    """Only what every user of this machine may read, whoever we are (publicfile's
    rule): the file, and to pass through its directories."""
    links: str = INSIDE


class File(NamedTuple):
    """A regular file, open; whoever has it closes it.

    One whose content is kept is not open, and `fd` is -1.
    """

    fd: int
    size: int
    mtime_ns: int
    inode: int
    siblings: Sequence[bytes] = ()
    """Of the endings that were asked for, those that files beside this one have."""
    content: bytes | None = None

    def close(self) -> None:
        """Close it, if it is open."""
        if self.fd >= 0:
            os.close(self.fd)


def open_path(
    root: int, names: Sequence[bytes], rules: Rules, endings: Sequence[bytes] = ()
) -> File | None:
    """Open the file of this path; None if it is a directory. Raises Refused."""
    stack: list[int] = []
    try:
        return _walk(root, names, stack, rules, endings)
    except OSError as error:
        raise _refusal_of(error) from None
    finally:
        for fd in stack:
            os.close(fd)


def open_index(
    root: int,
    names: Sequence[bytes],
    index: Iterable[bytes],
    rules: Rules,
    endings: Sequence[bytes] = (),
) -> tuple[bytes, File]:
    """Open the first index file that a directory has; returns its name too.

    Raises Refused with 404 if there is none: that there is a directory, but no page in
    it, is nobody's business.
    """
    for name in index:
        try:
            file = open_path(root, [*names, name], rules, endings)
        except Refused as refused:
            if refused.status != 404:  # noqa: PLR2004
                raise
            continue
        if file is not None:
            return name, file
    raise Refused(404, "there is no such file")


def open_directory(
    root: int, names: Sequence[bytes], rules: Rules, *, listed: bool = True
) -> int:
    """Open a directory, to list it or as a root; returns its descriptor.

    Raises Refused. `world_readable` asks that every user may list it, where it is to be
    listed, which is more than pass through.
    """
    stack: list[int] = []
    try:
        file = _walk(root, names, stack, rules, ())
        if file is not None:
            file.close()
            raise Refused(404, "there is no such file")
        how = _LISTED if listed else _DIRECTORY
        fd = os.open(b".", how, dir_fd=stack[-1] if stack else root)
        try:
            if listed and rules.world_readable:
                _check_mode(os.fstat(fd), stat.S_IROTH)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise _refusal_of(error) from None
    else:
        return fd
    finally:
        for one in stack:
            os.close(one)


def _walk(
    root: int,
    names: Sequence[bytes],
    stack: list[int],
    rules: Rules,
    endings: Sequence[bytes],
) -> File | None:
    """Go down name by name; `stack` holds the open directories below the root.

    Among the names ahead may be the owner of a link, where what it led to begins.
    """
    ahead: list[bytes | int] = list(reversed(names))
    links = 0
    itself = True  # the last name is the file's own, and not that of a link to it
    while ahead:
        name = ahead.pop()
        here = stack[-1] if stack else root
        if isinstance(name, int):
            _check_owner(os.fstat(here), name)
            continue
        if name in (b"", b"."):
            continue
        if name == b"..":
            if not stack:
                raise Refused(404, "there is no such file")
            os.close(stack.pop())
            continue
        info = os.stat(name, dir_fd=here, follow_symlinks=False)
        kind = info.st_mode
        if stat.S_ISLNK(kind):
            links += 1
            if links > MOST_LINKS or rules.links == NEVER:
                raise Refused(404, "there is no such file")
            owner, target = _read_link(name, here)
            itself = itself and any(isinstance(one, bytes) for one in ahead)
            if rules.links == OWNER:
                ahead.append(owner)
            ahead.extend(reversed(target.split(b"/")))
        elif stat.S_ISDIR(kind):
            if len(stack) >= _DEEPEST:
                raise Refused(404, "there is no such file")
            stack.append(os.open(name, _DIRECTORY, dir_fd=here))
            if rules.world_readable:
                _check_mode(os.fstat(stack[-1]), stat.S_IXOTH)
        else:
            owners = [one for one in ahead if isinstance(one, int)]
            if len(owners) < len(ahead):
                raise Refused(404, "there is no such file")
            _check_kind(info)
            siblings = SHELF.siblings(name, here, endings) if itself else ()
            content = SHELF.find(info)
            if content is None:
                return _open_file(name, here, rules, owners, siblings)
            _check_file(info, rules, owners)
            size, mtime_ns = info.st_size, info.st_mtime_ns
            return File(-1, size, mtime_ns, info.st_ino, siblings, content)
    return None


def _read_link(name: bytes, here: int) -> tuple[int, bytes]:
    """Return a link's owner and where it leads: of the same link, whoever renames."""
    fd = os.open(name, _LINK, dir_fd=here)
    try:
        target = os.readlink(b"", dir_fd=fd)
        if target.startswith(b"/"):
            # An absolute link may lead back inside, but says nothing of our root.
            raise Refused(404, "there is no such file")
        return os.fstat(fd).st_uid, target
    finally:
        os.close(fd)


def _open_file(
    name: bytes,
    here: int,
    rules: Rules,
    owners: Iterable[int],
    siblings: Sequence[bytes],
) -> File:
    fd = os.open(name, _FILE, dir_fd=here)
    try:
        info = os.fstat(fd)
        # Looked at again: between stat and open the name may have changed its meaning.
        _check_file(info, rules, owners)
    except BaseException:
        os.close(fd)
        raise
    return File(fd, info.st_size, info.st_mtime_ns, info.st_ino, siblings)


def _check_file(info: os.stat_result, rules: Rules, owners: Iterable[int]) -> None:
    _check_kind(info)
    if rules.world_readable:
        _check_mode(info, stat.S_IROTH)
    for owner in owners:
        _check_owner(info, owner)


def _check_owner(info: os.stat_result, owner: int) -> None:
    if info.st_uid != owner:
        raise Refused(404, "there is no such file")


def _refusal_of(error: OSError) -> Exception:
    if error.errno in _MISSING:
        return Refused(404, "there is no such file")
    if error.errno in _FORBIDDEN:
        return Refused(403, "this file is not for everybody")
    return error


def _check_kind(info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise Refused(403, "this is no regular file")


def _check_mode(info: os.stat_result, bit: int) -> None:
    if not info.st_mode & bit:
        raise Refused(403, "this file is not for everybody")
