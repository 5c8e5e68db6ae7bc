"""Be the agent of one stage: do what the caller says, and tell how it goes.

    agent                         caller
                   <-  alive               a word in clear, where there is no TLS
      hello nonce  ->
                   <-  auth nonce, proof
      welcome proof ->                        from here on every message is sealed
                   <-  start argv, sides, tokens
      ready ports  ->
                   <-  join addresses
      joined       ->
                   <-  go                     every joint of every stage is connected
      running      ->
                   <-  flow                   every program of every stage has started
      stderr, alive ->  <- alive, signal, stop
      status       ->

The rule of the file: the caller's end, or its silence, is the end of the stage.
"""

from __future__ import annotations

import select
import signal
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from superd.handlers.pipeline import auth, joining, joint, zstd
from superd.handlers.pipeline.channel import Channel, ChannelLost, Message
from superd.handlers.pipeline.engine import Engine
from superd.handlers.pipeline.failure import Failure
from superd.handlers.pipeline.frames import FrameError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from superd.handlers.pipeline.identity import Identity

SIDES: Final = ("in", "out")
STEP: Final = 30.0
"""Seconds for one step of the others: hosts may be far and many."""
_LAST_WORD: Final = 2.0
_LARGEST: Final = 1_000_000


class Limits(NamedTuple):
    """What an agent grants, whatever the caller asks."""

    silence: float = 30.0
    grace: float = 5.0
    lifetime: float = 0.0
    ports: range = range(0)
    """Where it listens for joints; empty: where the kernel says."""
    join: float = auth.TOKEN_LIFE
    """Seconds in which the neighbours must have come to the joints."""


