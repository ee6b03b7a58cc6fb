"""What is timed, on a clock of the test's own; and that nothing is where nobody asked for it."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands import testing
from pystrands.broker.admission import Handshake
from pystrands.broker.fanout import Outbox
from pystrands.broker.groups import Recipient
from pystrands.broker.timed import Histogram
from pystrands.broker.timing import Parts, Timings, timed_parts
from pystrands.protocol.events import Event, Holder, Kind, Lane, Ledger


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Keeper:
    def taken(self, event):
        pass

    caught_up = over = gave_up = taken


class World:
    """A ledger that is timed, with sessions that number what they get."""

    def __init__(self):
        self.clock = Clock()
        self.timings = Timings()
        self.holders = [Holder()]
        self.holders[0].is_up = True
        self.sent = {}
        self.events = 0
        self.ledger: Any = timed_parts(self.timings, self.clock).ledger(self.choose, self.send, Keeper(), self.number)

    def choose(self):
        return next((holder for holder in self.holders if holder.is_up), None)

    def send(self, holder, event):
        self.sent[holder] = self.sent.get(holder, 0) + 1
        return self.sent[holder]

    def number(self):
        self.events += 1
        return self.events

    def put(self, lane=None):
        assert self.ledger.submit(Event(lane or Lane(), Kind.MESSAGE, self.number()))

    @property
    def count(self):
        return sum(self.timings.handling.counts)


@given(st.lists(st.floats(0, 100)), st.lists(st.floats(0, 100), min_size=1, unique=True).map(sorted))
def test_a_histogram_counts_each_value_in_one_bucket(values, bounds):
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    for index, bound in enumerate(bounds):
        assert sum(histogram.counts[: index + 1]) == sum(value <= bound for value in values)
    assert sum(histogram.counts) == len(values)
    assert histogram.total == pytest.approx(sum(values))


@pytest.mark.parametrize("histogram", vars(Timings()).values())
def test_bounds_go_up(histogram):
    assert list(histogram.bounds) == sorted(set(histogram.bounds))


def test_one_event_in_sixteen_is_timed_from_its_sending_until_it_is_done():
    world = World()
    for _ in range(40):
        world.put()
        world.clock.now += 1
    world.ledger.done(world.holders[0], [(1, 15), (17, 31)])
    assert world.count == 0
    world.ledger.done(world.holders[0], [(16, 16), (32, 40)])
    assert world.count == 2
    assert world.timings.handling.total == (100 + 40 - 115) + (100 + 40 - 131)
    world.ledger.done(world.holders[0], [(1, 40)])
    assert world.count == 2, "what was done is not done again"


def test_what_is_released_or_dies_is_not_timed():
    world = World()
    for _ in range(32):
        world.put()
    world.ledger.released(world.holders[0], [(16, 16)])
    world.ledger.done(world.holders[0], [(1, 31)])
    assert world.count == 0
    world.holders.append(Holder())
    world.ledger.died(world.holders[0])
    world.ledger.done(world.holders[0], [(32, 32)])
    assert world.count == 0


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_range_of_any_length_takes_no_time(first, last):
    world = World()
    for _ in range(20):
        world.put()
    world.ledger.done(world.holders[0], [(first, last)])
    assert world.count == (first <= 16 <= last)


def test_a_session_that_has_gone_leaves_nothing_behind():
    world = World()
    for _ in range(20):
        world.put()
    world.ledger.died(world.holders[0])
    assert not world.ledger._begun


async def test_where_nobody_asks_nothing_is_timed():
    async with testing.broker() as broker:
        assert type(broker._outbox) is Outbox
        assert type(broker._router._ledger) is Ledger
        assert type(broker._admission.protocol_factory()) is Handshake
        assert broker.admin_port == -1
    assert Parts() == Parts(Handshake, Ledger, Outbox)


async def test_the_timed_parts_time():
    clock, timings = Clock(), Timings()
    parts = timed_parts(timings, clock)

    class Slow(asyncio.Transport):
        def write(self, data):
            clock.now += 0.5

        def is_closing(self):
            return False

    outbox = parts.outbox(asyncio.get_running_loop())
    outbox.fan_out([Recipient(Slow(), 100), Recipient(Slow(), 100)], b"x")
    await asyncio.sleep(0)
    assert timings.flush.total == 1.0
    assert sum(timings.flush.counts) == 1
