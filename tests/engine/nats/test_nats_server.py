"""The servers that other tests use, with NATS' own client as the judge."""

import asyncio

import nats
import pytest

from tests.certificates import Authority
from tests.nats_server import Key, NatsServer, Operator, cluster


async def round_trip(server, **options):
    connection = await nats.connect(server.url, allow_reconnect=False, **options)
    try:
        subscription = await connection.subscribe("s")
        await connection.publish("s", b"x")
        assert (await subscription.next_msg(5)).data == b"x"
    finally:
        await connection.close()


async def test_it_is_on_the_same_port_after_a_restart():
    with NatsServer() as server:
        port = server.port
        await round_trip(server)
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        server.restart()
        assert server.port == port
        await round_trip(server)
        server.stop()
        assert not server.is_running


async def test_who_may_connect(tmp_path):
    key, operator, authority = Key(), Operator(), Authority()
    (tmp_path / "a.creds").write_text(operator.credentials())
    (tmp_path / "seed").write_text(key.seed)
    with NatsServer(token="t0ken") as server:
        await round_trip(server)
    with NatsServer(user="u", password="p") as server:
        await round_trip(server)
    with NatsServer(nkey=key.public) as server:
        await round_trip(server, nkeys_seed=str(tmp_path / "seed"))
    with NatsServer(operator=operator) as server:
        await round_trip(server, user_credentials=str(tmp_path / "a.creds"))
    with NatsServer(tls=authority) as server:
        await round_trip(server, tls=authority.trusting())


async def test_paused_it_says_nothing_and_then_goes_on():
    with NatsServer() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert (await reader.readline()).startswith(b"INFO ")
        server.pause()
        writer.write(b"CONNECT {}\r\nPING\r\n")
        answer = asyncio.create_task(reader.readline())
        assert not (await asyncio.wait([answer], timeout=0.1))[0]
        server.resume()
        assert await answer == b"+OK\r\n"
        writer.close()


async def test_a_cluster_is_one_from_its_first_message():
    with cluster(2) as (one, other):
        receiver, sender = await nats.connect(other.url), await nats.connect(one.url)
        subscription = await receiver.subscribe("s")
        await receiver.flush()
        for _ in range(100):
            await sender.publish("s", b"x")
            try:
                await subscription.next_msg(0.1)
                break
            except nats.errors.TimeoutError:
                continue
        else:
            pytest.fail("nothing came")
        await receiver.close()
        await sender.close()
