"""Clients over raw sockets: each life is one of a good client, or of one of the kinds that misbehave."""

import asyncio
import contextlib
import socket
import struct
import time
from collections import Counter

from tests.broker.ws.support import BINARY, CLOSE, CONT, PING, TEXT, close, frame, upgrade

LARGEST = 16384
OPTIONS = {
    "max_message_size": LARGEST, "client_buffer": 65536, "client_message_rate": 200.0, "client_rate_policy": "close",
    "handshake_timeout": 1.5, "message_timeout": 1.5, "close_timeout": 1.0, "ping_interval": 2.0, "compression": True,
    "slow_client_time": 0.5,
}  # fmt: skip
"""The broker's: so low that a life of seconds meets the limits."""
GONE = (ConnectionError, asyncio.IncompleteReadError)
PATIENCE = 60
SMALL = 4096
LINGER_0 = struct.pack("ii", 1, 0)
PROTOCOL, UTF_8, POLICY, TOO_BIG, OVERLOADED = 1002, 1007, 1008, 1009, 1013
BAD_FRAMES = (
    (frame(11), PROTOCOL),
    (frame(TEXT, rsv=2), PROTOCOL),
    (frame(TEXT, "x", mask=False), PROTOCOL),
    (frame(CONT), PROTOCOL),
    (frame(TEXT, b"\xff"), UTF_8),
    (close(5), PROTOCOL),
)
"""With the codes that they are closed with."""
NO_REQUESTS = (
    (b"\x16\x03\x01\x02", 0),
    (b"hello\r\n\r\n", 400),
    (upgrade(host=None), 400),
    (b"G" * 40_000, 431),
)
"""With the status of the answer; who speaks TLS would not understand one."""


class Client:
    """A connection whose frames are made by hand."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    async def head(self):
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)

    async def status(self):
        """Return the HTTP status that the broker ends the connection with, 0 where there was none."""
        answer = await asyncio.wait_for(self.reader.read(), PATIENCE)
        return int(answer.split(b" ", 2)[1] if answer else 0)

    async def frame(self):
        return await asyncio.wait_for(self._frame(), PATIENCE)

    async def _frame(self):
        first, size = await self.reader.readexactly(2)
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2), "big")
        return first & 15, await self.reader.readexactly(size)

    async def reply(self):
        """The next message that is no room's; pings are answered."""
        while True:
            opcode, payload = await self.frame()
            if opcode == PING:
                self.writer.write(frame(10, payload))
            elif not payload.startswith(b"room "):
                return opcode, payload

    async def to_end(self):
        """Wait until the broker has closed; return the code of its close frame, 1006 where there was none."""
        try:
            while True:
                opcode, payload = await self.frame()
                if opcode == CLOSE:
                    return int.from_bytes(payload[:2], "big")
        except GONE:
            return 1006

    def reset(self):
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        self.writer.transport.abort()


