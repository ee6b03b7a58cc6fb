"""What the connection does when servers do not: killed, paused, restarted, full, strict. Both loops."""

import asyncio
import contextlib
import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pystrands.engine.nats.options import NatsOptions
from pystrands.engine.nats.server_info import ServerInfo
from pystrands.engine.nats.supervisor import Supervisor
from tests.engine.nats.support import connected, make, synced, until
from tests.nats_server import Key, NatsServer


async def test_killed_and_started_again_it_is_used_again(caplog):
    caplog.set_level(logging.INFO, "pystrands.engine.nats")
    with NatsServer(token="s3cret") as server:
        async with connected(server.url, b"a") as (_, owner), connected(server.url) as (other, _):
            for _ in range(3):
                before = len(owner.changes)
                server.kill()
                await until(lambda before=before: len(owner.changes) == before + 1)
                assert owner.changes[-1] == "down"
                await until(lambda: not other.is_up)
                other.publish(b"a", b"dropped")
                dropped = owner.connection.subscribe(b"a")
                server.restart()
                await until(lambda before=before: len(owner.changes) == before + 2)
                await until(lambda: other.is_up)
                await synced(owner.connection)
                other.publish(b"a", b"%d" % before)
                await until(lambda before=before: owner.payloads[-1:] == [b"%d" % before])
                assert owner.sids[b"a"] > dropped
            assert owner.changes == ["up", *["down", "up"] * 3]
            assert owner.payloads == [b"1", b"3", b"5"]
    assert "closed the connection; this broker goes on alone" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(("size", "is_told"), [(16_000, True), (16_384, False)])
async def test_a_server_that_takes_too_little_at_once_is_told_of(caplog, size, is_told):
    with NatsServer(config=f"max_payload: {size}") as server:
        async with connected(server.url):
            assert (f"NATS at {server.url} takes {size} bytes at once: brokers need 16384" in caplog.text) == is_told


async def test_a_server_that_is_away_for_long_is_told_of_once(caplog):
    with NatsServer() as server:
        async with connected(server.url, longest_delay=0.05) as (connection, owner):
            server.kill()
            await until(lambda: not connection.is_up)
            await asyncio.sleep(0.5)
            told = [record for record in caplog.records if "can't be reached" in record.message]
            assert [record.getMessage() for record in told] == [
                f"NATS can't be reached, and is tried again: {server.url} Connection refused"
            ]
            server.start()
            await until(lambda: owner.changes == ["up", "down", "up"])


async def test_a_server_that_hangs_is_given_up_and_used_when_it_goes_on(caplog):
    with NatsServer() as server:
        async with connected(server.url, b"a", ping_interval=0.1, connect_timeout=0.3) as (_, owner):
            server.pause()
            await until(lambda: owner.changes == ["up", "down"])
            await until(lambda: "does not answer within 0.3 s" in caplog.text)
            server.resume()
            await until(lambda: owner.changes == ["up", "down", "up"])
            assert f"{server.url} does not answer; this broker goes on alone" in caplog.text


async def test_a_server_that_answers_is_kept_however_short_the_interval():
    with NatsServer() as server:
        async with connected(server.url, ping_interval=0.02) as (_, owner):
            await asyncio.sleep(0.5)
            assert owner.changes == ["up"]


async def test_a_server_that_takes_nothing_is_given_up_before_memory_is_full(caplog):
    with NatsServer() as server:
        async with connected(server.url, write_buffer=1 << 20, connect_timeout=0.3) as (connection, owner):
            server.pause()
            payload = b"x" * 10_000
            for _ in range(10_000):
                connection.publish(b"a", payload)
                await asyncio.sleep(0)
                if not connection.is_up:
                    break
                assert connection.held_bytes < (1 << 20) + 20_000
            assert owner.changes == ["up", "down"]
            assert "takes too little: more than 1048576 bytes wait to be sent" in caplog.text
            assert connection.held_bytes == 0
            server.resume()
            await until(lambda: connection.is_up)
            await synced(connection)


