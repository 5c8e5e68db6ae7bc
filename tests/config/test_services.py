"""Settle what takes more than one key to decide."""

from __future__ import annotations

import os
import pwd
import resource

import pytest

from superd.config import listen
from superd.config.problems import MOST_GUESSES

CAT = ("listen: localhost:7007", "exec: [/bin/cat]")
ME = pwd.getpwuid(os.geteuid()).pw_name


def one(errors, *lines, **situation):
    """The single error line of a service."""
    text = "services:\n  x:\n" + "".join(f"    {line}\n" for line in (*CAT, *lines))
    found = errors(text, **situation)
    assert len(found) == 1, found
    return found[0]


def test_service_of_an_ordinary_user_stays_who_superd_is(service):
    launcher = service(*CAT)["launcher"]

    assert [launcher[name] for name in ("user", "uid", "gid", "groups")] == [None] * 4


def test_naming_ourselves_is_no_change(service):
    assert (
        service(*CAT, f"user: {ME}", f"group: {os.getegid()}")["launcher"]["uid"]
        is None
    )


@pytest.mark.root
@pytest.mark.parametrize("user", ["nobody", 65534])
def test_service_of_root_runs_as_the_user_it_names(service, user):
    entry = pwd.getpwnam("nobody")
    launcher = service(*CAT, f"user: {user}", root=True)["launcher"]

    assert launcher["user"] == "nobody"
    assert launcher["uid"] == entry.pw_uid
    assert launcher["gid"] == entry.pw_gid
    assert launcher["groups"] == [entry.pw_gid]


@pytest.mark.root
def test_service_of_root_runs_as_the_default_user(service):
    launcher = service(*CAT, root=True, default_user=ME)["launcher"]

    assert launcher["uid"] == os.geteuid()


def test_default_user_that_is_unknown_is_told_at_the_service(errors):
    line = one(errors, root=True, default_user="no-such-user")

    assert line.startswith("x.yaml:2:3: services.x.user: no user 'no-such-user'")


@pytest.mark.root
def test_groups_are_the_primary_and_those_named(service):
    launcher = service(
        *CAT, "user: nobody", "group: 12345", "groups: [7, 12345]", root=True
    )

    assert launcher["launcher"]["groups"] == [12345, 7]


@pytest.mark.root
def test_unlisted_number_needs_a_group(errors, service):
    assert "give the group too" in one(errors, "user: 54321", root=True)

    launcher = service(*CAT, "user: 54321", "group: 54321", root=True)["launcher"]
    assert (launcher["user"], launcher["uid"]) == ("54321", 54321)


def other_user():
    """Somebody whom this process is not."""
    return next(
        entry.pw_name for entry in pwd.getpwall() if entry.pw_uid != os.geteuid()
    )


def test_other_user_is_a_warning_when_checked_and_an_error_when_started(compiled):
    text = "services:\n  x:\n    listen: 7007\n    exec: [/bin/cat]\n"
    text += f"    user: {other_user()}\n"
    told = f"x.yaml:5:11: services.x.user: superd runs as {ME} and cannot become "
    told += f'"{other_user()}"; start it as root, or leave user out'

    checked = compiled(text).problems
    assert (checked.error_lines(), checked.warning_lines()) == ([], [told])
    started = compiled(text, check=False)
    assert (started.problems.error_lines(), started.plan) == ([told], None)


@pytest.mark.root
def test_root_as_a_user_is_a_warning(compiled):
    text = "defaults: {user: root}\nservices:\n  x: {listen: 7007, exec: [/bin/cat]}\n"
    told = (
        "x.yaml:1:18: warning: defaults.user: runs as root, and so does whoever breaks"
    )
    lines = compiled(text, root=True).problems.warning_lines("warning")
    assert lines == [f"{told} into it"]


def test_environment_is_path_then_passed_then_own(service):
    launcher = service(
        *CAT,
        "pass_environment: [TZ, LANG, NOT_SET]",
        "environment: {LANG: C, A: 5}",
        environ={"TZ": "UTC", "LANG": "de", "SECRET": "x", "PATH": "/evil"},
    )["launcher"]

    assert list(launcher["environment"].items()) == [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("TZ", "UTC"),
        ("LANG", "C"),
        ("A", "5"),
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("environment: {TCPREMOTEIP: x}", "superd sets this for every connection"),
        ("limits: {message: x}", "nobody is refused"),
    ],
)
def test_key_without_an_effect_is_a_warning(compiled, line, told):
    text = f"services:\n  x:\n    listen: 7007\n    exec: [/bin/cat]\n    {line}\n"
    problems = compiled(text).problems

    assert problems.error_lines() == []
    assert told in problems.warning_lines()[0]


