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


async def test_rule_13_a_look_at_many_lets_others_have_their_turn_in_between():
    """The timer's look: 15,000 clients in one go would hold the event loop for ten milliseconds."""
    loop = asyncio.get_running_loop()
    looked: list[int] = []
    turns: list[int] = []
    done = asyncio.Event()

    class Watched(Thing):
        @property
        def waiting_bytes(self):
            looked.append(1)
            return self.size

        @waiting_bytes.setter
        def waiting_bytes(self, size):
            self.size = size

        def give_up(self):
            super().give_up()
            done.set()

    things = [Watched(1) for _ in range(3500)]
    budget = Budget(loop, 3499, lambda: things, lambda: 0, Counter())

    def other():
        turns.append(len(looked))
        if not done.is_set():
            loop.call_soon(other)

    budget.start()
    other()
    await asyncio.wait_for(done.wait(), 10)
    budget.stop()
    between = {seen for seen in turns if 0 < seen < 3500}
    assert between == {1000, 2000, 3000}
    assert sum(thing.is_closed for thing in things) == 1


async def test_rule_13_a_look_that_has_begun_ends_when_the_broker_stops():
    loop = asyncio.get_running_loop()
    things = [Thing(1) for _ in range(20_500)]
    begun = asyncio.Event()

    def offenders():
        begun.set()
        return things

    budget = Budget(loop, 1, offenders, lambda: 0, Counter())
    budget.start()
    await asyncio.wait_for(begun.wait(), 10)
    budget.stop()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(thing.is_closed for thing in things)
