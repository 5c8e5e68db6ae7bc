"""Every flag of `superd --help`, and what a wrong one is told."""

from __future__ import annotations

import json
import os
import re
import signal
import socket

import pytest
from commands import ROOT, as_ordinary_user, run_superd, write_config
from daemon_under_test import DaemonFactory, read_all

import superd as package

EXAMPLE = ROOT / "etc" / "superd.yaml"
FLAGS = {
    *("-c", "--config", "-d", "--daemon", "-p", "--pidfile", "-t", "--check", "--dump"),
    *("--schema", "-l", "--listen", "--handler", "-o", "--option", "--default-user"),
    *("--hints", "-V", "--version", "-h", "--help"),
}


@pytest.fixture
def file(tmp_path):
    DaemonFactory(tmp_path)
    echo = {"listen": "127.0.0.1:0", "handler": "echo"}
    return write_config(tmp_path / "superd.yaml", {"echo": echo})


def test_help_names_every_flag_this_file_tests():
    done = run_superd("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(re.findall(r"(?<![\w-])--?[a-zA-Z][a-z-]*", done.stdout)) == FLAGS


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_version(flag):
    done = run_superd(flag)
    assert (done.returncode, done.stdout) == (0, f"superd {package.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--conf", "x"], "unrecognized arguments: --conf"),
        (["-c"], "expected one argument"),
        (["--", "cat"], "needs an address: -l PORT"),
        (["--handler", "echo"], "needs an address: -l PORT"),
        (["-o", "root=."], "needs an address: -l PORT"),
        (["-l", "0"], "-l wants one of: -- PROGRAM, or --handler NAME"),
        (["-l", "0", "--handler", "echo", "--", "cat"], "-l wants one of"),
        (["-c", "x", "-l", "0", "--", "cat"], "-c and -l exclude each other"),
        (
            ["-l", "0", "--handler", "httpd", "-o", "root"],
            "-o root: write -o NAME=VALUE",
        ),
    ],
)
def test_wrong_usage_is_64_and_one_line(arguments, said):
    done = run_superd(*arguments)
    assert done.returncode == os.EX_USAGE
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("flag", ["-t", "--check"])
def test_check_counts_what_a_good_file_has(file, flag):
    done = run_superd(flag, "-c", file)
    assert done.stdout == f"{file}: OK (1 service, 1 listener)\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_check_says_everything_that_is_wrong_and_listens_nowhere(tmp_path):
    file = tmp_path / "superd.yaml"
    file.write_text(
        "services:\n  a: {listn: 7, exec: [/bin/cat]}\n  b: {listen: x y}\n"
    )
    done = run_superd("-t", "-c", file)
    assert done.returncode == os.EX_CONFIG
    assert f"{file}:2:7: services.a.listn: unknown key" in done.stderr
    assert "services.b" in done.stderr


def test_a_file_that_is_not_there_is_a_configuration_error(tmp_path):
    for arguments in (["-t"], []):
        done = run_superd(*arguments, "-c", tmp_path / "none.yaml")
        assert done.returncode == os.EX_CONFIG
        assert f"{tmp_path}/none.yaml" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_shipped_file_is_good_for_root_and_for_an_ordinary_user():
    for prefix in ([], as_ordinary_user()):
        done = run_superd("-t", "-c", EXAMPLE, prefix=prefix)
        assert done.returncode == 0, done.stderr


def test_dump_is_a_file_that_means_the_same(file, tmp_path):
    first = run_superd("--dump", "-c", file)
    assert first.returncode == 0
    other = tmp_path / "dumped.yaml"
    other.write_text(first.stdout)
    assert "connections: 40" in first.stdout
    assert run_superd("--dump", "-c", other).stdout == first.stdout


def test_schema_is_json_and_needs_no_file():
    done = run_superd("--schema")
    assert done.returncode == 0
    assert "services" in json.loads(done.stdout)["properties"]


def test_check_of_an_ad_hoc_service():
    done = run_superd("-t", "-l", "127.0.0.1:0", "--", "cat")
    assert done.returncode == 0
    assert "OK (1 service, 1 listener)" in done.stdout


