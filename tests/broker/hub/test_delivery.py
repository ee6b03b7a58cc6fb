from collections import Counter
from typing import Any

import pytest

from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.client import ConnectedClient
from pystrands.broker.hub.delivery import Delivery
from pystrands.broker.hub.rooms import Rooms
from pystrands.engine.publication import Audience, Publication
from tests.broker.doubles import FakeWebSocket
from tests.broker.fanout.test_outbox import Loop
from tests.broker.ws.support import Echo


class Id(str):
    """Counts how often ids are compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other):
        Id.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def rooms(loop):
    rooms = Rooms(Outbox(loop), lambda _: None, lambda _: None)
    for number in range(500):
        client = ConnectedClient(number, Id(f"c{number}"), "r", b"{}", FakeWebSocket(Echo()))
        client.ws.client = client
        rooms.add(client)
        rooms.join(client, "r" if number else "elsewhere")
    return rooms


def who_got_it(rooms) -> set[str]:
    return {ws.client.client_id for ws in rooms.sockets if ws.transport.written}


def test_who_is_left_out_costs_what_the_members_and_they_do(loop, rooms):
    delivery = Delivery(rooms, Outbox(loop), Counter())
    exclude = tuple(f"c{number}" for number in range(100, 1100))
    Id.compared = 0
    assert delivery.deliver(Publication(Audience.ROOM, "r", "x", exclude)) == (99, 99)
    assert Id.compared <= 1500
    loop.drain()
    assert who_got_it(rooms) == {f"c{number}" for number in range(1, 100)}


@pytest.mark.parametrize("exclude", [("nobody",), ("c0",), ("c7",), ("c7", "c7", "c0")])
def test_everybody_else_gets_it(loop, rooms, exclude: tuple[Any, ...]):
    delivery = Delivery(rooms, Outbox(loop), Counter())
    expected = {f"c{number}" for number in range(1, 500)} - set(exclude)
    assert delivery.deliver(Publication(Audience.ROOM, "r", "x", exclude)) == (len(expected), len(expected))
    loop.drain()
    assert who_got_it(rooms) == expected
