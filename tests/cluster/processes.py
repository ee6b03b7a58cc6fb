"""Brokers in processes of their own, joined by real NATS servers; one backend that is linked to all of them."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager

from pystrands.testing import until
from pystrands.tools import Tool
from tests.cluster.backends import Named
from tests.e2e.broker_process import BrokerProcess

WITHIN = 30.0


class ClusterBroker(BrokerProcess):
    """One of them."""

    def __init__(self, *nats, **options):
        urls = ",".join(server.url for server in nats)
        flags = {"nats_url": urls, "drain_time": 0, "close_timeout": 2, "resume_window": 1} | options
        super().__init__(*[f"--{name.replace('_', '-')}={value}" for name, value in flags.items()])

    def status(self):
        """What it says of itself."""
        with Tool(port=self.tcp_port) as tool:
            return tool.status()

    def counters(self):
        """What it has counted; what is 0 is 0."""
        counts = self.status()["counters"]
        return lambda name: counts.get(name, 0)

    def sees(self, count, *, connected=True):
        """Whether it knows so many other brokers, and whether it reaches them."""
        cluster = self.status()["cluster"]
        return len(cluster["peers"]) == count and cluster["connected"] is connected

    def signal(self, number):
        self.process.send_signal(number)

    async def stopped(self):
        """Have the process hang."""
        self.signal(signal.SIGSTOP)
        await asyncio.to_thread(os.waitid, os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)


@asynccontextmanager
async def processes(*nats, count=2, **options):
    """Run brokers that see each other, and a backend that is linked to all; yield the backend and the brokers.

    With several servers of NATS each broker begins with another one.
    """
    async with AsyncExitStack() as stack:
        brokers = [
            ClusterBroker(*nats[number % len(nats) :], *nats[: number % len(nats)], **options)
            for number in range(count)
        ]
        await asyncio.gather(*[stack.enter_async_context(each) for each in brokers])
        await until(lambda: all(each.sees(count - 1) for each in brokers), WITHIN)
        named = await stack.enter_async_context(linked_to(brokers))
        yield named, *brokers


@asynccontextmanager
async def linked_to(brokers, kind=Named):
    named = kind("127.0.0.1", brokers[0].tcp_port)
    await named.connect()
    try:
        await until(lambda: sum(link.connected for link in named.links) == len(brokers), WITHIN)
        yield named
    finally:
        await named.disconnect()
