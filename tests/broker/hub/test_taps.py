"""Links of tools, on fake transports: what they see, that they are no backends, and that they can't do harm."""

import asyncio
from collections import Counter

from pystrands.broker.backends.tools import ToolSession
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.delivery import Delivery
from pystrands.broker.hub.taps import Taps
from pystrands.engine.publication import Audience, Publication
from pystrands.protocol import messages, wire
from tests.broker.routing.test_router import Peer, World


class Tool(Peer):
    """A tool at the far end of a fake link."""

    def __init__(self, world):
        super().__init__(world, hello=False)
        self.say("hello", role=messages.TOOL)

    async def watch(self, room_id=None):
        self.say("watch", "w", room_id=room_id)
        (answer,) = await self.heard()
        assert answer == {"action": "result", "request_id": "w", "params": {"watching": True}}

    async def heard(self):
        await asyncio.sleep(0)
        return await super().heard()

    async def watched(self):
        """What it has seen, without the times."""
        lines = await self.heard()
        assert all(line["action"] == "watched" for line in lines)
        for line in lines:
            assert line["params"].pop("time") > 1_000_000_000
        return [line["params"] for line in lines]


def deliver(world, *arguments):
    return Delivery(world.rooms, Outbox(asyncio.get_running_loop()), Counter()).deliver(Publication(*arguments))


# ---- what a tool sees


async def test_a_tool_sees_what_flows_in_its_room_and_nothing_else():
    world = World()
    tool, backend = Tool(world), Peer(world)
    await tool.watch("lobby")
    anna = await world.admit(backend, "anna", room_id="lobby")
    ben = await world.admit(backend, "ben", room_id="other")
    world.router.client_message(anna, "hello")
    world.router.client_message(anna, b"\x00\x01")
    world.router.client_message(ben, "elsewhere")
    assert deliver(world, Audience.ROOM, "lobby", "to all here") == (1, 1)
    deliver(world, Audience.ROOM, "other", "elsewhere")
    anna.gone()
    ben.gone()
    in_room = {"room_id": "lobby", "client_id": "anna"}
    assert await tool.watched() == [
        {"kind": "joined", **in_room},
        {"kind": "message_in", **in_room, "message": "hello"},
        {"kind": "message_in", **in_room, "message": "AAE=", "binary": True},
        {"kind": "message_out", "room_id": "lobby", "message": "to all here", "clients": 1},
        {"kind": "left", **in_room},
    ]


async def test_private_messages_and_those_to_everyone_are_seen_too():
    world = World()
    tool, everything, backend = Tool(world), Tool(world), Peer(world)
    await world.admit(backend, "anna", room_id="lobby")
    await world.admit(backend, "ben", room_id="other")
    await tool.watch("lobby")
    await everything.watch()
    deliver(world, Audience.CLIENT, "anna", "psst")
    deliver(world, Audience.CLIENT, "ben", b"psst")
    deliver(world, Audience.CLIENT, "nobody", "lost")
    deliver(world, Audience.EVERYONE, "", "all", ("ben",))
    deliver(world, Audience.ROOM, "empty", "unheard")
    to_anna = {"kind": "message_out", "room_id": "lobby", "client_id": "anna", "message": "psst", "clients": 1}
    to_all = {"kind": "message_out", "message": "all", "clients": 1}
    assert await tool.watched() == [to_anna, to_all]
    assert await everything.watched() == [
        to_anna,
        {**to_anna, "room_id": "other", "client_id": "ben", "message": "cHNzdA==", "binary": True},
        {"kind": "message_out", "client_id": "nobody", "message": "lost", "clients": 0},
        to_all,
        {"kind": "message_out", "room_id": "empty", "message": "unheard", "clients": 0},
    ]


async def test_messages_to_a_user_are_seen_in_the_rooms_of_his_clients():
    world = World()
    tool, everything, backend = Tool(world), Tool(world), Peer(world)
    for client_id, room_id in (("anna", "lobby"), ("ben", "other")):
        await world.admit(backend, client_id, room_id=room_id)
        client = world.rooms.find(client_id)
        assert client is not None
        client.user = "her"
        world.rooms.users.add(client, "her")
    await tool.watch("lobby")
    await everything.watch()
    deliver(world, Audience.USER, "her", "psst", ("ben",))
    deliver(world, Audience.USER, "nobody", "lost")
    seen = {"kind": "message_out", "user": "her", "message": "psst", "clients": 1}
    assert await tool.watched() == [seen]
    assert await everything.watched() == [seen, {**seen, "user": "nobody", "message": "lost", "clients": 0}]


