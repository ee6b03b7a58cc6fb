"""Rules 25 to 28 of the link: real backends, a real broker, and clients that read as they like."""

import asyncio
import contextlib
import socket
import time

import pytest

from pystrands import AsyncPyStrandsClient, testing
from pystrands.testing import Closed
from tests.client.fake_broker import until
from tests.inside import core_of

from .raw_backend import RawBackend

KIB = 1024
ROOM = "/room"
SMALL = {"client_buffer": 128 * KIB, "max_message_size": 64 * KIB}
"""Full from 64 KiB on, so that a little traffic does it."""


class Backend(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        request.context.client_id = request.query["id"][0]


def joined(broker, client_id, **options):
    return testing.connect(broker, f"{ROOM}?id={client_id}", **options)


class Reader:
    """Reads by itself, at ``speed`` bytes a second, or as fast as it can."""

    def __init__(self, client, speed=0):
        self.client = client
        self.speed = speed
        self.messages = []
        self.code = None
        self.task = asyncio.ensure_future(self._read())

    async def _read(self):
        try:
            while True:
                self.messages.append(message := await self.client.receive(timeout=60))
                if self.speed:
                    await asyncio.sleep(len(message) / self.speed)
        except Closed as closed:
            self.code = closed.code

    async def has(self, count):
        await until(lambda: len(self.messages) >= count or self.code)
        assert self.code is None
        return self.messages[:count]


async def test_rule_26_a_burst_to_a_room_of_readers_arrives_whole():
    async with (
        testing.broker(**SMALL) as broker,
        testing.backend(broker, Backend) as backend,
        contextlib.AsyncExitStack() as stack,
    ):
        readers = [Reader(await stack.enter_async_context(joined(broker, f"c{n}"))) for n in range(20)]
        messages = [str(number).ljust(32 * KIB, ".") for number in range(100)]
        for message in messages:
            assert await backend.send_room_message(ROOM, message)
        for reader in readers:
            assert await reader.has(len(messages)) == messages
        assert broker.counters["slow_consumer_closed"] == 0


async def test_rule_26_a_private_stream_to_a_slow_reader_delays_no_other():
    async with (
        testing.broker(**SMALL) as broker,
        testing.backend(broker, Backend) as backend,
        joined(broker, "cay", receive_buffer=16 * KIB) as slow,
        joined(broker, "ann") as other,
    ):
        messages = [str(number).ljust(32 * KIB, ".") for number in range(200)]

        async def history():
            return [await backend.send_private_message("cay", message) for message in messages]

        slow.stop_reading()
        stream = asyncio.ensure_future(history())
        await until(lambda: "ccay" in core_of(backend).outgoing.full)
        for number in range(20):
            assert await asyncio.wait_for(backend.send_private_message("ann", str(number)), 5)
            await other.expect(str(number))
            assert await asyncio.wait_for(backend.send_room_message(ROOM, str(number)), 5)
            await other.expect(str(number))
        assert not stream.done()
        slow.resume_reading()
        heard = Reader(slow)
        assert [each for each in await heard.has(len(messages) + 20) if len(each) > 10] == messages
        assert await stream == [True] * len(messages)
        assert broker.counters["slow_consumer_closed"] == 0


async def test_rule_27_one_member_that_stops_reading_costs_the_others_a_second_once():
    async with (
        testing.broker(slow_client_time=60, **SMALL) as broker,
        testing.backend(broker, Backend) as backend,
        contextlib.AsyncExitStack() as stack,
    ):
        stopped = await stack.enter_async_context(joined(broker, "cay", receive_buffer=4 * KIB))
        stopped.stop_reading()
        readers = [Reader(await stack.enter_async_context(joined(broker, f"c{n}"))) for n in range(9)]
        waits = []
        while broker.client_count == 10 or len(waits) < 50:
            began = time.monotonic()
            assert await backend.send_room_message(ROOM, "x" * 32 * KIB)
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0)
        stopped.resume_reading()
        with contextlib.suppress(AssertionError):
            await stopped.expect_close(1013)
        for reader in readers:
            await reader.has(len(waits))
        assert broker.counters["slow_consumer_closed"] == 1
        assert sum(wait > 0.5 for wait in waits) <= 1


async def test_rule_27_who_takes_no_byte_is_closed_and_its_senders_go_on():
    async with (
        testing.broker(slow_client_time=0.5, **SMALL) as broker,
        testing.backend(broker, Backend) as backend,
        joined(broker, "cay", receive_buffer=4 * KIB) as stopped,
    ):
        stopped.stop_reading()
        while broker.client_count:
            assert await asyncio.wait_for(backend.send_private_message("cay", "x" * 32 * KIB), 20)
        assert broker.counters["slow_consumer_closed"] == 1
        assert not core_of(backend).outgoing.full.queues


