"""What is timed, on a clock of the test's own; and that nobody looks where nobody asked for it."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands import testing
from pystrands.broker.fanout.groups import Recipient
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.observer import Observer
from pystrands.broker.ops.timed import Histogram, Timings
from tests.inside import parts_of


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


@pytest.mark.parametrize("name", ["handshake", "handling", "flush"])
def test_bounds_go_up(name):
    histogram = getattr(Timings(), name)
    assert list(histogram.bounds) == sorted(set(histogram.bounds))


async def test_where_nobody_asks_nobody_looks():
    async with testing.broker() as broker:
        assert parts_of(broker).admission.observer is None
        assert parts_of(broker).outbox.observer is None
        assert parts_of(broker).assignments.observer is None
        assert broker.admin_port == -1
    async with testing.broker(admin_port=0) as broker:
        timings = parts_of(broker).timings
        assert parts_of(broker).admission.observer is timings
        assert parts_of(broker).outbox.observer is timings
        assert parts_of(broker).assignments.observer is timings


def test_an_observer_does_nothing_unless_it_is_told_to():
    observer = Observer()
    before = observer.now()
    observer.on_sent(None, None, 1)
    observer.on_done(None, [(1, 1)])
    observer.on_released(None, [(1, 1)])
    observer.on_died(None)
    observer.on_flush(1.0)
    observer.on_admitted(1.0)
    assert observer.now() >= before


async def test_a_flush_is_timed():
    clock = Clock()
    timings = Timings(clock)

    class Slow(asyncio.Transport):
        def write(self, data):
            clock.now += 0.5

        def is_closing(self):
            return False

    outbox = Outbox(asyncio.get_running_loop(), observer=timings)
    outbox.fan_out([Recipient(Slow(), 100), Recipient(Slow(), 100)], b"x")
    await asyncio.sleep(0)
    assert timings.flush.total == 1.0
    assert sum(timings.flush.counts) == 1
