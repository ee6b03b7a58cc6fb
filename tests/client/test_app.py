import asyncio
import functools
import os
import signal
import subprocess
import sys
import threading

import pytest

from pystrands import ConfigError, NotConnected, PyStrands
from tests.client.fake_broker import PATIENCE, context, line, message, request, soon
from tests.inside import bridge_of


def plain(result: object) -> object:
    """What was called, not awaited, gives its result; the type is that of both."""
    return result


async def test_async_and_plain_handlers(broker):
    app = PyStrands(**broker.where)
    loop_thread = threading.get_ident()

    @app.on_connection_request
    def door(request):
        request.context.metadata = {"plain": threading.get_ident() != loop_thread}

    @app.on_message
    async def echo(message, context):
        assert threading.get_ident() == loop_thread
        assert await app.send_room_message(context.room_id, f"echo: {message}") is True

    @app.on_new_connection
    def welcome(context):
        assert plain(app.send_private_message(context.client_id, "welcome")) is True
        assert plain(app.broadcast("all")) is True

    @app.on_disconnect
    @functools.wraps(echo)
    def wrapped(context):  # returns a coroutine, as a decorator's wrapper may
        return gone()

    async def gone():
        await app.broadcast_message("gone")

    running = asyncio.create_task(app.run_async())
    connection = await broker.link()
    await connection.send(request())
    assert (await connection.receive())["params"]["metadata"] == {"plain": True}
    await connection.send(line("new_connection", {"context": context()}))
    assert await connection.texts(2) == ["welcome", "all"]
    await connection.send(message("hi"))
    assert await connection.texts(1) == ["echo: hi"]
    await connection.send(line("disconnected", {"context": context()}))
    assert await connection.texts(1) == ["gone"]
    assert app.connected
    with pytest.raises(RuntimeError, match="runs already"):
        await app.run_async()
    await app.disconnect()
    await soon(running)
    assert not app.connected


async def test_events_without_a_handler(broker, caplog):
    app = PyStrands(**broker.where)
    running = asyncio.create_task(app.run_async())
    connection = await broker.link()
    await connection.send(message("x") + line("error", {"error": "bad luck"}) + request())
    assert (await connection.receive())["params"]["accepted"] is True
    await app.disconnect()
    await soon(running)
    assert "bad luck" in caplog.text


async def test_sending_when_not_running():
    app = PyStrands()
    assert await app.broadcast("x") is False
    assert plain(await asyncio.to_thread(app.broadcast, "x")) is False
    assert await asyncio.to_thread(app.disconnect) is None
    await app.disconnect()


ASKING = {
    "join_room": lambda app: app.join_room("a", "b"),
    "leave_room": lambda app: app.leave_room("a", "b"),
    "room_members": lambda app: app.room_members("b"),
    "disconnect_client": lambda app: app.disconnect_client("a"),
    "update_metadata": lambda app: app.update_metadata("a", {}),
    "room confirm": lambda app: app.send_room_message("b", "x", confirm=True),
    "private confirm": lambda app: app.send_private_message("b", "x", confirm=True),
    "broadcast confirm": lambda app: app.broadcast("x", confirm=True),
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
async def test_asking_when_not_running(ask):
    app = PyStrands()
    with pytest.raises(NotConnected):
        await ask(app)
    with pytest.raises(NotConnected):
        await asyncio.to_thread(ask, app)


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
async def test_asking_at_the_end(ask, broker):
    app = PyStrands(**broker.where)
    running = asyncio.create_task(app.run_async())
    await broker.link()
    bridge_of(app).close()  # as when the app ends between the look and the call

    async def elsewhere():
        with pytest.raises(NotConnected):
            await ask(app)
        assert await app.broadcast("x") is False
        await app.disconnect()

    with pytest.raises(NotConnected):
        await asyncio.to_thread(ask, app)
    assert await asyncio.to_thread(app.disconnect) is None
    await asyncio.to_thread(asyncio.run, elsewhere())
    await app.disconnect()
    await soon(running)


async def test_on_error_and_other_callables(broker):
    app = PyStrands(**broker.where)

    class Handler:
        async def __call__(self, message, context):
            raise ValueError("boom")

    app.on_message(Handler())

    @app.on_error
    async def failed(error, context):
        await app.broadcast(error)

    running = asyncio.create_task(app.run_async())
    connection = await broker.link()
    await connection.send(message("x"))
    assert await connection.texts(1) == ["on_message failed: ValueError: boom"]
    await app.disconnect()
    await soon(running)


def test_from_other_loops_and_threads(broker_thread):
    app = PyStrands(**broker_thread.where)

    @app.on_message
    def stop(message, context):
        app.broadcast("stopping")
        app.disconnect()

    running = threading.Thread(target=app.run)
    running.start()
    connection = broker_thread.link()
    assert plain(app.broadcast("thread")) is True

    async def elsewhere():
        return await app.broadcast("loop")

    assert asyncio.run(elsewhere()) is True
    assert broker_thread.run(connection.texts(2)) == ["thread", "loop"]
    broker_thread.run(connection.send(message("x")))
    assert broker_thread.run(connection.texts(1)) == ["stopping"]
    assert broker_thread.run(connection.rest()) == []
    running.join(PATIENCE)
    assert not running.is_alive()
    app.disconnect()


def test_registering():
    app = PyStrands()

    @app.on_message
    def first(message, context):
        pass

    assert callable(first)
    with pytest.raises(ValueError, match=r"on_message has a handler already: .*first"):
        app.on_message(first)
    with pytest.raises(TypeError, match="on_disconnect is called with 1 argument, which"):
        app.on_disconnect(first)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="without parentheses"):
        app.on_error(None)  # type: ignore[type-var]
    app.on_error(lambda *args: None)
    with pytest.raises(ConfigError, match="max_workers"):
        PyStrands(max_workers="many")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="port"):
        PyStrands(port=-1)


async def test_run_inside_a_loop_says_what_to_do():
    with pytest.raises(RuntimeError, match="run_async"):
        PyStrands().run()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_run(broker_thread, number):
    code = f"""
import sys
from pystrands import PyStrands
app = PyStrands("127.0.0.1", {broker_thread.address[1]})
app.run()
print("after", app.connected, file=sys.stderr)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, env=dict(os.environ))
    connection = broker_thread.link()
    process.send_signal(number)
    assert broker_thread.run(connection.rest()) == []
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors.strip()) == (0, b"after False")
