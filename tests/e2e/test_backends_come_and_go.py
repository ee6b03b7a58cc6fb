"""Links that are lost, and what becomes of their clients: the WebSockets stay open."""

import asyncio
import json

import pytest

from pystrands import AsyncPyStrandsClient, testing


class Named(AsyncPyStrandsClient):
    """Says who it is with each message."""

    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, f"{self.name}: {message}")


async def test_clients_of_a_lost_backend_go_to_another_one():
    async with testing.broker() as broker, testing.backend(broker, Named, name="one"):
        ws = await testing.connect(broker, "/room")
        async with testing.backend(broker, Named, name="two"):
            other = await testing.connect(broker, "/room")
            for each, name in ((ws, "one"), (other, "two")):
                await each.send("x")
                await each.expect(f"{name}: x")
        await testing.until(lambda: broker.backend_count == 1)
        await other.send("y")
        await other.expect("one: y")
        await ws.close()
        await other.close()


async def test_messages_wait_for_a_backend_in_order():
    async with testing.broker() as broker:
        async with testing.backend(broker, Named, name="one"):
            ws = await testing.connect(broker, "/room")
        await testing.until(lambda: not broker.backend_count)
        for number in range(100):
            await ws.send(str(number))
        await testing.until(lambda: broker.queued_messages == 100)
        async with testing.backend(broker, Named, name="two"):
            assert [await ws.receive() for _ in range(100)] == [f"two: {number}" for number in range(100)]
            await ws.close()


@pytest.mark.no_cover
async def test_a_full_queue_stops_reading_and_nothing_is_lost():
    async with testing.broker(queue_size=10) as broker:
        async with testing.backend(broker, Named, name="one"):
            ws = await testing.connect(broker, "/room")
        await testing.until(lambda: not broker.backend_count)
        count = 3000
        sending = asyncio.ensure_future(asyncio.wait_for(send_numbers(ws, count, "x" * 4000), 30))
        await testing.until(lambda: broker.queued_messages >= 10)
        async with testing.backend(broker, Named, name="two"):
            for number in range(count):
                assert str(await ws.receive()).startswith(f"two: {number} ")
            await sending
            await ws.close()
        assert broker.counters["queue_dropped"] == 0


async def send_numbers(ws, count, padding):
    for number in range(count):
        await ws.send(f"{number} {padding}", timeout=30)


@pytest.mark.parametrize("size", [0, 3])
async def test_drop_oldest_and_a_queue_that_is_off(size):
    async with testing.broker(queue_size=size, queue_policy="drop-oldest") as broker:
        async with testing.backend(broker, Named, name="one"):
            ws = await testing.connect(broker, "/room")
        await testing.until(lambda: not broker.backend_count)
        for number in range(10):
            await ws.send(str(number))
        await testing.until(lambda: broker.counters["messages_received"] == 10)
        async with testing.backend(broker, Named, name="two"):
            await ws.send("end")
            expected = [f"two: {number}" for number in range(10 - size, 10)] + ["two: end"]
            assert [await ws.receive() for _ in expected] == expected
            await ws.close()


class OriginalBackend:
    """A backend as the original library wrote them: no hello, no flags, one JSON object a line."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def read(self, action):
        while True:
            line = json.loads(await asyncio.wait_for(self.reader.readline(), 20))
            if line["action"] == action:
                return line

    def send(self, action, params, request_id="d2b4c6"):
        self.writer.write(json.dumps({"action": action, "request_id": request_id, "params": params}).encode() + b"\n")


async def test_a_backend_of_the_original_works_with_our_broker():
    async with testing.broker() as broker:
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.tcp_port)
        original = OriginalBackend(reader, writer)
        opening = asyncio.ensure_future(testing.connect(broker, "/lobby"))
        request = await original.read("connection_request")
        assert request["params"]["url"] == "/lobby"
        assert request["params"]["headers"]["Upgrade"] == ["websocket"]
        host, _, port = request["params"]["remote_addr"].rpartition(":")
        assert (host, port.isdigit()) == ("127.0.0.1", True)
        context = {"client_id": "c-1", "room_id": "lobby", "metadata": {"a": 1}}
        original.send("response", {"accepted": True, **context}, request["request_id"])
        ws = await opening
        assert (await original.read("new_connection"))["params"] == {"context": context}
        await ws.send("hi")
        assert (await original.read("new_message"))["params"] == {"message": "hi", "context": context}
        original.send("message_to_room", {"room_id": "lobby", "message": "to the room"})
        original.send("message_to_connection", {"conn_id": "c-1", "message": "to you"})
        original.send("broadcast", {"message": "to all"})
        assert [await ws.receive() for _ in range(3)] == ["to the room", "to you", "to all"]
        await ws.send(b"binary")
        await ws.expect_close(1003)
        assert (await original.read("error"))["params"]["context"] == context
        assert (await original.read("disconnected"))["params"] == {
            "context": context, "code": 1003, "reason": "the backend only takes text"
        }  # fmt: skip
        writer.close()


async def test_a_broker_that_goes_tells_its_clients_1012_and_backends_come_to_the_next_one():
    async with testing.broker() as first:
        port = first.tcp_port
        async with testing.backend(first, Named, name="one", reconnect_delay=0.01, max_reconnect_delay=0.05) as one:
            ws = await testing.connect(first, "/room")
            await first.stop()
            await ws.expect_close(1012)
            async with testing.broker(tcp_port=port) as second:
                await testing.until(lambda: second.backend_count)
                async with testing.connect(second, "/room") as again:
                    await again.send("x")
                    await again.expect("one: x")
                assert one.connected
