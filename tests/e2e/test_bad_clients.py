"""Each attack by many at once, on a broker with one good client, whose messages go on and which is not touched."""

import asyncio
import socket
import struct
from contextlib import asynccontextmanager, suppress

import pytest

from pystrands import AsyncPyStrandsClient, testing
from pystrands.broker.ws.reassembly import MAX_FRAGMENTS
from pystrands.testing import frames
from tests.inside import budget_of, parts_of

from .test_bad_input import UPGRADE, frame

MANY = 50
PATIENCE = 30


class Echo(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_private_message(context.client_id, message)


@asynccontextmanager
async def a_good_client(**options):
    """A broker, a backend, and a client whose messages come back all the while, and which is there at the end."""
    async with testing.broker(**options) as broker, testing.backend(broker, Echo):
        async with testing.connect(broker, "/good") as ws:
            stop = asyncio.Event()

            async def talk():
                number = 0
                while not stop.is_set():
                    number += 1
                    await ws.send(str(number), timeout=PATIENCE)
                    await ws.expect(str(number), PATIENCE)
                    await asyncio.sleep(0.01)
                return number

            talking = asyncio.create_task(talk())
            try:
                yield broker
            finally:
                stop.set()
                assert await talking > 0
            await testing.until(lambda: broker.client_count == 1, PATIENCE)
            assert ws.closed is None


async def attackers(broker, count=MANY, **options):
    return await asyncio.gather(*(testing.connect(broker, "/bad", **options) for _ in range(count)))


async def all_closed(clients, code):
    for ws in clients:
        closed = await ws.expect_close(code, PATIENCE)
        assert closed.code == code
        await ws.close(timeout=PATIENCE)


def strangers(port, data, count=MANY):
    socks = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        sock.sendall(data)
        socks.append(sock)
    return socks


def held(broker):
    """How many bytes the broker keeps for all that have a connection."""
    return sum(each.held_bytes for each in budget_of(broker)._holders())


@pytest.mark.parametrize("head", [b"", b"G", UPGRADE[:-2]], ids=["nothing", "a byte", "almost all"])
async def test_requests_that_never_end(head):
    async with a_good_client() as broker:
        parts_of(broker).admission.handshake_timeout = 0.5  # now that the good one is in
        socks = await asyncio.to_thread(strangers, broker.ws_port, head)
        await testing.until(lambda: broker.counters["handshake_timeout"] == MANY, PATIENCE)
        for sock in socks:
            answer = await asyncio.to_thread(sock.recv, 1000)
            assert answer.startswith(b"HTTP/1.1 408 ")
            sock.close()
        await testing.until(lambda: not len(parts_of(broker).admission), PATIENCE)


async def test_requests_that_come_byte_by_byte_have_no_more_time():
    async with a_good_client() as broker:
        parts_of(broker).admission.handshake_timeout = 0.5  # now that the good one is in
        socks = await asyncio.to_thread(strangers, broker.ws_port, b"GET /")
        while broker.counters["handshake_timeout"] < MANY:
            for sock in socks:
                try:
                    sock.send(b"x")
                except OSError:
                    continue
            await asyncio.sleep(0.02)
        for sock in socks:
            sock.close()


async def test_more_half_open_handshakes_than_there_may_be():
    async with a_good_client(max_handshakes=100, handshake_timeout=60) as broker:
        socks = await asyncio.to_thread(strangers, broker.ws_port, b"GET /", 1000)
        await testing.until(lambda: broker.counters["limit_handshakes"] == 900, PATIENCE)
        assert len(parts_of(broker).admission.handshakes) == 100
        for sock in socks:
            sock.close()
        await testing.until(lambda: not len(parts_of(broker).admission), PATIENCE)


async def test_half_open_handshakes_do_not_keep_others_out():
    async with a_good_client(max_handshakes=20, handshake_timeout=4) as broker:
        socks = await asyncio.to_thread(strangers, broker.ws_port, b"GET /", 20)
        await testing.until(lambda: len(parts_of(broker).admission.handshakes) == 20)
        with pytest.raises(testing.Rejected):  # they have hardly had time
            await testing.connect(broker)
        oldest = next(iter(parts_of(broker).admission.reading))
        oldest.began -= 1.1  # time passes
        async with testing.connect(broker) as ws:
            await ws.send("in")
            await ws.expect("in", PATIENCE)
        assert broker.counters["handshake_displaced"] == 1
        assert oldest not in parts_of(broker).admission.handshakes
        for sock in socks:
            sock.close()
        await testing.until(lambda: not len(parts_of(broker).admission), PATIENCE)


async def test_messages_that_never_end():
    async with a_good_client(message_timeout=0.8) as broker:
        drip = await attackers(broker)
        parts = await attackers(broker)
        for ws in drip:
            await ws.send_frame(frames.TEXT, b"", length=1000)
        for ws in parts:
            await ws.send_frame(frames.TEXT, b"", fin=False)
        while broker.counters["message_timeout"] < 2 * MANY:
            for ws in drip:
                await _try(ws.send_raw(b"x"))
            for ws in parts:
                await _try(ws.send_frame(frames.CONTINUATION, b"", fin=False))
            await asyncio.sleep(0.02)
        await all_closed(drip + parts, 1008)


async def test_a_big_frame_that_is_announced_and_never_sent_takes_no_memory_and_no_more_than_its_time():
    async with a_good_client(message_timeout=0.8) as broker:
        clients = await attackers(broker)
        for ws in clients:
            await ws.send_frame(frames.BINARY, b"", length=1 << 20)
        sockets = list(parts_of(broker).rooms.members("/bad"))
        await testing.until(lambda: all(ws.held == 14 for ws in sockets), PATIENCE)
        assert all(len(ws._parser.get_buffer(-1)) < 4096 for ws in sockets)
        await all_closed(clients, 1008)
        assert broker.counters["message_timeout"] == MANY


async def test_a_good_client_with_a_big_message_in_many_parts_is_not_touched():
    async with a_good_client(message_timeout=20) as broker, testing.connect(broker, "/slow") as ws:
        await ws.send_frame(frames.TEXT, b"begin", fin=False)
        for _ in range(20):
            await ws.send_frame(frames.CONTINUATION, b"x" * 1000, fin=False)
            await ws.ping(PATIENCE)
            await asyncio.sleep(0.01)
        await ws.send_frame(frames.CONTINUATION, b"end")
        await ws.expect("begin" + "x" * 20_000 + "end", PATIENCE)


async def test_unfinished_messages_are_within_the_one_budget():
    async with a_good_client(memory_budget=1 << 20) as broker:
        clients = await attackers(broker)
        for number, ws in enumerate(clients):
            if number % 2:
                await ws.send_frame(frames.BINARY, b"x" * 100_000, fin=False)
            else:
                await ws.send_frame(frames.BINARY, b"x" * 100_000, length=200_000)
        await testing.until(lambda: broker.counters["budget_closed"] >= MANY - 11, PATIENCE)
        assert held(broker) <= 1 << 20
        for ws in clients:
            ws.abort()


async def test_unfinished_requests_are_within_the_one_budget():
    async with a_good_client(memory_budget=100_000) as broker:
        socks = await asyncio.to_thread(strangers, broker.ws_port, b"GET /" + b"x" * 10_000)
        await testing.until(lambda: broker.counters["budget_closed"] >= MANY - 10, PATIENCE)
        await testing.until(lambda: held(broker) <= 100_000, PATIENCE)
        for sock in socks:
            sock.close()


async def test_what_is_sent_early_is_within_the_one_budget():
    async with testing.broker(memory_budget=100_000, hold_time=60) as broker:
        socks = await asyncio.to_thread(strangers, broker.ws_port, UPGRADE + b"x" * 10_000)
        await testing.until(lambda: broker.counters["budget_closed"] >= MANY - 10, PATIENCE)
        assert held(broker) <= 100_000
        for sock in socks:
            sock.close()


@pytest.mark.no_cover
async def test_floods_of_pings():
    async with a_good_client() as broker:
        clients = await attackers(broker, 20)
        flood = frame(9, b"x") * 2500  # too many though they may be counted in two of the sweeps
        for ws in clients:
            await _try(ws.send_raw(flood, timeout=PATIENCE))
        await testing.until(lambda: broker.counters["control_flood"] == 20, PATIENCE)
        await all_closed(clients, 1008)


@pytest.mark.no_cover
async def test_fragments_without_end():
    async with a_good_client() as broker:
        clients = await attackers(broker, 2)
        flood = frame(1, b"", fin=False) + frame(0, b"", fin=False) * MAX_FRAGMENTS
        for ws in clients:
            await _try(ws.send_raw(flood, timeout=PATIENCE))
        await testing.until(lambda: broker.counters["too_many_fragments"] == 2, PATIENCE)
        await all_closed(clients, 1008)


async def test_clients_that_do_not_read():
    async with a_good_client(
        client_buffer=100_000, max_message_size=60_000, close_timeout=0.2, slow_client_time=0.5
    ) as broker:
        clients = await attackers(broker, 5, receive_buffer=4096)
        for ws in clients:
            ws.stop_reading()
        async with testing.backend(broker) as sender:
            while broker.counters["slow_consumer_closed"] < 5:
                await sender.send_room_message("/bad", "x" * 60_000, confirm=True)
        await testing.until(lambda: not parts_of(broker).websockets.lingering, PATIENCE)
        assert held(broker) < 100_000
        for ws in clients:
            ws.abort()


async def test_clients_past_their_rate_are_delayed_and_lose_nothing():
    async with a_good_client(client_message_rate=10.0) as broker:  # which every machine is faster than
        clients = await attackers(broker, 5)
        data = b"".join(frame(1, struct.pack(">H", number).hex().encode()) for number in range(30))
        for ws in clients:
            await ws.send_raw(data, timeout=PATIENCE)
        for ws in clients:
            for number in range(30):
                await ws.expect(struct.pack(">H", number).hex(), PATIENCE)
            await ws.close()
        assert broker.counters["rate_delayed"] >= 5
        assert broker.counters["rate_closed"] == 0


async def test_clients_past_their_rate_are_closed_where_that_is_the_policy():
    async with a_good_client(client_byte_rate=20_000, max_message_size=20_000, client_rate_policy="close") as broker:
        clients = await attackers(broker, 20)
        for ws in clients:
            await _try(ws.send_raw(frame(1, b"x" * 10_000) * 8))
        await testing.until(lambda: broker.counters["rate_closed"] == 20, PATIENCE)
        for ws in clients:
            ws.abort()


async def test_clients_that_say_nothing_are_closed_though_they_answer_pings():
    async with a_good_client(idle_timeout=1.0, ping_interval=0.2) as broker:
        clients = await attackers(broker)
        await all_closed(clients, 1001)
        assert broker.counters["idle_closed"] == MANY
        assert broker.counters["keepalive_timeout"] == 0


async def _try(sending):
    with suppress(testing.Closed):
        await sending
