"""Read files that are none, or not for us."""

from __future__ import annotations

import os
import socket

import pytest

from superd.config.compile import compile_file
from superd.config.identity import Situation
from superd.config.source import MOST_BYTES, UnreadableError, decode, read_source


def reason(path):
    with pytest.raises(UnreadableError) as caught:
        read_source(str(path))
    return str(caught.value)


def test_fifo_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "x")

    assert reason(tmp_path / "x") == "is a FIFO; a configuration is a regular file"


@pytest.mark.parametrize("name", ["none", "folder", "fifo", "/dev/zero"])
def test_what_is_no_file_has_a_place_all_the_same(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    os.mkfifo("fifo")

    (line,) = compile_file(name, Situation(root=False)).problems.error_lines()

    assert line.startswith(f"{name}:1:1: ")


def test_folder_is_refused(tmp_path):
    assert reason(tmp_path) == "is a folder; a configuration is a regular file"


def test_device_is_refused():
    assert reason("/dev/zero") == "is a device; a configuration is a regular file"


def test_socket_is_refused(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "x"))

        assert "it is a socket or a device" in reason(tmp_path / "x")


def test_missing_file_is_named_with_the_errno(tmp_path):
    told = "cannot be opened: No such file or directory (ENOENT)"
    assert reason(tmp_path / "x") == told


def test_name_with_a_nul_is_told():
    assert reason("a\0b") == "cannot be opened: its name holds a NUL character"


def test_loop_of_links_is_told(tmp_path):
    os.symlink("x", tmp_path / "x")

    assert "ELOOP" in reason(tmp_path / "x")


def test_unreadable_file_is_told(tmp_path):
    (tmp_path / "x").write_text("")
    (tmp_path / "x").chmod(0)
    if os.geteuid() == 0:
        pytest.skip("root reads everything")

    assert "EACCES" in reason(tmp_path / "x")


def test_a_mebibyte_is_read_and_a_byte_more_is_not(tmp_path):
    (tmp_path / "x").write_bytes(b"#" * MOST_BYTES)
    (tmp_path / "y").write_bytes(b"#" * (MOST_BYTES + 1))

    assert len(read_source(str(tmp_path / "x")).text) == MOST_BYTES
    assert reason(tmp_path / "y").startswith("is larger than 1 MiB")


def test_reading_leaves_no_descriptor_behind(tmp_path):
    os.mkfifo(tmp_path / "x")
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path / "x", tmp_path, tmp_path / "none"):
        reason(path)

    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_are_refused_with_and_without_a_mark(encoding):
    with pytest.raises(UnreadableError, match="UTF-16 or UTF-32"):
        decode("services: {}".encode(encoding))


def test_byte_order_mark_of_utf8_is_accepted():
    assert decode(b"\xef\xbb\xbfa: 1") == "a: 1"


def test_place_of_a_bad_byte_is_told_in_characters():
    with pytest.raises(UnreadableError) as caught:
        decode("a: 1\nbé: ".encode() + b"\xff")

    assert (caught.value.line, caught.value.column) == (2, 5)


def test_hard_tab_is_left_to_the_parser():
    assert decode(b"a:\t1") == "a:\t1"
