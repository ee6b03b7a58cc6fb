"""Rules 22 and 23 of the link: another broker process answers. Backends with scripted brokers, and with real ones."""

import asyncio
import contextlib

from pystrands import testing
from tests.client.fake_broker import soon, until
from tests.inside import core_of

from .raw_broker import Noting, unlinked


async def replaced(raw_broker, link, number=2):
    """Replace the broker; return its first link, whose session is a new one."""
    raw_broker.broker_id = f"broker-{number}"
    link.cut()
    again = await raw_broker.linked()
    assert not again.hello.get("resume")
    assert again.hello["session_id"] != link.hello["session_id"]
    return again


async def test_rule_22_handlers_finish_and_each_owned_client_is_disconnected_once(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    release = client.hold("a1")
    for client_id in ("ann", "bob", "cay"):
        await link.happens("new_connection", client_id, event=link.sent + 1)
    await link.message("a1", "ann")
    await link.message("a2", "ann")
    await link.happens("disconnected", "bob")
    await link.happens("client_adopted", "dan", event=77, redelivered=True)
    await until(lambda: len(client.notes) == 6)
    again = await replaced(raw_broker, link)
    await again.welcome()
    await until(lambda: ("gone", "dan") in client.notes)
    assert ("gone", "ann") not in client.notes
    release.set()
    await until(lambda: ("gone", "ann") in client.notes)
    assert [what for what, client_id in client.notes if client_id == "ann"] == ["new", "a1", "a2", "gone"]
    assert sorted(client_id for what, client_id in client.notes if what == "gone") == ["ann", "bob", "cay", "dan"]
    for (what, client_id), event_id in zip(client.notes, client.ids, strict=True):
        if what == "gone" and client_id != "bob":
            assert event_id == f"broker-1-gone-{client_id}", "it came with no event; all that tell of it name it so"
    assert await again.so_far(client) == [], "nothing is done that the new broker does not know"
    again.cut()
    await client.disconnect(0)


async def test_rule_22_the_loss_of_a_link_alone_synthesises_nothing(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await link.happens("new_connection", "ann")
    await link.hear_done(1)
    for _ in range(3):
        link.cut()
        await unlinked(client)
        again = await raw_broker.linked()
        await again.go_on(link)
        link = again
    assert await link.so_far(client) == []
    assert client.notes == [("new", "ann")]
    link.cut()
    await client.disconnect(0)


async def test_rule_22_clients_of_the_new_broker_are_not_those_of_the_old_one(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await link.happens("new_connection", "ann")
    await link.hear_done(1)
    again = await replaced(raw_broker, link)
    await again.welcome()
    await again.happens("new_connection", "ann")
    await again.message("hi", "ann")
    await again.hear_done(1, 2)
    assert client.notes == [("new", "ann"), ("gone", "ann"), ("new", "ann"), ("hi", "ann")]
    third = await replaced(raw_broker, again, 3)
    third.cut()  # before its welcome: the same broker may be found again, or yet another one
    fourth = await replaced(raw_broker, third, 4)
    await fourth.welcome()
    assert await fourth.so_far(client) == []
    assert client.notes[4:] == [("gone", "ann")]
    fourth.cut()
    await client.disconnect(0)


async def test_rule_23_what_is_dropped_is_told_and_what_is_for_many_is_kept(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    for text in ("received", "written", "written"):
        assert await client.send_private_message("ann", text)
        assert await link.hear_text() == text
    assert await client.broadcast_message("written")
    assert await link.hear_text() == "written"
    await link.acknowledge(1)
    await until(lambda: core_of(client).lifetime.connection.outgoing.session.session.acknowledged == 1)
    link.cut()
    await unlinked(client)
    assert await client.send_private_message("ann", "private")
    assert await client.broadcast_message("to all")
    assert await client.send_room_message("r", "to a room")
    again = await replaced(raw_broker, link)
    await again.welcome()
    assert [await again.hear_text() for _ in range(2)] == ["to all", "to a room"]
    await until(lambda: client.errors)
    assert len(client.errors) == 1
    assert client.errors[0].startswith("4 messages were lost")
    assert await again.so_far(client) == []
    again.cut()
    await client.disconnect(0)


async def test_rule_23_answers_and_finished_events_are_no_messages(raw_broker):
    class Slow(Noting):
        async def on_connection_request(self, request):
            await self.held["q"].wait()

    client = Slow()
    link = await raw_broker.connected(client)
    request, running = client.hold("q"), client.hold("a")
    await link.say("connection_request", {"url": "/"}, request_id="q")
    await link.message("a")
    await until(lambda: client.notes)
    link.cut()
    await unlinked(client)
    request.set()
    running.set()
    await until(lambda: core_of(client).lifetime.dispatcher.idle)
    again = await replaced(raw_broker, link)
    await again.welcome()
    assert await again.so_far(client) == []
    assert client.errors == []
    again.cut()
    await client.disconnect(0)


async def test_rule_23_with_nothing_lost_there_is_no_error(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    assert await client.broadcast_message("x")
    assert await link.hear_text() == "x"
    await link.acknowledge()
    await until(lambda: not core_of(client).lifetime.connection.outgoing.session.session.kept)
    again = await replaced(raw_broker, link)
    await again.welcome()
    assert await again.so_far(client) == []
    assert client.errors == []
    again.cut()
    await client.disconnect(0)


class Asking(Noting):
    """Asks the broker in on_disconnect."""

    async def on_disconnect(self, context):
        await super().on_disconnect(context)
        self.members = await self.room_members(context.room_id)


async def test_rule_22_the_disconnect_comes_when_the_new_broker_can_be_asked(raw_broker):
    client = Asking()
    link = await raw_broker.connected(client)
    await link.happens("new_connection", "ann")
    await link.hear_done(1)
    silent = await replaced(raw_broker, link)
    silent.cut()  # before its welcome: the client is still to be told of
    third = await replaced(raw_broker, silent, 3)
    assert client.notes == [("new", "ann")]
    await third.welcome()
    asked = await third.hear("room_members")
    await third.say("result", {"members": []}, request_id=asked["request_id"])
    await until(lambda: hasattr(client, "members"))
    assert client.members == []
    assert client.errors == []
    assert client.notes == [("new", "ann"), ("gone", "ann")]
    third.cut()
    await client.disconnect(0)


async def test_rule_22_a_client_that_ends_before_the_new_broker_welcomes_it_is_told_all_the_same(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await link.happens("new_connection", "ann")
    await link.hear_done(1)
    again = await replaced(raw_broker, link)
    raw_broker.refuse = True
    again.cut()
    await soon(client.disconnect())
    assert client.notes == [("new", "ann"), ("gone", "ann")]


async def test_rule_22_whole_brokers_one_after_the_other():
    client = Noting()
    async with testing.broker() as first:
        client.host, client.port = "127.0.0.1", first.tcp_port
        assert await client.connect()
        async with testing.connect(first) as ws:
            await ws.send("a")
            await testing.until(lambda: len(client.notes) == 2)
    await testing.until(lambda: client.notes[-1][0] == "gone")
    await unlinked(client)
    assert await client.broadcast_message("for nobody yet")
    async with testing.broker(tcp_port=client.port) as second:
        await testing.until(lambda: second.backend_count == 1)
        async with testing.connect(second) as ws:
            assert await soon(client.broadcast_message("to all", confirm=True)) == (1, 0)
            await ws.expect("to all")
    assert [what for what, _ in client.notes].count("gone") in {1, 2}, "the second may be gone unseen"
    disconnecting = asyncio.ensure_future(client.disconnect())
    await soon(disconnecting)


async def test_rule_05_what_was_kept_and_another_broker_would_not_take_is_lost_and_told(raw_broker):
    """Or else it would close the link for the gap, again and again."""
    client = Noting()
    link = await raw_broker.connected(client)
    raw_broker.broker_id, raw_broker.hello_params["max_line"] = "broker-2", 1000
    link.cut()
    await unlinked(client)
    for text in ("short", "long " * 200, "short, too"):
        assert await client.broadcast_message(text)
    again = await raw_broker.begin()
    assert [await again.hear_text() for _ in range(2)] == ["short", "short, too"]
    await until(lambda: client.errors)
    assert client.errors[0].startswith("1 messages were lost")
    again.cut()
    await client.disconnect(0)


async def test_rule_22_the_disconnect_shows_the_client_as_its_last_event_did():
    class Changing(Noting):
        async def on_message(self, message, context):
            if message == "change":
                assert await self.update_metadata(context.client_id, {"name": "ann"})
                assert await self.join_room(context.client_id, "another")
            context.metadata["name"] = "changed by a handler"
            await super().on_message(message, context)

    client = Changing()
    async with contextlib.AsyncExitStack() as stack:
        async with testing.broker() as broker:
            port = broker.tcp_port
            proxy = await stack.enter_async_context(testing.LinkProxy(broker))
            client.host, client.port = "127.0.0.1", proxy.tcp_port
            assert await client.connect()
            async with testing.connect(broker, "/room") as ws:
                for number, text in enumerate(["change", "see"], 2):
                    await ws.send(text)
                    await testing.until(lambda: len(client.notes) == number)  # noqa: B023 - called here and now
                proxy.refuse()
                proxy.cut()
                await unlinked(client)
        async with testing.broker(tcp_port=port):
            proxy.accept()
            await testing.until(lambda: client.notes[-1][0] == "gone")
            gone = client.contexts[-1]
            assert gone.event_id == f"{broker.broker_id}-gone-{gone.client_id}", "no broker told of it"
            assert (gone.metadata, gone.room_id, set(gone.rooms)) == ({"name": "ann"}, "/room", {"/room", "another"})
            await client.disconnect()