def test_banner_in_mode_wait_is_a_warning(compiled):
    text = "services:\n  x:\n    listen: 7007\n    exec: [/bin/cat]\n    mode: wait\n"
    problems = compiled(text + "    banner: hello\n").problems

    assert "no peer in mode wait" in problems.warning_lines()[0]


FEW = (100, 200)


@pytest.mark.parametrize(
    ("limits", "number"),
    [
        ("{connections: 136}", 0),
        ("{connections: 137}", 200),
        ("{connections: 37, per_source: 2}", 100),
        ("{connections: 37, per_source: 2, when_full: refuse}", 0),
    ],
)
def test_more_connections_than_descriptors_is_one_warning(
    compiled, monkeypatch, limits, number
):
    monkeypatch.setattr(resource, "getrlimit", lambda _what: FEW)
    problems = compiled(
        "services:\n"
        "  x: {listen: 7006, exec: [/bin/cat], limits: {connections: 5}}\n"
        f"  y: {{listen: 7007, exec: [/bin/cat], limits: {limits}}}\n"
        f"  z: {{listen: 7008, exec: [/bin/cat], limits: {limits}}}\n"
    ).problems

    lines = problems.warning_lines()
    assert problems.error_lines() == []
    assert len(lines) == (number > 0)
    for line in lines:
        assert line.startswith("x.yaml:3:61: services.y.limits.connections: ")
        assert f"RLIMIT_NOFILE is {number}, and 64 are its own" in line


def test_folder_with_control_characters_is_told_in_one_printable_line(errors):
    assert "/\\n\\x1f is not there" in one(errors, 'directory: "/\\n\\x1f"')


def test_near_misses_of_a_hostile_file_are_not_all_looked_for(errors):
    lines = errors(
        "services:\n"
        + "".join(f"  x{n}: {{listen: ecoh, exec: [/bin/cat]}}\n" for n in range(99))
    )

    assert sum("did you mean" in line for line in lines) == MOST_GUESSES
    assert sum("neither a port nor a name" in line for line in lines) > 0


def test_missing_list_of_port_names_is_no_trouble(errors, monkeypatch):
    monkeypatch.setattr(listen, "SERVICES", "/nosuch/services")
    listen.service_names.cache_clear()
    try:
        (line,) = errors("services: {x: {listen: ecoh, exec: [/bin/cat]}}\n")
    finally:
        listen.service_names.cache_clear()

    assert "neither a port nor a name in /nosuch/services" in line


def test_disabled_service_is_not_in_the_plan_and_takes_no_address(compiled):
    result = compiled(
        "services:\n"
        "  x: {listen: localhost:7007, exec: [/nosuch/program], enabled: false}\n"
        "  y: {listen: localhost:7007, exec: [/bin/cat]}\n"
    )

    assert result.problems.error_lines() == []
    assert [service["name"] for service in result.plan["services"]] == ["y"]


def test_no_services_on_purpose_is_a_warning(compiled):
    result = compiled("services: {}\n")

    assert result.plan["services"] == []
    assert result.problems.warning_lines() == ["x.yaml:1:1: services: there are none"]


def test_wrong_default_is_told_once_and_not_for_every_service(errors):
    services = "".join(
        f"  x{n}: {{listen: {7000 + n}, exec: [/bin/cat]}}\n" for n in range(9)
    )
    lines = errors(f"defaults: {{directory: /nosuch}}\nservices:\n{services}")

    assert lines == [
        "x.yaml:1:23: defaults.directory: /nosuch is not there; check the path"
    ]


def test_more_errors_than_anybody_reads_are_counted(errors):
    lines = errors("services:\n  x:\n" + "".join(f"    k{n}: 1\n" for n in range(1500)))

    assert len(lines) == 1001
    assert lines[-1] == "and 502 more"


def test_link_of_the_program_is_not_followed_by_name(service, tmp_path):
    (tmp_path / "far" / "bin").mkdir(parents=True)
    (tmp_path / "far" / "run").write_text("#!/bin/sh\n")
    (tmp_path / "far" / "run").chmod(0o755)
    os.symlink("far/bin", tmp_path / "bin")

    program = service("listen: 7007", "exec: [bin/../run]")["launcher"]["program"]

    assert program["exec"] == [f"{tmp_path}/bin/../run"]
