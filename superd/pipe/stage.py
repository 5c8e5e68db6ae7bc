"""Run the program of a role, or none, between the stream before and the stream after.

The rule of the file: the program sees the end of its input only where the stream before
has ended cleanly. When that was cut short, its stdin is held open until the program is
dead, for a pipe has no way to say "this is not all".
"""

from __future__ import annotations

import os
import select
import signal
import socket
from time import monotonic
from typing import TYPE_CHECKING, Final

from superd.handlers.pipeline import joint, program
from superd.handlers.pipeline.failure import BROKEN_PIPE, CUT, describe, is_crash
from superd.pipe.flow import Flow
from superd.pipe.packed import PackedFlow
from superd.pipe.report import PERIOD, Progress, Row, say, table
from superd.pipe.signals import Signals

if TYPE_CHECKING:
    import argparse

    from superd.handlers.pipeline.program import Program

_STDIN: Final = 0
_STDOUT: Final = 1


class Stage:
    """One role, from the start of its program to the end of its streams."""

    def __init__(
        self,
        flags: argparse.Namespace,
        upstream: socket.socket | None,
        downstream: socket.socket | None,
    ) -> None:
        self._flags = flags
        self._up = upstream
        self._down = downstream
        self._before = joint.name_of_peer(upstream) if upstream else "stdin"
        self._after = str(flags.to) if downstream else "stdout"
        self._program: Program | None = None
        self._into: Flow | None = None
        self._out_of: Flow | None = None
        self._flows: list[Flow] = []
        self._pipes: set[int] = set()
        self._cut = ""
        self._asked = 0
        self._kill_at = 0.0
        self._started = self._looked = monotonic()
        self._progress = Progress(wanted=flags.progress, now=self._started)

    def run(self) -> int:
        """Let it all flow; returns the exit status."""
        with Signals() as signals:
            if self._flags.program:
                self._start()
            else:
                self._connect()
            while not self._is_over():
                self._turn(signals)
            status = self._judge(signals)
        now = monotonic()
        self._progress.finish(self._moved(), now)
        if self._flags.report:
            os.write(2, table([self._row(status, now)]).encode())
        return status

    @property
    def was_asked(self) -> bool:
        """Whether a signal asked for the end."""
        return bool(self._asked)

    def close(self) -> None:
        """End what is left; a joint that has not ended cleanly is reset."""
        if self._program is not None:
            self._program.kill()
        for fd in self._pipes:
            os.close(fd)
        self._pipes.clear()
        self._drop_upstream()
        self._drop_downstream()

    # -- the start ---------------------------------------------------------------------

    def _start(self) -> None:
        """Start the program with pipes, or sockets, where this role has streams."""
        stdin, stdout = _STDIN, _STDOUT
        theirs: list[int] = []
        if self._flags.socket:
            stdin, stdout = self._lend_sockets()
        else:
            if self._up is not None:
                stdin, ours = program.pipe_to_write()
                theirs.append(stdin)
                self._into = self._flow(self._up.fileno(), ours, ours, comes=True)
            if self._down is not None:
                ours, stdout = program.pipe_to_read()
                theirs.append(stdout)
                self._out_of = self._flow(ours, self._down.fileno(), ours, goes=True)
        # Of a group that is not the terminal's, who reads from it is stopped.
        on_terminal = self._up is None and os.isatty(_STDIN)
        try:
            self._program = program.start(
                self._flags.program, (stdin, stdout, 2), own_group=not on_terminal
            )
        finally:
            for fd in theirs:
                os.close(fd)
        if self._into is not None:
            self._program.guard(self._into.target)

    def _lend_sockets(self) -> tuple[int, int]:
        for sock in (self._up, self._down):
            if sock is not None:
                sock.setblocking(True)
        return (
            self._up.fileno() if self._up is not None else _STDIN,
            self._down.fileno() if self._down is not None else _STDOUT,
        )

    def _connect(self) -> None:
        """Without a program: copy what comes to where it goes."""
        source = self._up.fileno() if self._up is not None else _STDIN
        target = self._down.fileno() if self._down is not None else _STDOUT
        comes, goes = self._up is not None, self._down is not None
        program.widen(source)
        program.widen(target)
        self._into = self._out_of = self._flow(
            source, target, None, comes=comes, goes=goes
        )

    def _flow(
        self,
        source: int,
        target: int,
        ours: int | None,
        *,
        comes: bool = False,
        goes: bool = False,
    ) -> Flow:
        """Make a flow; `comes`, `goes`: by a joint, and compressed if joints are."""
        if ours is not None:
            self._pipes.add(ours)
        flow = Flow(source, target)
        if level := self._flags.compress:
            flow = PackedFlow(source, target, comes=comes, level=level if goes else 0)
        self._flows.append(flow)
        return flow

    # -- the middle --------------------------------------------------------------------

    def _is_over(self) -> bool:
        if self._program is None:
            return not self._flows
        ended = self._program.status is not None
        return ended and (not self._flows or bool(self._cut or self._asked))

    def _turn(self, signals: Signals) -> None:
        poller = select.poll()
        poller.register(signals.fd, select.POLLIN)
        running = self._program is not None and self._program.status is None
        if running and self._program is not None:
            poller.register(self._program.pidfd, select.POLLIN)
        for flow in self._flows:
            flow.watch(poller)
        ready = dict(poller.poll(self._patience() * 1000))
        for number in signals.take() if signals.fd in ready else ():
            self._signalled(number)
        for flow in self._flows.copy():
            flow.step(ready)
            if flow.over:
                self._flows.remove(flow)
                self._ended(flow)
        if running and self._program is not None and self._program.pidfd in ready:
            self._program.reap(cut_off=bool(self._cut or self._asked))
        self._look_around(monotonic())

    def _patience(self) -> float:
        if self._kill_at:
            return max(0.0, self._kill_at - monotonic())
        return PERIOD if self._progress.shown else max(0.2, self._flags.dead / 4)

    def _look_around(self, now: float) -> None:
        """Do what no descriptor announces."""
        if self._kill_at and now >= self._kill_at and self._program is not None:
            self._program.send(signal.SIGKILL)
        if now - self._looked < PERIOD:
            return
        self._looked = now
        self._progress.update(self._moved(), now)
        if self._down is not None and joint.is_dead(self._down, self._flags.dead):
            say(f"{self._after}: no answer for {self._flags.dead:g} s; it is lost")
            for flow in [one for one in self._flows if one is self._out_of]:
                self._flows.remove(flow)
                flow.over = "gone"
                self._ended(flow)
            self._drop_downstream()

    def _signalled(self, number: int) -> None:
        """Hand a signal on; the second one does not ask."""
        if self._program is None:
            self._asked = number
            self._flows.clear()
            return
        self._program.send(signal.SIGKILL if self._asked else number)
        self._asked = self._asked or number

    def _ended(self, flow: Flow) -> None:
        """Pass the end of a flow on to who is at its other side."""
        if self._program is None:
            self._note_cut(flow)
        elif flow is self._out_of:
            # The program's next write is its last, by SIGPIPE.
            if flow.source in self._pipes:
                self._close(flow.source)
            if flow.over != "end":
                self._drop_downstream()
        elif flow.over == "cut":
            self._note_cut(flow)
            self._flows.clear()
            self._program.send(signal.SIGTERM)
            # One that is stopped would not see it.
            self._program.send(signal.SIGCONT)
            self._kill_at = monotonic() + self._flags.grace
        else:
            self._program.let_go()
            self._close(flow.target)
            if flow.over == "end" and self._up is not None:
                joint.finish(self._up)
                self._up = None
            self._drop_upstream()

    def _note_cut(self, flow: Flow) -> None:
        moved = f"{flow.moved} bytes: {flow.why}"
        if flow.over == "cut":
            self._cut = f"the stream from {self._before} was cut short after {moved}"
        elif flow.over == "full":
            self._cut = f"{self._after} takes no more after {moved}"

    # -- the end -----------------------------------------------------------------------

    def _judge(self, signals: Signals) -> int:
        """End the stream after, cleanly or not; returns the exit status."""
        status, name = 0, ""
        if self._program is not None:
            status, name = self._program.reap(cut_off=False), self._program.name
            if (
                self._flags.socket
                and self._up is not None
                and joint.was_reset(self._up)
            ):
                self._cut = f"the stream from {self._before} was cut short"
        elif self._into is not None and self._into.over == "gone":
            return BROKEN_PIPE
        if self._cut:
            say(f"{self._cut}; what came of it is not the whole")
            return CUT
        if self._asked:
            return status or 128 + self._asked
        if is_crash(status, strict=self._flags.strict):
            if self._down is not None and status != BROKEN_PIPE:
                say(f"{name}: {describe(status)}; {self._after} hears: cut short")
            return status
        if self._down is not None and not self._seal(signals):
            return 128 + self._asked
        if self._down is not None:
            joint.finish(self._down)
            self._down = None
        if self._up is not None and self._program is None:
            joint.finish(self._up)
            self._up = None
        return status

    def _seal(self, signals: Signals) -> bool:
        """Send the end of a compressed stream; False where a signal asked not to."""
        if isinstance(self._out_of, PackedFlow) and self._out_of.over == "end":
            self._out_of.seal()
            self._flows = [self._out_of]
            while self._flows and not self._asked:
                self._turn(signals)
        return not self._asked

    def _moved(self) -> int:
        flow = self._out_of or self._into
        return flow.moved if flow is not None else 0

    def _row(self, status: int, now: float) -> Row:
        return Row(
            1,
            socket.gethostname(),
            self._program.name if self._program is not None else "(copy)",
            describe(status).removeprefix("exit ").removeprefix("killed by "),
            self._into.moved if self._into is not None else None,
            self._out_of.moved if self._out_of is not None else None,
            now - self._started,
            sent=self._out_of.packed if isinstance(self._out_of, PackedFlow) else None,
        )

    def _close(self, fd: int) -> None:
        self._pipes.discard(fd)
        os.close(fd)

    def _drop_upstream(self) -> None:
        if self._up is not None:
            self._up.close()
            self._up = None

    def _drop_downstream(self) -> None:
        if self._down is not None:
            self._down.close()
            self._down = None
