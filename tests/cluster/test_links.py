"""Clients with links to several brokers, with processes, sockets and NATS: brokers die or hang, the client is ended."""

import asyncio
import signal
import textwrap

import pytest

from pystrands.testing import backend_process, broker, connect, until
from tests.cluster.backends import Named
from tests.cluster.processes import WITHIN, linked_to, processes
from tests.nats_server import NatsServer


class Echoing(Named):
    async def on_message(self, message, context):
        self.heard.append((message, context.client_id))
        assert await self.send_private_message(context.client_id, message)


@pytest.fixture
def nats():
    with NatsServer() as server:
        yield server


def links(client):
    return {link.address.rpartition(":")[2]: link for link in client.links if link.connected}


async def test_cluster_rule_17_brokers_that_are_killed_take_their_clients_with_them_and_the_home_link_moves(nats):
    async with processes(nats, count=3) as (named, one, two, three):
        await named.disconnect()
        async with linked_to([one, two, three], Echoing) as client:
            at_one = links(client)[str(one.tcp_port)].address
            assert links(client)[str(one.tcp_port)].is_home
            async with connect(two, "/bob") as bob:
                dying = [await connect(each, f"/{name}") for each, name in ((one, "ann"), (three, "cem"))]
                for ws in dying:
                    await ws.send("hello")
                    await ws.expect("hello")
                for each in (one, three):
                    each.signal(signal.SIGKILL)
                await until(lambda: links(client).keys() == {str(two.tcp_port)})
                await bob.send("hello")
                await bob.expect("hello")
                assert await client.send_room_message("lobby", "to the room")
                await bob.expect("to the room", timeout=WITHIN)
                await until(lambda: len([link for link in client.links if link.broker_id]) == 1, WITHIN)
                assert [link.address for link in client.links if not link.connected] == [at_one]  # as configured
                await until(lambda: len([who for what, who in client.heard if what == "gone"]) == 2, WITHIN)
                assert links(client)[str(two.tcp_port)].is_home
                assert [each.client_id for each in await client.room_members("lobby", timeout=WITHIN)] == ["bob"]
                for ws in dying:
                    ws.abort()
            await until(lambda: len([who for what, who in client.heard if what == "gone"]) == 3, WITHIN)
        gone = sorted(who for what, who in client.heard if what == "gone")
        assert gone == ["ann", "bob", "cem"]


async def test_cluster_rule_16_a_broker_that_hangs_stalls_nothing_at_others(nats):
    async with processes(nats) as (named, one, two):
        await named.disconnect()
        async with linked_to([one, two], Echoing) as client:
            async with connect(one, "/ann") as ann, connect(two, "/bob") as bob:
                assert links(client)[str(one.tcp_port)].is_home
                await one.stopped()
                asked = asyncio.create_task(client.send_room_message("lobby", "lost in it"))
                for number in range(100):
                    await bob.send(str(number))
                    await bob.expect(str(number), timeout=WITHIN)
                await until(lambda: links(client)[str(two.tcp_port)].is_home, WITHIN)  # the others find it dead
                assert len(await client.room_members("lobby", timeout=WITHIN)) == 1
                assert await client.send_room_message("lobby", "after that")
                await bob.expect("after that", timeout=WITHIN)
                assert await asked
                one.signal(signal.SIGCONT)
                await ann.expect("lost in it", timeout=WITHIN)
                await ann.send("still there")
                await ann.expect("still there", timeout=WITHIN, skip=True)
                assert [what for what, _ in client.heard if what == "gone"] == []


PROGRAM = """
    import asyncio
    import sys

    from pystrands import AsyncPyStrandsClient


    class Slow(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            await self.send_private_message(context.client_id, "begun")
            await asyncio.sleep(0.5)
            await self.send_private_message(context.client_id, "done")


    client = Slow([f"127.0.0.1:{port}" for port in sys.argv[1:]])
    asyncio.run(client.run_forever())
    print("ended in order")
"""


async def test_cluster_rule_16_sigterm_ends_all_links_when_all_handlers_are_done(tmp_path):
    program = tmp_path / "backend.py"
    program.write_text(textwrap.dedent(PROGRAM), "utf-8")
    async with broker() as red, broker() as blue:
        async with backend_process(red, program, str(red.tcp_port), str(blue.tcp_port)) as process:
            await until(lambda: blue.backend_count == 1)
            async with connect(red) as ann, connect(blue) as bob:
                for ws in (ann, bob):
                    await ws.send("hello")
                    await ws.expect("begun")
                process.terminate()
                for ws in (ann, bob):
                    await ws.expect("done")
                assert await asyncio.to_thread(process.wait) == 0
                assert "ended in order" in process.output
                assert (red.backend_count, blue.backend_count) == (0, 0)
