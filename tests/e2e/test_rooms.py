"""What backends can do with clients and rooms, with both clients and over real sockets."""

import asyncio
from typing import Any

import pytest
import websockets.exceptions

from pystrands import AsyncPyStrandsClient, Confirmation, Context, NotConnected, PyStrandsClient
from pystrands.testing import backend, until
from pystrands.testing import broker as running_broker

from .support import connect


class Named(AsyncPyStrandsClient):
    """Lets clients choose their id by the path, and keeps what it hears."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ended: list[Context] = []
        self.heard: list[Context] = []

    async def on_connection_request(self, request):
        request.context.client_id = request.url.strip("/")
        request.context.room_id = "lobby"
        request.context.metadata = {"name": request.context.client_id}

    async def on_message(self, message, context):
        self.heard.append(context)

    async def on_disconnect(self, context):
        self.ended.append(context)


async def test_a_client_is_in_as_many_rooms_as_a_backend_puts_it_into():
    async with running_broker() as broker, backend(broker, Named) as named:
        async with connect(broker, "/ann") as ann, connect(broker, "/bob") as bob:
            assert await named.join_room("ann", "kitchen") is True
            assert await named.join_room("ann", "kitchen") is True
            assert await named.join_room("nobody", "kitchen") is False
            await named.send_room_message("kitchen", "to the kitchen")
            await named.send_room_message("lobby", "to the lobby")
            assert [await ann.recv(), await ann.recv()] == ["to the kitchen", "to the lobby"]
            assert await bob.recv() == "to the lobby"
            members = await named.room_members("lobby")
            assert {member.client_id: (member.rooms, member.metadata) for member in members} == {
                "ann": (("lobby", "kitchen"), {"name": "ann"}),
                "bob": (("lobby",), {"name": "bob"}),
            }
            await ann.send("x")
            await until(lambda: named.heard)
            assert (named.heard[0].room_id, named.heard[0].rooms) == ("lobby", ("lobby", "kitchen"))
            assert await named.leave_room("ann", "lobby") is True
            assert await named.leave_room("nobody", "lobby") is False
            assert [member.client_id for member in await named.room_members("lobby")] == ["bob"]
            assert await named.room_members("nowhere") == []


async def test_metadata_changes_and_is_there_in_the_next_event():
    async with running_broker() as broker, backend(broker, Named) as named, connect(broker, "/ann") as ann:
        assert await named.update_metadata("ann", {"role": "admin", "deep": {"a": [1]}}) is True
        assert await named.update_metadata("nobody", {"role": "admin"}) is False
        await ann.send("x")
        await until(lambda: named.heard)
        assert named.heard[0].metadata == {"name": "ann", "role": "admin", "deep": {"a": [1]}}
        with pytest.raises(TypeError, match="metadata"):
            await named.update_metadata("ann", {"when": object()})


async def test_a_backend_closes_a_client_and_hears_why_clients_left():
    async with running_broker() as broker, backend(broker, Named) as named:
        ann, bob = await connect(broker, "/ann"), await connect(broker, "/bob")
        assert await named.disconnect_client("ann", 4001, "too loud") is True
        assert await named.disconnect_client("nobody") is False
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            await ann.recv()
        assert (ann.close_code, ann.close_reason) == (4001, "too loud")
        await bob.close(4002, "bored")
        await until(lambda: len(named.ended) == 2)
        assert [(context.client_id, context.close_code, context.reason) for context in named.ended] == [
            ("ann", 4001, "too loud"), ("bob", 4002, "bored")
        ]  # fmt: skip
        carl = await connect(broker, "/carl")
        carl.transport.abort()
        await until(lambda: len(named.ended) == 3)
        assert (named.ended[2].close_code, named.ended[2].reason) == (1006, "")
        codes: list[Any] = [999, 1005, 2000, 5000, "1000"]
        for code in codes:
            with pytest.raises(ValueError, match="code"):
                await named.disconnect_client("ann", code)


async def test_room_messages_and_broadcasts_can_leave_clients_out():
    async with running_broker() as broker, backend(broker, Named) as named:
        ann, bob, carl = [await connect(broker, path) for path in ("/ann", "/bob", "/carl")]
        await named.send_room_message("lobby", "1", exclude="ann")
        await named.broadcast_message("2", exclude=["ann", "bob"])
        await named.broadcast_message("3")
        assert await ann.recv() == "3"
        assert [await bob.recv() for _ in range(2)] == ["1", "3"]
        assert [await carl.recv() for _ in range(3)] == ["1", "2", "3"]
        for ws in (ann, bob, carl):
            await ws.close()


async def test_a_confirmation_tells_how_many_clients_it_was_for():
    async with running_broker() as broker, backend(broker, Named) as named, connect(broker, "/ann") as ann:
        assert await named.send_room_message("lobby", "x", confirm=True) == Confirmation(matched=1, skipped=0)
        assert await named.send_room_message("lobby", "x", exclude="ann", confirm=True) == Confirmation(0, 0)
        assert await named.send_private_message("ann", "x", confirm=True) == Confirmation(1, 0)
        assert await named.send_private_message("nobody", "x", confirm=True) == Confirmation(0, 0)
        assert await named.broadcast_message("x", confirm=True) == Confirmation(1, 0)
        assert [await ann.recv() for _ in range(3)] == ["x"] * 3


async def test_a_confirmation_tells_of_clients_that_are_too_slow():
    options = {
        "client_buffer": 70_000,
        "max_message_size": 60_000,
        "slow_client_policy": "drop",
        "slow_client_time": 0.5,
    }
    async with running_broker(**options) as broker, backend(broker, Named) as named:
        ws = await connect(broker, "/ann", max_queue=1)
        ws.transport.pause_reading()
        for _ in range(2000):
            confirmation = await named.send_room_message("lobby", "x" * 60_000, confirm=True)
            assert confirmation.matched == 1
            if confirmation.skipped:
                break
        assert confirmation == Confirmation(1, 1)
        ws.transport.abort()


async def test_without_a_link_there_is_no_answer_and_a_clear_error():
    named = Named(port=1, auto_reconnect=False)
    for call in (named.join_room("a", "b"), named.room_members("b"), named.broadcast_message("x", confirm=True)):
        with pytest.raises(NotConnected):
            await call


async def test_an_answer_that_does_not_come_in_time_is_a_timeout():
    async with running_broker() as broker, backend(broker, Named) as named:
        with pytest.raises(TimeoutError):
            await named.room_members("lobby", timeout=0)


async def test_a_handler_may_ask_while_others_run():
    class Asking(Named):
        async def on_message(self, message, context):
            members = await self.room_members(context.room_id)
            await self.send_private_message(context.client_id, str(len(members)))

    async with running_broker() as broker, backend(broker, Asking):
        clients = [await connect(broker, f"/{number}") for number in range(20)]
        for ws in clients:
            await ws.send("how many?")
        assert [await ws.recv() for ws in clients] == ["20"] * 20
        for ws in clients:
            await ws.close()


async def test_the_threaded_client_does_the_same():
    class Threaded(PyStrandsClient):
        def on_connection_request(self, request):
            request.context.client_id = request.url.strip("/")
            request.context.room_id = "lobby"

        def on_message(self, message, context):
            self.join_room(context.client_id, message)
            members = self.room_members(message)
            confirmation = self.send_room_message(message, str(len(members)), confirm=True)
            self.update_metadata(context.client_id, {"told": confirmation.matched})
            (me,) = self.room_members("lobby")
            self.send_private_message(context.client_id, f"{me.metadata} {me.rooms}")
            self.disconnect_client(context.client_id, 4000, "done")

    async with running_broker() as broker:
        client = Threaded(port=broker.tcp_port)
        assert await asyncio.to_thread(client.connect)
        try:
            async with connect(broker, "/ann") as ann:
                await ann.send("kitchen")
                assert [await ann.recv(), await ann.recv()] == ["1", "{'told': 1} ('lobby', 'kitchen')"]
                with pytest.raises(websockets.exceptions.ConnectionClosed):
                    await ann.recv()
                assert ann.close_code == 4000
        finally:
            await asyncio.to_thread(client.disconnect)
        with pytest.raises(NotConnected):
            client.room_members("lobby")


async def test_a_handler_that_takes_too_long_is_cancelled_and_the_next_one_runs():
    class Slow(AsyncPyStrandsClient):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.errors: list[str] = []

        async def on_message(self, message, context):
            if message == "slow":
                await asyncio.Event().wait()
            await self.send_private_message(context.client_id, message)

        async def on_error(self, error, context):
            self.errors.append(error)

    async with running_broker() as broker, backend(broker, Slow, handler_timeout=0.05) as slow:
        async with connect(broker) as ws:
            await ws.send("slow")
            await ws.send("fast")
            assert await ws.recv() == "fast"
        assert len(slow.errors) == 1
        assert "handler_timeout" in slow.errors[0]


async def test_a_program_that_only_sends_gets_no_clients():
    async with running_broker(hold_time=0.05) as broker:
        sender = AsyncPyStrandsClient(port=broker.tcp_port, send_only=True)
        assert await sender.connect()
        with pytest.raises(websockets.exceptions.InvalidStatus, match="503"):
            await connect(broker, "/ann")
        async with backend(broker, Named), connect(broker, "/ann") as ann:
            assert broker.backend_count == 1
            for number in range(5):
                await sender.send_room_message("lobby", str(number))
            assert [await ann.recv() for _ in range(5)] == list("01234")
            assert await sender.send_private_message("ann", "x", confirm=True) == Confirmation(1, 0)
            others = [await connect(broker, f"/{number}") for number in range(5)]
            await sender.disconnect()
            for ws in others:
                await ws.close()


async def test_a_program_that_only_sends_refuses_a_broker_that_would_give_it_clients():
    async def hello_of_protocol_1(reader, writer):
        writer.write(b'{"action":"hello","params":{"protocol":1}}\n')
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hello_of_protocol_1, "127.0.0.1", 0)
    async with server:
        sender = AsyncPyStrandsClient(port=server.sockets[0].getsockname()[1], send_only=True)
        assert not await sender.connect()
