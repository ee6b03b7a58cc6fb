import asyncio
import contextvars
import logging
from typing import Any

import pytest

from pystrands import Context
from pystrands.client.handlers import dispatch
from pystrands.client.handlers.calls import HandlerCall
from pystrands.client.handlers.clock import clock
from pystrands.client.handlers.dispatch import EAGER, SLICE_EVENTS, Dispatcher, current_runner, in_handler
from tests.client.fake_broker import soon, until


@pytest.fixture(autouse=True, params=["in turn", "at once"] if EAGER else ["in turn"])
def way(request, monkeypatch):
    """How handlers begin: all that this file tests holds for both."""
    if request.param == "at once":
        monkeypatch.setattr(dispatch, "Dispatcher", AtOnce)
    return request.param


class AtOnce:
    """A dispatcher with which what is put begins at once, as with a read that completes one line."""

    def __init__(self, *args, **options):
        self.inner = Dispatcher(*args, **options)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def put(self, call, *, late=False):
        self.inner.gather()
        self.inner.put(call, late=late)
        self.inner.begin()


def inner(dispatcher):
    return dispatcher.inner if isinstance(dispatcher, AtOnce) else dispatcher


def put_all(dispatcher, calls):
    """Put calls as one read does that brings them all."""
    if isinstance(dispatcher, AtOnce):
        dispatcher.gather()
    for one in calls:
        inner(dispatcher).put(one)
    if isinstance(dispatcher, AtOnce):
        dispatcher.begin()


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
    return dispatch.Dispatcher(lambda name, args: invoke(*args), **(defaults | options))


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
    assert [record.name for record in caplog.records] == ["pystrands.client.handlers.dispatch"] * 2


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

    def __init__(self, monkeypatch, **options):
        self.now = 100.0
        self.begun: list[Any] = []
        self.lapses = 0
        monkeypatch.setattr(dispatch, "clock", lambda: self.now)
        self.dispatcher = make(self.handler, lapsed=self.lapsed, **options)

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


async def test_nothing_begins_when_the_lease_is_over_and_all_goes_on_in_order_with_the_next(monkeypatch):
    lease = Lease(monkeypatch)
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


async def test_the_lease_ends_between_two_handlers_of_one_slice(monkeypatch):
    lease = Lease(monkeypatch)
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


async def test_the_lease_ends_while_all_places_are_taken(monkeypatch):
    lease = Lease(monkeypatch, concurrency=2)
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


async def test_what_is_held_can_be_taken_out_and_what_is_our_own_stays(monkeypatch):
    lease = Lease(monkeypatch)
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


async def test_stopping_drops_what_is_held(monkeypatch):
    lease = Lease(monkeypatch)
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

    def __init__(self, monkeypatch, **options):
        super().__init__(monkeypatch, **options)
        self.gate = asyncio.Event()
        self.called = 0

    async def handler(self, value, seconds=0, gate=None):
        self.called += 1
        await self.gate.wait()
        if self.now >= self.dispatcher.lease:
            raise dispatch.NotBegun
        await super().handler(value, seconds, gate)


@pytest.mark.parametrize("options", [{}, {"timeout": 5}, {"concurrency": 1}])
async def test_what_has_not_begun_elsewhere_waits_again_in_its_place(monkeypatch, options):
    done: list[int] = []
    lease = Elsewhere(monkeypatch, **options)
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


async def test_what_has_not_begun_elsewhere_is_dropped_when_its_session_is_gone(monkeypatch):
    done: list[int] = []
    lease = Elsewhere(monkeypatch)
    lease.dispatcher.renew(lease.now + 1)
    lease.put(1, done=done)
    await until(lambda: lease.called)
    lease.dispatcher.renew(lease.now)
    assert lease.dispatcher.forget() == []
    lease.gate.set()
    await soon(lease.dispatcher.finished())
    assert (lease.begun, done, lease.dispatcher.stale) == ([], [], set())


async def test_what_has_not_begun_elsewhere_begins_at_once_when_the_lease_was_renewed_meanwhile(monkeypatch):
    lease = Elsewhere(monkeypatch)
    lease.dispatcher.renew(lease.now + 1)
    tries = iter([dispatch.NotBegun, None])

    async def handler(value):
        if (error := next(tries)) is not None:
            raise error
        lease.begun.append(value)

    inner(lease.dispatcher)._invoke = lambda name, args: handler(*args)
    lease.put(1)
    await soon(lease.dispatcher.finished())
    assert (lease.begun, lease.lapses) == ([1], 0)


async def test_the_clock_is_one_that_goes_on():
    before = clock()
    await asyncio.sleep(0.01)
    assert clock() - before > 0.005
