"""A client with links to several brokers, each of which has its own clients (CLUSTER rules 1, 2, 15 to 17)."""

import contextlib

import pytest

from pystrands import AsyncPyStrandsClient, testing
from tests.client.fake_broker import until


class Noting(AsyncPyStrandsClient):
    """Notes what its handlers are called with, and answers each message at its client's broker."""

    def __init__(self, *args, **options):
        super().__init__(*args, **({"reconnect_delay": 0.02} | options))
        self.calls = []

    def of(self, name):
        return [args for called, *args in self.calls if called == name]

    async def on_new_connection(self, context):
        self.calls.append(("on_new_connection", context.room_id))

    async def on_message(self, message, context):
        self.calls.append(("on_message", context.room_id, message))
        await self.send_private_message(context.client_id, f"you said {message}")

    async def on_disconnect(self, context):
        self.calls.append(("on_disconnect", context.room_id))

    async def on_error(self, error, context):
        self.calls.append(("on_error", error))


def at(*brokers):
    return [f"127.0.0.1:{broker.tcp_port}" for broker in brokers]


@pytest.fixture
async def stack():
    async with contextlib.AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def brokers(stack):
    """Two brokers that know nothing of each other."""
    return [await stack.enter_async_context(testing.broker()) for _ in range(2)]


async def linked(client, *brokers):
    await until(lambda: all(broker.backend_count == 1 for broker in brokers))
    await until(lambda: all(link.connected for link in client.links))


async def test_cluster_rule_01_each_event_is_answered_on_the_link_of_its_broker(stack, brokers):
    client = Noting(at(*brokers))
    stack.push_async_callback(client.disconnect)
    assert await client.connect()
    await linked(client, *brokers)
    for number, broker in enumerate(brokers):
        ws = await stack.enter_async_context(testing.connect(broker, f"/{number}"))
        await ws.send("hello")
        await ws.expect("you said hello")
    assert client.of("on_message") == [["/0", "hello"], ["/1", "hello"]]
