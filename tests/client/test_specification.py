"""The examples of the specification, as written there."""

import asyncio
import subprocess
import sys

import pytest

import pystrands
from pystrands import AsyncPyStrandsClient
from tests.client.fake_broker import FakeBroker, context, line, message, request, soon, until

CHAT = """
import asyncio
import logging
from pystrands import AsyncPyStrandsClient

logging.basicConfig(level=logging.INFO)

class ChatServer(AsyncPyStrandsClient):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.users = {}  # client_id -> username

    async def on_connection_request(self, request):
        token = request.headers.get("X-Token", [None])[0]
        if token != "secret":
            return False
        request.context.room_id = request.url.strip("/") or "lobby"
        request.context.metadata = {"token": token}
        return True

    async def on_new_connection(self, context):
        self.users[context.client_id] = f"User_{context.client_id[:8]}"
        await self.send_room_message(
            context.room_id,
            f"{self.users[context.client_id]} joined"
        )

    async def on_message(self, message, context):
        username = self.users.get(context.client_id, "Unknown")
        formatted = f"{username}: {message}"
        await self.send_room_message(context.room_id, formatted)

    async def on_disconnect(self, context):
        username = self.users.pop(context.client_id, "Unknown")
        await self.send_room_message(
            context.room_id,
            f"{username} left"
        )

async def main():
    client = ChatServer(
        host="localhost",
        port=8081,
        auto_reconnect=True
    )
    await client.run_forever()
"""

FASTAPI = """
from fastapi import FastAPI
from pystrands import AsyncPyStrandsClient
import asyncio

app = FastAPI()

class FastAPIBackend(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_room_message(context.room_id, f"echo: {message}")

backend = FastAPIBackend()

@app.on_event("startup")
async def startup():
    asyncio.create_task(backend.run_forever())

@app.on_event("shutdown")
async def shutdown():
    await backend.disconnect()

@app.get("/")
async def root():
    return {"status": "running", "connected": backend.connected}
"""


async def test_the_complete_example(broker):
    example = {}
    code = CHAT.replace("logging.basicConfig(level=logging.INFO)", "")  # pytest's handlers stay
    exec(code.replace("8081", str(broker.port)).replace('"localhost"', '"127.0.0.1"'), example)
    running = asyncio.create_task(example["main"]())
    connection = await broker.link()
    await connection.send(request("q1", headers={"X-Token": ["wrong"]}) + request("q2", headers={}))
    assert [(await connection.receive())["params"]["accepted"] for _ in range(2)] == [False, False]
    await connection.send(request("q3", url="/"))
    answer = (await connection.receive())["params"]
    assert answer.pop("client_id")
    assert answer == {"accepted": True, "room_id": "lobby", "metadata": {"token": "secret"}}
    client = {"context": context("abcdefghij", "lobby")}
    await connection.send(line("new_connection", client))
    await connection.send(line("new_message", {"message": "hello"} | client))
    await connection.send(line("disconnected", client))
    assert await connection.texts(3) == ["User_abcdefgh joined", "User_abcdefgh: hello", "User_abcdefgh left"]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(running)


def test_the_overview_example_with_asyncio_run():
    class MyBackend(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            await self.send_room_message(context.room_id, f"echo: {message}")
            await self.disconnect()

    client = MyBackend(host="localhost", port=8081)  # outside of a loop

    async def main():
        async with FakeBroker() as fake:
            client.host, client.port = fake.address
            running = asyncio.create_task(client.run_forever())
            connection = await fake.link()
            await connection.send(message("x"))
            assert await connection.texts(1) == ["echo: x"]
            await soon(running)

    asyncio.run(main())


# FastAPI still runs these examples, and says that its lifespan parameter is the newer way.
@pytest.mark.filterwarnings(r"ignore:\s*on_event is deprecated:DeprecationWarning")
async def test_fastapi_with_its_startup_and_shutdown_events(broker):
    example = {}
    exec(FASTAPI, example)
    app, backend = example["app"], example["backend"]
    backend.host, backend.port = broker.address
    assert await example["root"]() == {"status": "running", "connected": False}
    async with app.router.lifespan_context(app):
        connection = await broker.link()
        await connection.send(message("hi"))
        assert await connection.texts(1) == ["echo: hi"]
        assert await example["root"]() == {"status": "running", "connected": True}
    assert not backend.connected
    await until(lambda: [task for task in asyncio.all_tasks() if "pystrands" in task.get_name()] == [])


async def test_fastapi_with_its_lifespan(broker):
    from contextlib import asynccontextmanager

    from fastapi import FastAPI

    backend = AsyncPyStrandsClient(**broker.where)

    @asynccontextmanager
    async def lifespan(_app):
        running = asyncio.create_task(backend.run_forever())
        yield
        await backend.disconnect()
        await running

    app = FastAPI(lifespan=lifespan)
    async with app.router.lifespan_context(app):
        await broker.link()
        await until(lambda: backend.connected)
    assert not backend.connected


async def test_the_guard_of_the_connect_example(broker):
    client = AsyncPyStrandsClient(
        host="127.0.0.1",
        port=broker.port,
        auto_reconnect=True,
        reconnect_delay=1.0,
        max_reconnect_delay=30.0,
        reconnect_backoff=2.0,
    )
    assert await client.connect() is True
    await client.disconnect(timeout=5.0)


def test_importing_the_library_does_not_import_the_broker():
    code = (
        "import sys, pystrands; from re import match; "
        "print([m for m in sys.modules if match('pystrands.broker|.*picows|.*uvloop', m)])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert shown.stdout.strip() == "[]"


def test_exports():
    for name in pystrands.__all__:
        assert getattr(pystrands, name)
    assert pystrands.__version__[0].isdigit()
