"""Settle modes: what workers a service has, and which keys its mode does not know."""

from __future__ import annotations

import os
import resource
import sys

import pytest

from superd.config.document import read_document
from superd.config.dump import dump_configuration
from superd.config.problems import Problems
from superd.config.source import Source

HERE = os.path.dirname(os.path.abspath(__file__))
BOTH = ("listen: localhost:7007", "handler: both")
CAT = ("listen: localhost:7007", "exec: [/bin/cat]")
KEYS = ("workers", "max_workers", "requests", "selector")


def workers_of(planned):
    """What a plan says of a service's workers."""
    return tuple(planned["launcher"][key] for key in KEYS)


def problems(compiled, *lines, defaults="{}"):
    """The error and the warning lines of one service, without the name of the file."""
    text = f"defaults: {defaults}\nservices:\n  x:\n"
    result = compiled(text + "".join(f"    {line}\n" for line in lines))
    found = (result.problems.error_lines(), result.problems.warning_lines())
    return tuple([line.removeprefix("x.yaml:") for line in each] for each in found)


def dumped(result):
    """The services of a dump."""
    text = dump_configuration(result.log, result.services)
    return read_document(Source("x", "/x", text), Problems()).data["services"]


@pytest.mark.parametrize(
    ("lines", "workers"),
    [
        ((), (None, None, None, None)),
        (("mode: pool",), (4, 16, 10_000, None)),
        (("mode: pool", "workers: 16"), (16, 16, 10_000, None)),
        (("mode: pool", "workers: 17"), (17, 17, 10_000, None)),
        (("mode: pool", "workers: 1024"), (1024, 1024, 10_000, None)),
        (("mode: pool", "workers: 1", "max_workers: 1"), (1, 1, 10_000, None)),
        (("mode: pool", "requests: 1"), (4, 16, 1, None)),
        (("mode: loop",), (4, 4, None, "auto")),
        (("mode: loop", "workers: 1", "selector: select"), (1, 1, None, "select")),
    ],
)
def test_workers_of_a_mode_are_those_written_or_the_usual(service, lines, workers):
    assert workers_of(service(*BOTH, *lines)) == workers


def test_program_that_waits_has_no_workers(service):
    assert workers_of(service(*CAT, "mode: wait")) == (None,) * 4


@pytest.mark.parametrize("mode", ["pool", "loop"])
def test_workers_start_with_superd(service, mode):
    assert service(*BOTH, f"mode: {mode}")["warm"] is True
    assert service(*BOTH)["warm"] is False


@pytest.mark.parametrize("mode", ["pool", "loop"])
def test_workers_that_are_not_to_be_warm_are_a_warning(compiled, mode):
    told = (
        f"6:11: services.x.warm: mode {mode} is always warm; leave it out or say true"
    )

    assert problems(compiled, *BOTH, "warm: false", f"mode: {mode}") == ([], [told])
    assert problems(compiled, *BOTH, f"mode: {mode}", defaults="{warm: false}") == (
        [],
        [],
    )


@pytest.mark.parametrize(
    ("lines", "connections"),
    [
        ((), 16),
        (("limits: {connections: 9}",), 9),
        (("limits: {connections: 9, per_source: 20}",), 9),
        (("max_workers: 100",), 40),
        (("max_workers: 100", "limits: {connections: 100}"), 100),
    ],
)
def test_pool_admits_as_many_as_it_may_have_workers(service, lines, connections):
    admission = service(*BOTH, "mode: pool", *lines)["admission"]

    assert admission["connections"] == connections


def test_loop_admits_what_its_limits_say(service):
    limits = "limits: {connections: 5000}"

    assert service(*BOTH, "mode: loop", limits)["admission"]["connections"] == 5000


def test_more_connections_than_workers_of_a_pool_is_a_warning(compiled):
    lines = (*BOTH, "mode: pool", "max_workers: 20", "limits: {connections: 21}")
    told = (
        "8:27: services.x.limits.connections: at most 20 at once: max_workers; "
        "raise it or lower limits.connections"
    )

    assert problems(compiled, *lines) == ([], [told])
    assert problems(compiled, *lines[:-1], "limits: {connections: 20}") == ([], [])
    many = "{limits: {connections: 500}}"
    assert problems(compiled, *BOTH, "mode: pool", defaults=many) == ([], [])


