from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pystrands.broker.fanout.groups import BLOCKED, CLOSED, KEY_BYTES, Group
from pystrands.broker.fanout.outbox import Outbox
from tests.broker.fanout.test_pressure import Client as Plain
from tests.broker.fanout.test_pressure import Clock

MACHINES = settings(max_examples=100, stateful_step_count=30)


class Client(Plain):
    """A client whose kernel keeps what is written until the test has it taken."""

    def __init__(self, limit=100_000):
        super().__init__(limit)
        self.kernel = 0
        self.transport.get_write_buffer_size = lambda: self.kernel
        write = self.transport.write

        def count(data):
            self.kernel += len(data)
            write(data)

        self.transport.write = count


@pytest.fixture
def loop():
    return Clock()


@pytest.fixture
def counters():
    return Counter()


@pytest.fixture
def outbox(loop, counters):
    return Outbox(loop, counters=counters, limit=100_000, clock=loop.time)


def offer(outbox, loop, client, frame, key=""):
    taken = outbox.offer([client], frame, key)
    loop.drain()
    return taken


def take(loop, client, seconds=0.05):
    """Have the peer acknowledge everything, and look at who is held."""
    client.kernel = 0
    loop.pass_time(seconds)


def test_who_is_up_to_date_gets_volatile_messages_as_any_others(loop, outbox, counters):
    client = Client()
    for number in range(10):
        assert offer(outbox, loop, client, b"%d" % number) == 1
        outbox.send(client, b"!")
        assert offer(outbox, loop, client, b"%d" % number, "key") == 1
        loop.drain()
        take(loop, client)
    assert client.received == b"".join(b"%d!%d" % (number, number) for number in range(10))
    assert not counters


def test_who_is_not_misses_them(loop, outbox, counters):
    client = Client()
    outbox.block(client)
    assert offer(outbox, loop, client, b"blocked") == 0
    outbox.unblock(client)
    client.kernel = 1000
    assert offer(outbox, loop, client, b"in the kernel") == 0
    take(loop, client)
    assert offer(outbox, loop, client, b"now") == 1
    assert client.received == b"now"
    assert counters == {"volatile_dropped": 2}
    assert client.closed is None


def test_the_newest_of_a_key_takes_the_place_of_the_one_that_waits(loop, outbox, counters):
    client = Client()
    outbox.block(client)
    for frame, key in ((b"a1", "a"), (b"b1", "b"), (b"a2", "a"), (b"b3", "b"), (b"a3+", "a")):
        if frame == b"a2":
            outbox.send(client, b"!")
        assert offer(outbox, loop, client, frame, key) == 1
    assert client.queued == sum(map(len, client.out))
    outbox.unblock(client)
    loop.drain()
    assert client.received == b"a3+b3!"
    assert counters == {"keyed_replaced": 3}
    take(loop, client)
    assert offer(outbox, loop, client, b"a4", "a") == 1, "what is out is not replaced"
    assert client.received == b"a3+b3!a4"


def test_who_takes_little_gets_the_newest_and_soon(loop, outbox, counters):
    """400 bytes twenty times a second, and a line that takes 2,000."""
    client, ages = Client(), []
    for number in range(200):
        offer(outbox, loop, client, b"%0400d" % number, "position")
        for _ in range(5):
            before = len(client.received)
            loop.pass_time(0.01)
            if len(client.received) > before:
                sent = int(client.received[-400:])
                ages.append((number - sent) * 0.05 + client.kernel / 2000)
            client.kernel = max(client.kernel - 20, 0)
    assert len(ages) > 30
    assert max(ages) <= 0.5
    take(loop, client, 1)
    assert client.received.endswith(b"199"), "the last one comes in the end"
    assert client.closed is None
    assert counters["keyed_replaced"] > 100


def test_what_is_no_volatile_message_waits_for_none(loop, outbox):
    client = Client()
    group = Group()
    outbox.join(client, group)
    client.kernel = 5000
    offer(outbox, loop, client, b"a", "a")
    outbox.send(client, b"1")
    outbox.publish(group, b"2")
    loop.drain()
    assert client.received == b""
    loop.pass_time(0.06)
    assert client.received == b"a12"
    assert client.is_clean
    loop.pass_time(1)
    assert not loop.timers


