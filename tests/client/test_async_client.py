import asyncio
import base64
import gc
import logging
import socket
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pystrands import (
    AsyncPyStrandsClient,
    BinaryNotSupported,
    ConfigError,
    Context,
    MessageError,
    MessageTooBig,
    NotSupported,
)
from pystrands.client.handlers.dispatch import EAGER
from tests.client.conftest import LOOPS
from tests.client.fake_broker import FakeBroker, context, line, message, request, soon, until
from tests.inside import core_of, limited

QUICK: dict[str, Any] = {"reconnect_delay": 0.01, "max_reconnect_delay": 0.01}


class Echo(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        await self.send_room_message(context.room_id, f"echo: {message}")


class Recorder(AsyncPyStrandsClient):
    """Notes what it is told; a handler waits where a test has put an event."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = []
        self.gates = {}

    async def note(self, *call):
        self.calls.append(call)
        gate = self.gates.get(call)
        if gate is not None:
            await gate.wait()

    async def on_new_connection(self, context):
        await self.note("new", context.client_id)

    async def on_message(self, message, context):
        await self.note("message", context.client_id, message)

    async def on_disconnect(self, context):
        await self.note("gone", context.client_id)

    async def on_error(self, error, context):
        await self.note("error", context.client_id, error)


@asynccontextmanager
async def up(broker: FakeBroker, kind=Echo, **options):
    client = kind(**broker.where, **(QUICK | options))
    before = asyncio.all_tasks()
    assert await client.connect() is True
    connection = await broker.link()
    try:
        yield client, connection
    finally:
        await client.disconnect()
        assert not client.connected
        await until(lambda: {t for t in asyncio.all_tasks() - before if "pystrands" in t.get_name()} == set())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Writes:
    """A transport that notes what is written."""

    def __init__(self, transport):
        self.transport = transport
        self.writes = []

    def write(self, data):
        self.writes.append(data)
        self.transport.write(data)

    def __getattr__(self, name):
        return getattr(self.transport, name)


# --- life --------------------------------------------------------------------------------------------------------


async def test_connect_answers_hello_first(broker):
    async with up(broker, name="worker-7") as (client, connection):
        assert client.connected
        assert await client.connect() is True
        assert connection.hello["action"] == "hello"
        assert connection.hello["params"]["name"] == "worker-7"
        assert connection.hello["params"]["binary"] is True


async def test_connect_to_nobody_returns_false_and_does_not_retry():
    client = Echo("127.0.0.1", free_port(), **QUICK)
    assert await client.connect() is False
    assert not client.connected
    assert [task for task in asyncio.all_tasks() if "pystrands" in task.get_name()] == []
    await client.disconnect()


async def test_connect_to_a_broker_that_refuses(broker):
    broker.refuse = True
    client = Echo(**broker.where)
    assert await client.connect() is False


async def test_attempts_that_fail_leave_nothing_behind():
    client = Echo("127.0.0.1", free_port(), reconnect_delay=0)
    running = asyncio.create_task(client.run_forever())
    await until(lambda: core_of(client).lifetime)
    for _ in range(3):
        assert await client.connect() is False
    assert core_of(client).lifetime.connection._links == set()
    await client.disconnect()
    await soon(running)


async def test_connect_with_a_host_that_cannot_be_one():
    assert await Echo("x" * 70 + ".example").connect() is False


async def test_run_forever_retries_a_first_connect_that_fails():
    fake = FakeBroker()
    fake.port = free_port()
    client = Echo(**fake.where, **QUICK)
    running = asyncio.create_task(client.run_forever())
    await until(lambda: core_of(client).lifetime)
    assert not client.connected
    async with fake:
        connection = await fake.link()
        await connection.send(message("hi"))
        assert await connection.texts(1) == ["echo: hi"]
        await client.disconnect()
        await soon(running)


async def test_run_forever_without_auto_reconnect_returns(broker, caplog):
    client = Echo("127.0.0.1", free_port(), auto_reconnect=False)
    await soon(client.run_forever())
    client = Echo(**broker.where, auto_reconnect=False)
    running = asyncio.create_task(client.run_forever())
    (await broker.link()).cut()
    await soon(running)
    assert not client.connected
    assert "auto_reconnect is off" in caplog.text


async def test_run_forever_cancelled_disconnects(broker):
    client = Echo(**broker.where)
    running = asyncio.create_task(client.run_forever())
    connection = await broker.link()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(running)
    assert not client.connected
    assert await connection.rest() == []


async def test_connect_cancelled_leaves_nothing(old_broker):
    client = Echo(**old_broker.where)
    connecting = asyncio.create_task(client.connect())
    connection = await old_broker.link()
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    await until(lambda: core_of(client).lifetime is None)
    assert not client.connected
    await until(connection.reader.at_eof)


async def test_disconnect_ends_the_wait_for_a_reconnect():
    client = Echo("127.0.0.1", free_port(), reconnect_delay=1000, max_reconnect_delay=1000)
    running = asyncio.create_task(client.run_forever())
    await until(lambda: core_of(client).lifetime)
    await core_of(client).lifetime.connection.supervisor.attempt()
    await client.disconnect()
    await soon(running)


async def test_reconnects_and_a_pending_wait_is_cut_short_by_connect(broker):
    client = Echo(**broker.where, reconnect_delay=1000, max_reconnect_delay=1000)
    await client.connect()
    (await broker.link()).cut()
    await until(lambda: not client.connected)
    assert await soon(client.connect()) is True
    connection = await broker.link()
    await connection.send(message("again"))
    assert await connection.texts(1) == ["echo: again"]
    await client.disconnect()


async def test_may_connect_again_after_disconnect(broker):
    client = Echo(**broker.where)
    for _ in range(3):
        assert await client.connect() is True
        connection = await broker.link()
        await client.disconnect()
        await client.disconnect()
        assert await connection.rest() == []


def test_several_loops_one_after_the_other():
    client = Echo()

    async def once(*, clean):
        async with FakeBroker() as fake:
            client.host, client.port = fake.address
            assert await client.connect() is True
            connection = await fake.link()
            await connection.send(message("hi"))
            assert await connection.texts(1) == ["echo: hi"]
            if clean:
                await client.disconnect()

    asyncio.run(once(clean=True))
    asyncio.run(once(clean=False))  # asyncio.run cancels what is left
    assert not client.connected
    asyncio.run(once(clean=True))


async def test_connected_on_another_loop_is_an_error(broker):
    async with up(broker) as (client, _):
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, client.connect())


async def test_backoff_grows_while_the_broker_refuses(broker, monkeypatch):
    delays = []
    broker.refuse = True
    client = Echo(**broker.where, reconnect_delay=1, max_reconnect_delay=8)
    running = asyncio.create_task(client.run_forever())
    await until(lambda: core_of(client).lifetime)
    supervisor = core_of(client).lifetime.connection.supervisor

    async def pause(delay):
        delays.append(delay)
        await asyncio.sleep(0)

    monkeypatch.setattr(supervisor, "_pause", pause)
    await until(lambda: len(delays) >= 6)
    core_of(client).lifetime.connection.supervisor.stop()
    await client.disconnect()
    await soon(running)
    assert delays[0] <= 1
    assert 0.75 * 8 <= delays[4] <= 8


async def test_reconnect_delay_starts_over_after_a_useful_link(broker, monkeypatch):
    delays = []
    client = Echo(**broker.where, reconnect_delay=1, max_reconnect_delay=8)
    assert await client.connect()

    async def pause(delay):
        delays.append(delay)
        await asyncio.sleep(0)

    monkeypatch.setattr(core_of(client).lifetime.connection.supervisor, "_pause", pause)
    for _ in range(4):
        (await broker.link()).cut()
    await broker.link()
    await client.disconnect()
    assert all(delay <= 1 for delay in delays)
    assert len(delays) >= 4


# --- events ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [0, 1, 7])
async def test_echo_with_a_character_split_across_reads(broker, piece):
    async with up(broker) as (_, connection):
        await connection.send(message("grüße 🌍"), piece=piece)
        assert await connection.texts(1) == ["echo: grüße 🌍"]


async def test_half_a_line_at_the_end_is_discarded(broker):
    async with up(broker, Recorder) as (client, connection):
        await connection.send(message("one") + message("two")[:-1])
        connection.close()
        again = await broker.link()
        await again.send(message("three"))
        await until(lambda: len(client.calls) == 2)
        assert client.calls == [("message", "c1", "one"), ("message", "c1", "three")]


async def test_malformed_lines_and_unknown_actions_are_skipped(broker, caplog):
    async with up(broker) as (client, connection):
        bad = [b"{", b"\xff\xfe", b"[]", b'{"action":"new_message","request_id":"","params":{}}', b"null", b"7"]
        bad.append(line("new_message", {"message": "*", "binary": True, "context": context()}).strip())
        unknown = line("presence", {"who": 1}) + line("heartbeat")
        await connection.send(b"\n".join(bad) + b"\n" + unknown + message("hi"))
        assert await connection.texts(1) == ["echo: hi"]
        assert core_of(client).link.malformed == len(bad)
    assert "malformed line" in caplog.text


async def test_an_overlong_line_is_skipped(broker, caplog):
    async with up(broker) as (client, connection):
        core_of(client).link._splitter.max_line = 300
        await connection.send(message("x" * 400) + message("hi"))
        assert await connection.texts(1) == ["echo: hi"]
    assert "more than 300 bytes" in caplog.text


async def test_an_event_before_any_hello_is_handled(old_broker):
    old_broker.first = message("early")
    async with up(old_broker) as (_, connection):
        assert await connection.texts(1) == ["echo: early"]


async def test_a_late_hello_is_ignored(old_broker):
    async with up(old_broker) as (client, connection):
        await client.broadcast_message("x")
        await connection.send(line("hello", {"protocol": 1, "binary": True}) + message("hi"))
        assert await connection.texts(2) == ["x", "echo: hi"]
        assert not core_of(client).broker.said_hello


async def test_binary_both_ways(broker):
    class Mirror(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            assert message == b"\x00\xff"
            await self.send_private_message(context.client_id, message[::-1])

    async with up(broker, Mirror) as (_, connection):
        data = base64.b64encode(b"\x00\xff").decode()
        await connection.send(message(data, binary=True))
        command = await connection.receive()
        assert command["action"] == "message_to_connection"
        assert command["params"] == {"conn_id": "c1", "binary": True, "message": base64.b64encode(b"\xff\x00").decode()}


async def test_nested_metadata_is_unwrapped_for_the_original_broker_only(old_broker, broker):
    nested = {"accepted": True, "client_id": "c1", "room_id": "r1", "metadata": {"user": 7}}

    class Keep(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            self.metadata = context.metadata
            await self.broadcast_message("done")

    async with up(old_broker, Keep) as (client, connection):
        await connection.send(line("new_message", {"message": "x", "context": context(metadata=nested)}))
        await connection.receive()
        assert client.metadata == {"user": 7}
    async with up(broker, Keep) as (client, connection):
        await connection.send(line("new_message", {"message": "x", "context": context(metadata=nested)}))
        await connection.receive()
        assert client.metadata == nested


async def test_plain_callbacks_run_on_the_loop(broker):
    class Plain(AsyncPyStrandsClient):
        def on_connection_request(self, request):
            asyncio.get_running_loop()
            return False

    async with up(broker, Plain) as (_, connection):
        await connection.send(request())
        assert (await connection.receive())["params"] == {"accepted": False}


async def test_requests_are_answered(broker):
    class Door(AsyncPyStrandsClient):
        async def on_connection_request(self, request):
            asked = request.url.strip("/")
            request.context.metadata = {"via": asked}
            request.accepted = asked != "shut"
            return {"yes": True, "no": False}.get(asked)

        async def on_error(self, error, context):
            pass

    async with up(broker, Door) as (_, connection):
        for path, accepted in {"yes": True, "no": False, "open": True, "shut": False}.items():
            await connection.send(request(path, url=f"/{path}"))
            answer = await connection.receive()
            assert answer["action"] == "response"
            assert answer["request_id"] == path
            assert answer["params"]["accepted"] is accepted
            if accepted:
                assert answer["params"]["metadata"] == {"via": path}
                assert answer["params"]["room_id"] == f"/{path}"
                assert len(answer["params"]["client_id"]) == 36


class Particular(AsyncPyStrandsClient):
    async def on_connection_request(self, request):
        if request.url == "/plain":
            return True
        if request.url == "/user":
            return request.accept(user="ada", rooms=["a"])
        return request.reject(401, "no") if request.url == "/no" else request.accept(expires_at=1e10)


@pytest.mark.parametrize("path", ["/no", "/yes", "/user"])
async def test_what_the_original_broker_does_not_know_is_logged_once(old_broker, broker, caplog, path):
    async with up(old_broker, Particular) as (_, connection):
        for url, warnings in (("/plain", 0), (path, 1), (path, 1)):
            await connection.send(request(url=url))
            await connection.receive()
            assert caplog.text.count("the broker is the original one") == warnings
    caplog.clear()
    async with up(broker, Particular) as (_, connection):
        await connection.send(request(url=path))
        params = (await connection.receive())["params"]
        has_user = (params.get("user"), params.get("rooms")) == ("ada", ["a"])
        assert has_user or params.get("expires_at") == 1e10 or (params["status"], params["reason"]) == (401, "no")
        assert "the broker is the original one" not in caplog.text


async def test_the_original_broker_knows_no_users(old_broker):
    async with up(old_broker, AsyncPyStrandsClient) as (client, _):
        with pytest.raises(NotSupported, match="knows no users"):
            await client.send_user_message("ada", "x")
        with pytest.raises(NotSupported, match="can't do this"):
            await client.disconnect_user("ada")


async def test_a_request_whose_handler_fails_is_rejected(broker, caplog):
    class Door(Recorder):
        async def on_connection_request(self, request):
            if request.url == "/raise":
                raise LookupError("no such user")
            request.context.metadata = {"when": {1, 2}}
            return True

    async with up(broker, Door) as (client, connection):
        for path in ("/raise", "/metadata"):
            await connection.send(request(url=path))
            assert (await connection.receive())["params"] == {"accepted": False}
        await until(lambda: len(client.calls) == 2)
        assert "LookupError: no such user" in client.calls[0][2]
        assert "set" in client.calls[1][2]
    assert "on_connection_request put a set into request.context.metadata['when']" in caplog.text


async def test_an_answer_that_the_broker_would_not_take_is_a_rejection(broker):
    class Door(Recorder):
        async def on_connection_request(self, request):
            request.context.metadata = "x" * 1000

    broker.hello_params["max_line"] = 500
    async with up(broker, Door) as (client, connection):
        await connection.send(request())
        assert (await connection.receive())["params"] == {"accepted": False}
        await until(lambda: client.calls)
        assert "put less into request.context.metadata" in client.calls[0][2]


async def test_default_callbacks(broker, caplog):
    caplog.set_level(logging.DEBUG)
    async with up(broker, AsyncPyStrandsClient) as (_, connection):
        about = {"context": context("c5"), "error": "bad luck"}
        for action in ("new_connection", "disconnected", "error"):
            await connection.send(line(action, about))
        await connection.send(message("hidden", "c5") + request())
        assert (await connection.receive())["params"]["accepted"] is True
    assert "client 'c5' is in" in caplog.text
    assert "client 'c5' is gone" in caplog.text
    assert "client 'c5': bad luck" in caplog.text
    assert "str from client 'c5': on_message is not overridden" in caplog.text
    assert "hidden" not in caplog.text


def test_the_end_of_asyncio_run_ends_handlers():
    ended = []

    class Stuck(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(message)

        async def on_error(self, error, context):
            await asyncio.Event().wait()

    async def main(*, lost):
        async with FakeBroker() as fake:
            client = Stuck(**fake.where, auto_reconnect=False)
            await client.connect()
            connection = await fake.link()
            await connection.send(message("1") + message("2", "c2"))
            await soon(started.wait())
            if lost:
                connection.cut()
                await until(lambda: not client.connected)

    for lost in (False, True):
        started = asyncio.Event()
        asyncio.run(main(lost=lost))
    assert sorted(ended) == ["1", "1", "2", "2"]


# --- order and concurrency ---------------------------------------------------------------------------------------


async def test_a_slow_handler_delays_only_its_own_client(broker):
    async with up(broker, Recorder) as (client, connection):
        gate = client.gates["message", "slow", "1"] = asyncio.Event()
        await connection.send(message("1", "slow") + message("2", "slow") + message("1", "quick"))
        await connection.send(message("2", "quick"))
        await until(lambda: len(client.calls) == 3)
        assert ("message", "slow", "2") not in client.calls
        gate.set()
        await until(lambda: len(client.calls) == 4)
        assert client.calls[-1] == ("message", "slow", "2")


async def test_at_most_max_concurrency_handlers_run(broker):
    async with up(broker, Recorder, max_concurrency=3) as (client, connection):
        gates = {f"c{n}": asyncio.Event() for n in range(6)}
        client.gates = {("message", name, "x"): gate for name, gate in gates.items()}
        await connection.send(b"".join(message("x", name) for name in gates) + line("heartbeat"))
        await until(lambda: len(client.calls) == 3)
        assert core_of(client).lifetime.dispatcher.slots.running == 3
        for gate in gates.values():
            gate.set()
        await until(lambda: len(client.calls) == 6)


async def test_many_clients_keep_their_order(broker):
    class Jitter(Recorder):
        async def on_message(self, message, context):
            if int(message) % 3 == 0:
                await asyncio.sleep(0)
            self.calls.append((context.client_id, int(message)))

    async with up(broker, Jitter) as (client, connection):
        await connection.send(b"".join(message(str(n), f"c{n % 7}") for n in range(2000)))
        await until(lambda: len(client.calls) == 2000)
        for one in range(7):
            seen = [n for name, n in client.calls if name == f"c{one}"]
            assert seen == sorted(seen)


# --- sending -----------------------------------------------------------------------------------------------------


async def test_send_methods_and_what_they_return(broker):
    async with up(broker) as (client, connection):
        assert await client.broadcast_message("b") is True
        assert await client.send_room_message("r", "m") is True
        assert await client.send_private_message("c", "p") is True
        assert [(await connection.receive())["action"] for _ in range(3)] == [
            "broadcast",
            "message_to_room",
            "message_to_connection",
        ]


async def test_send_when_not_connected_warns_once_per_outage(caplog):
    client = Echo()
    with caplog.at_level(logging.DEBUG):
        assert [await client.broadcast_message("x") for _ in range(3)] == [False] * 3
    assert [record.levelname for record in caplog.records if "not connected" in record.message] == [
        "WARNING",
        "DEBUG",
        "DEBUG",
    ]


async def test_messages_that_cannot_be_sent(broker, old_broker):
    async with up(broker) as (client, _):
        with pytest.raises(TypeError, match="dict"):
            await client.broadcast_message({"a": 1})
        with pytest.raises(TypeError, match="room_id"):
            await client.send_room_message(7, "x")
        with pytest.raises(TypeError, match="client_id"):
            await client.send_private_message(None, "x")
        with pytest.raises(MessageTooBig, match="1002 bytes and the broker takes 1000"):
            await client.broadcast_message("ü" * 501)
        with pytest.raises(MessageTooBig, match="1001 bytes"):
            await client.broadcast_message(b"x" * 1001)
        with pytest.raises(MessageError, match="UTF-8"):
            await client.send_room_message("r", "\ud800")
        assert await client.broadcast_message("ü" * 500) is True
    async with up(old_broker) as (client, _):
        with pytest.raises(BinaryNotSupported):
            await client.broadcast_message(b"x")
    with pytest.raises(TypeError):
        await client.broadcast_message(None)


async def test_send_waits_under_backpressure_and_goes_on(broker):
    broker.hello_params["max_message_size"] = 10**6
    async with up(broker) as (client, connection):
        connection.pause()
        taken = []

        async def pour():
            taken.extend([await client.broadcast_message(f"{n:06}" + "x" * 100_000) for n in range(200)])

        pouring = asyncio.create_task(pour())
        await until(lambda: core_of(client).lifetime.connection.outgoing._waiting)
        connection.resume()
        assert [text[:6] for text in await connection.texts(200)] == [f"{n:06}" for n in range(200)]
        await soon(pouring)
        assert taken == [True] * 200


async def test_send_that_waits_returns_false_when_the_link_is_lost(broker):
    broker.hello_params["max_message_size"] = 10**6
    async with up(broker) as (client, connection):
        connection.pause()

        async def pour():
            while await client.broadcast_message("x" * 900_000):
                pass

        pouring = asyncio.create_task(pour())
        await until(lambda: core_of(client).lifetime.connection.outgoing._waiting)
        connection.cut()
        await soon(pouring)
        await broker.link()


# --- handlers that fail ------------------------------------------------------------------------------------------


async def test_a_handler_that_raises_is_logged_and_told(broker, caplog):
    class Fails(Recorder):
        async def on_message(self, message, context):
            raise ValueError("boom")

        async def on_error(self, error, context):
            await super().on_error(error, context)
            raise ArithmeticError("on_error fails, too")

    async with up(broker, Fails) as (client, connection):
        await connection.send(message("x", "c9") + line("new_connection", {"context": context("c9")}))
        await until(lambda: len(client.calls) == 2)
        assert client.calls == [("error", "c9", "on_message failed: ValueError: boom"), ("new", "c9")]
        assert client.connected
    assert "on_message failed for client 'c9'" in caplog.text
    assert "on_error failed for client 'c9'" in caplog.text
    assert "Traceback" in caplog.text


async def test_errors_that_the_broker_tells_of(broker):
    async with up(broker, Recorder) as (client, connection):
        await connection.send(line("error", {"error": "too big", "context": context("c3")}))
        await connection.send(line("error", {"error": "general"}))
        await until(lambda: len(client.calls) == 2)
        assert client.calls == [("error", "c3", "too big"), ("error", "", "general")]


@pytest.mark.parametrize("how", ["raise", "cancel", "cancel and return", "future"])
async def test_a_handler_that_cancels_itself_harms_nobody(broker, how):
    class Cancels(Recorder):
        async def on_message(self, message, context):
            if message != "bad":
                await asyncio.sleep(0)
                await super().on_message(message, context)
            elif how == "raise":
                raise asyncio.CancelledError
            elif how == "future":
                future = asyncio.get_running_loop().create_future()
                future.cancel()
                await future
            else:
                asyncio.current_task().cancel()
                if how == "cancel":
                    await asyncio.sleep(0)

    async with up(broker, Cancels) as (client, connection):
        await connection.send(message("bad") + message("good") + message("bad", "c2") + message("good", "c2"))
        await until(lambda: sum(call[0] == "message" for call in client.calls) == 2)
        if how != "cancel and return":
            assert sum(call[0] == "error" for call in client.calls) == 2


async def test_timeouts_groups_and_tasks_work_inside_handlers(broker):
    class Modern(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            assert asyncio.current_task() is not None
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.Event().wait()
            async with asyncio.TaskGroup() as group:
                first = group.create_task(self.broadcast_message("1"))
                group.create_task(self.broadcast_message("2"))
            assert first.result()

    async with up(broker, Modern) as (_, connection):
        await connection.send(message("x") + message("x"))
        assert await connection.texts(4) == ["1", "2", "1", "2"]


# --- disconnect --------------------------------------------------------------------------------------------------


async def test_replies_sent_while_draining_are_delivered(broker):
    gate = asyncio.Event()

    class Slow(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            await gate.wait()
            assert await self.broadcast_message(message) is True

    async with up(broker, Slow) as (client, connection):
        await connection.send(message("1") + message("2") + message("3", "c2") + line("heartbeat"))
        await until(lambda: core_of(client).lifetime.dispatcher.slots.running == 2)
        leaving = [asyncio.create_task(client.disconnect()) for _ in range(2)]
        await until(lambda: not client.connected)
        await connection.send(message("too late", "c3"))
        gate.set()
        rest = await connection.rest()
        assert sorted(one["params"]["message"] for one in rest) == ["1", "2", "3"]
        connection.close()
        await soon(asyncio.gather(*leaving))
        assert await client.broadcast_message("x") is False


async def test_past_the_timeout_handlers_are_cancelled(broker, caplog):
    cancelled = []

    class Stuck(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(message)
                raise

    async with up(broker, Stuck) as (client, connection):
        await connection.send(message("1") + message("2") + message("3", "c2"))
        await until(lambda: core_of(client).lifetime.dispatcher.slots.running == 2)
        await soon(client.disconnect(timeout=0))
        assert sorted(cancelled) == ["1", "3"]
    assert "3 events were not handled in time" in caplog.text


async def test_a_handler_that_ignores_its_cancellation_is_left_behind(broker):
    gate, started = asyncio.Event(), asyncio.Event()

    class Stubborn(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            started.set()
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    continue

    async with up(broker, lambda **options: limited(Stubborn(**options), cancelled=0)) as (client, connection):
        await connection.send(message("1"))
        await soon(started.wait())
        await soon(client.disconnect(timeout=0))
        gate.set()


@pytest.mark.parametrize("wrapped", [False, True])
async def test_disconnect_inside_a_handler(broker, wrapped):
    after = asyncio.Event()

    class Leaver(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            if wrapped:
                await asyncio.gather(self.disconnect(), self.disconnect())
            else:
                await self.disconnect()
            assert not self.connected
            await self.broadcast_message(f"bye {message}")
            after.set()

    client = Leaver(**broker.where)
    running = asyncio.create_task(client.run_forever())
    connection = await broker.link()
    await connection.send(message("1") + message("2", "c2") + message("3"))
    rest = await connection.rest()
    connection.close()
    assert sorted(one["params"]["message"] for one in rest) == ["bye 1", "bye 2", "bye 3"]
    await soon(after.wait())
    await soon(running)


async def test_what_the_handlers_of_one_read_send_goes_out_in_one_write(broker):
    async with up(broker) as (client, connection):
        core_of(client).lifetime.dispatcher._slice_seconds = 60  # however slow this machine is
        link = core_of(client).link
        link._transport = spy = Writes(link._transport)
        link.data_received(b"".join(message(f"{n}", f"c{n % 3}") for n in range(9)))
        assert len(spy.writes) == (1 if EAGER else 0)  # with tasks that begin at once: before it goes back to the loop
        assert sorted(await connection.texts(9)) == [f"echo: {n}" for n in range(9)]
        assert len(spy.writes) == 1


async def test_disconnect_inside_a_handler_of_the_first_read(broker):
    class Leaver(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            await self.broadcast_message("bye")
            await self.disconnect()

    broker.says_hello = False
    broker.first = line("hello", broker.hello_params) + message("1")
    client = Leaver(**broker.where)
    running = asyncio.create_task(client.run_forever())
    connection = await broker.link()
    assert (await connection.receive())["action"] == "hello"
    assert [one["params"]["message"] for one in await connection.rest()] == ["bye"]
    connection.close()
    await soon(running)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize("factory", LOOPS)
def test_a_handler_may_end_the_program(factory, suspends, error):
    class Quitter(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            if suspends:
                await asyncio.sleep(0)
            raise error

    async def main():
        async with FakeBroker() as broker, up(broker, Quitter) as (_, connection):
            await connection.send(message("1"))
            await soon(asyncio.Event().wait())

    with pytest.raises(error), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    gc.collect()  # asyncio tells of the task that nobody has asked: now, not in the midst of something else


async def test_disconnect_with_a_broker_that_never_closes(broker):
    async with up(broker, lambda **options: limited(Echo(**options), linger=0)) as (client, connection):
        connection.pause()
        await client.broadcast_message("x")
        await soon(client.disconnect())


async def test_disconnect_that_is_cancelled_goes_on(broker):
    gate = asyncio.Event()

    class Slow(AsyncPyStrandsClient):
        async def on_message(self, message, context):
            await gate.wait()
            await self.broadcast_message("done")

    async with up(broker, Slow) as (client, connection):
        await connection.send(message("1"))
        await until(lambda: core_of(client).lifetime.dispatcher.slots.running)
        leaving = asyncio.create_task(client.disconnect())
        await until(lambda: not client.connected)
        leaving.cancel()
        await asyncio.wait([leaving])
        gate.set()
        assert [one["params"]["message"] for one in await connection.rest()] == ["done"]


# --- the broker dies ---------------------------------------------------------------------------------------------


async def test_a_new_broker_ends_the_clients_of_the_old_one(broker):
    async with up(broker, Recorder) as (client, connection):
        gate = client.gates["message", "c1", "last"] = asyncio.Event()
        await connection.send(
            line("new_connection", {"context": context("c1")})
            + line("new_connection", {"context": context("c2")})
            + line("disconnected", {"context": context("c2")})
            + message("last")
        )
        await until(lambda: len(client.calls) == 4)
        broker.broker_id = "broker-2"
        connection.cut()
        again = await broker.link()
        await again.send(line("new_connection", {"context": context("c1")}))
        await again.send(line("new_connection", {"context": context("c3")}))
        await until(lambda: ("new", "c3") in client.calls)
        assert ("gone", "c1") not in client.calls
        gate.set()
        await until(lambda: client.calls.count(("new", "c1")) == 2)
        assert [call for call in client.calls if call[1] == "c1"] == [
            ("new", "c1"),
            ("message", "c1", "last"),
            ("gone", "c1"),
            ("new", "c1"),
        ]
        assert client.calls.count(("gone", "c2")) == 1


async def test_the_same_broker_again_ends_nobody(broker):
    async with up(broker, Recorder) as (client, connection):
        await connection.send(b"".join(line("new_connection", {"context": context(c)}) for c in ("c1", "c2")))
        await until(lambda: len(client.calls) == 2)
        connection.cut()
        again = await broker.link()
        await again.send(message("still here", "c1"))
        await until(lambda: len(client.calls) == 3)
        broker.broker_id = "broker-2"
        again.cut()
        await broker.link()
        await until(lambda: len(client.calls) == 4)  # c1 was ours again; c2 was given away
        assert client.calls[2:] == [("message", "c1", "still here"), ("gone", "c1")]


async def test_what_an_event_changes_in_its_context_stays_there(broker):
    class Careless(Recorder):
        async def on_new_connection(self, context):
            context.metadata["changed"] = True
            await super().on_new_connection(context)

        async def on_disconnect(self, context):
            assert context == Context("c1", "r1", {})
            await super().on_disconnect(context)

    async with up(broker, Careless) as (client, connection):
        await connection.send(line("new_connection", {"context": context("c1")}))
        await until(lambda: client.calls)
        broker.broker_id = "broker-2"
        connection.cut()
        await broker.link()
        await until(lambda: client.calls[-1] == ("gone", "c1"))


# --- reading is paused -------------------------------------------------------------------------------------------


async def test_reading_stops_while_too_many_events_wait(broker, monkeypatch):
    async with up(broker, Recorder) as (client, connection):
        gate = client.gates["message", "c1", "0"] = asyncio.Event()
        await connection.send(message("0"))
        await until(lambda: client.calls)
        calls, link = core_of(client).lifetime.connection.calls, core_of(client).link
        calls.max_waiting = 100
        await connection.send(b"".join(message(str(n)) for n in range(1, 301)))
        await until(lambda: calls.full)
        assert link._read_paused
        gate.set()
        await until(lambda: len(client.calls) == 301)
        assert not link._read_paused
        assert [int(call[2]) for call in client.calls] == list(range(301))


async def test_bytes_that_wait_count_too(broker):
    async with up(broker, Recorder) as (client, connection):
        gate = client.gates["message", "c1", "0"] = asyncio.Event()
        core_of(client).lifetime.connection.calls.max_waiting_bytes = 10_000
        await connection.send(message("0") + message("x" * 20_000) + message("1"))
        await until(lambda: core_of(client).lifetime.connection.calls.full)
        gate.set()
        await until(lambda: len(client.calls) == 3)
        assert not core_of(client).lifetime.connection.calls.full
        assert core_of(client).lifetime.connection.calls.waiting_bytes == 0


# --- options -----------------------------------------------------------------------------------------------------


def test_the_constructor_as_specified():
    client = AsyncPyStrandsClient()
    assert (client.host, client.port, client.connected) == ("localhost", 8081, False)
    assert (client.auto_reconnect, client.reconnect_delay) == (True, 1.0)
    assert (client.max_reconnect_delay, client.reconnect_backoff) == (30.0, 2.0)
    client = AsyncPyStrandsClient("h", 1, False, 2, 3, 4)
    assert (client.host, client.port, client.auto_reconnect) == ("h", 1, False)
    assert (client.reconnect_delay, client.max_reconnect_delay, client.reconnect_backoff) == (2, 3, 4)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("host", ""),
        ("host", None),
        ("host", "ws://localhost"),
        ("host", "localhost:8081"),
        ("host", "[::1]:8081"),
        ("host", "localhost\n"),
        ("port", 0),
        ("port", 65536),
        ("port", "8081"),
        ("port", True),
        ("auto_reconnect", 1),
        ("reconnect_delay", -1),
        ("reconnect_delay", float("nan")),
        ("max_reconnect_delay", "1"),
        ("reconnect_backoff", 0.5),
        ("max_concurrency", 0),
        ("name", 7),
    ],
)
def test_options_that_cannot_work(option, value):
    with pytest.raises(ConfigError, match=option) as caught:
        AsyncPyStrandsClient(**{option: value})
    assert caught.value.option == option


async def test_an_attribute_that_cannot_work_is_told_at_connect():
    client = AsyncPyStrandsClient()
    client.port = 0
    with pytest.raises(ConfigError, match="port"):
        await client.connect()
