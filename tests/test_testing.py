"""pystrands.testing: what its users rely on, and what it says when a test of theirs fails."""

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from pystrands import AsyncPyStrandsClient, PyStrands, PyStrandsClient, testing
from pystrands.errors import ConfigError
from pystrands.headers import Headers
from pystrands.testing import frames

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals on Windows")


class Room(AsyncPyStrandsClient):
    """Says in the room what one says; ``json`` is answered with JSON, ``bytes`` with bytes."""

    async def on_connection_request(self, request):
        if request.url == "/no":
            return False
        request.context.metadata = dict(request.query)
        request.subprotocol = "chat" if request.headers.get("Sec-WebSocket-Protocol") else None
        return True

    async def on_message(self, message, context):
        if message == "json":
            message = '{"a": [1, 2]}'
        if message == "headers":
            message = json.dumps(context.metadata)
        await self.send_room_message(context.room_id, message)


class ThreadedRoom(PyStrandsClient):
    def on_message(self, message, context):
        self.send_room_message(context.room_id, message)


def decorated_room():
    app = PyStrands()

    @app.on_message
    def say(message, context):
        app.send_room_message(context.room_id, message)

    return app


KINDS = [Room, ThreadedRoom, decorated_room, decorated_room()]


@asynccontextmanager
async def a_client(path="/room", **options):
    async with testing.broker() as broker, testing.backend(broker, Room), testing.connect(broker, path) as client:
        yield client


# ---- the client


async def test_expect_takes_what_is_expected_of_every_kind():
    async with a_client() as client:
        for message in ("text", "é", b"\x00\xff", "", b""):
            await client.send(message)
            assert await client.expect(message) == message
        for expected in (re.compile("l+o"), lambda message: message.startswith("he")):
            await client.send("hello")
            assert await client.expect(expected) == "hello"
        await client.send("json")
        assert await client.expect_json({"a": [1, 2]}) == {"a": [1, 2]}
        await client.send_json([1])
        assert await client.expect_json(lambda value: value == [1]) == [1]
        await client.send("json")
        assert await client.receive_json() == {"a": [1, 2]}
        for number in range(5):
            await client.send(str(number))
        assert await client.expect("4", skip=True) == "4"


@pytest.mark.parametrize(
    ("sent", "expected", "complaint"),
    [
        ("hello", "world", "expected 'world', and 'hello' came"),
        ("hello", b"hello", "expected b'hello', and 'hello' came"),
        ("hello", re.compile("^w"), "expected a text with /^w/, and 'hello' came"),
        (b"hello", re.compile("h"), "expected a text with /h/, and b'hello' came"),
        ("hello", str.isdigit, "expected a message for which str.isdigit is true, and 'hello' came"),
        ("x" * 400, "y", f"expected 'y', and '{'x' * 299}... (402 characters) came"),
    ],
)
async def test_another_message_is_shown(sent, expected, complaint):
    async with a_client() as client:
        await client.send(sent)
        with pytest.raises(AssertionError, match=f"^{re.escape(complaint)}$"):
            await client.expect(expected)


async def test_what_json_was_not_is_shown():
    async with a_client() as client:
        await client.send("hello")
        with pytest.raises(AssertionError, match="expected the JSON of 1, and 'hello' came, which is no JSON"):
            await client.expect_json(1)
        await client.send("json")
        with pytest.raises(AssertionError, match=r"expected the JSON of 1, and {'a': \[1, 2\]} came"):
            await client.expect_json(1)
        await client.send("2")
        with pytest.raises(AssertionError, match=r"expected a message for which .*lambda.* is true, and 2 came"):
            await client.expect_json(lambda value: value == 1)


