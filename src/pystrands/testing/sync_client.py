"""The WebSocket client of tests without an event loop."""

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from pystrands.headers import Headers
from pystrands.protocol.close_codes import ABNORMAL_CLOSURE
from pystrands.testing import threads
from pystrands.testing.client import TIMEOUT, Client, Expected, HasClients, connect
from pystrands.testing.connection import Closed

__all__ = ["SyncClient", "connect_sync"]


class SyncClient:
    """A WebSocket client under the control of a test without an event loop; made by :func:`connect_sync`.

    Messages that arrive wait until they are taken, in order; pings and the broker's close are answered by a thread in
    the background. In a ``with`` it is closed at the end; when the block fails, at once and without a close frame.

    Timeouts are in seconds. What blocks raises :class:`Closed` when the WebSocket is closed and TimeoutError when the
    time is over; what begins with ``expect`` raises AssertionError in both cases, which says what came instead.
    """

    def __init__(self, client: Client, thread: threads.BackgroundLoop) -> None:
        self._client = client
        self._thread = thread
        self._has_thread = True

    def __enter__(self) -> Self:
        """Give the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it, if it is open."""
        if kind is not None:
            self.abort()
        self.close()

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the backend chose, None when it chose none."""
        return self._client.subprotocol

    @property
    def headers(self) -> Headers:
        """The headers of the answer to the handshake."""
        return self._client.headers

    @property
    def pending(self) -> list[str | bytes]:
        """The messages that have arrived and were not taken."""
        pending: list[str | bytes] = self._call(lambda: self._client.pending)
        return pending

    @property
    def closed(self) -> Closed | None:
        """None while it is open, then what ended it."""
        return self._client.closed

    def send(self, message: str | bytes, *, timeout: float = TIMEOUT) -> None:
        """Send a text or a binary message.

        ``message``: str for a text frame, bytes for a binary one. Raises TypeError on anything else, TimeoutError when
        the broker does not read it within ``timeout`` seconds, :class:`Closed` when the WebSocket is closed.
        """
        self._run(self._client.send, message, timeout=timeout)

    def send_json(self, value: Any, *, timeout: float = TIMEOUT) -> None:
        """Send a value as JSON text.

        ``value``: whatever ``json.dumps`` takes. Raises TimeoutError when the broker does not read it within
        ``timeout`` seconds, :class:`Closed` when the WebSocket is closed.
        """
        self._run(self._client.send_json, value, timeout=timeout)

    def receive(self, timeout: float = TIMEOUT) -> str | bytes:
        """Take the next message, and return it.

        Raises TimeoutError when none comes within ``timeout`` seconds, :class:`Closed` when the WebSocket is closed,
        RuntimeError after :meth:`stop_reading`.
        """
        message: str | bytes = self._run(self._client.receive, timeout)
        return message

    def receive_json(self, timeout: float = TIMEOUT) -> Any:
        """Take the next message, which is JSON, and return its value.

        Raises TimeoutError when none comes within ``timeout`` seconds, :class:`Closed` when the WebSocket is closed,
        ValueError when it is no JSON.
        """
        return self._run(self._client.receive_json, timeout)

    def expect(self, expected: Expected, timeout: float = TIMEOUT, *, skip: bool = False) -> str | bytes:
        """Take the next message, which must be the expected one, and return it.

        ``expected``: a str or bytes that it equals, a compiled pattern that is found in it, or a function that is true
        for it. With ``skip`` other messages are dropped until it comes. Raises AssertionError when something else
        comes, or nothing within ``timeout`` seconds, or the WebSocket is closed; it says what came instead.
        """
        message: str | bytes = self._run(self._client.expect, expected, timeout, skip=skip)
        return message

    def expect_json(self, expected: Any, timeout: float = TIMEOUT) -> Any:
        """Take the next message, which must be JSON of the expected value; return the value.

        ``expected``: a value that it equals, or a function that is true for it. Raises AssertionError when something
        else comes, or nothing within ``timeout`` seconds, or the WebSocket is closed; it says what came instead.
        """
        return self._run(self._client.expect_json, expected, timeout)

    def expect_nothing(self, timeout: float = TIMEOUT) -> None:
        """Make sure that the broker has sent nothing that was not taken.

        It does not sit and wait: the broker answers a ping, and all that it sent before has then arrived. What a
        backend may still be about to send is not covered; let the test see first that the backend is done. Raises
        AssertionError when there is a message, or no answer within ``timeout`` seconds.
        """
        self._run(self._client.expect_nothing, timeout)

    def close(self, code: int = 1000, reason: str = "", *, timeout: float = TIMEOUT) -> None:
        """Close, and block until the connection has ended; does nothing when it has.

        ``code`` (int), ``reason`` (str): what the close frame says. Raises AssertionError when the broker does not do
        its part within ``timeout`` seconds. A client that does not read vanishes.
        """
        if not self._has_thread:
            return
        try:
            self._run(self._client.close, code, reason, timeout=timeout)
        finally:
            self._has_thread = False
            threads.give_back()

    def expect_close(self, code: int | None = None, timeout: float = TIMEOUT) -> Closed:
        """Block until the broker closes the WebSocket, and return how.

        ``code`` (int): the close code that it must have; None: any. Raises AssertionError when it has another one, when
        a message comes before, or when nothing happens within ``timeout`` seconds.
        """
        closed: Closed = self._run(self._client.expect_close, code, timeout)
        return closed

    def abort(self) -> None:
        """Vanish: end the connection at once, with a TCP reset and no close frame."""
        if self._has_thread:
            self._call(self._client.abort)

    def stop_reading(self) -> None:
        """Be a client that does not read, until :meth:`resume_reading`: buffers fill, in the end the broker's.

        The kernel holds up to some MiB before; ``connect_sync(receive_buffer=4096)`` makes that less.
        """
        self._call(self._client.stop_reading)

    def resume_reading(self) -> None:
        """Read again."""
        self._call(self._client.resume_reading)

    def send_frame(
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
        self._run(
            self._client.send_frame,
            opcode, payload, fin=fin, rsv=rsv, masked=masked, length=length, timeout=timeout,
        )  # fmt: skip

    def send_raw(self, data: bytes, *, timeout: float = TIMEOUT) -> None:
        """Send bytes as they are, where a frame should be.

        ``data`` (bytes). Raises TimeoutError when the broker does not read them within ``timeout`` seconds,
        :class:`Closed` when the WebSocket is closed.
        """
        self._run(self._client.send_raw, data, timeout=timeout)

    def ping(self, timeout: float = TIMEOUT) -> None:
        """Send a ping and block for its pong.

        Raises TimeoutError when none comes within ``timeout`` seconds, :class:`Closed` when the WebSocket is closed,
        RuntimeError after :meth:`stop_reading`.
        """
        self._run(self._client.ping, timeout)

    def _run(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self._check()
        return self._thread.run(method, *args, **options)

    def _call(self, function: Callable[[], Any]) -> Any:
        self._check()
        return self._thread.call(function)

    def _check(self) -> None:
        if not self._has_thread:
            raise self._client.closed or Closed(ABNORMAL_CLOSURE, "")


def connect_sync(
    broker: HasClients | str,
    path: str = "/",
    *,
    headers: Mapping[str, str | Iterable[str]] | None = None,
    subprotocols: Iterable[str] = (),
    receive_buffer: int | None = None,
    timeout: float = 10.0,
) -> SyncClient:
    """Connect a WebSocket client, and return it; for ``with``, or to be closed.

    ``broker``: a broker of this package, or the ``ws://host:port`` of any other; it must not run on the calling thread.
    ``path`` may have a query. ``headers``: more of them, or others in place of those that make it a WebSocket request.
    ``subprotocols``: those that it offers. ``receive_buffer``: bytes that the kernel keeps for a client that does not
    read.

    Raises :class:`Rejected` when the answer is not 101, TimeoutError when there is none within ``timeout`` seconds, and
    ConnectionError when the connection fails.
    """
    connecting = connect(
        broker, path, headers=headers, subprotocols=subprotocols, receive_buffer=receive_buffer, timeout=timeout
    )

    async def opening() -> Client:
        return await connecting

    thread = threads.borrow()
    try:
        return SyncClient(thread.run(opening), thread)
    except BaseException:
        threads.give_back()
        raise