async def test_a_client_in_several_rooms_is_seen_in_each():
    world = World()
    tool, backend = Tool(world), Peer(world)
    anna = await world.admit(backend, "anna", room_id="lobby")
    await tool.watch("side")
    backend.say("join_room", client_id="anna", room_id="side")
    world.router.client_message(anna, "hello")
    backend.say("leave_room", client_id="anna", room_id="side")
    world.router.client_message(anna, "gone from there")
    assert await tool.watched() == [
        {"kind": "joined", "room_id": "side", "client_id": "anna"},
        {"kind": "message_in", "room_id": "lobby", "client_id": "anna", "message": "hello"},
        {"kind": "left", "room_id": "side", "client_id": "anna"},
    ]


async def test_who_watches_a_room_and_everything_sees_each_thing_once():
    world = World()
    tool, backend = Tool(world), Peer(world)
    await tool.watch("lobby")
    await tool.watch()
    await world.admit(backend, "anna", room_id="lobby")
    assert [each["kind"] for each in await tool.watched()] == ["joined"]


async def test_unwatch_ends_it_for_one_room_or_for_all():
    world = World()
    tool, backend = Tool(world), Peer(world)
    for room_id in ("one", "two", "three"):
        await tool.watch(room_id)
    tool.say("unwatch", "u", room_id="one")
    assert [line["params"] for line in await tool.heard()] == [{"watching": True}]
    await world.admit(backend, "anna", room_id="one")
    await world.admit(backend, "ben", room_id="two")
    assert [each["client_id"] for each in await tool.watched()] == ["ben"]
    tool.say("unwatch", "u")
    tool.raw(b'{"action":"unwatch","request_id":"v","params":{"room_id":null}}\n')
    assert [line["params"] for line in await tool.heard()][-1:] == [{"watching": False}]
    assert not world.rooms.taps.watchers


async def test_rooms_of_one_tool_are_bounded():
    world = World(taps=Taps(max_rooms=2))
    tool = Tool(world)
    await tool.watch("one")
    await tool.watch("two")
    await tool.watch("two")
    tool.say("watch", "w", room_id="three")
    (answer,) = await tool.heard()
    assert "watch all of them" in answer["params"]["error"]
    await tool.watch()


# ---- a tool is no backend


async def test_a_tool_is_no_backend():
    world = World(queue_size=0)
    tool = Tool(world)
    handshake = world.knock()
    tool.raw(wire.HEARTBEAT)
    tool.link.pause_writing()
    tool.link.resume_writing()
    assert await tool.heard() == []
    assert len(world.backends) == 0
    assert list(world.backends.sessions) == []
    assert world.backends.choose() is None
    assert not world.requests.is_ready()
    backend = Peer(world)
    (request,) = await backend.heard()
    backend.say("response", request["request_id"], accepted=True)
    assert handshake.ws is not None
    backend.lose()
    assert await tool.heard() == []


async def test_a_tool_can_send_and_ask_but_not_answer_for_a_backend():
    world = World()
    tool, backend = Tool(world), Peer(world)
    handshake = world.knock()
    (request,) = await backend.heard()
    tool.say("response", request["request_id"], accepted=True)
    tool.say("done", events=[[1, 10]])
    tool.say("released", events=[[1, 10]])
    tool.say("leave")
    tool.say("bye")
    tool.raw(wire.received(7))
    assert handshake.ws is None
    assert world.counters["responses_unexpected"] == 1
    tool.say("message_to_room", "1", room_id="r", message="hi", confirm=True)
    tool.say("room_members", "2", room_id="r")
    assert [(line["request_id"], line["params"]) for line in await tool.heard()] == [
        ("1", {"matched": 2, "skipped": 1}),
        ("2", {"members": []}),
    ]
    assert world.engine.published == [(Audience.ROOM, "r", "hi")]


async def test_a_backend_can_not_watch():
    world = World()
    backend = Peer(world)
    backend.say("watch", "w", room_id="r")
    (answer,) = await backend.heard()
    assert answer["params"]["watching"] is False
    assert "tool" in answer["params"]["error"]
    assert not world.rooms.taps.watchers


async def test_a_tool_stays_one_and_a_late_hello_makes_one_where_nothing_was_exchanged():
    world = World()
    tool = Tool(world)
    session = tool.session
    tool.say("hello", protocol=1)
    assert tool.session is session
    assert world.counters["hellos_late"] == 1
    late = Peer(world)
    assert len(world.backends) == 1
    late.say("hello", role=messages.TOOL)
    assert isinstance(late.session, ToolSession)
    assert len(world.backends) == 0


async def test_any_other_role_is_a_backends():
    world = World()
    Peer(world, hello=False).say("hello", role="chat")
    assert len(world.backends) == 1


async def test_a_tool_does_not_make_the_broker_give_up_a_session_that_is_away():
    world = World()
    backend = Peer(world, hello=False)
    backend.say("hello", protocol=2, session_id="s")
    (session,) = world.backends.sessions
    backend.lose()
    tool = Tool(world)
    world.lifecycle._expire(session)  # as the timer does after the resume window
    tool.link.pause_writing()
    tool.link.resume_writing()
    assert list(world.backends.sessions) == [session]
    Peer(world)
    assert session not in world.backends.sessions


