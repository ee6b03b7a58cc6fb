"""What backends want done, across brokers that are joined by a double: without NATS."""

import asyncio
import contextlib

import pytest

from pystrands import ClientGone, Confirmation, NotSupported, PyStrandsError
from pystrands.broker.bounds import Bounds
from pystrands.testing import Closed, backend, connect, until
from tests.cluster.backends import Named, cluster
from tests.cluster.together import Together, one_broker
from tests.e2e.session_client import SessionClient
from tests.inside import parts_of


async def test_messages_reach_rooms_everyone_and_one_client_at_all_brokers():
    async with cluster() as ((one, here), (two, _)):
        async with connect(one, "/ann") as ann, connect(two, "/bob") as bob:
            assert await here.send_room_message("lobby", "room", confirm=True) == Confirmation(2, 0)
            assert await here.broadcast_message("all", exclude=["ann"], confirm=True) == Confirmation(1, 0)
            sent = await here.send_private_message("bob", b"bob", confirm=True)
            assert sent == Confirmation(1, 0)
            assert sent.complete
            assert await here.send_private_message("ann", "ann", confirm=True) == Confirmation(1, 0)
            assert await here.send_private_message("nobody", "x", confirm=True) == Confirmation(0, 0)
            assert [await ann.receive(), await ann.receive()] == ["room", "ann"]
            assert [await bob.receive() for _ in range(3)] == ["room", "all", b"bob"]


async def test_cluster_rule_12_a_client_elsewhere_joins_leaves_changes_and_is_closed():
    async with cluster(max_rooms_per_client=2) as ((one, here), (two, there)):
        async with connect(two, "/bob") as bob:
            assert await here.join_room("bob", "kitchen") is True
            assert await here.update_metadata("bob", {"age": 7}) is True
            assert await here.leave_room("bob", "lobby") is True
            (member,) = await here.room_members("kitchen")
            assert (member.client_id, member.metadata) == ("bob", {"name": "bob", "age": 7})
            assert await here.room_members("lobby") == []
            assert await here.join_room("bob", "stairs") is True
            with pytest.raises(PyStrandsError, match="may be in no more"):
                await here.join_room("bob", "hall")
            assert await here.join_room("nobody", "kitchen") is False
            assert await here.disconnect_client("bob", 3001, "enough") is True
            await bob.expect_close(3001)
        await until(lambda: ("gone", "bob") in [*here.heard, *there.heard])
        assert two.engine.claims == []
        assert [client_id for client_id, _ in one.engine.together.commands] == ["bob"] * 5 + ["nobody", "bob"]


async def test_cluster_rule_13_members_are_those_of_all_brokers():
    async with cluster(3) as ((one, here), (two, _), (three, _)):
        async with connect(one, "/ann"), connect(two, "/bob"), connect(three, "/cem"):
            assert {each.client_id for each in await here.room_members("lobby")} == {"ann", "bob", "cem"}


async def test_cluster_rule_13_a_broker_that_does_not_answer_is_an_error_unless_a_part_is_enough():
    async with cluster(3, bounds=Bounds(others=0.05)) as ((one, here), (two, _), (three, _)):
        async with connect(one, "/ann"), connect(two, "/bob"), connect(three, "/cem"):
            three.engine.is_mute = True
            with pytest.raises(PyStrandsError, match=f"not answered in time \\({three.broker_id}\\).*partial=True"):
                await here.room_members("lobby")
            members = await here.room_members("lobby", partial=True)
            assert {each.client_id for each in members} == {"ann", "bob"}
            sent = await here.send_room_message("lobby", "x", confirm=True)
            assert (sent, sent.complete) == (Confirmation(2, 0), False)
            with pytest.raises(PyStrandsError, match="has not answered in time"):
                await here.leave_room("cem", "lobby")


async def test_cluster_rule_09_apart_from_the_others_a_broker_serves_its_own_and_says_so():
    async with cluster() as ((one, here), (two, _)):
        async with connect(one, "/ann") as ann, connect(two, "/bob") as bob:
            one.engine.together.cut()
            sent = await here.send_room_message("lobby", "x", confirm=True)
            assert (sent, sent.complete) == (Confirmation(1, 0), False)
            assert await ann.receive() == "x"
            with pytest.raises(PyStrandsError, match="other brokers can't be reached"):
                await here.room_members("lobby")
            assert [each.client_id for each in await here.room_members("lobby", partial=True)] == ["ann"]
            with pytest.raises(PyStrandsError, match="other brokers can't be reached"):
                await here.join_room("bob", "kitchen")
            assert await here.join_room("ann", "kitchen") is True
            one.engine.together.mend()
            assert await here.join_room("bob", "kitchen") is True
            assert await here.send_private_message("bob", "back", confirm=True) == Confirmation(1, 0)
            assert await bob.receive() == "back"


async def test_a_broker_that_is_alone_in_its_cluster_answers_by_itself():
    together = Together()
    async with one_broker(together) as broker, backend(broker, Named) as named, connect(broker, "/ann"):
        assert [each.client_id for each in await named.room_members("lobby")] == ["ann"]
        assert await named.join_room("nobody", "x") is False
        assert await named.send_room_message("lobby", "x", confirm=True) == Confirmation(1, 0)
        assert together.surveys == []


