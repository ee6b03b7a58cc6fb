"""Memory is what the options say: each way to make a broker keep much, against a budget of 64 MiB.

The broker is a process of its own, and what counts is its resident memory. Beside those who cause it there is a client
that behaves: its messages are echoed all the while.
"""

import asyncio
import contextlib
import os
import socket
import statistics
import sys
import threading
import time
import zlib
from contextlib import asynccontextmanager

import pytest

from pystrands import testing
from pystrands.testing import frames

from .broker_process import MIB, BrokerProcess
from .raw_backend import RawBackend, line

pytestmark = [pytest.mark.compiled, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

BUDGET = 64
PATIENCE = 30
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Slow(RawBackend):
    """Lets everybody in, echoes what the quiet client says, and finishes nothing of the others."""

    def __init__(self, broker):
        super().__init__(broker)
        self.others = []
        self.unfinished = []
        self.is_finishing = True

    async def serve(self):
        while True:
            heard = await self.next_line()
            if "seq" not in heard:
                if heard["action"] == "heartbeat":
                    self.raw(line("heartbeat"))
                continue
            self.received = heard["seq"]
            if heard["action"] == "connection_request" and heard["params"]["url"] == "/undecided":
                pass
            elif heard["action"] == "connection_request" and heard["params"]["url"] == "/forgotten":
                answer = {"accepted": True, "metadata": {"text": "x" * 100_000}}
                self.say("response", answer, request_id=heard["request_id"])
            elif heard["action"] == "disconnected" and not self.is_finishing:
                del heard["params"]
                self.unfinished.append(heard)
            elif heard["action"] == "connection_request":
                self.say("response", {"accepted": True}, request_id=heard["request_id"])
            elif heard["action"] != "new_message":
                if heard["action"] == "new_connection" and heard["params"]["context"]["room_id"] == "/bad":
                    self.others.append(heard["params"]["context"]["client_id"])
                self.done(heard)
            elif heard["params"]["message"] == "quiet":
                client_id = heard["params"]["context"]["client_id"]
                self.say("message_to_connection", {"conn_id": client_id, "message": "quiet"})
                self.done(heard)
            self.acknowledge()


class Scene:
    """A broker, its backend, and how the quiet client does."""

    def __init__(self, broker, backend):
        self.broker = broker
        self.backend = backend
        self.times = []
        self.baseline = 0.0
        self.socks = []
        self.receive_buffer = 0

    async def talk(self, ws):
        while True:
            began = time.monotonic()
            await ws.send("quiet", timeout=PATIENCE)
            await ws.expect("quiet", PATIENCE)
            self.times.append(time.monotonic() - began)
            await asyncio.sleep(0.02)

    def connect(self, *headers, path="/bad"):
        """Return the raw socket of a client that is in."""
        sock = self.raw()
        sock.sendall(frames.upgrade_request("127.0.0.1", path, KEY, dict(headers), ()))
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(4096)
            assert data, head
            head += data
        assert head.startswith(b"HTTP/1.1 101 "), head
        return sock

    def raw(self):
        sock = socket.socket()
        if self.receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.broker.ws_port))
        self.socks.append(sock)
        return sock

    async def push(self, *jobs, until_read=False):
        """Send each socket its data at the same time, as far as the broker takes it within a while."""
        ping = frames.frame(frames.PING, b"") if until_read else b""

        def send(sock, data):
            sock.settimeout(5)
            with contextlib.suppress(OSError):
                sock.sendall(data + ping)
                if until_read:
                    assert sock.recv(2)

        threads = [threading.Thread(target=send, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)

    async def settled(self):
        """Wait until two more looks at the memory are over."""
        await asyncio.sleep(1.2)


@asynccontextmanager
async def scene(*flags):
    async with BrokerProcess(f"--memory-budget={BUDGET}MiB", *flags) as broker:
        async with Slow(broker) as backend:
            serving = asyncio.create_task(backend.serve())
            async with testing.connect(broker, "/quiet") as ws:
                it = Scene(broker, backend)
                talking = asyncio.create_task(it.talk(ws))
                await testing.until(lambda: len(it.times) > 5)
                it.baseline = broker.memory()
                try:
                    yield it
                    assert not talking.done(), talking
                    assert not serving.done(), serving
                    peak = broker.memory("VmHWM")
                    print(f"{it.baseline:.0f} -> {peak:.0f}, now {broker.memory():.0f}; slowest {max(it.times):.3f}")
                    assert peak <= it.baseline + BUDGET * 1.25
                    assert statistics.median(it.times) < 0.25  # a busy machine has its outliers
                    assert "lost its link" not in broker.log
                finally:
                    talking.cancel()
                    serving.cancel()
                    for sock in it.socks:
                        sock.close()


async def test_compressed_messages_that_inflate_to_a_thousand_times_their_size():
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = (deflate.compress(bytes(MIB)) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    bomb_frame = bytearray(frames.frame(frames.TEXT, bomb))
    bomb_frame[0] |= 0x40
    big = frames.frame(frames.BINARY, os.urandom(1_000_000))
    async with scene("--compression") as it:
        offer = ("Sec-WebSocket-Extensions", "permessage-deflate")
        socks = [await asyncio.to_thread(it.connect, offer) for _ in range(10)]
        await it.push(*((sock, big + bomb_frame * 900) for sock in socks))
        await it.settled()


async def test_tiny_messages_to_a_slow_backend():
    data = frames.frame(frames.TEXT, b"x") * 280_000
    async with scene() as it:
        socks = [await asyncio.to_thread(it.connect) for _ in range(10)]
        await it.push(*((sock, data) for sock in socks))
        await it.settled()


async def test_large_messages_of_many_to_a_slow_backend():
    """Who sent them is closed as far as it takes, and never the backend's link."""
    data = frames.frame(frames.TEXT, b"x" * MIB) * 3
    async with scene() as it:
        socks = [await asyncio.to_thread(it.connect) for _ in range(60)]
        await it.push(*((sock, data) for sock in socks))
        await it.settled()


async def test_messages_whose_end_does_not_come():
    data = frames.frame(frames.BINARY, bytes(MIB))[:-1]
    async with scene() as it:
        socks = [await asyncio.to_thread(it.connect) for _ in range(200)]
        await it.push(*((sock, data) for sock in socks))
        await it.settled()


async def test_tiny_fragments_of_many_take_turns_and_are_all_taken():
    first = frames.frame(frames.TEXT, b"x", fin=False)
    more, last = frames.frame(frames.CONTINUATION, b"x", fin=False), frames.frame(frames.CONTINUATION, b"x")
    async with scene() as it:
        socks = [await asyncio.to_thread(it.connect) for _ in range(20)]
        data = first + more * 20_000 + last + frames.frame(frames.PING, b"")
        await it.push(*((sock, data) for sock in socks))
        for sock in socks:
            sock.settimeout(PATIENCE)
            assert await asyncio.to_thread(sock.recv, 1) == b"\x8a"


async def test_messages_that_grow_side_by_side_and_never_end():
    """Many become large in the same turn of the loop: the buffers that they leave behind are gone at once."""
    fragment = bytearray(frames.frame(frames.BINARY, bytes(MIB - 10_000)))
    fragment[0] &= 0x7F
    async with scene() as it:
        socks = [await asyncio.to_thread(it.connect) for _ in range(200)]
        for first in range(0, len(fragment), 65_536):
            await it.push(*((sock, fragment[first : first + 65_536]) for sock in socks))
        await it.settled()


async def test_large_messages_of_a_backend_that_waits_for_nobody():
    """Of those that don't read a transport keeps a whole message for its last byte."""
    async with scene() as it:
        socks = [await asyncio.to_thread(it.connect) for _ in range(150)]
        await testing.until(lambda: len(it.backend.others) == 150, PATIENCE)
        for letter in "abcdef":
            for client_id in it.backend.others:
                it.backend.say("message_to_connection", {"conn_id": client_id, "message": letter * 700_000})
                await it.backend.flushed()
        await it.settled()
        assert len(socks) == 150


async def test_clients_that_leave_while_the_same_messages_wait_for_all_of_them():
    """What they share is still one for all while their connections end; nobody is closed for it."""
    async with scene("--client-buffer=8MiB") as it:
        it.receive_buffer = 4096
        socks = [await asyncio.to_thread(it.connect) for _ in range(60)]
        for _ in range(100):
            it.backend.say("message_to_room", {"room_id": "/bad", "message": os.urandom(30_000).hex()})
            await it.backend.flushed()
        await it.settled()
        for sock in socks[:30]:
            sock.sendall(frames.frame(frames.CLOSE, b"\x03\xe8"))
        await it.settled()
        for client_id in it.backend.others:
            it.backend.say("disconnect_client", {"client_id": client_id})
        await it.settled()
        assert "caused most" not in it.broker.log


async def test_what_is_sent_before_the_handshake_is_over():
    async with scene("--hold-time=60", "--max-handshakes=5000", "--max-connections-per-address=0") as it:
        socks = [await asyncio.to_thread(it.raw) for _ in range(100)]
        await it.push(*((sock, b"GET / HTTP/1.1\r\nX: " + b"x" * 15_000) for sock in socks))
        await it.settled()


async def test_requests_of_very_many_headers_that_wait_for_a_verdict():
    """A header of a few bytes takes many times that once it is read."""
    many = {f"{number:03x}": "" for number in range(1800)}
    request = frames.upgrade_request("127.0.0.1", "/undecided", KEY, many, ())
    assert len(request) < 16_384
    async with scene() as it:
        socks = [await asyncio.to_thread(it.raw) for _ in range(300)]
        for sock in socks:
            sock.sendall(request)
            await asyncio.sleep(0)
        await testing.until(lambda: "caused most" in it.broker.log, PATIENCE)
        await it.settled()


async def test_long_answers_that_are_asked_for_at_once():
    """A command of a hundred bytes may be answered with megabytes: who does not read them is closed."""
    async with scene() as it, RawBackend(it.broker, "asks", begin=False) as asks:
        await asks.begin(role="sender")
        socks = [await asyncio.to_thread(it.connect) for _ in range(20)]
        await testing.until(lambda: len(it.backend.others) == len(socks), PATIENCE)
        for client_id in it.backend.others:
            asks.say("update_metadata", {"client_id": client_id, "metadata": {"text": "x" * 100_000}})
            await asks.flushed()
        for number in range(200):
            asks.say("room_members", {"room_id": "/bad"}, request_id=str(number))
        await testing.until(lambda: "caused most" in it.broker.log, PATIENCE)
        await it.settled()


async def test_clients_that_come_and_go_while_nobody_finishes_with_them():
    """Nobody can be closed for them: no more come in, until the backend goes on."""

    def come_and_go(it):
        with contextlib.suppress(AssertionError):
            it.connect(path="/forgotten").close()

    async with scene("--hold-time=0.2") as it:
        it.backend.is_finishing = False
        for _ in range(40):
            await asyncio.gather(*[asyncio.to_thread(come_and_go, it) for _ in range(10)])
            if "no more are let in" in it.broker.log:
                break
        assert "no more are let in" in it.broker.log
        assert "caused most" not in it.broker.log
        it.backend.is_finishing = True
        it.backend.done(*it.backend.unfinished)
        await it.settled()
        await asyncio.to_thread(it.connect)


async def test_large_metadata_of_clients_that_leave_all_at_once():
    """The lines that tell of it wait for each other: they would be as much again."""
    async with BrokerProcess(f"--memory-budget={BUDGET}MiB") as broker, Slow(broker) as backend:
        serving = asyncio.create_task(backend.serve())
        it = Scene(broker, backend)
        socks = [await asyncio.to_thread(it.connect) for _ in range(60)]
        await testing.until(lambda: len(backend.others) == len(socks), PATIENCE)
        it.baseline = broker.memory()
        for client_id in backend.others:
            backend.say("update_metadata", {"client_id": client_id, "metadata": {"text": "x" * 1_000_000}})
            await backend.flushed()
        await testing.until(lambda: broker.memory() > it.baseline + 55, PATIENCE)
        serving.cancel()
        for sock in socks:
            sock.close()
        await it.settled()
        peak = broker.memory("VmHWM")
        print(f"{it.baseline:.0f} -> {peak:.0f}, now {broker.memory():.0f}")
        assert peak <= it.baseline + BUDGET * 1.25
        assert "caused most" not in broker.log


async def test_clients_in_very_many_rooms():
    """Who is closed for it leaves its rooms behind until that is told: until then nobody joins more."""
    async with scene() as it, RawBackend(it.broker, "joins", begin=False) as joins:
        await joins.begin(role="sender")
        socks = [await asyncio.to_thread(it.connect) for _ in range(80)]
        await testing.until(lambda: len(it.backend.others) == len(socks), PATIENCE)
        it.backend.is_finishing = False
        for number, client_id in enumerate(it.backend.others):
            for room in range(999):
                joins.say("join_room", {"client_id": client_id, "room_id": f"{number}-{room}-" + "x" * 450})
            await joins.flushed()
        await testing.until(lambda: "no client's rooms" in it.broker.log, PATIENCE)
        await it.settled()
        assert it.backend.unfinished


async def test_lines_of_tools_that_do_not_end():
    async with scene() as it, contextlib.AsyncExitStack() as stack:
        for _ in range(25):
            tool = await stack.enter_async_context(RawBackend(it.broker, "tool", begin=False))
            tool.greet(role="tool")
            tool.raw(b'{"action": "message_to_room", "params": {"message": "' + b"x" * 5_000_000)
        await testing.until(lambda: "caused most" in it.broker.log, PATIENCE)
        await it.settled()


@asynccontextmanager
async def without_a_backend(clients, *flags):
    """A broker whose only backend has gone, and the sockets of clients that are still in."""
    async with BrokerProcess(f"--memory-budget={BUDGET}MiB", "--resume-window=0.1", *flags) as broker:
        async with Slow(broker) as backend:
            serving = asyncio.create_task(backend.serve())
            it = Scene(broker, backend)
            quiet = await testing.connect(broker, "/quiet")
            socks = [await asyncio.to_thread(it.connect) for _ in range(clients)]
            serving.cancel()
        await asyncio.sleep(0.5)
        it.baseline = broker.memory()
        yield it, socks
        peak = broker.memory("VmHWM")
        print(f"{it.baseline:.0f} -> {peak:.0f}, now {broker.memory():.0f}")
        assert peak <= it.baseline + BUDGET * 1.25
        await quiet.ping(PATIENCE)
        assert quiet.closed is None
        quiet.abort()
        for sock in it.socks:
            sock.close()


@pytest.mark.parametrize("policy", ["backpressure", "drop-oldest"])
async def test_tiny_messages_while_there_is_no_backend(policy):
    """However large the queue may be: the budget bounds it, and closes who filled it."""
    data = frames.frame(frames.TEXT, b"x") * 40_000
    flags = (f"--queue-policy={policy}", "--queue-size=100000000", "--queue-bytes=1GiB")
    async with without_a_backend(10, *flags) as (it, socks):
        await it.push(*((sock, data) for sock in socks))
        await testing.until(lambda: "caused most" in it.broker.log, PATIENCE)
        await it.settled()


async def test_buffers_that_have_grown_for_a_message_and_are_idle_since():
    """They are given back; nobody is closed for them."""
    data = frames.frame(frames.TEXT, b"x" * 60_000) * 3
    async with without_a_backend(1500, "--queue-size=0") as (it, socks):
        for first in range(0, 1500, 100):
            await it.push(*((sock, data) for sock in socks[first : first + 100]), until_read=True)
        await it.settled()
        assert "caused most" not in it.broker.log, it.broker.log
