import asyncio
from collections import Counter

from pystrands.broker.budget import Budget


class Thing:
    def __init__(self, size):
        self.waiting_bytes = size
        self.is_closed = False

    def give_up(self):
        self.is_closed = True
        self.waiting_bytes = 0


def look(sizes, limit, others=0):
    """Return the sizes of those that were closed, and the counters."""
    things = [Thing(size) for size in sizes]
    counters: Counter[str] = Counter()
    Budget(asyncio.get_event_loop(), limit, lambda: things, lambda: others, counters).look()
    return [size for size, thing in zip(sizes, things, strict=True) if thing.is_closed], counters


async def test_rule_13_within_the_budget_nobody_is_closed():
    assert look([1, 50, 49], 100) == ([], Counter())


async def test_rule_13_past_it_the_largest_offenders_are_closed_until_it_is_kept_again():
    assert look([10, 60, 0, 50, 20], 100) == ([60], Counter(budget_closed=1))
    assert look([10, 60, 0, 50, 20], 40) == ([60, 50], Counter(budget_closed=2))


async def test_rule_13_what_is_nobodys_fault_counts_too():
    assert look([10, 20], 100, others=80) == ([20], Counter(budget_closed=1))
    assert look([0, 0], 100, others=200) == ([], Counter(budget_closed=0))
