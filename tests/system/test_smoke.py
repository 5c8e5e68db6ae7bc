"""A real daemon on real sockets does its main job."""

from __future__ import annotations


def test_a_program_gets_the_connection_on_stdin_and_stdout(superd):
    daemon = superd(
        {"services": {"cat": {"listen": "127.0.0.1:0", "exec": ["/bin/cat"]}}}
    )
    assert daemon.talk("cat", b"hello\n") == b"hello\n"
    daemon.wait_log(r"end service=cat conn=1 .* status=exit:0")


def test_a_python_handler_gets_the_connection_too(superd):
    daemon = superd(
        {"services": {"echo": {"listen": "127.0.0.1:0", "handler": "echo"}}}
    )
    assert daemon.talk("echo", b"hello\n") == b"hello\n"
    assert daemon.talk("echo", b"again\n") == b"again\n"
