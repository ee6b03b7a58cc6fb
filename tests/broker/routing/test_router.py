"""The router with its links, on fake transports: no sockets, every interleaving chosen by the test."""

import asyncio
import json
import time
from collections import Counter
from typing import Any

import pytest

from pystrands import testing
from pystrands.broker.backends.authenticator import LinkAuthenticator
from pystrands.broker.backends.greeting import Greeting
from pystrands.broker.backends.link import BackendLink, LinkShared, link_factory
from pystrands.broker.backends.session import Session, SessionShared
from pystrands.broker.bounds import Bounds
from pystrands.broker.events.queue import EventQueue
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.hub.taps import Taps
from pystrands.broker.policies import QueuePolicy
from pystrands.broker.ws.expiry import Expiries
from pystrands.engine.base import Delivered, Engine
from pystrands.engine.publication import Audience, Publication
from pystrands.protocol.link import LinkSession
from pystrands.protocol.messages import HelloParams
from tests.broker.doubles import FakeHandshake, FakeTransport, FakeWebSocket, make_router


class RecordingEngine(Engine):
    """Keeps what is published."""

    def __init__(self) -> None:
        self.published: list[tuple[Any, ...]] = []

    async def start(self, sink: Any) -> None: ...

    async def stop(self) -> None: ...

    def subscribe(self, room_id: str) -> None: ...

    def unsubscribe(self, room_id: str) -> None: ...

    def publish(self, publication: Publication) -> Delivered:
        self.published.append((publication.audience, publication.address, publication.message, *publication.exclude))
        return 2, 1


class Peer:
    """A backend at the far end of a fake link."""

    def __init__(self, world: "World", *, hello: bool = True, binary: bool = True) -> None:
        self.world = world
        self.link: BackendLink = world.make_link()
        self.transport = FakeTransport()
        self.link.connection_made(self.transport)
        if hello:
            self.say("hello", protocol=1, binary=binary)

    @property
    def session(self) -> Any:
        assert self.link.session is not None
        return self.link.session

    def say(self, action: str, request_id: str = "", **params: Any) -> None:
        self.raw(json.dumps({"action": action, "request_id": request_id, "params": params}).encode() + b"\n")

    def raw(self, data: bytes) -> None:
        self.link.data_received(data)

    async def heard(self) -> list[dict[str, Any]]:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return [line for line in self.transport.take() if line["action"] != "hello"]

    async def events(self) -> list[tuple[str, Any]]:
        """Return (action, message or client_id) of what was heard."""
        return [
            (line["action"], line["params"].get("message", line["params"].get("context", {}).get("client_id")))
            for line in await self.heard()
        ]

    def stay_mute(self) -> None:
        """Let the second pass within which it could have said something."""
        self.link._is_silent()

    async def asked(self) -> list[str]:
        """Return the ids of the questions that were heard."""
        return [line["request_id"] for line in await self.heard() if line["action"] == "connection_request"]

    def lose(self) -> None:
        self.transport.closed = True
        self.link.connection_lost(None)


class World:
    """A router and what is around it."""

    def __init__(
        self, queue_size: int = 1000, policy: QueuePolicy = "backpressure", taps: Taps | None = None, **options: Any
    ) -> None:
        loop = asyncio.get_running_loop()
        self.counters: Counter[str] = Counter()
        self.engine = RecordingEngine()
        self.rooms = Rooms(Outbox(loop), self.engine.subscribe, self.engine.unsubscribe, taps)
        self.queue = EventQueue(queue_size, 1 << 20, policy, self.counters)
        times = {"hold_time": 5.0, "answer_timeout": 10.0, "resume_window": 5.0} | options
        self.router: Any
        self.router, self.lifecycle, self.backends = make_router(
            loop, self.engine, self.rooms, self.queue, self.counters, **times
        )
        self.requests: Any = self.router.connection_requests
        self.links = LinkShared(
            loop=loop, owner=self.lifecycle, authenticator=LinkAuthenticator(clock=loop.time, counters=self.counters),
            greeting=Greeting(HelloParams()),
            max_line=10_000, link_buffer=1000, decision_time=1000, counters=self.counters,
        )  # fmt: skip
        self.make_link: Any = link_factory(self.links)

    def knock(self, path: str = "/room") -> FakeHandshake:
        handshake = FakeHandshake(self.router, path)
        self.requests.connection_request(handshake)
        return handshake

    async def admit(self, peer: Peer, client_id: str | None = None, **answer: Any) -> FakeWebSocket:
        """Let a client in through ``peer``, which has to be the one that is asked."""
        handshake = self.knock()
        (request,) = [line for line in await peer.heard() if line["action"] == "connection_request"]
        given = {} if client_id is None else {"client_id": client_id}
        peer.say("response", request["request_id"], accepted=True, **given, **answer)
        assert handshake.ws is not None
        return handshake.ws


