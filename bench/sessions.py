"""Clients that come back: ``python -m bench.sessions``.

How long it takes to resume with a hundred messages to be replayed; how long when 10,000 come back at once, and what a
client takes of the broker's memory while it is here and while it is away.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from rich.console import Console
from rich.progress import Progress

from bench.growth_report import session_tables
from bench.measure import Run
from bench.processes import BUILD, memory
from bench.report import table, write_docs
from bench.results import Results, machine
from bench.sides import pystrands
from pystrands.protocol.v1.envelope import server_header, split, welcome_of
from pystrands.protocol.v1.offer import Resume, offered
from pystrands.testing.frames import TEXT, frame

MISSED = 100
RESUMES = 200
MANY = 10_000
AT_ONCE = 200
"""Handshakes that are under way at a time while everybody connects first."""
_HANDSHAKE = (
    "GET /{room} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: {subprotocols}\r\n\r\n"
)


class Member(asyncio.BufferedProtocol):
    """A client that says that it has seen the welcome, counts what is replayed, and can go and come back."""

    def __init__(self, number: int) -> None:
        self._room = f"room-{number // 10}"
        self._buffer = bytearray(65536)
        self._bytes = b""
        self._is_open = False
        self._attempt = 0
        self._here: asyncio.Future[None] | None = None
        self._due = 0
        self._k = 0
        self.session = ""
        self.seen = 0
        self.transport: asyncio.Transport | None = None

    async def connect(self, port: int, due: int = 0) -> None:
        """Connect, or resume, until the welcome and ``due`` messages have come."""
        loop = asyncio.get_running_loop()
        self._bytes, self._is_open, self._due = b"", False, due
        self._here = loop.create_future()
        self._attempt += 1
        resume = Resume(self.session, self._attempt, self.seen) if self.session else None
        subprotocols = ", ".join(offered(None, resume))
        own = f"127.0.0.{1 + self._attempt % 200}"  # each time another one: ports that were used a minute ago wait
        await loop.create_connection(lambda: self, "127.0.0.1", port, local_addr=(own, 0))
        assert self.transport is not None
        self.transport.write(_HANDSHAKE.format(room=self._room, subprotocols=subprotocols).encode())
        await self._here

    def say(self, text: str) -> None:
        """Send a message to the room."""
        self._k += 1
        self._write(f'{{"k":{self._k}}}\n{text}')

    async def hear(self, due: int) -> None:
        """Wait for so many messages from now on."""
        self._due, self._here = due, asyncio.get_running_loop().create_future()
        await self._here

    def _write(self, text: str) -> None:
        assert self.transport is not None
        self.transport.write(frame(TEXT, text.encode()))

    def cut(self) -> None:
        """Lose the connection."""
        assert self.transport is not None
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Fail where it was not expected."""
        if self._here is not None and not self._here.done():
            self._here.set_exception(error or ConnectionError("closed before the welcome"))

    def get_buffer(self, _hint: int) -> bytearray:
        """Give the buffer."""
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        """Read what there is of short unmasked frames."""
        data = self._bytes + self._buffer[:size]
        at = 0
        if not self._is_open:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._bytes = data
                return
            assert data.startswith(b"HTTP/1.1 101"), data[:100]
            self._is_open, at = True, end + 4
        while len(data) - at >= 4:
            length, head = data[at + 1], 2
            if length == 126:
                length, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
            if len(data) - at < head + length:
                break
            self._take(data[at + head : at + head + length].decode())
            at += head + length
        self._bytes = data[at:]

    def _take(self, text: str) -> None:
        header, body = split(text)
        if '"welcome"' in header:
            welcome = welcome_of(header)
            if self.session:
                assert welcome.resumed, "the session was lost"
            else:
                self.seen = welcome.n
            self.session = welcome.session
            self._write(f'{{"seen":{self.seen}}}')
        elif body is not None:
            self.seen = server_header(header).n or self.seen
            self._due -= 1
        if self._due <= 0 and self.session and self._here is not None and not self._here.done():
            self._here.set_result(None)


async def _each(members: list[Member], what: Callable[[Member], Awaitable[None]]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(member: Member) -> None:
        async with gate:
            await what(member)

    await asyncio.gather(*(one(member) for member in members))


async def resumes(port: int, _broker: int) -> dict[str, float]:
    """Have one client come back again and again, each time with messages to be replayed; return how long it takes."""
    speaker, listener = Member(0), Member(1)
    await speaker.connect(port)
    await listener.connect(port)
    took: list[float] = []
    for _ in range(RESUMES):
        listener.cut()
        for _ in range(MISSED):
            speaker.say("x" * 40)
        await speaker.hear(MISSED)
        begun = time.perf_counter()
        await listener.connect(port, MISSED)
        took.append(1e3 * (time.perf_counter() - begun))
    return {"p50": statistics.median(took), "p99": statistics.quantiles(took, n=100)[98]}


async def here(port: int, broker: int) -> dict[str, float]:
    """Have many connect; return the bytes that each takes."""
    before = memory(broker)
    members = [Member(number) for number in range(MANY)]
    await _each(members, lambda member: member.connect(port))
    await asyncio.sleep(1)
    taken = memory(broker) - before
    for member in members:
        member.cut()
    return {"bytes": taken / MANY}


async def away(port: int, broker: int) -> dict[str, float]:
    """Have many come and go, few at a time; return the bytes that each takes, and how long all take to come back."""
    before = memory(broker)
    members = [Member(number) for number in range(MANY)]

    async def come_and_go(member: Member) -> None:
        await member.connect(port)
        member.cut()

    await _each(members, come_and_go)
    await asyncio.sleep(2)
    taken = memory(broker) - before
    begun = time.perf_counter()
    await _each(members, lambda member: member.connect(port))
    seconds = time.perf_counter() - begun
    for member in members:
        member.cut()
    return {"bytes": taken / MANY, "seconds": seconds}


def measured() -> Run:
    """Run all of it once, each with a broker of its own."""
    run: Run = {}
    for part in (resumes, here, away):
        with pystrands()(BUILD / "sessions.log") as running:
            (port,) = running.ports
            run[part.__name__] = asyncio.run(part(port, running.processes["broker"]))
    return run


def show(console: Console, results: Results) -> None:
    """Print what was measured."""
    for each in session_tables(results):
        console.print(table(each.heads, each.rows, each.title))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.sessions", description="Clients that come back.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write tables into README and docs")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    BUILD.mkdir(exist_ok=True)
    results = Results()
    runs: list[Any] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("clients that come back", total=options.rounds)
        for _ in range(options.rounds):
            runs.append(measured())
            progress.advance(task)
    results.growth["sessions"] = runs
    results.about["sessions"] = {**machine(), "rounds": options.rounds}
    results.save()
    show(console, results)
    if options.write:
        for path in write_docs(results):
            console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
