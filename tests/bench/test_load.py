"""The load generator counts right: what arrives from our broker, and what a server loses, repeats or swaps."""

import asyncio
import dataclasses
import itertools
from collections import defaultdict
from contextlib import asynccontextmanager

import pytest
from bench.cases import Case
from bench.measure import Timing, drive, measure
from bench.processes import BenchError
from bench.sides import SIDES, SOURCE, Running, Side, pystrands
from websockets.asyncio.server import serve

SHORT = Timing(settle=0.05, warmup=0.1, seconds=0.25, drain=0.2)
# For who loses nothing: a machine that stands still for a moment has lost nothing either.
PATIENT = dataclasses.replace(SHORT, drain=10)
ROOM = Case("small", "a small room", "", "/chat", "room", clients=20, room_size=10, senders=2)
ECHO = Case("small", "a small echo", "", "/echo", "own", clients=5)


def once(message):
    """What a faithful server sends for a message."""
    return [message]


def server(what_is_sent=once):
    """A server whose members of a path get what the function makes of each message."""

    @asynccontextmanager
    async def running():
        rooms = defaultdict(set)

        async def handler(websocket):
            path = websocket.request.path
            room = {websocket} if path.startswith("/echo") else rooms[path]
            room.add(websocket)
            try:
                async for message in websocket:
                    for member in list(room):
                        for copy in what_is_sent(message):
                            await member.send(copy)
            finally:
                room.discard(websocket)

        async with serve(handler, "127.0.0.1", 0, compression=None) as listening:
            yield Running((listening.sockets[0].getsockname()[1],), {})

    return running()


async def drive_against(what_is_sent, case=ROOM, timing=PATIENT):
    async with server(what_is_sent) as running:
        return await asyncio.to_thread(drive, running, case, timing)


@pytest.mark.parametrize("case", [ECHO, ROOM], ids=["echo", "room"])
async def test_our_broker_and_backend_lose_nothing(case, tmp_path):
    run = await asyncio.to_thread(measure, SIDES["pystrands-interpreted"], case, PATIENT, tmp_path / "log")
    assert run["received"] > 0
    assert run["rate"] == pytest.approx(run["received"] / run["seconds"], rel=0.001)
    assert set(run["us"]) == set(run["peak_bytes"]) == {"broker", "backend"}
    assert run["us"]["broker"] > 0
    assert 0 < run["latency_us"]["p50"] <= run["latency_us"]["p99"] <= run["latency_us"]["max"]


@pytest.mark.parametrize("case", [ECHO, ROOM], ids=["echo", "room"])
async def test_clients_that_come_back_lose_nothing(case, tmp_path):
    side = Side("sessions", "", "", pystrands(loop="asyncio", src=SOURCE, dialect="sessions"))
    run = await asyncio.to_thread(measure, side, case, PATIENT, tmp_path / "log")
    assert run["received"] > 0


async def test_a_room_hears_each_message_as_often_as_it_has_members():
    run = await drive_against(once)
    assert run["lost"] == run["repeated"] == run["foreign"] == run["closed"] == 0
    assert run["received"] == pytest.approx(10 * run["sent"], rel=0.2), "the ends of the time cut some in half"


async def test_a_message_that_is_lost_is_seen():
    numbers = itertools.count()
    with pytest.raises(BenchError, match=r"\d lost"):
        await drive_against(lambda message: [] if next(numbers) == 500 else [message], timing=SHORT)


async def test_a_message_that_comes_twice_is_seen():
    numbers = itertools.count()
    with pytest.raises(BenchError, match="1 repeated"):
        await drive_against(lambda message: [message] * (2 if next(numbers) == 500 else 1))


async def test_a_message_that_comes_after_its_successor_is_seen():
    held: list[str] = []
    numbers = itertools.count()

    def swap(message):
        if next(numbers) == 30:
            held.append(message)
            return []
        return [message, held.pop()] if held else [message]

    with pytest.raises(BenchError, match="lost"):
        await drive_against(swap, Case("open", "open loop", "", "/echo", "own", clients=1, rate=200), SHORT)


async def test_a_message_that_nobody_sent_is_seen():
    numbers = itertools.count()
    with pytest.raises(BenchError, match="1 foreign"):
        await drive_against(lambda message: [message, "x"] if next(numbers) == 100 else [message])


async def test_a_server_that_closes_a_client_is_seen():
    async def handler(websocket):
        async for message in websocket:
            await websocket.send(message)
            await websocket.close()

    async with serve(handler, "127.0.0.1", 0, compression=None) as listening:
        running = Running((listening.sockets[0].getsockname()[1],), {})
        with pytest.raises(BenchError, match="5 closed"):
            await asyncio.to_thread(drive, running, ECHO, SHORT)


async def test_nothing_is_owed_to_clients_that_do_not_read():
    run = await drive_against(once, dataclasses.replace(ROOM, clients=10, stalled=3))
    assert run["received"] == pytest.approx(7 * run["sent"], rel=0.2)


async def test_pings_are_counted_and_what_is_said_beside_them_is_not():
    async def handler(websocket):
        await websocket.send("for everybody")
        await websocket.wait_closed()

    async with serve(handler, "127.0.0.1", 0, compression=None) as listening:
        running = Running((listening.sockets[0].getsockname()[1],), {})
        run = await asyncio.to_thread(drive, running, dataclasses.replace(ECHO, dialect="pings", rate=200), SHORT)
    assert run["received"] == pytest.approx(50, abs=5)


async def test_a_server_that_stalls_is_charged_for_all_that_had_to_wait():
    """An open loop: messages are due every 10 ms, so a stall of 300 ms delays about thirty, not one."""
    numbers = itertools.count()

    async def handler(websocket):
        async for message in websocket:
            if next(numbers) == 30:
                await asyncio.sleep(0.3)
            await websocket.send(message)

    async with serve(handler, "127.0.0.1", 0, compression=None) as listening:
        running = Running((listening.sockets[0].getsockname()[1],), {})
        case = Case("open", "open loop", "", "/echo", "own", clients=1, rate=100)
        run = await asyncio.to_thread(drive, running, case, Timing(settle=0.1, warmup=0.1, seconds=1, drain=1))
    assert run["sent"] == pytest.approx(100, abs=5)
    assert run["latency_us"]["p90"] > 100_000
    assert run["latency_us"]["max"] > 290_000
