"""A broker that does what a test says: a tiny TCP server on the wire's side of the backends."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds after which a wait means that the test has failed."""


async def soon(awaitable: Awaitable[T]) -> T:
    """Wait for what has to happen."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop turn until ``condition()`` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


def line(action: str, params: dict[str, Any] | None = None, request_id: str = "") -> bytes:
    message = {"action": action, "request_id": request_id, "params": params or {}}
    return json.dumps(message, ensure_ascii=False).encode() + b"\n"


def context(client_id: str = "c1", room_id: str = "r1", metadata: Any = None) -> dict[str, Any]:
    return {"client_id": client_id, "room_id": room_id, "metadata": {} if metadata is None else metadata}


def message(text: str, client_id: str = "c1", **more: Any) -> bytes:
    return line("new_message", {"message": text, "context": context(client_id), **more})


def request(request_id: str = "q1", **params: Any) -> bytes:
    defaults = {"headers": {"X-Token": ["secret"]}, "url": "/lobby", "remote_addr": "1.2.3.4:5"}
    return line("connection_request", defaults | params, request_id)


class Connection:
    """One backend's link, seen from the broker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.hello: dict[str, Any] | None = None

    async def send(self, data: bytes, *, piece: int = 0) -> None:
        """Write ``data``; in reads of ``piece`` bytes each, as far as the kernel lets us."""
        if not piece:
            self.writer.write(data)
            await soon(self.writer.drain())
            return
        for start in range(0, len(data), piece):
            self.writer.write(data[start : start + piece])
            await soon(self.writer.drain())
            await asyncio.sleep(0)

    async def receive(self) -> dict[str, Any]:
        """Return the next command; EOFError at the end. That a backend waits for the hello is no command."""
        while True:
            raw = await soon(self.reader.readline())
            if not raw.endswith(b"\n"):
                raise EOFError(raw)
            decoded: dict[str, Any] = json.loads(raw)
            if decoded["params"] != {"waiting": True}:
                return decoded

    async def texts(self, count: int) -> list[str]:
        """Return the messages of the next ``count`` commands."""
        return [(await self.receive())["params"]["message"] for _ in range(count)]

    async def rest(self) -> list[dict[str, Any]]:
        """Return everything until the backend closes its side."""
        data = await soon(self.reader.read())
        return [json.loads(one) for one in data.splitlines()]

    def pause(self) -> None:
        """Read no more from the socket."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    def cut(self) -> None:
        """Lose the link without a word."""
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()


class _Closing(asyncio.StreamReaderProtocol):
    """Closes its side when the backend closes the other, as brokers do."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False


class FakeBroker:
    """Listens on a port of its own; ``hello`` None says none, ``refuse`` closes each link at once."""

    def __init__(self, *, hello: bool = True, broker_id: str = "broker-1", **more: Any) -> None:
        self.says_hello = hello
        self.broker_id = broker_id
        self.hello_params = {"protocol": 1, "binary": True, "max_message_size": 1000} | more
        self.first = b""
        """Written before, or instead of, the hello."""
        self.refuse = False
        self.refused = 0
        self.port = 0
        self.links: asyncio.Queue[Connection] = asyncio.Queue()
        self.connections: list[Connection] = []
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def where(self) -> dict[str, Any]:
        """The arguments of a client's constructor."""
        return {"host": "127.0.0.1", "port": self.port}

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Closing(asyncio.StreamReader(2**24), self._accept), "127.0.0.1", self.port
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, and close every link."""
        if self._server is not None:
            self._server.close()
        for connection in self.connections:
            connection.cut()
            with contextlib.suppress(OSError):
                await connection.writer.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        self.connections.append(connection)
        if self.refuse:
            self.refused += 1
            connection.cut()
            return
        if self.first:
            await connection.send(self.first)
        if self.says_hello:
            await connection.send(line("hello", self.hello_params | {"broker_id": self.broker_id}))
            try:
                connection.hello = await connection.receive()
            except (EOFError, OSError):
                return
        self.links.put_nowait(connection)

    async def link(self) -> Connection:
        """Return the next link that is up."""
        return await soon(self.links.get())


class BrokerThread:
    """A FakeBroker on a loop of its own, for clients that block."""

    def __init__(self, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.broker = FakeBroker(**options)

    def run(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaitable, self.loop).result(PATIENCE)

    def __enter__(self) -> Self:
        self.run(self.broker.start())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.broker.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()

    @property
    def address(self) -> tuple[str, int]:
        return self.broker.address

    @property
    def where(self) -> dict[str, Any]:
        return self.broker.where

    def link(self) -> Connection:
        connection: Connection = self.run(self.broker.link())
        return connection
