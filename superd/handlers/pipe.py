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
        "help": "file with the key that callers must have; it or tls is needed",
    },
    "tls": {
        "type": "table",
        "keys": {
            "certificate": {
                "type": "path",
                "default": "",
                "help": "file of this host's certificate; callers need one too",
            },
            "key": {
                "type": "path",
                "default": "",
                "help": "file of its key, if that is not in the same",
            },
            "ca": {
                "type": "path",
                "default": "",
                "help": "file of the CA that signs callers and hosts",
            },
            "allow": {
                "type": "list",
                "default": [],
                "help": "names of callers (DNS, URI of their certificates); none: all",
            },
        },
        "help": "TLS 1.3 with certificates at both ends; with a key, both are needed",
    },
    "ports": {
        "type": "str",
        "default": "",
        "help": "ports for data from other hosts, as 9100-9199; none: the kernel's",
    },
    "join": {
        "type": "duration",
        "default": 10.0,
        "min": 0.1,
        "max": 20.0,
        "help": "the stages beside this one must have connected by then",
    },
    "handshake": {
        "type": "duration",
        "default": 10.0,
        "max": 600.0,
        "help": "a caller must have proven who it is by then",
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

    from superd.handlers.pipeline import admission, agent, channel, frames  # noqa: PLC0415

    limits = agent.Limits(
        options["silence"],
        options["grace"],
        options["lifetime"],
        _ports(options["ports"]),
        options["join"],
    )
    sock = socket.socket(fileno=os.dup(0))
    try:
        line, session, identity = admission.admit(sock, options)
        agent.Agent(line, _permit(options), limits, session, identity).serve()
    except channel.ChannelLost as lost:
        raise exits.PeerGone(str(lost)) from None
    except frames.FrameError as error:
        raise exits.PeerError(str(error)) from None
    finally:
        sock.close()
    return exits.OK


def _ports(text: str) -> range:
    """Read `9100-9199`, or one port; nothing is the range of nothing."""
    if not text:
        return range(0)
    first, dash, last = text.partition("-")
    ends = (first, last if dash else first)
    # int() takes `1_0`, ` 1` and the digits of every script.
    if all(
        end.isascii() and end.isdigit() and len(end) <= len("65535") for end in ends
    ):
        low, high = map(int, ends)
        if 0 < low <= high <= 65535:  # noqa: PLR2004  of 16 bits
            return range(low, high + 1)
    raise exits.SetupError(f"option --ports: {text} is no range of ports; 9100-9199 is")


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
