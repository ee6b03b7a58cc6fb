"""Programs whose loops end, cancel, or are others than the client's: asyncio.run, task groups, anyio, threads."""

import asyncio
import subprocess
import sys

import anyio
import pytest

from pystrands import AsyncPyStrandsClient, testing

BACKGROUND = """
import asyncio, gc, sys
from pystrands import AsyncPyStrandsClient

async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)

class Slow(AsyncPyStrandsClient):
    async def on_new_connection(self, context):
        await asyncio.sleep(60)

async def main(how):
    client = Slow("127.0.0.1", int(sys.argv[1]))
    tasks = [asyncio.create_task(client.run_forever())]
    await until(lambda: client.connected)
    if how == 1:
        tasks.append(asyncio.create_task(client.disconnect()))
        await asyncio.sleep(0)
    if how == 2:
        tasks[0].cancel()
        await asyncio.sleep(0)

for how in (0, 0, 0, 1, 2) * 17:
    asyncio.run(main(how))
gc.collect()
"""


def test_a_program_that_ends_while_run_forever_is_in_the_background_ends_silently():
    with testing.broker_thread() as broker:
        ended = subprocess.run(
            [sys.executable, "-c", BACKGROUND, str(broker.tcp_port)],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


LOOPS_ON_THREADS = """
import atexit, threading

def loops():
    names = {thread.name for thread in threading.enumerate()}
    return {"pystrands-broker", "pystrands-link-proxy", "pystrands-loop", "pystrands-testing", "app.run"} & names

atexit.register(lambda: print(loops()))  # what was registered first is called last

from pystrands import PyStrands, PyStrandsClient, testing

broker = testing.BrokerThread()
broker.start()
proxy = testing.LinkProxy(broker)
proxy.__enter__()
client = PyStrandsClient(port=broker.tcp_port)
assert client.connect()
app = PyStrands(port=broker.tcp_port)
threading.Thread(target=app.run, daemon=True, name="app.run").start()
testing.until_sync(lambda: app.connected)
websocket = testing.connect_sync(broker)
print(len(loops()))
"""


def test_loops_on_daemon_threads_end_before_the_interpreter_does():
    # Else it comes down to luck: one program in fifty died of SIGSEGV.
    ended = subprocess.run(
        [sys.executable, "-c", LOOPS_ON_THREADS], capture_output=True, text=True, timeout=50, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "5\nset()\n", "")


BLOCKED = """
import threading, time
from pystrands import PyStrands, testing

broker = testing.BrokerThread()
broker.start()
app = PyStrands(port=broker.tcp_port)
began = threading.Event()

@app.on_new_connection
async def blocks(context):
    began.set()
    time.sleep(3600)

threading.Thread(target=app.run, daemon=True).start()
testing.until_sync(lambda: app.connected)
websocket = testing.connect_sync(broker)
assert began.wait(10)
"""


def test_a_loop_that_does_not_end_does_not_keep_the_program():
    ended = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=50, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


class Slow(AsyncPyStrandsClient):
    """Answers after the scope that it runs in is cancelled."""

    def __init__(self, **options):
        super().__init__(**options)
        self.began = asyncio.Event()
        self.is_cancelled = asyncio.Event()

    async def on_message(self, message, context):
        self.began.set()
        await self.is_cancelled.wait()
        await asyncio.sleep(0.01)
        await self.send_private_message(context.client_id, "answer")


async def in_anyio(client):
    async with anyio.create_task_group() as group:
        group.start_soon(client.run_forever)
        await client.began.wait()
        group.cancel_scope.cancel()
        client.is_cancelled.set()


async def in_asyncio(client):
    task = asyncio.create_task(client.run_forever())
    await client.began.wait()
    task.cancel()
    client.is_cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("run", [in_anyio, in_asyncio])
async def test_a_cancelled_run_forever_gives_handlers_their_second(run):
    async with testing.broker() as broker:
        client = Slow(host="127.0.0.1", port=broker.tcp_port)
        running = asyncio.create_task(run(client))
        await testing.until(lambda: client.connected)
        async with testing.connect(broker) as ws:
            await ws.send("question")
            await ws.expect("answer")
        await running
        assert not client.connected
        assert broker.backend_count == 0


async def test_used_on_another_threads_loop_it_raises_and_sends_nothing():
    async with testing.broker() as broker, testing.backend(broker) as client, testing.connect(broker, "/r") as ws:
        calls = (
            lambda: client.send_room_message("/r", "x"),
            lambda: client.send_private_message("c", "x"),
            lambda: client.broadcast_message("x"),
            lambda: client.room_members("/r"),
            lambda: client.broadcast_message("x", confirm=True),
            client.connect,
            client.run_forever,
            client.disconnect,
        )

        async def one(call):
            with pytest.raises(RuntimeError, match="another event loop"):
                await call()

        for call in calls:
            await asyncio.to_thread(asyncio.run, one(call))
        assert await client.broadcast_message("the only one")
        await ws.expect("the only one")
