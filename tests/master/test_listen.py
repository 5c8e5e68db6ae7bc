"""Listening sockets: opened as told, or an explanation, and nothing left behind."""

from __future__ import annotations

import errno
import os
import socket
import stat

import pytest
from fakeos import FaultyKernel, every_fault
from master_rig import listener

from superd.master.kernel import Kernel
from superd.master.listen import (
    ListenError,
    identity,
    open_listener,
    reported_port,
    unlink_unix,
)

ERRORS = [errno.EMFILE, errno.ENOMEM, errno.ENOBUFS, errno.EACCES, errno.EADDRINUSE]


@pytest.mark.parametrize(
    ("key", "calls"),
    [("tcp 127.0.0.1:0", 3), ("udp 127.0.0.1:0", 2), ("tcp [::1]:0", 3), ("unix", 3)],
)
def test_whatever_call_fails_is_told_with_its_place_and_leaves_nothing(
    tmp_path, key, calls
):
    spec = listener(f"unix {tmp_path}/s" if key == "unix" else key)

    def scenario(kernel) -> None:
        try:
            open_listener(kernel, spec).close()
        except ListenError as error:
            told.append(str(error))
            assert kernel.fired
            assert os.listdir(tmp_path) == []
        else:
            assert not kernel.fired
            (tmp_path / "s").unlink(missing_ok=True)

    told: list[str] = []
    assert every_fault(scenario, ERRORS) == calls
    begin = f"x:1:1: cannot listen on {spec['key']}: E"
    assert all(text.startswith(begin) for text in told)
    assert len(told) == calls * len(ERRORS)


def test_a_socket_is_close_on_exec_and_does_not_block():
    with open_listener(Kernel(), listener("tcp 127.0.0.1:0")) as sock:
        assert not sock.get_inheritable()
        assert not sock.getblocking()
        assert reported_port(sock)


def test_tcp_sockets_of_both_families_share_a_port():
    with (
        open_listener(Kernel(), listener("tcp 0.0.0.0:0")) as four,
        open_listener(Kernel(), listener("tcp [::]:0"), reported_port(four)) as six,
    ):
        assert reported_port(six) == reported_port(four)
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def test_the_port_of_a_datagram_socket_is_its_own():
    with open_listener(Kernel(), listener("udp 127.0.0.1:0")) as sock:
        taken = listener(f"udp 127.0.0.1:{reported_port(sock)}")
        with pytest.raises(ListenError, match="EADDRINUSE"):
            open_listener(Kernel(), taken)


def test_a_real_shortage_of_descriptors_is_told(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.dup(0)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
    try:
        with pytest.raises(ListenError, match="EMFILE"):
            open_listener(Kernel(), listener("tcp 127.0.0.1:0"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_address_of_nobody_and_a_zone_of_nobody_are_explained():
    with pytest.raises(ListenError, match="no interface of this machine"):
        open_listener(Kernel(), listener("tcp 203.0.113.1:0"))
    with pytest.raises(ListenError):
        open_listener(Kernel(), listener("tcp [fe80::1%nosuch]:0"))


class TestUnix:
    def test_its_file_is_for_everybody_who_may_enter_the_folder(self, tmp_path):
        spec = listener(f"unix {tmp_path}/s")
        before = os.umask(0o077)
        try:
            with open_listener(Kernel(), spec):
                mode = (tmp_path / "s").stat().st_mode
                assert stat.S_IMODE(mode) == 0o666
                assert os.umask(0o077) == 0o077
        finally:
            os.umask(before)
        made = identity(spec)
        unlink_unix(spec, made)
        unlink_unix(spec, made)
        assert os.listdir(tmp_path) == []

    def test_a_stale_one_gives_way_and_one_that_answers_stays(self, tmp_path):
        spec = listener(f"unix {tmp_path}/s")
        open_listener(Kernel(), spec).close()
        with open_listener(Kernel(), spec):
            with pytest.raises(ListenError, match="somebody listens there"):
                open_listener(Kernel(), spec)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(spec["path"])

    @pytest.mark.parametrize("kind", ["file", "link", "folder"])
    def test_what_is_no_socket_stays(self, tmp_path, kind):
        path = tmp_path / "s"
        {
            "file": lambda: path.write_text("precious"),
            "link": lambda: path.symlink_to("elsewhere"),
            "folder": path.mkdir,
        }[kind]()
        with pytest.raises(ListenError):
            open_listener(Kernel(), listener(f"unix {path}"))
        assert os.path.lexists(path)

    def test_one_that_cannot_listen_leaves_no_file(self, tmp_path):
        kernel = FaultyKernel(1, errno.ENOBUFS, "listen")
        with pytest.raises(ListenError):
            open_listener(kernel, listener(f"unix {tmp_path}/s"))
        assert os.listdir(tmp_path) == []
