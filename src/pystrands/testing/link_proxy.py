"""A link that fails when the test says so."""

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Final, Literal, Protocol, Self, TypeAlias

from pystrands.testing.threads import BackgroundLoop

__all__ = ["LinkProxy"]

Direction: TypeAlias = Literal["to_broker", "to_backend"]

HOST: Final = "127.0.0.1"
_CHUNK: Final = 65536
_BACKLOG: Final = 100


class Target(Protocol):
    """A broker."""

    @property
    def tcp_port(self) -> int:
        """The port for backends."""
        ...

    @property
    def backend_count(self) -> int:
        """How many backends are connected."""
        ...

    def ws_url(self, path: str = "/") -> str:
        """Return the URL for WebSocket clients."""
        ...


class LinkProxy:
    """A TCP proxy between backends and a broker, whose connections a test can cut, halt and refuse.

    ``with LinkProxy(broker) as link, backend_thread(link, Chat):`` and the same with ``async with``: it leads to
    ``broker``, and is a broker to whatever takes one. It runs on a thread of its own; its methods may be called from
    any other, take effect before they return, and need no ``await``.
    """

    def __init__(self, broker: Target) -> None:
        self._target = broker
        self._thread: BackgroundLoop | None = None
        self._relay: _Relay

    def __enter__(self) -> Self:
        """Start it."""
        self._thread = BackgroundLoop("pystrands-link-proxy")
        try:
            self._relay = self._thread.call(_Relay, self._target.tcp_port)
            self._thread.run(self._relay.accept)
        except BaseException:
            self._thread.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it and its connections."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.run(self._relay.end)
            finally:
                thread.stop()

    async def __aenter__(self) -> Self:
        """Start it."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it and its connections."""
        self.__exit__(kind, error, trace)

    @property
    def tcp_port(self) -> int:
        """The port for backends."""
        return self._relay.port

    @property
    def backend_count(self) -> int:
        """How many backends the broker has, those that come directly included."""
        return self._target.backend_count

    def ws_url(self, path: str = "/") -> str:
        """Return the broker's own URL for WebSocket clients.

        ``path``: where in the broker, with a slash at its beginning; it may have a query.
        """
        return self._target.ws_url(path)

    @property
    def connections(self) -> int:
        """How many connections go through it now."""
        return self._running.call(lambda: len(self._relay.pairs))

    @property
    def cuts(self) -> int:
        """How many connections :meth:`cut` and :meth:`cut_after` have ended."""
        return self._running.call(lambda: self._relay.cuts)

    def cut(self) -> None:
        """Reset all connections now. What is on its way is lost. Backends may connect again at once."""
        self._running.call(self._relay.cut)

    def cut_after(self, count: int, direction: Direction = "to_broker") -> None:
        """Let ``count`` more bytes go in one direction, over all connections, then end the one that has more.

        ``direction``: ``"to_broker"`` or ``"to_backend"``. The receiver gets these bytes, which may end within a line;
        the rest never arrives. Counts once.
        """
        if count < 0:
            raise ValueError(f"count is a number of bytes, not {count}")
        self._running.call(self._relay.budget.__setitem__, direction, count)

    def pause(self) -> None:
        """Forward nothing, and end nothing: silence, as when a cable is pulled. Data waits for :meth:`resume`."""
        self._running.call(self._relay.flowing.clear)

    def resume(self) -> None:
        """Forward again."""
        self._running.call(self._relay.flowing.set)

    def refuse(self) -> None:
        """Refuse new connections; those that there are go on."""
        self._running.call(self._relay.refuse)

    def accept(self) -> None:
        """Accept connections again, on the same port."""
        self._running.run(self._relay.accept)

    @property
    def _running(self) -> BackgroundLoop:
        if self._thread is None:
            raise RuntimeError("the proxy does not run; use it in a with statement")
        return self._thread


class _Relay:
    """The proxy on its event loop."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._sock = _bound(0)
        self.port: int = self._sock.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.budget: dict[str, int] = {}
        self.cuts = 0

    async def accept(self) -> None:
        """Listen."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, sock=self._sock, backlog=_BACKLOG)

    def refuse(self) -> None:
        """Listen no more, and keep the port."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._sock = _bound(self.port)  # bound and not listening: who connects is refused

    def cut(self) -> None:
        """Reset everything."""
        for pair in self.pairs:
            self.cuts += 1
            for writer in pair:
                _reset(writer)

    async def end(self) -> None:
        """End everything."""
        self.refuse()
        self._sock.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            there, to_broker = await asyncio.open_connection(HOST, self._target)
        except OSError:
            _reset(writer)
            return
        pair = (writer, to_broker)
        self.pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, to_broker, "to_broker"))
                group.create_task(self._pump(there, writer, "to_backend"))
        except* OSError:  # one side is gone: so is the other
            pass
        finally:
            self.pairs.discard(pair)
            for each in pair:
                each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        while data := await reader.read(_CHUNK):
            await self.flowing.wait()
            left = self.budget.get(direction)
            if left is not None and len(data) > left:
                del self.budget[direction]
                writer.write(data[:left])
                self.cuts += 1
                raise ConnectionResetError("cut by the test")
            if left is not None:
                self.budget[direction] = left - len(data)
            writer.write(data)
            await writer.drain()
        await self.flowing.wait()
        with contextlib.suppress(OSError, RuntimeError):  # it is closing already
            writer.write_eof()


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((HOST, port))
    sock.setblocking(False)
    return sock


def _reset(writer: asyncio.StreamWriter) -> None:
    transport = writer.transport
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
