"""How often a client's context is encoded: here, since in compiled code nobody can count the calls."""

import json

import pytest

from pystrands.protocol import wire
from tests.broker.doubles import make_client
from tests.broker.hub.test_rooms import make_rooms


@pytest.mark.interpreted
def test_a_context_is_encoded_when_it_is_needed_and_not_at_each_join(monkeypatch):
    encoded = []
    real = wire.context_json

    def counted(*args):
        encoded.append(args)
        return real(*args)

    monkeypatch.setattr(wire, "context_json", counted)
    rooms, _ = make_rooms()
    client = make_client(1)
    rooms.add(client)
    for number in range(1000):
        assert rooms.join(client, f"room {number}")
    assert not encoded
    assert len(json.loads(client.context)["rooms"]) == 1000
    assert len(encoded) == 1
