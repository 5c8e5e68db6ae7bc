"""Every kind of address, real: who gets which socket, and what an error says."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import pytest
from daemon_under_test import eventually, read_all

CAT = {"listen": "127.0.0.1:0", "exec": ["/bin/cat"]}


def free_port() -> int:
    """Give a number that was free just now; only for tests that expect a refusal."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def ask(family: int, address) -> bytes:
    with socket.socket(family) as sock:
        sock.settimeout(10)
        sock.connect(address)
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def addresses(daemon, service: str) -> list[str]:
    lines = daemon.log(f"listen service={service} ")
    return [line.rpartition("address=")[2].strip('"') for line in lines]


def test_a_bare_port_listens_on_both_families_with_a_socket_each(superd):
    daemon = superd({"services": {"cat": {**CAT, "listen": 0}}})
    four, six = addresses(daemon, "cat")
    port = int(four.rpartition(":")[2])
    assert four == f"0.0.0.0:{port}"
    assert six == f"[::]:{port}", "both have the port that was chosen first"
    assert ask(socket.AF_INET, ("127.0.0.1", port)) == b"hello"
    assert ask(socket.AF_INET6, ("::1", port)) == b"hello"
    assert daemon.wait_log(r"accept .* peer=\[::1\]:")
    assert daemon.wait_log(r"accept .* peer=127.0.0.1:")


def test_localhost_is_both_loopbacks_and_nothing_else(superd):
    daemon = superd({"services": {"cat": {**CAT, "listen": "localhost:0"}}})
    four, six = addresses(daemon, "cat")
    assert four.startswith("127.0.0.1:")
    assert six.startswith("[::1]:")


def test_several_addresses_of_one_service_are_all_served(superd):
    listen = ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"]
    daemon = superd({"services": {"cat": {**CAT, "listen": listen}}})
    found = addresses(daemon, "cat")
    assert len(found) == 3
    for text in found:
        host, _, port = text.rpartition(":")
        family = socket.AF_INET6 if "[" in host else socket.AF_INET
        assert ask(family, (host.strip("[]"), int(port))) == b"hello"


@pytest.mark.root
def test_without_ipv6_superd_serves_ipv4_with_a_warning(superd):
    off = "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1"
    shim = ["unshare", "-n", "sh", "-c", f'ip link set lo up; {off}; exec "$@"', "sh"]
    if shutil.which("sysctl") is None:
        shim[4] = shim[4].replace(
            off, "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 >$f; done"
        )
    daemon = superd(
        {"services": {"cat": {**CAT, "listen": "localhost:0"}}},
        prefix=shim,
        expect=["listen text=.*::1.*going on without it"],
    )
    assert len(addresses(daemon, "cat")) == 1