async def test_rule_25_a_confirmation_comes_when_the_recipient_has_room():
    async with (
        testing.broker(slow_client_time=60, **SMALL) as broker,
        RawBackend(broker, begin=False) as raw,
    ):
        await raw.begin(flow=True)
        cay = await raw.admit("cay", "/room")
        cay.stop_reading()
        told = None
        while told is None:
            raw.say("message_to_connection", {"conn_id": "cay", "message": "x" * 60 * KIB})
            told = next(iter(await raw.so_far()), None)
        assert told["action"] == "full"
        assert told["params"] == {"client_id": "cay"}
        raw.say("message_to_connection", {"conn_id": "cay", "message": "last", "confirm": True}, request_id="q")
        assert await raw.so_far() == []
        cay.resume_reading()
        result = await raw.hear("result")
        assert (result["request_id"], result["params"]) == ("q", {"matched": 1, "skipped": 0})
        assert (await raw.hear())["action"] == "ready"
        cay.abort()


@pytest.mark.parametrize("hello", [{}, {"protocol": 1}])
async def test_rule_25_who_does_not_say_that_it_understands_is_told_nothing(hello):
    async with testing.broker(**SMALL) as broker, RawBackend(broker, begin=False) as raw:
        if hello:
            raw.raw(b'{"action":"heartbeat","params":{}}\n')
        else:
            await raw.begin()
        connecting = asyncio.ensure_future(testing.connect(broker, "/room"))
        asked = await raw.next_line()
        raw.say("response", {"accepted": True, "client_id": "cay"}, request_id=asked["request_id"])
        cay = await connecting
        cay.stop_reading()
        while broker.client_count:
            raw.say("message_to_connection", {"conn_id": "cay", "message": "x" * 60 * KIB})
            await asyncio.sleep(0.005)
        assert broker.counters["slow_consumer_closed"] == 1
        raw.say("room_members", {"room_id": "r"}, request_id="end")
        heard = []
        while (one := await raw.next_line()).get("request_id") != "end":
            heard.append(one["action"])
        assert not {"full", "ready"} & set(heard)
        cay.abort()


@pytest.mark.parametrize("seed", range(3))
async def test_rule_26_links_that_are_cut_lose_nothing(seed):
    async with (
        testing.broker(**SMALL) as broker,
        testing.LinkProxy(broker) as link,
        testing.backend(link, Backend, reconnect_delay=0.01) as backend,
        joined(broker, "cay") as client,
    ):
        reader = Reader(client)
        messages = [str(number).ljust(32 * KIB, ".") for number in range(60)]

        async def cutting():
            while True:
                await asyncio.sleep(0.05 + 0.01 * seed)
                link.cut()

        cuts = asyncio.ensure_future(cutting())
        for message in messages:
            assert await backend.send_private_message("cay", message)
        cuts.cancel()
        assert await reader.has(len(messages)) == messages


class Sipping:
    """A client that takes 2,000 bytes a second off its socket, however fast they come."""

    def __init__(self, broker, client_id):
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        self.sock.settimeout(10)
        self.sock.connect(("127.0.0.1", broker.ws_port))
        head = [f"GET {ROOM}?id={client_id} HTTP/1.1", f"Host: 127.0.0.1:{broker.ws_port}", "Upgrade: websocket",
                "Connection: Upgrade", f"Sec-WebSocket-Key: {'A' * 22}==", "Sec-WebSocket-Version: 13"]  # fmt: skip
        self.sock.sendall("\r\n".join([*head, "", ""]).encode())
        self.data = b""
        while b"\r\n\r\n" not in self.data:
            self.data += self.sock.recv(1024)
        self.data = self.data.partition(b"\r\n\r\n")[2]
        self.ages = []

    def read(self, seconds):
        """Read for so long; note how old each position is when it has come whole."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.data += self.sock.recv(100)
            time.sleep(0.05)
            while len(self.data) >= 150:
                at = float(self.data[4:150])
                self.ages.append(time.monotonic() - at)
                self.data = self.data[150:]


async def test_rule_28_a_slow_reader_sees_no_old_positions():
    async with testing.broker() as broker, testing.backend(broker, Backend) as backend, joined(broker, "ann") as other:
        slow = await asyncio.to_thread(Sipping, broker, "cay")
        reading = asyncio.ensure_future(asyncio.to_thread(slow.read, 4))
        while not reading.done():
            assert await backend.send_room_message(ROOM, f"{time.monotonic():146.6f}", key="position")
            await other.receive()
            await asyncio.sleep(0.05)
        await reading
        slow.sock.close()
        assert len(slow.ages) > 10
        # 0.5 s at most where nothing else runs. Without a look at what the kernel holds it would be seconds.
        assert sorted(slow.ages)[len(slow.ages) * 9 // 10] < 1
        assert broker.counters["keyed_replaced"] > 10
        assert broker.counters["slow_consumer_closed"] == 0
