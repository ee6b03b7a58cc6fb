"""Assignments that time events. Their consumers are doubles, and compiled code takes none."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker.counters import new_counters
from pystrands.broker.events.assignments import Assignments
from pystrands.broker.events.queue import EventQueue
from pystrands.broker.events.stream import ClientEvent, Consumer, Kind
from pystrands.broker.ops.timed import Timings
from tests.broker.doubles import make_client
from tests.broker.ops.test_timing import Clock

pytestmark = pytest.mark.interpreted


class Session(Consumer):
    """Numbers what it gets."""

    is_absent = False

    def __init__(self):
        super().__init__()
        self.is_up = True
        self.sent = 0

    def context_bytes(self, stream):
        return 0

    def send(self, event):
        self.sent += 1
        return self.sent


class World:
    """Assignments that are timed."""

    def __init__(self):
        self.clock = Clock()
        self.timings = Timings(self.clock)
        self.consumers = [Session()]
        counters = new_counters()
        queue = EventQueue(100, 1000, "backpressure", counters)
        self.assignments = Assignments(
            queue, lambda: next((each for each in self.consumers if each.is_up), None), counters, observer=self.timings
        )
        self.clients = count(1)

    def put(self):
        client = make_client(next(self.clients))
        event = ClientEvent(client, Kind.MESSAGE, self.assignments.new_number())
        assert self.assignments.submit(event)

    @property
    def count(self):
        return sum(self.timings.handling.counts)


def test_one_event_in_sixteen_is_timed_from_its_sending_until_it_is_done():
    world = World()
    for _ in range(40):
        world.put()
        world.clock.now += 1
    world.assignments.done(world.consumers[0], [(1, 15), (17, 31)])
    assert world.count == 0
    world.assignments.done(world.consumers[0], [(16, 16), (32, 40)])
    assert world.count == 2
    assert world.timings.handling.total == (100 + 40 - 115) + (100 + 40 - 131)
    world.assignments.done(world.consumers[0], [(1, 40)])
    assert world.count == 2, "what was done is not done again"


def test_what_is_released_or_dies_is_not_timed():
    world = World()
    for _ in range(32):
        world.put()
    world.assignments.released(world.consumers[0], [(16, 16)])
    world.assignments.done(world.consumers[0], [(1, 31)])
    assert world.count == 0
    world.consumers.append(Session())
    world.assignments.died(world.consumers[0])
    world.assignments.done(world.consumers[0], [(32, 32)])
    assert world.count == 0


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_range_of_any_length_takes_no_time(first, last):
    world = World()
    for _ in range(20):
        world.put()
    world.assignments.done(world.consumers[0], [(first, last)])
    assert world.count == (first <= 16 <= last)


def test_a_session_that_has_gone_leaves_nothing_behind():
    world = World()
    for _ in range(20):
        world.put()
    world.assignments.died(world.consumers[0])
    assert not world.timings._begun
