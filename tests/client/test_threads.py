import asyncio
import logging
import sys
import threading
from functools import partial
from types import SimpleNamespace

import pytest

from pystrands import PyStrandsClient
from pystrands.client.base import HANDLERS
from pystrands.client.core import BackendCore
from pystrands.client.handlers.current import NotBegun
from pystrands.client.loops import new_event_loop
from pystrands.client.options import options_of
from pystrands.client.threads import Bridge, Gone, Mailbox, Workers
from tests.client.fake_broker import PATIENCE, soon


def test_without_uvloop_there_is_asyncio(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_event_loop()
    assert type(loop).__module__.startswith("asyncio")
    loop.close()


async def test_posted_calls_keep_their_order_and_wake_the_loop_once(caplog):
    loop = asyncio.get_running_loop()
    mailbox = Mailbox(loop)
    seen, done = [], asyncio.Event()
    woken = 0
    run = mailbox.run

    def count():
        nonlocal woken
        woken += 1
        run()

    mailbox.run = count  # type: ignore[method-assign]

    def post():
        for number in range(100):
            mailbox.post(seen.append, number)
        mailbox.post(lambda: 1 / 0)
        mailbox.post(done.set)

    post()
    await soon(done.wait())
    assert seen == list(range(100))
    assert woken == 1
    assert "this is a bug in PyStrands" in caplog.text


async def test_calls_from_many_threads_all_arrive():
    mailbox = Mailbox(asyncio.get_running_loop())
    counts = dict.fromkeys(range(8), 0)
    done = asyncio.Event()

    def arrived(thread, number):
        assert counts[thread] == number
        counts[thread] += 1
        if sum(counts.values()) == 8 * 500:
            done.set()

    def pour(thread):
        for number in range(500):
            mailbox.post(arrived, thread, number)

    threads = [threading.Thread(target=pour, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    await soon(done.wait())
    for thread in threads:
        thread.join()


def test_calls_to_a_closed_loop_are_dropped(caplog):
    caplog.set_level(logging.DEBUG)
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop)
    loop.close()
    mailbox.post(print, "never")
    assert not mailbox._calls
    assert "event loop was closed" in caplog.text


async def test_threads_are_started_as_needed_up_to_the_bound():
    loop = asyncio.get_running_loop()
    workers = Workers(loop, Mailbox(loop), 3)
    assert await soon(workers.run(lambda: 1, ())) == 1
    assert await soon(workers.run(lambda: 2, ())) == 2
    assert workers._threads == 1
    barrier = threading.Barrier(3)
    jobs = [workers.run(barrier.wait, (PATIENCE,)) for _ in range(6)]
    assert sorted(await soon(asyncio.gather(*jobs))) == [0, 0, 1, 1, 2, 2]
    assert workers._threads == 3
    workers.close()


async def test_a_bridge_that_is_closed_takes_no_calls():
    core = BackendCore(partial(options_of, PyStrandsClient()), lambda name, args: None)
    bridge = Bridge(core, 1)
    started = threading.Event()

    async def forever():
        started.set()
        await asyncio.Event().wait()

    waiting = asyncio.create_task(asyncio.to_thread(bridge.call, forever))
    await asyncio.to_thread(started.wait, PATIENCE)
    assert bridge.close(unless_pending=True) is False
    assert bridge.close() is True
    with pytest.raises(Gone):
        await soon(waiting)
    with pytest.raises(Gone):
        await asyncio.to_thread(bridge.start, forever)
    assert bridge.send(b"x\n") is False
    for task in asyncio.all_tasks():
        if task.get_name() == "pystrands-call":
            task.cancel()


async def test_what_a_call_raises_comes_to_the_caller():
    bridge = Bridge(BackendCore(partial(options_of, PyStrandsClient()), lambda name, args: None), 1)

    async def fail():
        raise LookupError("here")

    async def cancelled():
        raise asyncio.CancelledError

    with pytest.raises(LookupError):
        await asyncio.to_thread(bridge.call, fail)
    with pytest.raises(Gone):
        await asyncio.to_thread(bridge.call, cancelled)
    bridge.close()


def test_clients_have_every_handler():
    for name in HANDLERS:
        assert callable(getattr(PyStrandsClient, name))


async def test_a_handler_that_found_no_thread_before_the_lease_was_over_does_not_begin(monkeypatch):
    core = BackendCore(partial(options_of, PyStrandsClient()), lambda name, args: None)
    bridge = Bridge(core, 1)
    dispatcher = SimpleNamespace(may_begin=True)
    monkeypatch.setattr(BackendCore, "lifetime", SimpleNamespace(dispatcher=dispatcher))
    begun, release = threading.Event(), threading.Event()

    def slow():
        begun.set()
        assert release.wait(PATIENCE)
        return "slow"

    running = asyncio.ensure_future(bridge.run_plain("on_message", slow, ()))
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    late = asyncio.ensure_future(bridge.run_plain("on_message", "never called".split, ()))
    error = asyncio.ensure_future(bridge.run_plain("on_error", "an error".split, ()))
    await asyncio.sleep(0)
    dispatcher.may_begin = False
    release.set()
    assert await soon(running) == "slow"
    with pytest.raises(NotBegun):
        await soon(late)
    assert await soon(error) == ["an", "error"]
    dispatcher.may_begin = True
    assert await soon(bridge.run_plain("on_message", "a b".split, ())) == ["a", "b"]
    bridge.close()
