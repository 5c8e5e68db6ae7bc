"""Programs that nobody here wrote, one line of YAML each, asked by their own clients."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess

import pytest
from daemon_under_test import Daemon, read_all

GREETING = "hello from a program of somebody else\n"
CLIENT_SECONDS = 20
ROOT = ["runs as root"]
PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"

# A network of its own, so that a client that knows one port only finds its server there.
OWN_NETWORK = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def need(program: str, package: str) -> str:
    """Give the program's path, or skip and say what to install."""
    path = shutil.which(program, path=PATH)
    if path is None:
        pytest.skip(f"no {program} here: apt-get install {package}")
    return path


def run(argv: list[str], *, data: str = "", status: int = 0, **environment: str) -> str:
    """Run a client to its end; returns what it printed on stdout."""
    result = subprocess.run(
        argv,
        input=data,
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS,
        env={"PATH": PATH, "LC_ALL": "C.UTF-8", **environment},
    )
    assert result.returncode == status, (result, argv)
    return result.stdout


def as_us() -> dict[str, str]:
    """The service's user where it must be the one who runs the tests."""
    return {"user": "root"} if os.geteuid() == 0 else {}


def port_of(daemon: Daemon, kind: str = "tcp") -> str:
    return str(daemon.address("it", kind)[1])


@pytest.fixture
def serve(superd):
    """Start superd with one service: `serve(exec=[...])`."""

    def start(*, prefix=None, expect=(), **service) -> Daemon:
        service = {"listen": "127.0.0.1:0", **service}
        return superd(
            {"services": {"it": service}}, prefix=prefix, expect=[*ROOT, *expect]
        )

    return start


def test_git_daemon_gives_a_clone(serve, tmp_path):
    git = need("git", "git")
    work, bare, clone = tmp_path / "work", tmp_path / "it.git", tmp_path / "clone"
    who = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
    run([git, "init", "-q", str(work)])
    (work / "greeting").write_text(GREETING)
    run([git, "-C", str(work), "add", "greeting"])
    run([git, *who, "-C", str(work), "commit", "-qm", "first"])
    run([git, "clone", "-q", "--bare", str(work), str(bare)])
    flags = ["--inetd", "--export-all", f"--base-path={tmp_path}"]
    daemon = serve(
        exec=[git, "daemon", *flags],
        # nobody serves what root owns: git wants that said
        environment={
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        },
    )
    url = f"git://127.0.0.1:{port_of(daemon)}/it.git"
    run([git, "clone", "-q", url, str(clone)], HOME=str(tmp_path))
    assert (clone / "greeting").read_text() == GREETING
    assert "refs/heads/" in run([git, "ls-remote", url], HOME=str(tmp_path))


def test_rsync_lists_and_fetches(serve, tmp_path):
    rsync = need("rsync", "rsync")
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    big = os.urandom(3 << 20)
    (tree / "below" / "big").write_bytes(big)
    config = tmp_path / "rsyncd.conf"
    config.write_text(f"use chroot = no\n[files]\npath = {tree}\nread only = yes\n")
    daemon = serve(exec=[rsync, "--daemon", f"--config={config}"])
    url = f"rsync://127.0.0.1:{port_of(daemon)}/"
    assert run([rsync, url]).split() == ["files"]
    run([rsync, "-a", f"{url}files/", str(tmp_path / "copy")])
    assert (tmp_path / "copy" / "below" / "big").read_bytes() == big
    daemon.wait_log("end service=it .*status=exit:0")  # (a listing ends with 255)


@pytest.mark.root
def test_the_finger_client_finds_the_finger_server(serve):
    fingerd, finger = need("in.fingerd", "fingerd"), need("finger", "finger")
    need("ip", "iproute2")
    daemon = serve(listen="127.0.0.1:79", exec=[fingerd], prefix=OWN_NETWORK)
    inside = ["nsenter", f"--net=/proc/{daemon.pid}/ns/net"]
    assert "root" in run([*inside, finger, "root@127.0.0.1"])