async def test_a_client_is_asked_for_admitted_and_announced():
    world = World()
    peer = Peer(world)
    handshake = world.knock("/lobby")
    (request,) = await peer.heard()
    assert request["action"] == "connection_request"
    assert request["params"] == {
        "url": "/lobby", "headers": {"Host": ["x"]}, "remote_addr": "127.0.0.1:5000", "query_string": ""
    }  # fmt: skip
    assert handshake.ws is None
    peer.say("response", request["request_id"], accepted=True, client_id="me", room_id="r", metadata={"a": [1, None]})
    assert handshake.ws is not None
    (event,) = await peer.heard()
    assert event["action"] == "new_connection"
    assert event["params"] == {"context": {"client_id": "me", "room_id": "r", "metadata": {"a": [1, None]}}}
    world.router.client_message(handshake.ws, "hi")
    (event,) = await peer.heard()
    assert event["params"]["message"] == "hi"
    assert list(world.rooms.members("r")) == [handshake.ws]
    handshake.ws.gone()
    assert await peer.events() == [("disconnected", "me")]
    assert len(world.rooms) == 0
    assert not peer.session.streams


async def test_an_answer_that_says_only_yes_gets_a_fresh_id_and_the_path_as_room():
    world = World()
    peer = Peer(world)
    ws = await world.admit(peer)
    ((_, client_id),) = await peer.events()
    assert len(client_id) == 36
    assert ws.client.rooms == ("/room",)


async def test_a_rejection_is_a_403():
    world = World()
    peer = Peer(world)
    handshake = world.knock()
    (request,) = await peer.heard()
    peer.say("response", request["request_id"], accepted=False)
    assert handshake.refused is not None and handshake.refused[0] == 403
    assert len(world.requests) == 0


async def test_without_a_backend_a_client_is_held_and_then_let_in_by_the_one_that_comes():
    world = World()
    handshake = world.knock()
    assert not world.requests.is_ready()
    peer = Peer(world)
    (request,) = await peer.heard()
    peer.say("response", request["request_id"], accepted=True)
    assert handshake.ws is not None


async def test_without_a_backend_within_the_hold_time_503():
    world = World(hold_time=0.001)
    handshake = world.knock()
    while handshake.refused is None:
        await asyncio.sleep(0)
    assert handshake.refused[0] == 503
    assert handshake.refused[2] == {"Retry-After": "2"}


async def test_no_answer_is_a_504_and_the_silent_link_gets_no_new_clients_until_it_speaks():
    world = World(answer_timeout=0.2)
    peer = Peer(world)
    handshake = world.knock()
    while handshake.refused is None:
        await asyncio.sleep(0)
    assert handshake.refused[0] == 504
    (request,) = await peer.heard()
    assert not world.requests.is_ready()
    held = world.knock()
    assert await peer.heard() == []
    peer.say("response", request["request_id"], accepted=True)  # too late, but a sign of life
    assert world.counters["responses_unexpected"] == 1
    (request,) = await peer.heard()
    peer.say("response", request["request_id"], accepted=True)
    assert held.ws is not None