async def test_nothing_and_the_end_are_told_apart():
    async with a_client() as client:
        with pytest.raises(AssertionError, match=r"^expected 'x' within 0.01 s, and nothing came$"):
            await client.expect("x", timeout=0.01)
        with pytest.raises(AssertionError, match=r"^expected a close with 1000 within 0.01 s, and nothing came$"):
            await client.expect_close(1000, timeout=0.01)
        with pytest.raises(TimeoutError):
            await client.receive(timeout=0.01)
        await client.send("y")
        with pytest.raises(AssertionError, match=r"and nothing came \(1 other messages came\)$"):
            await client.expect("x", timeout=0.2, skip=True)
        await client.send("late")
        with pytest.raises(AssertionError, match=r"^expected a close, and 'late' came$"):
            await client.expect_close()
        assert client.pending == ["late"]
        with pytest.raises(AssertionError, match=r"^expected no message, and 'late' came$"):
            await client.expect_nothing()
        await client.expect("late")
        await client.expect_nothing()
        assert client.closed is None
        await client.close(1000, "bye")
        assert client.closed
        assert client.closed.code == 1000
        await client.close()
        with pytest.raises(AssertionError, match=r"^expected 'x', and the WebSocket is closed: 1000"):
            await client.expect("x")
        with pytest.raises(AssertionError, match=r"^expected a close with 1001, and the WebSocket is closed: 1000"):
            await client.expect_close(1001)
        with pytest.raises(AssertionError, match=r"^expected no message, and the WebSocket is closed"):
            await client.expect_nothing()
        for attempt in (client.receive(), client.send("x"), client.ping()):
            with pytest.raises(testing.Closed):
                await attempt


async def test_what_is_no_message_is_not_sent():
    async with a_client() as client:
        with pytest.raises(TypeError, match="a message is str or bytes, not dict"):
            await client.send({})


async def test_the_handshake_can_be_shaped_and_its_refusal_looked_at():
    async with testing.broker() as broker, testing.backend(broker, Room):
        with pytest.raises(testing.Rejected, match="answered with 403: the connection was rejected") as caught:
            await testing.connect(broker, "/no")
        assert (caught.value.status, caught.value.headers["content-type"][0][:10]) == (403, "text/plain")
        assert caught.value.body == b"the connection was rejected\n"
        async with testing.connect(broker, "/r?a=b", subprotocols=["chat", "other"]) as client:
            assert client.subprotocol == "chat"
            assert client.headers["upgrade"] == ["websocket"]
            await client.send("headers")
            await client.expect_json({"a": ["b"]})
        async with testing.connect(broker.ws_url("/r").removesuffix("/r"), headers={"X-Many": ["1", "2"]}) as client:
            assert client.subprotocol is None
        with pytest.raises(testing.Rejected) as caught:
            await testing.connect(broker, headers={"Sec-WebSocket-Version": "7"})
        assert caught.value.status == 426


async def test_addresses_that_are_none():
    with pytest.raises(ValueError, match="looks like ws://"):
        testing.connect("http://127.0.0.1:1")
    with pytest.raises(ValueError, match="begins with a slash"):
        testing.connect("ws://127.0.0.1:1", "room")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await testing.connect(f"ws://127.0.0.1:{bound.getsockname()[1]}")


@asynccontextmanager
async def a_server(answer, *, ends=True):
    """A server that reads a request, answers with bytes, and ends the connection or goes on reading."""

    async def serve(reader, writer):
        request = await reader.readuntil(b"\r\n\r\n")
        (key,) = re.findall(r"Sec-WebSocket-Key: (\S+)", request.decode())
        writer.write(answer.replace(b"ACCEPT", frames.accept_for(key).encode()))
        if not ends:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


UPGRADED = b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"", "without an answer"),
        (b"SSH-2.0\r\n\r\n", "no HTTP response: 'SSH-2.0'"),
        (UPGRADED.replace(b"ACCEPT", b"xyz"), "does not answer the key"),
    ],
)
async def test_a_server_that_is_none(answer, complaint):
    async with a_server(answer) as url:
        with pytest.raises(ConnectionError, match=complaint):
            await testing.connect(url)


async def test_a_refusal_that_ends_with_the_connection():
    async with a_server(b"HTTP/1.1 500 No\r\n\r\nbroken") as url:
        with pytest.raises(testing.Rejected) as caught:
            await testing.connect(url)
        assert caught.value.body == b"broken"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x81\x81aaaax",  # masked
        b"\xc1\x01x",  # a reserved bit
        b"\x83\x01x",  # no such opcode
        b"\x89\x7e\x00\x80" + b"x" * 128,  # a ping that is too long
        b"\x80\x01x",  # a continuation of nothing
        b"\x01\x01x\x81\x01x",  # a message within a message
        b"\x81\x01\xff",  # not UTF-8
    ],
)
async def test_a_server_that_breaks_the_protocol_is_found_out(sent):
    async with a_server(UPGRADED + sent, ends=False) as url:
        client = await testing.connect(url)
        await client.expect_close(1002)
        await client.close()


