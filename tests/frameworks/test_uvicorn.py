"""AsyncPyStrandsClient in uvicorn's workers, and through its reloads, run by the application's lifespan."""

import os
import signal
import time

import pytest

from pystrands import testing
from tests.frameworks.support import PATIENCE, fetch, free_port, serving

APPLICATION = """\
import asyncio
import contextlib
import os

from fastapi import FastAPI
from pystrands import AsyncPyStrandsClient

VERSION = "first"


class Backend(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_room_message(context.room_id, f"{message} from {VERSION} {os.getpid()}")

    async def on_disconnect(self, context):
        print("goodbye,", context.client_id, flush=True)


backend = Backend("localhost", int(os.environ["BROKER"]))


@contextlib.asynccontextmanager
async def lifespan(app):
    running = asyncio.create_task(backend.run_forever())
    yield
    await backend.disconnect()
    await running
    print("ended in order", flush=True)


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def root():
    return {"pid": os.getpid(), "connected": backend.connected}
"""


@pytest.fixture(scope="module")
def broker():
    with testing.broker_thread() as broker:
        yield broker


@pytest.fixture
def uvicorn(broker, tmp_path):
    (tmp_path / "shop.py").write_text(APPLICATION, "utf-8")

    def start(*args):
        port = free_port()
        command = ("uvicorn", "--port", str(port), *args, "shop:app")
        return serving(command, tmp_path, port, BROKER=str(broker.tcp_port), WATCHFILES_FORCE_POLLING="1")

    return start


def test_each_worker_is_a_backend_and_ends_in_order(uvicorn, broker):
    with uvicorn("--workers", "2") as server:
        testing.until_sync(lambda: broker.backend_count == 2, PATIENCE)
        with testing.connect_sync(broker, "/lobby") as one, testing.connect_sync(broker, "/lobby") as two:
            one.send("hello")
            first = one.receive()
            assert two.receive() == first
            two.send("hello")
            assert one.receive() != first  # the other worker has this client
        assert server.stop() == 0
    assert server.output().count("ended in order") == 2
    assert "Traceback" not in server.output()


def test_a_client_stays_while_the_code_is_reloaded(uvicorn, broker, tmp_path):
    with uvicorn("--reload") as server, testing.connect_sync(broker, "/lobby") as client:
        client.send("hello")
        assert "from first" in str(client.receive())
        changed = tmp_path / "shop.py"
        changed.write_text(APPLICATION.replace('"first"', '"second"'), "utf-8")
        later = time.time() + 5
        os.utime(changed, (later, later))
        end = time.monotonic() + PATIENCE
        said = "from first"
        while "from first" in said:
            assert time.monotonic() < end, server.output()
            client.send("again")
            said = str(client.receive(PATIENCE))
            time.sleep(0.05)
        assert "from second" in said
        assert '"connected":true' in fetch(server.port)
        assert server.stop(signal.SIGINT) == 0
    assert "ended in order" in server.output()
    assert "Traceback" not in server.output()
