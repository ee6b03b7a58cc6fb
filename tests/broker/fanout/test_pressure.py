import json
from collections import Counter
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pystrands.broker.fanout.groups import BLOCKED, CLOSED, Group
from pystrands.broker.fanout.outbox import Outbox
from pystrands.protocol import wire
from pystrands.protocol.messages import RecipientParams
from tests.broker.fanout.test_outbox import Client as Plain
from tests.broker.fanout.test_outbox import Loop

ADA = RecipientParams(client_id="ada")
ROOM = RecipientParams(room_id="r")


MACHINES = settings(max_examples=100, stateful_step_count=40)


class Clock(Loop):
    """A loop with timers, and a clock that a test moves."""

    def __init__(self):
        super().__init__()
        self.now = 100.0
        self.timers = []

    def call_later(self, delay, function, *args):
        timer: Any = (self.now + delay, function, args)
        self.timers.append(timer)
        return timer

    def time(self):
        return self.now

    def pass_time(self, seconds):
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            timer = min(due, key=lambda each: each[0])
            self.timers.remove(timer)
            self.now = timer[0]
            timer[1](*timer[2])
            self.drain()
        self.now = end


class Client(Plain):
    """A client whose transport holds what the test says."""

    def __init__(self, limit=1000):
        super().__init__(limit)
        self.transport.held = 0
        self.transport.get_write_buffer_size = lambda: self.transport.held
        self.transport.get_extra_info = lambda _: None


class Session:
    """A backend's session that notes what it is told."""

    def __init__(self, flow=True):
        self.flow = flow
        self.lines = []

    def write(self, line):
        self.lines.append(json.loads(line))
        return len(self.lines)

    @property
    def told(self):
        """What it was told since the last look, each as one word and the value of its params."""
        lines, self.lines = self.lines, []
        return [(line["action"], *line["params"].values()) for line in lines]


@pytest.fixture
def loop():
    return Clock()


@pytest.fixture
def counters():
    return Counter()


@pytest.fixture
def outbox(loop, counters):
    return Outbox(loop, counters=counters, limit=1000, clock=loop.time)


def send(outbox, session, client, size, confirm_as=""):
    taken = outbox.send(client, b"x" * size)
    return heed(outbox, session, client, ADA, confirm_as, (1, int(taken)), size)


def publish(outbox, session, group, size, confirm_as=""):
    taken = outbox.publish(group, b"x" * size)
    return heed(outbox, session, group, ROOM, confirm_as, (len(group.members), taken), size)


def heed(outbox, session, target, named, confirm_as, delivered, size):
    pressure = outbox.pressure
    is_felt, pressure.is_felt = pressure.is_felt, False
    confirm = partial(confirmed, session, confirm_as) if confirm_as else None
    return is_felt and pressure.heed(session, target, named, confirm, delivered, size)


def confirmed(session, confirm_as, matched, taken):
    session.write(wire.result(confirm_as, {"matched": matched, "skipped": matched - taken}))


def room(outbox, *clients):
    group = Group("r")
    for client in clients:
        outbox.join(client, group)
    return group


def blocked(outbox, client):
    outbox.block(client)
    return client


def read(outbox, loop, client):
    outbox.unblock(client)
    loop.drain()


def leave_all(outbox, client):
    client.flags |= CLOSED
    outbox.leave_all(client)


def test_a_session_is_told_once_who_is_full_and_once_when_it_takes_more(loop, outbox):
    ada, session, other = blocked(outbox, Client()), Session(), Session()
    send(outbox, session, ada, 500)
    assert session.told == [], "half of the buffer is not more than half"
    for _ in range(3):
        send(outbox, session, ada, 100)
    assert session.told == [("full", "ada")]
    send(outbox, other, ada, 1)
    assert other.told == [("full", "ada")]
    read(outbox, loop, ada)
    assert (session.told, other.told) == ([("ready", "ada")], [("ready", "ada")])
    blocked(outbox, ada)
    send(outbox, session, ada, 500)
    send(outbox, session, ada, 1)
    assert session.told == [("full", "ada")], "again"


