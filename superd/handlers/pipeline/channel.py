"""Exchange messages between the caller and an agent: frames of JSON, each sealed.

The rule of the file: no call waits unless it is told how long. The flags of the socket
are not ours (under superd the launcher has it too), so every call says MSG_DONTWAIT.
"""

from __future__ import annotations

import hmac
import json
import select
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from superd.handlers.pipeline import auth
from superd.handlers.pipeline.frames import MESSAGE, FrameError, Reader, Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from superd.handlers.pipeline.joint import Stream

_READ: Final = 1 << 16
FULL: Final = 1 << 17
"""Bytes that wait to leave; with more, nothing is added that can wait as well."""

Message = dict[str, Any]


class ChannelLost(Exception):  # noqa: N818  no error: the other side has gone
    """The other side has gone, or says nothing any more."""


class Channel:
    """One conversation; messages are dicts, their name is in `is`."""

    def __init__(self, sock: Stream) -> None:
        self.sock = sock
        self.heard = self.said = monotonic()
        self.received: list[Message] = []
        self._reader, self._writer = Reader(), Writer()
        self._out = bytearray()
        self._key = b""
        self._roles = (b"", b"")
        self._counts = [0, 0]

    @property
    def is_full(self) -> bool:
        """Whether the other side is behind with reading."""
        return len(self._out) >= FULL

    def seal_with(self, key: bytes, mine: bytes, theirs: bytes) -> None:
        """From here on every message is sealed, and one that is not is refused."""
        self._key, self._roles = key, (mine, theirs)

    def say(self, name: str, **fields: Any) -> None:
        """Send a message, or keep it until there is room."""
        payload = json.dumps({"is": name, **fields}).encode()
        if self._key:
            tag = auth.seal(self._key, self._roles[0], self._counts[0], payload)
            payload = tag + payload
        self._counts[0] += 1
        self._out += self._writer.frame(MESSAGE, payload)
        self.said = monotonic()
        self.flush()

    def flush(self) -> None:
        """Send what has waited, as far as there is room."""
        while self._out:
            try:
                sent = self.sock.send(self._out, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                raise ChannelLost(str(error.strerror)) from None
            del self._out[:sent]

    def watch(self, poller: select.poll) -> None:
        """Register what it waits for."""
        poller.register(self.sock, select.POLLIN | (select.POLLOUT if self._out else 0))

    def step(self, ready: dict[int, int]) -> None:
        """Send and receive what can be; ChannelLost, FrameError where that ends."""
        if self.sock.fileno() not in ready:
            return
        self.flush()
        try:
            data = self.sock.recv(_READ, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            raise ChannelLost(str(error.strerror)) from None
        if not data:
            raise ChannelLost("it has closed the connection")
        self.heard = monotonic()
        self.received += self._messages(data)

    def take(self) -> list[Message]:
        """Return what was received since the last call."""
        received, self.received = self.received, []
        return received

    def heed(self, ready: dict[int, int]) -> None:
        """While busy with something else: ChannelLost when that is to end."""
        self.step(ready)
        if any(message["is"] == "stop" for message in self.received):
            raise ChannelLost("the other side has given up")

    def wait(self, seconds: float) -> Message:
        """Wait for one message; ChannelLost after that time."""
        until = monotonic() + seconds
        while not self.received:
            poller = select.poll()
            self.watch(poller)
            ready = dict(poller.poll(max(0.0, until - monotonic()) * 1000))
            if not ready and monotonic() >= until:
                raise ChannelLost(f"nothing was heard of it for {seconds:g} s")
            self.step(ready)
        return self.received.pop(0)

    def _messages(self, data: bytes) -> Iterator[Message]:
        for kind, sealed in self._reader.feed(data):
            if kind != MESSAGE:
                raise FrameError(f"kind {kind} is no message")
            payload = sealed
            if self._key:
                tag, payload = sealed[: auth.SEAL], sealed[auth.SEAL :]
                wanted = auth.seal(self._key, self._roles[1], self._counts[1], payload)
                if not hmac.compare_digest(tag, wanted):
                    raise FrameError("a message without its seal")
            self._counts[1] += 1
            yield _parse(payload)


def _parse(payload: bytes) -> Message:
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        raise FrameError("a message that is no JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("is"), str):
        raise FrameError("a message without a name")
    return message