class Agent:
    """One stage and the conversation about it."""

    def __init__(
        self,
        channel: Channel,
        permit: Callable[[list[str]], list[str]],
        limits: Limits,
        key: bytes = b"",
        identity: Identity | None = None,
    ) -> None:
        self._channel = channel
        self._permit = permit
        self._limits = limits
        self._key = key
        self._identity = identity
        self._pins: dict[str, joining.Pin] = {}
        self._levels = {"in": 0, "out": 0}
        self._grace = limits.grace
        self._silence = limits.silence
        self._tokens = {"in": b"", "out": b""}
        self._listeners: dict[str, list[socket.socket]] = {}
        self._joints: dict[str, joint.Stream | None] = {"in": None, "out": None}
        self._engine: Engine | None = None

    def serve(self) -> None:
        """Lead the conversation to its end.

        Raises ChannelLost when the caller is gone, FrameError when it breaks the rules.
        """
        try:
            self._converse()
        except Failure as failure:
            self._channel.say("refused", status=failure.status, text=str(failure))
            self._hang_up()
        finally:
            for listeners in self._listeners.values():
                joint.close_all(listeners)
            if self._engine is not None:
                self._engine.close()
            else:
                for sock in self._joints.values():
                    if sock is not None:
                        sock.close()

    def _converse(self) -> None:
        start = self._hear("start", STEP)
        argv = self._prepare(start)
        self._channel.say("ready", ports=self._ports(), compress=self._levels)
        self._join(self._hear("join", STEP))
        if self._key and None in self._joints.values():
            # The program would have the conversation itself for its stdin or stdout.
            raise FrameError("a stage of this host has a joint on either side")
        self._channel.say("joined")
        self._hear("go", STEP)
        self._engine = Engine(
            (self._joints["in"], self._joints["out"]),
            (self._tokens["in"], self._tokens["out"]),
            levels=(self._levels["in"], self._levels["out"]),
            grace=self._grace,
            strict=bool(start.get("strict")),
        )
        self._engine.start(argv)
        self._channel.say("running")
        self._hear("flow", STEP)
        self._engine.open()
        try:
            self._run(self._engine)
        except (ChannelLost, FrameError) as error:
            self._wind_down(self._engine, str(error))
            raise
        self._tell(self._engine)
        self._hang_up()

    def _hear(self, name: str, seconds: float) -> Message:
        message = self._channel.wait(seconds)
        while message["is"] == "alive":
            message = self._channel.wait(seconds)
        if message["is"] == "stop":
            raise ChannelLost("the caller has given up")
        if message["is"] != name:
            raise FrameError(f"expected {name}, got {message['is'][:20]}")
        return message

    # -- the steps before the start ----------------------------------------------------

    def _prepare(self, start: Message) -> list[str]:
        """Check what is to run, and listen for the joints that come to us."""
        argv = start.get("argv")
        if not isinstance(argv, list) or not all(isinstance(x, str) for x in argv):
            raise FrameError("start without argv")
        permitted = self._permit(argv)
        self._grace = min(_number(start, "grace"), self._limits.grace)
        self._silence = min(_number(start, "silence"), self._limits.silence)
        for side, token in _fields(start, "tokens").items():
            if side not in SIDES:
                raise FrameError("a token for no side")
            self._tokens[side] = self._token(side, token)
        self._agree(start)
        host = self._own_host()
        for side in start.get("listen", ()):
            if side not in SIDES or not self._tokens[side]:
                raise FrameError("no token for a joint")
            self._listeners[side] = joint.listen_in(host, self._limits.ports)
        return permitted

    def _agree(self, start: Message) -> None:
        """Take on how the joints are compressed and encrypted, or refuse."""
        for side, level in _fields(start, "compress").items():
            if side not in SIDES or type(level) is not int:
                raise FrameError("a compression that is none")
            if not 0 <= level <= zstd.HIGHEST_LEVEL:
                raise FrameError("a compression that is none")
            if level:
                zstd.library()
            self._levels[side] = level
        for side, text in _fields(start, "certificates").items():
            if side not in SIDES or type(text) is not str or self._identity is None:
                raise FrameError("a certificate for no joint")
            self._pins[side] = joining.Pin(self._identity, text)
        if self._key and self._identity is not None and len(self._pins) < len(SIDES):
            raise FrameError("a joint without TLS")

    def _token(self, side: str, text: Any) -> bytes:
        try:
            token = bytes.fromhex(text)
        except (TypeError, ValueError):
            raise FrameError("a token that is none") from None
        if len(token) != auth.TOKEN:
            raise FrameError("a token that is none")
        return auth.hide_token(self._key, side, token) if self._key else token

    def _own_host(self) -> str:
        """The address that the caller reached is the one that others reach."""
        name = self._channel.sock.getsockname()
        return str(name[0]) if isinstance(name, tuple) else "127.0.0.1"

    def _ports(self) -> dict[str, int]:
        return {
            side: listeners[0].getsockname()[1]
            for side, listeners in self._listeners.items()
        }

    def _join(self, join: Message) -> None:
        """Connect where we connect, then take who comes: so nobody waits for us."""
        for side, where in _fields(join, "to").items():
            if side not in SIDES or side in self._listeners or not self._tokens[side]:
                raise FrameError("a joint that was not agreed on")
            try:
                text = str(joint.Address(str(where[0]), int(where[1])))
                address = joint.parse_address(text, host_needed=True)
            except (Failure, LookupError, OverflowError, TypeError, ValueError):
                raise FrameError("an address that is none") from None
            self._joints[side] = joining.dial(
                address,
                self._tokens[side],
                self._silence,
                self._channel,
                self._pins.get(side),
                self._limits.join,
            )
        for side, listeners in self._listeners.items():
            self._joints[side] = joining.accept(
                listeners,
                self._tokens[side],
                self._silence,
                self._channel,
                self._pins.get(side),
                self._limits.join,
            )
            joint.close_all(listeners)

    # -- the run -----------------------------------------------------------------------

    def _run(self, engine: Engine) -> None:
        until = monotonic() + (self._limits.lifetime or 1e9)
        while not engine.is_over:
            poller = select.poll()
            self._channel.watch(poller)
            engine.watch(poller, with_stderr=not self._channel.is_full)
            patience = min(engine.patience(), self._silence / 4, 0.5)
            ready = dict(poller.poll(max(0.0, patience) * 1000))
            self._channel.step(ready)
            for message in self._channel.take():
                self._obey(message, engine)
            self._complain(engine.step(ready))
            now = monotonic()
            if now >= until:
                until = now + 1e9
                engine.stop(f"more than {self._limits.lifetime:g} s", second_hand=False)
            if now - self._channel.heard > self._silence:
                raise ChannelLost(f"nothing was heard of it for {self._silence:g} s")
            if now - self._channel.said > min(self._silence / 4, 0.5):
                self._channel.say("alive", counts=engine.counts)

    def _wind_down(self, engine: Engine, why: str) -> None:
        """End the stage though nobody is there to hear of it."""
        engine.stop(f"the caller: {why}", second_hand=True)
        while not engine.is_over:
            poller = select.poll()
            engine.watch(poller, with_stderr=True)
            engine.step(dict(poller.poll(min(engine.patience(), 1.0) * 1000)))

    def _obey(self, message: Message, engine: Engine) -> None:
        if message["is"] == "signal":
            number = int(_number(message, "number"))
            if number not in set(signal.Signals):
                raise FrameError(f"no signal {number}")
            engine.send(number)
        elif message["is"] == "stop":
            engine.stop(str(message.get("why", "stopped")), second_hand=True)
        elif message["is"] != "alive":
            raise FrameError(f"unexpected {message['is'][:20]}")

    def _complain(self, said: bytes) -> None:
        if said:
            # Latin-1 has a character for each byte, and back.
            self._channel.say("stderr", text=said.decode("latin-1"))

    def _tell(self, engine: Engine) -> None:
        self._complain(engine.last_words())
        engine.finish()
        taken, given = engine.counts
        self._channel.say(
            "status",
            status=engine.status,
            cut=engine.cut,
            second_hand=engine.is_second_hand,
            stopped=engine.was_stopped,
            taken=taken,
            given=given,
            packed=engine.packed,
            seconds=engine.seconds,
        )

    def _hang_up(self) -> None:
        """Let the last word leave: the caller closes when it has it."""
        with suppress(ChannelLost, FrameError):
            while True:
                self._channel.wait(_LAST_WORD)


