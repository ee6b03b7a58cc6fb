"""What is over leaves nothing behind: memory, tasks, descriptors."""

import asyncio
import contextlib
import gc
import socket
import struct
import time
import tracemalloc
from contextlib import asynccontextmanager

import psutil
import pytest

from pystrands import AsyncPyStrandsClient, testing
from pystrands.broker.admission.handshake import Handshake
from tests.certificates import Authority
from tests.inside import parts_of

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


async def come_and_go(warm_up: int, clients: int, growth: int) -> None:
    """Have clients come and go, some before memory is measured; it may have grown by so many bytes."""
    async with testing.broker() as broker, testing.backend(broker, Echo) as client:
        process = psutil.Process()
        cluster = broker._engine.cluster
        held = 0 if cluster is None else cluster.held_bytes

        async def lives(count: int) -> None:
            for first in range(0, count, 50):
                async with asyncio.TaskGroup() as group:
                    for number in range(first, first + 50):
                        group.create_task(one_life(broker.ws_port, number))
            await testing.until(lambda: not broker.client_count and process.num_fds() <= descriptors)
            if cluster is not None:  # which is told of each client a second time, a little later
                await testing.until(lambda: cluster.held_bytes <= held)

        descriptors = process.num_fds()
        tracemalloc.start()  # before what is then replaced is made, which would count as more
        await lives(warm_up)  # caches and pools fill
        tasks = len(asyncio.all_tasks())
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        rss = process.memory_info().rss
        await lives(clients)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert broker.counters["clients_admitted"] == broker.counters["clients_gone"] == warm_up + clients
        assert len(asyncio.all_tasks()) == tasks
        assert process.num_fds() == descriptors
        print(f"{after - before} bytes more")
        assert after - before < growth
        assert process.memory_info().rss - rss < 16_000_000
        assert parts_of(broker).rooms.room_count == 0
        assert len(parts_of(broker).router.connection_requests) == 0
        assert client.connected


@pytest.mark.no_cover
@pytest.mark.timeout(120)  # it computes all the time, beside other tests
async def test_900_clients_that_come_and_go_leave_nothing():
    await come_and_go(300, 600, 50_000)  # bytes of memory: of each client less than one object and its entry


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_10000_clients_that_come_and_go_leave_nothing():
    await come_and_go(1000, 9000, 200_000)


@asynccontextmanager
async def no_work_for_the_garbage_collector():
    """Fail when objects of the broker that refer to each other are left by what happens inside.

    They go in a full collection only, and a broker of its own process makes hardly any.
    """
    gc.collect()
    gc.disable()
    try:
        yield
        await asyncio.sleep(0.05)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = {type(each) for each in gc.garbage if type(each).__module__.startswith("pystrands.broker")}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left


async def test_a_client_that_is_gone_leaves_no_work_for_the_garbage_collector():
    async with testing.broker() as broker, testing.backend(broker, Echo):
        await one_life(broker.ws_port, 0)  # what is made once
        await testing.until(lambda: not broker.client_count)
        async with no_work_for_the_garbage_collector():
            for number in range(8):
                await one_life(broker.ws_port, number)
            await testing.until(lambda: not broker.client_count and not parts_of(broker).assignments.ending)


def turned_away(port: int, data: bytes, *, by_reset: bool) -> None:
    """Connect, say this and no more, and go: with a reset, or when the broker has had its say."""
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        sock.sendall(data)
        if by_reset:
            time.sleep(0.02)  # for the broker to have begun with it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while sock.recv(65_536):
                pass


HALF_A_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.mark.parametrize("with_tls", [False, True])
async def test_who_comes_to_nothing_leaves_no_work_for_the_garbage_collector(with_tls, tmp_path):
    files = Authority().write(tmp_path) if with_tls else {}
    options = files | {f"backend_{name}": path for name, path in files.items()}
    async with testing.broker(backend_token=("right",), handshake_timeout=2.0, **options) as broker:
        said = [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"x\n", b"\0" * 50, HALF_A_HELLO, UPGRADE]
        ends = [
            (port, data, reset)
            for port in (broker.ws_port, broker.tcp_port)
            for data in said
            for reset in (False, True)
        ]

        async def come(times: int) -> None:
            for _ in range(times):
                for port, data, by_reset in ends:
                    await asyncio.to_thread(turned_away, port, data, by_reset=by_reset)
            await testing.until(lambda: not parts_of(broker).admission.handshakes)

        await come(1)
        async with no_work_for_the_garbage_collector():
            await come(2)


async def test_of_its_handshake_a_client_that_is_in_keeps_nothing():
    async with testing.broker() as broker, testing.backend(broker, Echo), connect(broker) as ws:
        await ws.send("in")
        assert await ws.recv() == "in"
        gc.collect()
        assert not [each for each in gc.get_objects() if isinstance(each, Handshake)], "uvloop kept it"
