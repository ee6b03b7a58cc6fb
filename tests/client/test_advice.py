"""What the first mistakes are answered with."""

import logging
import time

import pytest

from pystrands import AsyncPyStrandsClient, MessageError, PyStrands, PyStrandsClient, environment, testing
from pystrands.client import commands
from pystrands.environment import unknown_variables

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture(autouse=True)
def read_again(monkeypatch):
    monkeypatch.setattr(environment, "_told", False)


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def handler(self, *args):
    pass


@pytest.mark.parametrize("base", [AsyncPyStrandsClient, PyStrandsClient])
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("on_messages", "on_message"),
        ("on_mesage", "on_message"),
        ("onMessage", "on_message"),
        ("onConnectionRequest", "on_connection_request"),
        ("on_connection", "on_new_connection"),
        ("on_connect", "on_new_connection"),
        ("on_open", "on_new_connection"),
        ("on_close", "on_disconnect"),
        ("on_disconnected", "on_disconnect"),
        ("on_errors", "on_error"),
    ],
)
def test_a_name_that_is_almost_a_callbacks(base, written, meant, caplog):
    kind = type("Chat", (type("Mixin", (), {written: handler}), base), {})
    for _ in range(2):
        kind()
    assert told(caplog) == [f"Chat.{written} is no callback of PyStrands: did you mean {meant}?"]


@pytest.mark.parametrize("base", [AsyncPyStrandsClient, PyStrandsClient])
def test_names_that_are_the_users_own(base, caplog):
    async def asynchronous(self, *args):
        pass

    callback = asynchronous if base is AsyncPyStrandsClient else handler
    own = {"on_tick": handler, "on_login": handler, "on_close": handler, "online": handler, "on_off": True}
    type("Game", (base,), {**own, "on_disconnect": callback, "on_message": callback})()
    base()
    assert told(caplog) == []


def yielding(self, *args):
    yield


async def yielding_async(self, *args):
    yield


@pytest.mark.parametrize(
    ("base", "function"),
    [(AsyncPyStrandsClient, yielding), (AsyncPyStrandsClient, yielding_async), (PyStrandsClient, yielding)],
)
def test_a_callback_with_a_yield(base, function, caplog):
    type("Chat", (base,), {"on_message": function})()
    assert told(caplog) == ["Chat.on_message has a yield in it, so calling it does nothing: callbacks return"]


def test_methods_where_functions_are_taken(caplog):
    type("Chat", (PyStrands,), {"on_message": handler, "on_messages": handler})()
    (line,) = told(caplog)
    assert line.startswith("Chat.on_message is never called: PyStrands takes functions, with @app.on_message")


async def test_a_plain_callback_that_holds_the_event_loop(caplog):
    class Chat(AsyncPyStrandsClient):
        def on_message(self, message, context):
            time.sleep(0.3)
            return self.send_private_message(context.client_id, message) if message == "last" else None

        async def on_new_connection(self, context):
            time.sleep(0.3)  # noqa: ASYNC251 - asyncio's debug mode tells of these

    async with testing.broker() as broker, testing.backend(broker, Chat), testing.connect(broker) as client:
        for message in ("one", "two", "last"):
            await client.send(message)
        await client.expect("last")
    (line,) = told(caplog)
    assert line.startswith("on_message, a plain def, held the event loop for 0.")


SENDING = {"room_id": commands.room_message, "client_id": commands.private_message}


@pytest.fixture
def nothing_told_yet():
    commands._told_swapped.clear()
    yield
    commands._told_swapped.clear()


@pytest.mark.usefixtures("nothing_told_yet")
@pytest.mark.parametrize(("parameter", "send"), SENDING.items())
def test_an_id_that_is_json_where_the_message_should_be(parameter, send, caplog):
    for recipient, message in (
        ("lobby", '{"text": "hello"}'),
        ('{"id": 1}', '{"text": "hello"}'),  # somebody's way to name rooms
        ("{lobby}", "hello"),
        ("", "hello"),
        ("{\ud800}", "hello"),
    ):
        try:
            send(recipient, message, None)
        except MessageError:
            assert "\ud800" in recipient
    assert told(caplog) == []
    for _ in range(2):
        send('{"text": "hello"}', "lobby", None)
    assert told(caplog) == [
        f"""a message was sent with the {parameter} '{{"text": "hello"}}': are {parameter} and message swapped?"""
    ]


# ---- the environment


@pytest.mark.parametrize("kind", [AsyncPyStrandsClient, PyStrandsClient, PyStrands])
def test_a_variable_that_nothing_reads(kind, caplog, monkeypatch):
    monkeypatch.setenv("PYSTRANDS_TOKNE", "x")
    monkeypatch.setenv("PYSTRANDS_WS_PORT", "8080")  # the broker's
    for _ in range(2):
        kind()
    assert told(caplog) == ["nothing reads the environment variable PYSTRANDS_TOKNE: did you mean PYSTRANDS_TOKEN?"]


def test_which_variables_are_unknown():
    known = {"PYSTRANDS_TOKEN": "x", "PYSTRANDS_CONFIG": "x", "PYSTRANDS_BACKEND_TLS": "true", "PYSTRAND_WS_PORT": "1"}
    kubernetes = {
        "PYSTRANDS_PORT": "tcp://10.96.0.9:8081",
        "PYSTRANDS_SERVICE_HOST": "10.96.0.9",
        "PYSTRANDS_SERVICE_PORT": "8081",
        "PYSTRANDS_SERVICE_PORT_TCP": "8081",
        "PYSTRANDS_PORT_8081_TCP": "tcp://10.96.0.9:8081",
        "PYSTRANDS_PORT_8081_TCP_ADDR": "10.96.0.9",
    }
    unknown = {"PYSTRANDS_PORT": "8081", "PYSTRANDS_QUEUE": "", "PYSTRANDS_WS_PROT": "8080"}
    assert unknown_variables({}) == []
    assert unknown_variables(known | kubernetes) == []
    assert unknown_variables(known | kubernetes | unknown) == [
        "nothing reads the environment variable PYSTRANDS_PORT: it has no effect",
        "nothing reads the environment variable PYSTRANDS_QUEUE: it has no effect",
        "nothing reads the environment variable PYSTRANDS_WS_PROT: did you mean PYSTRANDS_WS_PORT?",
    ]