async def test_more_clients_than_a_backend_may_be_asked_about_are_asked_about_as_it_answers():
    world = World()
    peer = Peer(world)
    clients = [world.knock() for _ in range(1003)]
    requests = await peer.heard()
    assert len(requests) == 1000
    for request in requests[:2]:
        peer.say("response", request["request_id"], accepted=True)
    more = [line for line in await peer.heard() if line["action"] == "connection_request"]
    assert len(more) == 2
    for request in [*requests[2:], *more]:
        peer.say("response", request["request_id"], accepted=True)
    (last,) = [line for line in await peer.heard() if line["action"] == "connection_request"]
    peer.say("response", last["request_id"], accepted=True)
    assert all(client.ws is not None for client in clients)


async def test_requests_that_a_backend_has_not_acknowledged_bound_what_it_is_asked():
    world = World()
    loop = asyncio.get_running_loop()
    shared = SessionShared(loop=loop, counters=Counter(), expiries=Expiries(loop, Counter()))
    session = Session("one", "id", stream := LinkSession("id"), shared)
    session.link = world.make_link()
    line = b'{"action": "connection_request", "params": {"url": "' + b"x" * 1_000_000 + b'"}}\n'
    for _ in range(5):
        assert session.is_available
        session.ask(line)
    assert not session.is_available  # though all of these clients may have gone
    assert session.unheard_bytes == stream.kept_bytes
    stream.acknowledge(4)
    assert session.is_available
    stream.acknowledge(5)
    assert session.unheard_bytes == stream.kept_bytes == 0


async def test_a_backend_that_goes_while_it_is_asked_is_replaced():
    world = World()
    first, second = Peer(world), Peer(world)
    handshake = world.knock()
    asked, other = (first, second) if await first.heard() else (second, first)
    asked.lose()
    (request,) = [line for line in await other.heard() if line["action"] == "connection_request"]
    other.say("response", request["request_id"], accepted=True)
    assert handshake.ws is not None


async def test_an_answer_on_the_wrong_link_counts_for_nothing():
    world = World()
    peer = Peer(world)
    handshake = world.knock()
    (request,) = await peer.heard()
    stranger = Peer(world)
    stranger.say("response", request["request_id"], accepted=True)
    assert handshake.ws is None
    assert world.counters["responses_unexpected"] == 1


async def test_a_client_that_leaves_before_the_verdict_is_forgotten():
    world = World()
    peer = Peer(world)
    handshake = world.knock()
    (request,) = await peer.heard()
    handshake.is_gone = True
    world.requests.connection_gone(handshake)
    assert (len(world.requests), peer.session.load) == (0, 0)
    peer.say("response", request["request_id"], accepted=True)
    assert await peer.heard() == []


async def test_a_client_that_leaves_unnoticed_gets_no_lifecycle_events():
    world = World()
    peer = Peer(world)
    handshake = world.knock()
    (request,) = await peer.heard()
    handshake.is_gone = True
    peer.say("response", request["request_id"], accepted=True)
    assert await peer.heard() == []
    assert len(world.rooms) == 0


async def test_new_clients_go_to_the_least_loaded_backend_and_their_events_stay_there():
    world = World()
    peers = [Peer(world), Peer(world)]
    sockets = []
    for _ in range(6):
        handshake = world.knock()
        for peer in peers:
            for line in await peer.heard():
                if line["action"] == "connection_request":
                    peer.say("response", line["request_id"], accepted=True)
        sockets.append(handshake.ws)
    assert [len(peer.session.streams) for peer in peers] == [3, 3]
    for peer in peers:
        await peer.heard()
    for ws in sockets:
        world.router.client_message(ws, ws.client.client_id)
    for peer in peers:
        heard = await peer.heard()
        assert len(heard) == 3
        assert {client.client_id for client in peer.session.streams} == {line["params"]["message"] for line in heard}


