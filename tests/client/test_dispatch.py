import asyncio
import contextvars
import logging
from typing import Any

import pytest

from pystrands import Context
from pystrands.client.base import Call
from pystrands.client.dispatch import SLICE_EVENTS, Dispatcher, in_handler
from tests.client.fake_broker import soon, until

VARIABLE: contextvars.ContextVar[Any] = contextvars.ContextVar("VARIABLE", default="clean")


class Hostile:
    """What a user may put into a context variable."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other):
        raise RuntimeError("never compare me")


def call(lane="c1", *args, name="on_message"):
    return Call(name, args, Context(client_id=lane or ""), lane)


def make(invoke, **options):
    defaults: dict[str, Any] = {
        "concurrency": 10,
        "context": contextvars.copy_context(),
        "flow": lambda full: None,
        "abandoned": lambda: False,
    }
    return Dispatcher(lambda name, args: invoke(*args), **(defaults | options))


async def test_handlers_that_do_not_suspend_share_a_task():
    tasks = set()

    async def handler():
        tasks.add(asyncio.current_task())

    dispatcher = make(handler)
    for n in range(SLICE_EVENTS):
        dispatcher.put(call(f"c{n}"))
    await soon(dispatcher.finished())
    assert len(tasks) <= 3  # one, but for slices that a busy machine makes longer than 2 ms
    assert not in_handler()


async def test_other_tasks_get_their_turn():
    turns = []

    async def handler():
        turns.append("handler")

    dispatcher = make(handler)
    for n in range(SLICE_EVENTS * 4):
        dispatcher.put(call(f"c{n}"))
    while not dispatcher.idle:
        await asyncio.sleep(0)
        turns.append("other")
    assert turns.count("handler") == SLICE_EVENTS * 4
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
    assert [record.name for record in caplog.records] == ["pystrands.client.dispatch"] * 2


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
    assert "on_error was cancelled for client c1" in caplog.text
    assert "on_error failed for client c1" in caplog.text


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
