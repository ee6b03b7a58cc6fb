"""A peer on the backends' port that is no backend yet, and a client that waits for one."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from .raw_backend import line
from .support import connect

TOKEN = "a token that is a secret"


class Peer:
    """A connection to the backends' port, and all that the broker says on it."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def say(self, action, params=None, **more):
        self.writer.write(line(action, params, **more))

    def hello(self, **params):
        self.say("hello", {"protocol": 2, "session_id": "s"} | params)

    async def hear(self):
        """Return the next line's action and params; passes over ``peers``, which a broker of a cluster may say."""
        while True:
            async with asyncio.timeout(10):
                heard = json.loads(await self.reader.readline())
            if heard["action"] != "peers":
                return heard["action"], heard["params"]

    async def rest(self):
        """Return the actions and reasons of what comes until the broker closes."""
        async with asyncio.timeout(10):
            lines = [json.loads(each) for each in (await self.reader.read()).splitlines()]
        return [(each["action"], each["params"].get("reason")) for each in lines]

    async def hears_nothing(self, seconds=0.2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(self.reader.readline(), seconds)


@asynccontextmanager
async def peer(broker, **options):
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.tcp_port, **options)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def knocking(broker):
    """A client that waits to be let in, with a header that is nobody's business."""
    connecting = asyncio.ensure_future(connect(broker, additional_headers={"X-Secret": "of the user"}))
    try:
        yield connecting
    finally:
        connecting.cancel()
        await asyncio.wait([connecting])