def greet(channel: Channel, key: Callable[[], bytes] | None, seconds: float) -> bytes:
    """Make sure that the caller has the key, and show it ours; returns the session's.

    `key` reads it, once there is a caller; None: certificates are enough. Raises
    FrameError for a wrong one.
    """
    mine = auth.nonce()
    channel.say("hello", nonce=mine.hex(), key=key is not None)
    message = channel.wait(seconds)
    if message["is"] == "alive":
        message = channel.wait(seconds)
    try:
        theirs = bytes.fromhex(message["nonce"])
        proof = bytes.fromhex(message["proof"])
    except (KeyError, TypeError, ValueError):
        raise FrameError("expected auth") from None
    secret = key() if key is not None else auth.NO_KEY
    if len(theirs) != auth.NONCE or not auth.is_proof(
        proof, secret, auth.CALLER, theirs, mine
    ):
        text = "the key is not this host's key"
        channel.say("refused", status=77, text=text)
        raise FrameError(text)
    channel.say("welcome", proof=auth.prove(secret, auth.AGENT, theirs, mine).hex())
    session = auth.session_key(secret, theirs, mine)
    channel.seal_with(session, auth.AGENT, auth.CALLER)
    return session


def _fields(message: Message, name: str) -> dict[str, Any]:
    fields = message.get(name, {})
    if not isinstance(fields, dict):
        raise FrameError(f"{message['is'][:20]}: {name} is no mapping")
    return fields


def _number(message: Message, name: str) -> float:
    number = message.get(name)
    # JSON of Python has NaN and infinity, and numbers that no float can hold.
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise FrameError(f"{message['is'][:20]}: {name} is no number")
    if not 0 <= number <= _LARGEST:
        raise FrameError(f"{message['is'][:20]}: {name} is no number")
    return float(number)
