"""What backends are told of the cluster (CLUSTER rule 15): in each hello, and when it changes."""

import asyncio
import json

from pystrands import testing
from pystrands.engine.cluster import Peer
from tests.e2e.raw_backend import RawBackend
from tests.inside import parts_of

BLUE = Peer("blue-id", "10.0.0.6:8081")
TOLD = {"address": "10.0.0.5:8081", "draining": False, "peers": [{"broker_id": "blue-id", "address": "10.0.0.6:8081"}]}


async def next_peers(raw):
    async with asyncio.timeout(5):
        while (line := await raw.next_of_all())["action"] != "peers":
            assert line["action"] == "heartbeat"
    assert "seq" not in line
    return line["params"]


async def test_cluster_rule_15_a_hello_tells_the_brokers_that_there_are():
    async with testing.broker() as broker:
        lifecycle = parts_of(broker).lifecycle
        async with RawBackend(broker) as before:
            assert not {"address", "draining", "peers"} & before.hello.keys()
            lifecycle.advertised("10.0.0.5:8081")
            lifecycle.peers_changed([BLUE])
        async with RawBackend(broker, begin=False) as after:
            assert {name: after.hello[name] for name in ("address", "peers")} == {
                name: TOLD[name] for name in ("address", "peers")
            }
            assert "draining" not in after.hello


async def test_cluster_rule_15_changes_are_told_once_each_to_links_of_protocol_2():
    async with testing.broker() as broker, RawBackend(broker) as raw:
        lifecycle = parts_of(broker).lifecycle
        lifecycle.drains()  # alone there is nobody to go to
        for _ in range(2):
            lifecycle.advertised("10.0.0.5:8081")
            lifecycle.peers_changed([BLUE])
        assert [await next_peers(raw), await next_peers(raw)] == [TOLD | {"peers": []}, TOLD]
        for _ in range(2):
            lifecycle.drains()
        assert await next_peers(raw) == TOLD | {"draining": True}
        lifecycle.peers_changed([])
        assert await next_peers(raw) == TOLD | {"draining": True, "peers": []}


async def test_cluster_rule_15_what_changed_between_hello_and_welcome_is_told_then():
    async with testing.broker() as broker, RawBackend(broker, begin=False) as raw:
        parts_of(broker).lifecycle.peers_changed([BLUE])
        await raw.begin()
        assert (await next_peers(raw))["peers"] == TOLD["peers"]


async def test_cluster_rule_15_protocol_1_is_told_nothing():
    async with testing.broker() as broker:
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.tcp_port)
        writer.write(b'{"action":"heartbeat","request_id":"","params":{}}\n')
        await testing.until(lambda: broker.backend_count == 1)
        parts_of(broker).lifecycle.peers_changed([BLUE])
        await broker.stop()
        heard = [json.loads(line)["action"] for line in (await reader.read()).splitlines()]
        assert heard == ["hello"]
        writer.close()
