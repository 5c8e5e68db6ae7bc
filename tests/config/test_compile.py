"""Run the real child: its answers, exit statuses and bounds."""

from __future__ import annotations

import json
import os
import pwd
import resource
import subprocess
import sys

import pytest

from superd.config import compile as compiling

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BAD = "services:\n  x: {listen: 7, exec: [/bin/cat], moed: 1}\n"
GOOD = "services:\n  x: {listen: localhost:7007, exec: [/bin/cat]}\n"


def child(*arguments, cwd, **more):
    """Run the child to its end."""
    return subprocess.run(
        [sys.executable, "-m", "superd.config.compile", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        **more,
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "x.yaml").write_text(GOOD)
    (tmp_path / "x.yaml").chmod(0o644)
    (tmp_path / "bad.yaml").write_text(BAD)
    return tmp_path


def test_plan_is_one_json_object(folder):
    done = child("--plan", "x.yaml", cwd=folder)

    answer = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert answer.keys() == {"errors", "warnings", "plan"}
    assert answer["plan"]["version"] == 1
    assert answer["plan"]["files"] == [str(folder / "x.yaml")]


def test_errors_are_in_the_plan_answer_too(folder):
    done = child("--plan", "bad.yaml", cwd=folder)

    assert done.returncode == os.EX_CONFIG
    assert json.loads(done.stdout) == {
        "errors": ['bad.yaml:2:36: services.x.moed: unknown key; did you mean "mode"?'],
        "warnings": [],
        "plan": None,
    }


def test_check_says_ok_with_counts(folder):
    done = child("--check", "x.yaml", cwd=folder)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "x.yaml: OK (1 service, 2 listeners)\n"


def test_check_tells_errors_on_stderr(folder):
    done = child("--check", "./bad.yaml", cwd=folder)

    assert (done.returncode, done.stdout) == (os.EX_CONFIG, "")
    assert done.stderr.startswith("./bad.yaml:2:36: services.x.moed: ")


def test_missing_file_is_one_line(folder):
    done = child("--check", "none.yaml", cwd=folder)

    assert done.returncode == os.EX_CONFIG
    assert done.stderr == (
        "none.yaml:1:1: cannot be opened: No such file or directory (ENOENT)\n"
    )


def test_file_name_that_is_no_text_is_told(folder):
    done = child("--check", b"\xff.yaml", cwd=folder)

    assert done.returncode == os.EX_CONFIG
    assert done.stderr.startswith("\\udcff.yaml:1:1: cannot be opened")


def test_adhoc_configuration_comes_from_the_command_line(folder):
    (folder / "greet").write_text("#!/bin/sh\n")
    (folder / "greet").chmod(0o755)
    data = {"services": {"greet": {"listen": 0, "exec": ["./greet", 5]}}}

    # pytest's folders are private: as root, only root reaches them.
    me = pwd.getpwuid(os.geteuid()).pw_name
    done = child(
        "--plan", "--default-user", me, "--adhoc", json.dumps(data), cwd=folder
    )

    service = json.loads(done.stdout)["plan"]["services"][0]
    assert service["place"] == "command line"
    assert service["launcher"]["program"] == {"exec": [f"{folder}/greet", "5"]}
    assert service["listeners"][0]["key"] == "tcp 0.0.0.0:0 greet"


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "[" * 99_999, '{"services": {"x": 5}}']
)
def test_wrong_adhoc_configuration_is_told(folder, text):
    done = child("--check", "--adhoc", text, cwd=folder)

    assert done.returncode == os.EX_CONFIG
    assert done.stderr.startswith("command line: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [(), ("--plan",), ("--plan", "--check", "x"), ("--no",)]
)
def test_wrong_arguments_are_a_usage_error(folder, arguments):
    assert child(*arguments, cwd=folder).returncode == os.EX_USAGE


