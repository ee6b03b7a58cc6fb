"""The end of a client: what its sends took is delivered, whatever happens to the link, or told as lost."""

import asyncio
import contextlib
import logging

import pytest

from pystrands import PyStrandsClient, testing
from tests.client.fake_broker import soon, until
from tests.inside import core_of, parts_of

from .raw_backend import RawBackend
from .raw_broker import Noting, RawBroker, unlinked


@pytest.fixture
async def world():
    """Return a broker, a proxy before it, and a WebSocket client that a backend of the broker's own has let in."""
    async with testing.broker() as broker, testing.LinkProxy(broker) as proxy, testing.backend(broker, Noting):
        async with testing.connect(broker) as ws:
            yield broker, proxy, ws


async def up(proxy, client):
    client.host, client.port = "127.0.0.1", proxy.tcp_port
    assert await client.connect()
    return client


async def down(proxy, client):
    proxy.refuse()
    proxy.cut()
    await unlinked(client)


async def cancelled(client):
    running = asyncio.ensure_future(client.run_forever())
    await asyncio.sleep(0)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


ENDS = {"disconnected": lambda client: client.disconnect(), "cancelled": cancelled}


@pytest.mark.parametrize("how", ENDS)
async def test_what_was_taken_without_a_link_is_sent_when_it_is_back(world, how):
    broker, proxy, ws = world
    client = await up(proxy, Noting())
    await down(proxy, client)
    for text in "abc":
        assert await client.broadcast_message(text)
    ending = asyncio.ensure_future(ENDS[how](client))
    await until(lambda: core_of(client).stopping)
    assert await client.broadcast_message("d")
    proxy.accept()
    await soon(ending)
    for text in "abcd":
        await ws.expect(text)
    assert await client.broadcast_message("too late") is False
    await ws.expect_nothing()
    assert client.errors == []
    assert broker.backend_count == 1
    assert len(list(parts_of(broker).sessions.sessions)) == 1, "it said bye"


async def test_threads_hear_the_same(world):
    _, proxy, ws = world
    client = PyStrandsClient("127.0.0.1", proxy.tcp_port, reconnect_delay=0.01)
    assert await asyncio.to_thread(client.connect)
    proxy.refuse()
    proxy.cut()
    await until(lambda: not client.connected)
    assert await asyncio.to_thread(client.broadcast_message, "a")
    ending = asyncio.ensure_future(asyncio.to_thread(client.disconnect))
    proxy.accept()
    await soon(ending)
    await ws.expect("a")
    assert await asyncio.to_thread(client.broadcast_message, "too late") is False


@pytest.mark.parametrize("timeout", [0, 0.1])
async def test_what_can_not_be_sent_in_time_is_told(world, timeout, caplog):
    _, proxy, _ = world
    client = await up(proxy, Noting())
    await down(proxy, client)
    for text in "ab":
        assert await client.broadcast_message(text)
    await soon(client.disconnect(timeout))
    assert [error[:22] for error in client.errors] == ["2 messages were lost: "]
    assert "2 of the messages were not delivered" in caplog.text


async def test_of_attempts_in_quick_succession_only_the_first_is_told(world, caplog):
    _, proxy, _ = world
    client = await up(proxy, Noting())
    await down(proxy, client)
    caplog.clear()
    caplog.set_level(logging.DEBUG, "pystrands.client")
    assert await client.broadcast_message("a")
    ending = asyncio.ensure_future(client.disconnect(60))
    attempts = "could not connect to the broker"
    await until(lambda: len([each for each in caplog.messages if attempts in each]) >= 3)
    await soon(client.disconnect(0))
    await soon(ending)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([each for each in warnings if attempts in each]) <= 1, "the first may have been before the end began"
    assert warnings[-1].startswith("disconnected; 1 of the messages were not delivered")


async def test_with_nothing_to_deliver_a_broker_that_is_gone_delays_nothing(world, caplog):
    _, proxy, _ = world
    client = await up(proxy, Noting())
    await down(proxy, client)
    loop = asyncio.get_running_loop()
    caplog.set_level(logging.WARNING)
    started = loop.time()
    await client.disconnect(60)
    assert loop.time() - started < 30
    assert client.errors == []


async def test_without_reconnecting_it_is_told_and_nothing_more_is_taken(world):
    _, proxy, _ = world
    client = await up(proxy, Noting(auto_reconnect=False))
    running = asyncio.ensure_future(client.run_forever())
    proxy.pause()
    assert await client.broadcast_message("a")
    await asyncio.sleep(0.01)
    proxy.cut()
    await soon(running)
    assert [error[:22] for error in client.errors] == ["1 messages were lost: "]
    assert await client.broadcast_message("b") is False


class Answering(Noting):
    async def on_message(self, message, context):
        await super().on_message(message, context)
        assert await self.send_private_message(context.client_id, f"re: {message}")


