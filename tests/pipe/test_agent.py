"""The pipe service against callers and strangers that do not keep the rules."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inetd import DEADLINE, connection, fork, reached, spawn_handler
from looped import in_loop
from roles import read_to_end, reset, write_key

from superd.handlers import exits, pipe
from superd.handlers.pipeline import auth, joining, joint
from superd.handlers.pipeline.channel import Channel, ChannelLost
from superd.handlers.pipeline.failure import Failure
from superd.handlers.pipeline.frames import DATA, FrameError, Intake, Writer

FLAGS = ("--programs", "cat: /bin/cat", "--programs", "yes: /usr/bin/yes")


class Caller:
    """A caller that says what the test wants."""

    def __init__(self, sock, key):
        self.channel = Channel(sock)
        self.key = key
        self.session = b""

    def greet(self, key=None):
        theirs = bytes.fromhex(self.channel.wait(DEADLINE)["nonce"])
        mine = auth.nonce()
        key = key or self.key
        proof = auth.prove(key, auth.CALLER, mine, theirs)
        self.channel.say("auth", nonce=mine.hex(), proof=proof.hex())
        answer = self.channel.wait(DEADLINE)
        if answer["is"] == "welcome":
            proof = bytes.fromhex(answer["proof"])
            assert auth.is_proof(proof, key, auth.AGENT, mine, theirs)
            self.session = auth.session_key(key, mine, theirs)
            self.channel.seal_with(self.session, auth.CALLER, auth.AGENT)
        return answer

    def start(self, argv=("cat",), listen=("in", "out"), **more):
        self.token = os.urandom(auth.TOKEN)
        tokens = {
            side: auth.hide_token(self.session, side, self.token).hex()
            for side in ("in", "out")
        }
        message = {
            "argv": argv if isinstance(argv, str) else list(argv),
            "listen": list(listen),
            "tokens": tokens,
        }
        message |= {"grace": 1.0, "silence": 20.0, "strict": False, **more}
        self.channel.say("start", **message)
        return self.hear()

    def hear(self):
        return self.channel.wait(DEADLINE)


@pytest.fixture
def key(tmp_path):
    return write_key(tmp_path)


@pytest.fixture
def served(key):
    with fork(pipe.main, *FLAGS, "--key", str(key)) as one:
        yield one


@pytest.fixture
def caller(served, key):
    return Caller(served.sock, key.read_bytes())


def join(caller, ready):
    """Connect both joints, as the stages before and after would."""
    caller.channel.say("join", to={})
    sides = {}
    for side in ("in", "out"):
        where = joint.Address("127.0.0.1", ready["ports"][side])
        sides[side] = joining.dial(where, caller.token, 10.0)
    assert caller.hear()["is"] == "joined"
    return sides["in"], sides["out"]


def test_a_caller_with_the_key_is_welcome(caller):
    assert caller.greet()["is"] == "welcome"
    assert caller.start()["is"] == "ready"


def test_a_caller_with_another_key_is_refused_and_nothing_is_started(served, caller):
    assert caller.greet(b"x" * 32)["is"] == "refused"
    assert served.wait() == exits.PEER
    assert served.log == "pipe: the key is not this host's key\n"


def test_a_proof_of_the_agents_own_is_none(served, caller):
    theirs = bytes.fromhex(caller.channel.wait(DEADLINE)["nonce"])
    proof = auth.prove(caller.key, auth.AGENT, theirs, theirs)
    caller.channel.say("auth", nonce=theirs.hex(), proof=proof.hex())
    assert caller.hear()["is"] == "refused"
    assert served.wait() == exits.PEER


def test_a_proof_that_was_heard_before_is_none(key):
    with fork(pipe.main, *FLAGS, "--key", str(key)) as first:
        caller = Caller(first.sock, key.read_bytes())
        theirs = bytes.fromhex(caller.channel.wait(DEADLINE)["nonce"])
        mine = auth.nonce()
        said = {
            "nonce": mine.hex(),
            "proof": auth.prove(caller.key, auth.CALLER, mine, theirs).hex(),
        }
        caller.channel.say("auth", **said)
        assert caller.hear()["is"] == "welcome"
    with fork(pipe.main, *FLAGS, "--key", str(key)) as second:
        caller = Caller(second.sock, b"")
        caller.hear()
        caller.channel.say("auth", **said)
        assert caller.hear()["is"] == "refused"
        assert second.wait() == exits.PEER


def test_without_a_key_nobody_is_served():
    with fork(pipe.main, *FLAGS) as served:
        caller = Caller(served.sock, b"x" * 32)
        assert caller.greet()["text"] == "this host has no key to compare"
        assert served.wait() == exits.SETUP
        assert served.log.startswith("pipe: option --key: no key file")


def test_a_caller_that_says_nothing_is_not_waited_for(key):
    with fork(pipe.main, *FLAGS, "--key", str(key), "--handshake", "0.1") as served:
        assert served.wait() == exits.OK
        assert served.log == ""


def test_a_message_without_its_seal_is_refused(served, caller):
    caller.greet()
    caller.channel.seal_with(b"another", auth.CALLER, auth.AGENT)
    caller.channel.say("start", argv=["cat"], listen=[], tokens={})
    assert served.wait() == exits.PEER
    assert served.log == "pipe: a message without its seal\n"


def test_a_message_that_was_said_before_is_refused(served, caller):
    caller.greet()
    caller.start()
    caller.channel._counts[0] -= 1
    caller.channel.say("join", to={})
    assert served.wait() == exits.PEER


@pytest.mark.parametrize(
    "change",
    [
        {"argv": "cat"},
        {"argv": [1]},
        {"listen": ["err"]},
        {"tokens": {"in": "00"}, "listen": ["in"]},
        {"tokens": {"err": "00" * 16}},
        {"tokens": []},
        {"silence": "long"},
        {"silence": -1},
        {"silence": True},
        {"silence": float("nan")},
        {"grace": 10**400},
    ],
)
def test_a_start_that_is_none_breaks_the_protocol(served, caller, change):
    caller.greet()
    with pytest.raises(ChannelLost):
        caller.start(**change)
    assert served.wait() == exits.PEER
    assert "bug" not in served.log


@pytest.mark.parametrize(
    "change",
    [
        {"compress": {"in": 20}},
        {"compress": {"out": -1}},
        {"compress": {"out": True}},
        {"compress": {"err": 3}},
        {"compress": [3]},
        {"certificates": {"in": "00"}},
        {"certificates": {"in": 1}},
    ],
)
def test_a_joint_that_cannot_be_so_breaks_the_protocol(served, caller, change):
    caller.greet()
    with pytest.raises(ChannelLost):
        caller.start(**change)
    assert served.wait() == exits.PEER
    assert "bug" not in served.log


@pytest.mark.parametrize("argv", [[], ["/bin/cat"], ["sh", "-c", "id"], ["cat", "-n"]])
def test_what_is_not_configured_does_not_run(served, caller, argv):
    caller.greet()
    assert caller.start(argv)["is"] == "refused"


def test_a_stage_without_joints_would_be_given_the_conversation(served, caller):
    caller.greet()
    caller.start(listen=())
    caller.channel.say("join", to={})
    assert served.wait() == exits.PEER
    assert "a joint on either side" in served.log


def test_a_stage_by_hand(served, caller):
    caller.greet()
    before, after = join(caller, caller.start())
    with before, after:
        for step in ("go", "flow"):
            caller.channel.say(step)
            if step == "go":
                assert caller.hear()["is"] == "running"
        writer = Writer(joining.seed(caller.token))
        before.sendall(writer.frame(DATA, b"hello") + writer.end(5))
        data, how = read_to_end(after)
        intake = Intake(joining.seed(caller.token))
        assert (list(intake.feed(data)), intake.is_whole, how) == (
            [b"hello"],
            True,
            "end",
        )
    message = caller.hear()
    while message["is"] == "alive":
        message = caller.hear()
    assert message["is"] == "status"
    assert (message["status"], message["cut"], message["taken"]) == (0, "", 5)
    served.sock.close()
    assert served.wait() == exits.OK


@pytest.mark.parametrize("how", ["garbage", "reset", "close", "other joint"])
def test_a_joint_that_breaks_is_a_cut_and_the_stage_after_hears_it(served, caller, how):
    caller.greet()
    before, after = join(caller, caller.start())
    with before, after:
        caller.channel.say("go")
        caller.channel.say("flow")
        if how == "garbage":
            before.sendall(b"\xff" * 100)
        elif how == "other joint":
            before.sendall(Writer(7).end(0))
        elif how == "reset":
            reset(before)
        else:
            joint.finish(before)
        data, _ = read_to_end(after)
        intake = Intake(joining.seed(caller.token))
        with pytest.raises(FrameError, match="cut short"):
            list(intake.feed(data))
        assert not intake.is_whole
    message = caller.hear()
    while message["is"] != "status":
        message = caller.hear()
    assert message["cut"].startswith("input cut short after 0 bytes: ")
    assert message["second_hand"]


def test_a_stranger_takes_nobodys_place_at_a_joint(served, caller):
    caller.greet()
    ready = caller.start()
    caller.channel.say("join", to={})
    where = ("127.0.0.1", ready["ports"]["in"])
    with socket.create_connection(where, timeout=DEADLINE) as stranger:
        assert len(stranger.recv(100)) == auth.NONCE
        stranger.sendall(bytes(auth.NONCE + 32))
        assert read_to_end(stranger)[1] == "reset"
    with pytest.raises(Failure):
        joining.dial(joint.Address(*where), os.urandom(auth.TOKEN), 10.0)
    for side in ("in", "out"):
        joining.dial(
            joint.Address("127.0.0.1", ready["ports"][side]), caller.token, 10.0
        ).close()
    assert caller.hear()["is"] == "joined"
    # One time: nobody listens there any more.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where, timeout=DEADLINE)


def test_a_listener_without_the_token_is_no_stage_after():
    with socket.create_server(("127.0.0.1", 0)) as impostor:
        pid = os.fork()
        if not pid:
            sock = impostor.accept()[0]
            sock.sendall(bytes(auth.NONCE))
            sock.recv(100)
            sock.sendall(bytes(32))
            os._exit(0)
        where = joint.Address(*impostor.getsockname())
        with pytest.raises(Failure, match="has not the token"):
            joining.dial(where, os.urandom(auth.TOKEN), 10.0)
        os.waitpid(pid, 0)


def test_a_token_lives_as_long_as_the_operator_says(key):
    with fork(pipe.main, *FLAGS, "--key", str(key), "--join", "0.3") as served:
        caller = Caller(served.sock, key.read_bytes())
        caller.greet()
        caller.start()
        caller.channel.say("join", to={})
        message = caller.hear()
        assert message["is"] == "refused"
        assert "the stage before has not come in 0.3 s" in message["text"]


def test_a_token_lives_ten_seconds_where_nothing_else_is_said():
    assert auth.TOKEN_LIFE == pipe.OPTIONS["join"]["default"] == 10.0


def test_no_token_and_no_key_is_sent_as_it_is(key):
    """What a listener on the way sees has neither."""
    ours, theirs = connection()
    with ours, theirs:
        channel = Channel(theirs)
        session = auth.session_key(key.read_bytes(), b"a", b"b")
        token = os.urandom(auth.TOKEN)
        channel.seal_with(session, auth.CALLER, auth.AGENT)
        hidden = auth.hide_token(session, "in", token)
        channel.say("start", tokens={"in": hidden.hex()})
        seen = ours.recv(4096)
    for secret in (token, session, key.read_bytes()):
        assert secret not in seen
        assert secret.hex().encode() not in seen
    assert auth.hide_token(session, "in", hidden) == token


messages = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["is", "argv", "nonce", "proof", "to", "tokens", "x"]),
            inner,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=60) | messages, min_size=1, max_size=3))
def test_whatever_a_stranger_sends_is_the_peers_fault_and_no_bug(key, pieces):
    with fork(pipe.main, *FLAGS, "--key", str(key), "--handshake", "5") as served:
        checksum = 0
        for piece in pieces:
            if not isinstance(piece, bytes):
                payload = json.dumps(piece).encode()
                head = struct.pack(">BI", 5, len(payload))
                checksum = zlib.crc32(payload, zlib.crc32(head, checksum))
                piece = head + struct.pack(">I", checksum) + payload  # noqa: PLW2901
            served.send(piece)
        served.end()
        assert served.wait() in (exits.OK, exits.PEER)
        assert "bug" not in served.log
        assert "CRASH" not in served.log
        assert "LEAK" not in served.log


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages, st.sampled_from(["start", "join", "go", "signal"]))
def test_whatever_a_caller_with_the_key_says_is_no_bug_either(key, fields, name):
    with fork(pipe.main, *FLAGS, "--key", str(key)) as served:
        caller = Caller(served.sock, key.read_bytes())
        caller.greet()
        fields = {str(k): v for k, v in fields.items()} if type(fields) is dict else {}
        fields.pop("is", None)
        caller.channel.say(name, **fields)
        served.end()
        assert served.wait() in (exits.OK, exits.PEER)
        assert "bug" not in served.log
        assert "CRASH" not in served.log


def test_in_a_loop_it_refuses_and_says_what_is_needed():
    with fork(in_loop(pipe)) as served:
        message = Channel(served.sock).wait(DEADLINE)
        assert message["is"] == "refused"
        assert "mode: process" in message["text"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--programs", "cat: cat"), "cat: cat is no absolute path"),
        (("--programs", "cat: '/bin/cat"), "cat: No closing quotation"),
        (("--programs", "cat: "), "cat: nothing is no absolute path"),
    ],
)
def test_programs_that_are_none_are_the_operators_fault(key, flags, said):
    with fork(pipe.main, *flags, "--key", str(key)) as served:
        Caller(served.sock, key.read_bytes()).greet()
        assert served.wait() == exits.SETUP
        assert said in served.log


def test_under_another_inetd_it_serves_as_well(key):
    with spawn_handler("pipe", *FLAGS, "--key", str(key)) as served:
        caller = Caller(served.sock, key.read_bytes())
        assert caller.greet()["is"] == "welcome"
        assert caller.start()["is"] == "ready"


def test_a_caller_that_goes_ends_the_stage_and_frees_its_ports(served, caller):
    caller.greet()
    ready = caller.start(["yes"])
    before, after = join(caller, ready)
    with before, after:
        caller.channel.say("go")
        caller.channel.say("flow")
        assert select.select([after], [], [], DEADLINE)[0]
        served.sock.close()
        assert served.wait() == exits.OK
        assert read_to_end(after)[1] == "reset"
    assert reached(lambda: not _listens(ready["ports"]["in"]))


def _listens(port):
    with open("/proc/net/tcp") as file:
        return any(f":{port:04X} 00000000:0000 0A" in line for line in file)


@pytest.mark.parametrize("quiet", [True, False])
def test_a_caller_that_is_there_and_says_nothing_is_lost(key, quiet):
    flags = (*FLAGS, "--key", str(key), "--silence", "0.5")
    with fork(pipe.main, *flags) as served:
        caller = Caller(served.sock, key.read_bytes())
        caller.greet()
        before, after = join(caller, caller.start())
        with before, after:
            for step in ("go", "flow"):
                caller.channel.say(step)
            after.settimeout(DEADLINE)
            # Control: one that is heard of is served for longer than that.
            for _ in range(0 if quiet else 12):
                assert caller.hear()["is"] in ("running", "alive")
                caller.channel.say("alive")
            if not quiet:
                joint.finish(before)
            data, _ = read_to_end(after)
        text = b"nothing was heard of it" if quiet else b"the connection ended"
        assert text in data


@pytest.mark.parametrize(
    "to",
    [
        {"out": []},
        {"out": ["127.0.0.1"]},
        {"out": ["127.0.0.1", 10**400]},
        {"out": ["127.0.0.1", float("inf")]},
        {"out": ["127.0.0.1", 65536]},
        {"out": ["", 9]},
        {"out": None},
        {"err": ["127.0.0.1", 9]},
        {"in": ["127.0.0.1", 9]},
        [],
    ],
)
def test_an_address_that_is_none_breaks_the_protocol(served, caller, to):
    caller.greet()
    assert caller.start(listen=["in"])["is"] == "ready"
    caller.channel.say("join", to=to)
    assert served.wait() == exits.PEER
    assert "bug" not in served.log


@pytest.mark.parametrize("host", ["x" * 70, "a\0b", "no.such.host.invalid"])
def test_a_name_that_no_host_can_have_is_told(served, caller, host):
    caller.greet()
    assert caller.start(listen=["in"])["is"] == "ready"
    caller.channel.say("join", to={"out": [host, 9]})
    assert caller.hear()["is"] == "refused"
