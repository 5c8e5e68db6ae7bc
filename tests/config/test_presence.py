"""Look for files and folders that a configuration names."""

from __future__ import annotations

import os
import socket

import pytest

from superd.config.presence import folder_trouble, is_absent, log_trouble


@pytest.mark.parametrize("path", ["/dev/null", "{}/new", "{}/old"])
def test_log_may_be_a_file_that_is_or_is_not_there(tmp_path, path):
    (tmp_path / "old").write_text("")

    assert log_trouble(path.format(tmp_path)) == ""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none/x", "the folder {}/none is not there; create it or choose another"),
        ("file/x", "{}/file is no folder; choose another"),
        ("file/x/y", "what is above {}/file/x/y is no folder; choose another"),
        ("none/", "{}/none/ is no file; name one in a folder that is there"),
        ("folder", "{}/folder is a folder; name a file in it"),
        ("fifo", "{}/fifo is a FIFO; a log is a regular file or /dev/null"),
        (
            "sock",
            "{}/sock is a device or a socket; a log is a regular file or /dev/null",
        ),
        (
            "link",
            "{}/link is a symbolic link, and none is followed; name the file itself",
        ),
        ("a" * 300, "no file can have this name; name a regular one"),
        ("a\0b", "no file can have this name; name a regular one"),
    ],
)
def test_log_that_cannot_be_written_is_told(tmp_path, name, told):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    os.symlink("file", tmp_path / "link")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "sock"))

        assert log_trouble(f"{tmp_path}/{name}") == told.format(tmp_path)


def test_log_that_is_a_fifo_is_told_at_its_place(errors, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    lines = errors(
        f"log: {{to: {tmp_path}/fifo}}\nservices: {{x: {{listen: 7, exec: [/bin/cat]}}}}\n"
    )

    assert lines == [
        f"x.yaml:1:11: log.to: {tmp_path}/fifo is a FIFO; "
        "a log is a regular file or /dev/null"
    ]


def test_where_nobody_may_look_nothing_is_told(monkeypatch):
    def closed(path):
        raise PermissionError(path)

    monkeypatch.setattr(os, "stat", closed)
    monkeypatch.setattr(os, "lstat", closed)

    assert log_trouble("/closed/x") == ""
    assert folder_trouble("/closed/x") == ""
    assert not is_absent("/closed/x")


def test_absent_is_what_is_certainly_not_there(tmp_path):
    (tmp_path / "file").write_text("")

    assert is_absent(f"{tmp_path}/none")
    assert is_absent(f"{tmp_path}/file/x")
    assert not is_absent(f"{tmp_path}/file")
    assert not is_absent(str(tmp_path))
    assert not is_absent("a\0b")


def test_unix_socket_without_a_folder_is_a_warning_and_a_plan(compiled):
    result = compiled(
        "services: {x: {listen: [unix:/nodir/x, unix:./x], exec: [/bin/cat]}}\n"
    )

    assert result.plan is not None
    assert result.problems.warning_lines() == [
        "x.yaml:1:25: services.x.listen: the folder /nodir is not there; "
        "create it or choose another"
    ]


def test_program_with_odd_characters_that_is_there_is_run(service, tmp_path):
    for name in ("a | b", "$HOME", "cat -u"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        program = service("listen: 7007", f'exec: ["./{name}"]')["launcher"]["program"]

        assert program["exec"] == [f"{tmp_path}/{name}"]
