"""Read the command line of superd-pipe.

The rule of the file: whatever is wrong with a command line is one line and status 64.
"""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Final, NoReturn

from superd.handlers.pipeline.failure import USAGE, Failure
from superd.handlers.pipeline.joint import parse_address
from superd.handlers.pipeline.zstd import DEFAULT_LEVEL, HIGHEST_LEVEL

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT: Final = 7040
"""Where a pipe service listens, unless a stage says @HOST:PORT."""
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(ms|s|m|h)")

_COMPRESS: Final = f"by zstd on the way, =1 to ={HIGHEST_LEVEL} ({DEFAULT_LEVEL})"
_NAME: Final = "a host may have, instead of its own, in its certificate"

_ROLES: Final = """\
usage: superd-pipe [--listen [HOST:]PORT] [--to HOST:PORT] [flags] [-- PROGRAM ...]
       superd-pipe run [flags] 'PROGRAM ... | @HOST[:PORT] PROGRAM ... | ...'
"""
_EXAMPLES: Final = """\
a pipeline over three hosts, from its end (start it first) to its head:
  hostC$ superd-pipe --listen 9003 -- sort -rn
  hostB$ superd-pipe --listen 9002 --to hostC:9003 -- grep -v '^#'
  hostA$ superd-pipe --to hostB:9002 -- cat data.txt

the exit status is the program's (128 + signal if it was killed); 64: wrong command line,
69: cannot listen or connect, 74: a stream was cut short, 126, 127: no such program
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Failure(USAGE, f"{message}; see superd-pipe --help")


def parse_role(argv: Sequence[str]) -> argparse.Namespace:
    """Read the flags of a role: what is left of `--` is ours, what is right is run."""
    ours, program = _split(argv)
    parser = _parser("superd-pipe", _ROLES.partition("\n")[0].removeprefix("usage: "))
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add("--listen", metavar="[HOST:]PORT", help="where the stage before connects")
    add("--to", metavar="HOST:PORT", help="where the stage after listens")
    add("--keep", action="store_true", help="serve the next peer after this one")
    add("--from", dest="source", metavar="IP", help="accept this peer alone")
    add("--socket", action="store_true", help="the program gets the sockets, no pipes")
    add("--ready-fd", type=int, metavar="N", help="write the address listened on to N")
    _common(parser)
    flags = parser.parse_args(_with_level(ours))
    flags.program = program
    if flags.listen is None and flags.to is None:
        parser.error("neither --listen nor --to")
    if flags.listen is None and (flags.keep or flags.source or flags.ready_fd):
        parser.error("--keep, --from and --ready-fd are for a role with --listen")
    if flags.socket and not program:
        parser.error("--socket is for a role with a program")
    if flags.socket and flags.compress:
        parser.error("--socket leaves nobody to do what --compress says")
    if flags.listen is not None:
        flags.listen = parse_address(flags.listen, host_needed=False)
    if flags.to is not None:
        flags.to = parse_address(flags.to, host_needed=True)
    return flags


def parse_run(argv: Sequence[str]) -> argparse.Namespace:
    """Read the flags of `superd-pipe run`."""
    parser = _parser(
        "superd-pipe run", "superd-pipe run [flags] 'PROGRAM ... | @HOST PROGRAM ...'"
    )
    add = parser.add_argument
    add("pipeline", help="programs joined by |; @HOST[:PORT] says where one runs")
    add("--key", default=_key_file(), metavar="FILE", help="the key of the hosts")
    add("--port", type=int, default=PORT, help=f"of the pipe services ({PORT})")
    add("--tls-cert", metavar="FILE", help="our certificate: all is by TLS then")
    add("--tls-key", metavar="FILE", default="", help="its key, if not in that file")
    add("--tls-ca", metavar="FILE", help="the CA of the hosts' certificates")
    add("--tls-name", action="append", default=[], metavar="NAME", help=_NAME)
    add("--pipefail", action="store_true", help="the status of the first that failed")
    _common(parser)
    flags = parser.parse_args(_with_level(argv))
    if bool(flags.tls_cert) != bool(flags.tls_ca):
        parser.error("--tls-cert and --tls-ca are for each other")
    if not flags.tls_cert and (flags.tls_key or flags.tls_name):
        parser.error("--tls-key and --tls-name are for --tls-cert")
    return flags


def _key_file() -> str:
    return os.environ.get("SUPERD_PIPE_KEY") or os.path.expanduser("~/.superd-pipe.key")


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(argv)
    if "--" not in words:
        return words, []
    place = words.index("--")
    if not words[place + 1 :]:
        raise Failure(USAGE, "no program after --; without one, leave -- out as well")
    return words[:place], words[place + 1 :]


def _parser(name: str, usage: str) -> argparse.ArgumentParser:
    return _Parser(
        prog=name,
        usage=usage,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--wait", type=_duration, default=10.0, metavar="10s", help="try to connect")
    add("--dead", type=_duration, default=30.0, metavar="30s", help="a host is lost")
    add("--grace", type=_duration, default=2.0, metavar="2s", help="from TERM to KILL")
    add("--compress", type=_level, default=0, metavar="LEVEL", help=_COMPRESS)
    add("--strict", action="store_true", help="every status but 0 cuts the stream")
    add("--progress", action="store_true", help="bytes and rate, on a terminal")
    add("--report", action="store_true", help="a table of stages at the end")


def _with_level(words: Sequence[str]) -> list[str]:
    """Give --compress its level: an optional value would take the next word."""
    default = f"--compress={DEFAULT_LEVEL}"
    return [default if word == "--compress" else word for word in words]


def _level(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= HIGHEST_LEVEL:
        raise argparse.ArgumentTypeError(
            f"{text} is no level from 1 to {HIGHEST_LEVEL}"
        )
    return int(text)


def _duration(text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text} is no duration; for example 10s")
    return float(found[1]) * _UNITS[found[2]]
