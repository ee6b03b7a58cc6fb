"""Brokers in this process that are joined by a real nats-server."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from pystrands import Confirmation
from pystrands.testing import backend, broker, connect, until
from tests.cluster.backends import Named
from tests.e2e.session_client import SessionClient
from tests.inside import parts_of
from tests.nats_server import NatsServer


@pytest.fixture
def nats():
    with NatsServer() as server:
        yield server


@asynccontextmanager
async def on_nats(nats, count=2, backend_class=Named, **options):
    """Run brokers that see each other, with a backend each."""
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(broker(nats_url=(nats.url,), **options)) for _ in range(count)]
        await until(lambda: all(len(each._cluster.peers) == count - 1 for each in running))
        yield [(each, await stack.enter_async_context(backend(each, backend_class))) for each in running]


async def test_messages_reach_rooms_everyone_and_one_client_at_all_brokers(nats):
    async with on_nats(nats) as ((one, here), (two, _)):
        async with connect(one, "/ann") as ann, connect(two, "/bob") as bob:
            assert await here.send_room_message("lobby", "room", confirm=True) == Confirmation(2, 0)
            assert await here.broadcast_message("all", exclude=["ann"], confirm=True) == Confirmation(1, 0)
            assert await here.send_private_message("bob", b"bob", confirm=True) == Confirmation(1, 0)
            assert await here.send_private_message("nobody", b"bob", confirm=True) == Confirmation(0, 0)
            assert await ann.receive() == "room"
            assert [await bob.receive() for _ in range(3)] == ["room", "all", b"bob"]


async def test_messages_to_a_user_reach_his_clients_at_all_brokers_and_all_are_closed(nats):
    class OfUsers(Named):
        async def on_connection_request(self, request):
            await super().on_connection_request(request)
            return request.accept(user=request.query["user"][0])

    async with on_nats(nats, 3, backend_class=OfUsers) as ((one, here), (two, _), (three, there)):
        async with (
            connect(one, "/a?user=ada%20b.*") as first,
            connect(two, "/b?user=ada%20b.*") as second,
            connect(three, "/c?user=ben") as ben,
        ):
            for number in range(50):
                await here.send_user_message("ada b.*", str(number))
            assert await here.send_user_message("ada b.*", "last", confirm=True) == Confirmation(2, 0)
            for client in (first, second):
                assert [await client.receive() for _ in range(51)] == [*map(str, range(50)), "last"]
            assert await there.send_user_message("nobody", "x", confirm=True) == Confirmation(0, 0)
            assert await there.disconnect_user("ada b.*", 4001) == 2
            await first.expect_close(4001)
            await second.expect_close(4001)
            assert await here.send_user_message("ben", "to ben", confirm=True) == Confirmation(1, 0)
            assert await ben.receive() == "to ben"


async def test_who_is_present_and_what_members_say_crosses_brokers(nats):
    async with on_nats(nats) as ((one, here), (two, _)):
        async with SessionClient(one, "/ann") as ann, SessionClient(two, "/bob") as bob:
            await here.join_room("ann", "a *.>", signals=True)
            await here.join_room(bob.name, "a *.>")
            await until(lambda: "a *.>" in ann.core.rooms and "a *.>" in bob.core.rooms)
            bob.watch("a *.>")
            assert await here.set_presence("ann", "a *.>", {"x": 1}) is True
            assert await here.set_presence(bob.name, "a *.>", 2) is True
            await until(lambda: bob.present("a *.>") == {"ann": 1, bob.name: 1})
            assert sorted(each.user for each in await here.presence("a *.>")) == sorted(["ann", bob.name])
            ann.signal("a *.>", "x", b"\x00\xff")
            ann.signal("a *.>", "y", "text")
            await until(lambda: len(bob.signals) == 2)
            assert [each.body for each in bob.signals] == [b"\x00\xff", "text"]
            await here.leave_room("ann", "a *.>")
            await until(lambda: bob.present("a *.>") == {bob.name: 1})


async def test_a_client_that_ends_after_the_engine_is_no_failure(nats, caplog):
    class Stuck(Named):
        async def on_message(self, message, context):
            await asyncio.sleep(60)

    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(broker(nats_url=(nats.url,), close_timeout=0.1))
        stuck = Stuck("127.0.0.1", one.tcp_port, auto_reconnect=False)
        await stuck.connect()
        async with connect(one, "/ann") as ann:
            for number in range(100):
                await ann.send(str(number))
            (client,) = parts_of(one).rooms.clients
            await until(lambda: client.ws.held_bytes)
            await one.stop()
            client.ws.drop_backlog()
            await until(lambda: client.ws.client is None)
        await stuck.disconnect(0)
    assert not [record for record in caplog.records if record.exc_info]
