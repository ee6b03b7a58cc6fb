"""Who gets in, over real sockets: the verdict comes before the 101."""

import asyncio
import json

import pytest
import websockets.exceptions

from pystrands import AsyncPyStrandsClient

from .support import backend, connect, running_broker, until


async def status_of(broker, path="/room", **options):
    with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
        async with connect(broker, path, **options):
            pass
    return caught.value.response


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
    async with running_broker() as broker, backend(broker, Doorman):
        assert (await status_of(broker)).status_code == 403
        for path, headers in (("/ws/room", {"X-Token": "secret"}), ("/ws/room?token=secret", {})):
            async with connect(broker, path, additional_headers=headers) as ws:
                await ws.send("who am I")
                assert json.loads(await ws.recv()) == {
                    "client_id": "user-7", "room_id": "ws/room",
                    "metadata": {"deep": {"list": [1, 2.5, None, "é"]}, "accepted": True},
                }  # fmt: skip


async def test_the_callback_decides_by_result_by_flag_or_by_raising():
    class Deciding(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            if request.url == "/flag":
                request.accepted = False
            if request.url == "/raise":
                raise RuntimeError("no")

    async with running_broker() as broker, backend(broker, Deciding):
        assert (await status_of(broker, "/flag")).status_code == 403
        assert (await status_of(broker, "/raise")).status_code == 403
        async with connect(broker, "/"):
            pass


async def test_without_a_backend_a_client_waits_and_then_hears_503():
    async with running_broker(hold_time=0.05) as broker:
        response = await status_of(broker)
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0


async def test_a_held_client_gets_in_when_a_backend_comes():
    async with running_broker(hold_time=30.0) as broker:
        opening = asyncio.ensure_future(asyncio.wait_for(connect(broker), 20))
        await until(lambda: len(broker._router.doorkeeper))
        async with backend(broker):
            await (await opening).close()


async def test_a_backend_that_never_answers_costs_504_and_not_for_ever():
    stuck = asyncio.Event()

    class Stuck(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            await stuck.wait()

    async with running_broker(answer_timeout=0.05) as broker, backend(broker, Stuck):
        assert (await status_of(broker)).status_code == 504
        stuck.set()


async def get(broker, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.ws_port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return int(answer.split()[1])


async def test_health_and_readiness():
    async with running_broker() as broker:
        assert await get(broker, "/healthz") == 200
        assert await get(broker, "/readyz") == 503
        async with backend(broker):
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

    async with running_broker() as broker, backend(broker, Named) as named:
        older = await connect(broker)
        newer = await connect(broker)
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            await older.recv()
        assert older.close_code == 1008
        await newer.send("to the newer one")
        assert await newer.recv() == "to the newer one"
        assert named.life == ["new", "gone", "new"]
        await newer.close()