def test_it_is_told_when_who_is_full_is_gone(loop, outbox):
    ada, session = blocked(outbox, Client()), Session()
    group = room(outbox, ada)
    for _ in range(3):
        send(outbox, session, ada, 400)
        publish(outbox, session, group, 100)
    assert sorted(session.told) == [("full", "ada"), ("full", "r")]
    leave_all(outbox, ada)
    loop.drain()
    assert sorted(session.told) == [("ready", "ada"), ("ready", "r")]
    assert (group.behind, group.told) == (0, None)


def test_a_room_is_full_when_half_of_its_members_are(loop, outbox):
    members = [Client() for _ in range(5)]
    group, session = room(outbox, *members), Session()
    for count, told in ((2, []), (3, [("full", "r")])):
        for client in members[:count]:
            blocked(outbox, client)
        for _ in range(2):
            publish(outbox, session, group, 300)
            loop.drain()
        assert session.told == told
    outbox.leave(members[0], group)
    assert session.told == [], "two of four"
    outbox.join(Client(), group)
    outbox.leave(members[1], group)
    assert session.told == [("ready", "r")]


def test_a_room_is_full_while_much_is_on_its_way_to_all(loop, outbox):
    group, session = room(outbox, *(Client() for _ in range(100))), Session()
    publish(outbox, session, group, 500)
    assert session.told == []
    publish(outbox, session, group, 1)
    assert session.told == [("full", "r")]
    loop.drain()
    assert session.told == [("ready", "r")]


@pytest.mark.parametrize("lost", [False, True])
def test_a_confirmation_waits_until_who_is_full_takes_more(loop, outbox, lost):
    ada, session = blocked(outbox, Client()), Session()
    send(outbox, session, ada, 500)
    assert send(outbox, session, ada, 100, confirm_as="q1")
    assert send(outbox, session, ada, 100, confirm_as="q2")
    assert session.told == [("full", "ada")]
    if lost:
        leave_all(outbox, ada)
    else:
        read(outbox, loop, ada)
    result = ("result", 1, int(lost))
    assert session.told == [result, result, ("ready", "ada")]


def test_who_takes_no_byte_is_too_slow(loop, outbox, counters):
    stopped, slow, session = Client(), Client(), Session()
    for client in (stopped, slow):
        client.transport.held = 10_000
        blocked(outbox, client)
        send(outbox, session, client, 400)
        send(outbox, session, client, 400)
    for _ in range(100):
        loop.pass_time(0.25)
        slow.transport.held -= 1
    assert stopped.closed == (1013, "too slow", [])
    assert slow.closed is None
    loop.pass_time(21)
    assert slow.closed
    assert counters["slow_consumer_closed"] == 2
    for client in (stopped, slow):
        leave_all(outbox, client)
    loop.pass_time(1)
    assert not loop.timers, "nobody is looked at any more"


def test_who_takes_no_byte_may_miss_messages_instead(loop, counters):
    outbox = Outbox(loop, counters=counters, limit=1000, clock=loop.time, policy="drop")
    ada, session = blocked(outbox, Client()), Session()
    group = room(outbox, ada)
    publish(outbox, session, group, 400)
    publish(outbox, session, group, 400)
    assert session.told == [("full", "r")]
    loop.pass_time(21)
    assert session.told == [("ready", "r")]
    for _ in range(3):
        assert not outbox.send(ada, b"x" * 200)
        publish(outbox, session, group, 200)
        loop.drain()
    assert session.told == []
    assert counters == {"slow_consumer_dropped": 6}
    read(outbox, loop, ada)
    assert len(ada.received) == 800
    assert outbox.send(ada, b"again")


@pytest.mark.parametrize("policy", ["disconnect", "drop"])
def test_what_is_under_way_is_kept_for_readers_that_are_behind(loop, counters, policy):
    outbox = Outbox(loop, counters=counters, limit=1000, clock=loop.time, policy=policy)
    readers = [blocked(outbox, Client()) for _ in range(3)]
    group, sessions = room(outbox, *readers), [Session() for _ in range(3)]
    for _ in range(10):
        for session in sessions:  # none of which has read yet that the room is full
            publish(outbox, session, group, 100)
    send(outbox, sessions[0], readers[0], 2000)
    for reader in readers:
        read(outbox, loop, reader)
    assert [len(reader.received) for reader in readers] == [5000, 3000, 3000]
    assert not counters


def lagging(outbox, loop, session, others=9):
    """Return a room and a member of it that is beyond its limit, alone."""
    ada = blocked(outbox, Client())
    group = room(outbox, ada, *(Client() for _ in range(others)))
    while ada.queued <= 1000:
        publish(outbox, session, group, 100)
        loop.drain()
    publish(outbox, session, group, 100)
    loop.drain()
    return ada, group


