"""What the end-to-end tests share: brokers, backends, and clients that are real peers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import websockets.asyncio.client as websockets_client

from pystrands import AsyncPyStrandsClient
from pystrands.broker.config import BrokerConfig
from pystrands.broker.server import Broker


@asynccontextmanager
async def running_broker(**options: Any) -> AsyncIterator[Broker]:
    """A broker on free ports that does not take its time to stop."""
    config = BrokerConfig(**({"ws_port": 0, "tcp_port": 0, "drain_time": 0.0, "close_timeout": 1.0} | options))
    async with Broker(config) as broker:
        yield broker


@asynccontextmanager
async def backend(broker: Broker, kind: Any = AsyncPyStrandsClient, **options: Any) -> AsyncIterator[Any]:
    """A backend that is connected."""
    client = kind(host="127.0.0.1", port=broker.tcp_port, **options)
    before = broker.backend_count
    assert await client.connect()
    await until(lambda: broker.backend_count > before)
    try:
        yield client
    finally:
        await client.disconnect()


def connect(broker: Broker, path: str = "/room", **options: Any) -> Any:
    """Connect with the websockets library; await it, or use it in ``async with``."""
    return websockets_client.connect(
        f"ws://127.0.0.1:{broker.ws_port}{path}", **({"compression": None, "ping_interval": None} | options)
    )


async def until(condition: Callable[[], object], timeout: float = 20) -> None:  # noqa: ASYNC109 - bounds a wait
    """Wait until something is so, for what gives no event to wait for."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.002)
