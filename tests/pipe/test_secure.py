"""`superd-pipe run` by TLS: who is let in, who hears why not, and what others can read."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from inetd import DEADLINE, fork
from roles import PROGRAMS, Run, pipe_service, write_key

from superd.handlers import exits, pipe

NUMBERS = b"".join(b"%d\n" % n for n in range(20_000))
MARKER = "for the eyes of three hosts alone"


@pytest.fixture
def service(superd, tmp_path, ours):
    """Start a pipe service by TLS; returns its address."""

    def start(certificate=None, *, key="", expect=(), **tls):
        tls = {**(certificate or ours.issue()).options, **tls}
        services = pipe_service(key, tls=tls)
        if not key:
            del services["pipe"]["options"]["key"]
        daemon = superd({"services": services})
        daemon.expected_errors += expect
        return daemon.address("pipe")[1], daemon

    return start


def run(text, *flags, data=None, **how):
    if data is not None:
        how["stdin"] = subprocess.PIPE
    how.setdefault("key", "/no/such/file")
    with Run(text, *flags, **how) as running:
        status, out, err = running.end(data)
    return status, out, err


def one_line(err):
    assert err.startswith("superd-pipe: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("more", [[], ["--compress"]])
def test_three_stages_by_certificates_without_a_key(service, ours, more):
    port, _ = service()
    text = f"@localhost:{port} grep 7 | @127.0.0.1:{port} sort -rn | "
    text += f"@localhost:{port} head -3"
    status, out, err = run(text, *ours.issue().flags, *more, data=NUMBERS)
    assert (status, out, err) == (0, b"19997\n19987\n19979\n", "")


def test_stages_of_our_own_are_of_the_same(service, ours):
    port, _ = service()
    text = f"seq 5000 | @localhost:{port} cat | sort -rn | @localhost:{port} wc -l"
    assert run(text, *ours.issue().flags) == (0, b"5000\n", "")


def test_much_arrives_as_it_was(service, ours):
    port, _ = service()
    data = os.urandom(5 << 20)
    text = f"@localhost:{port} cat | @localhost:{port} cat"
    assert run(text, *ours.issue().flags, data=data) == (0, data, "")


def test_a_stage_that_is_killed_is_told(service, ours, tmp_path):
    port, _ = service()
    whole = tmp_path / "whole"
    text = f"yes | @localhost:{port} sh -c 'head -1; kill -9 $$' | "
    text += f"@localhost:{port} sh -c 'cat; echo > {whole}'"
    status, _, err = run(text, *ours.issue().flags)
    assert status == 137
    assert "stage 2 @localhost: killed by SIGKILL; what came of it is not" in err
    assert not whole.exists()


def test_head_behind_yes_ends_it(service, ours):
    port, _ = service()
    text = f"@localhost:{port} yes | @localhost:{port} cat | @localhost:{port} head -1"
    assert run(text, "--pipefail", *ours.issue().flags) == (0, b"y\n", "")


def test_with_a_key_as_well_both_are_needed(service, ours, tmp_path):
    key = write_key(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    port, _ = service(key=key, expect=["the key is not"])
    text, flags = f"seq 3 | @localhost:{port} wc -l", ours.issue().flags
    assert run(text, *flags, key=key) == (0, b"3\n", "")
    status, _, err = run(text, *flags)
    assert status == 64
    assert "asks for a key as well; --key: /no/such/file: No such file" in one_line(err)
    status, _, err = run(text, *flags, key=write_key(other))
    assert status == 77
    assert "refused: the key is not this host's key" in one_line(err)
    status, _, err = run(text, key=key)
    assert status == 77
    assert "the service speaks TLS alone; give --tls-cert" in one_line(err)


def test_a_name_of_a_list_stands_for_the_hosts_own(service, ours):
    port, _ = service(ours.issue("URI:superd://here,DNS:Here.Example"))
    text, flags = f"seq 3 | @localhost:{port} wc -l", ours.issue().flags
    status, _, err = run(text, *flags)
    assert status == 69
    assert "TLS: its certificate is not valid: Hostname mismatch" in one_line(err)
    for name in ("superd://here", "here.example"):
        assert run(text, *flags, "--tls-name", name) == (0, b"3\n", "")
    status, _, err = run(text, *flags, "--tls-name", "there.example")
    assert status == 77
    said = "its certificate has the names superd://here, Here.Example; none of them is"
    assert said in one_line(err)


def test_who_is_not_in_the_list_of_the_host_is_refused(service, ours):
    port, daemon = service(allow=["superd://friend", "DNS.example"], expect=[""])
    text = f"seq 3 | @localhost:{port} wc -l"
    for names in ("URI:superd://friend", "DNS:dns.example,DNS:more"):
        assert run(text, *ours.issue(names).flags) == (0, b"3\n", "")
    status, _, err = run(text, *ours.issue("URI:superd://foe").flags)
    assert status == 77
    said = "TLS: the names of the certificate (superd://foe) are not among those"
    assert said in one_line(err)
    daemon.wait_log("status=exit:110")


@pytest.mark.parametrize(
    ("case", "status", "said"),
    [
        ("foreign caller", 69, "our certificate is of no CA known there; it must be"),
        (
            "foreign host",
            69,
            "its certificate is not valid: unable to get local issuer",
        ),
        (
            "expired caller",
            69,
            "our certificate has expired; it must be of the CA that",
        ),
        ("expired host", 69, "its certificate is not valid: certificate has expired"),
        ("host of one end", 69, "its certificate is not valid: "),
        ("plain host", 77, "TLS: the service speaks none; give it the option tls (and"),
    ],
)
def test_what_fails_is_one_line_that_names_the_host_and_the_way_out(
    service, superd, ours, authorities, tmp_path, case, status, said
):
    foreign = authorities("foreign").issue()
    caller, host = ours.issue(), ours.issue("DNS:localhost")
    if case == "foreign caller":
        caller = foreign._replace(ca=caller.ca)
    elif case == "foreign host":
        host = foreign._replace(ca=caller.ca)
    elif case == "expired caller":
        caller = ours.issue(expired=True)
    elif case == "expired host":
        host = ours.issue(expired=True)
    elif case == "host of one end":
        host = ours.issue(usage="clientAuth")
    if case == "plain host":
        daemon = superd({"services": pipe_service(write_key(tmp_path))})
        daemon.expected_errors.append("")
        port = daemon.address("pipe")[1]
    else:
        port, _ = service(host, expect=[""])
    mark = tmp_path / "mark"
    start = time.monotonic()
    got, out, err = run(f"sh -c 'echo > {mark}' | @localhost:{port} cat", *caller.flags)
    assert (got, out) == (status, b"")
    assert f"stage 2 @localhost (localhost:{port}): TLS: " in one_line(err)
    assert said in err
    assert time.monotonic() - start < 8
    assert not mark.exists()


def test_a_caller_without_tls_hears_at_once_that_it_is_wanted(service, tmp_path):
    port, daemon = service(expect=[""])
    start = time.monotonic()
    status, _, err = run(f"seq 3 | @localhost:{port} cat", key=write_key(tmp_path))
    assert status == 77
    said = f"stage 2 @localhost (localhost:{port}): refused: the service speaks TLS"
    assert said in one_line(err)
    assert time.monotonic() - start < 5
    daemon.wait_log("pipe: TLS: it speaks no TLS")


def test_a_host_that_answers_nothing_is_not_waited_for_without_an_end(ours):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with Run(
            f"seq 3 | @localhost:{port} cat", *ours.issue().flags, "--dead", "300ms"
        ) as running:
            status, _, err = running.end()
    assert status == 69
    assert "TLS: no end of the handshake in time" in one_line(err)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_caller_that_does_not_shake_hands_is_not_waited_for(ours, said):
    flags = [*ours.issue().handler_flags, "--handshake", "0.2"]
    with fork(pipe.main, *flags) as served:
        served.send(said)
        assert served.wait() == exits.SLOW
        assert served.log == "pipe: TLS: no end of the handshake in time\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tls-cert", "x"], "--tls-cert and --tls-ca are for each other"),
        (["--tls-ca", "x"], "--tls-cert and --tls-ca are for each other"),
        (["--tls-key", "x"], "--tls-key and --tls-name are for --tls-cert"),
        (["--tls-name", "x"], "--tls-key and --tls-name are for --tls-cert"),
        (["--tls-cert", "/no", "--tls-ca", "/no"], "--tls-ca: /no: No such file"),
    ],
)
def test_wrong_flags_and_files_of_the_caller_are_told(flags, said):
    status, _, err = run("seq 3 | @127.0.0.1:1 cat", *flags)
    assert status == 64
    assert said in one_line(err)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ca": ""}, "option --tls.ca: no file; TLS needs a certificate"),
        ({"key": "/no"}, "option --tls.key: /no: No such file"),
        ({"certificate": ""}, "option --tls.certificate: no file"),
    ],
)
def test_wrong_files_of_a_host_are_the_operators_fault(ours, change, said):
    with fork(pipe.main, *ours.issue()._replace(**change).handler_flags) as served:
        assert served.wait() == exits.SETUP
        assert said in served.log


def test_a_list_of_callers_alone_is_no_tls(ours):
    """Who writes `allow` and forgets the files is told; nobody is served without."""
    with fork(pipe.main, "--tls.allow", "superd://friend") as served:
        assert served.wait() == exits.SETUP
        assert "option --tls.ca: no file" in served.log


# -- on the way ----------------------------------------------------------------------------


class Tap:
    """A relay in front of a port, which sees what passes, and can be cut."""

    def __init__(self, port):
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._stop, self._cut = socket.socketpair()
        self.seen = bytearray()
        self._thread = threading.Thread(target=self._relay)
        self._thread.start()

    def _relay(self):
        pairs = {}
        while True:
            waiting = [self._stop, self._listener, *pairs]
            ready = select.select(waiting, [], [], DEADLINE)[0]
            if not ready or self._stop in ready:
                break
            for sock in ready:
                if sock is self._listener:
                    one = sock.accept()[0]
                    other = socket.create_connection(("127.0.0.1", self._port))
                    pairs |= {one: other, other: one}
                elif sock in pairs:
                    try:
                        data = sock.recv(65536)
                        pairs[sock].sendall(data)
                    except OSError:
                        data = b""
                    self.seen += data
                    if not data:
                        for end in (pairs[sock], sock):
                            del pairs[end]
                            end.close()
        for sock in pairs:
            sock.close()

    def cut(self):
        """End every connection, as a proxy that is stopped does: with FIN."""
        if self._thread.is_alive():
            self._cut.send(b".")
            self._thread.join()

    def close(self):
        self.cut()
        for sock in (self._stop, self._cut, self._listener):
            sock.close()


@contextmanager
def tap(port):
    one = Tap(port)
    try:
        yield one
    finally:
        one.close()


def test_nobody_on_the_way_reads_what_is_said(service, superd, ours, tmp_path):
    port, _ = service()
    text = f"echo {MARKER!r} | @localhost:%d grep eyes"
    with tap(port) as between:
        assert run(text % between.port, *ours.issue().flags)[0] == 0
        assert len(between.seen) > 3000
        assert b"grep" not in between.seen
    # Control: without TLS the command is there to be read.
    key = write_key(tmp_path)
    daemon = superd({"services": pipe_service(key)})
    with tap(daemon.address("pipe")[1]) as between:
        assert run(text % between.port, key=key)[0] == 0
        assert b"grep" in between.seen


def test_a_conversation_that_is_cut_is_a_lost_host_and_no_end(service, ours, tmp_path):
    port, _ = service()
    whole = tmp_path / "whole"
    with tap(port) as between:
        text = f"yes | @localhost:{between.port} sh -c "
        text += f"'echo on >&2; cat > /dev/null; echo > {whole}'"
        with Run(text, *ours.issue().flags) as running:
            assert running.process.stderr.readline().endswith(b"on\n")
            between.cut()
            status, _, err = running.end()
    assert status == 74
    assert "lost: TLS: the connection was cut: it ended without a word" in err
    assert not whole.exists()


def test_programs_that_are_named_are_all_that_runs(service, ours):
    """A certificate opens the door, and no more than the key does."""
    port, _ = service()
    assert "id" not in PROGRAMS
    status, _, err = run(f"@localhost:{port} id", *ours.issue().flags)
    assert status == 77
    assert "id is not among its programs" in one_line(err)
