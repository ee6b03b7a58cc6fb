"""Brokers on sockets that another process made and holds: a successor accepts what waits there."""

import asyncio
import contextlib
import socket

import pytest

from pystrands import AsyncPyStrandsClient, testing
from pystrands.broker.config import BrokerConfig
from pystrands.broker.net.listening import GivenSockets
from pystrands.broker.server import Broker
from tests.certificates import Authority


class Echo(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, message)


def bound():
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


class Parent:
    """Holds the sockets, gives copies of them to brokers; clients connect to it as to a broker."""

    def __init__(self, **options):
        self.sockets = (bound(), bound(), bound())
        ws, tcp, admin = (each.getsockname()[1] for each in self.sockets)
        self.config = BrokerConfig(ws_port=ws, tcp_port=tcp, admin_port=admin, drain_time=0.2, **options)
        self.ws_port, self.tcp_port = ws, tcp

    def broker(self):
        ws, tcp, admin = (each.dup() for each in self.sockets)
        self.given = GivenSockets(ws=[ws], tcp=[tcp], admin=[admin])
        return Broker(self.config, sockets=self.given)

    def ws_url(self, path="/"):
        return f"{'wss' if self.config.tls_cert else 'ws'}://127.0.0.1:{self.ws_port}{path}"

    def close(self):
        for each in self.sockets:
            each.close()


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(params=["ws", "wss"])
def parent(request, authority, tmp_path):
    with contextlib.closing(Parent(**(authority.write(tmp_path) if request.param == "wss" else {}))) as made:
        yield made


async def test_a_broker_serves_clients_and_backends_on_given_sockets(parent, authority):
    ssl = authority.trusting() if parent.config.tls_cert else None
    async with parent.broker() as broker:
        assert (broker.ws_port, broker.tcp_port) == (parent.ws_port, parent.tcp_port)
        assert broker.admin_port == parent.config.admin_port
        client = Echo("127.0.0.1", parent.tcp_port)
        assert await client.connect()
        async with testing.connect(parent, ssl=ssl) as ws:
            await ws.send("ping")
            await ws.expect("ping")
        await client.disconnect()


async def test_cluster_rule_20_who_waits_to_be_accepted_is_left_to_the_successor(parent, authority):
    ssl = authority.trusting() if parent.config.tls_cert else None
    first = parent.broker()
    await first.start()
    client = Echo("127.0.0.1", parent.tcp_port)
    assert await client.connect()
    async with testing.connect(parent, ssl=ssl) as ws:
        parent.given.are_handed_over = True
        stopping = asyncio.create_task(first.stop())
        await ws.expect_close(1012)
    waiting = [asyncio.create_task(_connected(parent, ssl)) for _ in range(20)]
    await stopping
    assert not any(task.done() for task in waiting)
    async with parent.broker() as second:
        assert second.broker_id != first.broker_id
        for ws in await asyncio.gather(*waiting):
            await ws.send("ping")
            await ws.expect("ping")
            await ws.close()
        await client.disconnect()


async def _connected(parent, ssl):
    return await testing.connect(parent, ssl=ssl, timeout=30)