async def test_an_owner_that_goes_leaves_its_clients_to_others():
    world = World()
    first = Peer(world)
    ws = await world.admit(first, "me")
    second = Peer(world)
    first.lose()
    assert ws.is_open
    world.router.client_message(ws, "still here")
    assert await second.events() == [("new_message", "still here")]
    ws.gone()
    assert await second.events() == [("disconnected", "me")]


async def test_what_is_sent_while_no_backend_is_there_waits_in_order():
    world = World()
    first = Peer(world)
    ws, leaver = await world.admit(first, "me"), await world.admit(first, "leaver")
    first.lose()
    for number in range(3):
        world.router.client_message(ws, str(number))
    world.router.client_message(leaver, "bye")
    leaver.gone()
    second = Peer(world)
    assert await second.events() == [
        ("new_message", "0"), ("new_message", "1"), ("new_message", "2"), ("new_message", "bye"),
        ("disconnected", "leaver"),
    ]  # fmt: skip
    assert {client.client_id for client in second.session.streams} == {"me"}
    world.router.client_message(ws, "3")
    assert await second.events() == [("new_message", "3")]


async def test_backpressure_stops_reading_until_a_backend_comes():
    world = World(2, "backpressure")
    first = Peer(world)
    ws = await world.admit(first)
    first.lose()
    world.router.client_message(ws, "1")
    assert ws.reading
    world.router.client_message(ws, "2")
    assert not ws.reading
    world.router.client_message(ws, "3")  # had been read already
    second = Peer(world)
    assert ws.reading
    assert [message for _, message in await second.events()] == ["1", "2", "3"]


async def test_the_disconnect_policy_closes_who_finds_the_queue_full():
    world = World(1, "disconnect")
    first = Peer(world)
    ws = await world.admit(first, "me")
    first.lose()
    world.router.client_message(ws, "1")
    world.router.client_message(ws, "2")
    assert ws.close_code == 1013
    second = Peer(world)
    assert await second.events() == [("new_message", "1"), ("error", "me"), ("disconnected", "me")]


async def test_a_queue_of_no_size_drops_messages_only():
    world = World(0, "backpressure")
    first = Peer(world)
    ws = await world.admit(first, "me")
    first.lose()
    world.router.client_message(ws, "1")
    ws.gone()
    second = Peer(world)
    assert await second.events() == [("disconnected", "me")]


async def test_clients_of_a_slow_link_are_not_read_from_until_it_has_caught_up():
    world = World()
    peer = Peer(world)
    busy, idle = await world.admit(peer), await world.admit(peer)
    peer.link.pause_writing()
    world.router.client_message(busy, "x")
    assert (busy.reading, idle.reading) == (False, True)
    peer.link.resume_writing()
    assert busy.reading


async def test_clients_that_waited_for_a_slow_link_are_read_again_when_it_goes():
    world = World()
    peer = Peer(world)
    ws = await world.admit(peer)
    peer.link.pause_writing()
    world.router.client_message(ws, "x")
    peer.lose()
    assert ws.reading


async def test_a_client_id_in_use_closes_the_older_connection_first():
    world = World()
    peer = Peer(world)
    older = await world.admit(peer, "me")
    await peer.heard()
    newer = await world.admit(peer, "me")
    assert (older.is_open, newer.is_open) == (False, True)
    assert older.close_code == 1008
    assert await peer.events() == [("disconnected", "me"), ("new_connection", "me")]
    assert world.rooms.find("me") is newer.client


async def test_binary_goes_to_those_who_take_it_and_closes_1003_with_others():
    world = World()
    modern = Peer(world)
    ws = await world.admit(modern)
    await modern.heard()
    world.router.client_message(ws, b"\x00\xff")
    (event,) = await modern.heard()
    assert (event["params"]["message"], event["params"]["binary"]) == ("AP8=", True)
    modern.lose()
    Peer(world, binary=False)
    world.router.client_message(ws, b"\x00")
    await asyncio.sleep(0)
    assert ws.close_code == 1003