async def test_a_link_that_is_cut_after_the_leave_comes_back_for_what_handlers_still_send():
    async with testing.broker() as broker, testing.LinkProxy(broker) as proxy:
        client = await up(proxy, Answering())
        async with testing.connect(broker) as ws:
            release = client.hold("a")
            for text in ("a", "b"):
                await ws.send(text)
            await until(lambda: len(client.notes) == 2)
            ending = asyncio.ensure_future(client.disconnect())
            (session,) = parts_of(broker).sessions.sessions
            await until(lambda: session.is_leaving)
            for _ in range(2):
                await down(proxy, client)
                proxy.accept()
                await until(lambda: core_of(client).lifetime.connection.link is not None)
            await down(proxy, client)
            release.set()
            await until(lambda: core_of(client).lifetime.dispatcher.idle)
            proxy.accept()
            await soon(ending)
            await ws.expect("re: a")
            async with testing.backend(broker, Answering) as heir:
                await ws.expect("re: b")
                assert [what for what, _ in heir.notes] == ["adopted", "b"], "nothing was repeated"
            assert broker.counters["events_redelivered"] == 0


@pytest.mark.parametrize("direction", ["to_broker", "to_backend"])
async def test_wherever_the_link_is_cut_all_arrives_once(world, direction):
    broker, proxy, ws = world
    texts = [f"{number}" for number in range(5)]
    cut = set()
    for count in range(0, 700, 35):
        client = await up(proxy, Noting())
        assert await client.broadcast_message("up", confirm=True)
        await ws.expect("up")
        proxy.cut_after(count, direction)
        before = proxy.cuts
        for text in texts:
            assert await client.broadcast_message(text)
        await soon(client.disconnect())
        for text in texts:
            await ws.expect(text)
        assert client.errors == []
        if proxy.cuts == before:
            proxy.cut_after(10**9, direction)
        else:
            cut.add(count)
        await until(lambda: len(list(parts_of(broker).sessions.sessions)) == 1)
    await ws.expect_nothing()
    assert {0, 35} <= cut, "cut it was"
    assert direction == "to_backend" or len(cut) > 10


async def test_a_bye_that_was_carried_out_and_not_acknowledged_ends_it_all_the_same(caplog):
    caplog.set_level(logging.WARNING)
    async with RawBroker() as broker:
        client = Noting(**broker.where)
        link = await broker.connected(client)
        await link.happens("new_connection", "ann")
        await link.hear_done(1)
        assert await client.broadcast_message("x")
        await link.hear("broadcast")
        ending = asyncio.ensure_future(client.disconnect())
        await link.hear("leave")
        await link.say("leaving")
        await link.hear("bye")
        link.cut()
        again = await broker.linked()
        assert (again.hello["resume"], again.hello["role"]) == (True, "sender"), "it wants no clients"
        await again.give_up(link.received)
        await again.hear("leave")
        await again.hear("bye")
        await again.acknowledge()
        again.connection.close()
        await soon(ending)
        assert client.errors == []
        assert client.notes == [("new", "ann")], "its clients are others' as it wished"
        assert "given up" not in caplog.text


async def test_another_broker_gets_what_is_for_many_and_hears_of_the_leave():
    async with RawBroker() as broker:
        client = Noting(**broker.where)
        link = await broker.connected(client)
        await link.happens("new_connection", "ann")
        await link.hear_done(1)
        broker.broker_id = "broker-2"
        ending = asyncio.ensure_future(client.disconnect())
        await link.hear("leave")
        assert await client.send_private_message("ann", "lost with her")
        link.cut()
        again = await broker.linked()
        assert await client.broadcast_message("to all")
        await again.welcome()
        await again.hear("leave")
        assert await again.hear_text() == "to all"
        await again.say("leaving")
        await again.hear("bye")
        assert [error[:22] for error in client.errors] == ["1 messages were lost: "]
        await again.acknowledge()
        again.connection.close()
        await soon(ending)
        assert client.notes == [("new", "ann"), ("gone", "ann")]


async def test_what_is_sent_at_the_very_end_is_delivered_or_refused(world):
    broker, proxy, ws = world
    client = await up(proxy, Noting())
    taken = []

    async def pour():
        for number in range(100_000):
            if not await client.broadcast_message(str(number)):
                return
            taken.append(str(number))
            await asyncio.sleep(0)

    pouring = asyncio.ensure_future(pour())
    await until(lambda: len(taken) > 10)
    await soon(client.disconnect())
    await soon(pouring)
    for text in taken:
        await ws.expect(text)
    await ws.expect_nothing()
    assert client.errors == []
    assert broker.backend_count == 1


async def test_what_threads_send_at_the_very_end_is_delivered_or_refused_or_told(world):
    broker, proxy, ws = world
    errors = []

    class Client(PyStrandsClient):
        def on_error(self, error, context):
            errors.append(error)

    heard = taken = 0
    for turn in range(3):
        client = Client("127.0.0.1", proxy.tcp_port)
        assert await asyncio.to_thread(client.connect)

        def pour():
            count = 0
            while client.broadcast_message(f"{turn} {count}"):  # noqa: B023 - called here and now
                count += 1
            return count

        pouring = asyncio.ensure_future(asyncio.to_thread(pour))
        heard += 1
        while await ws.receive() != f"{turn} 0":
            heard += 1
        await asyncio.to_thread(client.disconnect)
        taken += await soon(pouring)
    backend = await up(broker, Noting())
    assert await backend.broadcast_message("the end")
    while await ws.receive() != "the end":
        heard += 1
    await backend.disconnect()
    assert taken == heard + sum(int(error.split()[0]) for error in errors)


async def test_rule_02_a_bye_is_acknowledged_and_the_link_is_closed():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        raw.say("broadcast", {"message": "x"})
        last = raw.say("bye")
        assert await raw.is_closed_saying() == last
        assert broker.backend_count == 0
