"""Who may fetch an answer that several miss, and how the others wait."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superd.handlers.cache import locks
from superd.handlers.cache.claims import Claims, number_of
from superd.handlers.cache.ledger import COUNT, SWEEP

KEY = b"http://example.com/"


def soon():
    return time.monotonic() + 30


def claimed_by_another(folder):
    """Let a process claim the key; it lives until it is killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            claim = Claims(str(folder)).claim(KEY)
            os.write(writer, b"." if claim else b"!")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"."
    os.close(reader)
    return pid


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_one_has_a_claim_and_whoever_comes_after_does_not(tmp_path):
    claims, others = Claims(str(tmp_path)), Claims(str(tmp_path))
    claim = claims.claim(KEY)
    assert claim is not None
    assert claims.claim(KEY) is None
    assert others.claim(KEY) is None
    with others.claim(KEY + b"x") as another:
        assert another is not None
    claim.release()
    claim.release()
    with others.claim(KEY):
        assert claims.claim(KEY) is None


def test_a_thousand_claims_are_one_file(tmp_path):
    claims = Claims(str(tmp_path))
    for number in range(1000):
        claims.claim(b"%d" % number).release()
    assert os.listdir(tmp_path) == ["claims"]
    assert os.stat(tmp_path / "claims").st_size == 0
    assert os.stat(tmp_path / "claims").st_mode & 0o777 == 0o600


def test_a_claim_ends_with_its_process(tmp_path):
    claims = Claims(str(tmp_path))
    pid = claimed_by_another(tmp_path)
    try:
        assert claims.claim(KEY) is None
    finally:
        end(pid)
    with claims.claim(KEY) as claim:
        assert claim is not None


def test_a_process_forked_meanwhile_does_not_keep_a_claim(tmp_path):
    claims = Claims(str(tmp_path))
    claim = claims.claim(KEY)
    pid = os.fork()
    if not pid:
        signal.pause()
    try:
        claim.release()
        again = claims.claim(KEY)
        assert again is not None
        again.release()
    finally:
        end(pid)


def test_all_who_wait_go_on_when_the_claim_ends(tmp_path):
    claims = Claims(str(tmp_path))

    async def wait_while_held():
        claim = claims.claim(KEY)
        before = len(os.listdir("/proc/self/fd"))
        waiting = [asyncio.create_task(claims.wait_for(KEY, soon())) for _ in range(9)]
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in waiting)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        claim.release()
        assert await asyncio.gather(*waiting) == [True] * 9

    asyncio.run(wait_while_held())


def test_who_waits_goes_on_when_the_claims_process_is_killed(tmp_path):
    pid = claimed_by_another(tmp_path)

    async def wait_while_held():
        waiting = asyncio.create_task(Claims(str(tmp_path)).wait_for(KEY, soon()))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        end(pid)
        assert await waiting

    asyncio.run(wait_while_held())


def test_who_waits_does_not_wait_past_the_deadline(tmp_path):
    claims = Claims(str(tmp_path))

    async def wait():
        return await claims.wait_for(KEY, time.monotonic() + 0.03)

    with claims.claim(KEY):
        begun = time.monotonic()
        assert asyncio.run(wait()) is False
        assert 0.03 <= time.monotonic() - begun < 5
    assert asyncio.run(wait()) is True


def test_who_waits_can_be_called_back(tmp_path):
    claims = Claims(str(tmp_path))

    async def leave():
        waiting = asyncio.create_task(claims.wait_for(KEY, soon()))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    with claims.claim(KEY):
        asyncio.run(leave())


def test_who_waits_disturbs_nobody_who_claims(tmp_path):
    """A question asked by taking the lock would refuse it to whoever comes by."""
    claims = Claims(str(tmp_path))
    fd = os.open(tmp_path / "claims", os.O_RDWR | os.O_CREAT)
    try:
        assert not locks.is_taken(fd, number_of(KEY))
        with claims.claim(KEY):
            assert locks.is_taken(fd, number_of(KEY))
        assert not locks.is_taken(fd, number_of(KEY))
        with claims.claim(KEY) as claim:
            assert claim is not None
    finally:
        os.close(fd)


def test_of_many_processes_one_gets_the_claim(tmp_path):
    reader, writer = os.pipe()
    pids = []
    for _ in range(8):
        pid = os.fork()
        if not pid:
            try:
                claim = Claims(str(tmp_path)).claim(KEY)
                os.write(writer, b"1" if claim else b"0")
                signal.pause()
            finally:
                os._exit(1)
        pids.append(pid)
    os.close(writer)
    said = b"".join(os.read(reader, 1) for _ in pids)
    for pid in pids:
        end(pid)
    os.close(reader)
    assert sorted(said) == sorted(b"10000000")


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_no_two_keys_share_a_number_nor_has_one_another_use(one, other):
    assert (number_of(one) == number_of(other)) == (one == other)
    assert SWEEP < COUNT + 2 <= number_of(one) < 2**62
