"""Run in the forked child: from fork to the handler, and out by _exit.

No exception crosses the fork: every way out of this file is exec or os._exit. What the
child must undo is listed in handlers/README.md's contract: descriptors, signals, session,
environment.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from typing import TYPE_CHECKING

from superd.core.exitcodes import BUG, DONE, SETUP

if TYPE_CHECKING:
    from collections.abc import Callable

    Limits = list[tuple[int, tuple[int, int]]]

MAX_FD = (1 << 31) - 1


def run_program(
    argv: list[str],
    fds: tuple[int, int, int],
    environment: dict[str, str],
    limits: Limits,
    error_fd: int,
    *,
    listen: bool,
) -> None:
    """Execute a program; a failure goes as its errno into `error_fd`."""
    try:
        os.setsid()
        _reset_signals()
        _place(fds)
        if listen:
            # sd_listen_fds(3): one socket, number 3, for exactly this process.
            os.dup2(0, 3, inheritable=True)
            environment = dict(environment, LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
        _limit(limits)
        os.execve(argv[0], argv, environment)
    except OSError as error:
        os.write(error_fd, str(error.errno).encode())
    finally:
        os._exit(SETUP)


def run_python(
    main: Callable[[list[str]], int],
    name: str,
    argv: list[str],
    fds: tuple[int, int, int],
    environment: dict[str, str],
    limits: Limits,
) -> None:
    """Call a Python handler's main; never returns."""
    status = BUG
    try:
        os.setsid()
        _reset_signals()
        _place(fds)
        os.closerange(3, MAX_FD)
        _limit(limits)
        os.environ.clear()
        os.environ.update(environment)
        _name_process(name)
        # New objects: the old ones remember what fds 0 to 2 were in the launcher.
        sys.stdin = open(0, closefd=False, errors="replace")  # noqa: SIM115
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        sys.argv = [name, *argv]
        status = _call(main, name, argv)
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        status = DONE  # the peer has gone; nobody is left to tell
    except BaseException as error:  # noqa: BLE001  the last frame of the process
        status = BUG
        _say_bug(name, error)
    finally:
        os._exit(status & 0xFF)


def _call(main: Callable[[list[str]], int], name: str, argv: list[str]) -> int:
    """Run main to its end, whichever; what it printed is still to be flushed."""
    try:
        return main(argv) or DONE
    except SystemExit as leave:
        if leave.code is None or isinstance(leave.code, int):
            return leave.code or DONE
        _say(str(leave.code))
        return 1
    except BrokenPipeError:
        return DONE
    except BaseException as error:  # noqa: BLE001  whatever it is, it is a bug
        _say_bug(name, error)
        return BUG


def _say_bug(name: str, error: BaseException) -> None:
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(where.filename)}:{where.lineno}"
    _say(f"{name}: {type(error).__name__}: {error} ({place})")


def _say(text: str) -> None:
    os.write(2, (" ".join(text.split()) + "\n").encode(errors="replace"))


def _place(fds: tuple[int, int, int]) -> None:
    for number, fd in enumerate(fds):
        os.dup2(fd, number, inheritable=True)


def _limit(limits: Limits) -> None:
    for number, pair in limits:
        resource.setrlimit(number, pair)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (
        signal.SIGCHLD,
        signal.SIGPIPE,
        signal.SIGXFSZ,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGTERM,
        signal.SIGQUIT,
    ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _name_process(name: str) -> None:
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write(f"superd: {name}"[:15])
    except OSError:
        return  # no /proc: the name is a comfort, not a need
