"""Run one stage of a pipeline for a caller that has the key (superd-pipe run).

The rule of the file: what runs is what `programs` names, by the path written there; no
shell sees a word of a caller, and without `arguments` the words are the operator's alone.

A stage is a program with pipes of its own: this handler is for `mode: process`.
"""

from __future__ import annotations

import os
import sys

from superd.handlers import exits, stdio
from superd.handlers.run import run
from superd.handlers.wire import Wire

TYPE_CHECKING = False  # typing itself takes 5 ms of every start
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from superd.handlers.options import Options
    from superd.handlers.streams import Reader, Writer

OPTIONS: dict[str, dict[str, object]] = {
    "programs": {
        "type": "map",
        "default": [],
        "help": "what may run, by name: {grep: /bin/grep, top: /usr/bin/sort -rn}",
    },
    "arguments": {
        "type": "bool",
        "default": False,
        "help": "callers may add arguments; many programs can write files with them",
    },
    "key": {
        "type": "path",
        "default": "",
        "help": "file with the key that callers must have",
    },
    "handshake": {
        "type": "duration",
        "default": 10.0,
        "max": 600.0,
        "help": "a caller must have proven its key by then",
    },
    "silence": {
        "type": "duration",
        "default": 30.0,
        "min": 0.5,
        "max": 3600.0,
        "help": "a caller that says nothing for so long is lost, and its stage ended",
    },
    "grace": {
        "type": "duration",
        "default": 5.0,
        "max": 600.0,
        "help": "time between TERM and KILL, at most",
    },
    "lifetime": {
        "type": "duration",
        "default": 0.0,
        "help": "a stage that runs longer is ended; 0: never",
    },
}

ONLY_PROCESS = "a stage is a process: the service needs mode: process"


def main(argv: list[str]) -> int:
    """Serve the connection on fd 0 and 1."""
    return run("pipe", OPTIONS, _serve, argv)


async def serve(
    reader: Reader,  # noqa: ARG001
    writer: Writer,
    options: Mapping[str, object],  # noqa: ARG001
) -> int:
    """Refuse: an event loop has other peers, and a stage needs a process."""
    from superd.handlers.pipeline.frames import MESSAGE, Writer as Frames  # noqa: I001, PLC0415

    stdio.log(f"pipe: {ONLY_PROCESS}")
    text = f'{{"is": "refused", "status": 78, "text": "{ONLY_PROCESS}"}}'
    writer.write(Frames().frame(MESSAGE, text.encode()))
    await writer.drain()
    return exits.OK


def _serve(options: Options) -> int:
    """Lead the conversation; what it needs is loaded when there is a peer."""
    with Wire():  # SetupError where fd 0 is no connection
        pass
    import socket  # noqa: PLC0415

    from superd.handlers.pipeline import agent, auth, channel, frames  # noqa: PLC0415

    sock = socket.socket(fileno=os.dup(0))
    try:
        line = channel.Channel(sock)

        def read_key() -> bytes:
            try:
                return auth.read_key(options["key"])
            except exits.SetupError:
                line.say("refused", status=78, text="this host has no key to compare")
                raise

        session = agent.greet(line, read_key, options["handshake"])
        limits = agent.Limits(options["silence"], options["grace"], options["lifetime"])
        agent.Agent(line, _permit(options), limits, session).serve()
    except channel.ChannelLost as lost:
        raise exits.PeerGone(str(lost)) from None
    except frames.FrameError as error:
        raise exits.PeerError(str(error)) from None
    finally:
        sock.close()
    return exits.OK


def _permit(options: Options) -> Callable[[list[str]], list[str]]:
    """Return what turns a caller's words into a command line, or refuses them."""
    import shlex  # noqa: PLC0415

    from superd.handlers.pipeline.failure import REFUSED, Failure  # noqa: PLC0415

    programs = {}
    for name, text in options["programs"]:
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise exits.SetupError(f"option --programs: {name}: {error}") from None
        if not words or not os.path.isabs(words[0]):
            raise exits.SetupError(
                f"option --programs: {name}: {text or 'nothing'} is no absolute path"
            )
        programs[name] = words

    def permit(argv: list[str]) -> list[str]:
        if not argv or argv[0] not in programs:
            name = argv[0][:100] if argv else "nothing"
            known = ", ".join(sorted(programs)) or "none"
            raise Failure(REFUSED, f"{name} is not among its programs ({known})")
        if argv[1:] and not options["arguments"]:
            raise Failure(
                REFUSED, f"it allows no arguments for {argv[0]}; run it without"
            )
        if any("\0" in word for word in argv):
            raise Failure(REFUSED, "a NUL byte is no argument")
        return programs[argv[0]] + argv[1:]

    return permit


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
