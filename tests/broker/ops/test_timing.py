"""What is timed, on a clock of the test's own; and that nothing is where nobody asked for it."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands import testing
from pystrands.broker.admission.handshake import Handshake
from pystrands.broker.events.assignments import Assignments
from pystrands.broker.fanout.groups import Recipient
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.ops.timed import Histogram
from pystrands.broker.ops.timing import Parts, Timings, timed_parts


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


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


async def test_where_nobody_asks_nothing_is_timed():
    async with testing.broker() as broker:
        assert type(broker._parts.outbox) is Outbox
        assert type(broker._parts.assignments) is Assignments
        assert type(broker._parts.admission.protocol_factory()) is Handshake
        assert broker.admin_port == -1
    assert Parts() == Parts(Handshake, Assignments, Outbox)


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
