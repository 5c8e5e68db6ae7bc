"""Run one stage of a pipeline between framed joints.

The rule of the file: the same as of a role's stage: the program sees the end of its input
only where the stream before was whole, and the stage after gets its END frame only after
the program's status was judged.

A stage without a program feeds a pipeline from our stdin, or takes it to our stdout.
"""

from __future__ import annotations

import os
import select
import signal
import stat
from time import monotonic
from typing import TYPE_CHECKING, Final

from superd.handlers.pipeline import joining, joint, program
from superd.handlers.pipeline.failure import (
    BROKEN_PIPE,
    CUT,
    describe,
    is_crash,
)
from superd.handlers.pipeline.framed import Inflow, Outflow
from superd.handlers.pipeline.zstd import Packer, Unpacker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from superd.handlers.pipeline.joint import Stream
    from superd.handlers.pipeline.program import Program

STDERR_STEP: Final = 1 << 14


class Engine:
    """One stage: what comes in, the program, what goes out.

    `levels` are those of zstd, of the joint on either side; 0 is no compression.
    """

    def __init__(
        self,
        joints: tuple[Stream | None, Stream | None],
        tokens: tuple[bytes, bytes],
        *,
        levels: tuple[int, int] = (0, 0),
        grace: float,
        strict: bool,
    ) -> None:
        self._joints = joints
        self._levels = levels
        self._seeds = [joining.seed(token) for token in tokens]
        self._grace = grace
        self._strict = strict
        self._program: Program | None = None
        self._into: Inflow | None = None
        self._out: Outflow | None = None
        self._flows: list[Inflow | Outflow] = []
        self._pipes: set[int] = set()
        self._stderr: int | None = None
        self._asked = 0
        self._kill_at = 0.0
        self._is_judged = False
        self._begun = monotonic()
        self.cut = ""
        self.is_second_hand = False
        """Whether the stream is cut here because of something that was elsewhere."""
        self.status = 0

    # -- the start ---------------------------------------------------------------------

    def start(self, argv: Sequence[str]) -> None:
        """Start the program, or nothing; no byte flows before `open`."""
        before, after = self._joints
        if not argv:
            # One joint, and a descriptor of our own on the other side.
            if before is not None:
                self._into = self._inflow(before, self._own_stdout())
            if after is not None:
                self._out = self._outflow(0, after)
            return
        stdin, stdout = 0, 1
        ours, stderr = program.pipe_to_read()
        self._stderr = self._own(ours)
        theirs = [stderr]
        if before is not None:
            stdin, ours = program.pipe_to_write()
            theirs.append(stdin)
            self._into = self._inflow(before, self._own(ours))
        if after is not None:
            ours, stdout = program.pipe_to_read()
            theirs.append(stdout)
            self._out = self._outflow(self._own(ours), after)
        # Of a group that is not the terminal's, who reads from it is stopped.
        on_terminal = before is None and os.isatty(0)
        try:
            self._program = program.start(
                argv, (stdin, stdout, stderr), own_group=not on_terminal
            )
        finally:
            for fd in theirs:
                os.close(fd)
        if self._into is not None:
            self._program.guard(self._into.target)

    def _inflow(self, before: Stream, target: int) -> Inflow:
        unpacker = Unpacker() if self._levels[0] else None
        return Inflow(before, target, self._seeds[0], unpacker)

    def _outflow(self, source: int, after: Stream) -> Outflow:
        packer = Packer(self._levels[1]) if self._levels[1] else None
        return Outflow(source, after, self._seeds[1], packer)

    def open(self) -> None:
        """Let the bytes flow."""
        self._begun = monotonic()
        self._flows = [flow for flow in (self._into, self._out) if flow is not None]

    def _own_stdout(self) -> int:
        """Give our stdout so that no write waits: whoever waits is taken for lost.

        O_NONBLOCK on fd 1 itself would be set for everybody who has it. A pipe and a
        terminal can be opened anew, with flags of one's own; a file never waits.
        """
        mode = os.fstat(1).st_mode
        if not stat.S_ISFIFO(mode) and not os.isatty(1):
            return 1
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        try:
            return self._own(os.open("/proc/self/fd/1", flags))
        except OSError:
            # EACCES: of another user. ENXIO: nobody reads, which the write will tell.
            return 1

    def _own(self, fd: int) -> int:
        self._pipes.add(fd)
        return fd

    # -- the middle --------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to wait for."""
        running = self._program is not None and self._program.status is None
        return self._is_judged and not running and not self._flows

    @property
    def counts(self) -> tuple[int, int]:
        """The bytes that came in and went out by the joints."""
        return (
            self._into.moved if self._into is not None else 0,
            self._out.moved if self._out is not None else 0,
        )

    @property
    def packed(self) -> int | None:
        """The bytes that went out as they were sent, where they are compressed."""
        return self._out.packed if self._out is not None and self._levels[1] else None

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return monotonic() - self._begun

    def watch(self, poller: select.poll, *, with_stderr: bool) -> None:
        """Register what it waits for."""
        if self._program is not None and self._program.status is None:
            poller.register(self._program.pidfd, select.POLLIN)
        if self._stderr is not None and with_stderr:
            poller.register(self._stderr, select.POLLIN)
        for flow in self._flows:
            flow.watch(poller)

    def step(self, ready: dict[int, int]) -> bytes:
        """Do what can be done now; returns what the program said on stderr."""
        for flow in self._flows.copy():
            flow.step(ready)
            if flow.over:
                self._flows.remove(flow)
                self._ended(flow)
        running = self._program is not None and self._program.status is None
        if running and self._program is not None and self._program.pidfd in ready:
            self._program.reap(cut_off=bool(self.cut or self._asked))
        said = self._complaint() if self._stderr in ready else b""
        if self._kill_at and monotonic() >= self._kill_at and self._program is not None:
            self._program.send(signal.SIGKILL)
        if not self._is_judged and self._may_judge():
            self._judge()
        return said

    def patience(self) -> float:
        """Seconds until there is something to do that no descriptor announces."""
        return max(0.0, self._kill_at - monotonic()) if self._kill_at else 3600.0

    def send(self, number: int) -> None:
        """Hand a signal to the program; the stream is not whole after that."""
        self._asked = self._asked or number
        if self._program is not None:
            self._program.send(number)
        else:
            self._give_up(f"ended by {signal.Signals(number).name}")

    def stop(self, why: str, *, second_hand: bool) -> None:
        """End the stage: TERM, and after the grace KILL."""
        if not self._is_judged:
            self.is_second_hand = self.is_second_hand if self.cut else second_hand
            self._give_up(why)

    def close(self) -> None:
        """Leave nothing: a joint that has not ended cleanly is reset."""
        if self._program is not None:
            self._program.kill()
        for fd in self._pipes:
            os.close(fd)
        self._pipes.clear()
        for sock in self._joints:
            if sock is not None:
                sock.close()

    def _ended(self, flow: Inflow | Outflow) -> None:
        if flow is self._out and flow.over != "sent":
            if self._program is not None:
                self._close(flow.source)
        elif isinstance(flow, Inflow) and flow.over in ("cut", "full"):
            self.is_second_hand = flow.over == "cut"
            before = "input cut short" if flow.over == "cut" else "stdout takes no more"
            self._give_up(f"{before} after {flow.moved} bytes: {flow.why}")
        elif isinstance(flow, Inflow) and self._program is not None:
            self._program.let_go()
            self._close(flow.target)

    def _give_up(self, why: str) -> None:
        self.cut = self.cut or why
        self._flows.clear()
        if self._out is not None:
            self._out.abort(why)
        for sock in self._joints:
            if sock is not None:
                sock.close()
        if self._program is not None and not self._kill_at:
            self._program.send(signal.SIGTERM)
            self._program.send(signal.SIGCONT)
            self._kill_at = monotonic() + self._grace

    def _complaint(self) -> bytes:
        assert self._stderr is not None
        try:
            said = os.read(self._stderr, STDERR_STEP)
        except BlockingIOError:
            return b""
        if not said:
            self._close(self._stderr)
            self._stderr = None
        return said

    def last_words(self) -> bytes:
        """Return what the program left on stderr, without waiting."""
        said = b""
        while self._stderr is not None and (more := self._complaint()):
            said += more
        return said

    # -- the end -----------------------------------------------------------------------

    def _may_judge(self) -> bool:
        ended = self._program is None or self._program.status is not None
        return ended and (not self._flows or bool(self.cut or self._asked))

    def _judge(self) -> None:
        """Decide on the status, and whether the stream after is whole."""
        self._is_judged = True
        if self._program is not None:
            self.status = self._program.reap(cut_off=False)
        elif self._is_left_alone():
            self.status = BROKEN_PIPE
        if self._asked:
            self.status = self.status or 128 + self._asked
        if self.cut:
            self.status = self.status or CUT
        elif self._asked or is_crash(self.status, strict=self._strict):
            if not self._is_left_alone():
                self.cut = describe(self.status)
        elif self._out is not None and self._out.over == "end":
            self._out.end()
            if not self._out.over:
                self._flows = [self._out]
        self._settle()

    def _is_left_alone(self) -> bool:
        """Whether the stage after reads no more: its SIGPIPE is no failure."""
        flow = self._out or self._into
        return flow is not None and flow.over == "gone"

    @property
    def was_stopped(self) -> bool:
        """Whether the stage after said itself that it wants no more."""
        return self._out is not None and self._out.was_stopped

    def _settle(self) -> None:
        if self.cut:
            self._flows.clear()
            if self._out is not None:
                self._out.abort(self.cut)

    def finish(self) -> None:
        """Close the joints: with FIN where their streams are whole."""
        for sock, flow in zip(self._joints, (self._into, self._out), strict=True):
            if sock is None or sock.fileno() < 0:
                continue
            if flow is not None and flow.over in ("end", "sent"):
                joint.finish(sock)
            sock.close()

    def _close(self, fd: int) -> None:
        self._pipes.discard(fd)
        os.close(fd)
