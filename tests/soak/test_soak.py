"""Clients that connect, talk, misbehave and vanish, for a while: at the end nothing is left over.

The short version runs with the other tests, the long one with ``make soak``. ``SOAK_SEED`` in the environment repeats
its choices.
"""

import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pystrands import testing
from tests.broker.ws.support import TEXT, frame
from tests.chaos.harness import BrokerProcess, Child
from tests.inside import budget_of, parts_of

from .backend_process import Echo
from .crowd import OPTIONS, Crowd

pytestmark = [pytest.mark.no_cover, pytest.mark.skipif(os.name != "posix", reason="it counts descriptors")]

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


def open_descriptors(process):
    """Name what a process has open: sockets by their ends and state, the rest as ``/proc`` does where there is one."""
    sockets = {each.fd: f"{each.laddr} {each.raddr} {each.status}" for each in process.net_connections("all")}
    directory = Path(f"/proc/{process.pid}/fd")
    if not directory.exists():
        return Counter(sockets.values()) + Counter({"no socket": process.num_fds() - len(sockets)})
    names = Counter()
    for entry in directory.iterdir():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            names[sockets.get(int(entry.name)) or str(entry.readlink())] += 1
    return names


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
        return [open_descriptors(process) for process in self.processes]

    def more_descriptors(self):
        """What broker and backend have open that was not there before, where it is more than there was."""
        pairs = zip(self.descriptors(), self.before, strict=True)
        return [list((now - before).elements()) for now, before in pairs if now.total() > before.total()]

    def is_connected(self):
        """Whether the broker has connections to clients or, on its admin port, to us."""
        ports = (self.broker.ws_port, self.admin_port)
        return any(each.raddr and each.laddr.port in ports for each in self.processes[0].net_connections("tcp"))

    def memory(self):
        return [process.memory_full_info().uss for process in self.processes]

    async def counts(self, crowd):
        """What the backend has counted; the client that asks is one that came."""
        async with crowd.connection() as client:
            await crowd.enter(client)
            client.writer.write(frame(TEXT, "counts"))
            return json.loads((await client.reply())[1])

    async def warm_up(self, seed):
        """Have broker and backend make what is made once, when it is needed first; return the backend's counts."""
        crowd = Crowd(self.broker.ws_port, random.Random(seed), 0.5)
        await crowd.each_life()
        await testing.until(lambda: not self.gauges()["clients"], SETTLING)
        await testing.until(lambda: not self.is_connected(), SETTLING)
        self.before = self.descriptors()
        return await self.settled(crowd)

    async def settled(self, crowd):
        """Wait until nothing is left over; return the backend's counts."""
        counts = {}

        async def waiting():
            return {name: value for name, value in (await asyncio.to_thread(self.gauges)).items() if value}

        async def unfinished():
            nonlocal counts
            counts = await self.counts(crowd)
            return counts if counts["came"] != counts["went"] + 1 else {}

        async def still_open():
            return self.more_descriptors()

        # One after the other: whoever asks is a client and a connection, and has bytes waiting.
        end = time.monotonic() + SETTLING
        for left_over in (waiting, unfinished, still_open):
            while left := await left_over():
                assert time.monotonic() < end, f"left over: {left}; more is open in {self.more_descriptors()}"
                await asyncio.sleep(0.2)
        return counts

    def close(self):
        if hasattr(self, "backend"):
            self.backend.kill()
        self.broker.close()


async def soak(directory, seed, *, clients, cycles, seconds, pace, growth):
    world = World(directory, pace)
    try:
        await world.start()
        before = await world.warm_up(seed)
        with socket.create_connection(("127.0.0.1", world.admin_port)) as sock:  # it would be noticed
            await testing.until(lambda: str(sock.getsockname()[1]) in str(world.more_descriptors()), SETTLING)
        crowd = Crowd(world.broker.ws_port, random.Random(seed), pace)
        memory = []
        for cycle in range(cycles):
            await crowd.run(clients, seconds)
            counts = await world.settled(crowd)
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
async def test_ten_seconds_leave_nothing(tmp_path, seed):
    await soak(
        tmp_path, seed, clients=100, cycles=3, seconds=3, pace=0.8, growth=10 * MIB
    )  # buffers of those who do not read come and go


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
        await testing.until(lambda: not budget_of(broker).total and not len(parts_of(broker).admission), SETTLING)
        assert echo.came > 30
        assert not parts_of(broker).websockets.lingering and not parts_of(broker).rooms.room_count
