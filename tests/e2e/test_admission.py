"""Who gets in, over real sockets: the verdict comes before the 101."""

import asyncio
import json

import pytest

from pystrands import AsyncPyStrandsClient, testing

from .support import connect


async def rejection(broker, path="/room"):
    with pytest.raises(testing.Rejected) as caught:
        await testing.connect(broker, path)
    return caught.value


class Doorman(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        if request.headers.get("X-Token", [""])[0] != "secret" and request.query.get("token") != ["secret"]:
            return False
        request.context.room_id = request.url.strip("/")
        request.context.client_id = "user-7"
        request.context.metadata = {"deep": {"list": [1, 2.5, None, "é"]}, "accepted": True}
        return True

    async def on_message(self, message, context):
        await self.send_room_message(context.room_id, json.dumps(context.to_json()))


async def test_what_the_callback_chose_is_what_counts():
    async with testing.broker() as broker, testing.backend(broker, Doorman):
        assert (await rejection(broker)).status == 403
        for path, headers in (("/ws/room", {"X-Token": "secret"}), ("/ws/room?token=secret", {})):
            async with testing.connect(broker, path, headers=headers) as ws:
                await ws.send("who am I")
                await ws.expect_json({
                    "client_id": "user-7", "room_id": "ws/room",
                    "metadata": {"deep": {"list": [1, 2.5, None, "é"]}, "accepted": True},
                })  # fmt: skip


async def test_the_callback_decides_by_result_by_flag_or_by_raising():
    class Deciding(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            if request.url == "/flag":
                request.accepted = False
            if request.url == "/raise":
                raise RuntimeError("no")

    async with testing.broker() as broker, testing.backend(broker, Deciding):
        assert (await rejection(broker, "/flag")).status == 403
        assert (await rejection(broker, "/raise")).status == 403
        async with connect(broker, "/"):
            pass


async def test_without_a_backend_a_client_waits_and_then_hears_503():
    async with testing.broker(hold_time=0.05) as broker:
        response = await rejection(broker)
        assert response.status == 503
        assert int(response.headers["Retry-After"][0]) > 0


async def test_a_held_client_gets_in_when_a_backend_comes():
    async with testing.broker(hold_time=30.0) as broker:
        opening = asyncio.ensure_future(asyncio.wait_for(connect(broker), 20))
        await testing.until(lambda: len(broker._router.doorkeeper))
        async with testing.backend(broker):
            await (await opening).close()


async def test_a_backend_that_never_answers_costs_504_and_not_for_ever():
    stuck = asyncio.Event()

    class Stuck(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            await stuck.wait()

    async with testing.broker(answer_timeout=0.05) as broker, testing.backend(broker, Stuck):
        assert (await rejection(broker)).status == 504
        stuck.set()


async def get(broker, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.ws_port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return int(answer.split()[1])


async def test_the_backend_chooses_the_subprotocol():
    class Choosing(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            request.subprotocol = request.query.get("choose", [None])[0]

    async with testing.broker() as broker, testing.backend(broker, Choosing):
        for path, chosen in (("/?choose=b", "b"), ("/", None), ("/?choose=not-offered", None)):
            async with testing.connect(broker, path, subprotocols=["a", "b"]) as client:
                assert client.subprotocol == chosen


async def test_a_subprotocol_that_is_no_text_rejects():
    class Choosing(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            request.subprotocol = 7

    async with testing.broker() as broker, testing.backend(broker, Choosing):
        assert (await rejection(broker)).status == 403


async def test_health_and_readiness():
    async with testing.broker() as broker:
        assert await get(broker, "/healthz") == 200
        assert await get(broker, "/readyz") == 503
        async with testing.backend(broker):
            assert await get(broker, "/readyz") == 200
        assert await get(broker, "/else") == 426


async def test_a_reused_client_id_closes_the_older_socket_and_the_newer_one_works():
    class Named(AsyncPyStrandsClient):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.life: list[str] = []

        async def on_connection_request(self, request):
            request.context.client_id = "same"

        async def on_new_connection(self, context):
            self.life.append("new")

        async def on_disconnect(self, context):
            self.life.append("gone")

        async def on_message(self, message, context):
            await self.send_private_message("same", message)

    async with testing.broker() as broker, testing.backend(broker, Named) as named:
        older = await testing.connect(broker)
        newer = await testing.connect(broker)
        await older.expect_close(1008)
        await newer.send("to the newer one")
        await newer.expect("to the newer one")
        assert named.life == ["new", "gone", "new"]
        await newer.close()