async def test_commands_reach_the_engine_in_order():
    world = World()
    peer = Peer(world)
    peer.say("message_to_room", room_id="r", message="one")
    peer.say("message_to_connection", conn_id="c", message="two")
    peer.say("broadcast", message="three")
    peer.say("broadcast", message="AP8=", binary=True)
    assert world.engine.published == [
        (Audience.ROOM, "r", "one"), (Audience.CLIENT, "c", "two"), (Audience.EVERYONE, "", "three"),
        (Audience.EVERYONE, "", b"\x00\xff"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        b'{"action":"broadcast","params":{}}',
        b'{"action":"broadcast","params":{"message":5}}',
        b'{"action":"broadcast","params":{"message":"!","binary":true}}',
        b'{"action":"message_to_room","params":{"room_id":null,"message":"x"}}',
        b'{"action":"response","params":{"accepted":true}}',
        b'{"action":"broadcast"}',
        b'{"action":5}',
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b"GET / HTTP/1.1",
        b"[" * 9000,
        b'{"action":"broadcast","params":' + b'{"a":' * 1500 + b"1" + b"}" * 1501,
    ],
)
async def test_a_malformed_line_is_counted_and_the_next_one_works(line):
    world = World()
    peer = Peer(world)
    peer.raw(line + b"\n")
    peer.say("broadcast", message="fine")
    assert world.counters["lines_malformed"] == 1
    assert world.engine.published == [(Audience.EVERYONE, "", "fine")]
    assert not peer.transport.closed


async def test_a_line_that_is_too_long_is_counted_and_the_next_one_works():
    world = World()
    peer = Peer(world)
    for _ in range(100):
        peer.raw(b"x" * 1000)
    peer.raw(b"\n")
    peer.say("broadcast", message="fine")
    assert world.counters["lines_overlong"] == 1
    assert world.engine.published == [(Audience.EVERYONE, "", "fine")]


async def test_unknown_actions_and_params_are_ignored():
    world = World()
    peer = Peer(world)
    peer.say("dance", style="tango")
    peer.say("broadcast", message="x", colour="red")
    assert world.counters["commands_unknown"] == 1
    assert len(world.engine.published) == 1


async def test_a_peer_whose_first_line_is_garbage_never_becomes_a_backend():
    world = World()
    peer = Peer(world, hello=False)
    assert not world.requests.is_ready()
    peer.raw(b"EHLO example.org\r\n")
    assert peer.transport.closed
    assert len(world.backends) == 0


async def test_a_silent_peer_is_a_backend_of_protocol_1_after_a_while():
    world = World()
    world.links.decision_time = 0
    peer = Peer(world, hello=False)
    assert len(world.backends) == 0
    while peer.link.session is None:
        await asyncio.sleep(0)
    assert world.requests.is_ready()
    assert not peer.session.binary


async def test_stopping_refuses_who_waits_and_who_comes():
    world = World()
    waiting = world.knock()
    world.requests.stop()
    late = world.knock()
    assert waiting.refused is not None and late.refused is not None
    assert (waiting.refused[0], late.refused[0]) == (503, 503)


async def test_an_answer_with_metadata_that_is_not_utf8_is_refused():
    world = World()
    peer = Peer(world)
    handshake = world.knock()
    (request,) = await peer.heard()
    peer.raw(
        b'{"action":"response","request_id":"%s","params":{"accepted":true,"metadata":{"a":"\xff"}}}\n'
        % request["request_id"].encode()
    )
    assert handshake.ws is None
    assert world.counters["lines_malformed"] == 1


async def test_a_client_whose_time_is_over_already_is_closed_before_it_is_heard():
    world = World()
    peer = Peer(world)
    ws = await world.admit(peer, "ann", expires_at=time.time() - 1)
    assert ws.close_code == 4401
    assert await peer.events() == [("new_connection", "ann"), ("disconnected", "ann")]
    assert (world.counters["expired_closed"], world.counters["clients_gone"]) == (1, 1)
    assert not len(world.router._expiries) and not len(world.rooms)


