"""Whatever happens to NATS and the connections to it: nothing lost, nothing repeated, nothing out of order.

Random histories in the simulation. Each says what it did, and hypothesis finds the shortest that goes wrong.
"""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pystrands.engine.publication import Audience
from tests.engine.nats.simulation import Clock, SimNats, brokers

ROOMS = ("lobby", "a b", "#", "")
NAMES = ("a", "b", "c")
EXAMPLES = 40
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from(NAMES), st.sampled_from(ROOMS), st.integers(1, 5)),
        st.tuples(st.just("broadcast"), st.sampled_from(NAMES)),
        st.tuples(st.just("private"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
        st.tuples(st.just("join"), st.sampled_from(NAMES), st.sampled_from(ROOMS)),
        st.tuples(st.just("leave"), st.sampled_from(NAMES), st.sampled_from(ROOMS)),
        st.tuples(st.just("flap"), st.sampled_from(NAMES)),
        st.tuples(st.just("hold"), st.sampled_from(NAMES), st.sampled_from((0.5, 3.0, 12.0))),
        st.tuples(st.just("outage"), st.sampled_from((0.01, 1.0, 8.0))),
        st.tuples(st.just("pass"), st.sampled_from((0.0001, 0.001, 0.01, 0.2, 1.5))),
    ),
    min_size=1,
    max_size=40,
)
SERVERS = (0, 1)


def steps_with_servers(*cuts):
    """Steps, with those in which one of two servers hangs or ends, or they lose each other for so many seconds."""
    return st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.sampled_from(NAMES), st.sampled_from(ROOMS), st.integers(1, 5)),
            st.tuples(st.just("broadcast"), st.sampled_from(NAMES)),
            st.tuples(st.just("private"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
            st.tuples(st.just("join"), st.sampled_from(NAMES), st.sampled_from(ROOMS)),
            st.tuples(st.just("leave"), st.sampled_from(NAMES), st.sampled_from(ROOMS)),
            st.tuples(st.just("flap"), st.sampled_from(NAMES)),
            st.tuples(st.just("pause"), st.sampled_from(SERVERS), st.sampled_from((0.3, 1.5, 8.0))),
            st.tuples(st.just("kill"), st.sampled_from(SERVERS), st.sampled_from((0.05, 1.5, 8.0))),
            st.tuples(st.just("cut_route"), st.sampled_from(cuts)),
            st.tuples(st.just("pass"), st.sampled_from((0.0001, 0.001, 0.01, 0.2, 1.5))),
        ),
        min_size=1,
        max_size=40,
    )