async def test_too_much_in_one_turn_is_given_up_too():
    with NatsServer() as server:
        async with connected(server.url, write_buffer=1 << 20) as (connection, owner):
            for _ in range(1000):
                connection.publish(b"a", b"x" * 10_000)
            assert connection.held_bytes <= 1 << 20
            await until(lambda: owner.changes == ["up", "down", "up"])


async def test_one_message_that_is_too_big_costs_the_connection_and_no_more(caplog):
    with NatsServer(config="max_payload: 1000") as server:
        async with connected(server.url) as (connection, owner):
            assert connection.max_payload == 1000
            connection.publish(b"a", b"x" * 1001)
            await until(lambda: owner.changes == ["up", "down", "up"])
            assert "says: Maximum Payload Violation" in caplog.text


async def test_a_server_that_is_full_is_tried_again(caplog):
    with NatsServer(config="max_connections: 1") as server:
        async with connected(server.url):
            connection, owner = make(server.url)
            start = asyncio.create_task(connection.start(20))
            await until(lambda: "says: maximum connections exceeded" in caplog.text)
            assert not start.done()
        await start
        assert owner.changes == ["up"]
        await connection.stop()


PERMISSIONS = """authorization { users: [
    { user: u, password: p, permissions: { publish: ["a.>", "x"], subscribe: ["a.>"] } }
] }"""


