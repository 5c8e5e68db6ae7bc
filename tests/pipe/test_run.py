"""`superd-pipe run` through the pipe service: what flows, and with which status it ends."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import signal
import subprocess

import pytest
from inetd import DEADLINE, reached
from roles import COMMAND, ROOT, Run, environment, is_running, pipe_service, write_key

NUMBERS = b"".join(b"%d\n" % n for n in range(100_000))


@pytest.fixture
def hosts(superd, tmp_path):
    """One superd that plays three hosts; gives the key and their names."""
    key = write_key(tmp_path)
    services = {}
    for name in "abc":
        [service] = pipe_service(key).values()
        services[name] = service
    daemon = superd({"services": services})
    names = {name: "{}:{}".format(*daemon.address(name)) for name in "abc"}
    return key, names, daemon


def run(hosts, text, *flags, data=None, **how):
    """Run a pipeline whose @a, @b, @c are the hosts; returns status, stdout, stderr."""
    if data is not None:
        how["stdin"] = subprocess.PIPE
    with start(hosts, text, *flags, **how) as running:
        return running.end(data)


def start(hosts, text, *flags, **how):
    key, names, _ = hosts
    text = re.sub(r"@([abc])\b", lambda found: "@" + names[found[1]], text)
    return Run(text, *flags, key=key, **how)


def shell(text, data=b""):
    return subprocess.run(["sh", "-c", text], input=data, capture_output=True).stdout


def test_three_hosts_by_one_command(hosts, tmp_path):
    (tmp_path / "data").write_bytes(NUMBERS)
    text = f"cat {tmp_path}/data | @b grep 7 | @c sort -rn"
    assert run(hosts, text) == (0, shell(re.sub("@[abc]", "", text)), "")


@pytest.mark.parametrize(
    "text",
    [
        "@a sort -rn",
        "@a grep 7 | @b sort -rn | @c head -5",
        "@a grep 7 | sort -rn | @c head -5",
        "grep 7 | sort -rn",
        "grep 7 | @b sort -rn | head -5",
        "@a cat | @a cat | @a sort",
    ],
)
def test_wherever_its_stages_are_a_pipeline_is_the_same(hosts, text):
    assert run(hosts, text, data=NUMBERS) == (
        0,
        shell(re.sub("@[abc]", "", text), NUMBERS),
        "",
    )


def test_nothing_is_an_input_too(hosts):
    assert run(hosts, "@a cat | @b wc -c", data=b"") == (0, b"0\n", "")


@pytest.mark.slow
def test_a_hundred_megabytes_arrive_as_they_were(hosts):
    with start(hosts, "@a cat | @b cat | @c cat", stdin=subprocess.PIPE) as running:
        data = os.urandom(20 << 20) * 5
        status, out, err = running.end(data)
    assert (status, err) == (0, "")
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize(
    ("text", "flags", "status"),
    [
        ("@a false | @b cat", [], 0),
        ("@a false | @b cat", ["--pipefail"], 1),
        ("@a cat | @b false", [], 1),
        ("@a sh -c 'exit 3' | @b sh -c 'cat; exit 5' | @c cat", ["--pipefail"], 3),
        ("@a sh -c 'exit 3' | @b sh -c 'cat; exit 5' | @c cat", [], 0),
        ("@a cat | @b grep x", [], 1),
        ("yes | @a head -1", ["--pipefail"], 0),
        ("@a yes | @b cat | @c head -1", ["--pipefail"], 0),
    ],
)
def test_the_status_is_that_of_the_last_or_with_pipefail_of_the_first_that_failed(
    hosts, text, flags, status
):
    assert run(hosts, text, *flags)[::2] == (status, "")


def test_a_stage_that_is_killed_is_told_and_no_stream_is_whole(hosts, tmp_path):
    whole = tmp_path / "whole"
    text = f"yes | @b sh -c 'head -1; kill -9 $$' | @c sh -c 'cat; echo > {whole}'"
    status, out, err = run(hosts, text)
    assert status == 137
    assert out in (b"", b"y\n")
    assert err == (
        "superd-pipe: stage 2 @127.0.0.1: killed by SIGKILL; what came of it is not the "
        "whole\n"
    )
    assert not whole.exists()


def test_with_strict_a_status_is_a_failure(hosts, tmp_path):
    whole = tmp_path / "whole"
    text = f"@a sh -c 'echo part; exit 1' | @b sh -c 'cat; echo > {whole}'"
    status, _, err = run(hosts, text, "--strict")
    assert status == 1
    assert "stage 1 @127.0.0.1: exit 1; what came of it is not the whole" in err
    assert not whole.exists()
    assert run(hosts, text)[0] == 0
    assert whole.exists()


def test_stderr_of_every_stage_comes_back_with_its_host_in_front(hosts):
    text = (
        "sh -c 'echo one >&2; printf two >&2' | @b sh -c 'printf \"a\\033[2J\\n\" >&2' "
        "| @c sh -c 'cat; echo last >&2'"
    )
    status, out, err = run(hosts, text)
    assert (status, out) == (0, b"")
    assert sorted(err.splitlines()) == [
        "[1 local] one",
        "[1 local] two",
        "[2 127.0.0.1] a\\x1b[2J",
        "[3 127.0.0.1] last",
    ]


def test_much_of_stderr_comes_whole(hosts):
    script = "seq 1 20000 >&2"
    status, _, err = run(hosts, f"@a sh -c '{script}' | @b cat")
    assert status == 0
    assert err.splitlines() == [f"[1 127.0.0.1] {n}" for n in range(1, 20001)]


def test_the_report_is_a_table_of_stages(hosts):
    status, _, err = run(hosts, "@a cat | @b head -1", "--report", data=NUMBERS[:5000])
    assert status == 0
    rows = [line.split() for line in err.splitlines()]
    assert rows[0][:6] == ["stage", "host", "command", "exit", "in", "out"]
    assert rows[1][:8] == ["1", "127.0.0.1", "cat", "0", "5.0", "kB", "5.0", "kB"]
    assert rows[2][:4] == ["2", "127.0.0.1", "head", "0"]
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@a no-such | @b cat", "no-such is not among its programs (cat"),
        ("@a /usr/bin/cat", "/usr/bin/cat is not among its programs"),
        ("no-such-program | @b cat", "no-such-program: no such program"),
        ("@a cat | no-such-program", "no-such-program: no such program"),
    ],
)
def test_what_cannot_run_leaves_nothing_running(hosts, text, said):
    status, out, err = run(hosts, text)
    assert status in (77, 127)
    assert out == b""
    assert said in err
    assert err.count("\n") == 1


def test_no_program_runs_before_all_can(hosts, tmp_path):
    mark = tmp_path / "started"
    status, _, _ = run(hosts, f"@a sh -c 'cat > {mark}' | @b nothing", data=b"x")
    assert status == 77
    assert not mark.exists()


def test_without_arguments_the_words_are_the_operators_alone(superd, tmp_path):
    key = write_key(tmp_path)
    daemon = superd({"services": pipe_service(key, arguments=False)})
    host = "{}:{}".format(*daemon.address("pipe"))
    with Run(f"seq 9 12 | @{host} top", key=key) as one:
        assert one.end() == (0, b"12\n11\n10\n9\n", "")
    with Run(f"seq 9 12 | @{host} top -o x", key=key) as one:
        status, _, err = one.end()
    assert status == 77
    assert "it allows no arguments for top; run it without" in err


def test_words_reach_the_program_as_they_are_and_no_shell(hosts, tmp_path):
    odd = ["a b", "$(touch x)", "`id`", "*", "", "é", "|", "-", "\\n"]
    quoted = " ".join(f"'{word}'" for word in odd)
    script = 'for x; do printf "%s\\n" "$x"; done'
    status, out, _ = run(hosts, f"@a sh -c '{script}' x {quoted}")
    assert status == 0
    assert out.decode().split("\n")[:-1] == odd


def test_a_wrong_key_is_refused_by_the_host(hosts, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    _, names, daemon = hosts
    daemon.expected_errors.append("")
    with Run(f"seq 3 | @{names['a']} cat", key=write_key(other)) as one:
        status, out, err = one.end()
    assert (status, out) == (77, b"")
    assert "refused: the key is not this host's key" in err
    daemon.wait_log("pipe: the key is not this host's key")


@pytest.mark.parametrize(
    ("mode", "content", "said"),
    [
        (0o644, "x" * 32, "is open to everybody; chmod o= takes that away"),
        (0o600, "short", "has less than 16 bytes"),
        (None, "", "No such file"),
    ],
)
def test_a_key_file_that_is_none_is_told(hosts, tmp_path, mode, content, said):
    key = tmp_path / "bad"
    if mode is not None:
        key.write_text(content)
        key.chmod(mode)
    with Run(f"seq 3 | @{hosts[1]['a']} cat", key=key) as one:
        status, _, err = one.end()
    assert status == 64
    assert said in err


def test_a_host_without_the_service_is_told():
    with Run("seq 3 | @127.0.0.1:1 cat", "--wait", "0s", "--key", __file__) as one:
        status, _, err = one.end()
    assert status in (64, 69)
    assert err.count("\n") == 1


def stages(hosts):
    """A pipeline that has begun: its pids are in the output of its stages."""
    script = "'echo $$ >&2; exec cat'"
    text = f"@a sh -c {script} | @b sh -c {script} | sh -c {script} | @c sh -c {script}"
    running = start(hosts, text, stdin=subprocess.PIPE)
    pids = []
    while len(pids) < 4:
        pids.append(int(running.process.stderr.readline().split()[-1]))
    # It flows: what goes in comes out.
    running.process.stdin.write(b"x\n")
    running.process.stdin.flush()
    assert running.process.stdout.read(2) == b"x\n"
    return running, pids


def test_a_caller_that_is_killed_leaves_no_stage_behind(hosts):
    running, pids = stages(hosts)
    with running:
        assert all(map(is_running, pids))
        running.process.kill()
        assert reached(lambda: not any(map(is_running, pids)))
        running.process.stdin.close()
        running.process.stdin = None
    hosts[2].wait_log("end service=a")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_reaches_every_stage(hosts, number):
    running, pids = stages(hosts)
    with running:
        running.process.send_signal(number)
        status, out, err = running.end()
        assert (status, out, err) == (128 + number, b"", "")
        assert not any(map(is_running, pids))


def test_a_second_ctrl_c_ends_what_ignores_the_first(hosts):
    script = 'trap "" INT TERM; echo $$ >&2; while :; do sleep 0.1; done'
    with start(hosts, f"@a sh -c '{script}' | @b cat", "--grace", "200ms") as running:
        pid = int(running.process.stderr.readline().split()[-1])
        running.process.send_signal(signal.SIGINT)
        running.process.send_signal(signal.SIGTERM)
        status, _, _ = running.end()
        assert status in (130, 143)
        assert not is_running(pid)


def test_an_agent_that_is_killed_is_a_lost_host_and_no_clean_end(hosts, tmp_path):
    whole = tmp_path / "whole"
    script = "'echo $PPID >&2; exec cat'"
    text = f"yes | @b sh -c {script} | @c sh -c 'cat >/dev/null; echo > {whole}'"
    hosts[2].expected_errors.append("")
    with start(hosts, text) as running:
        agent = int(running.process.stderr.readline().split()[-1])
        os.kill(agent, signal.SIGKILL)
        status, _, err = running.end()
    assert status == 74
    assert "stage 2 @127.0.0.1: lost: " in err
    assert not whole.exists()


def test_a_stage_past_its_lifetime_is_ended(superd, tmp_path):
    key = write_key(tmp_path)
    daemon = superd({"services": pipe_service(key, lifetime="200ms")})
    host = "{}:{}".format(*daemon.address("pipe"))
    with Run(f"yes | @{host} cat | tail -1", key=key) as one:
        status, out, err = one.end()
    assert status == 143
    assert out == b""
    assert "stage 2 @127.0.0.1: more than 0.2 s" in err


def test_head_behind_yes_ends_it_at_once_on_every_host(hosts):
    status, out, err = run(hosts, "@a yes | @b grep y | @c head -2", "--report")
    assert (status, out) == (0, b"y\ny\n")
    assert [line.split()[3] for line in err.splitlines()[1:3]] == ["SIGPIPE"] * 2


def test_a_broken_stdout_ends_all_of_it(hosts):
    with start(hosts, "@a yes | @b cat") as running:
        assert running.process.stdout.read(2) == b"y\n"
        running.process.stdout.close()
        running.process.stdout = None
        assert running.end()[0] == 141


def test_a_full_disk_is_told(hosts):
    with open("/dev/full", "wb") as full:
        status, _, err = run(hosts, "seq 9 | @a cat", stdout=full)
    assert status == 74
    assert "stdout takes no more" in err


def test_a_reader_that_pauses_longer_than_dead_is_not_taken_for_lost(hosts):
    """Whoever waits for a slow reader of our stdout must still be heard of."""
    text = "@a head -c 30000000 /dev/zero | @b cat"
    with start(hosts, text, "--dead", "600ms") as running:
        # Past the buffer of Python, which communicate() does not look into.
        assert os.read(running.process.stdout.fileno(), 1) == b"\0"
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(2)
        status, out, err = running.end()
    assert (status, len(out), err) == (0, 29_999_999, "")


def test_words_that_fill_no_frame_are_too_many(hosts):
    status, _, err = run(hosts, f"@a cat {'x' * 100_001}")
    assert status == 64
    assert "stage 1 @127.0.0.1: more than 100000 bytes of words" in err


def test_a_stage_whose_caller_died_is_asked_before_it_is_killed(hosts, tmp_path):
    mark = tmp_path / "mark"
    script = f"trap 'echo bye > {mark}; exit' TERM; echo on >&2; "
    script += "while :; do sleep 0.05; done"
    with start(hosts, f'@a sh -c "{script}" | @b cat') as running:
        assert running.process.stderr.readline() == b"[1 127.0.0.1] on\n"
        running.process.kill()
        assert reached(mark.exists)
    hosts[2].wait_log("end service=a")


def test_progress_counts_what_comes_out_at_the_end(hosts):
    ours, theirs = pty.openpty()
    with open(theirs, "wb", buffering=0) as terminal:
        key, names, _ = hosts
        text = f"@{names['a']} head -c 2500000 /dev/zero | @{names['b']} cat"
        process = subprocess.Popen(
            [*COMMAND, "run", "--key", str(key), "--progress", text],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=terminal,
        )
        assert process.wait(DEADLINE) == 0
    said = b""
    while b"2.5 MB  " not in said:
        said += os.read(ours, 4096)
    os.close(ours)


def test_ctrl_c_of_a_terminal_which_all_of_our_processes_get_is_one_signal(hosts):
    """The terminal signals the group; our own agents must live to tell how it went."""
    script = "trap 'echo bye >&2; exit' INT; echo on >&2; while :; do sleep 0.05; done"
    with start(hosts, f'sh -c "{script}" | @b cat', process_group=0) as running:
        assert running.process.stderr.readline() == b"[1 local] on\n"
        os.killpg(running.pid, signal.SIGINT)
        status, _, err = running.end()
    assert (status, err) == (130, "[1 local] bye\n")
