"""What is over leaves nothing behind: memory, tasks, descriptors."""

import asyncio
import gc
import tracemalloc

import psutil

from pystrands import AsyncPyStrandsClient, testing
from pystrands.broker.admission import Handshake

from .support import connect
from .test_bad_input import UPGRADE, frame


class Echo(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, message)


async def one_life(port: int, number: int) -> None:
    """Connect, send a message, get it back, and go: every fourth time without a good-bye."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(UPGRADE.replace(b"/room", b"/%d" % (number % 100)) + frame(1, b"hello"))
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(7) == b"\x81\x05hello"
    if number % 4:
        writer.write(frame(8, b"\x03\xe8"))
        assert await reader.readexactly(4) == b"\x88\x02\x03\xe8"
        writer.close()
    else:
        writer.transport.abort()


async def test_10000_clients_that_come_and_go_leave_nothing():
    async with testing.broker() as broker, testing.backend(broker, Echo) as client:
        process = psutil.Process()

        async def lives(count: int) -> None:
            for first in range(0, count, 50):
                async with asyncio.TaskGroup() as group:
                    for number in range(first, first + 50):
                        group.create_task(one_life(broker.ws_port, number))
            await testing.until(lambda: not broker.client_count and process.num_fds() <= descriptors)

        descriptors = process.num_fds()
        await lives(1000)  # caches and pools fill
        tasks = len(asyncio.all_tasks())
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        rss = process.memory_info().rss
        await lives(9000)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert broker.counters["clients_admitted"] == broker.counters["clients_gone"] == 10_000
        assert len(asyncio.all_tasks()) == tasks
        assert process.num_fds() == descriptors
        assert after - before < 100_000, "bytes of Python's memory"
        assert process.memory_info().rss - rss < 16_000_000
        assert broker._rooms.room_count == 0
        assert len(broker._router.doorkeeper) == 0
        assert client.connected


async def test_a_client_that_is_gone_leaves_no_work_for_the_garbage_collector():
    """Its objects refer to each other while it is there; those that still do so afterwards only go when it runs."""
    async with testing.broker() as broker, testing.backend(broker, Echo):
        await one_life(broker.ws_port, 0)  # what is made once
        await testing.until(lambda: not broker.client_count)
        gc.collect()
        gc.disable()
        try:
            for number in range(8):
                await one_life(broker.ws_port, number)
            await testing.until(lambda: not broker.client_count and not broker._router._ending)
            await asyncio.sleep(0.05)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = {type(each) for each in gc.garbage if type(each).__module__.startswith("pystrands.broker")}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert not left


async def test_of_its_handshake_a_client_that_is_in_keeps_nothing():
    async with testing.broker() as broker, testing.backend(broker, Echo), connect(broker) as ws:
        await ws.send("in")
        assert await ws.recv() == "in"
        gc.collect()
        assert not [each for each in gc.get_objects() if isinstance(each, Handshake)], "uvloop kept it"
