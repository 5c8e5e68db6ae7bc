"""Start a launcher: `python -I -S run.py become|serve SERVICE`, descriptors 3 and 4 set.

`become` begins with a call that outlives an exec and needs ctypes (capabilities.py): it is
made first, with nothing else loaded, and `become SERVICE adopting` is executed.

Descriptor 3 is the channel to the master, 4 holds the service as JSON (its format is in
superd/README.md). With -I and -S nothing of the environment, the working directory or
site-packages decides what is imported; the folder of superd comes from this file's place.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, os.path.dirname(os.path.dirname(here)))
    try:
        if sys.argv[1] == "become" and len(sys.argv) == 3:  # noqa: PLR2004
            try:
                from superd.launcher.capabilities import inherit_orphans
            except (ImportError, OSError, MemoryError):
                pass  # a Python without ctypes: become goes on, and adopts nobody
            else:
                inherit_orphans()
                os.execv(sys.executable, [*sys.orig_argv, "adopting"])
        if sys.argv[1] == "become":
            from superd.launcher.become import main
        else:
            from superd.launcher.serve import main
        main(sys.argv[2])
    except Exception as error:  # noqa: BLE001  no traceback leaves this process
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = (
            f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
        )
        text = f"{type(error).__name__}: {error} ({where})"
        from superd.launcher.channel import Channel
        from superd.launcher.spec import CHANNEL_FD

        Channel(CHANNEL_FD).refuse("bug", text)
        sys.exit(70)
