"""Run the master: start, serve, reload, stop."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from superd.core.events import StopAsked
from superd.master.compiling import CompileChild
from superd.master.generations import ApplyError, Generations
from superd.master.loop import READ, Loop
from superd.master.shell import Shell
from superd.master.signals import SignalPipe

if TYPE_CHECKING:
    from superd.master.eventlog import EventLog
    from superd.master.kernel import Kernel
    from superd.master.notify import Inherited, Notifier

WITHOUT_PROC = 1024
"""Descriptors that are looked at where /proc does not tell which are open."""

BUGS = 20
"""Exceptions of our own in one minute before superd leaves for its supervisor."""


class Master:
    """Everything of the running daemon, put together."""

    def __init__(
        self,
        kernel: Kernel,
        compile_arguments: list[str],
        log: EventLog,
        notifier: Notifier,
        inherited: Inherited,
        *,
        daemon: bool = False,
    ) -> None:
        self._kernel = kernel
        self._arguments = compile_arguments
        self.log = log
        self._notifier = notifier
        self.loop = Loop()
        self._signals = SignalPipe()
        self.loop.watch(self._signals.fileno(), READ, self._signalled)
        self.loop.first(self._signals.fileno())
        self.shell = Shell(kernel, self.loop, log)
        self.generations = Generations(self.shell, log, inherited, daemon=daemon)
        self._child: CompileChild | None = None
        self._again = False
        self._stopping = False
        self._bugs: list[float] = []

    def start(self, plan: dict[str, Any]) -> None:
        """Bring the first plan into force and say so; raises ApplyError."""
        self.generations.apply(plan)
        self.shell.flush()
        self._notifier.ready(self.generations.summary())
        if self._notifier.watchdog is not None:
            self._feed_watchdog()

    def run(self) -> int:
        """Serve until the core says that it is over; returns the exit status."""
        while self.loop.status is None:
            try:
                self.loop.turn(self.shell.next_deadline())
                self.shell.tick()
                self.shell.flush()
            except Exception as error:  # noqa: BLE001  regular operation does not end
                self._bug(error)
        self.close()
        return self.loop.status

    def close(self) -> None:
        """Let go of everything; the log comes last."""
        self.shell.refusals.close()
        self.log.write("info", "stop", (("status", self.loop.status or 0),))
        self.log.flush()
        self.loop.close()
        self._signals.close()

    def _bug(self, error: Exception) -> None:
        """Log an exception of our own and go on; leave when they do not end."""
        trace = error.__traceback__
        places = []
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}")
            trace = trace.tb_next
        text = f"{type(error).__name__}: {error}"
        self.log.write(
            "error", "bug", (("text", text), ("at", " > ".join(places[-4:])))
        )
        now = time.monotonic()
        self._bugs = [when for when in self._bugs if now - when < 60.0] + [now]  # noqa: PLR2004
        if len(self._bugs) >= BUGS:
            self.log.write("error", "stop", (("reason", "too many bugs"),))
            self.loop.status = os.EX_SOFTWARE

    # -- signals ----------------------------------------------------------------------

    def _signalled(self, _events: int) -> None:
        came = self._signals.take()
        try:
            if signal.SIGCHLD in came:
                self._reap()
        finally:  # whatever goes wrong in there, a TERM is not lost
            if signal.SIGTERM in came or signal.SIGINT in came:
                self._stop()
            elif signal.SIGHUP in came:
                self.reload()
        if signal.SIGUSR1 in came:
            self._reopen()
        if signal.SIGUSR2 in came:
            text = "upgrade in place is not in this version; restart instead"
            self.log.write("warning", "note", (("text", text),))

    def _reap(self) -> None:
        """Collect every child that has ended: the one place that waits."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._child is not None and pid == self._child.pid:
                self._child.reaped = True
                continue  # its pipe tells all there is to tell
            if not self.shell.reaped(pid, _describe(status)):
                self.log.write("debug", "reap", (("pid", pid), ("status", status)))

    def _stop(self) -> None:
        if not self._stopping:
            self._notifier.stopping()
            # Who has connected already was promised an answer.
            self.generations.accept_last(list(self.shell.listeners))
        self.shell.feed(StopAsked(at_once=self._stopping))
        self._stopping = True

    def _reopen(self) -> None:
        try:
            self.log.sink.reopen()
        except OSError as error:
            self.log.write("error", "log", (("reason", f"reopen: {error.strerror}"),))

    # -- reload -----------------------------------------------------------------------

    def reload(self) -> None:
        """Compile the configuration anew: one run at a time, one more waiting."""
        if self._stopping:
            return
        if self._child is not None:
            self._again = True
            return
        self._notifier.reloading()
        try:
            child = CompileChild(self._kernel, self._arguments, time.monotonic())
        except OSError as error:
            self._refused([f"cannot start the compile child: {error.strerror}"])
            return
        self._child = child
        self.loop.watch(child.fileno(), READ, lambda _events: self._compiling(child))
        self.loop.later(child.until, lambda: self._late(child))

    def _late(self, child: CompileChild) -> None:
        if self._child is child:
            child.kill()

    def _compiling(self, child: CompileChild) -> None:
        if not child.read():
            return
        self.loop.forget(child.fileno())
        child.close()
        child.kill()
        self._child = None
        result = child.result()
        for text in result.warnings:
            self.log.write("warning", "config", (("text", text),))
        if result.plan is None or self._stopping:
            self._refused(result.errors)
        else:
            try:
                self.generations.apply(result.plan)
            except ApplyError as error:
                self._refused(error.lines)
            else:
                self._notifier.ready(self.generations.summary())
        if self._again:
            self._again = False
            self.reload()

    def _refused(self, lines: list[str]) -> None:
        """Say why a reload changed nothing; the old generation runs on."""
        for line in lines:
            self.log.write("error", "config", (("text", line),))
        self.log.write(
            "error",
            "reload",
            (("refused", len(lines)), ("generation", self.generations.number)),
        )
        first = lines[0] if lines else "superd stops"
        self._notifier.ready(
            f"reload refused: {first}; {self.generations.summary()} run on"
        )

    def _feed_watchdog(self) -> None:
        assert self._notifier.watchdog is not None
        self._notifier.alive()
        self.loop.later(
            time.monotonic() + self._notifier.watchdog / 2, self._feed_watchdog
        )


def _describe(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"signal:{os.WTERMSIG(status)}"
    return f"exit:{os.WEXITSTATUS(status)}"


def _open_descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except FileNotFoundError:  # no /proc: ask the numbers that a starter would use
        return list(range(WITHOUT_PROC))


def sound_stdio() -> None:
    """Make sure that fds 0 to 2 are something, and that nothing above is inherited.

    Whatever our starter left open (a shell's, a terminal's) would otherwise show up in
    every handler; and without an fd 0 the next open would become one.
    """
    for fd in _open_descriptors():
        if fd > 2:  # noqa: PLR2004  stdin, stdout, stderr
            try:
                os.set_inheritable(fd, False)
            except OSError as error:
                if error.errno != errno.EBADF:  # the one that listed the folder
                    raise
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is fd
            os.set_inheritable(fd, True)
    # Python has no object for a stream that was closed at its start: print would fall
    # back to another one, or fail; python-daemon asks all three for their numbers.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
