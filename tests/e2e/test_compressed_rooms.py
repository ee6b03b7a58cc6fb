"""A room of clients that compress and clients that don't: all get the same, in the same order."""

from contextlib import AsyncExitStack

from pystrands import AsyncPyStrandsClient, testing

from .support import connect

LONG = "a long line that repeats itself; " * 100


class Named(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        request.context.client_id = request.query["name"][0]


async def test_messages_to_all_to_some_and_to_one_keep_their_order_and_are_compressed_once():
    async with (
        testing.broker(compression=True, compression_threshold=100) as broker,
        testing.backend(broker, Named) as backend,
        AsyncExitStack() as stack,
    ):
        kinds = {"a": "deflate", "b": "deflate", "c": None, "d": None}
        clients = {
            name: await stack.enter_async_context(connect(broker, f"/r?name={name}", compression=kind))
            for name, kind in kinds.items()
        }
        expected = {name: [] for name in kinds}
        for number in range(12):
            message = f"{number} {LONG if number % 2 else ''}"
            if number % 4 == 3:
                await backend.send_room_message("/r", message, exclude=["b"])
                got = "acd"
            elif number % 3 == 2:
                await backend.send_private_message("a", message)
                got = "a"
            else:
                await backend.send_room_message("/r", message)
                got = "abcd"
            for name in got:
                expected[name].append(message)
        for name, client in clients.items():
            assert [await client.recv() for _ in expected[name]] == expected[name]
        long = sum(LONG in message for message in expected["a"])
        assert broker.counters["messages_compressed"] == long
