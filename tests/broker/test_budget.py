import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker import budget as module
from pystrands.broker.accounts import Account
from pystrands.broker.budget import Budget, backend_bytes, be_frugal, give_back, settle
from pystrands.broker.meter import Meter

KB = 1024


class Thing:
    def __init__(self, size, fixed=0, frames=()):
        self.held_bytes = size
        self.fixed = fixed
        self.frames = list(frames)
        self.is_closed = False

    def give_up(self):
        assert not self.is_closed
        self.is_closed = True
        self.held_bytes = self.fixed
        self.frames = []


def accounts(things):
    return [Account(thing.give_up, thing.held_bytes, thing.fixed, thing.frames) for thing in things]


def kept(things, others=0):
    """What is really kept."""
    frames = {id(frame): len(frame) for thing in things for frame in thing.frames}
    return others + sum(thing.held_bytes for thing in things) + sum(frames.values())


def settled(things, limit, others=0):
    """Return the indices of those that were closed; what is told of the rest is checked."""
    left, closed = settle(accounts(things), others, limit)
    assert left == kept(things, others)
    assert closed == sum(thing.is_closed for thing in things)
    return [index for index, thing in enumerate(things) if thing.is_closed]


def test_rule_13_within_the_budget_nobody_is_closed():
    assert settled([Thing(1), Thing(50), Thing(49)], 100) == []


def test_rule_13_past_it_those_who_caused_most_are_closed_until_it_is_kept_again():
    sizes = [10 * KB, 60 * KB, 0, 50 * KB, 20 * KB]
    assert settled([Thing(size) for size in sizes], 100 * KB) == [1]
    assert settled([Thing(size) for size in sizes], 40 * KB) == [1, 3]


def test_rule_13_what_is_nobodys_counts_too():
    assert settled([Thing(10 * KB), Thing(20 * KB)], 100 * KB, others=80 * KB) == [1]
    assert settled([Thing(0), Thing(0)], 100, others=200) == []


def test_rule_13_what_is_not_freed_is_not_counted_as_freed():
    """What a backend has of a client stays until it has finished it, whether or not the client is closed."""
    assert settled([Thing(60 * KB, fixed=50 * KB), Thing(50 * KB)], 80 * KB) == [0, 1]
    assert settled([Thing(60 * KB, fixed=60 * KB), Thing(30 * KB)], 80 * KB) == [1]


def test_rule_13_a_frame_for_many_is_one():
    frame = bytes(100 * KB)
    readers = [Thing(KB, frames=[frame] * 3) for _ in range(100)]
    assert settled(readers, 250 * KB) == []
    assert settled([*readers, Thing(90 * KB)], 250 * KB) == [100]
    own = Thing(KB, frames=[bytes(150 * KB)])
    assert settled([*readers, own], 250 * KB) == [100]


def test_rule_13_a_frame_is_freed_with_the_last_who_keeps_it():
    frame = bytes(100 * KB)
    assert settled([Thing(0, frames=[frame]), Thing(0, frames=[frame])], 50 * KB) == [0, 1]


frames = st.lists(st.integers(0, 5), max_size=4)
things = st.lists(st.tuples(st.integers(0, 100 * KB), st.integers(0, 100 * KB), frames), max_size=15)


@given(things, st.integers(0, 300 * KB), st.integers(0, 100 * KB))
def test_rule_13_never_more_than_needed_and_the_largest_first(things, limit, others):
    shared = [bytes((number + 1) * 9000) for number in range(6)]
    made = [Thing(max(size, fixed), fixed, [shared[n] for n in numbers]) for size, fixed, numbers in things]
    keepers = Counter(id(frame) for thing in made for frame in thing.frames)
    shares = [thing.held_bytes + sum(len(frame) / keepers[id(frame)] for frame in thing.frames) for thing in made]
    before = kept(made, others)
    order: list[int] = []
    for index, thing in enumerate(made):

        def give_up(index=index, end=thing.give_up):
            assert kept(made, others) > limit, "one more than needed"
            order.append(index)
            end()

        thing.give_up = give_up  # type: ignore[method-assign]
    settled(made, limit, others)
    assert [shares[index] for index in order] == sorted((shares[index] for index in order), reverse=True)
    assert not order or before > limit
    if kept(made, others) > limit:
        assert all(thing.is_closed or thing.held_bytes - thing.fixed < KB for thing in made)