class Crowd:
    """``size`` clients at once, each living one life after the other until ``seconds`` are over; seeded."""

    def __init__(self, port, rng, pace):
        self.port = port
        self.rng = rng
        self.pace = pace
        """Seconds that a pause lasts at most."""
        self.lives = Counter()
        self.codes = Counter()
        """How often a kind of life was told a code or a status."""
        self.wrong = Counter()
        """Those of them that were others than they should be."""
        self._turns = Counter()
        self.bad = [self.vanish, self.half_handshake, self.no_http, self.bad_frame, self.oversized, self.never_sent,
                    self.fragments, self.no_reading, self.pings, self.chatter, self.end_of_stream]  # fmt: skip

    async def run(self, size, seconds):
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(size):
                group.create_task(self.live_until(end))

    async def each_life(self):
        """Live a life of each kind, all at once."""
        async with asyncio.TaskGroup() as group:
            for life in (self.good, *self.bad):
                group.create_task(self.live(life))

    async def live_until(self, end):
        await self.pause()
        while time.monotonic() < end:
            await self.live(self.good if self.rng.random() < 0.4 else self.rng.choice(self.bad))

    async def live(self, life):
        async with self.connection() as client:
            if life == self.good:
                await life(client)
            else:
                with contextlib.suppress(*GONE):  # the broker may have been faster
                    await life(client)
        self.lives[life.__name__] += 1

    def next_of(self, life, choices):
        """Choose each in turn, so that a short run has them all."""
        self._turns[life] += 1
        return choices[self._turns[life] % len(choices)]

    async def pause(self):
        await asyncio.sleep(self.rng.uniform(0, self.pace))

    @contextlib.asynccontextmanager
    async def connection(self):
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=SMALL)
        try:
            yield Client(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def enter(self, client, **headers):
        client.writer.write(upgrade(f"/{self.rng.randrange(50)}", **headers))
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 101 "), head

    # --- lives ---

    async def good(self, client):
        """It gets an answer to everything, whatever others do."""
        await self.enter(client)
        for number in range(self.rng.randrange(1, 6)):
            if self.rng.random() < 0.2:
                client.writer.write(frame(TEXT, f"room {number}"))
            payload = b"%d " % number + b"x" * self.rng.choice((0, 10, 200, 10_000))
            opcode = self.rng.choice((TEXT, BINARY))
            client.writer.write(frame(opcode, payload))
            assert await client.reply() == (opcode, payload)
            await self.pause()
        client.writer.write(close(1000))
        assert await client.reply() == (CLOSE, b"\x03\xe8")

    async def vanish(self, client):
        await self.enter(client, sec_websocket_extensions=self.rng.choice((None, "permessage-deflate")))
        for _ in range(self.rng.randrange(4)):
            client.writer.write(frame(TEXT, "x" * self.rng.randrange(3000)))
            await self.pause()
        if self.rng.random() < 0.5:
            client.reset()

    def told(self, life, code, right):
        self.codes[life, code] += 1
        if code != right:
            self.wrong[life, code, right] += 1

    async def closed(self, client, life, right, *, or_cut=False):
        """Wait for the end. ``or_cut``: on a busy machine the keep-alive may be sooner, or we too late to be told."""
        code = await client.to_end()
        self.told(life, code, code if or_cut and code == 1006 else right)

    async def half_handshake(self, client):
        head = upgrade()
        client.writer.write(head[: self.rng.randrange(1, len(head))])
        if self.next_of("half_handshake", (True, False)):
            await self.pause()
        else:
            self.told("half_handshake", await client.status(), 408)

    async def no_http(self, client):
        data, status = self.next_of("no_http", NO_REQUESTS)
        client.writer.write(data)
        self.told("no_http", await client.status(), status)

    async def bad_frame(self, client):
        await self.enter(client)
        data, code = self.next_of("bad_frame", BAD_FRAMES)
        client.writer.write(frame(TEXT, "right") + data)
        await self.closed(client, "bad_frame", code)

    async def oversized(self, client):
        await self.enter(client)
        client.writer.write(frame(BINARY, b"x" * (LARGEST + 1)))
        await self.closed(client, "oversized", TOO_BIG)

    async def never_sent(self, client):
        await self.enter(client)
        client.writer.write(frame(BINARY, b"x" * 16_000)[: self.rng.randrange(3, 16_000)])
        await self.closed(client, "never_sent", POLICY)

    async def fragments(self, client):
        await self.enter(client)
        client.writer.write(frame(TEXT, "x", fin=False))
        for _ in range(200):
            client.writer.write(frame(CONT, b"x", fin=False))
            await client.writer.drain()
        await self.closed(client, "fragments", POLICY)

    async def no_reading(self, client):
        await self.enter(client)
        client.writer.write(frame(TEXT, "flood") * 5)
        await asyncio.sleep(2 * self.pace)
        if self.next_of("no_reading", (True, False)):
            client.reset()
        else:
            await self.closed(client, "no_reading", OVERLOADED, or_cut=True)

    async def pings(self, client):
        await self.enter(client)
        client.writer.write(frame(PING, b"x" * 100) * 3000)
        await asyncio.wait_for(client.writer.drain(), PATIENCE)
        await self.closed(client, "pings", POLICY)

    async def chatter(self, client):
        await self.enter(client)
        client.writer.write(frame(TEXT, "chat") * 1000)
        await self.closed(client, "chatter", POLICY, or_cut=True)

    async def end_of_stream(self, client):
        await self.enter(client)
        client.writer.write(frame(TEXT, "last") + b"\x81")
        client.writer.write_eof()
        await self.closed(client, "end_of_stream", 1006)
