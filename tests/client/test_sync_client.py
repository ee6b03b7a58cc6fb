import asyncio
import functools
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pystrands import AsyncPyStrandsClient, ConfigError, MessageTooBig, PyStrandsClient
from tests.client.fake_broker import PATIENCE, BrokerThread, context, line, message, request
from tests.client.test_async_client import free_port
from tests.inside import running_of


class Echo(PyStrandsClient):
    def on_message(self, message, context):
        assert self.send_room_message(context.room_id, f"echo: {message}") is True


class Gated(PyStrandsClient):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.seen = []

    def on_message(self, message, context):
        self.started.release()
        if message == "wait":
            assert self.gate.wait(PATIENCE)
        self.seen.append((context.client_id, message))
        self.broadcast_message(message)


def test_echo_and_disconnect(broker_thread):
    client = Echo(**broker_thread.where)
    assert client.connect() is True
    assert client.connect() is True
    assert client.connected
    connection = broker_thread.link()
    broker_thread.run(connection.send(message("hi") + request()))
    commands = [broker_thread.run(connection.receive()) for _ in range(2)]
    assert {command["action"] for command in commands} == {"response", "message_to_room"}
    client.disconnect(timeout=1000)  # returns when there is nothing to wait for
    client.disconnect()
    assert not client.connected
    assert client.send_private_message("c", "x") is False


def test_all_callbacks(broker_thread):
    class All(PyStrandsClient):
        def on_connection_request(self, request):
            request.context.room_id = "here"
            return True

        def on_new_connection(self, context):
            self.broadcast_message("new")
            raise ValueError("boom")

        def on_disconnect(self, context):
            self.broadcast_message("gone")

        def on_error(self, error, context):
            self.broadcast_message(error)

    client = All(**broker_thread.where)
    client.connect()
    connection = broker_thread.link()
    broker_thread.run(connection.send(request()))
    assert broker_thread.run(connection.receive())["params"]["room_id"] == "here"
    broker_thread.run(connection.send(line("new_connection", {"context": context()})))
    broker_thread.run(connection.send(line("disconnected", {"context": context()})))
    assert broker_thread.run(connection.texts(3)) == ["new", "on_new_connection failed: ValueError: boom", "gone"]
    client.disconnect()


def test_default_callbacks(broker_thread, caplog):
    client = PyStrandsClient(**broker_thread.where)
    client.connect()
    connection = broker_thread.link()
    for action in ("new_connection", "disconnected", "error"):
        broker_thread.run(connection.send(line(action, {"context": context(), "error": "bad luck"})))
    broker_thread.run(connection.send(message("hi") + request()))
    assert broker_thread.run(connection.receive())["params"]["accepted"] is True
    client.disconnect()
    assert "bad luck" in caplog.text


@pytest.mark.parametrize("raised", [SystemExit, StopIteration])
def test_odd_exceptions_on_workers(broker_thread, raised, caplog):
    class Odd(Echo):
        def on_message(self, message, context):
            if message == "odd":
                raise raised
            super().on_message(message, context)

    client = Odd(**broker_thread.where)
    client.connect()
    connection = broker_thread.link()
    broker_thread.run(connection.send(message("odd") + message("fine")))
    assert broker_thread.run(connection.texts(1)) == ["echo: fine"]
    client.disconnect()
    assert raised.__name__ in caplog.text


class Awaitable:
    def __await__(self):
        yield


def undone(function):
    """A decorator that hides that a function is async def."""

    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    del wrapper.__wrapped__
    return wrapper


def test_a_decorated_async_callback_runs_on_its_thread(broker_thread, caplog):
    class Mixed(Echo):
        @undone
        async def on_connection_request(self, request):
            await asyncio.sleep(0)
            return request.url == "/good"

        @undone
        async def on_message(self, message, context):
            if message == "who":
                message = str(len(self.room_members(context.room_id)))
            super().on_message(message, context)

        def on_disconnect(self, context):
            return Awaitable()

        def on_error(self, error, context):
            self.broadcast_message(error)

    client = Mixed(**broker_thread.where)
    client.connect()
    connection = broker_thread.link()
    for url, accepted in (("/good", True), ("/bad", False)):
        broker_thread.run(connection.send(request(url=url)))
        assert broker_thread.run(connection.receive())["params"]["accepted"] is accepted
    broker_thread.run(connection.send(message("who") + message("hi", "c2")))
    commands = [broker_thread.run(connection.receive()) for _ in range(2)]
    asked, echoed = sorted(commands, key=lambda command: command["action"] != "room_members")
    assert echoed["params"]["message"] == "echo: hi"  # while the other one waits
    broker_thread.run(connection.send(line("result", {"members": [context("a"), context("b")]}, asked["request_id"])))
    assert broker_thread.run(connection.texts(1)) == ["echo: 2"]
    broker_thread.run(connection.send(line("disconnected", {"context": context()})))
    (error,) = broker_thread.run(connection.texts(1))
    assert error.startswith("on_disconnect failed: TypeError: on_disconnect returned a Awaitable, which nothing awaits")
    client.disconnect()
    assert len([each for each in caplog.records if "is async def under a decorator" in each.getMessage()]) == 1


