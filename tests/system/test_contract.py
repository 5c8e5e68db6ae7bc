"""The handler contract, every clause, asked of the handlers themselves.

The probes are programs that nobody here wrote (cat and ls over /proc, env), and the same
questions are put to a Python handler that the launcher forks, to a pool's worker at its
second connection, and to a loop's where they have a meaning there.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from daemon_under_test import DaemonFactory, eventually, read_all
from plugin import install

PROBE = r'''
"""Answer what a handler can see of itself."""
import os, subprocess, sys

OPTIONS = {"what": {"type": "str", "default": "status", "help": "what is asked"}}

def main(argv):
    what = argv[1]
    if what == "fds":
        for fd in sorted(os.listdir("/proc/self/fd"), key=int):
            try:
                print(fd, os.readlink("/proc/self/fd/" + fd), flush=True)
            except FileNotFoundError:
                pass
    elif what == "ls":
        subprocess.run(["/bin/ls", "-l", "/proc/self/fd"], close_fds=False)
    else:
        sys.stdout.write(answer(what, os.environ))
    return 0

async def serve(reader, writer, options):
    writer.write(answer(options["what"], writer.get_extra_info("environment")).encode())

def answer(what, environment):
    if what == "env":
        return "".join(f"{key}={value}\n" for key, value in environment.items())
    if what == "id":
        return f"{os.getuid()} {os.getgid()} {os.getgroups()} {os.getcwd()}\n"
    if what == "stderr":
        with open("/dev/stderr", "w") as file:
            file.write("said on stderr\n")
        return ""
    return open(f"/proc/self/{what}").read()
'''


def exec_probe(what: str) -> dict[str, object]:
    argv = {
        "env": ["/usr/bin/env"],
        "fds": ["/bin/ls", "-l", "/proc/self/fd"],
        "id": ["/bin/sh", "-c", "echo $(id -u) $(id -g) [$(id -G)] $(pwd)"],
        "stderr": ["/bin/sh", "-c", "echo said on stderr >/dev/stderr"],
    }.get(what, ["/bin/cat", f"/proc/self/{what}"])
    return {"listen": "127.0.0.1:0", "exec": argv}


LIMITS = {
    "nofile": 64,
    "as": "512M",
    "cpu": "60s",
    "fsize": "1G",
    "core": 0,
    "nproc": 500,
}
ENVIRONMENT = {"environment": {"LANG": "C.UTF-8"}, "pass_environment": ["TZ"]}
SOMEBODY = {"user": "daemon", "group": "games", "groups": ["mail"]}
QUESTIONS: list[tuple[str, dict[str, object]]] = [
    ("fds", {}),
    ("status", {}),
    ("status", {"umask": "077"}),
    ("stat", {}),
    ("stat", {"nice": 7}),
    ("limits", {}),
    ("limits", {"rlimits": LIMITS}),
    ("env", ENVIRONMENT),
    ("id", {}),
    ("id", {"directory": "/usr"}),
    *([("id", SOMEBODY)] if os.geteuid() == 0 else []),
    ("stderr", {}),
]
POISON = {
    "LD_PRELOAD": "",
    "PYTHONSTARTUP": "/x",
    "BASH_ENV": "/x",
    "IFS": "x",
    "SECRET": "hunter2",
    "TZ": "Europe/Berlin",
}


@pytest.fixture(scope="module", params=["exec", "python", "pool", "loop"])
def ask(request):
    """Ask a handler of each kind: `ask(what, **keys)` gives its answer.

    One daemon for all questions, a service for each.
    """
    folder = Path(tempfile.mkdtemp(prefix="superd-test-"))
    folder.chmod(0o755)
    environment = install(folder / "plugin", "probe", PROBE)
    factory = DaemonFactory(folder)
    services = {
        f"probe{number}": service(request.param, what, keys)
        for number, (what, keys) in enumerate(QUESTIONS)
    }
    daemon = factory({"services": services}, environment={**environment, **POISON})

    def ask(what: str, **keys) -> str:
        ask.service = f"probe{QUESTIONS.index((what, keys))}"
        for _ in range(2 if ask.kind == "pool" else 1):
            asked[ask.service] += 1
            answer = daemon.talk(ask.service, half_close=False).decode()
            pattern = f"end service={ask.service} "
            ask.end = daemon.wait_log(pattern, count=asked[ask.service])
        return answer

    asked: Counter[str] = Counter()
    ask.kind = request.param
    ask.daemon = daemon
    yield ask
    try:
        factory.finish()
    finally:
        shutil.rmtree(folder)


def service(kind: str, what: str, keys: dict[str, object]) -> dict[str, object]:
    """Configure the service that answers one question."""
    if kind == "exec":
        return {**exec_probe(what), **keys}
    # A worker has descriptors of its own; what it must not do is to hand them on.
    what = "ls" if kind == "pool" and what == "fds" else what
    common = {"listen": "127.0.0.1:0", "handler": "probe", "options": {"what": what}}
    if kind == "python":
        return {**common, **keys}
    if kind == "loop" and "rlimits" in keys:
        keys = {"rlimits": {**LIMITS, "cpu": None}}
    return {**common, "mode": kind, "workers": 1, **keys}


def status_of(text: str) -> dict[str, str]:
    return {
        key: value.strip()
        for key, _, value in (x.partition(":") for x in text.splitlines())
    }


def test_a_handler_has_exactly_the_descriptors_0_1_and_2(ask):
    if ask.kind == "loop":
        pytest.skip("a loop has one descriptor for each connection: test_loop.py")
    words = [line.replace(" -> ", " ").split() for line in ask("fds").splitlines()]
    found = {line[-2]: line[-1] for line in words if line[-2].isdigit()}
    # whoever lists the folder has it open meanwhile
    found = {fd: name for fd, name in found.items() if not name.endswith("/fd")}
    assert set(found) == {"0", "1", "2"}
    assert found["0"] == found["1"]
    assert found["0"].startswith("socket:")
    assert found["2"].startswith("pipe:")


def test_every_signal_is_at_its_default_and_unblocked(ask):
    status = status_of(ask("status"))
    assert int(status["SigBlk"], 16) == 0
    # 32 and 33 are the C library's own: its posix_spawn leaves them ignored, and its
    # sigaction lets no program see or set them.
    ignored = 1 << 31 | 1 << 32
    if ask.kind == "loop":  # one peer's end (SIGPIPE), one file's limit (SIGXFSZ)
        ignored |= 1 << 12 | 1 << 24
    assert int(status["SigIgn"], 16) & ~ignored == 0


def test_a_handler_leads_a_session_and_a_process_group_of_its_own(ask):
    words = ask("stat").rpartition(")")[2].split()
    pid = int(ask.end.split("pid=")[1].split()[0])
    assert int(words[2]) == pid, "process group"
    assert int(words[3]) == pid, "session"
    assert int(words[4]) == 0, "controlling terminal"


def test_umask_is_022_unless_configured(ask):
    assert status_of(ask("status"))["Umask"] == "0022"
    assert status_of(ask("status", umask="077"))["Umask"] == "0077"


def limit(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(name))
    return re.split(r"\s{2,}", line.removeprefix(name).strip())[:2]


def test_core_dumps_are_off_and_the_soft_file_limit_is_one_that_select_can_use(ask):
    text = ask("limits")
    assert limit(text, "Max core file size") == ["0", "0"]
    assert limit(text, "Max open files")[0] == "1024"


def test_configured_limits_are_soft_and_hard(ask):
    text = ask("limits", rlimits=LIMITS)
    assert limit(text, "Max open files") == ["64", "64"]
    assert limit(text, "Max address space") == [str(512 << 20)] * 2
    if ask.kind == "pool":
        # Counted anew for each connection, which a hard limit cannot be.
        assert 60 < int(limit(text, "Max cpu time")[0]) <= 62
    elif ask.kind != "loop":
        assert limit(text, "Max cpu time") == ["60", "60"]
    assert limit(text, "Max file size") == [str(1 << 30)] * 2
    assert limit(text, "Max processes") == ["500", "500"]


def test_the_environment_is_built_from_nothing(ask):
    answer = ask("env", **ENVIRONMENT)
    environment = dict(line.split("=", 1) for line in answer.splitlines())
    for name in ("_", "PWD", "SHLVL", "OLDPWD"):
        environment.pop(name, None)
    port = str(ask.daemon.address(ask.service)[1])
    remote = environment["TCPREMOTEPORT"]
    assert environment == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "Europe/Berlin",
        "PROTO": "TCP",
        "TCPLOCALIP": "127.0.0.1",
        "TCPLOCALPORT": port,
        "TCPREMOTEIP": "127.0.0.1",
        "TCPREMOTEPORT": remote,
        "TCPCONNNUM": "1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": remote,
        "SUPERD_SERVICE": ask.service,
        "SUPERD_CONNECTION": ask.end.split("conn=")[1].split()[0],
    }


def test_the_working_directory_is_the_root_unless_configured(ask):
    assert ask("id").split()[-1] == "/"
    assert ask("id", directory="/usr").split()[-1] == "/usr"


def test_stderr_is_the_log_and_can_be_opened_by_its_name(ask):
    ask("stderr")
    said = rf'stderr service={ask.service} text="said on stderr"'
    ask.daemon.wait_log(said)


def test_nice_is_as_configured(ask):
    words = ask("stat", nice=7).rpartition(")")[2].split()
    assert int(words[16]) == 7


@pytest.mark.root
def test_a_service_of_root_runs_as_nobody_by_default_without_roots_groups(ask):
    uid, gid, *groups = ask("id").split()
    assert (uid, gid) == ("65534", "65534")
    assert "".join(groups[:-1]) == "[65534]"


@pytest.mark.root
def test_user_group_and_groups_are_taken_on(ask):
    uid, gid, *rest = ask("id", user="daemon", group="games", groups=["mail"]).split()
    assert (uid, gid) == ("1", "60")
    assert (
        sorted(re.findall(r"\d+", " ".join(rest[:-1]))) == ["60", "8"] or "8" in rest[0]
    )


@pytest.mark.root
def test_there_is_no_way_back_to_root(ask):
    status = status_of(ask("status"))
    assert status["Uid"].split() == ["65534"] * 4
    assert status["Gid"].split() == ["65534"] * 4
    assert int(status["CapEff"], 16) == 0
    assert int(status["CapPrm"], 16) == 0


def test_argv_reaches_the_program_exactly_and_no_shell_touches_it(superd):
    argv = ["/usr/bin/printf", "[%s]", "a b", "$HOME", ";", "*", "", "ü", "x\ny", "%h"]
    daemon = superd({"services": {"args": {"listen": "127.0.0.1:0", "exec": argv}}})
    assert daemon.talk("args").decode() == "[a b][$HOME][;][*][][ü][x\ny][%h]"


def test_an_ipv4_peer_of_a_dual_stack_socket_looks_like_ipv4(superd):
    with socket.socket(socket.AF_INET6) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
        listener.listen()
        daemon = superd(
            {"services": {"env": {"listen": "fd:web", "exec": ["/usr/bin/env"]}}},
            inherit={"web": listener},
        )
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            answer = read_all(sock).decode()
    assert "::ffff" not in answer
    assert "TCPREMOTEIP=127.0.0.1\n" in answer
    assert "TCPLOCALIP=127.0.0.1\n" in answer
    assert daemon.wait_log("accept service=env").count("peer=127.0.0.1:")


def test_the_socket_is_blocking_for_the_handler(superd):
    daemon = superd(
        {
            "services": {
                "ask": {
                    "listen": "127.0.0.1:0",
                    "exec": [
                        "/usr/bin/perl",
                        "-MFcntl",
                        "-e",
                        "print((fcntl(STDIN, F_GETFL, 0) & O_NONBLOCK) ? 1 : 0)",
                    ],
                }
            }
        }
    )
    assert daemon.talk("ask") == b"0"


def test_stderr_peer_sends_it_to_the_peer_and_null_nowhere(superd):
    program = ["/bin/sh", "-c", "echo out; echo err >&2"]
    daemon = superd(
        {
            "services": {
                "peer": {"listen": "127.0.0.1:0", "exec": program, "stderr": "peer"},
                "null": {"listen": "127.0.0.1:0", "exec": program, "stderr": "null"},
            }
        }
    )
    assert daemon.talk("peer") == b"out\nerr\n"
    assert daemon.talk("null") == b"out\n"
    daemon.wait_log("end service=null")
    assert not daemon.log("stderr service")


def test_the_banner_comes_before_the_handler(superd):
    daemon = superd(
        {
            "services": {
                "cat": {
                    "listen": "127.0.0.1:0",
                    "exec": ["/bin/cat"],
                    "banner": "220 hello\r\n",
                }
            }
        }
    )
    assert daemon.talk("cat", b"x") == b"220 hello\r\nx"


def test_a_unix_listener_serves_and_names_its_peer_by_user(superd, tmp_path):
    path = tmp_path / "s.sock"
    daemon = superd(
        {
            "services": {
                "env": {
                    "listen": f"unix:{path}",
                    "exec": ["/usr/bin/env"],
                    **({"user": "root"} if os.geteuid() == 0 else {}),
                }
            }
        },
        expect=["runs as root"],
    )
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        answer = read_all(sock).decode()
    assert "PROTO=UNIX\n" in answer
    assert f"UNIXREMOTEEUID={os.geteuid()}\n" in answer
    daemon.stop()
    assert not path.exists()


def test_a_handler_module_is_never_imported_by_root(superd, tmp_path):
    source = "import os\nUID = os.getuid()\ndef main(argv):\n    print(UID)\n"
    environment = install(tmp_path / "plugin", "whoami", source)
    daemon = superd(
        {"services": {"whoami": {"listen": "127.0.0.1:0", "handler": "whoami"}}},
        environment=environment,
    )
    uid = int(daemon.talk("whoami"))
    assert uid == (65534 if os.geteuid() == 0 else os.geteuid())


def test_a_launcher_holds_no_descriptor_of_the_master_or_of_another_service(superd):
    daemon = superd(
        {
            "services": {
                "one": {"listen": "127.0.0.1:0", "exec": ["/bin/cat"], "warm": True},
                "two": {"listen": "127.0.0.1:0", "exec": ["/bin/cat"], "warm": True},
            }
        }
    )
    daemon.talk("one", b"x")
    daemon.talk("two", b"x")
    listening = {name for name in daemon.fds().values() if name.startswith("socket:")}
    launchers = eventually(daemon.children, "launchers")
    assert len(launchers) == 2
    for pid in launchers:
        # the connection itself lingers until its peer's end has been seen
        names = eventually(lambda pid=pid: _settled(pid), "one socket is left")
        sockets = {name for name in names if name.startswith("socket:")}
        assert len(sockets) == 1, names
        assert not sockets & listening
        assert not any("superd.yaml" in name or "memfd" in name for name in names)


def _settled(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    names = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
    return names if sum(name.startswith("socket:") for name in names) == 1 else []
