"""Run a handler's work and turn whatever goes wrong into its exit code.

The rule of the file: `run` returns, always, and the peer never sees a traceback; under
a classic inetd fd 2 is the peer. What failed is one line on fd 2.
"""

from __future__ import annotations

import errno
import os
import signal

from superd.handlers import exits, options, stdio

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def run(
    name: str,
    table: options.Table,
    work: Callable[[options.Options], int],
    argv: Sequence[str],
) -> int:
    """Parse the flags, do the work, return the exit code."""
    # A launcher gives a handler every signal at its default; then a write to a peer
    # that is gone would kill us, and its end would look like a crash.
    # It stays ignored: what main printed is flushed after us.
    if signal.getsignal(signal.SIGPIPE) is not signal.SIG_IGN:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        return work(options.parse(argv, table, name))
    except options.HelpWanted as wish:
        return _print(str(wish))
    except exits.PeerGone:
        return exits.OK
    except exits.PeerError as error:
        stdio.log(f"{name}: {error}")
        return exits.PEER
    except exits.TooSlow as error:
        stdio.log(f"{name}: {error}")
        return exits.SLOW
    except exits.SetupError as error:
        stdio.log(f"{name}: {error}")
        return exits.SETUP
    except OSError as error:
        stdio.log(f"{name}: {describe(error)}")
        return exits.TEMPORARY
    except Exception as error:  # noqa: BLE001  the last fence
        stdio.log(f"{name}: bug: {type(error).__name__}: {error} {_where(error)}")
        return exits.BUG


def describe(error: OSError) -> str:
    """Spell a failed call: `./www: ENOENT (No such file or directory)`."""
    code = errno.errorcode.get(error.errno or 0, "unknown errno")
    subject = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    return f"{subject}{code} ({error.strerror})"


def _print(text: str) -> int:
    try:
        stdio.write(text.encode())
    except exits.PeerGone:
        return exits.OK
    return exits.OK


def _where(error: Exception) -> str:
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"({' > '.join(places)})"