def test_an_ssh_session_runs_a_command(serve, tmp_path):
    sshd, ssh = need("sshd", "openssh-server"), need("ssh", "openssh-client")
    keygen = need("ssh-keygen", "openssh-client")
    shell = pwd.getpwuid(os.geteuid()).pw_shell
    if shell.endswith(("nologin", "false")):
        pytest.skip(f"sshd lets nobody in whose shell is {shell}")
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # its boot script's work
    for name in ("host", "me"):
        run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)])
    options = {
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "me.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
        "LogLevel": "ERROR",
    }
    config = tmp_path / "sshd_config"
    config.write_text("".join(f"{key} {value}\n" for key, value in options.items()))
    daemon = serve(exec=[sshd, "-i", "-f", str(config)], **as_us())
    flags = [
        f"-oUserKnownHostsFile={tmp_path}/known",
        "-oStrictHostKeyChecking=accept-new",
        "-oBatchMode=yes",
        "-oIdentitiesOnly=yes",
        f"-i{tmp_path}/me",
        f"-p{port_of(daemon)}",
    ]
    command = 'head -c 1000000 /dev/zero | wc -c; cat; echo "$SSH_CONNECTION"'
    said = run([ssh, *flags, "127.0.0.1", command], data=GREETING).splitlines()
    assert said[:2] == ["1000000", GREETING.strip()]
    assert said[2].startswith("127.0.0.1 ")  # sshd knows its peer
    assert said[2].split()[3] == port_of(daemon)


@pytest.mark.root
def test_tftpd_takes_the_udp_socket_and_gives_files(serve, tmp_path):
    tftpd, tftp = need("in.tftpd", "tftpd-hpa"), need("tftp", "tftp-hpa")
    (tmp_path / "file").write_text(GREETING * 1000)
    daemon = serve(
        listen="127.0.0.1:0/udp",
        mode="wait",
        exec=[tftpd, "--timeout", "2", "--secure", str(tmp_path)],
        user="root",  # it changes its root, then its user
        expect=["kill service=it signal=TERM"],
    )
    for _ in range(2):
        get = [tftp, "127.0.0.1", port_of(daemon, "udp"), "-c", "get", "file"]
        run([*get, str(tmp_path / "copy")])
        assert (tmp_path / "copy").read_text() == GREETING * 1000
        (tmp_path / "copy").unlink()
    daemon.wait_log("end service=it")  # idle for two seconds: the socket comes back
    run([*get, str(tmp_path / "copy")])
    assert (tmp_path / "copy").read_text() == GREETING * 1000


@pytest.mark.parametrize(
    ("program", "package", "arguments"),
    [
        ("micro-httpd", "micro-httpd", ["FOLDER"]),
        ("busybox", "busybox", ["httpd", "-i", "-h", "FOLDER"]),
    ],
)
def test_small_web_servers_answer_curl(serve, tmp_path, program, package, arguments):
    server, curl = need(program, package), need("curl", "curl")
    (tmp_path / "page.txt").write_text(GREETING)
    argv = [server, *(word.replace("FOLDER", str(tmp_path)) for word in arguments)]
    daemon = serve(exec=argv)
    url = f"http://127.0.0.1:{port_of(daemon)}"
    assert run([curl, "-sS", f"{url}/page.txt"]) == GREETING
    code = ["-o", os.devnull, "-w", "%{http_code}"]
    assert run([curl, "-sS", *code, f"{url}/nothing"]) == "404"
    # nobody reads the body of a POST to a file: the answer arrives all the same
    body = "x" * 300_000
    run([curl, "-sS", *code, "-H", "Expect:", "--data-binary", "@-", url], data=body)


def test_vsftpd_lists_and_gives_files_to_curl(serve, tmp_path):
    vsftpd, curl = need("vsftpd", "vsftpd"), need("curl", "curl")
    root = tmp_path / "ftp"
    root.mkdir()
    (root / "file").write_text(GREETING)
    root.chmod(0o555)
    config = tmp_path / "vsftpd.conf"
    options = [
        "listen=NO",
        "anonymous_enable=YES",
        f"anon_root={root}",
        "seccomp_sandbox=NO",
        "xferlog_enable=NO",
        f"run_as_launching_user={'NO' if os.geteuid() == 0 else 'YES'}",
        f"secure_chroot_dir={root}",
    ]
    config.write_text("\n".join(options) + "\n")
    daemon = serve(exec=[vsftpd, str(config)], **as_us())
    url = f"ftp://127.0.0.1:{port_of(daemon)}"
    assert run([curl, "-sS", f"{url}/file"]) == GREETING
    assert "file" in run([curl, "-sS", f"{url}/"])
    root.chmod(0o755)


