"""A real superd, asked by Debian's finger client and by peers that mean no good."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from daemon_under_test import DEADLINE, read_all

MODES = ["process", "pool", "loop"]
NOT_NAMES = [b"-l", b"|id", b";id", b"../../etc/passwd", b"`id`", b"$(id)", b"\xe4\xf6"]


def need(tool, package):
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool} here: apt-get install {package}")


@pytest.fixture
def people(tmp_path):
    """Make a directory of texts, and the home of alice beside it."""
    folder = tmp_path / "people"
    folder.mkdir()
    (folder / "weather").write_text("rain\n")
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    (home / ".plan").write_text("to rest\n")
    home.joinpath(".plan").chmod(0o644)
    return folder


@pytest.fixture
def town(tmp_path, people):
    """Give a prefix: a network whose port 79 is free, and a passwd with alice in it."""
    need("finger", "finger")
    for tool in ("unshare", "nsenter"):
        need(tool, "util-linux")
    users = tmp_path / "passwd"
    home = people.parent / "home"
    alice = f"alice:x:64321:64321:Alice Liddell,,,:{home}:/bin/sh\n"
    users.write_text(Path("/etc/passwd").read_text() + alice)
    home.chmod(0o755)
    for path in home.iterdir():
        shutil.chown(path, user=64321)
    script = (
        "mount --make-rprivate / && ip link set lo up && "
        f'mount --bind {users} /etc/passwd && exec "$@"'
    )
    prefix = ["unshare", "--net", "--mount", "sh", "-c", script, "sh"]
    done = subprocess.run([*prefix, "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no namespaces may be made here: {done.stderr.strip()}")
    return prefix


def service(mode, address, **options):
    return {
        "listen": address,
        "handler": "finger",
        "mode": mode,
        "user": "nobody",
        "options": options,
    }


def finger(daemon, *words):
    """Ask as people do."""
    done = subprocess.run(
        ["nsenter", f"--target={daemon.pid}", "--net", "finger", *words],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    return done.stdout


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_debians_client_understands_every_answer(superd, town, people, mode):
    """Four hosts: users, texts, a program on the socket, and one that passes on."""
    texts = {"source": "directory", "directory": str(people), "list": True}
    daemon = superd(
        {
            "services": {
                "users": service(mode, "127.0.0.1:79", builtin=True, plans=True),
                "texts": service(mode, "127.0.0.2:79", **texts),
                "program": service(mode, "127.0.0.3:79", plumbing="socket"),
                "gate": service(
                    mode, "127.0.0.4:79", forward_to=["127.0.0.1"], builtin=True
                ),
            }
        },
        prefix=town,
    )
    answer = finger(daemon, "alice@127.0.0.1")
    assert "Login: alice" in answer
    assert "Name: Alice Liddell" in answer
    assert answer.endswith("Plan:\nto rest\n")
    assert "to rest" in finger(daemon, "-l", "alice@127.0.0.1")
    assert "nobody: no such user." in finger(daemon, "nobody@127.0.0.1")
    assert "online user list denied" in finger(daemon, "@127.0.0.1")
    assert "forwarding service denied" in finger(daemon, "a@b@127.0.0.1")

    assert finger(daemon, "weather@127.0.0.2") == "rain\n"
    assert finger(daemon, "@127.0.0.2") == "weather\n"
    assert "alice: no such user." in finger(daemon, "alice@127.0.0.2")

    assert "Alice Liddell" in finger(daemon, "alice@127.0.0.3")

    assert "Name: Alice Liddell" in finger(daemon, "alice@127.0.0.1@127.0.0.4")
    assert "forwarding service denied" in finger(daemon, "alice@127.0.0.2@127.0.0.4")
    assert "denied" in finger(daemon, "a@127.0.0.1@127.0.0.1@127.0.0.4")


@pytest.fixture(params=MODES)
def host(superd, people, request):
    options = {"source": "directory", "directory": str(people), "line_timeout": 0.5}
    one = service(request.param, "127.0.0.1:0", **options)
    del one["user"]
    return superd({"services": {"it": one}}, expect=["runs as root"])


def test_hostile_queries_are_refused_one_by_one(host):
    for name in NOT_NAMES:
        answer = host.talk("it", name + b"\r\n")
        assert answer == b"finger: that is no user name\r\n", name
    assert host.talk("it", b"a@b@c\r\n") == b"Finger forwarding service denied\r\n"
    assert host.talk("it", b"-l weather\r\n") == b"finger: at most 1 in one query\r\n"
    assert host.talk("it", b"weather\r\n") == b"rain\r\n"


def test_ten_kibibytes_and_control_bytes_break_the_protocol(host):
    too_long = b"finger: the query is longer than 512 bytes\r\n"
    # Not half-closed: it is refused before its end comes.
    assert host.talk("it", b"x" * 10240, half_close=False) == too_long
    assert host.talk("it", b"\x1b[2J\r\n") == b"finger: control bytes in the query\r\n"
    host.wait_log(r"end service=it conn=2 .* status=exit:110")


def test_a_query_without_its_end_has_a_deadline(host):
    with host.connect("it") as sock:
        sock.sendall(b"weather")
        assert read_all(sock) == b"finger: no query in time\r\n"
    with host.connect("it") as sock:
        sock.sendall(b"weather")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"rain\r\n"
