from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pystrands.protocol.lanes import Lanes

KEYS = st.sampled_from(["a", "b", "c", None])


class LanesMachine(RuleBasedStateMachine):
    """Any interleaving of put, take and finish, against what a user may rely on."""

    def __init__(self):
        super().__init__()
        self.lanes = Lanes(2)
        self.put_count = 0
        self.waiting = defaultdict(list)
        self.running = []

    @rule(key=KEYS)
    def put(self, key):
        self.put_count += 1
        self.lanes.put(key, self.put_count)
        self.waiting[key].append(self.put_count)

    @rule()
    def take(self):
        runnable = self.lanes.runnable
        taken = self.lanes.take()
        assert (taken is not None) == runnable
        busy = {key for key in self.running if key is not None}
        possible = len(self.running) < 2 and any(items for key, items in self.waiting.items() if key not in busy)
        assert (taken is not None) == possible
        if taken is not None:
            key, item = taken
            assert key not in busy
            assert self.waiting[key].pop(0) == item
            self.running.append(key)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data):
        key = data.draw(st.sampled_from(self.running))
        self.running.remove(key)
        self.lanes.finish(key)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def put_back(self, data):
        """What runs was not begun after all."""
        key = data.draw(st.sampled_from(self.running))
        self.put_count += 1  # which of those without a key it was is not known: it gets a new number
        self.lanes.put_back(key, self.put_count)
        self.waiting[key].insert(0, self.put_count)
        self.running.remove(key)
        self.lanes.finish(key)

    @rule()
    def clear(self):
        dropped = sum(map(len, self.waiting.values()))
        assert len(self.lanes.drain()) == dropped
        self.waiting.clear()

    @invariant()
    def counts(self):
        assert self.lanes.running == len(self.running) <= 2
        assert self.lanes.waiting == sum(map(len, self.waiting.values()))
        assert len(self.lanes) == self.lanes.running + self.lanes.waiting

    def teardown(self):
        for key in self.running:
            self.lanes.finish(key)
        while (taken := self.lanes.take()) is not None:
            self.lanes.finish(taken[0])
        assert len(self.lanes) == 0
        assert self.lanes._lanes == {}


TestLanes = LanesMachine.TestCase


@given(st.lists(KEYS))
def test_oldest_first_when_one_runs_at_a_time(keys):
    lanes = Lanes(1)
    for number, key in enumerate(keys):
        lanes.put(key, number)
    seen = defaultdict(list)
    while (taken := lanes.take()) is not None:
        seen[taken[0]].append(taken[1])
        lanes.finish(taken[0])
    assert seen == {key: [n for n, one in enumerate(keys) if one == key] for key in set(keys)}
