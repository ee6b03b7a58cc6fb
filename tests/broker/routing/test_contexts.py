"""What a client's context may hold, and how often a session hears it. The world is that of the router's tests."""

import json
import logging
from typing import Any

import pytest

from pystrands.broker.hub.client import SMALL
from pystrands.protocol.limits import MAX_DEPTH, Limits
from tests.broker.routing.test_router import Peer, World

BIG = {"history": "x" * 3000}


class Backend(Peer):
    """A backend of protocol 2."""

    def __init__(self, world: World, session_id: str = "s1", **hello: Any) -> None:
        super().__init__(world, hello=False)
        self.seq = 0
        params: dict[str, Any] = {"protocol": 2, "session_id": session_id, "contexts": True} | hello
        super().say("hello", **params)

    def say(self, action: str, request_id: str = "", **params: Any) -> None:
        self.seq += 1
        line = {"action": action, "request_id": request_id, "params": params, "seq": self.seq}
        self.raw(json.dumps(line).encode() + b"\n")

    async def ask(self, action: str, **params: Any) -> Any:
        """Return the result of a command."""
        self.say(action, "q", **params)
        (result,) = [line for line in await self.heard() if line["action"] == "result"]
        return result["params"]

    async def lines(self) -> list[tuple[str, Any]]:
        """Return (action, what tells the client) of what was heard."""
        found = []
        for line in await self.heard():
            if line["action"] not in ("welcome", "received"):
                params = line["params"]
                found.append((line["action"], "known" if params.get("known") else params["context"].get("metadata")))
        return found


@pytest.fixture
async def world() -> World:
    world = World()
    world.links.max_line = 200_000
    return world


# --- events


async def test_a_big_context_is_told_once_and_again_when_it_has_changed(world):
    backend = Backend(world)
    ws = await world.admit(backend, "ann", metadata=BIG)
    for _ in range(3):
        world.router.client_message(ws, "x")
    assert await backend.lines() == [("context", BIG), ("new_connection", "known"), *[("new_message", "known")] * 3]
    assert await backend.ask("update_metadata", client_id="ann", metadata={"a": 1}) == {"found": True}
    world.router.client_message(ws, "x")
    world.router.client_message(ws, "x")
    assert await backend.lines() == [("context", BIG | {"a": 1}), *[("new_message", "known")] * 2]
    await backend.ask("join_room", client_id="ann", room_id="kitchen")
    ws.gone()
    (context, gone) = await backend.heard()
    assert context["params"]["context"]["rooms"] == ["/room", "kitchen"]
    assert gone["action"] == "disconnected"
    assert gone["params"]["context"] == {"client_id": "ann"}
    assert gone["seq"] == context["seq"] + 1


async def test_what_waits_and_is_kept_of_a_big_context_is_one_copy(world):
    backend = Backend(world)
    ws = await world.admit(backend, "ann", metadata={"history": "x" * 100_000})
    for _ in range(32):
        world.router.client_message(ws, "x")
    assert backend.session.link_session.kept_bytes < 120_000
    assert ws.client.held_bytes < 110_000


async def test_a_small_context_is_in_each_event_byte_for_byte(world):
    backend, plain = Backend(world), None
    ws = await world.admit(backend, "ann", metadata={"name": "ann"})
    world.router.client_message(ws, "x")
    await backend.heard()
    world.router.client_message(ws, "x")
    await backend.heard()
    plain = ws.client.context
    assert plain == b'{"client_id":"ann","room_id":"/room","metadata":{"name": "ann"}}'
    assert len(plain) <= SMALL
    assert ws.client.small is plain, "encoded once"


@pytest.mark.parametrize("protocol", [1, 2])
async def test_a_session_that_does_not_keep_contexts_gets_them_with_each_event(world, protocol):
    backend = Peer(world) if protocol == 1 else Backend(world, contexts=False)
    ws = await world.admit(backend, "ann", metadata=BIG)
    world.router.client_message(ws, "x")
    events = [line for line in await backend.heard() if "context" in line["params"]]
    assert [event["action"] for event in events] == ["new_connection", "new_message"]
    assert [event["params"]["context"]["metadata"] for event in events] == [BIG] * 2


async def test_a_big_context_that_is_in_each_event_counts_for_credit(world):
    backend = Backend(world, contexts=False)
    ws = await world.admit(backend, "ann", metadata={"history": "x" * 100_000})
    for _ in range(32):
        world.router.client_message(ws, "x")
    events = [line["seq"] for line in await backend.heard() if line["action"] == "new_message"]
    assert len(events) == 2, "of 256 KiB"
    assert not ws.reading
    assert backend.session.link_session.kept_bytes < 350_000
    while events:
        backend.say("done", events=[[events[0], events[-1]]])
        backend.raw(json.dumps({"action": "received", "params": {"seq": events[-1]}}).encode() + b"\n")
        events = [line["seq"] for line in await backend.heard() if line["action"] == "new_message"]
    assert ws.client.in_flight == 1, "new_connection"
    assert ws.reading
    assert ws.client.bytes_in_flight == 0


