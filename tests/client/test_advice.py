"""What the first mistakes are answered with."""

import asyncio
import functools
import logging
import os
import re
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from pystrands import (
    AsyncPyStrandsClient,
    Context,
    MessageError,
    NotConnected,
    PyStrands,
    PyStrandsClient,
    environment,
    testing,
)
from pystrands.cli.main import SERVER_OPTIONS
from pystrands.cli.tools import TOOL_OPTIONS
from pystrands.client import requests
from pystrands.environment import unknown_variables
from tests.inside import limited

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


SENDING = {"room_id": requests.room_message, "client_id": requests.private_message}


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, database=None, **kwargs)

    return wrapper


def test_callbacks_that_cant_be_called_with_what_they_get(caplog):
    class Wrong:
        async def on_connection_request(self):
            pass

        async def on_message(self, message):
            pass

        async def on_new_connection(self, context, room):
            pass

        async def on_error(self, context, error):
            pass

    class Right:
        async def on_connection_request(self, request, *, strict=False):
            pass

        async def on_message(self, *args):
            pass

        async def on_disconnect(self, context, why="unknown"):
            pass

        @wrapped
        def on_error(self, error, context, database):
            pass

        on_new_connection = functools.partial(print, "in")
        on_client_adopted = staticmethod(print)

    type("Right", (Right, AsyncPyStrandsClient), {})()
    wrong = type("Wrong", (Wrong, AsyncPyStrandsClient), {})
    wrong()
    wrong()
    assert told(caplog) == [
        "Wrong.on_connection_request takes (self), and is called with (request): it will fail each time",
        "Wrong.on_message takes (self, message), and is called with (message, context): it will fail each time",
        "Wrong.on_new_connection takes (self, context, room), and is called with (context): it will fail each time",
        "Wrong.on_error takes (self, context, error), and is called the other way round: (error, context)",
    ]


class Misplacing(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        if request.url == "/request":
            request.room_id = "lobby"
        elif request.url == "/context":
            request.context.team = "ada"
        else:
            request.context.room_id = "lobby"
        return True


class Blocking(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        time.sleep(float(message))  # noqa: ASYNC251 - that is the mistake
        await self.send_private_message(context.client_id, "done")


async def test_an_async_handler_that_blocks_the_event_loop(caplog):
    with testing.broker_thread(resume_window=0.4) as broker:
        async with (
            testing.backend(broker, limited(Blocking(), stood_still=0.1)),
            testing.connect(broker, "/room") as one,
        ):
            for _ in range(2):
                await one.send("0.3")  # three heartbeats are due meanwhile
                await one.expect("done")
                await asyncio.sleep(0.15)  # and one now
    (text,) = (text for text in told(caplog) if text.startswith("nothing ran here for 0."))
    assert "a handler has blocked the event loop (time.sleep" in text


LOST = (
    "request.context.team, which no other callback gets: client_id, room_id, user and metadata are kept, so it could "
    "be request.context.metadata['team']"
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/request", ["request.room_id, which nothing reads: request.context.room_id is the client's"]),
        ("/context", [LOST]),
        ("/right", []),
    ],
)
async def test_attributes_that_are_lost(path, expected, caplog):
    async with testing.broker() as broker, testing.backend(broker, Misplacing):
        for _ in range(2):
            async with testing.connect(broker, path):
                pass
    assert told(caplog) == [f"on_connection_request set {each}; this is said once" for each in expected]


class Deciding(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        if request.url == "/text":
            return "yes"
        return request.reject("not you")


@pytest.mark.parametrize(
    ("path", "text", "traced"),
    [
        ("/text", "returned a value of type str, and the client is rejected: True lets a client in", False),
        ("/status", "an HTTP status as an int, not str; reason= takes the text", True),
    ],
)
async def test_a_traceback_is_shown_where_it_leads_to_the_users_code(path, text, traced, caplog):
    async with testing.broker() as broker, testing.backend(broker, Deciding):
        with pytest.raises(testing.Rejected):
            await testing.connect(broker, path).__aenter__()
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert text in str(record.exc_info[1])
    shown = logging.Formatter().format(record)
    assert ("Traceback" in shown, __file__ in shown) == (traced, traced)


async def test_arguments_of_a_wrong_type():
    backend: Any = AsyncPyStrandsClient()
    async with testing.broker() as broker, testing.backend(broker, backend):
        context = Context("ada", "lobby")
        for call, text in (
            (backend.send_private_message(context, "x"), "client_id must be a str, not Context: its client_id is one"),
            (backend.send_room_message(context, "x"), "room_id must be a str, not Context: its room_id is one"),
            (backend.broadcast_message("x", exclude=context), "exclude must be a str, not Context: its client_id is"),
            (backend.broadcast_message("x", exclude=[context]), "exclude must be a str, not Context: its client_id is"),
            (backend.broadcast_message("x", exclude=7), "exclude must be a str, not int$"),
            (backend.broadcast_message("x", confirm=True, timeout="5"), "timeout is a number of seconds, not str"),
            (backend.room_members("x", timeout="5"), "timeout is a number of seconds, not str"),
        ):
            with pytest.raises(TypeError, match=text):
                await call
        with pytest.raises(TimeoutError, match="the broker has not answered: waited for 0 s"):
            await backend.room_members("x", timeout=0)


async def test_before_the_first_connect(caplog):
    client = AsyncPyStrandsClient()
    assert not await client.broadcast_message("x")
    text = "not connected to the broker: neither connect() nor run was called yet"
    assert told(caplog) == [f"{text}: a message was not sent, and send returned False"]
    with pytest.raises(NotConnected, match=re.escape(text)):
        await client.room_members("x")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_nobody_listens(host, caplog):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        assert not await AsyncPyStrandsClient(host, sock.getsockname()[1]).connect()
    (text,) = told(caplog)
    assert text.endswith("Connection refused; does the broker (pystrands server) run there?")


@pytest.fixture
def nothing_told_yet():
    requests._told_swapped.clear()
    yield
    requests._told_swapped.clear()


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


def test_the_name_of_a_variable_forges_no_line():
    (told_of,) = unknown_variables({"PYSTRANDS_X\nERROR:root:forged\x1b[31m": "1"})
    assert told_of.isprintable()
    assert r"PYSTRANDS_X\nERROR:root:forged\x1b[31m" in told_of


def test_the_variable_of_every_option_is_known():
    names = {option.env.removeprefix(environment.PREFIX) for option in (*SERVER_OPTIONS, *TOOL_OPTIONS)}
    assert names == environment.OPTIONS, "write them down in environment.py"


def test_looking_at_them_does_not_import_the_broker():
    code = (
        "import logging, sys; from pystrands.environment import warn_of_unknown_variables as warn;"
        "warn(logging.getLogger()); print(*(name for name in sys.modules if name.startswith('pystrands.broker')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYSTRANDS_WS_PROT": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert (done.stdout.split(), "did you mean PYSTRANDS_WS_PORT" in done.stderr) == ([], True)


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
