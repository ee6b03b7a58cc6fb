"""The promises about several brokers that are this side of the engine, with processes, sockets and NATS."""

import asyncio
import json
import signal
import sys

import pytest

from pystrands import Confirmation, PyStrandsError
from pystrands.testing import Rejected, connect, until
from tests.cluster.processes import WITHIN, ClusterBroker, linked_to, processes
from tests.e2e.session_client import SessionClient
from tests.nats_server import NatsServer
from tests.nats_server import cluster as nats_cluster

MIB = 1 << 20


@pytest.fixture
def nats():
    with NatsServer() as server:
        yield server


@pytest.fixture(scope="module")
def pair():
    """Two brokers for what harms none of them."""
    with NatsServer() as server:
        brokers = [ClusterBroker(server) for _ in range(2)]
        for broker in brokers:
            asyncio.run(broker.__aenter__())
        yield brokers
        for broker in brokers:
            asyncio.run(broker.__aexit__())


async def numbers(client, count):
    """The numbers that a client gets, until it has so many."""
    return [int((await client.receive(WITHIN)).split()[0]) for _ in range(count)]


async def test_cluster_rule_11_a_private_message_finds_its_client_wherever_it_is(pair):
    one, two = pair
    async with linked_to(pair) as named:
        async with connect(one, "/eva") as eva, connect(two, "/fay") as fay:
            for number in range(100):
                assert await named.send_private_message("eva", f"{number} eva", confirm=True) == Confirmation(1, 0)
                assert await named.send_private_message("fay", f"{number} fay", confirm=True) == Confirmation(1, 0)
                assert await named.send_private_message("cem", f"{number} cem", confirm=True) == Confirmation(0, 0)
            assert await numbers(eva, 100) == await numbers(fay, 100) == list(range(100))


async def test_cluster_rule_12_a_client_elsewhere_joins_leaves_changes_and_is_closed(pair):
    one, two = pair
    async with linked_to(pair) as named:
        async with connect(one, "/ann") as ann, connect(two, "/bob") as bob:
            for name, client in (("ann", ann), ("bob", bob)):
                kitchen = f"kitchen of {name}"
                assert await named.join_room(name, kitchen) is True
                assert await named.update_metadata(name, {"age": 7}) is True
                assert await named.leave_room(name, "lobby") is True
                await named.send_room_message(kitchen, name, confirm=True)
                await client.expect(name)
                await named.leave_room(name, kitchen)
                await named.join_room(name, "hall")
            members = {each.client_id: (each.rooms, each.metadata) for each in await named.room_members("hall")}
            assert members == {name: (("hall",), {"name": name, "age": 7}) for name in ("ann", "bob")}
            assert await named.join_room("nobody", "kitchen") is False
            for name, client in (("ann", ann), ("bob", bob)):
                assert await named.disconnect_client(name, 3001, "enough") is True
                await client.expect_close(3001)
        ours = [(what, who) for what in ("gone", "new") for who in ("ann", "bob")]
        await until(lambda: sorted(each for each in named.heard if each[1] in {"ann", "bob"}) == ours)


async def test_promise_35_a_client_of_another_broker_is_asked_once_however_long_it_takes(pair):
    one, two = pair
    async with linked_to(pair) as named:
        async with SessionClient(one, "/eva") as eva, SessionClient(two, "/fay") as fay:
            for client in (eva, fay):
                client.on_request = lambda body: body
                assert await named.request(client.name, "x") == "x"
                client.on_request = None
                asking = asyncio.create_task(named.request(client.name, b"y" * 100_000))
                await asyncio.sleep(2.5)  # a command without an answer is sent again after a second
                assert [len(each.body) for each in client.asked] == [1, 100_000]
                client.do(client.core.answer(client.asked[1].number, b"z" * 100_000))
                assert await asking == b"z" * 100_000
        await until(lambda: named.names("gone") == named.names("new"), WITHIN)


async def test_cluster_rule_13_who_is_in_a_room_is_asked_of_all_that_live(nats):
    async with processes(nats, count=3) as (named, one, two, three):
        async with connect(one, "/ann"), connect(two, "/bob"), connect(three, "/cem"):
            assert {each.client_id for each in await named.room_members("lobby")} == {"ann", "bob", "cem"}
            sent = await named.send_room_message("lobby", "x", confirm=True)
            assert (sent, sent.complete) == (Confirmation(3, 0), True)

            await three.stopped()
            asked = named.room_members("lobby"), named.send_room_message("lobby", "x", confirm=True)
            members, sent = await asyncio.gather(*asked)  # it is found dead meanwhile
            assert {each.client_id for each in members} == {"ann", "bob"}
            assert sent == Confirmation(2, 0)

            three.signal(signal.SIGKILL)
            await until(lambda: one.sees(1) and two.sees(1), WITHIN)
            assert {each.client_id for each in await named.room_members("lobby")} == {"ann", "bob"}
            sent = await named.send_room_message("lobby", "x", confirm=True)
            assert (sent, sent.complete) == (Confirmation(2, 0), True)