async def test_another_session_is_told_first_whichever_way_the_client_comes(world):
    one = Backend(world)
    ws = await world.admit(one, "ann", metadata=BIG)
    world.router.client_message(ws, "x")
    await one.heard()
    two = Backend(world, "s2")
    one.say("leave")
    numbers = [line["seq"] for line in await one.heard() if "event" in line]
    assert numbers == []
    one.say("released", events=[[1, 9]])
    assert await two.lines() == [("context", BIG), *[("client_adopted", "known")], ("new_connection", "known"),
                                 ("new_message", "known")]  # fmt: skip
    three = Backend(world, "s3")
    two.say("bye")
    assert (await three.lines())[:2] == [("context", BIG), ("client_adopted", "known")]


async def test_a_resumed_session_knows_what_it_was_told(world):
    backend = Backend(world)
    ws = await world.admit(backend, "ann", metadata=BIG)
    await backend.heard()
    seen = backend.session.link_session.sent
    backend.lose()
    again = Backend(world, "s1", resume=True, next_session_id="s9", received=seen)
    world.router.client_message(ws, "x")
    assert await again.lines() == [("new_message", "known")]


# --- what may enter


async def let_in(world: World, backend: Peer, path: str = "/room", **answer: Any) -> Any:
    handshake = world.knock(path)
    (request,) = [line for line in await backend.heard() if line["action"] == "connection_request"]
    answer = {"accepted": True} | answer
    raw = json.dumps(answer).replace('"RAW"', answer.get("raw", ""))
    backend.say("response", request["request_id"], **answer) if "raw" not in answer else backend.raw(
        f'{{"action":"response","request_id":"{request["request_id"]}","params":{raw}}}\n'.encode()
    )
    return handshake


DEEP = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"client_id": "x" * 513}, "the client_id has 513 bytes"),
        ({"room_id": "é" * 257}, "the room_id has 514 bytes"),
        ({"metadata": "x" * 2000}, "as JSON, and may have 2000"),
    ],
)
async def test_an_answer_with_more_than_a_client_may_have_lets_nobody_in(world, answer, why, caplog):
    world.rooms.limits.max_context = 2000
    backend = Peer(world)
    with caplog.at_level(logging.WARNING):
        handshake = await let_in(world, backend, **answer)
    assert handshake.refused is not None and handshake.refused[:2] == (502, "the backend's answer can't be used")
    (told,) = await backend.heard()
    assert told["action"] == "error"
    assert why in told["params"]["error"]
    assert told["params"]["context"] == {"client_id": "", "room_id": "", "metadata": {}}
    assert why in caplog.text
    assert world.counters["refused_bad_answer"] == 1
    assert len(world.rooms) == 0


async def test_metadata_of_too_many_levels_is_cut_and_the_backend_told(world, caplog):
    backend = Peer(world)
    with caplog.at_level(logging.WARNING):
        handshake = await let_in(world, backend, client_id="ann", metadata="RAW", raw=f'{{"name":"ann","deep":{DEEP}}}')
    assert handshake.ws is not None
    told, new = await backend.heard()
    assert "more than 100 levels" in told["params"]["error"]
    assert "more than 100 levels" in caplog.text
    assert new["params"]["context"]["metadata"]["name"] == "ann"
    assert json.dumps(new["params"]["context"]["metadata"]["deep"]) == "[" * 99 + "null" + "]" * 99


async def test_what_is_just_within_is_let_in(world):
    backend = Peer(world)
    depth = json.loads(DEEP)[0]
    handshake = await let_in(world, backend, client_id="é" * 256, room_id="x" * 512, metadata=depth)
    assert handshake.ws is not None


@pytest.mark.parametrize("answer", [{}, {"room_id": "/" + "x" * 600}])
async def test_a_path_too_long_for_a_room_is_the_clients_doing(world, answer, caplog):
    backend = Peer(world)
    with caplog.at_level(logging.WARNING):
        handshake = await let_in(world, backend, "/" + "x" * 600, **answer)
    assert handshake.refused is not None and handshake.refused[0] == 414
    assert not await backend.heard()
    assert not caplog.records
    assert world.counters["refused_long_path"] == 1
    chosen = await let_in(world, backend, "/" + "x" * 600, room_id="lobby")
    assert chosen.ws is not None, "a long path is no harm where the room has another name"