def budget(loop, limit, things, *, meter=None, others=0, counters=None):
    return Budget(
        loop,
        limit,
        meter or Meter(),
        holders=lambda: things,
        others=lambda: others,
        accounts=lambda: (accounts(things), others),
        counters=Counter() if counters is None else counters,
    )


async def test_rule_13_a_look_at_many_lets_others_have_their_turn_in_between():
    """The timer's look: 15,000 clients in one go would hold the event loop for ten milliseconds."""
    loop = asyncio.get_running_loop()
    looked: list[int] = []
    turns: list[int] = []
    done = asyncio.Event()

    class Watched(Thing):
        @property
        def held_bytes(self):
            if not done.is_set():
                looked.append(1)
            return self.size

        @held_bytes.setter
        def held_bytes(self, size):
            self.size = size

        def give_up(self):
            super().give_up()
            done.set()

    things = [Watched(2 * KB) for _ in range(3500)]
    counters: Counter[str] = Counter()
    watching = budget(loop, 3499 * 2 * KB, things, counters=counters)

    def other():
        turns.append(len(looked))
        if not done.is_set():
            loop.call_soon(other)

    watching.start()
    other()
    await asyncio.wait_for(done.wait(), 10)
    watching.stop()
    assert {seen for seen in turns if 0 < seen < 3500} == {1000, 2000, 3000}
    assert sum(thing.is_closed for thing in things) == counters["budget_closed"] == 1


async def test_rule_13_a_look_that_has_begun_ends_when_the_broker_stops():
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()
    things = [Thing(2 * KB) for _ in range(20_500)]

    def holders():
        begun.set()
        return things

    watching = budget(loop, 1, things)
    watching._holders = holders
    watching.start()
    await asyncio.wait_for(begun.wait(), 10)
    watching.stop()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(thing.is_closed for thing in things)


async def test_rule_13_it_looks_at_once_when_as_much_has_come_as_was_left():
    meter = Meter()
    things = [Thing(60 * KB), Thing(0)]
    watching = budget(asyncio.get_running_loop(), 100 * KB, things, meter=meter)
    watching.start()
    watching.look()
    assert meter.mark == 40 * KB
    things[1].held_bytes = 50 * KB
    meter.grown += 50 * KB
    assert meter.grown > meter.mark
    meter.over()
    assert [thing.is_closed for thing in things] == [True, False]
    assert (meter.grown, meter.mark, watching.total) == (0, 50 * KB, 50 * KB)
    things[1].held_bytes = 99 * KB
    watching.look()
    assert meter.mark == 100 * KB // 16, "or it would do nothing but look"
    watching.stop()
    meter.grown = 1 << 40
    assert meter.grown < meter.mark


async def test_without_a_budget_nothing_is_looked_at_but_when_somebody_asks():
    meter = Meter()
    watching = budget(asyncio.get_running_loop(), 0, [Thing(5)], meter=meter, others=2)
    mark = meter.mark
    watching.start()
    assert meter.mark == mark
    assert watching.total == 7
    watching.stop()


def test_what_one_backend_may_have_is_a_part_of_the_budget():
    assert backend_bytes(0) == backend_bytes(1 << 30) == 16 << 20
    assert backend_bytes(64 << 20) == 4 << 20


def test_memory_can_be_given_back():
    give_back()
    be_frugal(True)
    be_frugal(False)


async def test_memory_is_given_back_at_once_while_much_of_the_budget_is_used(monkeypatch):
    told: list[bool] = []
    monkeypatch.setattr(module, "be_frugal", told.append)
    things = [Thing(20 * KB)]
    watching = budget(asyncio.get_running_loop(), 100 * KB, things)
    for size, expected in [(20, []), (40, [True]), (99, [True]), (20, [True, False]), (0, [True, False])]:
        things[0].held_bytes = size * KB
        watching.look()
        assert told == expected