async def test_a_server_that_does_not_close():
    async with a_server(UPGRADED + b"\x01\x02fr\x80\x04agme\x89\x00", ends=False) as url:
        client = await testing.connect(url)
        await client.expect("fragme")
        with pytest.raises(AssertionError, match=r"answered no ping within 0.01 s"):
            await client.expect_nothing(timeout=0.01)
        with pytest.raises(AssertionError, match=r"did not complete the close within 0.01 s"):
            await client.close(timeout=0.01)
        await client.close()


async def test_a_server_that_goes_without_a_word_or_without_a_code():
    async with a_server(UPGRADED) as url, testing.connect(url) as client:
        await client.expect_close(1006)
    async with a_server(UPGRADED + b"\x88\x00") as url, testing.connect(url) as client:
        await client.expect_close(1005)


def test_frames_arrive_in_pieces():
    for size in (0, 1, 125, 126, 65535, 65536):
        payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        data = frames.frame(frames.BINARY, payload, masked=False)
        reader = frames.FrameReader()
        pieces = [data[:1], data[1:3], data[3:9], data[9:-1], data[-1:]] if len(data) > 10 else [data]
        assert [found for piece in pieces for found in reader.feed(piece)] == [(frames.BINARY, payload, True)]
        masked = frames.frame(frames.BINARY, payload)
        assert len(masked) == len(data) + 4


def test_heads():
    assert frames.parse_head(b"HTTP/1.1 200 OK\r\nx-a: 1\r\nX-A: 2\r\nnonsense") == (200, Headers({"X-A": ["1", "2"]}))


# ---- faults of clients


async def test_wrong_frames_and_raw_bytes():
    async with testing.broker(max_message_size=1000) as broker, testing.backend(broker, Room):
        for wrong, code in (
            ({"opcode": 1, "payload": b"\xff"}, 1007),
            ({"opcode": 1, "rsv": 4}, 1002),
            ({"opcode": 1, "masked": False, "payload": b"x"}, 1002),
            ({"opcode": 1, "length": 1 << 40}, 1009),
        ):
            client = await testing.connect(broker)
            await client.send_frame(**wrong)
            await client.expect_close(code)
            await client.close()
        async with testing.connect(broker) as client:
            await client.send_frame(1, b"frag", fin=False)
            await client.send_frame(0, b"ments")
            await client.expect("fragments")
            await client.send_raw(b"\xff\xff\xff\xff")
            await client.expect_close(1002)


async def test_a_client_that_vanishes_and_one_that_does_not_read():
    async with (
        testing.broker(client_buffer=10_000, max_message_size=10_000, slow_client_time=0.5) as broker,
        testing.backend(broker) as sender,
    ):
        vanishing = await testing.connect(broker)
        await testing.until(lambda: broker.client_count == 1)
        vanishing.abort()
        await testing.until(lambda: not broker.client_count)
        await vanishing.expect_close(1006)
        async with testing.connect(broker, "/r", receive_buffer=4096) as slow:
            slow.stop_reading()
            slow.stop_reading()
            for attempt in (slow.receive(), slow.ping(), slow.expect_close()):
                with pytest.raises(RuntimeError, match="has stopped reading"):
                    await attempt
            while not broker.counters["slow_consumer_closed"]:
                await sender.send_room_message("/r", "x" * 5000)
            slow.resume_reading()
            slow.resume_reading()
            await slow.expect("x" * 5000)


async def test_a_block_that_fails_ends_its_client_at_once():
    async with testing.broker() as broker, testing.backend(broker):
        with pytest.raises(ZeroDivisionError):
            async with testing.connect(broker) as client:
                raise ZeroDivisionError
        assert client.closed.code == 1006


# ---- brokers


