"""What is about a broker is its connection's: two of them share a dispatcher, and nothing else."""

import asyncio
import contextlib
import contextvars

import pytest

from pystrands import AsyncPyStrandsClient, testing
from pystrands.client import requests
from pystrands.client.connection.broker_connection import BrokerConnection, Surroundings
from pystrands.client.handlers.dispatch import Dispatcher
from pystrands.client.options import options_of
from tests.client.fake_broker import soon, until


class Alone(Surroundings):
    """Knows of no other broker."""

    def admits(self, connection, link, hello):
        return True

    def changed(self, connection):
        pass

    def ended(self, connection):
        pass


class Process:
    """Handlers of one process, and its connections to several brokers. Texts go back to whom they came from."""

    def __init__(self):
        self.calls = []
        self.context = contextvars.copy_context()
        self.dispatcher = Dispatcher(self.invoke, concurrency=10, context=self.context, abandoned=lambda: False)
        self.connections = []

    def invoke(self, name, args):
        context = args[-1] if name != "on_connection_request" else args[0].context
        self.calls.append((name, context.room_id, *args[:-1]))
        return args[0].accepted if name == "on_connection_request" else None

    def of(self, room):
        return [call for call in self.calls if call[1] == room]

    def connect(self, broker):
        options = options_of(AsyncPyStrandsClient("127.0.0.1", broker.tcp_port, reconnect_delay=0.01))
        connection = BrokerConnection(options, self.dispatcher, self.context, persistent=True, surroundings=Alone())
        self.connections.append(connection)
        return connection

    async def end(self):
        expired = asyncio.get_running_loop().create_future()
        for connection in self.connections:
            connection.leave()
            await connection.left(expired)
        await self.dispatcher.finished()
        for connection in self.connections:
            await connection.sent(expired)
            await connection.finish()
            connection.drop()


@pytest.fixture
async def process():
    process = Process()
    yield process
    await soon(process.end())


async def test_two_connections_each_with_its_own_clients_answers_and_end(process):
    async with contextlib.AsyncExitStack() as stack:
        red, blue = [await stack.enter_async_context(testing.broker()) for _ in range(2)]
        at_red, at_blue = process.connect(red), process.connect(blue)
        await until(lambda: red.backend_count == blue.backend_count == 1)
        ada = await stack.enter_async_context(testing.connect(red, "/red"))
        bob = await stack.enter_async_context(testing.connect(blue, "/blue"))
        await ada.send("from red")
        await bob.send("from blue")
        await until(lambda: process.of("/red")[-1:] == [("on_message", "/red", "from red")])
        await until(lambda: process.of("/blue")[-1:] == [("on_message", "/blue", "from blue")])

        assert await at_red.outgoing.send(requests.room_message("/red", "to red", at_red.outgoing.broker))
        assert await at_blue.outgoing.send(requests.room_message("/blue", "to blue", at_blue.outgoing.broker))
        await ada.expect("to red")
        await bob.expect("to blue")

        at_red.leave()
        assert at_red.is_ending
        assert not at_blue.is_ending
        await soon(at_red.left(asyncio.get_running_loop().create_future()))
        await bob.send("still there")
        await until(lambda: process.of("/blue")[-1] == ("on_message", "/blue", "still there"))


async def test_a_broker_that_is_replaced_takes_its_own_clients_with_it(process):
    async with testing.broker() as blue:
        async with testing.broker() as red:
            port = red.tcp_port
            at_red, at_blue = process.connect(red), process.connect(blue)
            await until(lambda: red.backend_count == blue.backend_count == 1)
            async with testing.connect(blue, "/blue") as bob, testing.connect(red, "/red") as ada:
                await ada.send("hello")
                await bob.send("hello")
                await until(lambda: ("on_message", "/red", "hello") in process.calls)
                await until(lambda: ("on_message", "/blue", "hello") in process.calls)
                links = list(at_red._links)
                for link in links:  # it hears no more of this broker, which ends meanwhile
                    link.stop_receiving()
                red_id, blue_id = at_red.outgoing.broker.broker_id, at_blue.outgoing.broker.broker_id
                await red.stop()
                async with testing.broker(tcp_port=port):
                    await until(lambda: ("on_disconnect", "/red") in process.calls)
                    assert at_red.outgoing.broker.broker_id not in {red_id, blue_id}
                    assert at_blue.outgoing.broker.broker_id == blue_id
                    await bob.send("still there")
                    await until(lambda: process.of("/blue")[-1] == ("on_message", "/blue", "still there"))
                    assert ("on_disconnect", "/blue") not in process.calls
