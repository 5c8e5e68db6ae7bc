"""The log: every line can be parsed, none is forged, and no reader holds superd up."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket

import pytest
from commands import shell
from daemon_under_test import eventually, read_all

F_SETPIPE_SZ = 1031
LINES = 3000
ECHO = {"listen": "127.0.0.1:0", "handler": "echo"}
WORD = r'[a-z_]+=(?:"(?:[^"\\\x00-\x1f\x7f-\xff]|\\.)*"|[^ "]+)'
LINE = re.compile(
    rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z (debug|info|warning|error) "
    rf"[a-z]+(?: {WORD})*\Z"
)
# What no line of a log may contain as it is, and what must survive it.
NASTY = (
    b'quote " back \\ tab \t bell \a esc \x1b[2J nul \0 8-bit \xff\xfe utf \xc3\xa9\n'
    b"2026-01-01T00:00:00.000Z info forged service=echo\n"
    b"carriage\rreturn\r\n"
    b"\n" + b"a" * 100_000 + b"\nthe end without a newline"
)


def noisy(tmp_path, data):
    """Return a service whose handler writes `data` to stderr."""
    file = tmp_path / "noise"
    file.write_bytes(data)
    return {"listen": "127.0.0.1:0", "exec": ["/bin/sh", "-c", f"cat {file} >&2"]}


@pytest.mark.parametrize("form", ["text", "json"])
def test_every_line_can_be_parsed_whatever_a_handler_says(superd, tmp_path, form):
    services = {"noisy": noisy(tmp_path, NASTY), "echo": ECHO}
    log = {"format": form, "level": "debug"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        services["noisy"]["listen"] = "fd:x"
        daemon = superd({"log": log, "services": services}, inherit={"x": listener})
        with socket.create_connection(listener.getsockname()) as sock:
            read_all(sock)
        daemon.wait_log("the end without a newline")
        daemon.stop()
    for line in daemon.lines:
        assert line.isascii()
        assert line.isprintable()
    if form == "json":
        records = [json.loads(line) for line in daemon.lines]
        assert all(list(one)[:3] == ["ts", "level", "event"] for one in records)
        texts = [one["text"] for one in records if one["event"] == "stderr"]
    else:
        assert [line for line in daemon.lines if not LINE.match(line)] == []
        lines = [line.partition(" text=")[2] for line in daemon.log(" stderr ")]
        texts = [json.loads(x) if x.startswith('"') else x for x in lines]
    assert texts[0].startswith(
        'quote " back \\ tab \t bell \a esc \x1b[2J nul \0 8-bit \\xff'
    )
    assert texts[0].endswith("utf é")
    assert texts[1:3] == [
        "2026-01-01T00:00:00.000Z info forged service=echo",
        "carriage\rreturn",
    ]
    assert "".join(texts[4:-1]) == "a" * 100_000
    assert max(map(len, texts)) <= 2048
    assert not daemon.log("^2026-01-01")


def test_the_events_of_one_connection_in_json(superd):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        echo = {"listen": "fd:x", "handler": "echo"}
        config = {"log": {"format": "json"}, "services": {"echo": echo}}
        daemon = superd(config, inherit={"x": listener})
        with socket.create_connection(listener.getsockname()) as sock:
            port = sock.getsockname()[1]
            sock.shutdown(socket.SHUT_WR)
            read_all(sock)
        daemon.wait_log('"event":"end"')
    records = [json.loads(line) for line in daemon.lines]
    accept = next(one for one in records if one["event"] == "accept")
    end = next(one for one in records if one["event"] == "end")
    assert accept["peer"] == end["peer"] == f"127.0.0.1:{port}"
    assert (accept["conn"], end["status"], end["service"]) == (1, "exit:0", "echo")
    assert 0 <= float(end["duration"]) < 10


@pytest.mark.parametrize(
    ("level", "verbs"),
    [
        ("info", {"listen", "reload", "accept", "end"}),
        ("warning", set()),
    ],
)
def test_the_level_says_what_is_kept(superd, level, verbs):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        echo = {"listen": "fd:x", "handler": "echo"}
        config = {"log": {"level": level}, "services": {"echo": echo}}
        daemon = superd(config, inherit={"x": listener})
        with socket.create_connection(listener.getsockname()) as sock:
            sock.shutdown(socket.SHUT_WR)
            read_all(sock)
        if verbs:
            daemon.wait_log(" end ")
        assert {line.split()[2] for line in daemon.log(".")} == verbs
        daemon.stop()


@pytest.mark.parametrize("stalled", [True, False])
def test_a_reader_that_stalls_costs_counted_lines_and_nothing_else(
    superd, tmp_path, stalled
):
    seq = {"listen": "127.0.0.1:0", "exec": ["/bin/sh", "-c", f"seq {LINES} >&2"]}
    daemon = superd({"services": {"seq": seq, "echo": ECHO}}, expect=["log dropped="])
    loud, echo = daemon.address("seq"), daemon.address("echo")
    if stalled:
        fcntl.fcntl(daemon._read, F_SETPIPE_SZ, 4096)

    def connection(address):
        with socket.create_connection(address, timeout=10) as sock:
            sock.sendall(b"hello")
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    connection(loud)
    for _ in range(5):
        assert connection(echo) == b"hello"
    # Lines of echo may be among the lost; those of now come, the reader reads again.
    if stalled:
        daemon.read_log()
        daemon.wait_log("stderr service=seq")
        eventually(lambda: connection(echo) and daemon.log("log dropped="), "a report")
    else:
        daemon.wait_log(f"text={LINES}$")
    daemon.stop()
    dropped = sum(int(x.rpartition("=")[2]) for x in daemon.log("log dropped="))
    written = len(daemon.log("stderr service=seq"))
    if stalled:
        assert dropped > LINES / 3
        conns = int(
            max(daemon.log("end .* conn="), key=_conn).partition("conn=")[2].split()[0]
        )
        rest = [
            line
            for line in daemon.lines
            if "stderr" not in line and "dropped" not in line
        ]
        # Nothing is lost uncounted: listen, reload and stop, accept and end of each
        # connection, each line of the handler.
        fixed = len([x for x in rest if " accept " not in x and " end " not in x])
        seen = len(rest) - fixed
        assert written + seen + dropped == LINES + 2 * conns
    else:
        assert (dropped, written) == (0, LINES)


def _conn(line):
    return int(line.partition("conn=")[2].split()[0])


@pytest.mark.parametrize(
    "redirection",
    ["2>/dev/full", "2>&-", "2>/dev/null", "2>regular", "2>>regular", "2>gone", "2>&0"],
)
def test_whatever_stderr_is_superd_serves_and_ends_well(superd, tmp_path, redirection):
    gone = None
    if "regular" in redirection:
        redirection = redirection.replace("regular", str(tmp_path / "file"))
    if "gone" in redirection:
        os.mkfifo(tmp_path / "fifo")
        gone = os.open(tmp_path / "fifo", os.O_RDWR)
        redirection = f"2>{tmp_path}/fifo"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        daemon = superd(
            {"services": {"loud": dict(noisy(tmp_path, b"x\n" * 2000), listen="fd:x")}},
            inherit={"x": listener},
            prefix=shell(redirection),
        )
        if gone is not None:
            os.close(gone)  # the only reader: from now on a write is EPIPE
        for _ in range(3):
            with socket.create_connection(listener.getsockname(), timeout=10) as sock:
                assert read_all(sock) == b""
        cpu = daemon.cpu()
        daemon.stop()
    assert cpu < 3.0
    assert daemon.lines == []
    if (tmp_path / "file").exists():
        lines = (tmp_path / "file").read_text().splitlines()
        assert [line for line in lines if not LINE.match(line)] == []
        assert len([line for line in lines if " stderr " in line]) == 6000


def test_a_warning_that_nobody_can_read_is_no_reason_not_to_start(superd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen = ["127.0.0.1:0", {"address": f"127.0.0.1:{port}", "optional": True}]
        daemon = superd(
            {"services": {"echo": dict(ECHO, listen=listen)}},
            prefix=shell("2>/dev/full"),
        )
        daemon.stop()


# /dev/log and journald's socket have fixed names: the daemon gets its own /dev or /run,
# in a mount namespace that ends with it.
OWN_DEV = """
set -e
mkdir $0/dev && mount -t tmpfs dev $0/dev
for name in null zero urandom; do
    touch $0/dev/$name && mount --bind /dev/$name $0/dev/$name
