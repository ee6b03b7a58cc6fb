"""The ledger that times events. Its keeper is a double, and compiled code takes none: so it is not in tests/broker."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker.events.assignments import ClientEvent, ClientStream, Consumer, Keeper, Kind
from pystrands.broker.ops.timing import Timings, timed_parts
from tests.broker.ops.test_timing import Clock

pytestmark = pytest.mark.interpreted


class World(Keeper):
    """A ledger that is timed, with sessions that number what they get."""

    def __init__(self):
        self.clock = Clock()
        self.timings = Timings()
        self.holders = [Consumer()]
        self.holders[0].is_up = True
        self.sent = {}
        self.events = 0
        self.ledger: Any = timed_parts(self.timings, self.clock).ledger(self)

    def choose_owner(self):
        return next((holder for holder in self.holders if holder.is_up), None)

    def send(self, holder, event):
        self.sent[holder] = self.sent.get(holder, 0) + 1
        return self.sent[holder]

    def new_number(self):
        self.events += 1
        return self.events

    def waits_again(self, event):
        pass

    def taken(self, event):
        pass

    caught_up = over = gave_up = taken

    def put(self, lane=None):
        assert self.ledger.submit(ClientEvent(lane or ClientStream(), Kind.MESSAGE, self.new_number()))

    @property
    def count(self):
        return sum(self.timings.handling.counts)


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
    world.holders.append(Consumer())
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
