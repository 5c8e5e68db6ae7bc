"""Make the calls for which the standard library has no function: prctl and capset.

Both settings outlive an exec, and who imports this executes another program next: neither
ctypes nor its memory is in the process that serves. It imports nothing else, typing least
of all: it is loaded once for each launcher.
"""

from __future__ import annotations

import ctypes
import errno
import os

SET_CHILD_SUBREAPER = 36  # linux/prctl.h
CAP_AMBIENT, CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
INHERITABLE = (2, 5)
"""Of two structures {effective, permitted, inheritable}: the low and the high words."""

_library = ctypes.CDLL(None, use_errno=True)
_library.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def inherit_orphans() -> None:
    """Become the parent of what handlers leave behind; a kernel that cannot is silent."""
    _library.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def clear_heritage() -> None:
    """Empty the inheritable and the ambient set; the rest is the next exec's business."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    _check(_library.capget(header, sets))
    for place in INHERITABLE:
        sets[place] = 0
    _check(_library.capset(header, sets))
    if _library.prctl(CAP_AMBIENT, CAP_AMBIENT_CLEAR_ALL, 0, 0, 0):
        number = ctypes.get_errno()
        if number != errno.EINVAL:  # a kernel that has no ambient set
            raise OSError(number, os.strerror(number))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