def test_what_waits_raises_on_the_loop_that_it_would_wait_for(broker_thread):
    client = Echo(**broker_thread.where)
    client.connect()

    async def on_its_loop():
        calls: list[Any] = [
            lambda: client.room_members("r"),
            lambda: client.broadcast_message("x", confirm=True),
            client.connect,
            client.disconnect,
            client.run_forever,
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match="its own event loop"):
                call()
        return client.broadcast_message("x")

    assert running_of(client).bridge.call(on_its_loop) is True
    assert client.connected
    client.disconnect()


def test_connect_to_nobody():
    client = Echo("127.0.0.1", free_port())
    assert client.connect() is False
    assert not client.connected
    client.disconnect()


def test_threads_that_send_at_once_do_not_interleave():
    with BrokerThread(max_message_size=10**6) as broker:
        client = PyStrandsClient(**broker.where)
        client.connect()
        connection = broker.link()
        threads, each = 8, 300

        def pour(number):
            return [client.broadcast_message(f"{number} {n} " + str(number) * (n % 50 * 100)) for n in range(each)]

        with ThreadPoolExecutor(threads) as pool:
            poured = [pool.submit(pour, number) for number in range(threads)]
            texts = broker.run(connection.texts(threads * each))
            assert all(all(one.result()) for one in poured)
        for number in range(threads):
            own = [text.split(" ") for text in texts if text.startswith(f"{number} ")]
            assert [int(n) for _, n, _ in own] == list(range(each))
            assert all(set(rest) <= {str(number)} for _, _, rest in own)
        client.disconnect()


def test_send_blocks_under_backpressure_and_ends_with_the_link():
    with BrokerThread(max_message_size=10**6) as broker:
        client = PyStrandsClient(**broker.where, auto_reconnect=False)
        client.connect()
        connection = broker.link()
        broker.loop.call_soon_threadsafe(connection.pause)
        with ThreadPoolExecutor(1) as pool:

            def pour():
                while client.broadcast_message("x" * 900_000):
                    pass
                return "ended"

            pouring = pool.submit(pour)
            waiting = threading.Event()

            def look():
                life = running_of(client).core.lifetime
                if life is not None and life.connection.outgoing._waiting:
                    waiting.set()
                elif life is not None:
                    asyncio.get_running_loop().call_soon(look)

            running_of(client).bridge._mailbox.post(look)
            assert waiting.wait(PATIENCE)
            broker.loop.call_soon_threadsafe(connection.cut)
            assert pouring.result(PATIENCE) == "ended"
        client.disconnect()


def test_messages_that_cannot_be_sent(broker_thread):
    client = Echo(**broker_thread.where)
    client.connect()
    with pytest.raises(TypeError):
        client.broadcast_message(1)  # type: ignore[call-overload]
    with pytest.raises(MessageTooBig):
        client.broadcast_message("x" * 1001)
    client.disconnect()


def test_slow_handlers_delay_only_their_own_client_and_drain(broker_thread):
    client = Gated(**broker_thread.where)
    client.connect()
    connection = broker_thread.link()
    broker_thread.run(connection.send(message("wait") + message("after") + message("quick", "c2")))
    assert broker_thread.run(connection.texts(1)) == ["quick"]
    leaving = [threading.Thread(target=client.disconnect) for _ in range(3)]
    for thread in leaving:
        thread.start()
    client.gate.set()
    assert [one["params"]["message"] for one in broker_thread.run(connection.rest())] == ["wait", "after"]
    for thread in leaving:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_at_most_max_workers_handlers_run(broker_thread):
    client = Gated(**broker_thread.where, max_workers=2)
    assert client.max_concurrency == 2
    client.connect()
    connection = broker_thread.link()
    broker_thread.run(connection.send(b"".join(message("wait", f"c{n}") for n in range(5))))
    for _ in range(2):
        assert client.started.acquire(timeout=PATIENCE)
    assert running_of(client).core.lifetime.dispatcher.slots.running == 2
    client.gate.set()
    assert broker_thread.run(connection.texts(5)) == ["wait"] * 5
    client.disconnect()