class Clock:
    """What the router takes for the time of day."""

    def __init__(self, world: World) -> None:
        self.now = 1000.0
        world.router._expiries._clock = lambda: self.now


async def test_between_the_moment_and_the_timer_nothing_of_a_client_is_delivered():
    world = World()
    clock = Clock(world)
    peer = Peer(world)
    ann = await world.admit(peer, "ann", expires_at=1001)
    bob = await world.admit(peer, "bob")
    await peer.heard()
    world.router.client_message(ann, "in time")
    clock.now = 1001.0
    world.router.client_message(ann, "late")
    world.router.client_message(bob, "bob has no such time")
    assert await peer.events() == [("new_message", "in time"), ("new_message", "bob has no such time")]
    ann.close(4401, "token expired")
    assert await peer.events() == [("disconnected", "ann")]
    assert world.counters["expired_dropped"] == 1


async def test_what_waited_for_a_backend_is_dropped_when_the_time_is_over_and_the_queue_has_its_room_again():
    world = World()
    clock = Clock(world)
    peer = Peer(world)
    ann = await world.admit(peer, "ann", expires_at=1001)
    bob = await world.admit(peer, "bob")
    peer.lose()
    for message in ("a1", "a2", "a3"):
        world.router.client_message(ann, message)
    world.router.client_message(bob, "b1")
    assert len(world.queue) == 4
    clock.now = 1001.0
    ann.close(4401, "token expired")
    assert (len(world.queue), world.counters["expired_dropped"]) == (1, 3)
    assert sorted(await Peer(world).events()) == [("disconnected", "ann"), ("new_message", "b1")]
    assert not world.router._assignments.ending


async def test_what_a_client_left_behind_is_dropped_as_well_when_its_time_is_over_before_a_backend_comes():
    world = World()
    clock = Clock(world)
    peer = Peer(world)
    ann = await world.admit(peer, "ann", expires_at=1001)
    peer.lose()
    world.router.client_message(ann, "a1")
    ann.gone()
    clock.now = 1001.0
    assert await Peer(world).events() == [("disconnected", "ann")]
    assert (len(world.queue), world.counters["expired_dropped"]) == (0, 1)


async def test_what_waits_for_credit_is_dropped_when_the_time_is_over():
    world = World()
    clock = Clock(world)
    peer = Peer(world, hello=False)
    peer.say("hello", protocol=2, session_id="s")
    handshake = world.knock()
    (request,) = [line for line in await peer.heard() if line["action"] == "connection_request"]
    params = {"accepted": True, "client_id": "ann", "expires_at": 1001}
    answer = {"action": "response", "request_id": request["request_id"], "params": params, "seq": 1}
    peer.raw(json.dumps(answer).encode() + b"\n")
    ann = handshake.ws
    assert ann is not None
    for number in range(40):
        world.router.client_message(ann, str(number))
    assert [line["params"].get("message") for line in await peer.heard()][1:] == [str(number) for number in range(32)]
    assert (len(world.queue), ann.reading) == (8, False)
    clock.now = 1001.0
    ann.close(4401, "token expired")
    assert (len(world.queue), world.counters["expired_dropped"]) == (0, 8)
    assert await peer.events() == [("disconnected", "ann")]


def mute_peer(world: World) -> Peer:
    peer = Peer(world, hello=False)
    peer.stay_mute()
    return peer


def backend_of_protocol_2(world: World) -> Peer:
    peer = Peer(world, hello=False)
    peer.say("hello", protocol=2, session_id="s")
    return peer


async def test_rule_08_where_backends_speak_protocol_2_who_says_nothing_is_not_asked():
    world = World()
    backend = backend_of_protocol_2(world)
    probe = mute_peer(world)
    for _ in range(4):
        world.knock()
    assert (len(await backend.asked()), await probe.asked()) == (4, [])


