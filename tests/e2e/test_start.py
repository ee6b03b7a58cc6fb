"""The start of a broker: whole, or nothing is left of it; and where it listens."""

import asyncio
import contextlib
import socket
import threading
from typing import Any

import psutil
import pytest

from pystrands import AsyncPyStrandsClient, testing
from pystrands.broker import server
from pystrands.broker.backends.lifecycle import SessionLifecycle
from pystrands.broker.budget import Budget
from pystrands.broker.config import BrokerConfig
from pystrands.broker.server import Broker
from pystrands.broker.ws.keepalive import KeepAlive, MessageWatch
from pystrands.broker.ws.throttle import IdleLimited
from pystrands.engine import base
from pystrands.engine.memory import MemoryEngine
from pystrands.testing.brokers import LocalBroker
from tests.inside import budget_of, parts_of, servers_of


class Open:
    """What this process has open on its event loop."""

    def __init__(self):
        self._process = psutil.Process()
        self._before = self._now()

    def _now(self):
        listening = {each.laddr for each in self._process.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
        return listening, asyncio.all_tasks(), set(threading.enumerate())

    async def are_as_before(self):
        await testing.until(lambda: all(now <= before for now, before in zip(self._now(), self._before, strict=True)))


class Engine(base.Engine):
    """A memory engine that notes what is called, and fails on demand."""

    def __init__(self, at_start=None, at_stop=None):
        self.memory = MemoryEngine()
        self.at_start, self.at_stop = at_start, at_stop
        self.calls = []

    async def start(self, sink):
        self.calls.append("start")
        if self.at_start is not None:
            await self.at_start()
        await self.memory.start(sink)

    async def stop(self):
        self.calls.append("stop")
        if self.at_stop is not None:
            await self.at_stop()
        await self.memory.stop()

    def subscribe(self, room_id):
        self.memory.subscribe(room_id)

    def unsubscribe(self, room_id):
        self.memory.unsubscribe(room_id)

    def publish(self, publication):
        return self.memory.publish(publication)


class BrokenError(Exception):
    pass


async def fail():
    raise BrokenError


async def hang():
    await asyncio.Event().wait()


def broker_with(engine, **options):
    defaults = {"ws_port": 0, "tcp_port": 0, "admin_port": 0, "idle_timeout": 60.0}
    return Broker(BrokerConfig(**(defaults | options)), engine=engine)


def timers_of(broker):
    parts = parts_of(broker)
    found = [parts.lifecycle._beat, budget_of(broker)._timer, *(each._timer for each in parts.idle)]
    found += [each._handle for each in (parts.keepalive, parts.heartbeats, parts.message_watch)]
    return [each for each in found if each and not each.cancelled()]


async def is_over(broker):
    """It may be stopped as often as one likes, and was started once."""
    await broker.stop()
    await broker.stop()
    assert not timers_of(broker)
    with pytest.raises(RuntimeError):
        await broker.start()


async def test_the_engine_is_there_before_anybody_can_come():
    seen = []

    async def look():
        with pytest.raises(RuntimeError):
            broker.ws_port  # noqa: B018 - it is what raises
        seen.append(True)

    broker = broker_with(Engine(look))
    async with broker:
        assert seen


async def test_an_engine_that_fails_leaves_nothing_open():
    loops, engine = Open(), Engine(fail)
    broker = broker_with(engine)
    with pytest.raises(BrokenError):
        await broker.start()
    await loops.are_as_before()
    await is_over(broker)
    assert engine.calls == ["start"]


async def test_an_engine_that_hangs_and_is_cancelled_leaves_nothing_open():
    loops, engine = Open(), Engine(hang)
    broker = broker_with(engine)
    starting = asyncio.create_task(broker.start())
    await testing.until(lambda: engine.calls)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await loops.are_as_before()
    await is_over(broker)


@pytest.mark.parametrize("side", ["ws", "tcp", "admin"])
@pytest.mark.parametrize("at_stop", [None, fail])
async def test_a_port_that_is_taken_leaves_nothing_open(side, at_stop):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        loops, engine = Open(), Engine(at_stop=at_stop)
        broker = broker_with(engine, **{f"{side}_port": taken.getsockname()[1]})
        with pytest.raises(OSError, match="in use"):
            await broker.start()
        await loops.are_as_before()
        await is_over(broker)
        assert engine.calls == ["start", "stop"]


@pytest.mark.parametrize("part", [SessionLifecycle, KeepAlive, MessageWatch, IdleLimited, Budget])
async def test_a_part_that_does_not_start_leaves_nothing_open(part, monkeypatch):
    loops, engine = Open(), Engine()
    broker = broker_with(engine)

    def broken(*_):
        raise BrokenError

    monkeypatch.setattr(part, "start", broken)
    with pytest.raises(BrokenError):
        await broker.start()
    await loops.are_as_before()
    await is_over(broker)
    assert engine.calls == ["start", "stop"]


async def test_what_cannot_be_wired_leaves_nothing_and_can_be_stopped(monkeypatch):
    loops, broker = Open(), broker_with(Engine())

    def broken(_given):
        raise BrokenError

    monkeypatch.setattr(server, "make_parts", broken)
    with pytest.raises(BrokenError):
        await broker.start()
    await broker.stop()
    await loops.are_as_before()


# ---- where it listens


async def health(host, port):
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer.startswith(b"HTTP/1.1 200")


def has_ipv6():
    with contextlib.suppress(OSError):
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
async def test_every_interface_is_both_families_and_one_port():
    options: dict[str, Any] = {"ws_host": "::", "tcp_host": "::", "admin_host": "::", "allow_insecure_backends": True}
    async with LocalBroker(admin_port=0, **options) as broker:
        for host in ("127.0.0.1", "::1"):
            assert await health(host, broker.ws_port)
            assert await health(host, broker.admin_port)
            backend = AsyncPyStrandsClient(host, broker.tcp_port)
            assert await backend.connect()
            await backend.disconnect()


@needs_ipv6
@pytest.mark.parametrize("with_tls", [False, True])
async def test_a_name_with_two_addresses_has_one_port(with_tls, tls, monkeypatch):
    loop = asyncio.get_running_loop()
    options = {"tls_cert": tls["backend_tls_cert"]} if with_tls else {}
    both = [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0, 0, 0))]

    def resolve(_host, port, *_, **__):
        return [(family, socket.SOCK_STREAM, 6, "", (address[0], port, *address[2:])) for family, address in both]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    if "uvloop" in type(loop).__module__:  # which resolves by itself
        monkeypatch.setattr("pystrands.broker.server.hosts", lambda _host: ("127.0.0.1", "::1"))
    async with LocalBroker(ws_host="localhost", tcp_host="localhost", **options) as broker:
        for server, port in zip(servers_of(broker), (broker.ws_port, broker.tcp_port), strict=True):
            assert sorted(each.getsockname()[:2] for each in server.sockets) == [("127.0.0.1", port), ("::1", port)]


@needs_ipv6
async def test_an_address_in_brackets_is_understood():
    async with LocalBroker(ws_host="[::1]", tcp_host="[::1]") as broker:
        assert (broker.config.ws_host, broker.config.tcp_host) == ("::1", "::1")
        assert await health("::1", broker.ws_port)
        for host in ("::1", "[::1]"):
            backend = AsyncPyStrandsClient(host, broker.tcp_port)
            assert await backend.connect()
            await backend.disconnect()