def test_past_the_timeout_handlers_are_left_to_themselves(broker_thread):
    client = Gated(**broker_thread.where)
    client.connect()
    connection = broker_thread.link()
    broker_thread.run(connection.send(message("wait")))
    assert client.started.acquire(timeout=PATIENCE)
    client.disconnect(timeout=0)
    assert broker_thread.run(connection.rest()) == []
    client.gate.set()


def test_disconnect_inside_a_handler_ends_run_forever(broker_thread):
    class Leaver(PyStrandsClient):
        def on_message(self, message, context):
            self.disconnect()
            self.broadcast_message("bye")

    client = Leaver(**broker_thread.where)
    running = threading.Thread(target=client.run_forever)
    running.start()
    connection = broker_thread.link()
    broker_thread.run(connection.send(message("x")))
    assert [one["params"]["message"] for one in broker_thread.run(connection.rest())] == ["bye"]
    running.join(PATIENCE)
    assert not running.is_alive()


def test_run_forever_retries_and_disconnect_ends_it():
    port = free_port()
    client = Echo("127.0.0.1", port, reconnect_delay=0.01, max_reconnect_delay=0.01)
    running = threading.Thread(target=client.run_forever)
    running.start()
    with BrokerThread() as broker:
        broker.run(broker.broker.stop())
        broker.broker.port = port
        broker.run(broker.broker.start())
        broker.link()
        client.disconnect()
        running.join(PATIENCE)
        assert not running.is_alive()


def test_may_connect_again(broker_thread):
    client = Echo(**broker_thread.where)
    for _ in range(3):
        assert client.connect()
        connection = broker_thread.link()
        broker_thread.run(connection.send(message("x")))
        assert broker_thread.run(connection.texts(1)) == ["echo: x"]
        client.disconnect()


def test_async_callbacks_are_refused():
    class Wrong(PyStrandsClient):
        async def on_message(self, message, context):  # type: ignore[override]
            pass

    with pytest.raises(TypeError, match=r"Wrong.on_message is async def.*AsyncPyStrandsClient"):
        Wrong()


def test_options():
    with pytest.raises(ConfigError, match="max_workers"):
        PyStrandsClient(max_workers=0)
    with pytest.raises(ConfigError, match="port"):
        PyStrandsClient(port=0)


def test_the_same_surface_as_the_asynchronous_client():
    def public(kind):
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(PyStrandsClient) - {"max_workers"} == public(AsyncPyStrandsClient)


SCRIPT = """
import sys, threading
from pystrands import PyStrandsClient
class Client(PyStrandsClient):
    def on_message(self, message, context):
        self.broadcast_message("started")
        if message == "block":
            threading.Event().wait()
client = Client("127.0.0.1", int(sys.argv[1]))
"""


def run_script(broker, code):
    return subprocess.Popen([sys.executable, "-c", SCRIPT + code, str(broker.address[1])], stderr=subprocess.PIPE)


def test_exit_with_a_connected_client_and_a_handler_that_never_ends(broker_thread):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT + "client.connect(); sys.stdin.read()", str(broker_thread.address[1])],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    connection = broker_thread.link()
    broker_thread.run(connection.send(message("block")))
    broker_thread.run(connection.receive())
    _, errors = process.communicate(b"", timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert b"Fatal" not in errors


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_run_forever(broker_thread):
    process = run_script(broker_thread, "client.run_forever(); print('after', client.connected, file=sys.stderr)")
    connection = broker_thread.link()
    process.send_signal(signal.SIGINT)
    assert broker_thread.run(connection.rest()) == []
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert b"after False" in errors
    assert b"Traceback" not in errors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_is_not_connected(broker_thread):
    code = """
import os
client.connect()
child = os.fork()
if not child:
    ok = not client.connected and client.broadcast_message("x") is False
    client.disconnect()
    ok = ok and client.connect() and client.broadcast_message("child")
    client.disconnect()
    os._exit(0 if ok else 1)
_, status = os.waitpid(child, 0)
client.broadcast_message("parent")
client.disconnect()
sys.exit(os.waitstatus_to_exitcode(status))
"""
    process = run_script(broker_thread, code)
    parent, child = broker_thread.link(), broker_thread.link()
    assert [one["params"]["message"] for one in broker_thread.run(child.rest())] == ["child"]
    assert [one["params"]["message"] for one in broker_thread.run(parent.rest())] == ["parent"]
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