@pytest.mark.root
def test_names_of_etc_services_are_ports(superd):
    shim = ["unshare", "-n", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
    daemon = superd(
        {"services": {"cat": {**CAT, "listen": "127.0.0.1:finger"}}}, prefix=shim
    )
    assert addresses(daemon, "cat") == ["127.0.0.1:79"]


def test_an_address_in_use_ends_the_start_with_69_and_names_the_holder(superd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = superd(
            {"services": {"cat": {**CAT, "listen": f"127.0.0.1:{port}"}}}, ready=False
        )
        daemon.wait_end()
        assert daemon.process.returncode == 69
        assert "EADDRINUSE" in daemon.text()
        assert f"(pid {os.getpid()}) listens there" in daemon.text()
        assert "superd.yaml:" in daemon.text()


def test_a_restart_right_after_a_stop_binds_at_once(superd):
    port = free_port()
    config = {
        "services": {"date": {"listen": f"127.0.0.1:{port}", "exec": ["/bin/date"]}}
    }
    daemon = superd(config)
    for _ in range(5):  # the server closes first: TIME_WAIT is on its side
        assert daemon.talk("date", half_close=False)
    daemon.stop()
    again = superd(config)
    assert again.talk("date", half_close=False)


def test_a_restart_binds_while_handlers_of_the_killed_master_live_on(superd):
    port = free_port()
    config = {"services": {"cat": {**CAT, "listen": f"127.0.0.1:{port}"}}}
    daemon = superd(config)
    with daemon.connect("cat") as held:
        held.sendall(b"one")
        assert held.recv(3) == b"one"
        (launcher,) = daemon.children()
        daemon.kill()
        again = superd(config)
        assert again.talk("cat", b"x") == b"x"
        held.sendall(b"two")
        assert held.recv(3) == b"two", "the handler lives on"
    # Its launcher ends with its last handler.
    eventually(lambda: not os.path.exists(f"/proc/{launcher}"), "the launcher ends")


def test_two_services_on_one_address_are_an_error_that_names_both_lines(superd):
    daemon = superd(
        "services:\n"
        "  one: {listen: 127.0.0.1:7777, exec: [/bin/cat]}\n"
        "  two: {listen: 127.0.0.1:7777, exec: [/bin/cat]}\n",
        ready=False,
    )
    daemon.wait_end()
    assert daemon.process.returncode == 78
    assert "superd.yaml:3:" in daemon.text()
    assert "superd.yaml:2:" in daemon.text()


def test_inherited_sockets_are_served_by_name_and_outlive_a_reload(superd):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = {"services": {"cat": {**CAT, "listen": "fd:web"}}}
        daemon = superd(config, inherit={"web": listener})
        assert ask(socket.AF_INET, listener.getsockname()) == b"hello"
        daemon.reload({"services": {"other": CAT}})
        daemon.reload(config)
        assert ask(socket.AF_INET, listener.getsockname()) == b"hello"


def test_an_inherited_socket_that_is_not_there_is_an_error_that_says_which_are(superd):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        daemon = superd(
            {"services": {"cat": {**CAT, "listen": "fd:wbe"}}},
            inherit={"web": listener},
            ready=False,
        )
        daemon.wait_end()
        assert daemon.process.returncode == 78
        assert "no inherited socket is named wbe" in daemon.text()
        assert "web" in daemon.text()


def as_superd(**keys) -> dict[str, object]:
    """Let the handler be whoever superd is: it may enter the test's folder."""
    return {**CAT, **({"user": "root"} if os.geteuid() == 0 else {}), **keys}


def test_a_stale_unix_socket_file_is_no_obstacle(superd, tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    config = {"services": {"cat": as_superd(listen=f"unix:{path}")}}
    superd(config, expect=["runs as root"])
    assert ask(socket.AF_UNIX, str(path)) == b"hello"


@pytest.mark.parametrize("kind", ["live socket", "file", "link", "folder"])
def test_a_unix_path_that_is_somebody_elses_is_left_alone(superd, tmp_path, kind):
    path = tmp_path / "s"
    target = tmp_path / "target"
    live = socket.socket(socket.AF_UNIX)
    if kind == "live socket":
        live.bind(str(path))
        live.listen()
    elif kind == "file":
        path.write_text("precious")
    elif kind == "link":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(target))
        path.symlink_to(target)
    else:
        path.mkdir()
    daemon = superd(
        {"services": {"cat": as_superd(listen=f"unix:{path}")}}, ready=False
    )
    daemon.wait_end()
    live.close()
    assert daemon.process.returncode == 69
    assert "EADDRINUSE" in daemon.text()
    assert os.path.lexists(path)


def test_a_handler_inherits_no_listener_so_a_killed_master_leaves_the_port_free(superd):
    daemon = superd({"services": {"sleep": {**CAT, "exec": ["/bin/sleep", "60"],
                                            "timeouts": {"stop": "100ms"}}}},
                    expect=["kill service"])  # fmt: skip
    with daemon.connect("sleep"):
        line = daemon.wait_log("accept service=sleep")
        pid = int(line.rpartition("pid=")[2])
        names = [
            os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")
        ]
        listening = set(daemon.fds().values())
        assert not [name for name in names if name in listening and "socket" in name]


def test_the_port_below_1024_of_an_ordinary_user_is_explained():
    if os.geteuid() == 0:
        setpriv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv (Debian package util-linux)")
    else:
        setpriv = []
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with open(
        "/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii"
    ) as file:
        if int(file.read()) <= 79:
            pytest.skip("this machine lets everybody bind port 79")
    result = subprocess.run(
        [*setpriv, sys.executable, "-m", "superd", "-l", "127.0.0.1:79", "--", "/bin/cat"],
        capture_output=True, text=True, timeout=20, cwd=root,
        env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert result.returncode == 77, result.stderr
    assert "CAP_NET_BIND_SERVICE" in result.stderr
    assert "Traceback" not in result.stderr
