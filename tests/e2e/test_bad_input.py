"""Bad input on both ports: a clear end, a counter, and a client and a backend beside it that notice nothing."""

import asyncio
import os
import struct
from contextlib import asynccontextmanager

import psutil
import pytest

from pystrands import AsyncPyStrandsClient, testing
from tests.inside import parts_of

from .support import connect


class Echo(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, message)


@asynccontextmanager
async def a_good_pair(**options):
    """A broker with a backend and a client that work before and after whatever happens in between."""
    async with testing.broker(**options) as broker, testing.backend(broker, Echo), connect(broker) as ws:

        async def works():
            await ws.send("ping")
            assert await ws.recv() == "ping"

        await works()
        yield broker
        await works()
        assert broker.backend_count == 1
        assert broker.client_count == 1


async def talk(port, data, *, until_closed=True):
    """Send bytes, and return what comes back until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 20) if until_closed else b""
    except ConnectionError:
        return b""
    finally:
        writer.close()


def frame(opcode, payload, *, fin=True, rsv=0, announced=None):
    length = len(payload) if announced is None else announced
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if length < 126:
        head += bytes([0x80 | length])
    elif length < 65536:
        head += b"\xfe" + struct.pack("!H", length)
    else:
        head += b"\xff" + struct.pack("!Q", length)
    return head + b"\0\0\0\0" + payload


UPGRADE = (
    b"GET /room HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x00\x01\x02\x03\r\n\r\n", 400),
        (os.urandom(64).replace(b"\x16", b"x") + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000, 431),
        (UPGRADE.replace(b"Version: 13", b"Version: 7"), 426),
        (UPGRADE.replace(b"AAAAAAAAAAAAAAAAAAAAAA==", b"short"), 400),
        (UPGRADE.replace(b"Host: x\r\n", b""), 400),
        (UPGRADE.replace(b"GET", b"POST"), 405),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426),
    ],
)
async def test_a_bad_request_gets_its_status(request_bytes, status):
    async with a_good_pair() as broker:
        answer = await talk(broker.ws_port, request_bytes)
        assert int(answer.split()[1]) == status


async def test_a_slow_head_is_ended():
    async with a_good_pair() as broker:
        parts_of(broker).admission.handshake_timeout = 0.1  # now that the good one is in
        answer = await talk(broker.ws_port, b"GET / HTTP/1.1\r\nHos")
        assert answer == b"" or int(answer.split()[1]) == 408
        assert broker.counters["handshake_timeout"] == 1


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (frame(1, b"\xff"), 1007),
        (frame(1, b"x", rsv=4), 1002),
        (frame(3, b"x"), 1002),
        (frame(0, b"x"), 1002),
        (frame(1, b"x" * 1001), 1009),
        (frame(1, b"", announced=1 << 40), 1009),
        (frame(1, b"x" * 600, fin=False) + frame(0, b"x" * 600), 1009),
        (frame(9, b"x" * 126), 1002),
        (frame(8, struct.pack("!H", 1005)), 1002),
    ],
)
async def test_a_bad_frame_closes_with_its_code(frames, code):
    async with a_good_pair(max_message_size=1000) as broker:
        answer = await talk(broker.ws_port, UPGRADE + frames)
        assert answer.startswith(b"HTTP/1.1 101")
        assert answer.partition(b"\r\n\r\n")[2][:4] == b"\x88" + bytes(
            [len(answer.partition(b"\r\n\r\n")[2]) - 2]
        ) + struct.pack("!H", code)
        await testing.until(lambda: broker.client_count == 1)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
        b"[" * 60_000 + b"\n",
    ],
)
async def test_garbage_on_the_backend_port_is_counted_and_the_peer_disconnected(data):
    async with a_good_pair() as broker:
        await talk(broker.tcp_port, data)
        assert broker.counters["lines_malformed"] == 1


async def test_malformed_commands_of_a_backend_are_skipped():
    lines = [
        b'{"action":"heartbeat"}',
        b'{"action":"broadcast","params":{}}',
        b'{"action":"broadcast","params":{"message":{"a":1}}}',
        b'{"action":"message_to_room","params":{"message":"x"}}',
        b'{"action":"message_to_connection","params":[]}',
        b'{"action":"response","request_id":7,"params":{"accepted":"yes"}}',
        b'{"action":"broadcast","params":' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
        b"{",
        b"\xff",
    ]
    async with a_good_pair() as broker:
        reader, writer = await asyncio.open_connection("127.0.0.1", broker.tcp_port)
        writer.write(b"\n".join(lines) + b"\n")
        await testing.until(lambda: broker.counters["lines_malformed"] == len(lines) - 1)
        assert broker.backend_count == 2
        writer.close()
        await reader.read()
        await testing.until(lambda: broker.backend_count == 1)


async def test_an_endless_line_costs_no_memory():
    limit = 6 * 1000 + 65536
    async with a_good_pair(max_message_size=1000) as broker:
        process = psutil.Process()
        _, writer = await asyncio.open_connection("127.0.0.1", broker.tcp_port)
        writer.write(b'{"action":"heartbeat"}\n')
        block = b"x" * 1_000_000
        for _ in range(5):
            writer.write(block)
            await writer.drain()
        before = process.memory_info().rss
        for _ in range(60):
            writer.write(block)
            await writer.drain()
        assert process.memory_info().rss - before < 20_000_000 + limit
        await testing.until(lambda: broker.counters["lines_overlong"] == 1)
        writer.close()
        await testing.until(lambda: broker.backend_count == 1)
