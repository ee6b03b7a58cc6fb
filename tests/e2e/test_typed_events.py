"""Handlers of kinds of events, and values sent as JSON."""

import asyncio
import contextlib
import json

import pytest

from pystrands import AsyncPyStrandsClient, EventError, PyStrands, PyStrandsClient, RequestFailed, testing
from pystrands.events import as_json
from tests.kinds import Author, Say, Typing

from .session_client import SessionClient


@contextlib.asynccontextmanager
async def running(app):
    async with testing.broker() as broker:
        app.port = broker.tcp_port
        task = asyncio.create_task(app.run_async())
        try:
            yield broker
        finally:
            await app.disconnect()
            await task


async def test_events_go_to_the_handler_of_their_kind():
    app, seen = PyStrands(), []

    @app.on(Say)
    async def say(event, context):
        seen.append(event)
        await app.send_json(event, room_id=context.room_id)

    @app.on(Typing)
    def typing(event, context):
        seen.append(event)
        app.send_json({"typing": event.user}, client_id=context.client_id)

    @app.on_message
    async def on_message(message, context):
        seen.append(message)

    said = Say("hello", Author("ada"))
    async with running(app) as broker, SessionClient(broker) as client:
        client.send(as_json(said))
        client.send(as_json(Typing(user="bob")))
        assert await client.done(client.send("anything else")) == ""
        await testing.until(lambda: len(client.messages) == 2)
        assert client.messages == [as_json(said), '{"typing":"bob"}']
    assert seen == [said, Typing(user="bob"), "anything else"]
    assert app.events.kinds == (Say, Typing)


async def test_what_a_handler_of_a_kind_returns_is_the_reply():
    app, errors = PyStrands(), []

    @app.on(Say)
    def say(event, context):
        return Author(event.text) if event.text != "model" else Typing(user="x")

    @app.on_error
    def on_error(error, context):
        errors.append((error, type(context.exception)))

    async with running(app) as broker, SessionClient(broker) as client:
        assert json.loads(await client.request(as_json(Say("ada", Author("x"))))) == {"name": "ada", "age": None}
        assert json.loads(await client.request(as_json(Say("model", Author("x")))))["user"] == "x"
        for message in ("no event", '{"type":"say"}', '{"type":"other"}'):
            with pytest.raises(RequestFailed, match=r"^bad_event: the message is no "):
                await client.request(message)
        assert errors == []
        client.send('{"type":"say"}')
        client.send("no event")
        await testing.until(lambda: len(errors) == 2)
    assert [kind for _, kind in errors] == [EventError, EventError]
    assert "no 'say' as it must be" in errors[0][0]
    assert "no event that has a handler" in errors[1][0]


async def test_requests_that_are_no_events_have_their_own_handler():
    app = PyStrands()

    @app.on(Say)
    async def say(event, context):
        return "said"

    @app.on_request
    async def on_request(message, context):
        return f"other {message}"

    async with running(app) as broker, SessionClient(broker) as client:
        assert await client.request(as_json(Say("x", Author("y")))) == "said"
        assert await client.request("z") == "other z"


def test_a_handler_is_registered_once_and_takes_two_arguments():
    app = PyStrands()
    app.on(Say)(lambda event, context: None)
    with pytest.raises(ValueError, match="the same type, 'say'"):
        app.on(Say)(lambda event, context: None)
    with pytest.raises(TypeError, match="2 arguments"):
        app.on(Typing)(lambda event: None)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="a msgspec Struct or a pydantic model"):
        app.on(str)(lambda event, context: None)


async def test_all_clients_send_values_as_json():
    class Users(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            request.context.client_id = "ada"
            return request.accept(user="u")

    async with testing.broker() as broker, testing.backend(broker, Users) as backend:
        async with testing.connect(broker, "/room") as client:
            assert await backend.send_json(Typing(user="x"), client_id="ada") is True
            assert await backend.send_json([1], user="u", timeout=1.0) is True
            assert await backend.send_json({"a": 1}, room_id="/room") is True
            for expected in ({"type": "typing", "user": "x", "since": None}, [1], {"a": 1}):
                assert await client.receive_json() == expected
            threaded = PyStrandsClient(port=broker.tcp_port, send_only=True)
            assert await asyncio.to_thread(threaded.connect)
            assert await asyncio.to_thread(lambda: threaded.send_json({"b": 2}, client_id="ada")) is True
            assert await client.receive_json() == {"b": 2}
            await asyncio.to_thread(threaded.disconnect)


@pytest.mark.parametrize("to", [{}, {"room_id": "a", "user": "b"}, {"client_id": 7}])
async def test_a_value_has_one_recipient(to):
    with pytest.raises(TypeError):
        await AsyncPyStrandsClient().send_json({}, **to)
    with pytest.raises(TypeError):
        PyStrandsClient().send_json({}, **to)