done
ln -s $0/syslog $0/dev/log && ln -s /proc/self/fd $0/dev/fd
mount --rbind $0/dev /dev
exec "$@"
"""
OWN_RUN = """
set -e
mount -t tmpfs run /run && mkdir -p /run/systemd/journal
ln -s $0/journal /run/systemd/journal/socket
exec "$@"
"""


def receiver(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    path.chmod(0o666)
    sock.settimeout(10)
    return sock


def receive(sock, pattern):
    while True:
        data = sock.recv(65536)
        if re.search(pattern, data):
            return data


@pytest.mark.root
def test_syslog_gets_datagrams_with_its_priorities_and_may_restart(superd, tmp_path):
    path = tmp_path / "syslog"
    prefix = ["unshare", "--mount", "sh", "-c", OWN_DEV, str(tmp_path)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = {
            "log": {"to": "syslog"},
            "services": {"echo": dict(ECHO, listen="fd:x")},
        }
        with receiver(path) as first:
            daemon = superd(config, inherit={"x": listener}, prefix=prefix)
            # 30: facility daemon (3) times 8, plus 6, informational.
            expected = rf"<30>superd\[{daemon.pid}\]: listen service=echo"
            receive(first, expected.encode())
        path.unlink()

        def connection():
            with socket.create_connection(listener.getsockname(), timeout=10) as sock:
                sock.shutdown(socket.SHUT_WR)
                return read_all(sock)

        connection()  # its lines find nobody
        with receiver(path) as second:
            second.settimeout(0.1)

            def report():
                connection()
                try:
                    return receive(second, rb"log dropped=")
                except TimeoutError:
                    return None

            text = eventually(report, "a report of what was lost")
            assert text.startswith(f"<28>superd[{daemon.pid}]: log dropped=".encode())
            daemon.stop()


@pytest.mark.root
def test_the_journal_gets_its_own_protocol_with_fields(superd, tmp_path):
    prefix = ["unshare", "--mount", "sh", "-c", OWN_RUN, str(tmp_path)]
    with receiver(tmp_path / "journal") as journal:
        services = {"loud": noisy(tmp_path, b"one\nMESSAGE=forged\n")}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            services["loud"]["listen"] = "fd:x"
            config = {"log": {"to": "journal"}, "services": services}
            daemon = superd(config, inherit={"x": listener}, prefix=prefix)
            with socket.create_connection(listener.getsockname(), timeout=10) as sock:
                read_all(sock)
            entry = receive(journal, b"forged").decode()
            daemon.stop()
    fields = dict(line.split("=", 1) for line in entry.splitlines())
    assert fields["MESSAGE"] == 'stderr service=loud text="MESSAGE=forged"'
    assert fields["PRIORITY"] == "6"
    assert fields["SYSLOG_IDENTIFIER"] == "superd"
    assert fields["SUPERD_EVENT"] == "stderr"
    assert fields["SUPERD_SERVICE"] == "loud"
    assert fields["SUPERD_TEXT"] == "MESSAGE=forged"