def test_a_broker_on_a_thread_keeps_its_ports():
    broker = testing.BrokerThread(queue_size=7)
    with pytest.raises(RuntimeError, match="does not run"):
        _ = broker.tcp_port
    with broker, testing.backend_thread(broker, ThreadedRoom):
        ports = broker.ws_port, broker.tcp_port
        assert broker.ask(lambda inner: inner.config.queue_size) == 7
        with testing.connect_sync(broker, "/room") as client:
            assert (broker.client_count, broker.backend_count, broker.queued_messages) == (1, 1, 0)
            client.send("x")
            client.expect("x")
            assert broker.counters["messages_delivered"] == 1
            with pytest.raises(RuntimeError, match="runs already"):
                broker.start()
            broker.stop()
            broker.stop()
            client.expect_close(1012)
        broker.start()
        assert (broker.ws_port, broker.tcp_port) == ports
        testing.until_sync(lambda: broker.backend_count)
        with testing.connect_sync(broker, "/room") as client:
            client.send("y")
            client.expect("y")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pystrands-broker")]


def test_a_broker_that_can_not_start_leaves_no_thread():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for options, error in (
            ({"ws_port": taken.getsockname()[1]}, OSError),
            ({"no_such_option": 1}, TypeError),
            ({"queue_size": -1}, ConfigError),
        ):
            with pytest.raises(error), testing.broker_thread(**options):
                pass
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pystrands-broker")]


# ---- backends


@pytest.mark.parametrize("kind", KINDS)
async def test_a_backend_of_every_kind(kind):
    async with testing.broker() as broker, testing.backend(broker, kind) as client:
        assert client.connected
        assert broker.backend_count == 1
        async with testing.connect(broker, "/room") as one:
            await one.send("x")
            await one.expect("x")
    assert not client.connected


@pytest.mark.parametrize("kind", KINDS)
def test_a_backend_of_every_kind_without_an_event_loop(kind):
    with testing.broker_thread() as broker, testing.backend_thread(broker, kind) as client:
        assert client.connected
        with testing.connect_sync(broker, "/room") as one:
            one.send("x")
            one.expect("x")
    assert not client.connected


@pytest.mark.parametrize("kind", [AsyncPyStrandsClient, PyStrandsClient, PyStrands])
async def test_one_that_only_sends_is_no_backend_that_the_broker_counts(kind):
    async with (
        testing.broker() as broker,
        testing.backend(broker, Room),
        testing.connect(broker, "/room") as one,
        testing.backend(broker, kind, send_only=True) as sender,
    ):
        assert sender.connected
        assert broker.backend_count == 1
        sent = sender.send_room_message("/room", "x")
        assert await sent if isinstance(sender, AsyncPyStrandsClient | PyStrands) else sent
        await one.expect("x")


@pytest.mark.parametrize("kind", [AsyncPyStrandsClient, PyStrandsClient, PyStrands])
def test_one_that_only_sends_without_an_event_loop(kind):
    with testing.broker_thread() as broker, testing.backend_thread(broker, kind, send_only=True) as sender:
        assert sender.connected
        assert broker.backend_count == 0


async def test_a_class_takes_positional_arguments():
    class Stored(Room):
        def __init__(self, database, *tables, **options):
            super().__init__(**options)
            self.made_with = database, tables

    async with testing.broker() as broker, testing.backend(broker, Stored, "db", 1, 2, name="n") as stored:
        assert (stored.made_with, stored.name) == (("db", (1, 2)), "n")
        with pytest.raises(TypeError, match="set them on the instance: 'db', name"):
            await testing.backend(broker, Stored("db"), "db", name="n").__aenter__()  # type: ignore[call-overload]


