"""A broker as those who run it see it: metrics, health, the end."""

import asyncio
import re

import pytest

from pystrands import AsyncPyStrandsClient, testing
from pystrands.broker.config import BrokerConfig
from pystrands.broker.events.queue import cost
from pystrands.broker.events.stream import ClientEvent, Kind
from pystrands.broker.metrics import COUNTERS, GAUGES, HISTOGRAMS
from tests.broker.doubles import make_client
from tests.inside import parts_of

PATIENCE = 20


class Echo(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, message)


async def get(port, path):
    """Ask for a page; return the status and the text."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


async def samples(broker):
    status, text = await get(broker.admin_port, "/metrics")
    assert status == 200
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)}


async def test_metrics_of_a_broker_at_work():
    async with testing.broker(admin_port=0) as broker:
        assert await get(broker.admin_port, "/readyz") == (503, "not ready\n")
        async with testing.backend(broker, Echo):
            assert await get(broker.admin_port, "/readyz") == (200, "ready\n")
            async with testing.connect(broker, "/a") as one, testing.connect(broker, "/b"):
                for _ in range(40):
                    await one.send("x")
                    await one.expect("x")

                async def finished():
                    return (await samples(broker))["pystrands_events_in_flight"] == 0

                async with asyncio.timeout(PATIENCE):
                    while not await finished():
                        await asyncio.sleep(0.01)
                seen = await samples(broker)
    assert seen["pystrands_clients"] == seen["pystrands_rooms"] == 2
    assert seen["pystrands_backends"] == seen["pystrands_ready"] == 1
    assert seen["pystrands_clients_admitted_total"] == 2
    assert seen["pystrands_messages_received_total"] == seen["pystrands_messages_delivered_total"] == 40
    assert seen['pystrands_handshakes_failed_total{reason="no_backend"}'] == 0
    assert seen["pystrands_handshake_seconds_count"] == 2
    assert seen["pystrands_handling_seconds_count"] == 2, "of 42 events one in 16"
    assert seen["pystrands_flush_seconds_count"] >= 40
    for name in HISTOGRAMS:
        assert 0 < seen[f"pystrands_{name}_sum"] < PATIENCE * seen[f"pystrands_{name}_count"]
    for sample in (f"pystrands_{name}" for name in GAUGES):
        assert sample in seen
    for sample in (each.sample for each in COUNTERS.values()):
        assert sample in seen


async def test_what_waits_shows_in_the_gauges():
    async with testing.broker(admin_port=0, memory_budget=0) as broker:
        async with testing.backend(broker, Echo):
            ws = await testing.connect(broker, "/a")
        await testing.until(lambda: not broker.backend_count)
        await ws.send("12345")
        await testing.until(lambda: broker.queued_messages == 1)
        seen = await samples(broker)
        assert seen["pystrands_queue_messages"] == 1
        assert seen["pystrands_queue_bytes"] == cost(ClientEvent(make_client(1), Kind.MESSAGE, 1, "12345"))
        known = sum(client.held_bytes for client in parts_of(broker).rooms.clients)
        of_cluster = seen["pystrands_engine_held_bytes"]
        assert seen["pystrands_waiting_bytes"] == seen["pystrands_queue_bytes"] + known + of_cluster
        assert seen["pystrands_backends"] == 0
        ws.abort()


async def test_a_scrape_disturbs_nobody():
    async with testing.broker(admin_port=0) as broker, testing.backend(broker, Echo):
        async with testing.connect(broker, "/a") as ws:
            scrapes = asyncio.gather(*(samples(broker) for _ in range(30)))
            for number in range(100):
                await ws.send(str(number))
                await ws.expect(str(number))
            assert len(await scrapes) == 30


async def test_a_broker_that_drains_says_so_and_lets_nobody_in(monkeypatch):
    async with testing.broker(admin_port=0) as broker, testing.backend(broker, Echo):
        close_clients, go_on = broker._close_clients, asyncio.Event()

        async def close_clients_and_wait(sockets):
            await close_clients(sockets)
            await go_on.wait()

        monkeypatch.setattr(broker, "_close_clients", close_clients_and_wait)
        ws = await testing.connect(broker, "/a")
        ports = broker.ws_port, broker.admin_port
        for port in ports:
            assert await get(port, "/readyz") == (200, "ready\n")
        stopping = asyncio.create_task(broker.stop())
        await ws.expect_close(1012)
        for port in ports:
            assert await get(port, "/readyz") == (503, "not ready\n")
            assert await get(port, "/healthz") == (200, "ok\n")
        with pytest.raises(testing.Rejected) as refused:
            await testing.connect(broker, "/a")
        assert refused.value.status == 503
        assert (await samples(broker))["pystrands_ready"] == 0
        go_on.set()
        await asyncio.wait_for(stopping, PATIENCE)
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            await get(port, "/healthz")


async def test_an_admin_port_that_is_taken_ends_the_start_and_leaves_nothing_open():
    async with testing.broker(admin_port=0) as broker:
        with pytest.raises(OSError, match="in use"):
            async with testing.broker(admin_port=broker.admin_port):
                pass
        assert (await get(broker.admin_port, "/healthz"))[0] == 200


def test_the_defaults_open_no_admin_port():
    assert BrokerConfig().admin_port == -1
    assert BrokerConfig().admin_host == "127.0.0.1"