def test_a_room_waits_a_second_once_for_a_member_that_lags(loop, outbox):
    session = Session()
    ada, group = lagging(outbox, loop, session)
    assert session.told == [("full", "r")]
    loop.pass_time(1.0)
    assert session.told == [("ready", "r")]
    assert ada.closed is None
    publish(outbox, session, group, 100)
    loop.drain()
    assert ada.closed == (1013, "too slow", [])
    leave_all(outbox, ada)
    assert session.told == []


def test_who_lags_then_may_miss_messages_instead(loop, counters):
    outbox = Outbox(loop, counters=counters, limit=1000, clock=loop.time, policy="drop")
    session = Session()
    ada, group = lagging(outbox, loop, session)
    assert session.told == [("full", "r")]
    loop.pass_time(1.0)
    assert session.told == [("ready", "r")]
    kept = ada.queued
    for _ in range(2):
        publish(outbox, session, group, 100)
        loop.drain()
    assert counters == {"slow_consumer_dropped": 2}
    read(outbox, loop, ada)
    assert (ada.closed, len(ada.received), session.told) == (None, kept, [])
    publish(outbox, session, group, 100)
    loop.drain()
    assert len(ada.received) == kept + 100


def test_who_catches_up_while_it_is_waited_for_is_forgiven(loop, outbox):
    session = Session()
    ada, group = lagging(outbox, loop, session)
    read(outbox, loop, ada)
    assert session.told == [("full", "r"), ("ready", "r")]
    assert (group.behind, group.awaited) == (0, 0)
    blocked(outbox, ada)
    while not session.told:
        publish(outbox, session, group, 100)
        loop.drain()
    assert ada.closed is None, "it is waited for again"


def test_who_is_behind_a_private_stream_lags_behind_no_room(loop, outbox):
    session = Session()
    ada = blocked(outbox, Client())
    group = room(outbox, ada, *(Client() for _ in range(9)))
    send(outbox, session, ada, 400)
    send(outbox, session, ada, 5000)
    for _ in range(4):
        publish(outbox, session, group, 100)
        loop.pass_time(1)
        ada.transport.held += 1
    assert session.told == [("full", "ada")]
    assert ada.closed is None


def test_who_goes_on_regardless_finds_an_end(loop, outbox):
    ada, session = blocked(outbox, Client()), Session()
    for _ in range(20):
        send(outbox, session, ada, 1 << 20)
    loop.drain()
    assert ada.closed


def test_a_session_that_can_not_be_told_keeps_to_the_buffer(loop, outbox, counters):
    old, ada = Session(flow=False), blocked(outbox, Client())
    group = room(outbox, ada, *(Client() for _ in range(9)))
    send(outbox, old, ada, 400)
    assert not send(outbox, old, ada, 600, confirm_as="q")
    publish(outbox, old, group, 1)
    loop.drain()
    assert ada.closed == (1013, "too slow", [])
    assert old.told == []
    assert counters["slow_consumer_closed"] == 1


def test_who_can_not_be_told_ends_no_reader_for_what_others_sent(loop, outbox, counters):
    old, session, ada = Session(flow=False), Session(), blocked(outbox, Client())
    group = room(outbox, ada, *(blocked(outbox, Client()) for _ in range(2)))
    send(outbox, session, ada, 700)
    for _ in range(3):
        publish(outbox, session, group, 400)  # under way when the room was full
    for _ in range(50):
        publish(outbox, old, group, 1)
        send(outbox, old, ada, 1)
    loop.drain()
    assert not ada.closed
    publish(outbox, old, group, 500)
    loop.drain()
    assert ada.closed == (1013, "too slow", [])
    assert counters["slow_consumer_closed"] == 3