async def test_cluster_rule_09_without_nats_each_broker_serves_its_own_and_nothing_is_lost(nats):
    async with processes(nats) as (named, one, two):
        async with connect(one, "/ann") as ann, connect(two, "/bob") as bob:
            await named.send_room_message("lobby", "0")
            assert [await ann.receive(), await bob.receive()] == ["0", "0"]
            nats.kill()
            await until(lambda: one.sees(1, connected=False) and two.sees(1, connected=False), WITHIN)
            home = next(link for link in named.links if link.is_home)
            here, there = (ann, bob) if home.address.endswith(f":{one.tcp_port}") else (bob, ann)
            sent = await named.send_room_message("lobby", "1", confirm=True)
            assert (sent, sent.complete) == (Confirmation(1, 0), False)
            assert await here.receive() == "1"
            with pytest.raises(PyStrandsError, match="can't be reached now"):
                await named.room_members("lobby")
            assert len(await named.room_members("lobby", partial=True)) == 1
            with pytest.raises(PyStrandsError, match="can't be reached now"):
                await named.join_room("bob" if here is ann else "ann", "kitchen")
            for number in range(2, 1000):
                await named.send_room_message("lobby", str(number))
            nats.restart()
            assert await numbers(here, 998) == list(range(2, 1000))
            assert await numbers(there, 999) == list(range(1, 1000))
            await until(lambda: one.sees(1) and two.sees(1), WITHIN)
            assert len(await named.room_members("lobby")) == 2
        assert named.errors == []


async def test_cluster_rule_08_what_the_ring_could_not_keep_is_told(nats):
    async with processes(nats) as (named, one, two):
        async with connect(one, "/ann") as ann, connect(two, "/bob") as bob:
            nats.kill()
            await until(lambda: one.sees(1, connected=False) and two.sees(1, connected=False), WITHIN)
            text = "x" * (MIB // 2)
            for number in range(40):
                assert await named.send_room_message("lobby", f"{number} {text}", timeout=WITHIN)
            home = next(link for link in named.links if link.is_home)
            here, there, other = (ann, bob, two) if home.address.endswith(f":{one.tcp_port}") else (bob, ann, one)
            assert await numbers(here, 40) == list(range(40))
            nats.restart()
            await until(lambda: named.errors, WITHIN)
            assert "did not come to this one, and will not" in named.errors[0]
            count = other.counters()
            assert count("engine_gaps") == 1
            assert 20 <= count("engine_lost") <= 40
            await named.send_room_message("lobby", "40")
            got = []
            while got[-1:] != [40]:
                got += await numbers(there, 1)
            assert got == list(range(got[0], 41))


async def test_cluster_rule_10_a_broker_without_nats_waits_for_it_before_any_port_is_open(nats):
    nats.kill()
    broker = ClusterBroker(nats, admin_port=0)
    starting = asyncio.create_task(broker.__aenter__())
    try:
        await until(lambda: hasattr(broker, "process") and "NATS" in broker.log, WITHIN)
        await asyncio.sleep(0.2)
        assert not starting.done()
        assert not broker._ports()
        nats.start()
        await starting
        async with linked_to([broker]) as named, connect(broker, "/ann"):
            assert len(await named.room_members("lobby")) == 1
    finally:
        await starting
        await broker.__aexit__()


async def test_cluster_rule_14_of_those_with_the_same_id_one_is_left_with_one_server_of_nats(pair):
    await one_is_left(*pair)


async def test_cluster_rule_14_of_those_with_the_same_id_one_is_left_with_two_servers_of_nats():
    with nats_cluster(2) as servers:
        async with processes(*servers) as (_, one, two):
            await one_is_left(one, two)


async def one_is_left(one, two):
    async with linked_to([one, two]) as named:
        await asyncio.gather(*[one_is_left_of((one, two), f"same-{number}", named) for number in range(30)])
        await until(lambda: one.status()["clients"] == two.status()["clients"] == 0, WITHIN)
        await until(lambda: named.names("gone") == named.names("new"), WITHIN)


async def one_is_left_of(brokers, name, named):
    """Connect to all of them at once as the same client."""
    knocking = [connect(broker, f"/{name}", timeout=WITHIN).__aenter__() for broker in brokers]
    came = await asyncio.gather(*knocking, return_exceptions=True)
    inside = [each for each in came if not isinstance(each, BaseException)]
    assert all(isinstance(each, Rejected) and each.status == 409 for each in came if each not in inside)
    await until(lambda: sum(each.closed is None for each in inside) == 1, WITHIN)
    (left,) = [each for each in inside if each.closed is None]
    assert all(each.closed.code == 1008 for each in inside if each is not left)
    assert await named.send_private_message(name, "to one", confirm=True) == Confirmation(1, 0)
    assert await left.receive() == "to one"
    await left.close()


async def test_commands_see_all_brokers_whichever_they_talk_to(pair):
    one, two = pair
    async with linked_to(pair), connect(two, "/bob") as bob:
        command = ["status", "--cluster", "--json", "--once", f"--tcp-port={one.tcp_port}"]
        report = json.loads(await output(*command))
        assert [each["broker_id"] for each in report["brokers"]] == [each.status()["broker_id"] for each in (one, two)]
        assert await output("send", "--client=bob", f"--tcp-port={one.tcp_port}", "hi") == "Sent to 1 client\n"
        assert await bob.receive() == "hi"


async def output(*arguments):
    """What a command prints."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pystrands", *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    assert child.returncode == 0
    return out.decode()