def test_keyed_messages_that_wait_are_bounded_and_nobody_is_too_slow_for_them(loop, outbox, counters):
    client = Client(limit=8 * 10 * (100 + KEY_BYTES + 1))
    outbox.block(client)
    taken = sum(offer(outbox, loop, client, b"x" * 100, str(number)) for number in range(100))
    assert taken == 10
    assert counters == {"volatile_dropped": 90}
    assert client.behind is None
    assert offer(outbox, loop, client, b"y" * 100, "3") == 1


def test_long_keys_of_tiny_messages_count(loop, outbox, counters):
    client = Client(limit=8 * 10_000)
    outbox.block(client)
    assert sum(offer(outbox, loop, client, b"x", f"{number:01000}") for number in range(100)) == 8
    assert client.fresh.keys == 8 * (1000 + KEY_BYTES)
    outbox.give(client, 3, 3)
    assert client.fresh.keys == 5 * (1000 + KEY_BYTES)


@pytest.mark.parametrize("size", [1, 100])
def test_what_one_turn_sends_to_who_is_up_to_date_arrives(loop, outbox, counters, size):
    clients = [Client() for _ in range(size)]
    for number in range(200):
        assert outbox.offer(clients, b"%0100d" % number, "") == size
    loop.drain()
    assert all(len(client.received) == 20_000 for client in clients)
    assert not counters


class World(RuleBasedStateMachine):
    """Messages of all kinds to one client, whose transport and kernel take what they like.

    What is no volatile message arrives, in order. Of a key nothing older follows something newer, and the last arrives.
    """

    def __init__(self):
        super().__init__()
        self.loop = Clock()
        self.outbox = Outbox(self.loop, counters=Counter(), limit=1 << 20, clock=self.loop.time)
        self.client: Any = Client(limit=1 << 20)
        self.group = Group()
        self.outbox.join(self.client, self.group)
        self.transport_is_full = False
        self.plain: list[int] = []
        self.last: dict[str, int] = {}
        self.count = 0
        self.client.transport.after_write = self.written

    def written(self):
        assert not self.transport_is_full, "it has asked for no more"
        if self.fills:
            self.transport_is_full = True
            self.outbox.block(self.client)

    fills = False

    def frame(self, kind):
        self.count += 1
        return b"%b%d;" % (kind.encode(), self.count) + b"." * 100

    @rule(many=st.booleans())
    def send(self, many):
        frame = self.frame("-")
        self.plain.append(self.count)
        if many:
            self.outbox.publish(self.group, frame)
        else:
            self.outbox.send(self.client, frame)

    @rule(kind=st.sampled_from("abcdv"))
    def offer(self, kind):
        taken = self.outbox.offer([self.client], self.frame(kind), "" if kind == "v" else kind)
        if kind != "v":
            assert taken == 1
            self.last[kind] = self.count

    @rule(fills=st.booleans())
    def turn(self, fills):
        self.fills = fills
        self.loop.drain()

    @rule(seconds=st.sampled_from([0.01, 0.06, 1]), fills=st.booleans())
    def time(self, seconds, fills):
        self.turn(fills)
        self.loop.pass_time(seconds)

    @precondition(lambda self: self.transport_is_full)
    @rule()
    def transport_takes_more(self):
        self.transport_is_full = False
        self.outbox.unblock(self.client)

    @rule(part=st.sampled_from([1, 3]))
    def peer_reads(self, part):
        self.client.kernel -= self.client.kernel // part

    @invariant()
    def places_are_right(self):
        client = self.client
        assert client.queued == sum(map(len, client.out))
        assert not self.transport_is_full or client.flags & BLOCKED
        if client.fresh is not None:
            for key, place in client.fresh.places.items():
                assert client.out[place].startswith(key.encode())
            assert client.fresh.waiting == sum(len(client.out[place]) for place in client.fresh.places.values())

    def teardown(self):
        self.fills = False
        for _ in range(100):
            if self.transport_is_full:
                self.transport_takes_more()
            self.client.kernel = 0
            self.time(0.06, fills=False)
        heard = [part.lstrip(b".") for part in self.client.received.split(b";")[:-1]]
        assert [int(part[1:]) for part in heard if part[:1] == b"-"] == self.plain
        for key, last in self.last.items():
            numbers = [int(part[1:]) for part in heard if part[:1] == key.encode()]
            assert numbers == sorted(numbers)
            assert numbers[-1] == last
        assert not self.client.flags & (BLOCKED | CLOSED)
        super().teardown()


@pytest.mark.no_cover
@pytest.mark.timeout(300)  # it computes all the time, beside other tests
def test_what_waits_stays_in_order():
    run_state_machine_as_test(World, settings=MACHINES)
