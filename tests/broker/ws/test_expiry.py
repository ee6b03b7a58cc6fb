"""Clients whose time is over are closed, those that leave before are forgotten, and one timer is enough."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pystrands.broker.ws.expiry import Expiries
from tests.broker.ws.support import Double


class FakeLoop(Double):
    """A loop whose time the test moves; there is one timer at most."""

    def __init__(self):
        self.now = 1000.0
        self.timer = None

    def time(self):
        return self.now

    def call_later(self, delay, callback):
        assert self.timer is None, "there is a timer already"
        self.timer = self
        self.due = self.now + delay
        self.callback = callback
        return self

    def cancel(self):
        self.timer = None

    def pass_to(self, now):
        """Let timers go off until then."""
        while self.timer is not None and self.due <= now:
            self.now = max(self.now, self.due)
            self.timer = None
            self.callback()
        self.now = max(self.now, now)


class Client:
    def __init__(self, expiries, log):
        self.expiries = expiries
        self.log = log

    def close(self, code, reason):
        assert (code, reason) == (4401, "token expired")
        self.log.append(self)
        self.expiries.discard(self)  # as the router does


def world():
    loop = FakeLoop()
    counters = Counter()
    # The timer that goes off is forgotten by the loop before it is by the object, as with the real one.
    expiries = Expiries(loop, counters, clock=loop.time)
    closed: list[Client] = []
    return loop, expiries, counters, closed, lambda: Client(expiries, closed)


def test_each_is_closed_at_its_time_and_not_before():
    loop, expiries, counters, closed, client = world()
    late, soon, over = client(), client(), client()
    expiries.add(late, 1050)
    expiries.add(soon, 1010)
    expiries.add(over, 900)
    assert not closed, "not within the call"
    loop.pass_to(1000.1)
    assert closed == [over]
    loop.pass_to(1009.9)
    assert closed == [over]
    loop.pass_to(1010.1)
    assert closed == [over, soon]
    loop.pass_to(1051)
    assert closed == [over, soon, late]
    assert counters["expired_closed"] == 3
    assert not len(expiries) and not expiries._heap and loop.timer is None


def test_who_has_left_is_not_closed_and_leaves_no_timer():
    loop, expiries, _, closed, client = world()
    one, two = client(), client()
    expiries.add(one, 1010)
    expiries.add(two, 1020)
    expiries.discard(one)
    expiries.discard(one)
    expiries.discard(client())
    expiries.discard(two)
    assert loop.timer is None and not expiries._heap
    loop.pass_to(5000)
    assert not closed


def test_many_at_the_same_time_are_closed_over_several_turns():
    loop, expiries, _, closed, client = world()
    for _ in range(1000):
        expiries.add(client(), 1010)
    loop.pass_to(1010.001)
    assert 0 < len(closed) < 1000
    loop.pass_to(1011)
    assert len(closed) == 1000


def test_a_clock_that_is_set_is_noticed_within_a_minute():
    loop = FakeLoop()
    closed: list[Client] = []
    offset = 0.0
    expiries = Expiries(loop, Counter(), clock=lambda: loop.now + offset)
    expiries.add(Client(expiries, closed), loop.now + 1e6)
    loop.pass_to(loop.now + 100)
    assert not closed
    offset = 2e6
    loop.pass_to(loop.now + 61)
    assert len(closed) == 1


def test_those_that_leave_are_not_kept_until_their_time():
    _, expiries, _, _, client = world()
    staying = client()
    expiries.add(staying, 2000)
    for _ in range(10_000):
        one = client()
        expiries.add(one, 1e9)
        expiries.discard(one)
    assert len(expiries) == 1
    assert len(expiries._heap) < 200


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["add", "leave", "wait"]), st.integers(0, 40)), max_size=200))
def test_it_is_as_a_plain_list_would_do(steps):
    loop, expiries, _, closed, client = world()
    watched: dict[Client, float] = {}
    seen = 0
    for action, number in steps:
        if action == "add":
            one = client()
            watched[one] = loop.now + number
            expiries.add(one, loop.now + number)
        elif action == "leave" and watched:
            one = list(watched)[number % len(watched)]
            del watched[one]
            expiries.discard(one)
        elif action == "wait":
            loop.pass_to(loop.now + number)
            due = sorted(when for when in watched.values() if when <= loop.now - 0.02)
            gone = closed[seen:]
            seen = len(closed)
            assert [watched[one] for one in gone][: len(due)] == due
            for one in gone:
                assert watched.pop(one) <= loop.now
        assert len(expiries) == len(watched)
        assert (loop.timer is not None) == bool(watched)