@pytest.mark.parametrize(
    ("mode", "line", "modes"),
    [
        ("process", "workers: 4", "pool or loop"),
        ("process", "max_workers: null", "pool"),
        ("process", "requests: 10000", "pool"),
        ("process", "selector: auto", "loop"),
        ("pool", "selector: auto", "loop"),
        ("loop", "max_workers: 4", "pool"),
        ("loop", "requests: 5", "pool"),
    ],
)
def test_key_that_the_mode_has_not_is_told(compiled, mode, line, modes):
    name, _, value = line.partition(": ")
    column = 5 + len(f"{name}: ")
    told = (
        f"7:{column}: services.x.{name}: mode {mode} has no {name}; "
        f"leave it out, or write mode: {modes}"
    )
    assert problems(compiled, *BOTH, f"mode: {mode}", line) == ([told], [])
    defaults = f"{{{name}: {value}}}"
    assert problems(compiled, *BOTH, f"mode: {mode}", defaults=defaults) == ([], [])


@pytest.mark.parametrize("mode", ["pool", "loop"])
def test_program_cannot_be_kept_by_workers(compiled, mode):
    told = (
        f"mode {mode} keeps a Python handler between connections, and a program "
        "ends with its own; write mode: process, or give a handler"
    )
    own = problems(compiled, *CAT, f"mode: {mode}")
    default = problems(compiled, *CAT, defaults=f"{{mode: {mode}}}")

    assert own == ([f"6:11: services.x.mode: {told}"], [])
    assert default == ([f"5:11: services.x.exec: {told}"], [])


@pytest.mark.parametrize(
    ("handler", "mode", "told"),
    [
        ("strict", "process", ""),
        ("strict", "pool", ""),
        ("strict", "loop", 'no "async def serve": it runs in mode process or pool'),
        ("plain", "loop", 'no "async def serve": it runs in mode process or pool'),
        ("both", "process", ""),
        ("both", "pool", ""),
        ("both", "loop", ""),
        ("looping", "process", "no main: it runs in mode loop"),
        ("looping", "pool", "no main: it runs in mode loop"),
        ("looping", "loop", ""),
    ],
)
def test_handler_runs_in_the_modes_it_is_made_for(compiled, handler, mode, told):
    lines = ("listen: localhost:7007", f"handler: {handler}", f"mode: {mode}")
    line = f"5:14: services.x.handler: handler {handler} has {told}"

    assert problems(compiled, *lines) == ([line] if told else [], [])


@pytest.mark.parametrize("mode", ["process", "pool", "loop"])
def test_datagrams_are_answered_in_every_mode(compiled, mode):
    lines = ("listen: localhost:7007/udp", "handler: datagrams", f"mode: {mode}")

    assert problems(compiled, *lines) == ([], [])


def test_handler_of_datagrams_needs_serve_where_streams_come_in_too(compiled):
    lines = ("listen: [localhost:7007/udp, localhost:7008]", "mode: loop")
    (line,), _ = problems(compiled, *lines, "handler: datagrams")

    assert line == (
        "4:34: services.x.listen: handler datagrams answers datagrams only; add /udp"
    )


def test_limit_that_would_end_a_loop_is_told_where_it_stands(compiled):
    told = (
        "rlimits.cpu: it would end a worker of mode loop with all of its connections; "
        "write rlimits: {cpu: null} for service x"
    )
    lines = (*BOTH, "mode: loop")

    own = problems(compiled, *lines, "rlimits: {cpu: 5s}")
    assert own == ([f"7:20: services.x.{told}"], [])
    defaults = "{rlimits: {cpu: 5s}}"
    inherited = problems(compiled, *lines, defaults=defaults)
    assert inherited == ([f"1:27: defaults.{told}"], [])
    free = problems(compiled, *lines, "rlimits: {cpu: null}", defaults=defaults)
    assert free == ([], [])
    pool = problems(compiled, *BOTH, "mode: pool", defaults=defaults)
    assert pool == ([], [])


def test_stderr_of_many_peers_is_told_where_it_stands(compiled):
    told = (
        "stderr: a worker of mode loop has one stderr for many peers; "
        "write log or null for service x"
    )
    lines = (*BOTH, "mode: loop")

    own = problems(compiled, *lines, "stderr: peer")
    assert own == ([f"7:13: services.x.{told}"], [])
    inherited = problems(compiled, *lines, defaults="{stderr: peer}")
    assert inherited == ([f"1:20: defaults.{told}"], [])
    assert problems(compiled, *BOTH, "mode: pool", "stderr: peer") == ([], [])


