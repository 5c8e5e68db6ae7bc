"""Compile a configuration: `python -m superd.config.compile --plan FILE`.

The master runs this as a child and reads the plan from its stdout. The same child
checks (`--check`), shows the effective configuration (`--dump`) and prints the schema
for editors (`--schema`). A file that crashes it, hangs it or makes it eat memory costs
a refused reload, nothing more: it bounds itself before it reads a byte.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from superd.config.dump import dump_configuration
from superd.config.files import COMMAND_LINE, Gathered, gather_data, gather_files
from superd.config.identity import NOBODY, Situation
from superd.config.model import Configuration, Log
from superd.config.plan import make_plan
from superd.config.presence import log_trouble
from superd.config.problems import Problems
from superd.config.services import Settled, Settling
from superd.config.validate import validate

if TYPE_CHECKING:
    from collections.abc import Sequence

MEMORY = 1 << 30
PROCESSOR_SECONDS = 20
SECONDS = 15
TOO_LARGE = "the configuration needs more memory than it may have; make it smaller"
TOO_LONG = f"the configuration takes longer than {SECONDS} s; make it smaller"


@dataclass(slots=True)
class Compiled:
    """What became of a configuration; `plan` is None when there are errors."""

    problems: Problems
    log: Log = field(default_factory=Log)
    services: list[Settled] = field(default_factory=list)
    plan: dict[str, Any] | None = None


def compile_file(name: str, situation: Situation | None = None) -> Compiled:
    """Compile a file and everything it includes."""
    situation = situation or Situation()
    problems = Problems()
    return _compile(gather_files(name, situation, problems), situation, problems)


def compile_data(
    data: Any, situation: Situation | None = None, folder: str | None = None
) -> Compiled:
    """Compile a configuration that comes as plain data, from the command line."""
    problems = Problems()
    gathered = gather_data(data, folder or os.getcwd(), problems)
    return _compile(gathered, situation or Situation(), problems)


def _compile(gathered: Gathered, situation: Situation, problems: Problems) -> Compiled:
    compiled = Compiled(problems)
    main = gathered.main
    if main is None:
        return compiled
    top = {
        name: value
        for name, value in main.data.items()
        if name not in ("services", "defaults")
        and not (name in ("log", "include") and value is None)
    }
    configuration, _ = validate(Configuration, top, (), main, problems)
    compiled.log = configuration.log
    if os.path.isabs(compiled.log.to) and (text := log_trouble(compiled.log.to)):
        key = ("log", "to")
        problems.error(main.value_place(key), key, text)
    compiled.services = Settling(gathered, situation, problems).settle()
    if not gathered.services and gathered.complete and not problems.errors:
        if main.data.get("services") == {}:
            problems.warn(main.key_place(("services",)), "services", "there are none")
        else:
            problems.error(
                main.value_place(()),
                "services",
                "there are none; for example {echo: {listen: 7007, handler: echo}}",
            )
    if not problems.errors:
        compiled.plan = make_plan(gathered.paths, compiled.log, compiled.services)
    return compiled


def command(argv: Sequence[str] | None = None) -> int:
    """Run one command in this process; the exit status is of sysexits.h."""
    arguments = _arguments(argv)
    if arguments.schema:
        # Imported here: only an editor asks for it.
        from superd.config.schema import make_schema  # noqa: PLC0415

        print(json.dumps(make_schema(), indent=2))
        return os.EX_OK
    situation = Situation(default_user=arguments.default_user, check=not arguments.plan)
    if arguments.adhoc is not None:
        name = COMMAND_LINE
        try:
            data = json.loads(arguments.adhoc)
        except (ValueError, RecursionError):
            data = None
        compiled = compile_data(data, situation)
    else:
        name = arguments.file
        compiled = compile_file(name, situation)
    if arguments.plan:
        return _answer_plan(compiled)
    for line in compiled.problems.warning_lines("warning"):
        print(line, file=sys.stderr)
    for line in compiled.problems.error_lines():
        print(line, file=sys.stderr)
    if compiled.plan is None:
        return os.EX_CONFIG
    if arguments.dump:
        print(dump_configuration(compiled.log, compiled.services), end="")
    else:
        print(f"{name}: OK ({_counts(compiled.plan)})")
    return os.EX_OK


def _answer_plan(compiled: Compiled) -> int:
    answer = {
        "errors": compiled.problems.error_lines(),
        "warnings": compiled.problems.warning_lines(),
        "plan": compiled.plan,
    }
    print(json.dumps(answer))
    return os.EX_OK if compiled.plan is not None else os.EX_CONFIG


def _counts(plan: dict[str, Any]) -> str:
    services = len(plan["services"])
    listeners = sum(len(service["listeners"]) for service in plan["services"])
    return (
        f"{services} service{'s' * (services != 1)}, "
        f"{listeners} listener{'s' * (listeners != 1)}"
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="superd.config.compile")
    what = parser.add_mutually_exclusive_group(required=True)
    for name in ("plan", "check", "dump", "schema"):
        what.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--default-user", default=NOBODY)
    parser.add_argument("--adhoc", metavar="JSON")
    parser.add_argument("file", nargs="?")
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as error:
        raise SystemExit(os.EX_USAGE if error.code else 0) from None
    if not arguments.schema and (arguments.file is None) == (arguments.adhoc is None):
        print("superd: give a FILE or --adhoc JSON", file=sys.stderr)
        raise SystemExit(os.EX_USAGE)
    return arguments


MODEST = 10
"""Added to our niceness: a reload's half second of work is not to be felt by peers."""


def main(argv: Sequence[str] | None = None) -> int:
    """Be the child: bounded, and silent about anything but the configuration."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_plan = "--plan" in arguments
    # Out of memory in a generator's end, say: Python would print a traceback and go on.
    sys.unraisablehook = lambda _: None
    try:
        for stream in (sys.stdout, sys.stderr):
            # A file's name need not be text.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        _bound_ourselves(is_plan=is_plan)
        if is_plan:
            os.nice(MODEST)
        status = command(arguments)
        sys.stdout.flush()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else os.EX_USAGE
    except BrokenPipeError:
        # What is still in the buffer must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return os.EX_IOERR
    except MemoryError:
        _report(f"superd: {TOO_LARGE}", is_plan=is_plan)
        return os.EX_CONFIG
    except BaseException as error:  # noqa: BLE001 -- one line instead of a traceback
        _report(_describe(error), is_plan=is_plan)
        return os.EX_SOFTWARE
    return status


def _bound_ourselves(*, is_plan: bool) -> None:
    """Limit memory, processor time and time, so that no file can hold the master up."""
    for what, limit in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, PROCESSOR_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        if hard == resource.RLIM_INFINITY or hard > limit:
            resource.setrlimit(what, (limit, limit))

    def out_of_time(_number: int, _frame: object) -> NoReturn:
        _report(f"superd: {TOO_LONG}", is_plan=is_plan)
        os._exit(os.EX_CONFIG)

    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(SECONDS)


def _report(line: str, *, is_plan: bool) -> None:
    """Say why there is no answer, in the form in which one is expected."""
    if is_plan:
        answer = {"errors": [line], "warnings": [], "plan": None}
        os.write(1, json.dumps(answer).encode())
    else:
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))


def _describe(error: BaseException) -> str:
    """An error of ours in one line: what, and in which line of which file."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = ""
    if frame is not None:
        where = f" ({frame.tb_frame.f_code.co_filename}:{frame.tb_lineno})"
    text = str(error).split("\n")[0][:200]
    return f"superd: internal error {type(error).__name__}: {text}{where}"


if __name__ == "__main__":
    sys.exit(main())