async def test_a_client_joins_so_many_rooms_and_no_more(world):
    world.rooms.limits = Limits(max_rooms=3)
    backend = Backend(world)
    ws = await world.admit(backend, "ann")
    for room in ("a", "b", "a"):
        assert await backend.ask("join_room", client_id="ann", room_id=room) == {"found": True}
    refused = await backend.ask("join_room", client_id="ann", room_id="c")
    assert refused["found"] is True
    assert "is in 3 rooms" in refused["error"] and "--max-rooms-per-client" in refused["error"]
    assert ws.client.rooms == ("/room", "a", "b")
    assert await backend.ask("join_room", client_id="ann", room_id="b") == {"found": True}
    assert await backend.ask("leave_room", client_id="ann", room_id="a") == {"found": True}
    assert await backend.ask("join_room", client_id="ann", room_id="c") == {"found": True}
    assert "513 bytes" in (await backend.ask("join_room", client_id="ann", room_id="x" * 513))["error"]
    assert not world.rooms.members("x" * 513)


async def test_rooms_and_metadata_are_bounded_together(world):
    world.rooms.limits = Limits(max_context=1000)
    backend = Backend(world)
    ws = await world.admit(backend, "ann")
    refused = await backend.ask("update_metadata", client_id="ann", metadata={"a": "x" * 1000})
    assert "may have 1000" in refused["error"]
    assert ws.client.metadata == b"{}"
    assert await backend.ask("update_metadata", client_id="ann", metadata={"a": "x" * 500}) == {"found": True}
    assert await backend.ask("join_room", client_id="ann", room_id="y" * 300) == {"found": True}
    refused = await backend.ask("join_room", client_id="ann", room_id="z" * 300)
    assert "have it leave rooms" in refused["error"]
    assert ws.client.rooms == ("/room", "y" * 300)
    assert "error" in await backend.ask("update_metadata", client_id="ann", metadata={"b": "x" * 200})
    assert await backend.ask("update_metadata", client_id="ann", metadata={"a": ""}) == {"found": True}
    assert await backend.ask("join_room", client_id="ann", room_id="z" * 300) == {"found": True}


async def test_metadata_nested_too_deep_is_not_set(world):
    backend = Backend(world)
    ws = await world.admit(backend, "ann")
    refused = await backend.ask("update_metadata", client_id="ann", metadata={"a": json.loads(DEEP)[0]})
    assert "deeper than 100 levels" in refused["error"]
    assert ws.client.metadata == b"{}"
    fine = {"a": json.loads(DEEP)[0][0]}
    assert await backend.ask("update_metadata", client_id="ann", metadata=fine) == {"found": True}


async def test_metadata_that_has_no_keys_is_not_lost_to_an_update(world):
    backend = Backend(world)
    ws = await world.admit(backend, "ann")
    for metadata in (b"[1]", b'"x"', b"7"):
        ws.client.metadata = metadata
        refused = await backend.ask("update_metadata", client_id="ann", metadata={"a": 1})
        assert refused["found"] is True and "no keys" in refused["error"]
        assert ws.client.metadata == metadata
    ws.client.metadata = b"null"
    assert await backend.ask("update_metadata", client_id="ann", metadata={"a": 1}) == {"found": True}
    assert ws.client.metadata == b'{"a":1}'


async def test_a_tool_watches_no_room_of_a_longer_name_than_rooms_have(world):
    tool = Peer(world, hello=False)
    tool.say("hello", protocol=2, role="tool")
    tool.say("watch", "1", room_id="x" * 513)
    (answer,) = await tool.heard()
    assert answer["params"]["watching"] is False
    assert "513 bytes" in answer["params"]["error"]


# --- lines


async def test_events_of_life_fit_every_backend(world, caplog):
    """One whose lines are shorter than what another one gave the client: it misses the metadata, and no event."""
    one = Backend(world)
    ws = await world.admit(one, "ann", metadata={"history": "x" * 50_000})
    two = Backend(world, "s2", max_line=20_000)
    one.say("bye")
    world.router.client_message(ws, "x")
    ws.gone(1000, "\x01" * 123)
    lines = await two.lines()
    assert [action for action, _ in lines] == ["client_adopted", "new_connection", "disconnected"]
    assert [metadata for _, metadata in lines] == [{}, {}, {}]
    assert world.counters["events_too_long"] == 4
    assert "keep less in metadata" in caplog.text


async def test_a_backend_of_very_short_lines_is_not_taken(world, caplog):
    with caplog.at_level(logging.WARNING):
        backend = Backend(world, max_line=16_000)
    assert backend.transport.closed
    assert "16384" in caplog.text
