"""Ask as a service's user what that user can reach."""

from __future__ import annotations

import errno
import os
import pwd

import pytest

from superd.config.identity import Identity
from superd.config.problems import Place
from superd.config.reach import Want, unreachable

pytestmark = pytest.mark.root

NOBODY = pwd.getpwnam("nobody")
AS_NOBODY = Identity("nobody", NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid,))


@pytest.fixture
def folder(tmp_path):
    """A folder that everybody may search."""
    return tmp_path


def program(path, mode=0o755, text="#!/bin/sh\n"):
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def told(purpose, path, identity=AS_NOBODY):
    found = unreachable([Want(Place("x"), (), purpose, str(path), identity)])
    return found[0][1] if found else ""


def test_program_that_the_user_may_run_is_fine(folder):
    assert told("run", program(folder / "x")) == ""


def test_program_that_only_root_may_run_is_told(folder):
    path = program(folder / "x", 0o700)

    assert told("run", path) == f"{path} is not executable for nobody; chmod +x {path}"


def test_program_in_a_private_home_names_the_closed_folder(folder):
    home = folder / "home"
    (home / "bin").mkdir(parents=True)
    path = program(home / "bin" / "x")
    home.chmod(0o700)

    assert told("run", path) == (
        f"{path} is in {home}, which is closed to nobody; "
        f"chmod o+x {home}, or let another user run the service"
    )


def test_root_runs_what_only_root_may(folder):
    home = folder / "home"
    home.mkdir(mode=0o700)

    assert told("run", program(home / "x", 0o700), Identity("root", 0, 0, (0,))) == ""


def test_group_of_the_service_opens_what_its_user_may_not(folder):
    path = program(folder / "x", 0o750)
    os.chown(path, 0, 4242)
    member = Identity("nobody", NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid, 4242))

    assert told("run", path) != ""
    assert told("run", path, member) == ""


def test_folder_that_cannot_be_entered_is_told(folder):
    home = folder / "home"
    home.mkdir(mode=0o700)

    assert told("enter", home) == (
        f"{home} cannot be entered: {home}, which is closed to nobody; "
        f"chmod o+x {home}, or let another user run the service"
    )


def test_closed_installation_is_told_with_the_remedy(folder):
    package = folder / "venv" / "superd"
    package.mkdir(parents=True)
    (folder / "venv").chmod(0o700)

    assert told("import", package) == (
        f"a Python handler needs {package}, and {folder}/venv is closed to nobody; "
        f"chmod o+rx {folder}/venv, or install superd where nobody may read"
    )


def test_asking_leaves_us_who_we_are_and_no_child(folder):
    before = (os.getresuid(), os.getresgid(), os.getgroups())
    tasks = os.listdir("/proc/self/task")
    told("run", program(folder / "x"))

    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert os.listdir("/proc/self/task") == tasks


def test_superd_that_cannot_become_a_user_says_so_once_at_user(compiled, monkeypatch):
    def refuse(_groups):
        raise PermissionError(errno.EPERM, "")

    monkeypatch.setattr(os, "setgroups", refuse)
    result = compiled(
        "services:\n"
        "  x: {listen: 7007, handler: echo, user: nobody}\n"
        "  y: {listen: 7008, exec: [/bin/cat], user: nobody}\n"
        "  z: {listen: 7009, exec: [/bin/cat], user: root}\n",
        root=True,
    )

    assert result.problems.error_lines() == [
        "x.yaml:2:42: services.x.user: superd cannot become nobody: Operation not "
        "permitted (EPERM); give it CAP_SETUID and CAP_SETGID, or name its own user"
    ]


def test_private_program_of_a_service_is_told_at_its_place(compiled, folder):
    path = program(folder / "x", 0o700)
    result = compiled(
        f"services:\n  x: {{listen: 7007, exec: [{path}], user: nobody}}\n", root=True
    )

    told = f"{path} is not executable for nobody; chmod +x {path}"
    assert result.problems.error_lines() == [f"x.yaml:2:28: services.x.exec: {told}"]


def test_file_that_others_may_write_is_a_warning_for_root(compiled, folder, tmp_path):
    text = "services:\n  x: {listen: 7007, exec: [/bin/cat]}\n"
    (tmp_path / "x.yaml").write_text("")
    (tmp_path / "x.yaml").chmod(0o666)

    warnings = compiled(text, root=True).problems.warning_lines()
    told = "others than its owner may write to it, and so run programs as any user"
    assert warnings == [f"x.yaml:1:1: {told}; chmod go-w x.yaml"]
    assert compiled(text, root=False).problems.warning_lines() == []
