"""Links that have said nothing: backends of protocol 1, or of protocol 2 and paused, or none at all."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from pystrands import AsyncPyStrandsClient, testing
from pystrands.protocol import messages, wire
from tests.inside import parts_of


class Noting(AsyncPyStrandsClient):
    def __init__(self):
        super().__init__()
        self.heard = []

    async def on_message(self, message, context):
        self.heard.append(message)


@asynccontextmanager
async def mute_link(broker):
    """A connection that says nothing, until the broker takes it for a backend."""
    before = broker.backend_count
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.tcp_port)
    try:
        await testing.until(lambda: broker.backend_count > before)
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def next_action(reader, action):
    async with asyncio.timeout(5):
        while (line := json.loads(await reader.readline()))["action"] != action:
            pass
    return line


async def test_a_mute_link_does_not_get_what_protocol_2_promises_to_deliver():
    async with testing.broker() as broker:
        async with testing.backend(broker, Noting):
            ws = await testing.connect(broker)
        async with mute_link(broker):
            await ws.send("kept")
            await testing.until(lambda: broker.queued_messages == 1)
            async with testing.backend(broker, Noting) as heir:
                await testing.until(lambda: heir.heard == ["kept"])
        await ws.close()


async def test_a_mute_link_that_was_asked_may_still_say_hello_and_others_are_asked():
    async with testing.broker() as broker, mute_link(broker) as (reader, writer):
        connecting = asyncio.ensure_future(testing.connect(broker))
        await next_action(reader, "connection_request")
        writer.write(wire.hello(messages.HelloParams(protocol=2, session_id="late", name="late")))
        assert not (await next_action(reader, "welcome"))["params"]["resumed"]
        (session,) = parts_of(broker).sessions.sessions
        assert session.name.endswith("'late'")
        asked = await next_action(reader, "connection_request")
        assert asked["seq"] == 1
        writer.write(b'{"seq":1,%b' % wire.response(asked["request_id"], True)[1:])
        await (await connecting).close()


async def test_probes_that_say_nothing_cost_no_client_anything():
    async with testing.broker() as broker, testing.backend(broker, Noting) as backend:
        async with mute_link(broker) as (one, _), mute_link(broker) as (two, _):
            for number in range(4):
                async with testing.connect(broker) as ws:
                    await ws.send(str(number))
                    await testing.until(lambda: len(backend.heard) == number + 1)  # noqa: B023 - at once
            for reader in (one, two):
                assert json.loads(await reader.readline())["action"] == "hello"
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(reader.readline(), 0.05)
        assert broker.counters["refused_no_answer"] == 0


async def test_a_backend_as_the_original_is_says_nothing_until_it_is_asked_and_is_asked_beside_probes():
    async with testing.broker() as broker, mute_link(broker), mute_link(broker) as (reader, writer):
        connecting = [asyncio.ensure_future(testing.connect(broker)) for _ in range(2)]
        clients = []
        while len(clients) < 2:
            asked = await next_action(reader, "connection_request")
            writer.write(wire.response(asked["request_id"], True))
            done, _ = await asyncio.wait(connecting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            clients += [await each for each in done]
            connecting = [each for each in connecting if each not in done]
        await clients[0].send("hello")
        assert (await next_action(reader, "new_message"))["params"]["message"] == "hello"
        for client in clients:
            await client.close()
