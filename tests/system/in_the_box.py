"""Use superd as an administrator does, under the systemd of a container.

Runs inside (boot_systemd.sh); writes what it saw to /box/seen.json, where
test_systemd_boot.py judges it. Nothing here is judged.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

UNITS = "/etc/systemd/system"
FILE = "/etc/superd.yaml"
SEEN: dict[str, object] = {}
DEADLINE = 10.0

BASE = """\
services:
  echo:
    listen: 127.0.0.1:7007
    handler: echo
  cat:
    listen: 127.0.0.1:7008
    exec: [/bin/sh, -c, 'echo "it says <boo>" >&2; exec cat']
  late:
    listen: 127.0.0.1:7010
    exec: [/bin/sh, -c, 'echo begun; sleep 0.3; echo finished']
"""
NEW = """\
  new:
    listen: 127.0.0.1:7009
    handler: echo
"""
FINGER = """\
services:
  finger:
    listen: 127.0.0.1:79
    handler: finger
    user: nobody
    options: {list: true, builtin: true}
"""
LOGIN = """\
account required pam_permit.so
session required pam_systemd.so
"""
ACTIVATED = """\
services:
  echo:
    listen: fd:echo
    handler: echo
"""


def run(*command, quiet=True):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not quiet:
        print(command, done.returncode, done.stdout, done.stderr)
    return done


def must(*command):
    done = run(*command, quiet=False)
    if done.returncode:
        sys.exit(1)


def show(*names, unit="superd.service"):
    text = run("systemctl", "show", unit, "-p", ",".join(names)).stdout
    return dict(line.split("=", 1) for line in text.splitlines())


def write(text):
    with open(FILE, "w") as file:
        file.write(text)


def drop_in(text):
    folder = f"{UNITS}/superd.service.d"
    shutil.rmtree(folder, ignore_errors=True)
    if text:
        os.makedirs(folder)
        with open(f"{folder}/test.conf", "w") as file:
            file.write(text)
    must("systemctl", "daemon-reload")


def eventually(check):
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        value = check()
        if value:
            return value
        time.sleep(0.01)
    return None


def status_text(part):
    return eventually(
        lambda: part in (text := show("StatusText")["StatusText"]) and text
    )


def talk(port, data=b"hello\n", host="127.0.0.1"):
    try:
        with socket.create_connection((host, port), 5) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            return read(sock)
    except OSError as error:
        return f"{type(error).__name__}"


def read(sock):
    data = b""
    try:
        while more := sock.recv(4096):
            data += more
    except OSError as error:
        return f"{data.decode()} {type(error).__name__}"
    return data.decode()


def processes():
    found = []
    for pid in os.listdir("/proc"):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().replace(b"\0", b" ").decode()
            uid = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            continue
        if "/opt/superd/" in words:
            found.append([uid, words.strip()])
    return found


def install():
    python = sys.executable
    must(python, "-m", "venv", "--without-pip", "/opt/superd")
    lib = "/opt/superd/lib/python{}.{}/site-packages".format(*sys.version_info)
    # Its dependencies: those of the environment that the tests run in.
    with open(f"{lib}/site.pth", "w") as file:
        file.write("/opt/site\n")
    wheel = next(name for name in os.listdir("/box") if name.endswith(".whl"))
    must(
        *("/opt/superd/bin/python", "-m", "pip", "install", "--quiet", "--no-index"),
        *("--no-deps", "--ignore-installed", f"/box/{wheel}"),
    )
    os.symlink("/opt/superd/bin/superd", "/usr/local/bin/superd")
    for name in ("superd.service", "superd.socket"):
        shutil.copy(f"/opt/superd/lib/systemd/system/{name}", UNITS)
    must("systemctl", "daemon-reload")


def life():
    write(BASE)
    SEEN["start"] = run("systemctl", "start", "superd").returncode
    SEEN["started"] = show("ActiveState", "SubState", "StatusText", "Result")
    SEEN["status"] = run("systemctl", "status", "superd").stdout
    SEEN["echo"] = talk(7007)
    SEEN["cat"] = talk(7008)
    SEEN["processes"] = processes()
    with open(f"/proc/{show('MainPID')['MainPID']}/oom_score_adj") as file:
        SEEN["oom"] = [int(file.read())]
    for _, words in processes():
        print(words)

    write(BASE + NEW)
    SEEN["reload"] = run("systemctl", "reload", "superd").returncode
    SEEN["reloaded"] = status_text("4 services")
    SEEN["new"] = talk(7009)

    write(BASE + "  broken:\n    listn: 7\n")
    SEEN["check"] = run("superd", "-t", "-c", FILE).returncode
    SEEN["bad reload"] = run("systemctl", "reload", "superd").returncode
    SEEN["refused"] = status_text("refused")
    SEEN["refused new"] = talk(7009)
    SEEN["refused active"] = show("ActiveState")["ActiveState"]
    write(BASE)
    must("systemctl", "reload", "superd")
    SEEN["mended"] = status_text("3 services")


def death():
    pid = show("MainPID")["MainPID"]
    with socket.create_connection(("127.0.0.1", 7008), 5) as sock:
        sock.sendall(b"x")
        sock.recv(1)
        os.kill(int(pid), signal.SIGKILL)
        SEEN["handler of the killed"] = read(sock)

    def back():
        now = show("MainPID", "ActiveState")
        return now["ActiveState"] == "active" and now["MainPID"] not in ("0", pid)

    SEEN["came back"] = eventually(back)
    SEEN["after kill"] = talk(7007)
    SEEN["restarts"] = show("NRestarts")["NRestarts"]

    drop_in("[Service]\nWatchdogSec=500ms\nRestartSec=0\nLimitCORE=0\n")
    must("systemctl", "restart", "superd")
    pid = show("MainPID")["MainPID"]
    time.sleep(0.7)  # it is fed: the same process is there after more than a period
    SEEN["fed"] = show("MainPID")["MainPID"] == pid
    os.kill(int(pid), signal.SIGSTOP)
    SEEN["watchdog"] = eventually(back)
    SEEN["after watchdog"] = talk(7007)
    drop_in("")


def stop():
    must("systemctl", "restart", "superd")
    with socket.create_connection(("127.0.0.1", 7010), 5) as sock:
        first = sock.recv(64).decode()
        SEEN["stop"] = run("systemctl", "stop", "superd").returncode
        SEEN["drained"] = first + read(sock)
    SEEN["stopped"] = show("ActiveState", "Result", "ExecMainStatus")
    SEEN["left"] = [processes(), os.path.exists("/run/superd")]
    SEEN["left ports"] = run("ss", "-Hltn").stdout

    write("services: {echo: {listn: 7}}\n")
    SEEN["bad start"] = run("systemctl", "start", "superd").returncode
    SEEN["bad started"] = show("ActiveState", "ExecMainStatus", "NRestarts")
    must("systemctl", "reset-failed", "superd")


def activation():
    write(ACTIVATED)
    SEEN["socket"] = run("systemctl", "start", "superd.socket").returncode
    SEEN["before activation"] = show("ActiveState")["ActiveState"]
    SEEN["activated"] = talk(7)
    SEEN["activated6"] = talk(7, host="::1")
    SEEN["after activation"] = show("ActiveState", "StatusText")
    restart = subprocess.Popen(["systemctl", "restart", "superd"])
    answers = set()
    while restart.poll() is None:
        answers.add(talk(7))
    SEEN["during restart"] = sorted(answers)
    must("systemctl", "stop", "superd.socket", "superd.service")


def unprivileged():
    must("useradd", "--system", "--shell", "/usr/sbin/nologin", "superd")
    write(BASE.replace("7007", "79"))
    with open("/box/unprivileged.conf") as file:
        drop_in(file.read())
    SEEN["unprivileged"] = run("systemctl", "start", "superd").returncode
    SEEN["unprivileged echo"] = talk(79)
    SEEN["unprivileged cat"] = talk(7008)
    SEEN["unprivileged uids"] = sorted({uid for uid, _ in processes()})
    SEEN["uid"] = int(run("id", "-u", "superd").stdout)
    must("systemctl", "stop", "superd")
    drop_in("")


def fingered():
    return talk(79, b"\r\n")


def logins():
    """Log somebody in, and ask by finger where there is no utmp to tell."""
    SEEN["pam"] = bool(glob.glob("/usr/lib/*/security/pam_systemd.so"))
    if not SEEN["pam"]:
        return
    must("useradd", "--create-home", "--comment", "Alice Liddell", "alice")
    with open("/etc/pam.d/box", "w") as file:
        file.write(LOGIN)
    if os.path.exists("/run/utmp"):
        os.remove("/run/utmp")
    write(FINGER)
    must("systemctl", "start", "superd")
    SEEN["nobody in"] = fingered()
    # Not --type=exec: with PAM that one returns when the command has ended.
    login = ["--unit=alice", "--property=PAMName=box", "--property=User=alice"]
    login += ["--property=TTYPath=/dev/pts/9", "/bin/sleep", "infinity"]
    must("systemd-run", "--quiet", *login)
    SEEN["alice in"] = eventually(lambda: "alice" in (said := fingered()) and said)
    must("loginctl", "terminate-user", "alice")
    SEEN["alice gone"] = eventually(
        lambda: "alice" not in (said := fingered()) and said
    )
    must("systemctl", "stop", "superd")


def main():
    run("ip", "link", "set", "lo", "up")
    steps = (install, life, death, stop, activation, unprivileged, logins)
    for step in steps:
        began = time.monotonic()
        step()
        print(f"{step.__name__}: {time.monotonic() - began:.1f} s")
    SEEN["failed units"] = run("systemctl", "--failed", "--plain", "--no-legend").stdout
    SEEN["at the end"] = processes()
    must("journalctl", "--sync")
    text = run("journalctl", "-u", "superd.service", "-o", "json").stdout
    SEEN["journal"] = [json.loads(line) for line in text.splitlines()]
    with open("/box/seen.json", "w") as file:
        json.dump(SEEN, file)


if __name__ == "__main__":
    main()
