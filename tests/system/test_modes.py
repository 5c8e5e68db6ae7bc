"""What holds in every mode: ends, names, limits, drains, and deaths of those above.

One handler, asked through each mode; what only one mode has is in test_pool.py and
test_loop.py, and the clauses of the handler's contract are in test_contract.py.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import textwrap
from pathlib import Path

import pytest
from daemon_under_test import eventually, in_namespace, read_all
from plugin import install, install_runner, runner, script

MODES = ["process", "pool", "loop"]

# The same in both kinds of handler: `await` is there for a loop and gone for main().
SAY = "say({0})"
SAY_LOOP = "writer.write((str({0}) + '\\n').encode())"


class Asked:
    """A daemon with the runner as service w, in one mode."""

    def __init__(self, daemon, mode):
        self.daemon = daemon
        self.mode = mode

    def spell(self, source: str) -> bytes:
        """Turn SAY(x), READ(n) and ENVIRONMENT into what the mode calls them."""
        loop = self.mode == "loop"
        source = textwrap.dedent(source)
        said = SAY_LOOP if loop else SAY
        source = re.sub(
            r"SAY\((.*)\)$", lambda m: said.format(m[1]), source, flags=re.MULTILINE
        )
        read = r"(await reader.read(\1))" if loop else r"os.read(0, \1)"
        source = re.sub(r"READ\((\d+)\)", read, source)
        environment = "writer.get_extra_info('environment')" if loop else "os.environ"
        return script(source.replace("ENVIRONMENT", environment))

    def begin(self, source: str, data: bytes = b"") -> socket.socket:
        sock = self.daemon.connect("w")
        sock.sendall(self.spell(source) + data)
        return sock

    def run(self, source: str, data: bytes = b"") -> str:
        with self.begin(source, data) as sock:
            return read_all(sock).decode()


@pytest.fixture(params=MODES)
def service(request, superd, tmp_path):
    """Start a daemon in each mode: `service(**keys)`."""
    environment = install_runner(tmp_path / "plugin")

    def start(*, expect=(), prefix=None, inherit=None, others=None, **keys) -> Asked:
        services = {"w": runner(request.param, **keys), **(others or {})}
        daemon = superd(
            {"services": services},
            environment=environment,
            expect=list(expect),
            prefix=prefix,
            inherit=inherit,
        )
        return Asked(daemon, request.param)

    start.mode = request.param
    return start


def wide(mode: str) -> dict[str, int]:
    """Give a pool room for several connections at a time."""
    return {"max_workers": 4} if mode == "pool" else {}


# -- the connection --------------------------------------------------------------------


def test_a_half_closed_connection_still_gets_its_answer(service):
    asked = service()
    source = """
    got = b""
    while data := READ(4096):
        got += data
    SAY(len(got))
    """
    with asked.begin(source, b"x" * 50_000) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"50000\n"


def test_the_banner_comes_before_the_handler(service):
    asked = service(banner="220 hello\r\n")
    for _ in range(3):
        assert asked.run("SAY('x')") == "220 hello\r\nx\n"


def test_the_number_of_a_sources_connections_is_told_to_each(service):
    asked = service(**wide(service.mode))
    socks = []
    for number in (1, 2, 3):
        socks.append(asked.begin("SAY(ENVIRONMENT['TCPCONNNUM'])\nREAD(1)"))
        assert socks[-1].recv(10) == f"{number}\n".encode()
    for sock in socks:
        sock.close()


def test_an_ipv4_peer_of_a_dual_stack_socket_looks_like_ipv4(service):
    with socket.socket(socket.AF_INET6) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
        listener.listen()
        asked = service(listen="fd:web", inherit={"web": listener})
        address = ("127.0.0.1", listener.getsockname()[1])
        with socket.create_connection(address, timeout=10) as sock:
            sock.sendall(asked.spell("SAY(dict(ENVIRONMENT))"))
            answer = read_all(sock).decode()
    assert "::ffff" not in answer
    assert "'TCPREMOTEIP': '127.0.0.1'" in answer
    assert "'TCPLOCALIP': '127.0.0.1'" in answer


def test_a_unix_listener_names_its_peer_by_user(service, tmp_path):
    path = tmp_path / "s.sock"
    user = {"user": "root"} if os.geteuid() == 0 else {}
    asked = service(listen=f"unix:{path}", expect=["runs as root"], **user)
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(asked.spell("SAY(dict(ENVIRONMENT))"))
            answer = read_all(sock).decode()
        assert "'PROTO': 'UNIX'" in answer
        assert f"'UNIXREMOTEEUID': '{os.geteuid()}'" in answer


def test_null_as_stderr_is_nobodys(service):
    asked = service(stderr="null")
    assert asked.run("os.write(2, b'err\\n')\nSAY('out')") == "out\n"
    asked.daemon.wait_log("end service=w")
    assert not asked.daemon.log("stderr service")


def test_what_a_handler_says_on_stderr_is_in_the_log_line_by_line(service):
    asked = service()
    asked.run("os.write(2, b'one\\ntwo\\n')\nprint('three', file=sys.stderr)\nSAY(1)")
    for text in ("one", "two", "three"):
        asked.daemon.wait_log(f"stderr service=w text={text}$")


@pytest.mark.root
def test_a_confirmed_name_is_in_the_environment_and_in_the_log(service):
    prefix = in_namespace("127.0.0.1 peer.example\\n")
    asked = service(resolve=True, prefix=prefix)
    for number in (1, 2):
        names = "SAY(ENVIRONMENT['TCPREMOTEHOST'] + ENVIRONMENT['REMOTE_HOST'])"
        assert asked.run(names) == "peer.example" * 2 + "\n"
        asked.daemon.wait_log(
            "accept service=w .* name=peer.example pid=", count=number
        )


@pytest.mark.root
def test_a_peer_without_a_name_is_served_without_one(service):
    asked = service(resolve=True, prefix=in_namespace("127.0.0.2 x\\n"))
    assert asked.run("SAY(ENVIRONMENT.get('TCPREMOTEHOST', 'none'))") == "none\n"


# -- stop ------------------------------------------------------------------------------


def test_at_a_stop_a_running_handler_finishes_and_its_peer_gets_everything(service):
    asked = service(timeouts={"stop": "60s"})
    with asked.begin("SAY('begun')\nREAD(1)\nSAY('x' * 500_000)") as sock:
        assert sock.recv(6) == b"begun\n"
        asked.daemon.process.send_signal(signal.SIGTERM)
        asked.daemon.wait_log("drain service=w live=1")
        with pytest.raises(ConnectionRefusedError):
            asked.daemon.connect("w")
        sock.sendall(b"x")
        assert len(read_all(sock)) == 500_001
    asked.daemon.wait_end()
    assert asked.daemon.process.returncode == 0
    assert asked.daemon.log("end service=w .* status=exit:0 duration=")


def test_a_second_term_ends_the_handlers_at_once(service):
    asked = service(timeouts={"stop": "60s"}, expect=["kill service=w signal=KILL"])
    with asked.begin("SAY('begun')\nREAD(1)") as sock:
        assert sock.recv(6) == b"begun\n"
        asked.daemon.process.send_signal(signal.SIGTERM)
        asked.daemon.wait_state("STOPPING=1")
        asked.daemon.process.send_signal(signal.SIGTERM)
        assert read_all(sock) == b""
    asked.daemon.wait_end()
    assert asked.daemon.process.returncode == 0
    assert asked.daemon.log("end service=w .* status=signal:9")


def test_after_the_time_for_the_stop_handlers_get_term(service):
    asked = service(timeouts={"stop": "200ms"}, expect=["kill service=w signal=TERM"])
    with asked.begin("SAY('begun')\nREAD(1)") as sock:
        assert sock.recv(6) == b"begun\n"
        asked.daemon.process.send_signal(signal.SIGTERM)
        assert read_all(sock) == b""
    asked.daemon.wait_end()
    assert asked.daemon.process.returncode == 0
    assert asked.daemon.log("end service=w .* status=signal:15")


def test_a_removed_service_lets_its_connections_finish(service):
    other = {"listen": "127.0.0.1:0", "exec": ["/bin/cat"]}
    asked = service(others={"stays": other})
    with asked.begin("SAY('begun')\nREAD(1)\nSAY('done')") as sock:
        assert sock.recv(6) == b"begun\n"
        asked.daemon.reload({"services": {"stays": other}})
        asked.daemon.wait_log("drain service=w live=1")
        sock.sendall(b"x")
        assert read_all(sock) == b"done\n"
    asked.daemon.wait_log("end service=w conn=1 .* status=exit:0")
    eventually(lambda: not asked.daemon.children(), "its launcher has ended")


# -- deaths above ----------------------------------------------------------------------


def test_when_the_master_dies_handlers_finish_and_nobody_stays(service):
    asked = service(**wide(service.mode))
    source = "SAY(os.getpid())\nSAY(os.getppid())\nREAD(1)\nSAY('x' * 500_000)"
    with asked.begin(source) as sock, asked.begin(source) as other:
        file = sock.makefile("rb")
        pids = [int(file.readline()), int(file.readline())]
        assert len(other.recv(1)) == 1
        asked.daemon.expected_errors.append(".")
        asked.daemon.kill()
        sock.sendall(b"x")
        assert len(file.read()) == 500_001
        file.close()
        sock.close()
        other.sendall(b"x")
        assert len(read_all(other)) > 500_000
    for pid in pids:
        eventually(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "it has left")


def test_when_a_launcher_dies_handlers_finish_and_the_service_goes_on(service):
    asked = service(
        expect=["reap service=w", "throttle service=w"], **wide(service.mode)
    )
    with asked.begin("SAY('begun')\nREAD(1)\nSAY('done')") as sock:
        assert sock.recv(6) == b"begun\n"
        asked.daemon.wait_log("accept service=w conn=1")
        (launcher,) = asked.daemon.children()
        os.kill(launcher, signal.SIGKILL)
        asked.daemon.wait_log("reap service=w .* status=signal:9")
        asked.daemon.wait_log("release service=w")
        assert asked.run("SAY('next')") == "next\n"
        sock.sendall(b"x")
        assert read_all(sock) == b"done\n"
    asked.daemon.wait_log("end service=w conn=1 ")
    eventually(lambda: len(asked.daemon.children()) == 1, "one launcher")


# -- what an auditor looks at ----------------------------------------------------------


def test_a_handler_finds_nothing_of_the_master_or_of_another_service(service):
    secret = {"listen": "127.0.0.1:0", "exec": ["/bin/cat"], "warm": True}
    other = {**secret, "environment": {"SECRET": "hunter2"}}
    asked = service(others={"other": other})
    with asked.begin("SAY(os.getpid())\nREAD(1)") as sock:
        pid = int(sock.recv(100))
        folder = Path(f"/proc/{pid}/fd")
        names = {os.readlink(link) for link in folder.iterdir()}
        master = set(asked.daemon.fds().values())
        assert not {name for name in names & master if name.startswith("socket:")}
        assert not any("memfd" in name or ".yaml" in name for name in names), names
        assert b"hunter2" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert b"hunter2" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_handler_cannot_forge_a_line_of_the_log(service):
    asked = service()
    forged = "2026-01-01T00:00:00.000Z info accept service=w conn=9"
    asked.run(f"os.write(2, b'x\\n{forged} \\x1b[2J\\n')\nSAY(1)")
    asked.daemon.wait_log("stderr service=w", count=2)
    assert not asked.daemon.log("^[^ ]* info accept service=w conn=9")
    assert not [line for line in asked.daemon.lines if "\x1b" in line]


PREPARED = """
import os
prepared = []

def prepare(argv):
    prepared.append((os.getpid(), argv))
    if "--fail" in argv:
        raise ValueError("this is not for prepare to say")

def main(argv):
    (pid, given), = prepared
    os.write(1, f"{pid != os.getpid()} {given == argv} {len(prepared)}".encode())
    return 0

async def serve(reader, writer, options):
    (pid, given), = prepared
    writer.write(f"{pid != os.getpid()} True {len(prepared)}".encode())
    return 0
"""


@pytest.mark.parametrize("mode", ["process", "pool", "loop"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_handler_prepares_once_for_all_its_processes(superd, tmp_path, mode, fails):
    environment = install(tmp_path / "plugin", "prepared", PREPARED)
    service = {"listen": "127.0.0.1:0", "handler": "prepared", "mode": mode}
    if fails and mode != "loop":
        service["options"] = {"fail": True}
    daemon = superd({"services": {"it": service}}, environment=environment)
    for _ in range(3):
        assert daemon.talk("it", b"") == b"True True 1"
    if "options" in service:
        daemon.wait_log("stderr service=it text=.*ValueError: this is not for prepare")
