"""Messages, from WebSocket clients through the broker to backends and back, over real sockets."""

import asyncio
from collections import Counter, defaultdict
from typing import Any

import picows
import pytest
import websockets.exceptions

from pystrands import AsyncPyStrandsClient, testing

from .support import connect


class RoomBackend(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_room_message(context.room_id, message)


class PicowsClient(picows.WSListener):
    """The other real peer."""

    def __init__(self) -> None:
        self.received: list[str] = []

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type == picows.WSMsgType.TEXT:
            self.received.append(frame.get_payload_as_utf8_text())


async def test_a_message_goes_there_and_back():
    async with testing.broker() as broker, testing.backend(broker, RoomBackend), connect(broker) as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"


async def test_text_and_binary_of_every_size_arrive_as_they_were_sent():
    class Echo(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            await self.send_private_message(context.client_id, message)

    async with testing.broker() as broker, testing.backend(broker, Echo), connect(broker, max_size=None) as ws:
        for size in (0, 1, 125, 126, 127, 65535, 65536, 200_000, 1 << 20):
            for message in (
                "\x00" * size,
                "é" * (size // 2),
                bytes(range(256)) * (size // 256) + b"\xff" * (size % 256),
            ):
                await ws.send(message)
                assert await ws.recv() == message
        await ws.send(["fragm", "", "ents"])
        assert await ws.recv() == "fragments"


async def test_room_private_and_broadcast_reach_exactly_those_they_are_for():
    async with testing.broker() as broker, testing.backend(broker) as sender:
        a1, a2, b1 = [await connect(broker, path) for path in ("/a", "/a", "/b")]
        await sender.send_room_message("/a", "to a")
        await sender.send_room_message("/nobody", "lost")
        await sender.send_private_message("nobody", "lost")
        await sender.broadcast_message("to all")
        for ws, expected in ((a1, ["to a", "to all"]), (a2, ["to a", "to all"]), (b1, ["to all"])):
            assert [await ws.recv() for _ in expected] == expected
            await ws.close()
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                await ws.recv()


@pytest.mark.no_cover
async def test_200_clients_in_20_rooms_get_exactly_their_messages_in_order():
    rooms, per_room, per_client = 20, 10, 10
    async with testing.broker() as broker, testing.backend(broker, RoomBackend), asyncio.TaskGroup() as group:
        everyone = asyncio.Event()

        async def with_websockets(number: int) -> list[str]:
            async with connect(broker, f"/{number % rooms}") as ws:
                await everyone.wait()
                for message in range(per_client):
                    await ws.send(f"{number}:{message}")
                received = [str(await ws.recv()) for _ in range(per_room * per_client)]
                await all_done.wait()
                return received

        async def with_picows(number: int) -> list[str]:
            url = f"ws://127.0.0.1:{broker.ws_port}/{number % rooms}"
            transport, client = await picows.ws_connect(PicowsClient, url, enable_auto_ping=False)
            assert isinstance(client, PicowsClient)
            await everyone.wait()
            for message in range(per_client):
                transport.send(picows.WSMsgType.TEXT, f"{number}:{message}".encode())
            await testing.until(lambda: len(client.received) >= per_room * per_client)
            await all_done.wait()
            transport.disconnect()
            await transport.wait_disconnected()
            return client.received

        all_done = asyncio.Event()
        peers = [
            group.create_task((with_websockets if number // rooms % 2 else with_picows)(number))
            for number in range(rooms * per_room)
        ]
        await testing.until(lambda: broker.client_count == rooms * per_room)
        everyone.set()
        await testing.until(lambda: broker.counters["messages_delivered"] == rooms * per_room**2 * per_client)
        all_done.set()
        for number, peer in enumerate(peers):
            by_sender = defaultdict(list)
            for text in await peer:
                sender, message = map(int, text.split(":"))
                by_sender[sender].append(message)
            assert set(by_sender) == set(range(number % rooms, rooms * per_room, rooms))
            assert all(messages == list(range(per_client)) for messages in by_sender.values())


class ChatServer(AsyncPyStrandsClient):
    """The state of the specification's complete example, with a record, and with handlers that may be slow."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.users: dict[str, str] = {}
        self.events: defaultdict[str, list[str]] = defaultdict(list)
        self.release = asyncio.Event()

    async def on_new_connection(self, context):
        self.users[context.client_id] = f"User_{context.client_id[:8]}"
        self.events[context.client_id].append("joined")

    async def on_message(self, message, context):
        if message == "slow":
            await self.release.wait()
        username = self.users.get(context.client_id, "Unknown")
        self.events[context.client_id].append(message)
        await self.send_private_message(context.client_id, f"{username}: {message}")

    async def on_disconnect(self, context):
        self.users.pop(context.client_id)
        self.events[context.client_id].append("left")


async def test_with_two_backends_every_event_reaches_its_owner_in_order_beside_slow_handlers():
    count, per_client = 40, 20
    async with (
        testing.broker() as broker,
        testing.backend(broker, ChatServer) as one,
        testing.backend(broker, ChatServer) as two,
    ):
        clients = [await connect(broker) for _ in range(count)]
        for ws in clients[::4]:
            await ws.send("slow")
        for number in range(per_client):
            for ws in clients:
                await ws.send(str(number))
        for index, ws in enumerate(clients):
            if index % 4:  # those behind a slow handler wait, and nobody else does
                texts = [str(await ws.recv()) for _ in range(per_client)]
                assert [text.split(": ")[1] for text in texts] == [str(number) for number in range(per_client)]
                assert all(text.startswith("User_") for text in texts)
        one.release.set()
        two.release.set()
        for ws in clients[::4]:
            texts = [str(await ws.recv()) for _ in range(per_client + 1)]
            assert [text.split(": ")[1] for text in texts] == ["slow", *map(str, range(per_client))]
            assert all(text.startswith("User_") for text in texts)
        for ws in clients:
            await ws.close()
        await testing.until(lambda: not one.users and not two.users)
        assert len(one.events) == len(two.events) == count // 2
        expected = ["joined", *map(str, range(per_client)), "left"]
        for client_id, events in (one.events | two.events).items():
            assert [event for event in events if event != "slow"] == expected, client_id


async def test_a_client_that_does_not_read_is_closed_and_costs_the_others_nothing():
    async with testing.broker(client_buffer=1 << 20, slow_client_time=0.5) as broker, testing.backend(broker) as sender:
        stuck = await testing.connect(broker, "/room", receive_buffer=4096)
        stuck.stop_reading()
        async with connect(broker) as ws:
            await testing.until(lambda: broker.client_count == 2)
            sent = 0
            while not broker.counters["slow_consumer_closed"]:
                assert sent < 1000
                for _ in range(10):
                    await sender.send_room_message("/room", "x" * 60_000)
                    sent += 1
                for _ in range(10):
                    assert len(await ws.recv()) == 60_000
            await testing.until(lambda: broker.client_count == 1)
            await sender.send_room_message("/room", "after")
            assert await ws.recv() == "after"
        await stuck.close()


async def test_many_backends_and_threads_of_sends_never_mix_messages():
    async with (
        testing.broker() as broker,
        testing.backend(broker) as one,
        testing.backend(broker) as two,
        connect(broker) as ws,
    ):
        await asyncio.gather(
            *(
                sender.send_room_message("/room", f"{number}:" + "x" * 3000)
                for sender in (one, two)
                for number in range(200)
            )
        )
        received = Counter([str(await ws.recv()) for _ in range(400)])
        assert received == {f"{number}:" + "x" * 3000: 2 for number in range(200)}