async def test_what_was_asked_and_not_answered_is_bounded():
    async with cluster(bounds=Bounds(others=0.1, others_asked=2)) as ((one, here), (two, _)):
        async with connect(two, "/bob"):
            two.engine.is_mute = True
            asked = [asyncio.create_task(here.room_members("lobby")) for _ in range(3)]
            await asyncio.wait(asked)
            problems = sorted(str(each.exception()) for each in asked)
            assert [problem.partition(":")[0] for problem in problems[:2]] == [
                f"a broker has not answered in time ({two.broker_id})"
            ] * 2
            assert problems[2] == "too much was asked of other brokers at once: try again"
            assert one.counters["engine_questions_refused"] == 1
            two.engine.is_mute = False
            assert len(await here.room_members("lobby")) == 1


async def test_a_confirmation_waits_for_recipients_here_and_for_the_others():
    async with cluster(client_buffer=65536, max_message_size=60000) as ((one, here), (two, _)):
        async with connect(one, "/ann") as ann, connect(two, "/bob") as bob:
            ann.stop_reading()
            text = "x" * 50_000
            sent = 0
            while not any(ws.behind for ws in parts_of(one).rooms.sockets):
                await here.send_room_message("lobby", text)
                sent += 1
                await asyncio.sleep(0)
            waiting = asyncio.create_task(here.send_room_message("lobby", "the end", confirm=True))
            await bob.expect("the end", skip=True)
            assert not waiting.done()
            ann.resume_reading()
            assert await waiting == Confirmation(2, 0)
            await ann.expect("the end", skip=True)


async def test_cluster_rule_08_a_gap_is_told_to_all_backends():
    async with cluster(1) as ((one, here),):
        one.engine.node.on_gap("b17", 3)
        await until(lambda: here.errors)
        assert here.errors[0].startswith("up to 3 messages of the broker b17 did not come to this one")


async def test_who_reads_nothing_at_another_broker_is_closed_and_nobody_else():
    async with cluster(client_buffer=1 << 20) as ((one, here), (two, _)):
        async with connect(one, "/ann") as ann, connect(two, "/bob") as bob, connect(two, "/cem") as cem:
            bob.stop_reading()
            text = "x" * (1 << 19)
            for number in range(80):
                assert await here.send_private_message("bob", text)
                await here.send_private_message("cem", str(number))
                if two.counters["slow_consumer_closed"]:
                    break
                await asyncio.sleep(0.01)
            assert two.counters["slow_consumer_closed"] == 1
            bob.resume_reading()
            with contextlib.suppress(Closed):
                while True:
                    await bob.receive()
            assert bob.closed
            assert bob.closed.code in {1013, 1006}
            await cem.expect(str(number), skip=True)
            assert ann.closed is None


async def test_promise_35_a_client_of_another_broker_is_asked():
    async with cluster() as ((one, here), (two, there)):
        async with SessionClient(two, "/bob") as bob, connect(one, "/ann"):
            bob.on_request = lambda body: body
            assert await here.request("bob", "text") == "text"
            assert await here.request("bob", b"\xff") == b"\xff"
            assert await there.request("bob", "at home") == "at home"
            with pytest.raises(NotSupported, match="plain WebSocket"):
                await there.request("ann", "x")
            with pytest.raises(ClientGone, match="no client has the client_id 'nobody'"):
                await here.request("nobody", "x")
            bob.on_request = None
            with pytest.raises(TimeoutError):
                await here.request("bob", "x", timeout=0.05)
            asking = asyncio.create_task(here.request("bob", "y"))
            await until(lambda: len(bob.asked) == 5)
        with pytest.raises(ClientGone, match="gone before"):
            await asking


class Librarian(Named):
    """Lets clients read five messages of every room."""

    async def on_join_request(self, request):
        return request.accept(history=5)


async def test_histories_are_kept_at_all_brokers_and_at_those_that_come_later():
    together = Together()
    async with cluster(together=together) as ((one, here), (two, there)):
        await here.keep_history("chat", limit=2)
        for number in range(3):
            await there.send_room_message("chat", f"{number}")
        await there.send_room_message("chat", "hidden", history=False)
        for each in (here, there):
            await until_history(each, ["1", "2"])
        async with one_broker(together) as three, backend(three, Librarian) as late:
            await until(lambda: "chat" in parts_of(three).rooms.kept)
            await here.send_room_message("chat", "3")
            await until_history(late, ["3"])
            await until_history(here, ["2", "3"])
            async with SessionClient(three, "/ann") as client:
                ident = client.join("chat", history=5)
                await client.done(ident)
                assert [body for _, body in client.histories[ident].messages] == ["3"]
                await there.send_room_message("chat", "4")
                await until(lambda: client.messages == ["4"])
            await there.keep_history("chat", limit=0)
            assert not any(parts_of(broker).rooms.kept for broker in (one, two, three))


async def until_history(asked, expected):
    while [each.message for each in (await asked.room_history("chat")).messages] != expected:
        await asyncio.sleep(0.01)
