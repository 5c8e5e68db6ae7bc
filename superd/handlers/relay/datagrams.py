"""Relay datagrams: for each peer a socket of its own to a backend, while they talk.

The rule of the file: a datagram may be lost, and nothing else may be: whatever a peer or a
backend does costs one datagram or one session, never the process. Nothing here waits but
for the next datagram; only a backend that has a name is looked up, at most once in ten
seconds, and then all wait. Only a UDP socket as fd 0 loads this.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from contextlib import suppress
from time import monotonic

from superd.handlers import exits, stdio
from superd.handlers.relay.addresses import plain, spell
from superd.handlers.relay.backends import ERRNO_OURS, reason
from superd.handlers.relay.lookup import targets_of
from superd.handlers.relay.plan import plan_of
from superd.handlers.relay.story import IDLE

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from typing import Any, Final

    from superd.handlers.options import Options
    from superd.handlers.relay.addresses import Backend, Target
    from superd.handlers.relay.plan import Plan

TURN: Final = 64
"""Datagrams of one socket in one turn, so that a flood does not hold up the others."""
FRESH: Final = 10.0
"""Seconds that the addresses of a name are kept."""
LOOKUP: Final = 2.0
"""Seconds that all peers wait for a name."""
EVICTED: Final = "evicted"
"""The end of a session that made room."""
REFUSED: Final = "refused"
"""The end of one whose backend answers that nobody listens there."""

_MAX: Final = 65535
_IP_PKTINFO: Final = 8
"""linux/in.h; the socket module has the one of IPv6 only."""
_IPV6_PKTINFO: Final = 50
_NOWAIT: Final = int(socket.MSG_DONTWAIT)
_MS: Final = 1000


def relay(options: Options) -> int:
    """Relay the datagrams of fd 0 until it is idle; returns the exit code."""
    if not options["to"]:
        raise exits.SetupError(
            f"{stdio.NO_CONNECTION}; datagrams need a backend: option --to"
        )
    plan = plan_of(options)
    paths = [text for text in options["to"] if text.startswith("unix:")]
    if paths:
        raise exits.SetupError(f"option --to: {paths[0]}: datagrams need UDP")
    if options["proxy_protocol"] != "none":
        raise exits.SetupError("option --proxy-protocol: datagrams have no header")
    listener = socket.socket(fileno=os.dup(0))
    if listener.family == socket.AF_UNIX:
        listener.close()
        raise exits.SetupError("fd 0 is a Unix datagram socket; UDP is relayed only")
    relay = Relay(listener, plan)
    try:
        relay.run()
    finally:
        relay.close()
    return exits.OK


class Session:
    """One peer and its socket to a backend."""

    __slots__ = ("backend", "began", "down", "heard", "key", "peer", "sock", "up")

    def __init__(
        self, key: Any, peer: Any, backend: Backend, sock: socket.socket, now: float
    ) -> None:
        self.key = key
        self.peer = peer
        self.backend = backend
        self.sock = sock
        self.began = self.heard = now
        self.up = self.down = 0


class Relay:
    """The socket that is called, and the sessions, the most silent first."""

    def __init__(self, listener: socket.socket, plan: Plan) -> None:
        self._listener = listener
        self._plan = plan
        self._inet6 = listener.family == socket.AF_INET6
        self._own = listener.getsockname()
        self._sessions: dict[Any, Session] = {}
        self._by_fd: dict[int, Session] = {}
        self._known: dict[str, tuple[float, list[Target]]] = {}
        self._told = -FRESH
        # That an answer leaves from the address that was asked: of several, the kernel
        # would take its own choice, and the peer would not know it.
        if self._inet6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self._epoll = select.epoll()
        self._epoll.register(listener, select.EPOLLIN)

    def run(self) -> None:
        """Relay until nothing has come for long enough."""
        heard = monotonic()
        while True:
            now = monotonic()
            self._expire(now)
            if self._sessions:
                oldest = next(iter(self._sessions.values()))
                limit = oldest.heard + self._plan.session
            else:
                limit = heard + self._plan.idle
                if now >= limit:
                    return
            for fd, _ in self._epoll.poll(max(0.0, limit - now) + 1 / _MS):
                heard = monotonic()
                if fd == self._listener.fileno():
                    self._take(heard)
                elif fd in self._by_fd:
                    self._answer(self._by_fd[fd], heard)

    def close(self) -> None:
        """Close every socket that was opened here."""
        for session in self._sessions.values():
            session.sock.close()
        self._epoll.close()
        self._listener.close()

    # -- from the peers ----------------------------------------------------------------

    def _take(self, now: float) -> None:
        for _ in range(TURN):
            try:
                data, ancillary, _, peer = self._listener.recvmsg(_MAX, 128, _NOWAIT)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier answer, consumed by this call
            asked = tuple(
                (level, kind, self._reply_from(info))
                for level, kind, info in ancillary
                if (level, kind)
                in (
                    (socket.IPPROTO_IP, _IP_PKTINFO),
                    (socket.IPPROTO_IPV6, _IPV6_PKTINFO),
                )
            )
            key = (peer, asked)
            session = self._sessions.get(key) or self._open(key, peer, now)
            if session is not None:
                self._pass_on(session, data, now)

    def _pass_on(self, session: Session, data: bytes, now: float) -> None:
        self._touch(session, now)
        try:
            session.sock.send(data)
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                # Told of an earlier datagram: this one goes where somebody may listen.
                self._refused(session, now)
                again = self._open(session.key, session.peer, now)
                if again is not None:
                    with suppress(OSError):
                        again.sock.send(data)
                        again.up += len(data)
            return  # EAGAIN, EMSGSIZE, ENETUNREACH: a datagram may be lost
        session.up += len(data)

    def _reply_from(self, info: bytes) -> bytes:
        if self._inet6:
            return info
        # struct in_pktinfo: interface, local address, destination.
        _, _, destination = struct.unpack("=I4s4s", info)
        return struct.pack("=I4s4s", 0, destination, bytes(4))

    # -- from the backends -------------------------------------------------------------

    def _answer(self, session: Session, now: float) -> None:
        for _ in range(TURN):
            try:
                data = session.sock.recv(_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ECONNREFUSED:
                    self._refused(session, now)
                    return
                continue
            self._touch(session, now)
            _, asked = session.key
            with suppress(OSError):  # a full buffer, a peer that cannot be reached
                self._listener.sendmsg([data], asked, _NOWAIT, session.peer)
                session.down += len(data)

    def _refused(self, session: Session, now: float) -> None:
        self._plan.backends.note_down(session.backend, now)
        self._end(session, REFUSED)

    # -- sessions ----------------------------------------------------------------------

    def _open(self, key: Any, peer: Any, now: float) -> Session | None:
        """Make a socket for a peer, to the first backend that has an address."""
        while len(self._sessions) >= self._plan.sessions:
            self._end(next(iter(self._sessions.values())), EVICTED)
        why = "none"
        for backend in self._plan.backends.in_order(now):
            try:
                sock = self._connect(backend, now)
            except OSError as error:
                why = f"{backend.text}: {reason(error)}"
                if error.errno not in ERRNO_OURS:
                    self._plan.backends.note_down(backend, now)
                elif self._sessions:  # EMFILE: one of ours makes room for the next
                    self._end(next(iter(self._sessions.values())), EVICTED)
                continue
            session = Session(key, peer, backend, sock, now)
            self._sessions[key] = self._by_fd[sock.fileno()] = session
            self._epoll.register(sock, select.EPOLLIN)
            return session
        if now >= self._told + FRESH:
            self._told = now
            stdio.log(f"redirect: peer={_spell(peer)} no backend: {why}")
        return None

    def _connect(self, backend: Backend, now: float) -> socket.socket:
        until, targets = self._known.get(backend.text, (0.0, []))
        if now >= until:
            targets = targets_of(backend, monotonic() + min(LOOKUP, self._plan.connect))
            self._known[backend.text] = now + FRESH, targets
        target = targets[0]
        self._refuse_loop(backend, target)
        sock = socket.socket(target.family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect(target.address)
        except OSError:
            sock.close()
            raise
        return sock

    def _refuse_loop(self, backend: Backend, target: Target) -> None:
        """Raise SetupError where the backend is the socket that we were given."""
        host, port = plain(target.address[0]), target.address[1]
        own = plain(self._own[0])
        if port != self._own[1]:
            return
        if host == own or (own in ("0.0.0.0", "::", "") and _is_here(target)):
            raise exits.SetupError(
                f"option --to: {backend.text} is the address of this service itself:"
                " a loop"
            )

    def _touch(self, session: Session, now: float) -> None:
        """Make it the last that falls silent."""
        session.heard = now
        self._sessions[session.key] = self._sessions.pop(session.key)

    def _expire(self, now: float) -> None:
        for session in list(self._sessions.values()):
            if session.heard + self._plan.session > now:
                return
            self._end(session, IDLE)

    def _end(self, session: Session, how: str) -> None:
        del self._sessions[session.key], self._by_fd[session.sock.fileno()]
        session.sock.close()
        if self._plan.log:
            seconds = monotonic() - session.began
            stdio.log(
                f"redirect: peer={_spell(session.peer)} backend={session.backend.text}"
                f" up={session.up} down={session.down} seconds={seconds:.3f} end={how}"
            )


def _spell(peer: Any) -> str:
    return spell(peer[0].removeprefix("::ffff:"), peer[1])


def _is_here(target: Target) -> bool:
    """Say whether an address is of this machine: only such can be bound."""
    with socket.socket(target.family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((target.address[0], 0, *target.address[2:]))
        except OSError:
            return False
    return True
