import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.rooms import Rooms
from tests.broker.doubles import make_client
from tests.broker.fanout.test_outbox import Loop


def make_rooms() -> tuple[Rooms, list[str]]:
    told: list[str] = []
    loop: Any = Loop()
    return Rooms(Outbox(loop), lambda room: told.append(f"+{room}"), lambda room: told.append(f"-{room}")), told


def test_a_client_is_found_by_its_id_and_in_its_rooms():
    rooms, told = make_rooms()
    client = make_client(1)
    rooms.add(client)
    assert rooms.find("c1") is client
    assert rooms.find("c2") is None
    assert list(rooms.sockets) == [client.ws]
    assert rooms.join(client, "lobby")
    assert not rooms.join(client, "lobby")
    assert rooms.join(client, "kitchen")
    assert list(rooms.members("lobby")) == list(rooms.members("kitchen")) == [client.ws]
    assert (len(rooms), rooms.room_count) == (1, 2)
    rooms.remove(client)
    assert rooms.find("c1") is None
    assert (len(rooms), rooms.room_count, list(rooms.sockets), list(rooms.members("lobby"))) == (0, 0, [], [])
    assert told == ["+lobby", "+kitchen", "-lobby", "-kitchen"]


def test_a_context_names_the_rooms_once_they_are_more_than_the_first():
    rooms, _ = make_rooms()
    client = make_client(1)
    rooms.add(client)
    rooms.join(client, "lobby")
    assert client.context == b'{"client_id":"c1","room_id":"lobby","metadata":{}}'
    rooms.join(client, "kitchen")
    assert client.context == b'{"client_id":"c1","room_id":"lobby","rooms":["lobby","kitchen"],"metadata":{}}'
    client.metadata = b'{"a":1}'
    rooms.leave(client, "kitchen")
    assert client.context == b'{"client_id":"c1","room_id":"lobby","metadata":{"a":1}}'


def test_the_context_of_a_client_in_many_rooms():
    rooms, told = make_rooms()
    client = make_client(1)
    rooms.add(client)
    names = [f"room {number}" for number in range(1000)]
    for name in names:
        assert rooms.join(client, name)
    assert json.loads(client.context)["rooms"] == names
    assert not client.small, "what is big is not kept twice"
    assert client.held_bytes > 1000 * 200
    rooms.remove(client)
    assert client.rooms == tuple(names), "for its last event"
    assert json.loads(client.context)["rooms"] == names
    assert told == [f"+{name}" for name in names] + [f"-{name}" for name in names]
    assert rooms.room_count == 0


def test_what_a_client_holds_is_told():
    rooms, _ = make_rooms()
    client = make_client(1)
    rooms.add(client)
    rooms.join(client, "lobby")
    assert client.held_bytes < 50
    client.metadata = b'"%b"' % (b"x" * 1000)
    rooms.join(client, "y" * 5000)
    assert 6000 < client.held_bytes < 8000
    assert 6000 < len(client.context) <= client.context_size <= len(client.context) + 1
    assert 6000 < client.held_bytes < 8000
    rooms.leave(client, "y" * 5000)
    client.metadata = b"{}"
    assert client.held_bytes < 50


def test_leaving_a_room_one_is_not_in_changes_nothing():
    rooms, told = make_rooms()
    client = make_client(1)
    rooms.add(client)
    assert not rooms.leave(client, "lobby")
    assert told == []


@given(st.lists(st.tuples(st.sampled_from(["join", "leave", "remove"]), st.integers(0, 3), st.sampled_from("xyz"))))
def test_any_sequence_agrees_with_a_plain_model(steps):
    rooms, told = make_rooms()
    clients = [make_client(number) for number in range(4)]
    model: dict[int, set[str]] = {}
    for step, number, room in steps:
        client = clients[number]
        if step == "remove":
            if number in model:
                rooms.remove(client)
                clients[number] = make_client(number)  # one that is gone never comes back
                del model[number]
            continue
        if number not in model:
            rooms.add(client)
            model[number] = set()
        if step == "join":
            assert rooms.join(client, room) == (room not in model[number])
            model[number].add(room)
        else:
            assert rooms.leave(client, room) == (room in model[number])
            model[number].discard(room)
    for room in "xyz":
        inside = {clients[number].ws for number, of in model.items() if room in of}
        assert set(rooms.members(room)) == inside
        changes = [change[0] for change in told if change[1:] == room]
        assert changes == (["+", "-"] * len(changes))[: len(changes)]
        assert bool(inside) == (len(changes) % 2 == 1)
    assert len(rooms) == len(rooms.sockets) == len(model)
