"""Servers in their order, servers that another one tells of, servers that are about to stop. Both loops."""

import asyncio
import logging

import pytest

from tests.certificates import Authority
from tests.engine.nats.support import connected, synced, until
from tests.nats_server import NatsServer, cluster


def clients(server):
    """Return the names of a server's clients."""
    return {each["name"] for each in server.monitored("/connz")["connections"]}


async def test_the_first_server_that_answers_is_used_in_the_order_given():
    with NatsServer() as first, NatsServer() as second:
        async with connected([first.url, second.url], b"a") as (_, owner):
            async with connected(first.url) as (other, _):
                other.publish(b"a", b"1")
                await until(lambda: owner.payloads == [b"1"])
            first.kill()
            await until(lambda: owner.changes == ["up", "down", "up"])
            async with connected(second.url) as (other, _):
                await synced(owner.connection)
                other.publish(b"a", b"2")
                await until(lambda: owner.payloads == [b"1", b"2"])
            first.start()
            second.kill()
            await until(lambda: owner.changes == ["up", "down", "up", "down", "up"])
            async with connected(first.url) as (other, _):
                await synced(owner.connection)
                other.publish(b"a", b"3")
                await until(lambda: owner.payloads == [b"1", b"2", b"3"])


async def test_a_server_with_other_credentials_is_passed_over(caplog):
    with NatsServer(token="other") as first, NatsServer(token="t") as second:
        url = f"nats://wrong@127.0.0.1:{first.port}"
        async with connected([url, second.url]) as (_, owner):
            assert owner.changes == ["up"]


async def test_servers_of_which_another_one_tells_are_used_when_those_that_are_named_are_gone(caplog):
    caplog.set_level(logging.INFO, "pystrands.engine.nats")
    with cluster(2, token="t") as (one, other):
        async with connected(one.url, b"a") as (_, owner):
            one.kill()
            await until(lambda: owner.changes == ["up", "down", "up"])
            assert f"connected to NATS at nats://127.0.0.1:{other.port} (" in caplog.text
            one.start()
            other.kill()
            await until(lambda: owner.changes == ["up", "down", "up", "down", "up"])


async def test_messages_cross_a_cluster_of_servers():
    with cluster(2) as (one, other):
        async with connected(one.url, b"a") as (_, owner), connected(other.url) as (sender, _):
            number = 0
            while not owner.payloads:  # until the other server knows who has subscribed
                number += 1
                sender.publish(b"a", b"%d" % number)
                await asyncio.sleep(0.01)
            first, last = int(owner.payloads[0]), number + 1000
            for each in range(number + 1, last + 1):
                sender.publish(b"a", b"%d" % each)
            await until(lambda: owner.payloads[-1] == b"%d" % last)
            assert owner.payloads == [b"%d" % each for each in range(first, last + 1)]


async def test_a_server_that_is_about_to_stop_is_left_before_it_does(caplog):
    caplog.set_level(logging.INFO, "pystrands.engine.nats")
    slow = 'http: "127.0.0.1:-1"\nlame_duck_grace_period: "20s"'
    with NatsServer(config=slow) as first, NatsServer(config=slow) as second:
        async with connected([first.url, second.url], b"a", name="broker") as (connection, owner):
            sent = 0
            async with connected(second.url) as (other, _):
                first.retire()
                while owner.changes == ["up"]:
                    connection.publish(b"b", b"%d" % sent)
                    sent += 1
                    await asyncio.sleep(0.001)
                assert owner.changes == ["up", "down", "up"], "the next one is there at once"
                await synced(connection)
                other.publish(b"a", b"x")
                await until(lambda: owner.payloads == [b"x"])
            assert first.is_running
            async with asyncio.timeout(20):
                while "broker" in await asyncio.to_thread(clients, first):
                    await asyncio.sleep(0.01)
            assert "broker" in await asyncio.to_thread(clients, second)
    assert f"NATS at {first.url} is about to stop" in caplog.text
    assert "is lost" not in caplog.text


async def test_what_was_sent_to_a_server_that_is_left_arrives():
    slow = 'lame_duck_grace_period: "20s"'
    with NatsServer(config=slow) as first, NatsServer() as second:
        async with connected([first.url, second.url]) as (connection, owner), connected(first.url, b"a") as (_, hears):
            first.retire()
            sent = 0
            while owner.changes == ["up"]:
                for _ in range(100):
                    connection.publish(b"a", b"%d" % sent)
                    sent += 1
                await asyncio.sleep(0)
            await until(lambda: len(hears.payloads) == sent)
            assert hears.payloads == [b"%d" % each for each in range(sent)]


async def test_the_only_server_is_used_until_it_stops_and_when_it_is_back(caplog):
    slow = 'lame_duck_grace_period: "20s"'
    with NatsServer(config=slow) as server:
        async with connected(server.url, b"a") as (_, owner), connected(server.url) as (other, _):
            server.retire()
            await until(lambda: "can't be reached, and is tried again" in caplog.text)
            other.publish(b"a", b"x")
            await until(lambda: owner.payloads == [b"x"])
            assert owner.changes == ["up"]
            server.restart()
            await until(lambda: owner.changes == ["up", "down", "up"])


async def test_tls_holds_for_servers_of_which_another_one_tells(tmp_path):
    authority = Authority()
    ca = authority.write_ca(tmp_path)
    with cluster(2, tls=authority, config='http: "127.0.0.1:-1"') as (one, other):
        async with connected(one.url, tls_ca=ca, name="broker") as (_, owner):
            one.kill()
            await until(lambda: owner.changes == ["up", "down", "up"])
            (connection,) = (await asyncio.to_thread(other.monitored, "/connz"))["connections"]
            assert connection["tls_version"]


@pytest.mark.parametrize("count", [20])
async def test_many_that_lose_a_server_together_come_back(count):
    with NatsServer() as server:
        stacks = [connected(server.url) for _ in range(count)]
        pairs = [await each.__aenter__() for each in stacks]
        server.restart()
        await until(lambda: all(owner.changes == ["up", "down", "up"] for _, owner in pairs))
        for each in stacks:
            await each.__aexit__(None, None, None)