def test_cvs_checks_a_module_out(serve, tmp_path):
    cvs = need("cvs", "cvs")
    repository, home, work = tmp_path / "cvs", tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    run([cvs, "-d", str(repository), "init"])
    (repository / "module").mkdir()
    user = run(["id", "-un"]).strip()
    passwd = repository / "CVSROOT" / "passwd"
    runs_as = "nobody" if user == "root" else user  # cvs refuses to serve as root
    passwd.write_text(f"guest::{runs_as}\n")
    for folder, _, files in os.walk(repository):
        os.chmod(folder, 0o777)
        for name in files:
            os.chmod(f"{folder}/{name}", 0o666)
    daemon = serve(exec=[cvs, "-f", f"--allow-root={repository}", "pserver"], **as_us())
    address = f":pserver:guest:@127.0.0.1:{port_of(daemon)}{repository}"
    run([cvs, "-d", address, "login"], data="\n", HOME=str(home))
    result = subprocess.run(
        [cvs, "-Q", "-d", address, "checkout", "module"],
        cwd=work,
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS,
        env={"PATH": PATH, "HOME": str(home)},
    )
    assert result.returncode == 0, result
    assert (work / "module" / "CVS" / "Root").read_text().strip() == address


def test_nullidentd_answers_for_nobody(serve):
    identd, nc = need("nullidentd", "nullidentd"), need("nc", "netcat-openbsd")
    daemon = serve(exec=[identd, "somebody"])
    answer = run([nc, "-N", "127.0.0.1", port_of(daemon)], data="22, 4711\r\n")
    assert answer.replace(" ", "") == "22,4711:USERID:UNIX:somebody\n"


@pytest.mark.parametrize(
    ("program", "package", "client"),
    [
        ("nc", "netcat-openbsd", ["nc", "-N", "127.0.0.1", "PORT"]),
        ("socat", "socat", ["socat", "-t5", "-", "TCP4:127.0.0.1:PORT"]),
        ("bash", "bash", ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/PORT; cat <&3"]),
        ("curl", "curl", ["curl", "-sS", "-m5", "telnet://127.0.0.1:PORT"]),
        ("telnet", "telnet", ["telnet", "127.0.0.1", "PORT"]),
    ],
)
def test_the_usual_clients_see_every_byte_and_the_end(serve, program, package, client):
    need(program, package)
    lines = 20_000
    daemon = serve(exec=["/usr/bin/seq", str(lines)])
    argv = [word.replace("PORT", port_of(daemon)) for word in client]
    result = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=CLIENT_SECONDS
    )
    if program == "telnet":  # it prints words of its own, and leaves with its stdin
        assert b"Connected to" in result.stdout
        return
    assert result.stdout.split() == [b"%d" % number for number in range(1, lines + 1)]


@pytest.mark.parametrize(
    "argv",
    [
        ["/bin/sh", "-c", 'read word; echo "[$word]"'],
        ["perl", "-e", '$_ = <STDIN>; chomp; print "[$_]\\n"'],
        ["/usr/bin/python3", "-c", "print(f'[{input()}]')"],
        ["awk", '{ print "[" $0 "]"; exit }'],
        ["sed", "-u", "s/.*/[&]/;q"],
        ["busybox", "sh", "-c", 'read word; echo "[$word]"'],
        ["socat", "-t1", "STDIO", "EXEC:sed -u s/.*/[&]/;q"],
    ],
    ids=lambda argv: os.path.basename(argv[0]),
)
def test_a_one_line_program_is_a_service(serve, argv):
    program = need(argv[0], os.path.basename(argv[0]))
    daemon = serve(exec=[program, *argv[1:]])
    with daemon.connect("it") as sock:
        sock.sendall(b"word\n")
        assert read_all(sock) == b"[word]\n"


def test_systemds_proxy_serves_the_listener_it_is_lent(superd):
    proxy = "/lib/systemd/systemd-socket-proxyd"
    if not os.access(proxy, os.X_OK):
        pytest.skip("no systemd-socket-proxyd here: apt-get install systemd")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        services = {
            "it": {
                "listen": "127.0.0.1:0",
                "mode": "wait",
                "exec": [proxy, "--exit-idle-time=1s", f"127.0.0.1:{port}"],
            },
            "behind": {"listen": "fd:behind", "exec": ["/bin/cat"]},
        }
        daemon = superd({"services": services}, inherit={"behind": listener})
        for number in range(5):
            assert _echoed(daemon) == b"word", number
        # one program for all of them; it leaves when it is idle, the next peer gets another
        assert len(daemon.log("spawn service=it")) == 1
        daemon.wait_log("end service=it .*status=exit:0")
        assert _echoed(daemon) == b"word"
        daemon.wait_log("end service=it .*status=exit:0", count=2)


def _echoed(daemon: Daemon) -> bytes:
    """Ask without a half-close: this proxy ends a connection at the first end it sees."""
    with daemon.connect("it") as sock:
        sock.sendall(b"word")
        return sock.recv(100)