class World(RuleBasedStateMachine):
    """Clients that block, read, join, leave and go, and sessions that send to them and to rooms.

    Whoever was told that a recipient is full is told when it is not any more, and the counts are right.
    """

    def __init__(self):
        super().__init__()
        self.loop = Clock()
        self.outbox = Outbox(self.loop, counters=Counter(), limit=1000, clock=self.loop.time, policy=self.policy())
        self.clients = []
        self.gone = []
        self.groups = [Group(name) for name in "rs"]
        self.sessions = [Session(), Session(), Session(flow=False)]
        self.full = [set(), set(), set()]
        self.asked = [set(), set(), set()]
        self.count = 0

    def policy(self) -> Any:
        return "disconnect"

    def hear(self):
        for session, full, asked in zip(self.sessions, self.full, self.asked, strict=True):
            for line in session.lines:
                name = str(line["params"])
                if line["action"] == "full":
                    assert name not in full
                    full.add(name)
                elif line["action"] == "ready":
                    full.remove(name)
                else:
                    asked.remove(line["request_id"])
            session.lines.clear()

    def close_gone(self):
        for client in [client for client in self.clients if client.flags & CLOSED]:
            self.clients.remove(client)
            self.outbox.leave_all(client)
            self.gone.append(client)

    @rule(size=st.integers(0, 2))
    def come(self, size):
        client = Client()
        for group in self.groups[:size]:
            self.outbox.join(client, group)
        self.clients.append(client)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), group=st.integers(0, 1))
    def join_or_leave(self, data, group):
        client, chosen = data.draw(st.sampled_from(self.clients)), self.groups[group]
        if client in chosen.members:
            self.outbox.leave(client, chosen)
        else:
            self.outbox.join(client, chosen)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), what=st.sampled_from(["block", "read", "go", "sip"]))
    def happens(self, data, what):
        client = data.draw(st.sampled_from(self.clients))
        if what == "block":
            client.transport.held = 10_000
            self.outbox.block(client)
        elif what == "read":
            self.outbox.unblock(client)
        elif what == "sip":
            client.transport.held -= 1
        else:
            client.flags |= CLOSED
            self.close_gone()

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), session=st.integers(0, 2), size=st.sampled_from([1, 100, 700]), confirm=st.booleans())
    def send(self, data, session, size, confirm):
        client = data.draw(st.sampled_from(self.clients))
        named = RecipientParams(client_id=str(id(client)))
        taken = self.outbox.send(client, b"x" * size)
        self.ask(session, client, named, (1, int(taken)), confirm, size)

    @rule(session=st.integers(0, 2), group=st.integers(0, 1), size=st.sampled_from([1, 100, 700]), whole=st.booleans())
    def publish(self, session, group, size, whole):
        chosen = self.groups[group]
        if whole:
            taken = self.outbox.publish(chosen, b"x" * size)
        else:
            taken = self.outbox.fan_out(list(chosen.members), b"x" * size, chosen)
        named = RecipientParams(room_id=chosen.name)
        self.ask(session, chosen, named, (len(chosen.members), taken), whole, size)

    def ask(self, session, target, named, delivered, confirm, size):
        self.count += 1
        confirm_as = str(self.count) if confirm else ""
        if heed(self.outbox, self.sessions[session], target, named, confirm_as, delivered, size):
            assert confirm_as
            self.asked[session].add(confirm_as)

    @rule(seconds=st.sampled_from([0, 0.3, 1.0, 3.0]))
    def time(self, seconds):
        self.loop.drain()
        self.close_gone()
        self.loop.pass_time(seconds)
        self.close_gone()

    @invariant()
    def counts_are_right(self):
        self.hear()
        for group in self.groups:
            full = [ws.behind for ws in group.members if ws.behind is not None and ws.behind.counts]
            assert group.behind == len(full)
            assert group.awaited == sum(behind.is_awaited for behind in full)
        for client in self.clients:
            assert client.queued == sum(map(len, client.out))
            assert client.behind is None or client.queued > 1000 >> 3 or not client.flags & BLOCKED
        assert self.full[2] == set()

    def teardown(self):
        self.time(3.0)
        self.time(3.0)
        self.hear()
        for client in list(self.clients):
            if client.behind is not None:
                self.outbox.unblock(client)
        self.time(0)
        self.counts_are_right()
        assert self.full == [set()] * 3
        assert self.asked == [set()] * 3
        super().teardown()


class DroppingWorld(World):
    def policy(self) -> Any:
        return "drop"


@pytest.mark.no_cover
@pytest.mark.timeout(300)  # it computes all the time, beside other tests
@pytest.mark.parametrize("world", [World, DroppingWorld])
def test_nobody_waits_for_ever(world):
    run_state_machine_as_test(world, settings=MACHINES)
