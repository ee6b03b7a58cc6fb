"""What somebody else publishes on the cluster's subjects: nothing breaks by it, and afterwards all is as before."""

import random
from struct import Struct

import msgspec
import pytest

from pystrands.engine.nats import talk
from pystrands.engine.nats.envelope import HEAD_SIZE, MESSAGE, pack_head
from pystrands.engine.nats.stamps import Stamps
from pystrands.engine.nats.voice import number_of
from pystrands.engine.publication import Audience
from tests.engine.nats.simulation import Clock, SimNats, brokers

HEAD = Struct("<BBBBIqqq")
NUMBERS = (0, 1, -1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**62))
BYTES = (b"", b"\xff\xfe", b"x" * 70_000, pack_head(MESSAGE, 0, 1, 5, 2**62, 2**62))
TEXTS = ("", "a", "b", "x" * 100_000, "\u00e9\0\n")


@pytest.fixture
def nats():
    return SimNats(Clock(), seed=1)


@pytest.fixture
def trio(nats):
    """Three brokers, of which each has a client, and a room that all have somebody in."""
    started = brokers(nats, "a", "b", "c")
    for broker in started:
        broker.join("room")
        broker.admit(f"client {broker.name}")
    nats.clock.run(3)
    return started


def say(nats, subject, envelope, reply=b""):
    nats.servers[0].deliver(subject, envelope, reply, None)


def live(nats, trio, number):
    """Do what brokers do."""
    for broker in trio:
        broker.send("room", f"{broker.name} {number}")
        broker.admit(f"new {number % 3}")
        broker.cluster.command("client a", b"do", 1.0, lambda *_: None)
        broker.cluster.survey(b"?", 1.0, lambda *_: None)
        broker.send("room", "counted", confirm=True)
        broker.cluster.confirm(1.0, lambda *_: None)
    nats.clock.run(0.05)


def is_as_before(nats, trio):
    """Whatever there was: all know each other, and messages, questions and ids go from each to each."""
    nats.clock.run(14)
    answers = {}
    for broker in trio:
        broker.delivered.clear()
    for number in range(10):
        for broker in trio:
            broker.send("room", f"{broker.name} {number}")
        nats.clock.run(0.2)
    for broker in trio:
        broker.cluster.survey(b"all?", 3.0, lambda found, missing, broker=broker: answers.update({broker: found}))
        broker.admit(f"last of {broker.name}")
    nats.clock.run(4)
    for broker in trio:
        assert broker.peers == sorted({"a", "b", "c"} - {broker.name})
        for other in trio:
            came = [each for each in broker.messages(Audience.ROOM, "room") if each.startswith(other.name)]
            assert came == [f"{other.name} {number}" for number in range(10)]
        assert len(answers[broker]) == 2
        assert f"last of {broker.name}" in broker.clients


@pytest.mark.parametrize("seed", range(16))
def test_cluster_rule_18_nothing_breaks_by_what_strangers_publish(nats, trio, seed):
    """Whatever raises here would be an end of the connection to NATS, or of a client that comes in."""
    rng = random.Random(seed)
    for number in range(5):
        live(nats, trio, number)
    trio[0].transport.flap()
    nats.clock.run(1)
    said = [each for broker in trio for each in broker.transport.sent]
    by_kind = {kind: [each for each in said if each[1][1] == kind] for kind in {each[1][1] for each in said}}
    assert len(by_kind) > 10
    for number in range(60):
        subject, envelope = rng.choice(by_kind[rng.choice(list(by_kind))])
        say(nats, rng.choice([subject, subject, rng.choice(said)[0]]), changed(rng, envelope))
        nats.clock.run(rng.choice([0, 0.01, 0.2]))
        live(nats, trio, number)
    is_as_before(nats, trio)


