"""Run in the forked child: from fork to the handler, and out by _exit.

No exception crosses the fork: every way out of this file is exec or os._exit. What the
child must undo is listed in handlers/README.md's contract: descriptors, signals, session,
environment.
"""

from __future__ import annotations

import os
import resource
import sys
import traceback
from typing import TYPE_CHECKING

from superd.core.exitcodes import BUG, DONE, SETUP
from superd.launcher.stage import reset_signals

if TYPE_CHECKING:
    from collections.abc import Callable

    from superd.launcher.stage import Stage

    Limits = list[tuple[int, tuple[int, int]]]


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
        reset_signals()
        _place(fds)
        if listen:
            # sd_listen_fds(3): one socket, number 3, for exactly this process.
            os.dup2(0, 3, inheritable=True)
            environment = dict(environment, LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
        set_limits(limits)
        os.execve(argv[0], argv, environment)
    except OSError as error:
        os.write(error_fd, str(error.errno).encode())
    finally:
        os._exit(SETUP)


def run_python(
    stage: Stage,
    main: Callable[[list[str]], int],
    fds: tuple[int, int, int],
    limits: Limits,
) -> None:
    """Call a Python handler's main; never returns. The environment is described."""
    status = BUG
    try:
        stage.enter(fds, limits)
        status = call(main, stage.name, stage.argv)
    except BaseException as error:  # noqa: BLE001  the last frame of the process
        status = BUG
        say_bug(stage.name, error)
    finally:
        os._exit(status & 0xFF)


def call(main: Callable[[list[str]], int], name: str, argv: list[str]) -> int:
    """Run main to its end, whichever, and flush what it printed; returns its status."""
    status = _call(main, name, argv)
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except (BrokenPipeError, ConnectionResetError):
        return DONE  # the peer has gone; nobody is left to tell
    except Exception as error:  # noqa: BLE001  a stream may be of the handler's making
        say_bug(name, error)
        return BUG
    return status


def _call(main: Callable[[list[str]], int], name: str, argv: list[str]) -> int:
    try:
        return main(argv) or DONE
    except SystemExit as leave:
        if leave.code is None or isinstance(leave.code, int):
            return leave.code or DONE
        _say(str(leave.code))
        return 1
    except (BrokenPipeError, ConnectionResetError):
        return DONE
    except BaseException as error:  # noqa: BLE001  whatever it is, it is a bug
        say_bug(name, error)
        return BUG


def say_bug(name: str, error: BaseException) -> None:
    """Write one line to fd 2: what, and where."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(where.filename)}:{where.lineno}"
    _say(f"{name}: {type(error).__name__}: {error} ({place})")


def _say(text: str) -> None:
    os.write(2, (" ".join(text.split()) + "\n").encode(errors="replace"))


def _place(fds: tuple[int, int, int]) -> None:
    for number, fd in enumerate(fds):
        os.dup2(fd, number, inheritable=True)


def set_limits(limits: Limits) -> None:
    """Take on limits of resources: setrlimit(2)."""
    for number, pair in limits:
        resource.setrlimit(number, pair)


def name_process(name: str) -> None:
    """Show the service in ps and top."""
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write(f"superd: {name}"[:15])
    except OSError:
        return  # no /proc: the name is a comfort, not a need
