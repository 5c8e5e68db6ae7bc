"""Tell what a directory of texts says: one file for each name.

So people finger who have no account here, or things that are none: `finger weather@host`.
"""

from __future__ import annotations

import os
from typing import Final

from superd.handlers.exits import SetupError
from superd.handlers.finger_query import is_name
from superd.handlers.finger_texts import folder, names_of, read_text

LONGEST_LIST: Final = 1000
"""Names in an answer to the empty query."""


def tell(path: str, name: str, cap: int) -> bytes | None:
    """Return the text of a name, `cap` bytes at most; None if there is none to tell.

    Raises SetupError if the directory cannot be entered.
    """
    try:
        with folder(path) as fd:
            # Not each name's failure: that there is nobody would be no answer.
            os.stat(".", dir_fd=fd)
            # A name that begins with a dot is a hidden file's, or no file's at all.
            return None if name.startswith(".") else read_text(fd, name, cap)
    except OSError as error:
        raise _unreadable(path, error) from None


def tell_names(path: str) -> bytes:
    """List the names there are, one in a line (RFC 1288 2.5.1).

    Raises SetupError if the directory cannot be read.
    """
    try:
        found = names_of(path, LONGEST_LIST)
    except OSError as error:
        raise _unreadable(path, error) from None
    names = [name for name in found if is_name(name)]
    return "".join(f"{name}\n" for name in names).encode() or b"Nobody is here.\n"


def _unreadable(path: str, error: OSError) -> SetupError:
    return SetupError(f"option --directory: {path} cannot be read: {error.strerror}")