@pytest.fixture
def no_packages(monkeypatch):
    """Have nothing installed but the handlers in `site`."""
    kept = [path for path in sys.path if not path.endswith("site-packages")]
    monkeypatch.setattr(sys, "path", kept)
    return monkeypatch


def test_uvloop_that_is_asked_for_and_not_there_is_told(compiled, no_packages):
    told = (
        "7:15: services.x.selector: uvloop is not installed; "
        "install it, or write auto to use it where it is"
    )
    lines = (*BOTH, "mode: loop")

    assert problems(compiled, *lines, "selector: uvloop") == ([told], [])
    assert problems(compiled, *lines, "selector: auto") == ([], [])
    assert problems(compiled, *BOTH, defaults="{selector: uvloop}") == ([], [])


def test_uvloop_that_is_there_is_found_and_not_imported(service, tmp_path, no_packages):
    (tmp_path / "uvloop.py").write_text("raise RuntimeError('uvloop was imported')\n")
    no_packages.syspath_prepend(tmp_path)

    assert workers_of(service(*BOTH, "mode: loop", "selector: uvloop"))[3] == "uvloop"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("worker: 5", "workers"),
        ("max_worker: 5", "max_workers"),
        ("request: 5", "requests"),
        ("selektor: poll", "selector"),
    ],
)
def test_misspelled_key_of_workers_is_recognised(compiled, wrong, right):
    name = wrong.partition(":")[0]
    told = f'7:5: services.x.{name}: unknown key; did you mean "{right}"?'

    assert problems(compiled, *BOTH, "mode: pool", wrong) == ([told], [])


def test_misspelled_mode_is_told_alone(compiled):
    """What else stands there may well be right for the mode that was meant."""
    errors, _ = problems(compiled, *BOTH, "mode: pol", "workers: 5", "max_workers: 6")
    assert errors == [
        "6:11: services.x.mode: expected process, pool, loop or wait, got 'pol'; "
        'did you mean "pool"?'
    ]
    errors, _ = problems(compiled, *BOTH, "moed: pool", "workers: 5")
    assert errors == ['6:5: services.x.moed: unknown key; did you mean "mode"?']
    errors, _ = problems(compiled, *BOTH, "workers: 5", defaults="{mode: pol}")
    assert [line.split()[1] for line in errors] == ["defaults.mode:"]
    errors, _ = problems(compiled, *BOTH, "workers: 5", defaults="{moed: pool}")
    assert [line.split()[1] for line in errors] == ["defaults.moed:"]


@pytest.mark.parametrize("refused", ["workers: 0", "worker: 2", "workers: many"])
def test_refused_number_of_workers_is_not_compared_as_well(compiled, refused):
    errors, _ = problems(compiled, *BOTH, "mode: pool", refused, "max_workers: 3")

    assert [line.split(":")[0] for line in errors] == ["7"]


def test_pool_needs_descriptors_for_its_workers_only(compiled, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (100, 100))
    lines = (*BOTH, "mode: pool")
    many = "{limits: {connections: 500}}"

    assert problems(compiled, *lines, defaults=many) == ([], [])
    _, (warning,) = problems(compiled, *lines, "max_workers: 37", defaults=many)
    assert warning.startswith("1:34: defaults.limits.connections: 37 is more")


def test_dump_shows_the_keys_that_the_mode_has(compiled):
    services = dumped(
        compiled(
            "defaults: {workers: 8, selector: poll}\n"
            "services:\n"
            "  process: {listen: localhost:7001, handler: both}\n"
            "  pool: {listen: localhost:7002, handler: both, mode: pool}\n"
            "  loop: {listen: localhost:7003, handler: both, mode: loop}\n"
            "  wait: {listen: localhost:7004, exec: [/bin/cat], mode: wait}\n"
        )
    )

    shown = {
        name: {key: one[key] for key in (*KEYS, "warm") if key in one}
        for name, one in services.items()
    }
    pool = {"workers": 8, "max_workers": 16, "requests": 10_000, "warm": True}
    assert shown == {
        "process": {"warm": False},
        "pool": pool,
        "loop": {"workers": 8, "selector": "poll", "warm": True},
        "wait": {"warm": False},
    }
    assert services["pool"]["limits"]["connections"] == 16
    assert services["loop"]["limits"]["connections"] == 40