async def test_rule_08_a_probe_among_backends_of_protocol_1_is_asked_once_and_delays_one_client():
    world = World(bounds=Bounds(mute=0.001))
    backend, probe = Peer(world), mute_peer(world)
    handshakes = [world.knock() for _ in range(4)]
    await testing.until(lambda: backend.session.load == 4)
    for request_id in await backend.asked():
        backend.say("response", request_id, accepted=True)
    assert all(handshake.ws for handshake in handshakes)
    handshakes = [world.knock() for _ in range(4)]
    assert len(await backend.asked()) == 4
    assert len(await probe.asked()) == 1
    assert (probe.session.load, probe.session.is_mute) == (0, True)


async def test_rule_08_a_backend_that_speaks_only_when_it_is_asked_gets_its_share():
    world = World()
    first = Peer(world)
    for _ in range(2):
        await world.admit(first)
    second = mute_peer(world)
    await world.admit(second)
    assert not second.session.is_mute
    await world.admit(second)
    assert await first.asked() == []


async def test_rule_08_backends_that_speak_only_when_they_are_asked_share_the_clients_of_a_restart():
    world = World()
    peers = [mute_peer(world) for _ in range(3)]
    handshakes = [world.knock() for _ in range(9)]
    for peer in peers:
        asked = await peer.asked()
        assert len(asked) == 3, "each question went to one of them"
        for request_id in asked:
            peer.say("response", request_id, accepted=True)
    assert all(handshake.ws for handshake in handshakes)


async def test_rule_08_of_those_that_say_nothing_all_are_asked_in_the_end_and_the_first_answer_wins():
    world = World(bounds=Bounds(mute=0.001))
    probes = [mute_peer(world) for _ in range(3)]
    backend = mute_peer(world)
    handshake = world.knock()
    await testing.until(lambda: all(peer.session.load for peer in (*probes, backend)))
    late = mute_peer(world)
    assert len(await late.asked()) == 1, "one that comes while nobody has answered is asked, too"
    (request_id,) = await backend.asked()
    backend.say("response", request_id, accepted=True)
    assert handshake.ws is not None
    assert not any(probe.session.load for probe in probes)
    world.knock()
    assert len(await backend.asked()) == 1, "the next client waits for nobody else"


async def test_rule_08_a_backend_that_comes_is_asked_what_a_probe_has_not_answered():
    world = World(bounds=Bounds(mute=0.001))
    probe = mute_peer(world)
    handshake = world.knock()
    assert len(await probe.asked()) == 1
    await testing.until(lambda: world.requests._questions[handshake].wants_another)
    backend = Peer(world)
    (request_id,) = await backend.asked()
    backend.say("response", request_id, accepted=True)
    assert handshake.ws is not None


async def test_rule_08_without_any_backend_but_those_that_say_nothing_it_is_503():
    world = World(answer_timeout=0.001)
    mute_peer(world)
    handshake = world.knock()
    await testing.until(lambda: handshake.refused)
    assert handshake.refused is not None and handshake.refused[0] == 503
    assert (world.counters["refused_no_backend"], world.counters["refused_no_answer"]) == (1, 0)


async def test_rule_08_who_says_nothing_makes_a_broker_ready_only_where_all_speak_protocol_1():
    world = World()
    probe = mute_peer(world)
    assert world.requests.is_ready()
    backend = backend_of_protocol_2(world)
    assert world.requests.is_ready()
    backend.lose()
    assert not world.requests.is_ready()
    probe.say("heartbeat")
    assert world.requests.is_ready()


async def test_rule_08_messages_go_to_who_says_nothing_only_if_there_is_no_other():
    world = World()
    owner = Peer(world)
    ws = await world.admit(owner)
    other = Peer(world)
    other_client = world.knock()
    (request_id,) = await other.asked()
    other.say("response", request_id, accepted=True)
    await other.heard()
    mute = mute_peer(world)
    owner.lose()
    world.router.client_message(ws, "not into the void")
    assert ("new_message", "not into the void") in await other.events()
    assert await mute.events() == []
    other.lose()
    assert other_client.ws is not None
    world.router.client_message(other_client.ws, "where nobody else is")
    assert ("new_message", "where nobody else is") in await mute.events()