async def test_heartbeats_reach_tools_and_stopping_ends_them():
    world = World()
    tool = Tool(world)
    world.lifecycle._on_beat()
    assert [line["action"] for line in await tool.heard()] == ["heartbeat"]
    stopping = asyncio.ensure_future(world.lifecycle.stop(30))
    await asyncio.sleep(0)
    assert tool.transport.closed
    tool.lose()
    await stopping


# ---- a tool can't do harm


async def test_a_tool_that_does_not_read_misses_lines_and_hears_how_many():
    world = World()
    tool, other, backend = Tool(world), Tool(world), Peer(world)
    anna = await world.admit(backend, "anna", room_id="lobby")
    await tool.watch()
    await other.watch()
    tool.link.pause_writing()
    for number in range(100):
        world.router.client_message(anna, str(number))
    assert await tool.heard() == []
    assert len(await other.watched()) == 100
    assert world.rooms.taps._counters["watched_dropped"] == 100
    tool.link.resume_writing()
    world.router.client_message(anna, "seen")
    dropped, seen = await tool.watched()
    assert dropped == {"kind": "dropped", "dropped": 100}
    assert seen["message"] == "seen"


async def test_one_turn_of_the_loop_holds_only_so_much_for_a_tool():
    world = World()
    tool, backend = Tool(world), Peer(world)
    tool.session.output.turn_bytes = 1000
    anna = await world.admit(backend, "anna", room_id="lobby")
    await tool.watch()
    world.router.client_message(anna, "b" * 2000)  # one always passes, however big
    for _ in range(10):
        world.router.client_message(anna, "c")
    first, dropped = await tool.watched()
    assert first["message"] == "b" * 2000
    assert dropped == {"kind": "dropped", "dropped": 10}
    world.router.client_message(anna, "again")
    assert [each["message"] for each in await tool.watched()] == ["again"]


async def test_what_was_dropped_is_told_even_when_the_link_is_full_as_the_turn_ends():
    world = World()
    tool, backend = Tool(world), Peer(world)
    tool.session.output.turn_bytes = 1000
    anna = await world.admit(backend, "anna", room_id="lobby")
    await tool.watch()
    for _ in range(20):
        world.router.client_message(anna, "c" * 100)
    tool.link.pause_writing()
    tool.link.resume_writing()  # there is no room yet for the line that tells it
    tool.link.pause_writing()
    held = await tool.watched()
    assert all(each["kind"] == "message_in" for each in held)
    tool.link.resume_writing()
    assert await tool.watched() == [{"kind": "dropped", "dropped": 20 - len(held)}]


async def test_who_asks_without_reading_is_cut_off():
    world = World()
    tool = Tool(world)
    tool.session.output.turn_bytes = 1000
    tool.raw(b'{"action":"room_members","request_id":"r","params":{"room_id":"r"}}\n' * 1000)
    assert tool.transport.closed
    tool.lose()
    slow = Tool(world)
    slow.link.pause_writing()
    slow.say("room_members", "r", room_id="r")
    assert slow.transport.closed


async def test_a_tool_that_vanishes_is_forgotten():
    world = World()
    backend, tool, undecided = Peer(world), Tool(world), Peer(world, hello=False)
    await tool.watch()
    for each in (tool, undecided):
        each.raw(b'{"action":"watch","request_id":"w","par')
    anna = await world.admit(backend, "anna", room_id="lobby")
    world.router.client_message(anna, "one")
    tool.lose()
    undecided.lose()
    world.router.client_message(anna, "two")
    await asyncio.sleep(0)
    assert not world.rooms.taps.watchers
    assert len(world.backends) == 1


async def test_garbage_from_a_tool_is_skipped():
    world = World()
    tool = Tool(world)
    tool.raw(b'rubbish\n[]\n{"action":"watch","params":{"room_id":7}}\n{"action":"watch"}\n{"action":"dance"}\n')
    tool.raw(b"x" * 50_000 + b"\n")
    assert not tool.transport.closed
    assert world.counters["lines_malformed"] == 4
    assert world.counters["lines_overlong"] == 1
    assert ["could not be read" in line["params"]["error"] for line in await tool.heard()] == [True] * 4
    await tool.watch("lobby")


def test_nothing_is_encoded_for_rooms_that_nobody_watches(monkeypatch):
    monkeypatch.setattr(wire, "watched", None)
    empty = Taps()
    assert not empty.watchers
    empty.message_out(Publication(Audience.ROOM, "r", "m"), 0, None)
    empty.message_out(Publication(Audience.EVERYONE, "", "m"), 0, None)
