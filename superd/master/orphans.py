"""Watch handlers whose launcher has died, so that their slots are freed when they end.

They are no children of ours and a launcher's word for a pid is not to be trusted with a
signal; a pidfd only watches. Every handler leads a session of its own (launcher/child.py,
launcher/spawn.py), so a pid that leads none has been given to somebody else.
"""

from __future__ import annotations

import os

from superd.master.reserve import SHORT


def watch(pid: int) -> int | None:
    """Open a pidfd, readable when the process ends; None: it has ended already.

    Raises OSError for want of descriptors or memory: that says nothing of the process.
    """
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in SHORT:
            raise
        return None
    if _leads_session(pid):
        return fd
    os.close(fd)
    return None


def _leads_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False
