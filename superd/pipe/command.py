"""Be the command superd-pipe: a role of a pipeline, or with `run` the whole of it.

The rule of the file: whatever happens, the user gets a line and a status, and no
traceback; and what is left open when this ends is reset, not ended (joint.py).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from superd.handlers.pipeline.failure import SYSTEM, Failure
from superd.handlers.pipeline.joint import sound_stdio
from superd.pipe.flags import parse_role, parse_run
from superd.pipe.report import say
from superd.pipe.role import serve
from superd.pipe.run import run

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    sound_stdio()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    words = sys.argv[1:] if argv is None else argv
    try:
        if words and words[0] == "run":
            return run(parse_run(words[1:]))
        return serve(parse_role(words))
    except Failure as failure:
        say(str(failure))
        return failure.status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        say(f"{error.filename or 'a system call'}: {os.strerror(error.errno or 0)}")
        return SYSTEM
