"""Where a host listens for the stages beside its own: a range that a firewall knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inetd import fork
from roles import Run, pipe_service, write_key

from superd.handlers import exits, pipe
from superd.handlers.exits import SetupError
from superd.handlers.pipeline import joint
from superd.handlers.pipeline.failure import Failure


def free_range(count):
    """Return the first of so many ports in a row that nobody has now."""
    for first in range(20_000, 32_000, count):
        made = []
        try:
            for number in range(first, first + count):
                made += joint.listen(joint.Address("127.0.0.1", number))
        except Failure:
            continue
        else:
            return range(first, first + count)
        finally:
            joint.close_all(made)
    raise AssertionError("no ports at all")


def test_every_port_of_the_range_is_used_and_then_it_is_told():
    ports, made = free_range(5), []
    for _ in ports:
        made += joint.listen_in("127.0.0.1", ports)
    assert sorted(sock.getsockname()[1] for sock in made) == list(ports)
    said = f"no port for a joint: {ports[0]}-{ports[-1]} are all in use; more of them"
    with pytest.raises(Failure, match=said):
        joint.listen_in("127.0.0.1", ports)
    made.pop().close()
    made += joint.listen_in("127.0.0.1", ports)
    joint.close_all(made)


def test_without_a_range_the_port_is_the_kernels():
    with joint.listen_in("127.0.0.1", range(0))[0] as listener:
        assert listener.getsockname()[1] > 0


def test_an_address_that_is_not_ours_is_told_at_once():
    with pytest.raises(Failure, match=r"cannot listen on 192\.0\.2\.1:9: EADDRN"):
        joint.listen_in("192.0.2.1", range(9, 10))


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_a_range_is_two_ports_in_order(first, last):
    if first <= last:
        assert pipe._ports(f"{first}-{last}") == range(first, last + 1)
    else:
        with pytest.raises(SetupError, match="is no range of ports; 9100-9199 is"):
            pipe._ports(f"{first}-{last}")


@given(st.text(alphabet="0123456789-_ ٣x", max_size=12))
def test_any_text_is_a_range_or_one_error(text):
    try:
        ports = pipe._ports(text)
    except SetupError:
        return
    assert not text or 0 < ports[0] <= ports[-1] <= 65535


@pytest.mark.parametrize("text", ["0-9", "9-", "-9", "9-65536", "9 - 10", "1_0-20"])
def test_a_range_that_is_none_is_the_operators_fault(text):
    with fork(pipe.main, f"--ports={text}") as served:
        assert served.wait() == exits.SETUP
        assert f"option --ports: {text} is no range of ports" in served.log


def test_joints_are_in_the_range_and_a_host_without_a_port_is_told(superd, tmp_path):
    key, ports = write_key(tmp_path), free_range(2)
    daemon = superd(
        {"services": pipe_service(key, ports=f"{ports[0]}-{ports[-1]}")},
    )
    host = "{}:{}".format(*daemon.address("pipe"))
    text = f"@{host} cat | @{host} cat"
    # Two for three joints: the third is that of our own stdout.
    with Run(f"seq 9 | @{host} cat", key=key) as one:
        assert one.end()[:2] == (0, b"".join(b"%d\n" % n for n in range(1, 10)))
    with Run(text, key=key) as one:
        status, _, err = one.end()
    assert status == 69
    assert f"no port for a joint: {ports[0]}-{ports[-1]} are all in use" in err
    assert err.startswith("superd-pipe: stage ")
