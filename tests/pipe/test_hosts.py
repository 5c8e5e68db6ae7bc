"""Pipelines over real hosts: namespaces with networks of their own, joined by veth."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from hosts import Hosts
from roles import Role, Run, is_running, pipe_service, write_key

pytestmark = [pytest.mark.root, pytest.mark.slow]
LOST = ["--dead", "1s"]


@pytest.fixture
def hosts():
    """Make that many hosts; they are gone afterwards."""
    made = []

    def make(count):
        made.append(Hosts(count))
        return made[-1]

    yield make
    for one in made:
        one.close()


def pipeline(stack, hosts, programs, *flags):
    """Start one role on each host, from the tail; returns them from the head."""
    roles, to = [], None
    for number in range(len(programs), 0, -1):
        listen = f"{hosts.address(number)}:0" if number > 1 else None
        role = Role(
            *flags,
            listen=listen,
            to=to,
            program=programs[number - 1],
            prefix=hosts.on(number),
        )
        roles.insert(0, stack.enter_context(role))
        to = role.address
    return roles


@pytest.mark.parametrize("count", [3, 5])
def test_stages_on_hosts_of_their_own_give_the_right_bytes(hosts, count):
    head = ["seq", "1", "300000"]
    middle = [["grep", "-v", "9"], ["tr", "1", "x"], ["cat"]][: count - 2]
    with ExitStack() as stack:
        roles = pipeline(stack, hosts(count), [head, *middle, ["sha256sum"]])
        ends = [role.end() for role in roles]
    assert [status for status, _, _ in ends] == [0] * count
    text = "".join(f"{n}\n" for n in range(1, 300001) if "9" not in str(n))
    if count == 5:
        text = text.replace("1", "x")
    assert ends[-1][1].split()[0].decode() == hashlib.sha256(text.encode()).hexdigest()


def test_a_host_whose_link_is_cut_is_no_end_for_the_stages_after_it(hosts):
    made = hosts(3)
    with ExitStack() as stack:
        programs = [["yes"], ["cat"], ["cat"]]
        head, middle, tail = pipeline(stack, made, programs, *LOST)
        assert tail.process.stdout.read(2) == b"y\n"
        made.cut(2)
        # All that has arrived is read, and then nothing comes, for a second.
        status, _, err = tail.end()
        assert status == 74
        assert "was cut short after" in err
        assert "ETIMEDOUT" in err or "EHOSTUNREACH" in err
        # The one before cannot write any more; nobody acknowledges.
        assert head.end()[0] == 141
        # It is cut off from both; which it finds out first is as it comes.
        assert middle.end()[0] in (74, 141)


def test_a_slow_reader_is_not_taken_for_a_lost_host(hosts):
    """Control: for longer than --dead nobody reads, and every probe is answered."""
    made = hosts(2)
    with ExitStack() as stack:
        slow = ["sh", "-c", "sleep 4; exec wc -c"]
        head, tail = pipeline(
            stack, made, [["head", "-c", "30000000", "/dev/zero"], slow], *LOST
        )
        assert head.end() == (0, b"", "")
        assert tail.end() == (0, b"30000000\n", "")


def test_a_stage_that_is_killed_is_seen_on_every_host(hosts):
    with ExitStack() as stack:
        programs = [["yes"], ["cat"], ["cat"], ["cat"], ["cat"]]
        roles = pipeline(stack, hosts(5), programs)
        assert roles[-1].process.stdout.read(2) == b"y\n"
        os.kill(roles[2].child(), signal.SIGKILL)
        assert [role.end()[0] for role in roles] == [141, 141, 137, 74, 74]


# -- by one command, through the pipe service of superd on each host -----------------------


@pytest.fixture
def network(hosts, superd, tmp_path):
    """Start superd on each of `count` hosts but the first, which is the caller's."""
    key = write_key(tmp_path)

    def start(count, *, secured=None, **options):
        """`secured`: who gives each host a certificate, which stands for the key."""
        made = hosts(count)
        daemons = {}
        for number in range(2, count + 1):
            services = pipe_service(key, "0.0.0.0:7040", **options)
            if secured is not None:
                own = services["pipe"]["options"]
                own["tls"] = secured.issue(f"IP:{made.address(number)}").options
                del own["key"]
            daemons[number] = superd({"services": services}, prefix=made.on(number))

        def run(text, *flags, **how):
            for number in range(2, count + 1):
                text = text.replace(f"@{number} ", f"@{made.address(number)} ")
            return Run(text, *flags, prefix=made.on(1), **{"key": key, **how})

        return made, daemons, run

    return start


def test_three_hosts_by_one_command(network, tmp_path):
    _, _, run = network(3)
    (tmp_path / "data").write_bytes(b"".join(b"%d\n" % n for n in range(200_000)))
    text = f"cat {tmp_path}/data | @2 grep -v 7 | @3 sort -rn"
    with run(text, "--report") as one:
        status, out, err = one.end()
    assert status == 0
    numbers = [n for n in range(200_000) if "7" not in str(n)]
    assert out == b"".join(b"%d\n" % n for n in reversed(numbers))
    assert [line.split()[1] for line in err.splitlines()[1:]] == [
        "local",
        "10.99.0.2",
        "10.99.0.3",
    ]


def test_the_data_goes_straight_from_host_to_host(network):
    made, _, run = network(3)
    with run("@2 head -c 50000000 /dev/zero | @3 wc -c") as one:
        assert one.end() == (0, b"50000000\n", "")
    assert made.received(1) < 1_000_000
    # Control: what comes through the caller is counted there.
    with run("@2 head -c 5000000 /dev/zero | wc -c") as one:
        assert one.end() == (0, b"5000000\n", "")
    assert made.received(1) > 5_000_000


