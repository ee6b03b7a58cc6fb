"""The chat backend's logic: what it answers to what, without a broker."""

import json

import pytest

from pystrands import ConnectionRequestContext, Context
from pystrands.demo import chat
from pystrands.demo.chat import LONGEST_NAME, LONGEST_TEXT, ChatBackend, decode, encode, tidy, unused


class Recorder(ChatBackend):
    """The chat with its ways out replaced by a list."""

    def __init__(self):
        super().__init__()
        self.sent = []
        self.here = {}

    async def room_members(self, room_id, *, partial=False, timeout=10.0):
        return [each for each in self.here.values() if each.room_id == room_id]

    async def update_metadata(self, client_id, metadata, *, timeout=10.0):
        self.here[client_id].metadata.update(metadata)
        return True

    async def send_private_message(self, client_id, message, **options):
        self.sent.append((client_id, json.loads(message)))
        return True

    async def send_room_message(self, room_id, message, **options):
        self.sent.append(("#" + room_id, json.loads(message)))
        return True

    def take(self):
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
def backend(monkeypatch):
    monkeypatch.setattr(chat, "now", lambda: 1000)
    return Recorder()


async def enter(backend, client_id, url):
    request = ConnectionRequestContext(url=url)
    request.context.client_id = client_id
    assert await backend.on_connection_request(request) is True
    backend.here[client_id] = Context(client_id, request.context.room_id, dict(request.context.metadata))
    await backend.on_new_connection(request.context)
    return request.context


@pytest.mark.parametrize(
    ("url", "room", "name"),
    [
        ("/", "lobby", "Guest"),
        ("/tea?name=Ada", "tea", "Ada"),
        ("/caf%C3%A9%20au%20lait/?name=%20Grace%20%20Hopper%0A", "café au lait", "Grace Hopper"),
        ("/%20?name=%00", "lobby", "Guest"),
        ("/a/b?name=" + "x" * 99, "a/b", "x" * LONGEST_NAME),
    ],
)
async def test_the_path_is_the_room_and_the_query_the_name(backend, url, room, name):
    request = ConnectionRequestContext(url=url)
    assert await backend.on_connection_request(request) is True
    assert request.context.room_id == room
    assert request.context.metadata == {"name": name}


async def test_who_comes_hears_who_is_here_and_the_room_hears_who_came(backend):
    await enter(backend, "1", "/tea?name=Ada")
    backend.take()
    await enter(backend, "2", "/tea?name=Grace")
    assert backend.take() == [
        (
            "2",
            {
                "kind": "roster",
                "you": "2",
                "room": "tea",
                "members": [{"id": "1", "name": "Ada"}, {"id": "2", "name": "Grace"}],
            },
        ),
        ("#tea", {"kind": "joined", "id": "2", "name": "Grace", "at": 1000}),
    ]


async def test_rooms_do_not_hear_each_other_and_names_are_unique_in_each(backend):
    await enter(backend, "1", "/tea?name=Ada")
    await enter(backend, "2", "/tea?name=Ada")
    await enter(backend, "3", "/milk?name=Ada")
    assert [each.metadata["name"] for each in backend.here.values()] == ["Ada", "Ada 2", "Ada"]


async def test_a_message_goes_to_the_room(backend):
    ada = await enter(backend, "1", "/tea?name=Ada")
    backend.take()
    await backend.on_message('{"kind": "message", "text": " <b>Hi</b> "}', ada)
    said = {"kind": "message", "id": "1", "name": "Ada", "text": "<b>Hi</b>", "at": 1000}
    assert backend.take() == [("#tea", said)]


@pytest.mark.parametrize(
    "message",
    [
        "hello",
        "[]",
        "7",
        '{"kind": "message"}',
        '{"kind": "message", "text": "  "}',
        '{"kind": "message", "text": 7}',
        '{"kind": "shout", "text": "hi"}',
        encode("message", text="x" * (LONGEST_TEXT + 1)),
        b"\xff",
    ],
)
async def test_what_is_no_message_is_answered_to_its_sender_only(backend, message):
    ada = await enter(backend, "1", "/tea?name=Ada")
    backend.take()
    await backend.on_message(message, ada)
    ((whom, answer),) = backend.take()
    assert whom == "1"
    assert answer["kind"] == "problem"


async def test_the_room_hears_who_went(backend):
    ada = await enter(backend, "1", "/tea?name=Ada")
    grace = await enter(backend, "2", "/tea?name=Ada")
    backend.take()
    await backend.on_message('{"kind": "message", "text": "on its way before the new name was"}', grace)
    assert backend.take()[0][1]["name"] == "Ada 2"
    await backend.on_disconnect(grace)
    assert backend.take() == [("#tea", {"kind": "left", "id": "2", "name": "Ada 2", "at": 1000})]
    await backend.on_disconnect(ada)
    assert backend.take()[0][1]["name"] == "Ada"
    assert not backend.renamed


async def test_clients_of_another_backend_are_known_by_their_metadata(backend):
    stranger = Context(client_id="9", room_id="tea", metadata={"name": "Ada"})
    await backend.on_message('{"kind": "message", "text": "still here"}', stranger)
    assert backend.take()[0][1]["name"] == "Ada"
    await backend.on_disconnect(stranger)
    assert backend.take()[0][1]["name"] == "Ada"


def test_small_helpers():
    assert decode(encode("message", text="grüße")) == "grüße"
    assert "ü" in encode("message", text="grüße")
    assert tidy("\u202eevil\t name\u200b ") == "evil name"
    assert unused("Ada", {"Ada", "Ada 2"}) == "Ada 3"
    assert chat.now() > 1_700_000_000_000