def changed(rng, envelope):
    """Return it with something else in it."""
    data, how = bytearray(envelope), rng.random()
    if how < 0.3:
        for _ in range(rng.choice([1, 1, 2, 4])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif how < 0.4:
        del data[rng.randrange(len(data)) :]
    elif how < 0.7:
        head = list(HEAD.unpack_from(data))
        at = rng.choice([0, 1, 2, 4, 5, 6, 7, 6, 7])
        limit = 256 if at < 4 else 2**32
        head[at] = rng.choice(NUMBERS) % limit if at < 5 else max(-(2**63), min(2**63 - 1, rng.choice(NUMBERS)))
        data[:HEAD_SIZE] = HEAD.pack(*head)
    elif data[1] != MESSAGE:
        data[HEAD_SIZE:] = msgspec.msgpack.encode(with_another(rng, msgspec.msgpack.decode(bytes(data[HEAD_SIZE:]))))
    return bytes(data)


def with_another(rng, values):
    """Return a list with another value in it, or in a list of it."""
    if not values:
        return values
    at = rng.randrange(len(values))
    value = values[at]
    if isinstance(value, list):
        values[at] = with_another(rng, value)
    elif isinstance(value, bool):
        values[at] = not value
    else:
        values[at] = rng.choice(NUMBERS if isinstance(value, int) else TEXTS if isinstance(value, str) else BYTES)
    return values


def in_the_name(broker, said):
    """Return an envelope as that broker makes it."""
    return talk.pack(said, broker.core._voice.epoch, number_of(broker.name))


def beat_of(broker, **fields):
    return msgspec.structs.replace(broker.core.membership._make_beat(), **fields)


def test_cluster_rule_08_who_sends_in_a_brokers_name_is_noticed_and_its_messages_are_taken_again(nats, trio):
    a, b, c = trio
    a.send("room", "before")
    nats.clock.run(1)
    subject = a.core.subjects.room("room")
    envelope = bytearray(next(payload for at, payload in a.transport.sent if at == subject))
    envelope[3] = 0  # it does not say after which heartbeat it was sent
    envelope[16:32] = Struct("<qq").pack(2**62, a.core.publisher.seq)
    say(nats, subject, bytes(envelope))
    nats.clock.run(5)
    a.send("room", "after")
    nats.clock.run(1)
    assert b.messages(Audience.ROOM, "room") == c.messages(Audience.ROOM, "room") == ["before", "before", "after"]
    assert b.gaps == c.gaps == [("a", 1)]


def test_a_heartbeat_that_comes_once_more_is_not_believed(nats, trio):
    a, b, _ = trio
    old = in_the_name(a, beat_of(a))
    for number in range(3):
        a.send("room", f"{number}")
    nats.clock.run(2.5)
    say(nats, a.core.subjects.everyone, old)
    nats.clock.run(1.5)
    a.send("room", "3")
    nats.clock.run(2)
    assert (b.messages(Audience.ROOM, "room"), b.gaps) == (["0", "1", "2", "3"], [])


@pytest.mark.parametrize(
    "fields",
    [
        {"seq": 2**62},
        {"beat": 2**62},
        {"clock": 2**64 - 1},
        {"tails": (b"ps.test.r.=room", 2**62)},
        {"tails": (b"ps.test.r.=room", b"?", 7)},
        {"address": "", "is_draining": True, "is_listening": False},
        {"broker_id": "a stranger"},
        {"broker_id": "b"},
    ],
    ids="-".join,
)
def test_a_heartbeat_that_is_not_true_does_no_harm_for_long(nats, trio, fields):
    say(nats, trio[0].core.subjects.everyone, in_the_name(trio[0], beat_of(trio[0], **fields)))
    live(nats, trio, 1)
    is_as_before(nats, trio)


def test_what_can_not_be_read_is_counted_and_nothing_else(nats, trio):
    a, b, _ = trio
    mine = b.core.subjects.broker("b")
    before = b.counters["engine_unknown"]
    for said in (
        talk.Claim(1, b"\xff", 1, is_repeated=False),
        talk.Command(2, b"\xff", b"do"),
        talk.Tallies(3, (b"x", 1)),
        beat_of(a, broker_id="b"),
    ):
        say(nats, mine, in_the_name(a, said))
    say(nats, mine, in_the_name(a, talk.Question(4, b"?"))[:-1])
    say(nats, mine, in_the_name(a, beat_of(a, broker_id="#")).replace(b"#", b"\xff"))
    nats.clock.run(0.1)
    assert b.counters["engine_unknown"] == before + 6
    is_as_before(nats, trio)


def test_cluster_rule_14_stamps_go_with_the_clock_that_is_ahead_and_believe_no_absurd_one():
    now = [10**18]
    stamps = Stamps(lambda: now[0])
    first = stamps.make()
    stamps.see(now[0] + 90 * 10**9)
    now[0] += 10**9
    second = stamps.make()
    assert second - first == 91 * 10**9
    stamps.see(2**64 - 1)
    assert stamps.clock == second
    now[0] -= 10**12  # somebody has set the clock
    assert stamps.make() == second + 1
