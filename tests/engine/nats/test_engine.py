"""NatsEngine on a real nats-server."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace

import pytest

from pystrands import testing
from pystrands.engine.base import Sink
from pystrands.engine.nats.engine import NatsEngine
from pystrands.engine.nats.options import NatsOptions
from pystrands.engine.publication import Audience, Publication
from pystrands.errors import ConfigError
from tests.nats_server import NatsServer


class Kept(Sink):
    """Keeps what is delivered."""

    def __init__(self):
        self.delivered = []

    def deliver(self, publication):
        self.delivered.append(publication)
        return 0, 0

    @property
    def messages(self):
        return [each.message for each in self.delivered]


@pytest.fixture(scope="module")
def nats():
    with NatsServer() as server:
        yield server


@asynccontextmanager
async def engine(nats, name, cluster="test"):
    sink = Kept()
    made = NatsEngine(NatsOptions(urls=(nats.url,)), cluster=cluster, broker_id=name, counters={})
    await made.start(sink)
    made.cluster.advertise(f"{name}:1")
    try:
        yield made, sink
    finally:
        await made.stop()


@asynccontextmanager
async def engines(nats, *names, **options):
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(engine(nats, name, **options)) for name in names]


async def until(condition):
    await testing.until(condition, 20)


@pytest.mark.parametrize(
    ("publish", "subscribe", "problem"),
    [
        ("ps.test.>", "ps.blue.>", "Permissions Violation for Subscription to"),
        ("ps.blue.>", "ps.test.>", "Permissions Violation for Publish to"),
    ],
)
async def test_cluster_rule_10_it_does_not_start_where_nats_denies_what_it_needs(publish, subscribe, problem):
    """It would think that it is alone."""
    permissions = f'{{publish: "{publish}", subscribe: "{subscribe}"}}'
    users = f"{{user: a, password: s3cret}}, {{user: b, password: s3cret, permissions: {permissions}}}"
    with NatsServer(config=f"authorization {{users: [{users}]}}") as server:
        url = server.url.replace("//", "//b:s3cret@")
        async with engine(SimpleNamespace(url=url.replace("b:", "a:")), "a"):
            other = NatsEngine(NatsOptions(urls=(url,)), cluster="test", broker_id="b", counters={})
            with pytest.raises(ConfigError, match=f"nats://127.0.0.1:{server.port} says: {problem}") as raised:
                await asyncio.wait_for(other.start(Kept()), 20)
            assert "it has to allow ps.CLUSTER.>" in str(raised.value) and "s3cret" not in str(raised.value)


async def test_a_room_message_crosses_two_engines(nats):
    async with engines(nats, "a", "b") as ((a, at_a), (b, at_b)):
        await until(lambda: a.cluster.peers and b.cluster.peers)
        b.subscribe("lobby")
        a.publish(Publication(Audience.ROOM, "lobby", "hello"))
        await until(lambda: at_b.messages == ["hello"])
        a.publish(Publication(Audience.EVERYONE, "", b"all"))
        await until(lambda: at_b.messages == ["hello", b"all"])
        assert at_a.messages == ["hello", b"all"]


async def test_alone_it_is_ready_at_once(nats):
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with engine(nats, "a", cluster="other"):
        assert loop.time() - began < 4  # it would wait five seconds for somebody who does not answer


async def test_a_broker_that_ends_while_nats_is_away_says_what_that_costs(caplog):
    said = "this broker ends while NATS is away"
    with NatsServer() as server:
        async with engines(server, "a", "b") as ((a, _), (b, _)):
            await until(lambda: a.cluster.peers and b.cluster.peers)
            await b.stop()
        assert said not in caplog.text
        async with engines(server, "c", "d") as ((c, _), (d, _)):
            await until(lambda: c.cluster.peers and d.cluster.peers)
            server.kill()
            await until(lambda: not c.cluster.is_connected)
            await c.stop()
            assert said in caplog.text