def test_bounds_are_set_before_the_file_is_read(folder):
    code = (
        "import resource, signal, sys; from superd.config import compile;"
        "compile.main(['--check', 'x.yaml']);"
        "print(*resource.getrlimit(resource.RLIMIT_AS),"
        " *resource.getrlimit(resource.RLIMIT_CPU), signal.alarm(0) > 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines()[1] == f"{1 << 30} {1 << 30} 20 20 True"


def test_running_out_of_memory_is_one_line(folder):
    (folder / "big.yaml").write_text("a: [" + "{b: [c, d]}, " * 70_000 + "]")
    code = (
        "import resource, sys; from superd.config import compile;"
        "pages = int(open('/proc/self/statm').read().split()[0]) + 4096;"
        "compile.MEMORY = pages * resource.getpagesize();"
        "sys.exit(compile.main(['--plan', 'big.yaml']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (os.EX_CONFIG, "")
    assert json.loads(done.stdout)["errors"] == [
        "superd: the configuration needs more memory than it may have; make it smaller"
    ]


@pytest.mark.slow
def test_running_out_of_time_is_one_line(folder):
    code = (
        "import signal, sys; from superd.config import compile;"
        "compile.SECONDS = 1; compile.command = lambda _: signal.pause();"
        "sys.exit(compile.main(['--plan', 'x.yaml']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (os.EX_CONFIG, "")
    assert json.loads(done.stdout)["errors"] == [
        "superd: the configuration takes longer than 15 s; make it smaller"
    ]


def test_bug_of_ours_is_one_line():
    with pytest.raises(KeyError) as caught:
        {}["some\nthing"]
    line = compiling._describe(caught.value)

    assert line.startswith("superd: internal error KeyError: 'some\\nthing' (")
    assert line.endswith(")")


def test_schema_is_json(folder):
    done = child("--schema", cwd=folder)

    assert done.returncode == 0
    assert json.loads(done.stdout)["$schema"].endswith("draft-07/schema#")


def test_dump_passes_the_check(folder):
    done = child("--dump", "x.yaml", cwd=folder)
    (folder / "dump.yaml").write_text(done.stdout)

    again = child("--check", "dump.yaml", cwd=folder)
    assert again.stdout == "dump.yaml: OK (1 service, 2 listeners)\n"


def test_child_runs_isolated_as_the_master_runs_it(folder):
    code = (
        "import sys; sys.path[:0] = sys.argv.pop(1).splitlines(); "
        "from superd.config.compile import main; sys.exit(main(sys.argv[1:]))"
    )
    path = "\n".join([ROOT, *(entry for entry in sys.path if entry)])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, path, "--plan", "x.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )

    assert json.loads(done.stdout)["plan"]["services"][0]["name"] == "x"


def test_two_hundred_services_take_no_time(compiled):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    result = compiled(
        "services:\n"
        + "".join(
            f"  s{n}:\n    listen: localhost:{7000 + n}\n    exec: [/bin/cat, -u]\n"
            "    limits: {connections: 20, per_source: 3}\n    umask: '077'\n"
            "    environment: {A: b, C: 5}\n    timeouts: {lifetime: 1h}\n"
            for n in range(200)
        )
    )

    assert len(result.plan["services"]) == 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 1


@pytest.mark.parametrize(
    "text",
    [
        "services:\n" + " s: {}\n" * 20_000,
        "services:\n" + "".join(f" s{n}: {{listen: 7}}\n" for n in range(4000)),
        "a: [" + "&a x, *a, " * 15_000 + "]",
        "a:\n" + " - |\n  x\n" * 15_000,
        "a: [\n" + "'\t', " * 30_000 + "]",
        "services:\n x:\n" + "".join(f"  k{n}: 1\n" for n in range(10_000)),
    ],
    ids=["duplicates", "one port", "aliases", "blocks", "tabs", "unknown keys"],
)
def test_hostile_file_costs_no_more_than_its_size(compiled, text):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime

    assert compiled(text).problems.errors
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 2


def test_clean_start_imports_no_package_of_pydantic_plugins(folder):
    done = child("--check", "x.yaml", cwd=folder)
    assert done.returncode == 0
    assert os.environ["PYDANTIC_DISABLE_PLUGINS"] == "__all__"