class History:
    """What brokers did, and what each has to have got by then."""

    def __init__(self, servers=1, lag=0.0, seed=0, routes=1, **options):
        self.nats = SimNats(Clock(), servers, lag, seed, routes)
        self.brokers = dict(zip(NAMES, brokers(self.nats, *NAMES, **options), strict=True))
        self.due = defaultdict(list)  # (receiver, address): messages
        self.sent = {}  # message: its number, in the order of its sender
        self.joined = {}
        self.settled = set()  # those that come in order, whichever room: NATS knew who wanted them
        self.numbers = defaultdict(int)
        for name, broker in self.brokers.items():
            broker.admit(f"client of {name}")
        self.nats.clock.run(1)

    def message(self, name):
        self.numbers[name] += 1
        return f"{name} {self.numbers[name]}"

    def run(self, steps):
        for step in steps:
            getattr(self, step[0])(*step[1:])
        for broker in self.brokers.values():
            broker.transport.is_held = False
            broker.transport.connect()
        self.nats.lossy_route = self.nats.doubling_route = 0.0
        self.nats.clock.run(16)

    def send(self, name, room, count):
        for _ in range(count):
            message = self.message(name)
            for other, broker in self.brokers.items():
                if room in broker.rooms:
                    self.due[other, Audience.ROOM, room].append(message)
                    if self.joined[other, room] < self.nats.clock.now - 0.01 and broker.transport.is_up:
                        self.settled.add((other, message))
            self.brokers[name].send(room, message)

    def broadcast(self, name):
        message = self.message(name)
        for other in NAMES:
            self.due[other, Audience.EVERYONE, ""].append(message)
            self.settled.add((other, message))
        self.brokers[name].broadcast(message)

    def private(self, name, other):
        message = self.message(name)
        self.due[other, Audience.CLIENT, f"client of {other}"].append(message)
        self.settled.add((other, message))
        self.brokers[name].send_private(f"client of {other}", message)

    def join(self, name, room):
        if room not in self.brokers[name].rooms:
            self.joined[name, room] = self.nats.clock.now
        self.brokers[name].join(room)

    def leave(self, name, room):
        if room in self.brokers[name].rooms:
            self.due.pop((name, Audience.ROOM, room), None)  # it may have come, or not
            self.brokers[name].leave(room)

    def flap(self, name):
        self.brokers[name].transport.flap()

    def hold(self, name, seconds):
        """A proxy cuts one broker off."""
        transport = self.brokers[name].transport
        transport.cut()
        transport.is_held = True

        def let_go():
            transport.is_held = False
            transport.reconnect_later()

        self.nats.clock.after(seconds, let_go)

    def outage(self, seconds):
        self.nats.down()
        self.nats.clock.run(seconds)
        self.nats.up()

    def pause(self, server, seconds):
        server = self.nats.servers[server]
        if server.is_up and not server.is_paused:
            server.pause()
            self.nats.clock.after(seconds, server.resume)

    def kill(self, server, seconds):
        server = self.nats.servers[server]
        if server.is_up and not server.is_paused:
            server.kill()
            self.nats.clock.after(seconds, server.start)

    def cut_route(self, seconds):
        one, two = self.nats.servers
        if two in one.remote:
            self.nats.cut_route(one, two)
            self.nats.clock.after(seconds, self.nats.join_route, one, two)

    def check(self, across_rooms=True, may_lose=False):
        for name, broker in self.brokers.items():
            told = {sender for sender, _ in broker.gaps}
            assert may_lose or not told
            got = broker.messages()
            assert len(got) == len(set(got)), "repeated"
            for sender in NAMES:
                in_order = set()
                for (other, *target), sent in self.due.items():
                    if other == name:
                        due = [each for each in sent if each.startswith(f"{sender} ")]
                        here = [each for each in broker.messages(*target) if each in set(due)]
                        assert here == [each for each in due if each in here], "out of order"
                        assert here == due or sender in told, "lost, and nobody was told"
                        in_order.update(each for each in here if (name, each) in self.settled)
                if across_rooms:
                    numbers = [int(each.split()[1]) for each in got if each in in_order]
                    assert numbers == sorted(numbers), "out of order across rooms"

    def pass_(self, seconds):
        self.nats.clock.run(seconds)


setattr(History, "pass", History.pass_)


@given(STEPS, st.integers(0, 1000))
@settings(max_examples=EXAMPLES, deadline=None)
def test_on_one_server(steps, seed):
    history = History(seed=seed)
    history.run(steps)
    history.check()


@given(STEPS, st.integers(0, 1000))
@settings(max_examples=EXAMPLES, deadline=None)
def test_on_two_servers_where_interest_comes_late(steps, seed):
    history = History(servers=2, lag=0.05, seed=seed)
    history.run(steps)
    history.check(across_rooms=False)


@given(STEPS, st.integers(0, 1000))
@settings(max_examples=EXAMPLES, deadline=None)
def test_what_is_lost_since_the_ring_is_small_is_told(steps, seed):
    history = History(seed=seed, ring_bytes=700)
    history.run(steps)
    history.check(may_lose=True)


@given(STEPS, st.integers(0, 1000))
@settings(max_examples=EXAMPLES, deadline=None)
def test_routes_between_servers_that_lose_messages(steps, seed):
    history = History(servers=2, lag=0.05, seed=seed)
    history.nats.lossy_route = 0.2
    history.run(steps)
    history.check(across_rooms=False)


