"""Three engines under load while servers of NATS are killed and paused: what is delivered is all, once, in order."""

import asyncio
from collections import Counter, defaultdict
from contextlib import AsyncExitStack, asynccontextmanager

from pystrands import testing
from pystrands.engine.base import Sink
from pystrands.engine.nats.engine import NatsEngine
from pystrands.engine.nats.options import NatsOptions
from pystrands.engine.publication import Audience, Publication
from tests.nats_server import NatsServer, cluster

ROOMS = [f"room {number}" for number in range(20)]
NAMES = ("a", "b", "c")


class Numbers(Sink):
    """Keeps the numbers of each publisher's messages."""

    def __init__(self):
        self.heard = defaultdict(list)

    def deliver(self, publication):
        name, number = publication.message.split()
        self.heard[name].append(int(number))
        return 1, 1


class Load:
    """Brokers that publish to rooms of all, each its next number; `missing` are those that did not come everywhere."""

    def __init__(self, engines):
        self.engines = engines
        self.sent = Counter()
        self.is_over = False

    async def publish(self, name):
        engine, _, _ = self.engines[name]
        while not self.is_over:
            for _ in range(5):
                number = self.sent[name]
                engine.publish(Publication(Audience.ROOM, ROOMS[number % len(ROOMS)], f"{name} {number}"))
                self.sent[name] += 1
            await asyncio.sleep(0.005)

    @property
    def heard(self):
        return {at: {name: sink.heard[name] for name in NAMES} for at, (_, sink, _) in self.engines.items()}

    async def check(self):
        """Wait until all is everywhere; then it was so once and in order."""
        due = {name: list(range(self.sent[name])) for name in NAMES}
        await testing.until(
            lambda: all(len(came) >= self.sent[name] for each in self.heard.values() for name, came in each.items()), 20
        )
        for at, heard in self.heard.items():
            for name, came in heard.items():
                wrong = [
                    (index, each)
                    for index, each in enumerate(came)
                    if index >= len(due[name]) or each != due[name][index]
                ]
                assert not wrong, f"{at} heard of {name}, from {wrong[0]} on: {came[max(wrong[0][0] - 3, 0) :][:30]}"


@asynccontextmanager
async def under_load(*lists):
    """Run three engines, which list servers in these orders, and publish at all of them until the block ends."""
    async with AsyncExitStack() as stack:
        engines = {}
        for index, name in enumerate(NAMES):
            options = NatsOptions(
                urls=tuple(each.url for each in lists[index % len(lists)]), ping_interval=0.3, connect_timeout=0.5
            )
            engine, sink = (
                NatsEngine(options, cluster="test", broker_id=name, counters=(counters := Counter())),
                Numbers(),
            )
            await engine.start(sink)
            stack.push_async_callback(engine.stop)
            engine.cluster.advertise(f"{name}:1")
            for room in ROOMS:
                engine.subscribe(room)
            engines[name] = engine, sink, counters
        await testing.until(lambda: all(len(engine.cluster.peers) == 2 for engine, _, _ in engines.values()), 20)
        load = Load(engines)
        await asyncio.sleep(0.5)  # until all servers know who has subscribed to what
        tasks = [asyncio.create_task(load.publish(name)) for name in NAMES]
        try:
            yield load
        finally:
            load.is_over = True
            await asyncio.gather(*tasks)
        await load.check()
        for engine, _, counters in engines.values():
            assert len(engine.cluster.peers) == 2, "nobody is dead who was only out of reach"
            assert (counters["engine_gaps"], counters["engine_lost"]) == (0, 0)


async def test_cluster_rule_06_nothing_is_lost_while_nats_is_killed_and_hangs():
    with NatsServer() as server:
        async with under_load([server]) as load:
            for _ in range(3):
                await asyncio.sleep(0.3)
                server.restart()
            await asyncio.sleep(0.5)
            server.kill()
            await asyncio.sleep(0.5)
            server.start()
            await asyncio.sleep(0.3)
            for seconds in (0.3, 1.5):  # with the longer one its connections are given up
                server.pause()
                await asyncio.sleep(seconds)
                server.resume()
                await asyncio.sleep(0.3)
        assert all(counters["engine_repairs"] >= 4 for _, _, counters in load.engines.values())


async def test_cluster_rule_06_nothing_is_lost_while_two_servers_take_turns():
    with cluster(2) as (one, other):
        async with under_load([one, other]) as load:
            for server in (one, other):
                await asyncio.sleep(0.5)
                server.pause()
                await asyncio.sleep(1.5)
                server.resume()
                await asyncio.sleep(0.5)
                server.restart()
        assert all(load.sent.values())


async def test_cluster_rule_06_nothing_is_lost_between_brokers_at_different_servers():
    with cluster(2) as (one, other):
        async with under_load([one, other], [other, one]) as load:
            for server in (one, other):
                await asyncio.sleep(0.5)
                server.restart()
                await asyncio.sleep(0.5)
                server.pause()
                await asyncio.sleep(1.5)
                server.resume()
        assert all(load.sent.values())
