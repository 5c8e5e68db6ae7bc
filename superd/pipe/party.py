"""Talk to the agent of one stage, here or on another host.

The rule of the file: an agent is not trusted with more than its stage: what it says is
checked, what its programs say on stderr is shown with the name of its host in front and
without control characters.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from superd.handlers.pipeline import auth, joint
from superd.handlers.pipeline.agent import Agent, Limits
from superd.handlers.pipeline.channel import Channel, ChannelLost, Message
from superd.handlers.pipeline.failure import (
    CUT,
    REFUSED,
    SYSTEM,
    UNREACHABLE,
    USAGE,
    Failure,
)
from superd.handlers.pipeline.frames import FrameError
from superd.pipe.report import Row

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from superd.handlers.pipeline.identity import Identity
    from superd.handlers.pipeline.joint import Stream

_ANSWER: Final = 10.0
_LAST: Final = 3.0
"""Seconds for an agent of our own that has nothing to do any more."""
_LONGEST_LINE: Final = 1 << 16
_LONGEST_ARGV: Final = 100_000
"""Well below a frame, with every character escaped; an exec takes 128 KiB a word."""


class Party:
    """One stage as the caller sees it; `number` 0 and the last may be our own copies."""

    def __init__(
        self, number: int, argv: list[str], host: joint.Address | None
    ) -> None:
        self.number = number
        self.argv = argv
        self.host = host
        self.name = host.host if host is not None else "local"
        self.channel: Channel | None = None
        self.pid = 0
        self.tokens: dict[str, bytes] = {}
        self.state = ""
        self.status = 0
        self.cut = ""
        self.is_second_hand = False
        self.stopped = False
        self.is_done = False
        self.counts = (0, 0)
        self.packed: int | None = None
        self.seconds = 0.0
        self.ports: dict[str, int] = {}
        self.levels = {"in": 0, "out": 0}
        self.certificates: dict[str, str] = {}
        """Which certificate the other end of each joint must have, by TLS."""
        self.fingerprint = ""
        self._key = b""
        self._line = b""

    def __str__(self) -> str:
        return f"stage {self.number} @{self.name}" if self.argv else self.name

    @property
    def lines(self) -> Channel:
        """The channel, which is there from `call` on."""
        assert self.channel is not None
        return self.channel

    # -- how it begins -----------------------------------------------------------------

    def call(
        self,
        flags: argparse.Namespace,
        key: Callable[[], bytes],
        identity: Identity | None,
        others: list[Party],
    ) -> None:
        """Reach the agent: fork our own, or connect and prove who we are."""
        if self.host is None:
            self.fingerprint = identity.fingerprint if identity is not None else ""
            self._fork(flags, identity, others)
            return
        sock = joint.dial(self.host, flags.wait, flags.dead)
        self.channel = Channel(sock)
        try:
            if identity is not None:
                self.channel = Channel(self._secured(sock, identity, flags))
            else:
                # A host that waits for TLS has something to answer to.
                self.channel.say("alive")
            self._greet(self.channel, key, is_secure=identity is not None)
        except (ChannelLost, FrameError, OSError) as error:
            text = str(getattr(error, "strerror", None) or error)
            what = "" if text.startswith("TLS") else "no pipe service: "
            raise Failure(UNREACHABLE, f"{self} ({self.host}): {what}{text}") from None

    def _secured(
        self, sock: socket.socket, identity: Identity, flags: argparse.Namespace
    ) -> Stream:
        """Speak TLS, and check whose certificate it is."""
        from superd.handlers.pipeline.tls import NoTls, TlsStream  # noqa: PLC0415

        names = flags.tls_name
        context = identity.client(check_name=not names)
        host = self.name.partition("%")[0]
        stream = TlsStream(sock, context, server=False, name=None if names else host)
        try:
            stream.shake_hands(monotonic() + min(_ANSWER, flags.dead))
        except NoTls:
            raise Failure(
                REFUSED,
                f"{self} ({self.host}): TLS: the service speaks none; give it the "
                "option tls (and mode: process), or leave out --tls-cert",
            ) from None
        if names and not stream.has_name_of(names):
            theirs = ", ".join(stream.names)[:200] or "none"
            raise Failure(
                REFUSED,
                f"{self} ({self.host}): TLS: its certificate has the names {theirs}; "
                "none of them is a --tls-name",
            )
        self.fingerprint = stream.fingerprint
        return stream

    def _greet(
        self, channel: Channel, key_of: Callable[[], bytes], *, is_secure: bool
    ) -> None:
        hello = self._expect(channel, "hello")
        theirs = _bytes(hello, "nonce")
        wants_key = hello.get("key") is not False
        if not wants_key and not is_secure:
            raise FrameError("it asks for no key")
        try:
            key = key_of() if wants_key else auth.NO_KEY
        except Failure as failure:
            asks = f"{self} ({self.host}) asks for a key as well"
            raise Failure(failure.status, f"{asks}; {failure}") from None
        mine = auth.nonce()
        proof = auth.prove(key, auth.CALLER, mine, theirs)
        channel.say("auth", nonce=mine.hex(), proof=proof.hex())
        welcome = _bytes(self._expect(channel, "welcome"), "proof")
        if not auth.is_proof(welcome, key, auth.AGENT, mine, theirs):
            raise Failure(REFUSED, f"{self} ({self.host}): it has not our key")
        self._key = auth.session_key(key, mine, theirs)
        channel.seal_with(self._key, auth.CALLER, auth.AGENT)

    def _expect(self, channel: Channel, name: str) -> Message:
        message = channel.wait(_ANSWER)
        if message["is"] == "refused":
            text = str(message.get("text"))
            raise Failure(REFUSED, f"{self} ({self.host}): refused: {text}")
        if message["is"] != name:
            raise FrameError(f"expected {name}")
        return message

    def _fork(
        self,
        flags: argparse.Namespace,
        identity: Identity | None,
        others: list[Party],
    ) -> None:
        """Start an agent of our own: what it may run is what we may."""
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid:
            theirs.close()
            self.channel = Channel(ours)
            return
        status = SYSTEM
        try:
            # Ctrl-C is for the caller, who tells all hosts alike.
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            ours.close()
            for other in others:
                if other.channel is not None:
                    other.channel.sock.close()
            limits = Limits(silence=flags.dead, grace=flags.grace)
            Agent(Channel(theirs), list, limits, identity=identity).serve()
            status = 0
        except (ChannelLost, FrameError):
            status = CUT
        finally:
            os._exit(status)

    def begin(self, flags: argparse.Namespace, listen: list[str]) -> None:
        """Say what is to run, and on which sides it listens."""
        if len(json.dumps(self.argv)) > _LONGEST_ARGV:
            raise Failure(USAGE, f"{self}: more than {_LONGEST_ARGV} bytes of words")
        tokens = {
            side: auth.hide_token(self._key, side, token) if self._key else token
            for side, token in self.tokens.items()
        }
        self.lines.say(
            "start",
            argv=self.argv,
            listen=listen,
            tokens={side: token.hex() for side, token in tokens.items()},
            compress=self.levels,
            certificates=self.certificates,
            grace=flags.grace,
            silence=flags.dead,
            strict=flags.strict,
        )

    # -- how it goes -------------------------------------------------------------------

    def hear(self, message: Message) -> bytes:
        """Take what the agent says; returns the lines of stderr to show."""
        name = message["is"]
        if name == "alive":
            self.counts = _pair(message.get("counts"))
        elif name == "stderr":
            return self._lines(str(message.get("text")).encode("latin-1", "replace"))
        elif name == "ready":
            self.ports = {
                str(side): int(port) for side, port in dict(message["ports"]).items()
            }
            if message.get("compress", {"in": 0, "out": 0}) != self.levels:
                raise FrameError("its superd does not know --compress")
        elif name == "refused":
            self._refuse(message)
        elif name == "status":
            self._end(message)
            return self._rest()
        if name != "alive":
            self.state = name
        return b""

    def lose(self, why: str) -> None:
        """Count the agent as lost: its stage is as good as killed."""
        if not self.is_done:
            self.is_done = True
            self.status = self.status or CUT
            self.cut = self.cut or f"lost: {why}"

    def _refuse(self, message: Message) -> None:
        self.is_done = True
        self.status = int(message.get("status", REFUSED))
        self.cut = str(message.get("text"))

    def _end(self, message: Message) -> None:
        self.is_done = True
        self.status = int(message["status"])
        self.cut = str(message["cut"])
        self.is_second_hand = bool(message["second_hand"])
        self.stopped = bool(message["stopped"])
        self.counts = _pair([message["taken"], message["given"]])
        packed = message.get("packed")
        self.packed = int(packed) if packed is not None else None
        self.seconds = float(message["seconds"])

    def _lines(self, data: bytes) -> bytes:
        *lines, self._line = (self._line + data).split(b"\n")
        # A line without an end is shown all the same before it fills the memory.
        if len(self._line) > _LONGEST_LINE:
            lines, self._line = [*lines, self._line], b""
        return b"".join(self._prefixed(line) for line in lines)

    def _rest(self) -> bytes:
        line, self._line = self._line, b""
        return self._prefixed(line) if line else b""

    def _prefixed(self, line: bytes) -> bytes:
        text = line.decode("utf-8", "backslashreplace")
        shown = "".join(
            c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text
        )
        return f"[{self.number} {self.name}] {shown}\n".encode("utf-8", "replace")

    def row(self, end: str) -> Row:
        """The stage's line in the table."""
        taken, given = self.counts
        return Row(
            self.number,
            self.name,
            self.argv[0],
            end,
            taken,
            given,
            self.seconds,
            self.cut,
            self.packed,
        )

    def close(self) -> None:
        """Let go of the agent; one of our own ends by that."""
        if self.channel is not None:
            self.channel.sock.close()
        if self.pid:
            # With it dies its program; whoever has it for a peer is reset.
            pidfd = os.pidfd_open(self.pid)
            if not select.select([pidfd], [], [], _LAST)[0]:
                os.kill(self.pid, signal.SIGKILL)
            os.close(pidfd)
            os.waitpid(self.pid, 0)
            self.pid = 0


def _bytes(message: Message, name: str) -> bytes:
    try:
        return bytes.fromhex(message[name])
    except (KeyError, TypeError, ValueError):
        raise FrameError(f"{message['is']} without {name}") from None


def _pair(value: Any) -> tuple[int, int]:
    try:
        first, second = value
        return int(first), int(second)
    except (TypeError, ValueError):
        raise FrameError("counts that are none") from None
