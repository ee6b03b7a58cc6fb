"""What handlers that begin without a turn of the loop add to test_dispatch.py, which tests both ways.

Before Python 3.12 there is nothing of this: see conftest.py.
"""

import asyncio
import contextvars

import pytest

from pystrands.client.handlers.clock import clock
from pystrands.client.handlers.current import in_handler
from pystrands.client.handlers.dispatch import EAGER, SLICE_EVENTS
from tests.client.fake_broker import soon, until
from tests.client.handlers.test_dispatch import VARIABLE, call
from tests.client.handlers.test_dispatch import make as make_any

pytestmark = pytest.mark.skipif(not EAGER, reason="no task begins at once before Python 3.12")


def make(handler, **options):
    """Make a dispatcher of which no slice ends because the machine is busy."""
    return make_any(handler, **{"slice_seconds": 60} | options)


def read(dispatcher, *calls):
    dispatcher.gather()
    for one in calls:
        dispatcher.put(one)
    dispatcher.begin()


async def test_handlers_run_in_begin_and_leave_nothing_behind_there():
    seen = []

    async def handler(n):
        seen.append((n, in_handler(), asyncio.current_task()))

    dispatcher = make(handler)
    me = asyncio.current_task()
    dispatcher.gather()
    dispatcher.put(call("c1", 0))
    dispatcher.put(call("c1", 1))
    for _ in range(5):
        await asyncio.sleep(0)
    assert seen == []
    dispatcher.begin()
    assert [n for n, *_ in seen] == [0, 1]
    assert len({task for *_, task in seen} - {me}) == 1
    assert all(inside for _, inside, _ in seen)
    assert (asyncio.current_task(), in_handler(), dispatcher.idle) == (me, False, True)


async def test_what_a_handler_leaves_in_its_context_is_seen_by_nobody():
    seen = []

    async def handler(n):
        seen.append((n, VARIABLE.get()))
        VARIABLE.set("dirty")

    dispatcher = make(handler, context=contextvars.copy_context())
    read(dispatcher, *(call("c1", n) for n in range(3)))
    assert VARIABLE.get() == "clean"
    await soon(dispatcher.finished())
    assert seen == [(n, "clean") for n in range(3)]


async def test_handlers_that_suspend_all_begin_up_to_the_bounds():
    begun = []
    gate = asyncio.Event()

    async def handler(n):
        begun.append(n)
        await gate.wait()

    for concurrency, expected in ((7, 7), (1000, SLICE_EVENTS)):
        begun.clear()
        gate.clear()
        dispatcher = make(handler, concurrency=concurrency)
        read(dispatcher, *(call(f"c{n}", n) for n in range(SLICE_EVENTS * 2)))
        assert begun == list(range(expected))
        gate.set()
        await soon(dispatcher.finished())
        assert begun == list(range(SLICE_EVENTS * 2))


@pytest.mark.parametrize("suspends", [False, True])
async def test_a_slice_ends_in_time_and_the_loop_has_the_rest(suspends):
    now = 100.0
    begun = []

    async def handler(n):
        nonlocal now
        begun.append(n)
        now += 0.4
        if suspends:
            await asyncio.sleep(0)

    dispatcher = make(handler, slice_seconds=1, clock=lambda: now)
    read(dispatcher, *(call(f"c{n}", n) for n in range(10)))
    assert begun == [0, 1, 2]
    read(dispatcher, call("c10", 10))  # a second read in this turn adds to the rest, and begins nothing
    assert begun == [0, 1, 2]
    await soon(dispatcher.finished())
    assert begun == list(range(11))


async def test_a_lane_keeps_its_order_and_one_handler_at_a_time():
    running, begun = set(), []

    async def handler(lane, n):
        assert lane not in running
        running.add(lane)
        begun.append((lane, n))
        if n % 3 == 0:
            await asyncio.sleep(0)
        running.remove(lane)

    dispatcher = make(handler, concurrency=4)
    numbers = iter(range(300))
    for _ in range(30):
        read(dispatcher, *(call(f"c{n % 5}", f"c{n % 5}", n) for _, n in zip(range(10), numbers, strict=False)))
        await asyncio.sleep(0)
    await soon(dispatcher.finished())
    for lane in range(5):
        assert [n for where, n in begun if where == f"c{lane}"] == list(range(lane, 300, 5))


async def test_one_that_waits_is_cancelled_and_what_is_put_meanwhile_is_handled(caplog):
    begun = []
    never = asyncio.Event()

    async def handler(n):
        begun.append(n)
        if n == 0:
            dispatcher.put(call("c9", 9))  # as what a handler does may put more
            await never.wait()

    dispatcher = make(handler, concurrency=10)
    read(dispatcher, call("c0", 0), call("c1", 1))
    assert begun == [0, 1, 9]
    (task,) = dispatcher._runners.values()
    task.cancel()
    await until(lambda: "CancelledError" in caplog.text)
    await soon(dispatcher.finished())


async def test_stopped_while_it_is_held_from_the_first_on():
    lapses = []
    dispatcher = make(None, on_lapse=lambda: lapses.append(True))
    dispatcher.renew(clock() - 1)
    read(dispatcher, call("c1"), call("c2"))
    assert (lapses, dispatcher.is_held, dispatcher.waiting) == ([True], True, 2)
    read(dispatcher, call("c3"))
    assert (lapses, dispatcher.waiting) == ([True], 3)
    assert dispatcher.stop() == 3
    await soon(dispatcher.finished())
