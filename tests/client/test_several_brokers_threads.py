"""The clients for threads and with decorators, linked to several brokers (CLUSTER rules 1, 2, 16)."""

import asyncio
import threading
from contextlib import ExitStack

import pytest

from pystrands import PyStrands, PyStrandsClient, testing
from pystrands.engine.cluster import Peer
from pystrands.testing import until_sync
from tests.inside import parts_of


class Threaded(PyStrandsClient):
    """Answers each message with all kinds of sends, from the thread that the handler runs on."""

    def __init__(self, host, port):
        super().__init__(host, port, reconnect_delay=0.02)

    def on_message(self, message, context):
        assert self.send_private_message(context.client_id, "private")
        assert self.send_room_message(context.room_id, "room")
        assert self.send_room_message(context.room_id, "confirmed", confirm=True).matched == 1
        assert len(self.room_members(context.room_id)) == 1


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def brokers(stack):
    """Two brokers that tell of each other."""
    red, blue = [stack.enter_context(testing.broker_thread()) for _ in range(2)]
    for one, other in ((red, blue), (blue, red)):
        peer = Peer(other.ask(lambda broker: broker.broker_id), f"127.0.0.1:{other.tcp_port}")
        one.ask(lambda broker, peer=peer: parts_of(broker).lifecycle.peers_changed([peer]))
    return red, blue


ANSWERS = ("private", "room", "confirmed")


def test_cluster_rule_01_what_a_worker_thread_sends_follows_the_event_that_it_handles(stack, brokers):
    red, blue = brokers
    client = Threaded("127.0.0.1", red.tcp_port)
    assert client.connect()
    stack.callback(client.disconnect)
    until_sync(lambda: [link.connected for link in client.links] == [True, True])
    for room, broker in (("/red", red), ("/blue", blue)):
        ws = stack.enter_context(testing.connect_sync(broker, room))
        for _ in range(3):
            ws.send("hello")
            for expected in ANSWERS:
                ws.expect(expected)
    client.disconnect()
    assert (client.connected, client.links, red.backend_count, blue.backend_count) == (False, (), 0, 0)


def test_cluster_rule_02_what_other_threads_send_goes_home(stack, brokers):
    red, _ = brokers
    client = Threaded("127.0.0.1", red.tcp_port)
    assert client.connect()
    stack.callback(client.disconnect)
    until_sync(lambda: [link.connected for link in client.links] == [True, True])
    ada, bob = [stack.enter_context(testing.connect_sync(each, "/room")) for each in brokers]
    thread = threading.Thread(target=lambda: [client.send_room_message("/room", str(number)) for number in range(50)])
    thread.start()
    thread.join()
    for number in range(50):
        ada.expect(str(number))
    red.ask(lambda broker: parts_of(broker).lifecycle.drains())
    until_sync(lambda: [link.is_home for link in client.links] == [False, True])
    assert client.send_room_message("/room", "from home")
    bob.expect("from home")


async def test_cluster_rule_16_an_app_has_all_links_too(stack, brokers):
    red, blue = brokers
    app = PyStrands("127.0.0.1", red.tcp_port, reconnect_delay=0.02)

    @app.on_message
    async def on_message(message, context):
        assert await app.send_private_message(context.client_id, "private")
        assert await app.send_room_message(context.room_id, "room")
        assert await app.room_members(context.room_id)

    @app.on_disconnect
    def on_disconnect(context):
        assert app.send_room_message(context.room_id, "one is gone")

    running = asyncio.create_task(app.run_async())
    await testing.until(lambda: [link.connected for link in app.links] == [True, True])
    for room, broker in (("/red", red), ("/blue", blue)):
        async with testing.connect(broker, room) as stays:
            async with testing.connect(broker, room) as ws:
                await ws.send("hello")
                await ws.expect("private")
                await ws.expect("room")
            await stays.expect("one is gone", skip=True)
    await app.disconnect()
    await running
