"""The WebSocket client of async tests."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from contextlib import asynccontextmanager
from ssl import SSLContext, create_default_context
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeAlias
from urllib.parse import urlsplit

from pystrands.client.connection import dial
from pystrands.headers import Headers
from pystrands.testing import frames
from pystrands.testing.connection import Closed, Connection, Rejected

__all__ = ["Client", "Connecting", "Expected", "HasClients", "connect"]

Expected: TypeAlias = str | bytes | re.Pattern[str] | Callable[[Any], object]
"""A message, a pattern that is searched for in a text, or a function that says whether this is it."""

TIMEOUT: Final = 5.0
_SHOWN: Final = 300


class HasClients(Protocol):
    """What WebSocket clients can connect to: any broker of this package."""

    def ws_url(self, path: str = "/") -> str:
        """Return the URL of a path."""
        ...


class Client:
    """A WebSocket client under a test's control; made by :func:`connect`.

    Messages that arrive wait until they are taken, in order. Pings and the broker's close are answered by themselves.
    In an ``async with`` it is closed at the end; when the block fails, at once and without a close frame.

    Timeouts are in seconds. What waits raises :class:`Closed` when the WebSocket is closed and TimeoutError when the
    time is over; what begins with ``expect`` raises AssertionError in both cases, which says what came instead.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pings = 0

    async def __aenter__(self) -> Self:
        """Give the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, if it is open."""
        if kind is not None:
            self.abort()
        await self.close()

    # --- what it is like ---

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the backend chose, None when it chose none."""
        chosen = self._connection.headers.get("Sec-WebSocket-Protocol")
        return str(chosen[0]) if chosen else None

    @property
    def headers(self) -> Headers:
        """The headers of the answer to the handshake."""
        return self._connection.headers

    @property
    def pending(self) -> list[str | bytes]:
        """The messages that have arrived and were not taken."""
        return list(self._connection.inbox)

    @property
    def closed(self) -> Closed | None:
        """None while it is open, then what ended it: ``client.closed.code``."""
        return self._connection.closed

    # --- messages ---

    async def send(self, message: str | bytes, *, timeout: float = TIMEOUT) -> None:
        """Send a text or a binary message.

        ``message``: str for a text frame, bytes for a binary one. Raises TypeError on anything else, TimeoutError when
        the broker does not read it within ``timeout`` seconds, :class:`Closed` when the WebSocket is closed.
        """
        if not isinstance(message, str | bytes):
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}; send_json() takes most values")
        opcode = frames.TEXT if isinstance(message, str) else frames.BINARY
        payload = message.encode() if isinstance(message, str) else message
        await self.send_raw(frames.frame(opcode, payload), timeout=timeout)

    async def send_json(self, value: Any, *, timeout: float = TIMEOUT) -> None:
        """Send a value as JSON text.

        ``value``: whatever ``json.dumps`` takes. Raises TimeoutError when the broker does not read it within
        ``timeout`` seconds, :class:`Closed` when the WebSocket is closed.
        """
        await self.send(json.dumps(value), timeout=timeout)

    async def receive(self, timeout: float = TIMEOUT) -> str | bytes:
        """Take the next message, and return it.

        Raises TimeoutError when none comes within ``timeout`` seconds, :class:`Closed` when the WebSocket is closed,
        RuntimeError after :meth:`stop_reading`.
        """
        connection = self._connection
        self._check_reading()
        async with asyncio.timeout(timeout):
            await connection.wait(lambda: connection.inbox or connection.closed)
        if connection.inbox:
            return connection.inbox.popleft()
        assert connection.closed is not None
        raise connection.closed

    async def receive_json(self, timeout: float = TIMEOUT) -> Any:
        """Take the next message, which is JSON, and return its value.

        Raises TimeoutError when none comes within ``timeout`` seconds, :class:`Closed` when the WebSocket is closed,
        ValueError when it is no JSON.
        """
        return json.loads(await self.receive(timeout))

    async def expect(self, expected: Expected, timeout: float = TIMEOUT, *, skip: bool = False) -> str | bytes:
        """Take the next message, which must be the expected one, and return it.

        ``expected``: a str or bytes that it equals, a compiled pattern that is found in it, or a function that is true
        for it. With ``skip`` other messages are dropped until it comes. Raises AssertionError when something else
        comes, or nothing within ``timeout`` seconds, or the WebSocket is closed; it says what came instead.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        skipped = 0
        while True:
            message = await self._expected(_describe(expected), end - loop.time(), timeout, skipped)
            if _matches(expected, message):
                return message
            if not skip:
                raise AssertionError(f"expected {_describe(expected)}, and {_shown(message)} came")
            skipped += 1

    async def expect_json(self, expected: Any, timeout: float = TIMEOUT) -> Any:
        """Take the next message, which must be JSON of the expected value; return the value.

        ``expected``: a value that it equals, or a function that is true for it. Raises AssertionError when something
        else comes, or nothing within ``timeout`` seconds, or the WebSocket is closed; it says what came instead.
        """
        what = _describe(expected) if callable(expected) else f"the JSON of {_shown(expected)}"
        message = await self._expected(what, timeout, timeout, 0)
        try:
            value = json.loads(message)
        except ValueError:
            raise AssertionError(f"expected {what}, and {_shown(message)} came, which is no JSON") from None
        if not (expected(value) if callable(expected) else value == expected):
            raise AssertionError(f"expected {what}, and {_shown(value)} came")
        return value

    async def expect_nothing(self, timeout: float = TIMEOUT) -> None:
        """Make sure that the broker has sent nothing that was not taken.

        It does not sit and wait: the broker answers a ping, and all that it sent before has then arrived. What a
        backend may still be about to send is not covered; let the test see first that the backend is done. Raises
        AssertionError when there is a message, or no answer within ``timeout`` seconds.
        """
        try:
            await self.ping(timeout)
        except TimeoutError:
            raise AssertionError(f"expected no message, and the broker answered no ping within {timeout:g} s") from None
        except Closed as closed:
            if not self._connection.inbox:
                raise AssertionError(f"expected no message, and {closed}") from None
        if self._connection.inbox:
            raise AssertionError(f"expected no message, and {_shown(self._connection.inbox[0])} came")

    async def _expected(self, what: str, left: float, timeout: float, skipped: int) -> str | bytes:
        others = f" ({skipped} other messages came)" if skipped else ""
        try:
            return await self.receive(left)
        except TimeoutError:
            raise AssertionError(f"expected {what} within {timeout:g} s, and nothing came{others}") from None
        except Closed as closed:
            raise AssertionError(f"expected {what}, and {closed}{others}") from None

    # --- the end ---

    async def close(self, code: int = 1000, reason: str = "", *, timeout: float = TIMEOUT) -> None:
        """Close, and wait until the connection has ended; does nothing when it has.

        ``code`` (int), ``reason`` (str): what the close frame says. Raises AssertionError when the broker does not do
        its part within ``timeout`` seconds. A client that does not read vanishes.
        """
        if not self._connection.is_reading:
            self.abort()
        try:
            async with asyncio.timeout(timeout):
                await self._connection.close(code, reason)
        except TimeoutError:
            self.abort()
            raise AssertionError(f"the broker did not complete the close within {timeout:g} s") from None

    async def expect_close(self, code: int | None = None, timeout: float = TIMEOUT) -> Closed:
        """Wait until the broker closes the WebSocket, and return how.

        ``code`` (int): the close code that it must have; None: any. Raises AssertionError when it has another one, when
        a message comes before, or when nothing happens within ``timeout`` seconds.
        """
        what = "a close" if code is None else f"a close with {code}"
        connection = self._connection
        self._check_reading()
        try:
            async with asyncio.timeout(timeout):
                await connection.wait(lambda: connection.inbox or connection.closed)
        except TimeoutError:
            raise AssertionError(f"expected {what} within {timeout:g} s, and nothing came") from None
        if connection.inbox:
            raise AssertionError(f"expected {what}, and {_shown(connection.inbox[0])} came")
        assert connection.closed is not None
        if code not in {None, connection.closed.code}:
            raise AssertionError(f"expected {what}, and {connection.closed}")
        return connection.closed

    # --- faults ---

    def abort(self) -> None:
        """Vanish: end the connection at once, with a TCP reset and no close frame."""
        self._connection.abort()

    def stop_reading(self) -> None:
        """Be a client that does not read, until :meth:`resume_reading`: buffers fill, in the end the broker's.

        The kernel holds up to some MiB before; ``connect(receive_buffer=4096)`` makes that less.
        """
        self._connection.pause()

    def resume_reading(self) -> None:
        """Read again."""
        self._connection.resume()

    async def send_frame(
        self,
        opcode: int,
        payload: bytes = b"",
        *,
        fin: bool = True,
        rsv: int = 0,
        masked: bool = True,
        length: int | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """Send one frame as it is given, right or wrong.

        ``opcode`` (int), ``payload`` (bytes), ``fin``, ``rsv`` (int), ``masked``: its parts. ``length`` (bytes): is
        announced in place of the payload's own; None: that. Raises TimeoutError when the broker does not read it within
        ``timeout`` seconds, :class:`Closed` when the WebSocket is closed.
        """
        data = frames.frame(opcode, payload, fin=fin, rsv=rsv, masked=masked, length=length)
        await self.send_raw(data, timeout=timeout)

    async def send_raw(self, data: bytes, *, timeout: float = TIMEOUT) -> None:
        """Send bytes as they are, where a frame should be.

        ``data`` (bytes). Raises TimeoutError when the broker does not read them within ``timeout`` seconds,
        :class:`Closed` when the WebSocket is closed.
        """
        async with asyncio.timeout(timeout):
            await self._connection.write(data)

    async def ping(self, timeout: float = TIMEOUT) -> None:
        """Send a ping and wait for its pong.

        Raises TimeoutError when none comes within ``timeout`` seconds, :class:`Closed` when the WebSocket is closed,
        RuntimeError after :meth:`stop_reading`.
        """
        connection = self._connection
        self._check_reading()
        self._pings += 1
        payload = b"%d" % self._pings
        await self.send_frame(frames.PING, payload, timeout=timeout)
        async with asyncio.timeout(timeout):
            await connection.wait(lambda: payload in connection.pongs or connection.closed)
        if payload not in connection.pongs:
            assert connection.closed is not None
            raise connection.closed
        connection.pongs.discard(payload)

    def _check_reading(self) -> None:
        if not self._connection.is_reading:
            raise RuntimeError("this client has stopped reading; call resume_reading() first")


def _matches(expected: Expected, message: str | bytes) -> bool:
    if isinstance(expected, re.Pattern):
        return isinstance(message, str) and expected.search(message) is not None
    if callable(expected):
        return bool(expected(message))
    return type(expected) is type(message) and expected == message


def _describe(expected: Any) -> str:
    if isinstance(expected, re.Pattern):
        return f"a text with /{expected.pattern}/"
    if callable(expected):
        return f"a message for which {getattr(expected, '__qualname__', expected)} is true"
    return _shown(expected)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


# --- connecting --------------------------------------------------------------------------------------------------


class Connecting:
    """What :func:`connect` returns: await it for a client, or use it in ``async with``."""

    def __init__(self, opening: Callable[[], Any]) -> None:
        self._opening = opening
        self._client: Client | None = None

    def __await__(self) -> Generator[Any, None, Client]:
        """Connect."""
        client: Client = yield from self._opening().__await__()
        return client

    async def __aenter__(self) -> Client:
        """Connect."""
        self._client = await self
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client, if it is open."""
        if self._client is not None:
            await self._client.__aexit__(kind, error, trace)


def connect(
    broker: HasClients | str,
    path: str = "/",
    *,
    headers: Mapping[str, str | Iterable[str]] | None = None,
    subprotocols: Iterable[str] = (),
    receive_buffer: int | None = None,
    ssl: SSLContext | None = None,
    timeout: float = 10.0,
) -> Connecting:
    """Return what connects a WebSocket client: await it, or use it in ``async with``.

    For example ``client = await connect(broker, "/room")``, or ``async with connect(broker, "/room") as client:``.

    ``broker``: a broker of this package, or the ``ws://host:port`` of any other. ``path`` may have a query. With
    ``wss://`` ``ssl`` says whom to trust; without it these are the system's authorities. ``headers``: more of them, or
    others in place of those that make it a WebSocket request. ``subprotocols``: those that it offers.
    ``receive_buffer``: bytes that the kernel keeps for a client that does not read.

    Raises :class:`Rejected` when the answer is not 101, TimeoutError when there is none within ``timeout`` seconds, and
    ConnectionError when the connection fails.
    """
    base = broker.rstrip("/") if isinstance(broker, str) else broker.ws_url("/").rstrip("/")
    where = urlsplit(base)
    if where.scheme not in {"ws", "wss"} or not where.hostname:
        raise ValueError(f"a broker's address looks like ws://127.0.0.1:8080, not {base!r}")
    if not path.startswith("/"):
        raise ValueError(f"a path begins with a slash: {path!r}")
    tls = (ssl or create_default_context()) if where.scheme == "wss" else None
    host, port, target = where.hostname, where.port or (443 if tls else 80), where.path + path

    async def opening() -> Client:
        async with asyncio.timeout(timeout), _connected(host, port, timeout, receive_buffer, tls) as connection:
            await connection.write(
                frames.upgrade_request(where.netloc, target, connection.key, headers or {}, subprotocols)
            )
            await connection.wait(connection.is_answered)
            if connection.status is None:
                raise ConnectionError(f"the broker ended the connection without an answer: {connection.closed}")
            if connection.status != 101:
                raise Rejected(connection.status, connection.headers, connection.body)
            return Client(connection)

    return Connecting(opening)


@asynccontextmanager
async def _connected(
    host: str, port: int, timeout: float, receive_buffer: int | None, tls: SSLContext | None
) -> AsyncIterator[Connection]:
    """Give a connection; end it when the block fails."""
    loop = asyncio.get_running_loop()

    def prepare(sock: socket.socket) -> None:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

    sock = await dial.connect(loop, host, port, timeout, prepare)
    try:
        _, connection = await loop.create_connection(
            Connection, sock=sock, ssl=tls, server_hostname=host if tls else None
        )
    except BaseException:
        sock.close()
        raise
    try:
        yield connection
    except BaseException:
        connection.abort()
        raise
