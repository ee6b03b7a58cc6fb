"""A client_id that is in use at another broker, over a double of the engine: CLUSTER rule 14."""

import asyncio

import pytest

from pystrands.testing import Closed, Rejected, backend, connect, until
from tests.cluster.backends import Named, cluster
from tests.cluster.together import Together, one_broker
from tests.inside import parts_of


async def test_cluster_rule_14_the_older_connection_is_closed_first_wherever_it_is():
    together = Together()
    async with cluster(2, together) as ((one, here), (two, there)):
        async with connect(one, "/ann") as older:
            async with connect(two, "/ann") as newer:
                closed = await older.expect_close(1008)
                assert closed.reason == "this client_id has connected again"
                assert await here.send_private_message("ann", "to the newer", confirm=True) == (1, 0)
                assert await newer.receive() == "to the newer"
                assert (one.client_count, two.client_count) == (0, 1)
                assert (one.engine.claims, two.engine.claims) == ([], ["ann"])
        await until(lambda: sorted([*here.heard, *there.heard]) == [("gone", "ann")] * 2 + [("new", "ann")] * 2)
        assert two.engine.claims == []


async def test_cluster_rule_14_a_claim_is_granted_when_the_older_ones_last_event_is_queued():
    gate = asyncio.Event()

    class Slow(Named):
        async def on_message(self, message, context):
            await gate.wait()

    async with one_broker(Together()) as broker, backend(broker, Slow) as slow:
        released = []
        broker.engine.node.on_claim("ann", lambda: released.append("nobody has it"))
        async with connect(broker, "/ann") as ann:
            for number in range(100):  # more than may be unfinished: the rest waits where it was read
                await ann.send(str(number))
            (client,) = parts_of(broker).rooms.clients
            await until(lambda: client.ws.held_bytes)
            for name in ("first", "second"):
                broker.engine.node.on_claim("ann", lambda name=name: released.append(name))
            assert broker.client_count == 0
            assert released == ["nobody has it"]
            gate.set()
            await until(lambda: released == ["nobody has it", "first", "second"])
            await ann.expect_close(1008)
        await until(lambda: slow.heard == [("new", "ann"), ("gone", "ann")])


async def test_a_client_that_leaves_while_its_id_is_claimed_is_released():
    async with cluster() as ((one, _), (two, _)):
        one.engine.claims.append("ann")  # by somebody who does not answer
        one.engine.is_mute = True
        knocking = asyncio.ensure_future(connect(two, "/ann").__aenter__())
        await until(lambda: "ann" in two.engine.claims)
        assert len(parts_of(two).router.connection_requests) == 1
        knocking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await knocking
        await until(lambda: two.counters["handshakes_abandoned"])
        assert len(parts_of(two).router.connection_requests) == 0
        two.engine.granted("ann")
        assert two.engine.claims == []
        assert two.client_count == 0
        one.engine.claims.remove("ann")


async def test_cluster_rule_14_who_is_about_to_come_in_gives_way_as_well():
    async with cluster() as ((one, _), (two, _)):
        one.engine.claims.append("ann")
        one.engine.is_mute = True
        knocking = asyncio.ensure_future(connect(two, "/ann").__aenter__())
        await until(lambda: "ann" in two.engine.claims)
        released = []
        two.engine.node.on_claim("ann", lambda: released.append(True))
        assert released
        with pytest.raises(Rejected) as rejected:
            await knocking
        assert rejected.value.status == 409
        two.engine.granted("ann")
        assert (two.engine.claims, two.client_count, two.counters["refused_taken"]) == ([], 0, 1)
        one.engine.claims.remove("ann")


async def test_a_broker_that_stops_refuses_those_whose_ids_are_claimed():
    async with cluster() as ((one, _), (two, _)):
        one.engine.claims.append("ann")
        one.engine.is_mute = True
        knocking = asyncio.ensure_future(connect(two, "/ann").__aenter__())
        await until(lambda: "ann" in two.engine.claims)
        stopping = asyncio.ensure_future(two.stop())
        with pytest.raises(Rejected) as rejected:
            await knocking
        assert rejected.value.status == 503
        two.engine.granted("ann")
        await stopping
        assert two.engine.claims == []
        assert two.counters["refused_stopping"] == 1
        one.engine.claims.remove("ann")


async def test_a_client_whose_backend_is_gone_when_its_id_is_there_gets_another_one():
    together = Together()
    async with one_broker(together) as one, one_broker(together) as two:
        one.engine.claims.append("ann")
        one.engine.is_mute = True
        async with backend(two, Named) as first:
            knocking = asyncio.ensure_future(connect(two, "/ann").__aenter__())
            await until(lambda: "ann" in two.engine.claims)
        assert first.heard == []
        two.engine.granted("ann")
        ann = await knocking
        async with backend(two, Named) as second:
            await until(lambda: ("new", "ann") in second.heard)
            await ann.close()
            await until(lambda: ("gone", "ann") in second.heard)
        one.engine.claims.remove("ann")


async def test_without_an_id_of_their_own_clients_have_new_ones():
    class Plain(Named):
        async def on_connection_request(self, request):
            return True

    together = Together()
    async with one_broker(together) as one, backend(one, Plain):
        async with connect(one, "/x"), connect(one, "/x"):
            assert len(set(one.engine.claims)) == 2
        await until(lambda: one.engine.claims == [])


async def test_the_same_id_at_the_same_broker_again_and_again():
    async with cluster() as ((one, _), (two, _)):
        clients = [await connect(broker, "/ann").__aenter__() for broker in (one, one, two, two, one)]
        for client in clients[:-1]:
            assert isinstance(await client.expect_close(1008), Closed)
        assert (one.client_count, two.client_count) == (1, 0)
        assert (one.engine.claims, two.engine.claims) == (["ann"], [])
        await clients[-1].close()
        await until(lambda: one.engine.claims == [])
