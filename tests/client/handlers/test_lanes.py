from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pystrands.client.handlers.lanes import Laned, Lanes, Slots

pytestmark = pytest.mark.interpreted

NAMES = st.sampled_from(["a", "b", "c", None])


class LanesMachine(RuleBasedStateMachine):
    """Any interleaving of put, take and finish, against what a user may rely on."""

    def __init__(self):
        super().__init__()
        self.slots = Slots(2)
        self.lanes = Lanes(self.slots)
        self.waiting = defaultdict(list)
        self.running = []

    @rule(name=NAMES)
    def put(self, name):
        item = Laned(name)
        self.lanes.put(item)
        self.waiting[name].append(item)

    @rule()
    def take(self):
        runnable = self.lanes.runnable
        item = self.lanes.take()
        assert (item is not None) == runnable
        busy = {other.lane for other in self.running if other.lane is not None}
        possible = len(self.running) < 2 and any(items for name, items in self.waiting.items() if name not in busy)
        assert (item is not None) == possible
        if item is not None:
            assert item.lane not in busy
            assert self.waiting[item.lane].pop(0) is item
            self.running.append(item)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data):
        item = data.draw(st.sampled_from(self.running))
        self.running.remove(item)
        self.lanes.finish(item)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def put_back(self, data):
        """What runs was not begun after all."""
        item = data.draw(st.sampled_from(self.running))
        self.lanes.put_back(item)
        self.waiting[item.lane].insert(0, item)
        self.running.remove(item)
        self.lanes.finish(item)

    @rule()
    def drain(self):
        drained = self.lanes.drain()
        for name, items in self.waiting.items():
            assert [item for item in drained if item.lane == name] == items
        assert len(drained) == sum(map(len, self.waiting.values()))
        self.waiting.clear()

    @invariant()
    def counts(self):
        assert self.slots.running == len(self.running) <= 2
        assert self.lanes.waiting == sum(map(len, self.waiting.values()))

    def teardown(self):
        for item in self.running:
            self.lanes.finish(item)
        while (item := self.lanes.take()) is not None:
            self.lanes.finish(item)
        assert (self.lanes.waiting, self.slots.running) == (0, 0)
        assert self.lanes._lanes == {}


TestLanes = LanesMachine.TestCase


@given(st.lists(NAMES))
def test_oldest_first_when_one_runs_at_a_time(names):
    lanes = Lanes(Slots(1))
    items = [Laned(name) for name in names]
    for item in items:
        lanes.put(item)
    seen = defaultdict(list)
    while (taken := lanes.take()) is not None:
        seen[taken.lane].append(taken)
        lanes.finish(taken)
    assert seen == {name: [item for item in items if item.lane == name] for name in set(names)}


def test_lanes_that_share_their_slots():
    slots = Slots(1)
    one, other = Lanes[Laned](slots), Lanes[Laned](slots)
    item = Laned("a")
    one.put(item)
    other.put(Laned("a"))
    assert one.take() is item
    assert not other.runnable
    assert other.take() is None
    one.finish(item)
    assert other.runnable
