import asyncio
import contextvars
import logging
import sys
from functools import partial
from typing import Any

import pytest

from pystrands import Context
from pystrands.client.handlers.calls import HandlerCall
from pystrands.client.handlers.clock import clock
from pystrands.client.handlers.current import NotBegun, current_runner, in_handler
from pystrands.client.handlers.dispatch import EAGER, SLICE_EVENTS, SLICE_SECONDS, Dispatcher
from pystrands.client.handlers.queue import CallQueue
from tests.client.fake_broker import soon, until


class Single:
    """A dispatcher with one queue, as a client with one connection has."""

    def __init__(
        self,
        invoke,
        *,
        concurrency,
        context,
        abandoned,
        timeout=None,
        slice_seconds=SLICE_SECONDS,
        clock=clock,
        **options,
    ):
        self.dispatcher = Dispatcher(
            invoke,
            concurrency=concurrency,
            context=context,
            abandoned=abandoned,
            timeout=timeout,
            slice_seconds=slice_seconds,
            clock=clock,
        )
        self.queue = CallQueue(self.dispatcher.slots, clock=clock, **options)
        self.dispatcher.add(self.queue)

    def __getattr__(self, name):
        return getattr(self.queue if hasattr(self.queue, name) else self.dispatcher, name)

    def put(self, call, *, late=False):
        self.dispatcher.put(self.queue, call, late=late)

    def put_all(self, calls):
        """Put calls as one read does that brings them all."""
        for one in calls:
            self.dispatcher.put(self.queue, one)

    def renew(self, until):
        self.dispatcher.renew(self.queue, until)

    def release(self):
        return self.dispatcher.release(self.queue)

    def forget(self):
        return self.dispatcher.forget(self.queue)


class AtOnce(Single):
    """One with which what is put begins at once, as with a read that completes one line."""

    def put(self, call, *, late=False):
        self.dispatcher.gather()
        super().put(call, late=late)
        self.dispatcher.begin()

    def put_all(self, calls):
        self.dispatcher.gather()
        super().put_all(calls)
        self.dispatcher.begin()


KIND = Single


@pytest.fixture(autouse=True, params=["in turn", "at once"] if EAGER else ["in turn"])
def way(request, monkeypatch):
    """How handlers begin: all that this file tests holds for both."""
    if request.param == "at once":
        monkeypatch.setattr(sys.modules[__name__], "KIND", AtOnce)
    return request.param


def put_all(dispatcher, calls):
    """Put calls as one read does that brings them all."""
    dispatcher.put_all(calls)


VARIABLE: contextvars.ContextVar[Any] = contextvars.ContextVar("VARIABLE", default="clean")


