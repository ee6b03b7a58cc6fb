"""The client for web pages as it is in the package."""

import asyncio
import gzip

from pystrands import testing
from pystrands.broker.wiring import sdk


async def get(broker, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.ws_port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.decode(), body


async def test_the_broker_serves_it_to_pages_of_any_host():
    async with testing.broker() as broker:
        head, body = await get(broker, "/pystrands.js")
        assert head.startswith("HTTP/1.1 200 ")
        assert "Content-Type: text/javascript; charset=utf-8" in head
        assert "Access-Control-Allow-Origin: *" in head
        assert body == sdk()


async def test_it_can_be_turned_off():
    async with testing.broker(no_sdk=True) as broker:
        assert (await get(broker, "/pystrands.js"))[0].startswith("HTTP/1.1 426 ")


def test_it_is_small():
    assert len(gzip.compress(sdk(), 9)) <= 8 * 1024