async def test_an_instance_gets_its_attributes_back():
    room = Room("broker.example", 9, reconnect_delay=0.001)
    async with testing.broker() as broker:
        async with testing.backend(broker, room) as client:
            assert client is room
            assert (room.port, room.reconnect_delay) == (broker.tcp_port, 0.001)
            with pytest.raises(RuntimeError, match="connected already"):
                await testing.backend(broker, room).__aenter__()
        async with testing.backend(broker, Room, name="n", reconnect_delay=3.0) as client:
            assert (client.name, client.reconnect_delay) == ("n", 3.0)
        for options, complaint in (
            ({"kind": room, "name": "n"}, "options are for a class; set them on the instance: name"),
            ({"kind": 7}, "a client or its class, not int"),
        ):
            with pytest.raises(TypeError, match=complaint):
                await testing.backend(broker, **options).__aenter__()
    assert (room.host, room.port, room.reconnect_delay) == ("broker.example", 9, 0.001)


def test_a_backend_that_can_not_connect():
    with testing.broker_thread() as broker, testing.LinkProxy(broker) as link:
        link.refuse()
        for kind in (Room, ThreadedRoom):
            with (
                pytest.raises(AssertionError, match=f"the backend {kind.__name__} could not connect to 127.0.0.1:"),
                testing.backend_thread(link, kind),
            ):
                pass
        with (
            pytest.raises(AssertionError, match="the backend PyStrands could not connect"),
            testing.backend_thread(link, PyStrands(auto_reconnect=False)),
        ):
            pass


async def test_until_says_what_was_not_so():
    condition = False
    with pytest.raises(AssertionError, match=r"still not so after 0 s: .*lambda: condition"):
        await testing.until(lambda: condition, timeout=0)
    with pytest.raises(AssertionError, match="still not so after 0 s: <method-wrapper"):
        testing.until_sync({}.__len__, timeout=0)


# ---- links


def test_a_link_that_is_cut_and_refused():
    with (
        testing.broker_thread() as broker,
        testing.LinkProxy(broker) as link,
        testing.backend_thread(link, ThreadedRoom),
        testing.connect_sync(link, "/room") as client,
    ):
        assert (link.connections, link.cuts, link.backend_count) == (1, 0, 1)
        link.refuse()
        link.refuse()
        client.send("those that there are go on")
        client.expect("those that there are go on")
        link.cut()
        assert link.cuts == 1
        testing.until_sync(lambda: not broker.backend_count)
        client.send("queued")
        link.accept()
        link.accept()
        client.expect("queued")
    with pytest.raises(RuntimeError, match="does not run"):
        link.cut()


async def test_a_link_that_falls_silent():
    async with (
        testing.broker() as broker,
        testing.LinkProxy(broker) as link,
        testing.backend(link, Room),
        testing.connect(broker, "/room") as client,
    ):
        link.pause()
        await client.send("x")
        await testing.until(lambda: broker.counters["messages_received"] == 1)
        await client.expect_nothing()
        link.resume()
        await client.expect("x")


@pytest.mark.parametrize("direction", ["to_broker", "to_backend"])
async def test_a_link_that_is_cut_within_a_line(direction):
    lines = []

    async def serve(reader, writer):
        writer.write(b"y" * 100)
        lines.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)

    class Target:
        tcp_port = server.sockets[0].getsockname()[1]
        backend_count = 0

        def ws_url(self, path="/"):
            return path

    async with server:
        with testing.LinkProxy(Target()) as link:
            with pytest.raises(ValueError, match="number of bytes"):
                link.cut_after(-1)
            link.cut_after(30, direction)
            reader, writer = await asyncio.open_connection("127.0.0.1", link.tcp_port)
            writer.write(b"x" * 20)
            if direction == "to_broker":
                await reader.readexactly(100)
                writer.write(b"x" * 20)
                assert await reader.read() == b""
                await testing.until(lambda: lines)
                assert lines == [b"x" * 30]
            else:
                assert await reader.read() == b"y" * 30
                await testing.until(lambda: lines)
            assert link.cuts == 1
            writer.close()


async def test_a_link_without_a_broker_ends_at_once():
    async with testing.broker() as broker:
        link = testing.LinkProxy(broker)
        with link:
            await broker.stop()
            with contextlib.suppress(ConnectionError):  # a reset, as early as within the connect, or an end
                reader, writer = await asyncio.open_connection("127.0.0.1", link.tcp_port)
                try:
                    assert await reader.read() == b""
                finally:
                    writer.close()
            assert link.connections == 0


# ---- processes