class Hostile:
    """What a user may put into a context variable."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other):
        raise RuntimeError("never compare me")


def call(lane="c1", *args, name="on_message"):
    return HandlerCall(name, args, Context(client_id=lane or ""), lane)


def make(invoke, **options):
    defaults: dict[str, Any] = {
        "concurrency": 10,
        "context": contextvars.copy_context(),
        "flow": lambda full: None,
        "abandoned": lambda: False,
    }
    return KIND(lambda name, args: invoke(*args), **(defaults | options))


async def test_handlers_that_do_not_suspend_share_a_task():
    tasks = set()

    async def handler():
        tasks.add(asyncio.current_task())

    dispatcher = make(handler)
    put_all(dispatcher, [call(f"c{n}") for n in range(SLICE_EVENTS)])
    await soon(dispatcher.finished())
    assert len(tasks) <= 3  # one, but for slices that a busy machine makes longer than 2 ms
    assert not in_handler()


async def test_where_no_handler_suspends_no_runner_is_made_for_nothing():
    runners = []

    async def handler():
        runners.append(current_runner())

    dispatcher = make(handler, slice_seconds=60)
    for _ in range(3):
        put_all(dispatcher, [call(f"c{n}") for n in range(SLICE_EVENTS)])
        await soon(dispatcher.finished())
    first = runners[0]
    assert runners == [number for number in (first, first + 1, first + 2) for _ in range(SLICE_EVENTS)]


async def test_other_tasks_get_their_turn():
    turns = []

    async def handler():
        turns.append("handler")

    dispatcher = make(handler)
    put_all(dispatcher, [call(f"c{n}") for n in range(SLICE_EVENTS * 5)])
    while not dispatcher.idle:
        await asyncio.sleep(0)
        turns.append("other")
    assert turns.count("handler") == SLICE_EVENTS * 5
    last = len(turns) - 1 - turns[::-1].index("handler")
    assert turns[:last].count("other") >= 3


async def test_each_handler_starts_with_a_clean_context():
    seen = []

    async def handler(value):
        seen.append(VARIABLE.get())
        VARIABLE.set(value)
        assert in_handler()

    hostile = Hostile()
    for clean in ("clean", hostile):
        base = contextvars.copy_context()
        base.run(VARIABLE.set, clean)
        dispatcher = make(handler, context=base)
        for value in ("dirty", Hostile(), "dirty", "dirty"):
            dispatcher.put(call("c1", value))
            dispatcher.put(call("c2", value))
        await soon(dispatcher.finished())
    assert all(one is expected for one, expected in zip(seen, ["clean"] * 8 + [hostile] * 8, strict=True))


async def test_the_number_of_tasks_stays_bounded_under_a_backlog():
    gate = asyncio.Event()
    most = 0

    async def handler(n):
        nonlocal most
        most = max(most, len(dispatcher._runners))
        if n % 10 == 0:
            await asyncio.sleep(0)
        if n == 1:
            await gate.wait()

    dispatcher = make(handler, concurrency=5)
    for n in range(2000):
        dispatcher.put(call(None, n))
    gate.set()
    await soon(dispatcher.finished())
    assert most <= 5 + 2


async def test_flow_is_told_once_each_way():
    told = []
    gate = asyncio.Event()
    dispatcher = make(gate.wait, flow=told.append, max_waiting=10, concurrency=1)
    for _ in range(20):
        dispatcher.put(call())
    assert told == [True]
    gate.set()
    await soon(dispatcher.finished())
    assert told == [True, False]


async def test_stop_cancels_what_runs_and_drops_what_waits():
    started = asyncio.Event()

    async def handler():
        started.set()
        await asyncio.Event().wait()

    dispatcher = make(handler, concurrency=1)
    for n in range(5):
        dispatcher.put(call(f"c{n}"))
    await soon(started.wait())
    assert dispatcher.stop() == 5
    await soon(dispatcher.finished())
    dispatcher.put(call())
    assert dispatcher.idle


async def test_stop_before_a_runner_started():
    dispatcher = make(asyncio.Event().wait)
    dispatcher.put(call())
    assert dispatcher.stop() == 1
    await soon(dispatcher.finished())


async def test_a_runner_that_is_cancelled_before_it_starts_is_replaced():
    handled = asyncio.Event()

    async def handler():
        handled.set()

    dispatcher = make(handler)
    dispatcher.put(call())
    for task in dispatcher._runners.values():
        task.cancel()
    await soon(handled.wait())
    await soon(dispatcher.finished())


@pytest.mark.parametrize("error", [GeneratorExit, ValueError, RecursionError, asyncio.TimeoutError])
async def test_whatever_a_handler_raises_is_logged(error, caplog):
    async def handler(*args):
        raise error

    dispatcher = make(handler)
    dispatcher.put(call())
    await soon(dispatcher.finished())
    assert [record.name for record in caplog.records] == ["pystrands.client.handlers.outcomes"] * 2


def test_keyboard_interrupt_ends_the_program():
    async def handler():
        raise KeyboardInterrupt

    async def main():
        dispatcher = make(handler)
        dispatcher.put(call())
        await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())


async def test_a_handler_of_on_error_that_is_cancelled(caplog):
    async def handler(*args):
        raise asyncio.CancelledError

    dispatcher = make(handler)
    dispatcher.put(call())
    dispatcher.put(call(name="on_error"))
    await soon(dispatcher.finished())
    assert "on_error was cancelled for client 'c1'" in caplog.text
    assert "on_error failed for client 'c1'" in caplog.text


async def test_at_the_end_of_the_program_handlers_end():
    started = asyncio.Event()

    async def handler():
        started.set()
        await asyncio.Event().wait()

    dispatcher = make(handler, abandoned=lambda: True)
    dispatcher.put(call())
    await soon(started.wait())
    for task in dispatcher._runners.values():
        task.cancel()
    await until(lambda: not dispatcher._runners)


async def test_handlers_that_leave_are_not_waited_for(caplog):
    caplog.set_level(logging.DEBUG)
    gates = [asyncio.Event(), asyncio.Event()]
    left = []

    async def handler(n):
        dispatcher.leave(dispatcher.caller())
        await dispatcher.others_finished()
        left.append(n)
        await gates[n].wait()

    dispatcher = make(handler)
    dispatcher.put(call("c1", 0))
    dispatcher.put(call("c2", 1))
    await until(lambda: sorted(left) == [0, 1])
    assert dispatcher.only_leavers
    assert dispatcher.stop() == 0
    for gate in gates:
        gate.set()
    await soon(dispatcher.finished())
    assert dispatcher.caller() == 0


class Lease:
    """A clock that stands still, and a dispatcher whose handlers note what they are given and may let time pass."""

    def __init__(self, **options):
        self.now = 100.0
        self.begun: list[Any] = []
        self.lapses = 0
        self.dispatcher = make(self.handler, on_lapse=self.lapsed, clock=lambda: self.now, **options)

    async def handler(self, value, seconds=0, gate=None):
        self.begun.append(value)
        self.now += seconds
        if gate is not None:
            await gate.wait()

    def lapsed(self):
        self.lapses += 1

    def put(self, value, *args, lane="c1", seq=1, done=None):
        one = call(lane, value, *args)
        one.seq, one.done = seq, done
        self.dispatcher.put(one)

    async def held(self):
        await until(lambda: self.dispatcher.is_held)


async def test_nothing_begins_when_the_lease_is_over_and_all_goes_on_in_order_with_the_next():
    lease = Lease()
    lease.dispatcher.renew(lease.now)
    for number in range(200):
        lease.put(number, lane=f"c{number % 3}")
    await lease.held()
    lease.put(200)
    for useless in (0.0, lease.now):
        lease.dispatcher.renew(useless)
    for _ in range(10):
        await asyncio.sleep(0)
    assert (lease.begun, lease.lapses, lease.dispatcher.waiting) == ([], 1, 201)
    lease.dispatcher.renew(lease.now + 1)
    await soon(lease.dispatcher.finished())
    assert [n for n in lease.begun if n % 3 == 0] == list(range(0, 200, 3))
    assert len(lease.begun) == 201
    assert lease.lapses == 1


async def test_the_lease_ends_between_two_handlers_of_one_slice():
    lease = Lease()
    lease.dispatcher.renew(lease.now + 5)
    for number in range(5):
        lease.put(number, 2, lane=f"c{number}")
    await lease.held()
    assert lease.begun == [0, 1, 2]
    lease.now += 100
    lease.dispatcher.renew(lease.now + 1)
    await until(lambda: lease.lapses == 2)
    assert lease.begun == [0, 1, 2, 3]
    lease.dispatcher.renew(lease.now + 10)
    await soon(lease.dispatcher.finished())


async def test_the_lease_ends_while_all_places_are_taken():
    lease = Lease(concurrency=2)
    gate = asyncio.Event()
    for number in range(6):
        lease.put(number, 0, gate, lane=f"c{number}")
    await until(lambda: len(lease.begun) == 2)
    lease.dispatcher.renew(lease.now)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not lease.dispatcher.is_held
    gate.set()
    await lease.held()
    assert len(lease.begun) == 2
    lease.dispatcher.renew(lease.now + 1)
    await soon(lease.dispatcher.finished())
    assert lease.begun == list(range(6))


async def test_what_is_held_can_be_taken_out_and_what_is_our_own_stays():
    lease = Lease()
    lease.dispatcher.renew(lease.now)
    for number in range(3):
        lease.put(number)
    lease.put("our own", seq=0)
    await lease.held()
    assert [each.args[0] for each in lease.dispatcher.forget()] == [0, 1, 2]
    assert lease.dispatcher.is_held
    lease.dispatcher.renew(lease.now + 1)
    await soon(lease.dispatcher.finished())
    assert lease.begun == ["our own"]
    lease.put(3)
    await soon(lease.dispatcher.finished())
    assert lease.begun == ["our own", 3]


async def test_stopping_drops_what_is_held():
    lease = Lease()
    lease.dispatcher.renew(lease.now)
    lease.put(1)
    await lease.held()
    assert lease.dispatcher.stop() == 1
    await soon(lease.dispatcher.finished())
    lease.dispatcher.renew(lease.now + 1)
    await soon(lease.dispatcher.finished())
    assert lease.begun == []


class Elsewhere(Lease):
    """Handlers begin when a test opens the gate, if the lease is not over then."""

    def __init__(self, **options):
        super().__init__(**options)
        self.gate = asyncio.Event()
        self.called = 0

    async def handler(self, value, seconds=0, gate=None):
        self.called += 1
        await self.gate.wait()
        if self.now >= self.dispatcher.lease:
            raise NotBegun
        await super().handler(value, seconds, gate)


@pytest.mark.parametrize("options", [{}, {"timeout": 5}, {"concurrency": 1}])
async def test_what_has_not_begun_elsewhere_waits_again_in_its_place(options):
    done: list[int] = []
    lease = Elsewhere(**options)
    lease.dispatcher.renew(lease.now + 1)
    for number in range(4):
        lease.put(number, lane=f"c{number % 2}", done=done)
    await until(lambda: lease.called)
    lease.now += 1
    lease.gate.set()
    await lease.held()
    assert (lease.begun, done, lease.lapses, lease.dispatcher.waiting) == ([], [], 1, 4)
    lease.dispatcher.renew(lease.now + 1)
    await soon(lease.dispatcher.finished())
    assert [n for n in lease.begun if n % 2] == [1, 3]
    assert [n for n in lease.begun if not n % 2] == [0, 2]
    assert len(done) == 4


async def test_what_has_not_begun_elsewhere_is_dropped_when_its_session_is_gone():
    done: list[int] = []
    lease = Elsewhere()
    lease.dispatcher.renew(lease.now + 1)
    lease.put(1, done=done)
    await until(lambda: lease.called)
    lease.dispatcher.renew(lease.now)
    assert lease.dispatcher.forget() == []
    lease.gate.set()
    await soon(lease.dispatcher.finished())
    assert (lease.begun, done, lease.dispatcher.stale) == ([], [], set())


async def test_what_has_not_begun_elsewhere_begins_at_once_when_the_lease_was_renewed_meanwhile():
    lease = Elsewhere()
    lease.dispatcher.renew(lease.now + 1)
    tries = iter([NotBegun, None])

    async def handler(value):
        if (error := next(tries)) is not None:
            raise error
        lease.begun.append(value)

    lease.dispatcher.dispatcher._invoke = lambda name, args: handler(*args)
    lease.put(1)
    await soon(lease.dispatcher.finished())
    assert (lease.begun, lease.lapses) == ([1], 0)


async def test_the_clock_is_one_that_goes_on():
    before = clock()
    await asyncio.sleep(0.01)
    assert clock() - before > 0.005


class Two:
    """A dispatcher with two queues, as a client with links to two brokers would have."""

    def __init__(self, handler, clock=clock, **options):
        self.clock = clock
        self.single = make(handler, clock=clock, **options)
        self.dispatcher = self.single.dispatcher
        self.lapses: list[str] = []
        self.first = self.add("first")
        self.second = self.add("second")

    def add(self, name):
        lapsed = partial(self.lapses.append, name)
        queue = CallQueue(self.dispatcher.slots, flow=lambda full: None, on_lapse=lapsed, clock=self.clock)
        self.dispatcher.add(queue)
        return queue

    def put(self, queue, value, *args, seq=1):
        one = call("c1", value, *args)
        one.seq = seq
        self.dispatcher.put(queue, one)


async def test_of_two_connections_each_has_its_own_lease():
    begun = []

    async def handler(value):
        begun.append(value)

    two = Two(handler)
    two.dispatcher.renew(two.first, clock() - 1)
    for number in range(3):
        two.put(two.first, f"first {number}")
        two.put(two.second, f"second {number}")
    await until(lambda: two.first.is_held and len(begun) == 3)
    assert begun == ["second 0", "second 1", "second 2"]
    assert (two.lapses, two.first.waiting, two.second.is_held) == (["first"], 3, False)
    two.put(two.second, "second 3")  # what is held stands in nobody's way
    await until(lambda: len(begun) == 4)
    two.dispatcher.renew(two.first, clock() + 60)
    await soon(two.dispatcher.finished())
    assert begun[4:] == ["first 0", "first 1", "first 2"]


async def test_of_two_connections_clients_of_the_same_name_are_two_and_both_get_their_turn():
    running, turns = set(), []
    gate = asyncio.Event()

    async def handler(queue, n):
        assert queue not in running
        running.add(queue)
        turns.append((queue, n))
        await gate.wait()
        running.remove(queue)

    two = Two(handler)
    for number in range(SLICE_EVENTS * 3):
        two.put(two.first, "first", number)
        two.put(two.second, "second", number)
    await until(lambda: len(turns) == 2)
    assert running == {"first", "second"}
    gate.set()
    await soon(two.dispatcher.finished())
    for name in ("first", "second"):
        assert [n for queue, n in turns if queue == name] == list(range(SLICE_EVENTS * 3))
    last = len(turns) - 1 - turns[::-1].index(("first", SLICE_EVENTS * 3 - 1))
    assert [queue for queue, _ in turns[:last]].count("second") > SLICE_EVENTS  # nobody waits for all of the other


async def test_of_two_connections_one_session_that_is_gone_is_nothing_to_the_other():
    gate = asyncio.Event()
    runners = {}

    async def handler(value):
        runners[value] = current_runner()
        await gate.wait()

    two = Two(handler)
    two.put(two.first, "first")
    two.put(two.second, "second")
    two.put(two.first, "first waits")
    two.put(two.second, "second waits")
    await until(lambda: len(runners) == 2)
    assert [each.args[0] for each in two.dispatcher.forget(two.first)] == ["first waits"]
    assert (two.first.stale, two.second.stale) == ({runners["first"]}, set())
    gate.set()
    await soon(two.dispatcher.finished())
    assert (two.first.stale, two.second.stale) == (set(), set())
    assert runners.keys() == {"first", "second", "second waits"}


async def test_two_connections_share_the_bound_on_handlers_that_run():
    gate = asyncio.Event()
    most = 0

    async def handler():
        nonlocal most
        most = max(most, two.dispatcher.slots.running)
        await gate.wait()

    two = Two(handler, concurrency=3)
    for number in range(10):
        for each in (two.first, two.second):
            two.dispatcher.put(each, call(f"c{number}"))
    await until(lambda: two.dispatcher.slots.running == 3)
    gate.set()
    await soon(two.dispatcher.finished())
    assert most == 3


async def test_whether_a_handler_may_begin_elsewhere_is_its_own_connections_matter():
    now = 100.0
    seen = {}
    gate = asyncio.Event()

    async def handler(value):
        await gate.wait()
        seen[value] = await asyncio.to_thread(lambda: two.dispatcher.may_begin)

    two = Two(handler, clock=lambda: now)
    two.dispatcher.renew(two.first, now + 1)
    two.put(two.first, "first")
    two.put(two.second, "second")
    await until(lambda: two.dispatcher.slots.running == 2)
    now += 1
    gate.set()
    await soon(two.dispatcher.finished())
    assert seen == {"first": False, "second": True}
    assert two.dispatcher.may_begin  # this is no handler