def test_a_program_without_a_file(superd):
    daemon = superd({}, arguments=["-l", "127.0.0.1:0", "--", "cat"])
    assert daemon.talk("cat", b"hello\n") == b"hello\n"


def test_a_bare_port_is_every_address_and_the_rest_belongs_to_the_program(superd):
    daemon = superd(
        {}, arguments=["-l", "0", "--", "echo", "-l", "--x"], expect=["IPv6"]
    )
    host, port = daemon.address("echo")
    assert host == "0.0.0.0"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        assert read_all(sock) == b"-l --x\n"


def test_two_addresses_and_a_handler(superd):
    listen = ["-l", "127.0.0.1:0", "-l", "127.0.0.1:0/udp"]
    daemon = superd({}, arguments=[*listen, "--handler", "echo"])
    assert daemon.talk("echo", b"hello") == b"hello"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect(daemon.address("echo", "udp"))
        sock.send(b"datagram")
        assert sock.recv(64) == b"datagram"


def test_the_options_of_a_handler(superd, tmp_path):
    (tmp_path / "hello.txt").write_text("hello from a file\n")
    options = ["--handler", "httpd", "-o", f"root={tmp_path}"]
    daemon = superd({}, arguments=["-l", "127.0.0.1:0", *options])
    answer = daemon.talk("httpd", b"GET /hello.txt HTTP/1.0\r\n\r\n", half_close=False)
    assert answer.endswith(b"\r\n\r\nhello from a file\n")


def test_an_option_that_the_handler_does_not_have_is_told():
    done = run_superd("-t", "-l", "0", "--handler", "httpd", "-o", "rooot=.")
    assert done.returncode == os.EX_CONFIG
    assert 'did you mean "root"' in done.stderr


@pytest.mark.root
def test_the_default_user_is_for_services_that_name_none(superd):
    ids = {"listen": "127.0.0.1:0", "exec": ["/usr/bin/id", "-u"]}
    config = {"services": {"none": ids, "named": dict(ids, user="daemon")}}
    with_flag = superd(config)
    file = with_flag.file
    assert with_flag.talk("none") == b"65534\n"
    root = superd(config, arguments=["--default-user", "root", "-c", str(file)])
    assert root.talk("none") == b"0\n"
    assert root.talk("named") == b"1\n"


def test_hints_say_how_to_try_each_service(superd, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "superd.yaml").write_text(
        "services: {web: {listen: '127.0.0.1:0', handler: httpd, options: {root: .}},"
        " cat: {listen: '127.0.0.1:0', exec: [/bin/cat]}}"
    )
    daemon = superd(
        {},
        arguments=["--hints", "-c", str(tmp_path / "superd.yaml")],
        prefix=["sh", "-c", f'exec "$@" >{out}', "sh"],
    )
    daemon.stop()
    hints = out.read_text().splitlines()
    assert re.match(r"web +curl http://127\.0\.0\.1:\d+/$", hints[0])
    assert re.match(r"cat +nc 127\.0\.0\.1 \d+$", hints[1])


def test_an_optional_address_that_is_taken_is_a_warning_until_it_is_free(superd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen = ["127.0.0.1:0", {"address": f"127.0.0.1:{port}", "optional": True}]
        config = {"services": {"echo": {"listen": listen, "handler": "echo"}}}
        daemon = superd(config, expect=["going on without it"])
        daemon.wait_log("EADDRINUSE .* going on without it")
        assert daemon.talk("echo", b"hello") == b"hello"
    daemon.reload()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"there")
        assert sock.recv(16) == b"there"


def test_superd_as_an_ordinary_user_serves_as_that_user(superd):
    prefix = as_ordinary_user()
    ids = {"listen": "127.0.0.1:0", "exec": ["/usr/bin/id", "-u"]}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        daemon = superd(
            {"services": {"id": dict(ids, listen="fd:x")}},
            inherit={"x": listener},
            prefix=prefix,
            ready=False,
        )
        with socket.create_connection(listener.getsockname(), timeout=10) as sock:
            uid = read_all(sock)
    assert uid == (b"65534\n" if os.geteuid() == 0 else b"%d\n" % os.geteuid())
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_end()