PROGRAM = """
import asyncio, os, sys
from pystrands import AsyncPyStrandsClient

class Room(AsyncPyStrandsClient):
    async def on_message(self, message, context):
        print("got", message)
        await self.send_room_message(context.room_id, " ".join([message, *sys.argv[1:], os.environ.get("MORE", "")]))

asyncio.run(Room(os.environ["PYSTRANDS_HOST"], int(os.environ["PYSTRANDS_TCP_PORT"])).run_forever())
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "room.py"
    path.write_text(PROGRAM)
    return path


@POSIX
async def test_a_process_that_is_halted_and_killed(program, capsys):
    async with (
        testing.broker() as broker,
        testing.backend_process(broker, program, "and", env={"MORE": "more"}) as process,
        testing.connect(broker, "/room") as client,
    ):
        await client.send("x")
        await client.expect("x and more")
        process.stop()
        assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
        await client.send("y")
        await testing.until(lambda: broker.counters["messages_received"] == 2)
        await client.expect_nothing()
        process.cont()
        await client.expect("y and more")
        assert process.output.splitlines() == ["got x", "got y"]
        assert process.returncode is None
        with pytest.raises(AssertionError, match=r"did not end within 0.01 s"):
            process.wait(timeout=0.01)
        process.kill()
        process.kill()
        process.stop()
        assert process.returncode == process.wait() == -9
        await testing.until(lambda: not broker.backend_count)
    assert "got y" in capsys.readouterr().err


@POSIX
def test_a_process_that_is_asked_to_end(program):
    with testing.broker_thread() as broker:
        with testing.backend_process(broker, [sys.executable, str(program)]) as process:
            process.terminate()
            assert process.wait() in {0, -15}  # it may handle the signal, and end in order
        with testing.backend_process(broker, program) as process:
            pass
        assert process.returncode == -9, "killed at the end of the block"
    with pytest.raises(RuntimeError, match="has not been started"):
        testing.backend_process(broker, program).kill()


async def test_a_program_that_fails_shows_why(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("print('before'); import no_such_module")
    idle = tmp_path / "idle.py"
    idle.write_text("print('idle'); __import__('time').sleep(60)")
    async with testing.broker() as broker:
        with pytest.raises(AssertionError, match="it ended with exit code 1 before it had connected") as caught:
            await testing.backend_process(broker, broken).__aenter__()
        assert "before\n" in caught.value.__notes__[0]
        assert "No module named 'no_such_module'" in caught.value.__notes__[0]
        with pytest.raises(AssertionError, match=r"still not so after 0.01 s"):
            await testing.backend_process(broker, idle, timeout=0.01).__aenter__()
        with pytest.raises(RuntimeError, match="use async with"), testing.backend_process(broker, idle):
            pass
    with (
        testing.broker_thread() as other,
        pytest.raises(AssertionError, match="exit code 1"),
        testing.backend_process(other, broken),
    ):
        pass


# ---- the blocking client


def test_the_blocking_client_does_the_same():
    with testing.broker_thread(max_message_size=1000) as broker, testing.backend_thread(broker, Room):
        with pytest.raises(testing.Rejected):
            testing.connect_sync(broker, "/no")
        client = testing.connect_sync(
            broker, "/room", subprotocols=["chat"], headers={"X-A": "1"}, receive_buffer=10_000
        )
        assert client.subprotocol == "chat"
        assert client.headers["Upgrade"] == ["websocket"]
        client.send("x")
        assert client.receive() == "x"
        client.send("json")
        assert client.receive_json() == {"a": [1, 2]}
        client.send_json({"b": 1})
        client.expect_json({"b": 1})
        for number in "123":
            client.send(number)
        client.expect("3", skip=True)
        client.ping()
        client.expect_nothing()
        assert client.pending == []
        client.stop_reading()
        client.resume_reading()
        client.send_frame(1, b"frame")
        client.expect("frame")
        client.send_raw(frames.frame(1, b"raw"))
        client.expect("raw")
        with pytest.raises(AssertionError, match="nothing came"):
            client.expect("x", timeout=0.01)
        assert client.closed is None
        client.send_frame(3)
        client.expect_close(1002)
        client.close()
        client.close()
        client.abort()
        with pytest.raises(testing.Closed):
            client.send("x")
        with pytest.raises(ZeroDivisionError), testing.connect_sync(broker) as client:
            raise ZeroDivisionError
        assert client.closed.code == 1006
    assert not [thread for thread in threading.enumerate() if thread.name == "pystrands-testing"]


def test_a_client_that_is_forgotten_does_not_keep_the_program():
    code = "from pystrands import testing\nbroker = testing.BrokerThread(); broker.start()\n"
    code += "import pystrands; b = testing.backend_thread(broker); b.__enter__()\nc = testing.connect_sync(broker)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


# ---- pytest, and the page of the docs


def files(page):
    """The programs of a page, by name."""
    blocks = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == len(dict(blocks)) == page.count("```python\n")
    return dict(blocks)


ASYNC = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
PAGE = files((ROOT / "docs" / "testing.md").read_text("utf-8"))


def test_the_page_keeps_its_promise_of_fifteen_lines():
    assert len(PAGE["test_chat.py"].splitlines()) <= 16
    assert sum(bool(line.strip()) for line in PAGE["test_chat.py"].splitlines()) <= 15


def run_files(pytester, *names, args=()):
    pytester.makeini("[pytest]\n")
    for name in names:
        pytester.path.joinpath(name).write_text(PAGE[name], "utf-8")
    return pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", *args, timeout=50)


def test_the_pages_first_test_needs_nothing_but_pytest(pytester):
    run_files(pytester, "chat.py", "test_chat.py", args=["-p", "no:asyncio"]).assert_outcomes(passed=1)


def test_the_pages_other_tests_pass(pytester):
    names = [name for name in PAGE if name != "test_chat.py"]
    run_files(pytester, *names, args=ASYNC).assert_outcomes(passed=5)


def test_the_fixtures_together(pytester):
    pytester.makepyfile(
        """
        import pytest
        from pystrands import PyStrandsClient, testing

        class Echo(PyStrandsClient):
            def on_message(self, message, context):
                self.send_private_message(context.client_id, message)

        @pytest.fixture
        def pystrands_options():
            return {"queue_size": 3}

        def test_a_link(pystrands_broker, pystrands_link, pystrands_backend, pystrands_connect):
            echo = pystrands_backend(Echo, on=pystrands_link, name="echo")
            assert echo.name == "echo"
            client = pystrands_connect("/", headers={"X-A": "1"})
            pystrands_link.refuse()
            pystrands_link.cut()
            testing.until_sync(lambda: not pystrands_broker.backend_count)
            client.send("x")
            pystrands_link.accept()
            client.expect("x")
            assert pystrands_broker.ask(lambda broker: broker.config.queue_size) == 3

        class Stored(Echo):
            def __init__(self, database, /, *tables, kind="sql", **options):
                super().__init__(**options)
                self.made_with = database, tables, kind

        def test_a_class_with_arguments_and_an_instance(pystrands_backend):
            stored = pystrands_backend(Stored, "db", "one", "two", name="echo")
            assert (stored.made_with, stored.name) == (("db", ("one", "two"), "sql"), "echo")
            other = Stored("other")
            assert pystrands_backend(other) is other

        async def test_async_beside_threads(pystrands_broker, pystrands_backend):
            pystrands_backend(Echo)
            async with testing.connect(pystrands_broker) as client:
                await client.send("x")
                await client.expect("x")

        def test_a_failure(pystrands_backend, pystrands_connect):
            pystrands_backend()
            pystrands_connect().expect("something", timeout=0.01)
        """
    )
    result = run_files(pytester, args=ASYNC)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*expected 'something' within 0.01 s, and nothing came*"])


def test_the_fixtures_are_explained(pytester):
    shown = pytester.runpytest_subprocess("--fixtures", timeout=50).stdout.str()
    for name in ("broker", "backend", "connect", "link", "options"):
        assert re.search(rf"^pystrands_{name} -- .*\n    \S", shown, re.MULTILINE), name


def test_pytest_starts_without_pystrands():
    code = "import sys, pytest_pystrands; print(*(name for name in sys.modules if name.startswith('pystrands')))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == ""
