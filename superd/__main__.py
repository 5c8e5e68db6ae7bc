"""Read the command line and become what it asks for: the master, or a command."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from typing import Any

from superd import __version__
from superd.master import notify
from superd.master.compiling import compile_argv, run_compile
from superd.master.detach import Verdict, detach
from superd.master.eventlog import PRIORITY, EventLog, is_journal, open_sink
from superd.master.generations import ApplyError
from superd.master.hints import hints
from superd.master.kernel import Kernel
from superd.master.master import Master, sound_stdio
from superd.master.pidfile import AlreadyRunningError, PidFile, PidFileError

DEFAULT_FILE = "/etc/superd.yaml"


class _Parser(argparse.ArgumentParser):
    """argparse with the exit status of sysexits: 64 for a wrong command line."""

    def error(self, message: str) -> Any:
        print(f"superd: {message}; superd --help shows the flags", file=sys.stderr)
        sys.exit(os.EX_USAGE)


def build_parser() -> argparse.ArgumentParser:
    """Declare the flags; docs and tests read them from here."""
    parser = _Parser(
        prog="superd",
        usage="superd [-c FILE] [-d] [-p PID] [-t | --dump | --schema]\n"
        "       superd -l ADDRESS [-l ADDRESS ...] -- PROGRAM [ARGUMENT ...]\n"
        "       superd -l ADDRESS --handler NAME [-o OPTION=VALUE ...]",
        description="Listen on every address of one YAML file and run the mapped "
        "handler for each connection.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-c", "--config", metavar="FILE", help=f"default: {DEFAULT_FILE}")
    add("-d", "--daemon", action="store_true", help="detach; leave when it serves")
    add("-p", "--pidfile", metavar="PID", help="lock this file and write the pid to it")
    add(
        "-t",
        "--check",
        action="store_true",
        help="print every error of FILE, 78; or OK",
    )
    add("--dump", action="store_true", help="print the effective configuration")
    add("--schema", action="store_true", help="print a JSON Schema for editors")
    add("-l", "--listen", action="append", metavar="ADDRESS", help="serve without FILE")
    add("--handler", metavar="NAME", help="with -l: a Python handler")
    add("-o", "--option", action="append", metavar="OPTION=VALUE", default=[])
    add("--default-user", metavar="USER", help="user of services that name none")
    add("--hints", action="store_true", help="print for each service how to try it")
    add("-V", "--version", action="version", version=f"superd {__version__}")
    add("program", nargs="*", metavar="PROGRAM", help="with -l: what to run")
    return parser


def main() -> int:
    """Run the command; returns its exit status as in sysexits.h."""
    sound_stdio()
    arguments = build_parser().parse_args()
    try:
        source = _source(arguments)
    except ValueError as error:
        _say("error", f"superd: {error}")
        return os.EX_USAGE
    if arguments.default_user:
        source = ["--default-user", arguments.default_user, *source]
    for flag, mode in (
        ("schema", "--schema"),
        ("dump", "--dump"),
        ("check", "--check"),
    ):
        if getattr(arguments, flag):
            argv = compile_argv([mode, *source])
            sys.stdout.flush()
            os.execv(argv[0], argv)
    try:
        return _serve(arguments, ["--plan", *source])
    except AlreadyRunningError as error:
        _say("error", f"superd: {error}")
        return os.EX_TEMPFAIL
    except PidFileError as error:
        _say("error", f"superd: cannot create the pid file: {error}")
        return os.EX_CANTCREAT
    except OSError as error:
        _say("error", _spell(error))
        return os.EX_OSERR


def _source(arguments: argparse.Namespace) -> list[str]:
    """Name the configuration for the compile child: a file, or the command line."""
    if not arguments.listen:
        if arguments.program or arguments.handler or arguments.option:
            raise ValueError("a program or handler needs an address: -l PORT")
        return (
            [os.path.abspath(arguments.config)] if arguments.config else [DEFAULT_FILE]
        )
    if arguments.config:
        raise ValueError("-c and -l exclude each other")
    if bool(arguments.program) == bool(arguments.handler):
        raise ValueError("-l wants one of: -- PROGRAM, or --handler NAME")
    service: dict[str, Any] = {"listen": arguments.listen}
    if arguments.handler:
        service["handler"] = name = arguments.handler
        if arguments.option:
            service["options"] = _options(arguments.option)
    else:
        program, *rest = arguments.program
        name = os.path.basename(program)
        # Typed at a shell, a bare name means what the shell would run.
        service["exec"] = [shutil.which(program) or program, *rest]
    return ["--adhoc", json.dumps({"services": {name: service}})]


def _options(words: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"-o {word}: write -o NAME=VALUE")
        value: Any = {"true": True, "false": False}.get(text, text)
        if text.isascii() and text.isdigit():
            value = int(text)
        # A dot leads into an option that is a mapping: -o timeouts.idle=5s
        holder: Any = options
        name, *below = name.split(".", 1)
        if below:
            holder = options.setdefault(name, {})
            if not isinstance(holder, dict):
                raise ValueError(f"-o {word}: {name} has a value already")
            name = below[0]
        if name in holder:
            before = holder[name]
            value = [*(before if isinstance(before, list) else [before]), value]
        holder[name] = value
    return options


def _serve(arguments: argparse.Namespace, compile_arguments: list[str]) -> int:
    kernel = Kernel()
    notifier = notify.Notifier(dict(os.environ))
    inherited = notify.Inherited(dict(os.environ))
    notify.forget(os.environ)  # type: ignore[arg-type]
    pidfile = PidFile(arguments.pidfile) if arguments.pidfile else None
    verdict: Verdict | None = None
    try:
        result = run_compile(kernel, compile_arguments, time.monotonic())
        for line in result.warnings:
            _say("warning", f"superd: warning: {line}")
        for line in result.errors:
            _say("error", line)
        if result.plan is None:
            return os.EX_CONFIG
        if arguments.daemon:
            keep = [
                one.fileno() for group in inherited.by_name.values() for one in group
            ]
            verdict = detach([*keep, *([pidfile.fd] if pidfile else [])])
        if pidfile:
            pidfile.write()  # before anybody is told that we are ready
        log = EventLog(open_sink("stderr"))
        master = Master(
            kernel, compile_arguments, log, notifier, inherited, daemon=arguments.daemon
        )
        try:
            master.start(result.plan)
        except ApplyError as error:
            text = "\n".join(f"superd: {line}" for line in error.lines)
            _remove(pidfile)
            return _fail(verdict, error.status, text)
        if arguments.hints:
            services = result.plan["services"]
            print("\n".join(hints(services, master.shell.listeners)), flush=True)
        if verdict:
            verdict.give(os.EX_OK)
        return master.run()
    except OSError as error:
        _remove(pidfile)
        return _fail(verdict, os.EX_OSERR, _spell(error))
    finally:
        _remove(pidfile)


def _remove(pidfile: PidFile | None) -> None:
    """Remove it, before anybody is told that it failed: he may look, and try again."""
    if pidfile:
        pidfile.remove()


def _fail(verdict: Verdict | None, status: int, text: str) -> int:
    if verdict:
        verdict.give(status, text)
    else:
        _say("error", text)
    return status


def _spell(error: OSError) -> str:
    name = f"{error.filename}: " if error.filename else ""
    return f"superd: {name}{error.strerror}"


def _say(level: str, text: str) -> None:
    """Tell whoever reads stderr; one that cannot be written to is no reason to fail."""
    prefix = f"<{PRIORITY[level]}>" if is_journal() else ""
    for line in text.splitlines():
        try:
            print(prefix + line, file=sys.stderr, flush=True)
        except OSError:
            return  # a full disk, a reader that has gone


if __name__ == "__main__":
    sys.exit(main())
