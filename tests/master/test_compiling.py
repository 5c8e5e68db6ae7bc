"""The compile child: whatever becomes of it, and whatever it says, is an answer."""

from __future__ import annotations

import errno
import json
import os
import select
import sys
import time

import pytest
from fakeos import FaultyKernel, every_fault

from superd.master import compiling
from superd.master.compiling import CompileChild, Result, compile_argv, run_compile
from superd.master.kernel import Kernel

GOOD = {"plan": {"version": 1}, "errors": [], "warnings": ["w"]}


class Running(Kernel):
    """Runs a Python program of the test in place of the compile child."""

    def __init__(self, code: str) -> None:
        self.code = code

    def spawn(self, argv, environment, actions, **flags):
        argv = [sys.executable, "-I", "-S", "-c", self.code]
        return super().spawn(argv, environment, actions, **flags)


def saying(text: str) -> Running:
    return Running(f"import sys; sys.stdout.write({text!r})")


def finish(child: CompileChild) -> Result:
    """Do what the master does."""
    poll = select.poll()
    poll.register(child.fileno(), select.POLLIN)
    while not child.read():
        assert poll.poll(10_000)
    child.close()
    child.kill()
    os.waitpid(child.pid, 0)
    return child.result()


def answer(text: str) -> Result:
    return finish(CompileChild(saying(text), [], 0.0))


def test_a_plan_is_a_plan():
    assert answer(json.dumps(GOOD)) == Result({"version": 1}, [], ["w"])


def test_errors_come_without_a_plan():
    given = {"plan": None, "errors": ["a.yaml:1:1: bad"], "warnings": []}
    assert answer(json.dumps(given)) == Result(None, ["a.yaml:1:1: bad"], [])


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "[]", "5", '"plan"', "NaN", "Traceback (most recent call last):",
        "{}", '{"plan": {}}', "[" * 100_000, "\\xff", "1" * 10_000,
        json.dumps({**GOOD, "plan": 5}), json.dumps({**GOOD, "plan": "plan"}),
        json.dumps({**GOOD, "plan": []}), json.dumps({**GOOD, "plan": {}}),
        json.dumps({**GOOD, "plan": {"version": 2}}),
        json.dumps({**GOOD, "errors": 5}), json.dumps({**GOOD, "warnings": None}),
        json.dumps(GOOD) + "and more",
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_whatever_is_no_plan_is_an_error_that_says_so(text):
    result = answer(text)
    assert result.plan is None
    assert len(result.errors) == 1
    assert (
        result.errors[0].startswith("superd: the con") or "version" in result.errors[0]
    )


def test_bytes_that_are_no_text_are_no_plan():
    kernel = Running("import sys; sys.stdout.buffer.write(bytes(range(256)))")
    assert "gave no plan" in finish(CompileChild(kernel, [], 0.0)).errors[0]


def test_messages_are_text_whatever_they_were():
    result = answer(json.dumps({"plan": None, "errors": [1, None], "warnings": [{}]}))
    assert result == Result(None, ["1", "None"], ["{}"])


def test_one_that_never_stops_talking_is_cut_off_and_ended(monkeypatch):
    monkeypatch.setattr(compiling, "MAX_PLAN", 1 << 20)
    kernel = Running("import sys\nwhile True: sys.stdout.write('x' * 65536)")
    child = CompileChild(kernel, [], 0.0)
    assert "gave no plan" in finish(child).errors[0]
    assert len(child._data) <= (1 << 20) + (1 << 16)


def test_one_that_is_killed_is_an_error():
    kernel = Running("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "was ended" in finish(CompileChild(kernel, [], 0.0)).errors[0]


def test_one_that_hangs_is_ended_by_its_deadline_and_leaves_no_zombie():
    child = CompileChild(Running("import time; time.sleep(600)"), [], 100.0)
    assert child.until == 100.0 + compiling.DEADLINE
    assert not child.read()
    child.kill()
    assert "was ended" in finish(child).errors[0]
    child.reaped = True
    child.kill()  # nobody: the pid may be another's by now


def test_one_that_closes_its_answer_and_lives_on_is_ended():
    code = f"import os, time; os.write(1, {json.dumps(GOOD).encode()!r}); "
    child = CompileChild(Running(code + "os.close(1); time.sleep(600)"), [], 0.0)
    assert finish(child).plan == {"version": 1}


def test_it_gets_nothing_to_read_our_environment_and_no_descriptor_of_ours(monkeypatch):
    monkeypatch.setenv("SOME_VARIABLE", "value")
    code = """
import json, os
opened = [int(fd) for fd in os.listdir("/proc/self/fd")]
stdin = os.readlink("/proc/self/fd/0")
facts = [stdin, os.environ["SOME_VARIABLE"], opened, os.getpgid(0)]
plan = {"version": 1, "facts": facts}
json.dump({"plan": plan, "errors": [], "warnings": []}, open(1, "w"))
"""
    secret = os.dup(0)
    child = CompileChild(Running(code), [], 0.0)
    stdin, variable, opened, group = finish(child).plan["facts"]
    assert (stdin, variable, group) == (os.devnull, "value", child.pid)
    assert {0, 1, 2} <= set(opened)
    assert secret not in opened
    os.close(secret)


def test_whatever_call_of_its_start_fails_nothing_is_left():
    def scenario(kernel) -> None:
        try:
            child = CompileChild(kernel, ["--adhoc", "{}"], 0.0)
        except OSError:
            assert kernel.fired
            return
        child.kill()
        finish(child)

    errors = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EACCES]
    assert every_fault(scenario, errors) == 3


def test_at_the_start_of_superd_it_is_waited_for():
    assert run_compile(saying(json.dumps(GOOD)), [], 0.0).plan == {"version": 1}
    with pytest.raises(OSError, match="Cannot allocate"):
        run_compile(FaultyKernel(1, errno.ENOMEM), [], 0.0)


def test_the_real_one_compiles_and_says_what_is_wrong():
    service = {"services": {"cat": {"listen": "127.0.0.1:0", "exec": ["/bin/cat"]}}}
    good = ["--plan", "--adhoc", json.dumps(service)]
    start = time.monotonic()
    result = run_compile(Kernel(), good, start)
    assert not result.errors
    assert [one["name"] for one in result.plan["services"]] == ["cat"]
    wrong = ["--plan", "--adhoc", '{"services": {"cat": {"lisen": 1}}}']
    result = run_compile(Kernel(), wrong, start)
    assert result.plan is None
    assert any("listen" in line for line in result.errors)


def test_nothing_of_the_working_directory_is_imported(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(99)")
    (tmp_path / "yaml.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    argv = compile_argv(["--schema"])
    pid = os.posix_spawn(
        argv[0], argv, os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )  # fmt: skip
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
