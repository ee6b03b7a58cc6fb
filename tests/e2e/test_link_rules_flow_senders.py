"""Rules 25, 26 and 28 of the link: backends with scripted brokers that say who is full."""

import asyncio

import pytest

from pystrands import PyStrands, PyStrandsClient
from tests.client.fake_broker import soon, until
from tests.inside import core_of, limited

from .raw_broker import Noting, unlinked

CAY = {"client_id": "cay"}
ROOM = {"room_id": "r"}


async def settled():
    """Give what is about to happen a few turns of the loop."""
    for _ in range(5):
        await asyncio.sleep(0)


async def told_full(client, link, to, params):
    await link.say("full", params)
    await until(lambda: to in core_of(client).outgoing.full)


def waiting(client):
    return len(list(core_of(client).outgoing.full.waiting))


async def sending(client, method, *args, **options):
    """Begin a send that has to wait."""
    before = waiting(client)
    task = asyncio.ensure_future(getattr(client, method)(*args, **options))
    await until(lambda: waiting(client) == before + 1)
    return task


async def test_rule_25_a_backend_says_that_it_understands(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    assert link.hello["flow"] is True
    link.cut()
    await client.disconnect(0)


async def test_rule_26_who_sends_to_a_full_recipient_waits_and_nobody_else(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await told_full(client, link, "ccay", CAY)
    first = await sending(client, "send_private_message", "cay", "1")
    second = await sending(client, "send_private_message", "cay", "2")
    assert await soon(client.send_private_message("ann", "other"))
    assert await soon(client.send_room_message("cay", "a room of that name"))
    assert await soon(client.broadcast_message("all"))
    assert [await link.hear_text() for _ in range(3)] == ["other", "a room of that name", "all"]
    assert not first.done()
    await link.say("ready", CAY)
    assert await soon(first)
    assert await soon(second)
    assert [await link.hear_text() for _ in range(2)] == ["1", "2"]
    assert await link.so_far(client) == []
    link.cut()
    await client.disconnect(0)


@pytest.mark.parametrize(
    ("params", "to", "method", "args"),
    [
        (CAY, "ccay", "send_private_message", ("cay",)),
        (ROOM, "rr", "send_room_message", ("r",)),
        ({}, "*", "broadcast_message", ()),
    ],
)
async def test_rule_26_timeout_bounds_the_wait_and_a_cancelled_one_sends_nothing(raw_broker, params, to, method, args):
    client = Noting()
    link = await raw_broker.connected(client)
    await told_full(client, link, to, params)
    assert await getattr(client, method)(*args, "late", timeout=0.01) is False
    assert await getattr(client, method)(*args, "too late", timeout=0) is False
    with pytest.raises(TimeoutError):
        await getattr(client, method)(*args, "never asked", confirm=True, timeout=0.01)
    cancelled = await sending(client, method, *args, "cancelled")
    cancelled.cancel()
    await until(cancelled.cancelled)
    last = await sending(client, method, *args, "last", timeout=10)
    assert waiting(client) == 1
    await link.say("ready", params)
    assert await soon(last)
    assert await link.hear_text() == "last"
    assert cancelled.cancelled()
    assert await link.so_far(client) == []
    link.cut()
    await client.disconnect(0)


async def test_rule_26_confirm_waits_as_others_do(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await told_full(client, link, "rr", ROOM)
    asked = await sending(client, "send_room_message", "r", "asked", confirm=True)
    await link.say("ready", ROOM)
    heard = await link.hear("message_to_room")
    await link.say("result", {"matched": 3, "skipped": 1}, request_id=heard["request_id"])
    assert await soon(asked) == (3, 1)
    link.cut()
    await client.disconnect(0)


async def test_rule_26_what_waits_for_the_link_waits_for_its_recipient_before_later_ones(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    core_of(client).outgoing.session.max_lines = 1
    assert await client.send_private_message("ann", "fills the window")
    first, other = (asyncio.ensure_future(client.send_private_message(to, "1")) for to in ("cay", "bob"))
    await settled()
    await told_full(client, link, "ccay", CAY)
    second = await sending(client, "send_private_message", "cay", "2")
    core_of(client).outgoing.session.max_lines = 10
    assert await link.hear_text() == "fills the window"
    await link.acknowledge()
    assert await soon(other)
    assert await link.hear_text() == "1"
    assert not first.done()
    await link.say("ready", CAY)
    assert await soon(first)
    assert await soon(second)
    assert [await link.hear_text() for _ in range(2)] == ["1", "2"]
    link.cut()
    await client.disconnect(0)


async def test_rule_26_over_a_cut_they_wait_on(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await told_full(client, link, "ccay", CAY)
    held = await sending(client, "send_private_message", "cay", "1")
    link.cut()
    await unlinked(client)
    second = await sending(client, "send_private_message", "cay", "2")
    again = await raw_broker.linked()
    await again.go_on(link)
    await again.say("full", {"client_id": "bob"})
    await until(lambda: "cbob" in core_of(client).outgoing.full)
    assert not held.done()
    await again.say("ready", CAY)
    assert await soon(held)
    assert await soon(second)
    assert [await again.hear_text() for _ in range(2)] == ["1", "2"]
    again.cut()
    await client.disconnect(0)


async def test_rule_26_a_ready_that_was_lost_with_its_link_comes_again(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    full = await link.say("full", CAY)
    await until(lambda: "ccay" in core_of(client).outgoing.full)
    held = await sending(client, "send_private_message", "cay", "1")
    link.cut()
    again = await raw_broker.linked()
    assert again.hello["received"] == full
    await again.go_on(link)
    await again.say("ready", CAY)
    assert await soon(held)
    assert await again.hear_text() == "1"
    again.cut()
    await client.disconnect(0)


async def test_rule_26_without_a_link_nobody_waits_for_long(raw_broker):
    client = limited(Noting(reconnect_delay=30), without_recipient=0.01)
    link = await raw_broker.connected(client)
    await told_full(client, link, "ccay", CAY)
    core_of(client).outgoing.session.max_lines = 2
    held = [await sending(client, "send_private_message", "cay", str(number)) for number in range(3)]
    link.cut()
    assert [await soon(each) for each in held] == [True, True, False], "two find room in the session"
    assert await soon(client.send_private_message("cay", "more")) is False
    await client.disconnect(0)


async def test_rule_26_a_new_broker_has_nobody_who_is_full(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await told_full(client, link, "ccay", CAY)
    await told_full(client, link, "rr", ROOM)
    private = await sending(client, "send_private_message", "cay", "gone with its client")
    room = await sending(client, "send_room_message", "r", "kept")
    raw_broker.broker_id = "another"
    link.cut()
    again = await raw_broker.linked()
    assert await soon(private) is False
    await again.welcome()
    assert await soon(room) is True
    assert await again.hear_text() == "kept"
    assert await soon(client.send_private_message("cay", "new"))
    assert await again.hear_text() == "new"
    again.cut()
    await client.disconnect(0)


async def test_rule_26_a_session_that_was_given_up_discards_what_its_handlers_wait_to_send(raw_broker):
    class Answering(Noting):
        async def on_message(self, message, context):
            taken = await self.send_private_message("cay", message)
            self.notes.append((message, f"taken: {taken}"))

    client = Answering()
    link = await raw_broker.connected(client)
    await told_full(client, link, "ccay", CAY)
    await link.message("from a handler", "ann")
    await until(lambda: waiting(client) == 1)
    held = await sending(client, "send_private_message", "cay", "from outside")
    link.cut()
    again = await raw_broker.linked()
    await again.give_up(link.received)
    assert await soon(held)
    assert await again.hear_text() == "from outside"
    await until(lambda: ("from a handler", "taken: False") in client.notes)
    assert await again.so_far(client) == []
    assert core_of(client).outgoing.discarded == 1
    again.cut()
    await client.disconnect(0)


async def test_rule_26_disconnect_waits_for_what_waits_up_to_its_timeout(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await told_full(client, link, "ccay", CAY)
    held = await sending(client, "send_private_message", "cay", "1")
    ending = asyncio.ensure_future(client.disconnect(20))
    await link.hear("leave")
    await link.say("leaving")
    await settled()
    assert not ending.done()
    await link.say("ready", CAY)
    assert await link.hear_text() == "1"
    await link.hear("bye")
    await link.acknowledge()
    await soon(ending)
    assert held.result() is True


async def test_rule_26_what_still_waits_after_the_timeout_is_not_sent(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await told_full(client, link, "ccay", CAY)
    held = await sending(client, "send_private_message", "cay", "1")
    await client.disconnect(0.01)
    assert await soon(held) is False
    heard = []
    while (one := await link.hear())["action"] != "bye":
        heard.append(one["action"])
    assert heard == ["leave"]


async def test_rule_28_volatile_messages_wait_for_nobody(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    await told_full(client, link, "rr", ROOM)
    held = await sending(client, "send_room_message", "r", "held")
    assert await client.send_room_message("r", "1", volatile=True)
    assert await client.send_room_message("r", "2", key="cursor:ada")
    assert await client.broadcast_message("3", key="k", exclude="cay")
    assert await client.send_private_message("cay", "4", volatile=True)
    heard = [(await link.hear())["params"] for _ in range(4)]
    assert [each.pop("message") for each in heard] == ["1", "2", "3", "4"]
    assert heard == [
        {"room_id": "r", "volatile": True},
        {"room_id": "r", "volatile": True, "key": "cursor:ada"},
        {"exclude": ["cay"], "volatile": True, "key": "k"},
        {"conn_id": "cay", "volatile": True},
    ]
    core_of(client).outgoing.session.max_lines = 0
    assert await client.send_room_message("r", "no room on the link", volatile=True) is False
    assert await client.send_private_message("cay", "no room on the link", key="k") is False
    link.cut()
    await unlinked(client)
    assert await client.send_room_message("r", "no link", volatile=True) is False
    with pytest.raises(ValueError, match="key must not be empty"):
        await client.send_room_message("r", "x", key="")
    with pytest.raises(TypeError, match="key must be a str"):
        await client.send_room_message("r", "x", key=7)  # type: ignore[call-overload]
    held.cancel()
    await client.disconnect(0)


@pytest.mark.parametrize("kind", [PyStrandsClient, PyStrands])
async def test_rule_26_threads_wait_too(raw_broker, kind):
    """What a thread has handed on before it could know waits as well, and keeps its place."""
    client = kind(*raw_broker.address)
    if kind is PyStrands:
        running = asyncio.ensure_future(asyncio.to_thread(client.run))
        link = await raw_broker.begin()
        core = core_of(client)
    else:
        running = asyncio.ensure_future(asyncio.to_thread(client.connect))
        link = await raw_broker.begin()
        assert await soon(running)
        core = core_of(client)
    await link.say("full", CAY)
    await until(lambda: core.outgoing is not None and "ccay" in core.outgoing.full)
    assert await asyncio.to_thread(client.send_private_message, "cay", "late", timeout=0.01) is False
    assert await asyncio.to_thread(client.send_room_message, "r", "other")
    assert await asyncio.to_thread(client.send_room_message, "r", "volatile", volatile=True)
    assert [await link.hear_text() for _ in range(2)] == ["other", "volatile"]
    held = asyncio.ensure_future(asyncio.to_thread(client.send_private_message, "cay", "held"))
    await until(lambda: len(list(core.outgoing.full.waiting)) == 1)
    await link.say("ready", CAY)
    assert await soon(held)
    assert await link.hear_text() == "held"
    link.cut()
    await asyncio.to_thread(client.disconnect, 0)
    await soon(running)


async def test_rule_11_a_busy_link_that_ends_keeps_nobody_waiting(raw_broker):
    client = Noting()
    link = await raw_broker.connected(client)
    ours = core_of(client).outgoing.link
    ours.congested = True
    ours.abort()  # and its end is told in the loop's next turn
    assert await client.send_private_message("cay", "kept")
    again = await raw_broker.linked()
    await again.go_on(link)
    assert await again.hear_text() == "kept"
    again.cut()
    await client.disconnect(0)