@given(steps_with_servers(1.0, 8.0), st.integers(0, 1000))
@settings(max_examples=EXAMPLES, deadline=None)
def test_two_servers_that_hang_and_end_and_lose_each_other(steps, seed):
    history = History(servers=2, seed=seed, moves=True)
    history.run(steps)
    history.check()


@given(steps_with_servers(0.01, 0.2, 1.5), st.integers(0, 1000))
@settings(max_examples=EXAMPLES, deadline=None)
def test_two_servers_between_which_messages_overtake_each_other_and_come_twice(steps, seed):
    history = History(servers=2, seed=seed, moves=True, routes=3)
    history.nats.doubling_route = 0.2
    history.nats.is_scattered = True
    history.run(steps)
    history.check(across_rooms=False)


@pytest.mark.parametrize("is_known", [True, False])
def test_what_a_broker_that_ends_can_not_give_any_more_is_told_and_what_came_is_handed_on(is_known):
    history = History(servers=2)
    nats, a, b = history.nats, history.brokers["a"], history.brokers["b"]
    b.join("lobby")
    nats.clock.run(1.1)
    if is_known:
        a.send("lobby", "first")
        nats.clock.run(0.01)
    nats.lossy_route = 1.0
    a.send("lobby", "lost")
    nats.clock.run(0.01)
    nats.lossy_route = 0.0
    a.send("lobby", "last")
    for _ in range(100):
        nats.clock.run(0.0001)
        if b.core.receiver.waiting_bytes or b.core.receiver.members[a.core._voice.number].is_behind:
            break
    nats.lossy_route = 1.0  # nobody hears that it is asked for
    nats.clock.run(0.01)
    nats.lossy_route = 0.0
    a.stop()
    nats.clock.run(0.1)
    assert b.gaps == [("a", 2 if is_known else 1)]
    assert b.messages() == (["first"] if is_known else ["last"])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("quiet", [True, False])
def test_what_servers_lose_when_they_lose_each_other_comes_in_order_whichever_room_speaks_first(quiet, seed):
    """All on one side have gone on, nobody has connected anew: only messages can tell that some are missing."""
    history = History(servers=2, seed=seed, moves=True)
    for room in ROOMS:
        for name in NAMES:
            history.join(name, room)
            history.send(name, room, 1)
    history.pass_(1.5)
    one, two = history.nats.servers
    history.nats.cut_route(one, two)
    for room in ROOMS[1:]:
        history.send("a", room, 2)
    if quiet:
        history.pass_(1.0)
    history.nats.join_route(one, two)
    history.pass_(0.01)
    for room in ROOMS if quiet else reversed(ROOMS):
        history.send("a", room, 1)
    history.pass_(2.0)
    history.check()


@pytest.mark.parametrize("seconds", [0.1, 1.0, 3.0])
def test_what_a_new_broker_sends_before_others_are_back_reaches_them(seconds):
    """NATS was away; a broker begins while it comes back, and is the first there: it seems to be alone."""
    nats = SimNats(Clock())
    a, b = brokers(nats, "a", "b")
    for each in (a, b):
        each.join("lobby")
        each.transport.is_held = True
    nats.clock.run(6)
    nats.down()
    nats.clock.run(0.5)
    nats.up()
    (c,) = brokers(nats, "c")
    for number in range(3):
        c.send("lobby", f"{number}")
    a.join("kitchen")
    nats.clock.run(seconds)
    for each in (a, b):
        each.transport.is_held = False
        each.transport.connect()
    c.send("lobby", "3")
    nats.clock.run(3)
    c.send("lobby", "4")
    c.send("kitchen", "5")
    nats.clock.run(3)
    assert a.messages() == ["0", "1", "2", "3", "4", "5"]
    assert b.messages() == ["0", "1", "2", "3", "4"]
    assert a.gaps == b.gaps == []