def test_five_hosts_and_one_that_is_killed_in_the_middle(network, tmp_path):
    _, _, run = network(5)
    with run("seq 1 50000 | @2 cat | @3 grep 1 | @4 cat | @5 sha256sum") as one:
        status, out, _ = one.end()
    wanted = "".join(f"{n}\n" for n in range(1, 50001) if "1" in str(n))
    assert status == 0
    assert out.split()[0].decode() == hashlib.sha256(wanted.encode()).hexdigest()
    whole = tmp_path / "whole"
    text = "yes | @2 cat | @3 sh -c 'head -1; kill -9 $$' | @4 cat | "
    with run(f"{text} @5 sh -c 'cat; echo > {whole}'") as one:
        status, _, err = one.end()
    assert status == 137
    assert "stage 3 @10.99.0.3: killed by SIGKILL" in err
    assert not whole.exists()


def test_a_cut_link_ends_the_stages_on_every_host_and_is_told(network, tmp_path):
    made, daemons, run = network(4, silence="2s")
    whole = tmp_path / "whole"
    script = "'echo $$ >&2; exec cat'"
    text = f"yes | @2 sh -c {script} | @3 sh -c {script} | "
    text += f"@4 sh -c 'echo $$ >&2; cat >/dev/null; echo > {whole}'"
    with run(text, "--dead", "1s") as one:
        pids = [int(one.process.stderr.readline().split()[-1]) for _ in range(3)]
        made.cut(3)
        status, _, err = one.end()
    assert status == 74
    assert "stage 3 @10.99.0.3: lost: nothing was heard of it for 1 s" in err
    # The others were told at once; the one behind the cut finds out by the silence.
    for number in (2, 3, 4):
        daemons[number].wait_log("end service=pipe")
    assert not any(map(is_running, pids))
    assert not whole.exists()
    # It would linger over a caller that cannot answer; its second TERM ends that.
    daemons[3].process.terminate()
    daemons[3].wait_log("drain service=pipe")


def test_hosts_that_cannot_reach_each_other_are_told_and_nothing_runs(
    network, tmp_path
):
    """The caller reaches both, each on a network of its own."""
    made, _, run = network(3)
    for number in (1, 3):
        made.add_address(number, f"10.98.0.{number}")
    marks = tmp_path / "marks"
    text = f"sh -c 'echo 1 >> {marks}; cat' | @2 sh -c 'echo 2 >> {marks}; cat' | "
    text += f"@10.98.0.3 sh -c 'echo 3 >> {marks}; cat'"
    start = time.monotonic()
    with run(text) as one:
        status, out, err = one.end()
    assert (status, out) == (69, b"")
    # Those that wait for a neighbour hear that it will not come.
    assert time.monotonic() - start < 4
    assert "stage 2 @10.99.0.2: cannot connect to 10.98.0.3:" in err
    assert "this host must reach that one" in err
    assert not marks.exists()


def test_three_hosts_by_tls_and_compressed(network, ours):
    made, _, run = network(3, secured=ours, ports="9100-9102")
    flags = [*ours.issue("URI:superd://caller").flags, "--compress", "--report"]
    text = "seq 1 2000000 | @2 grep 7 | @3 sort -rn | head -1"
    with run(text, *flags, key="/no/such/file") as one:
        status, out, err = one.end()
    assert (status, out) == (0, b"1999997\n")
    assert "sent" in err.splitlines()[0]
    # 14.9 MB were sent to the first of them, and counted by the kernel.
    assert made.received(2) < 5_000_000


MARKER = b"for the eyes of three hosts alone"
WATCH = f"""
import select, socket, sys
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
packets.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
packets.bind(("eth0", 0))
print("on", flush=True)
seen = b""
while (ready := select.select([packets, sys.stdin], [], [])[0]) != [sys.stdin]:
    seen += packets.recv(1 << 17)
print(len(seen) > 50_000, {MARKER!r} in seen)
"""


@pytest.mark.parametrize("by_tls", [True, False])
def test_whoever_sees_every_packet_reads_no_data(network, ours, by_tls):
    """Control: without TLS it is there to be read."""
    made, _, run = network(3, secured=ours if by_tls else None)
    flags = ours.issue("URI:superd://caller").flags if by_tls else []
    how = {"key": "/no/such/file"} if by_tls else {}
    lines = b"".join(b"%d %b\n" % (n, MARKER) for n in range(2000))
    with subprocess.Popen(
        [*made.on(3), sys.executable, "-c", WATCH],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as watcher:
        assert watcher.stdout.readline() == b"on\n"
        with run("@2 cat | @3 wc -l", *flags, stdin=subprocess.PIPE, **how) as one:
            assert one.end(lines) == (0, b"2000\n", "")
        said, _ = watcher.communicate()
    assert said == b"True %r\n" % (not by_tls)


def test_a_link_that_is_cut_is_no_end_by_tls_either(network, ours, tmp_path):
    made, daemons, run = network(3, secured=ours, silence="2s")
    whole = tmp_path / "whole"
    text = "yes | @2 sh -c 'echo on >&2; cat' | "
    text += f"@3 sh -c 'cat >/dev/null; echo > {whole}'"
    flags = [*ours.issue("URI:superd://caller").flags, *LOST]
    with run(text, *flags, key="/no/such/file") as one:
        assert one.process.stderr.readline().endswith(b"on\n")
        made.cut(2)
        status, _, err = one.end()
    assert status == 74
    assert "stage 2 @10.99.0.2: lost: nothing was heard of it for 1 s" in err
    for number in (2, 3):
        daemons[number].wait_log("end service=pipe")
    assert not whole.exists()
    daemons[2].process.terminate()
    daemons[2].wait_log("drain service=pipe")
