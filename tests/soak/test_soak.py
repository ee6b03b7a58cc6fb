"""Clients that connect, talk, misbehave and vanish, for a while: at the end nothing is left over.

The short version runs with the other tests, the long one with ``make soak``. ``SOAK_SEED`` in the environment repeats
its choices.
"""

import asyncio
import json
import os
import random
import secrets
import signal
import socket
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pystrands import testing
from tests.broker.ws_support import TEXT, frame
from tests.chaos.harness import BrokerProcess, Child

from .backend_process import Echo
from .crowd import OPTIONS, Crowd

pytestmark = pytest.mark.skipif(os.name != "posix", reason="it counts descriptors")

MIB = 1024 * 1024
EMPTY = ("clients", "rooms", "handshakes", "queue_messages", "queue_bytes", "events_in_flight", "waiting_bytes")
"""Gauges that are 0 when nobody is there."""
MET = ("handshake_timeout", "handshake_bad_request", "message_too_big", "message_timeout", "control_flood",
       "protocol_error", "bad_utf8", "slow_consumer_closed", "rate_closed")  # fmt: skip
SETTLING = 60
"""Seconds at most until all is gone; what takes long is a busy machine."""


@pytest.fixture
def seed():
    chosen = os.environ.get("SOAK_SEED") or secrets.token_hex(4)
    print(f"SOAK_SEED={chosen}")
    return chosen


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class World:
    """A broker and a backend in processes of their own, and what they have."""

    def __init__(self, directory, pace):
        options = OPTIONS | {"ping_interval": 3 * pace}  # a client answers no ping while it pauses
        self.admin_port = free_port()
        self.broker = BrokerProcess(directory / "broker.log", admin_port=self.admin_port, **options)
        self.directory = directory

    async def start(self):
        await self.broker.listening()
        self.backend = Child(
            [sys.executable, str(Path(__file__).with_name("backend_process.py"))],
            self.directory / "backend.log",
            PYSTRANDS_TCP_PORT=str(self.broker.tcp_port),
        )
        await testing.until(lambda: self.broker.backend_count == 1 or not self.backend.runs, 20)
        self.processes = [psutil.Process(child.process.pid) for child in (self.broker, self.backend)]

    def gauges(self):
        text = httpx.get(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=30).text
        samples = {
            sample.name: sample.value for each in text_string_to_metric_families(text) for sample in each.samples
        }
        return {name: samples[f"pystrands_{name}"] for name in EMPTY}

    def descriptors(self):
        return [process.num_fds() for process in self.processes]

    def memory(self):
        return [process.memory_full_info().uss for process in self.processes]

    async def counts(self, crowd):
        """What the backend has counted; the client that asks is one that came."""
        async with crowd.connection() as client:
            await crowd.enter(client)
            client.writer.write(frame(TEXT, "counts"))
            return json.loads((await client.reply())[1])

    async def settled(self, crowd, descriptors):
        """Wait until nothing is left over; return the backend's counts."""
        left = {}
        end = time.monotonic() + SETTLING
        while time.monotonic() < end:
            left = {name: value for name, value in (await asyncio.to_thread(self.gauges)).items() if value}
            counts = await self.counts(crowd) if not left else {"came": 0, "went": 0}
            fds = self.descriptors()
            left |= {"descriptors": fds} if any(map(int.__gt__, fds, descriptors)) else {}
            if not left and counts["came"] == counts["went"] + 1:
                return counts
            left |= counts
            await asyncio.sleep(0.2)
        raise AssertionError(f"this is left over: {left}; there were {descriptors} descriptors")

    def close(self):
        if hasattr(self, "backend"):
            self.backend.kill()
        self.broker.close()


async def soak(directory, seed, *, clients, cycles, seconds, pace, growth):
    world = World(directory, pace)
    try:
        await world.start()
        crowd = Crowd(world.broker.ws_port, random.Random(seed), pace)
        await crowd.run(20, 3)  # what is made once, when it is needed first, is there
        await world.counts(crowd)
        await testing.until(lambda: not world.gauges()["clients"], SETTLING)
        descriptors = world.descriptors()
        before = await world.settled(crowd, descriptors)
        memory = []
        for cycle in range(cycles):
            await crowd.run(clients, seconds)
            counts = await world.settled(crowd, descriptors)
            memory.append(world.memory())
            print(
                f"cycle {cycle + 1}: {crowd.lives.total()} lives, {counts}, {[each // 1024 for each in memory[-1]]} KiB"
            )
        print(dict(crowd.lives), dict(crowd.codes))
        status = world.broker.status()
        counters = status["counters"]
        print(counters)
        assert counts["odd"] == 0
        assert counts["tasks"] <= before["tasks"]
        assert counters["clients_admitted"] == counters["clients_gone"] == counts["came"]
        assert [name for name in MET if not counters.get(name)] == []
        assert set(crowd.lives) == {"good"} | {life.__name__ for life in crowd.bad}
        assert not crowd.wrong, "(life, code, the right one)"
        assert {life for life, _ in crowd.codes} == set(crowd.lives) - {"good", "vanish"}
        for first, last in zip(memory[1], memory[-1], strict=True):
            assert last - first < growth
        for child in (world.broker, world.backend):
            child.signal(signal.SIGTERM)
            assert await child.ended() == 0
            assert "ERROR" not in child.text() and "Traceback" not in child.text(), child.text()[-4000:]
    finally:
        world.close()


@pytest.mark.timeout(240)
async def test_half_a_minute_leaves_nothing(tmp_path, seed):
    await soak(tmp_path, seed, clients=200, cycles=3, seconds=6, pace=0.8, growth=4 * MIB)


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_ten_minutes_leave_nothing(tmp_path, seed):
    await soak(tmp_path, seed, clients=2000, cycles=5, seconds=110, pace=20, growth=8 * MIB)


async def test_no_task_is_left_in_a_broker_that_clients_have_left(seed):
    async with testing.broker(**OPTIONS) as broker, testing.backend(broker, Echo) as echo:
        crowd = Crowd(broker.ws_port, random.Random(seed), 0.1)
        tasks = asyncio.all_tasks()
        await crowd.run(30, 2)
        await testing.until(lambda: not broker.client_count and echo.came == echo.went and not echo.here, SETTLING)
        await testing.until(lambda: asyncio.all_tasks() == tasks, SETTLING)
        await testing.until(lambda: not broker._budget.total and not len(broker._admission), SETTLING)
        assert echo.came > 30
        assert not broker._shared.lingering and not broker._rooms.room_count
