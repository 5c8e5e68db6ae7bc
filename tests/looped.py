"""Call a handler's serve() as a worker of a loop does, where a test would call its main().

`in_loop(module)` is a main: with `inetd.fork` every test of a handler can be played in an
event loop as well, on the same connection and for the same exit codes.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import signal
import socket
from contextlib import suppress

from superd.launcher.loop_status import CAUGHT, Judge
from superd.streams.reader import Reader
from superd.streams.writer import Writer

STALL = 30.0


def name_of(module):
    return module.__name__.rpartition(".")[2]


def in_loop(module):
    """Return a main() that serves fd 0 by the module's serve()."""

    def main(argv):
        return serve(module, argv, [0])[0]

    return main


def serve(module, argv, fds):
    """Serve connections at the same time; returns their exit codes."""
    judge = Judge(name_of(module))
    try:
        options = judge.options(argv, module)
    except Exception as error:  # noqa: BLE001  as the worker does
        return [judge.judge(error)] * len(fds)
    loop = asyncio.SelectorEventLoop(selectors.DefaultSelector())
    loop.set_exception_handler(judge.unasked)
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        serving = loop.create_task(_serve_all(module, options, fds, judge))
        # The master's `kill CONN TERM` cancels the task of a connection.
        loop.add_signal_handler(signal.SIGTERM, serving.cancel)
        return loop.run_until_complete(serving)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGPIPE, before)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        forget(module)


def forget(module):
    """Close what a worker keeps for its next connection."""
    if hasattr(module, "ROOTS"):
        module.ROOTS.close()


async def _serve_all(module, options, fds, judge):
    jobs = [_serve_one(module, options, os.dup(fd), judge) for fd in fds]
    return await asyncio.gather(*jobs)


async def _serve_one(module, options, fd, judge):
    with socket.socket(fileno=fd) as sock:
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        reader = Reader(sock, loop)
        writer = Writer(sock, loop, reader, os.environ.copy)
        try:
            status = await module.serve(reader, writer, options) or 0
        except CAUGHT as error:
            status = judge.judge(error)
        with suppress(ConnectionError):
            await writer.flush(STALL)
        writer.release()
        # What the launcher does with what a worker gives back.
        with suppress(OSError, TimeoutError):
            sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(0.5):
                while await loop.sock_recv(sock, 65536):
                    pass
        sock.setblocking(True)  # the flag is the test's as well
        return status