async def test_what_is_not_permitted_is_said_and_the_rest_goes_on(caplog):
    with NatsServer(config=PERMISSIONS) as server:
        url = f"nats://u:p@127.0.0.1:{server.port}"
        async with connected(url, b"a.b", *[b"b.%d" % number for number in range(100)]) as (_, owner):
            async with connected(url) as (other, _):
                other.publish(b"c", b"x")
                other.publish(b"a.b", b"y")
                await until(lambda: owner.payloads == [b"y"])
            assert owner.changes == ["up"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 8, "a warning for each message would be a flood"
    assert 'says: Permissions Violation for Subscription to "b.0" (1 so far): it has to allow ps.CLUSTER.>' in told[0]
    assert 'Permissions Violation for Publish to "c"' in told[-1]


async def test_credentials_that_are_no_longer_taken_are_told_once_and_read_again(tmp_path, caplog):
    file = tmp_path / "seed"
    older, newer = Key(), Key()
    file.write_text(older.seed)
    with NatsServer(nkey=older.public) as server:
        async with connected(server.url, credentials=str(file), longest_delay=0.05) as (_, owner):
            server.replace_nkey(newer.public)
            server.reload()
            await until(lambda: owner.changes == ["up", "down"])
            await until(lambda: "says: Authorization Violation" in caplog.text)
            await asyncio.sleep(0.3)
            file.write_text("nonsense")
            await until(lambda: "is neither a .creds file" in caplog.text)
            file.write_text(newer.seed)
            await until(lambda: owner.changes == ["up", "down", "up"])
    told = [record.getMessage() for record in caplog.records if "can't be reached" in record.message]
    assert len(told) <= 4, told  # each problem once, and half-written files
    assert older.seed not in caplog.text


# --- at the start ---


async def test_a_server_that_comes_later_is_waited_for(caplog):
    with NatsServer() as server:
        server.kill()
        connection, owner = make(server.url)
        start = asyncio.create_task(connection.start(0))
        await until(lambda: "can't be reached, and is tried again" in caplog.text)
        assert (start.done(), owner.changes) == (False, [])
        server.start()
        await start
        assert owner.changes == ["up"]
        await connection.stop()


async def test_no_server_in_time_is_an_error_that_says_why():
    with NatsServer() as server:
        server.kill()
        connection, owner = make(server.url)
        with pytest.raises(TimeoutError, match=f"within 0.2 s: {server.url} Connection refused"):
            await connection.start(0.2)
        server.start()
        await asyncio.sleep(0.3)
        assert owner.events == [], "it has let go of everything"


async def test_a_name_that_there_is_not_is_told(caplog):
    connection, _ = make("nats://token@nobody.invalid:4222")
    start = asyncio.create_task(connection.start(0))
    await until(lambda: "nats://nobody.invalid:4222 can't be found: " in caplog.text)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start


@pytest.mark.parametrize("when", [0, 0.001, 0.01])
async def test_a_start_that_is_cancelled_leaves_nothing(when):
    with NatsServer(config='http: "127.0.0.1:-1"') as server:
        connection, owner = make(server.url)
        start = asyncio.create_task(connection.start(0))
        await asyncio.sleep(when)
        start.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await start
        events = list(owner.events)
        await asyncio.sleep(0.1)
        assert (owner.events, connection.is_up) == (events, False) or start.cancelled() is False
        await connection.stop()
        async with asyncio.timeout(20):
            while (await asyncio.to_thread(server.monitored, "/connz"))["connections"]:
                await asyncio.sleep(0.01)


async def test_a_stop_while_nobody_answers_takes_four_seconds_at_most():
    with NatsServer() as server:
        connection, owner = make(server.url)
        await connection.start(20)
        server.pause()
        connection.publish(b"a", b"x")
        began = time.monotonic()
        await connection.stop()
        assert time.monotonic() - began < 15
        assert owner.changes == ["up"]
        server.resume()


async def test_a_stop_while_nats_is_away(caplog):
    with NatsServer() as server:
        connection, owner = make(server.url)
        await connection.start(20)
        server.kill()
        await until(lambda: not connection.is_up)
    await connection.stop()
    await connection.stop()
    assert owner.changes == ["up", "down"]


async def test_an_owner_that_fails_costs_the_link_and_no_more(caplog):
    with NatsServer() as server:
        async with connected(server.url, b"a") as (_, owner), connected(server.url) as (other, _):
            owner.on_message = lambda *_: 1 // 0
            other.publish(b"a", b"x")
            await until(lambda: owner.changes == ["up", "down", "up"])
            del owner.on_message
            await synced(owner.connection)
            other.publish(b"a", b"y")
            await until(lambda: owner.payloads == [b"y"])
    assert "ZeroDivisionError" in caplog.text


async def test_an_owner_that_fails_at_its_beginning_gets_another_link(caplog):
    with NatsServer() as server:
        async with connected(server.url) as (_, owner):
            began, owner.on_connected = owner.on_connected, lambda: 1 // 0
            server.restart()
            await until(lambda: owner.changes[:3] == ["up", "down", "down"])
            owner.on_connected = began
            await until(lambda: owner.changes[-1] == "up")
    assert "ZeroDivisionError" in caplog.text


async def test_a_server_without_headers_is_told():
    with NatsServer(config="no_header_support: true") as server:
        connection, _ = make(server.url)
        with pytest.raises(TimeoutError, match=r"has no headers \(nats-server before 2.2, or no_header_support\)"):
            await connection.start(1)


async def test_a_secret_that_travels_in_the_clear_is_told_once(caplog):
    link: Any = SimpleNamespace(info=ServerInfo(), is_exposed=True)
    for url, what in (("nats://t0ken@10.0.0.1", "the token"), ("nats://u:passw0rd@10.0.0.1", "the password")):
        caplog.clear()
        supervisor = Supervisor(NatsOptions(urls=(url,)), asyncio.get_running_loop(), print, print)
        for _ in range(3):
            supervisor._tell_of(link)
        (told,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
        assert told == f"{what} for NATS travels in the clear to nats://10.0.0.1:4222: use tls://, or a private network"


# --- many subscriptions ---


@pytest.mark.no_cover
async def test_a_hundred_thousand_rooms_in_slices():
    rooms = [b"r.=room-%d" % number for number in range(100_000)]
    with NatsServer(config='http: "127.0.0.1:-1"') as server:
        async with connected(server.url) as (connection, _):
            nobodys = server.monitored("/varz")["subscriptions"]
            sids = []
            for begin in range(0, len(rooms), 500):
                sids += [connection.subscribe(room) for room in rooms[begin : begin + 500]]
                await asyncio.sleep(0)
            assert len(set(sids)) == len(rooms)
            await synced(connection)
            assert server.monitored("/varz")["subscriptions"] == nobodys + len(rooms)
            for begin in range(0, len(sids), 500):
                for sid in sids[begin : begin + 500]:
                    connection.unsubscribe(sid)
                await asyncio.sleep(0)
            await synced(connection)
            assert server.monitored("/varz")["subscriptions"] == nobodys
