"""From the fork to a worker: what it keeps of its launcher, and what it does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SOURCE = """
def main(argv): pass
async def serve(reader, writer, options): pass
"""


@pytest.fixture(params=["pool", "loop"])
def worker(request, launcher):
    """Start a launcher and a worker: `worker(**keys)` gives launcher, seat and pid."""

    def start(**keys):
        keys = {"mode": request.param, "workers": 1, "requests": 1000, **keys}
        it = launcher.python(SOURCE, **keys)
        seat = it.seat()
        return it, seat, seat.worker()

    start.mode = request.param
    return start


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (x.partition(":") for x in lines)}


def limit(pid: int, name: str) -> list[str]:
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith(name):
            return line.removeprefix(name).split()[:2]
    raise AssertionError(name)


def test_a_worker_leads_a_session_of_its_own(worker):
    _, _, pid = worker()
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert words[2:4] == [str(pid)] * 2


def test_it_shows_its_service_by_name(worker):
    _, _, pid = worker()
    assert Path(f"/proc/{pid}/comm").read_text() == "superd: probe\n"


def test_its_signals_are_at_their_default_and_unblocked(worker):
    _, _, pid = worker()
    status = status_of(pid)
    assert int(status["SigBlk"], 16) == 0
    ignored = 1 << 12 | 1 << 24 if worker.mode == "loop" else 0
    internal = 1 << 31 | 1 << 32  # the C library's own
    # A loop's worker says hello before it has set the last of them.
    assert int(status["SigIgn"], 16) & ~internal & ~ignored == 0


def test_it_has_nothing_of_the_launchers_channel_epoll_or_specification(worker):
    it, _, pid = worker()
    folder = f"/proc/{pid}/fd"
    mine = {os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}
    assert not any("memfd" in name for name in mine)
    assert os.readlink(f"/proc/{it.pid}/fd/3") not in mine, "the launcher's channel"
    shared = {x for x in mine & set(it.fds().values()) if x.startswith("socket:")}
    assert len(shared) <= 2, "its seat, and the way back that all workers write to"
    if worker.mode == "pool":
        assert not any("eventpoll" in name for name in mine)


def test_several_workers_have_no_descriptor_of_each_other(worker):
    it, first, _ = worker()
    others = [it.seat() for _ in range(3)]
    inodes = []
    for seat in (first, *others):
        fd = f"/proc/{seat.worker()}/fd/3"
        inodes.append(os.readlink(fd))
    for seat in (first, *others):
        folder = f"/proc/{seat.worker()}/fd"
        names = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
        assert len(set(names) & set(inodes)) == 1


def test_limits_of_a_process_are_the_workers(worker):
    rlimits = {"core": [0, 0], "nofile": [64, 64], "as": [1 << 30, 1 << 30]}
    _, _, pid = worker(rlimits=rlimits)
    assert limit(pid, "Max open files") == ["64", "64"]
    assert limit(pid, "Max address space") == [str(1 << 30)] * 2


def test_the_usual_limit_of_open_files_is_one_that_select_can_use(worker):
    _, _, pid = worker()
    assert limit(pid, "Max open files")[0] == "1024"


def test_without_a_limit_of_its_own_a_loop_has_what_there_is(launcher):
    it = launcher.python(SOURCE, mode="loop", workers=1, rlimits={})
    hard = limit(os.getpid(), "Max open files")[1]
    assert limit(it.seat().worker(), "Max open files") == [hard, hard]


def test_options_that_are_wrong_end_every_worker_with_the_status_for_it(launcher):
    it = launcher.python(SOURCE, mode="loop", workers=1, argv=["--none"])
    seat = it.seat()
    assert seat.wait("^crash ") == "crash 0 100"
    it.wait_stderr(b"--none")
