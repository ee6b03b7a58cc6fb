"""A port that speaks TLS: its handshakes are bounded in number and in time."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

import aiofastnet

from pystrands.broker.counters import Counters
from pystrands.broker.tls import Tls
from pystrands.protocol.printable import printable

__all__ = ["TlsServer"]

logger = logging.getLogger(__name__)

_BIO: Final = 16_384
"""Bytes of each of a connection's two TLS buffers: the size of a record, and the least that there can be."""
_ACCEPTED_AT_ONCE: Final = 64
_FULL: Final = 0.01
"""Seconds between two looks whether there is room for another handshake."""
_RETRY: Final = 0.1
"""Seconds until the next attempt when no connection can be accepted, for want of descriptors or memory."""


class TlsServer:
    """Accepts connections and makes protocols of those whose TLS handshake is done within ``handshake_timeout``.

    It is what an ``asyncio.Server`` is, in so far as the broker uses one. Those of the event loops and of aiofastnet
    tell nobody of a connection before its TLS handshake is done, and let anybody have as many of those as there are
    descriptors. Here there are ``max_handshakes``: more wait in the kernel, until one is done or the oldest has taken a
    quarter of its time, which is more than an honest client needs: it gives way. Times are in seconds. Counted as
    ``tls_handshake_failed`` and ``tls_handshake_displaced``.
    """

    def __init__(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        tls: Tls,
        *,
        handshake_timeout: float,
        shutdown_timeout: float,
        max_handshakes: int,
        counters: Counters,
    ) -> None:
        self._factory = factory
        self._tls = tls
        self._handshake_timeout = handshake_timeout
        self._shutdown_timeout = shutdown_timeout
        self._max_handshakes = max_handshakes
        self._counters = counters
        self._sockets: list[socket.socket] = []
        self._unmute: Callable[[], None] | None = None
        self._acceptors: list[asyncio.Task[None]] = []
        self._handshakes: dict[socket.socket, float] = {}  # since when, the oldest first
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """What it listens on."""
        return tuple(self._sockets)

    @property
    def handshakes(self) -> int:
        """How many TLS handshakes are in flight."""
        return len(self._handshakes)

    async def listen(self, host: str, port: int, backlog: int) -> None:
        """Listen on all addresses of ``host``. Raises OSError, and then listens on none."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, address in dict.fromkeys((each[0], each[4]) for each in found):
                sock = socket.create_server(address, family=family, backlog=backlog)
                sock.setblocking(False)
                self._sockets.append(sock)
        except BaseException:
            for sock in self._sockets:
                sock.close()
            raise
        self._unmute = _mute_ends_of_handshakes(loop)
        self._acceptors = [loop.create_task(self._accept(loop, sock)) for sock in self._sockets]

    def close(self) -> None:
        """Accept nothing more, and drop the connections whose TLS handshake is not done."""
        for task in self._acceptors:
            task.cancel()
        for conn in self._handshakes:
            _shut_down(conn)

    async def wait_closed(self) -> None:
        """Wait until that is done."""
        await asyncio.gather(*self._acceptors, *self._tasks, return_exceptions=True)
        if self._unmute is not None:
            self._unmute()
            self._unmute = None

    async def _accept(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        is_failing = False
        with listener:
            while True:
                try:
                    conn, _ = await loop.sock_accept(listener)
                    is_failing = False
                    await self._begin(loop, conn)
                    for _ in range(_ACCEPTED_AT_ONCE):  # the loop gives one in a turn
                        conn, _ = listener.accept()
                        await self._begin(loop, conn)
                except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                    continue
                except OSError as error:
                    if not is_failing:
                        logger.error("no TLS connection can be accepted: %s", printable(str(error)))  # noqa: TRY400 - that says it all
                    is_failing = True
                    await asyncio.sleep(_RETRY)

    async def _begin(self, loop: asyncio.AbstractEventLoop, conn: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(conn.close)
            while len(self._handshakes) >= self._max_handshakes:
                oldest, since = next(iter(self._handshakes.items()))
                if loop.time() - since > self._handshake_timeout / 4:
                    del self._handshakes[oldest]
                    _shut_down(oldest)
                    self._counters["tls_handshake_displaced"] += 1
                else:
                    await asyncio.sleep(_FULL)
            stack.pop_all()
        self._handshakes[conn] = loop.time()
        task = loop.create_task(self._shake_hands(loop, conn))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _shake_hands(self, loop: asyncio.AbstractEventLoop, conn: socket.socket) -> None:
        try:
            await aiofastnet.connect_accepted_socket(
                loop,
                self._factory,
                conn,
                ssl=self._tls.context,
                ssl_handshake_timeout=self._handshake_timeout,
                ssl_shutdown_timeout=self._shutdown_timeout,
                ssl_incoming_bio_size=_BIO,
                ssl_outgoing_bio_size=_BIO,
            )
        except OSError:  # the peer speaks no TLS, does not trust us, has gone, or took too long
            if conn in self._handshakes:
                self._counters["tls_handshake_failed"] += 1
            conn.close()
        finally:
            self._handshakes.pop(conn, None)


def _shut_down(conn: socket.socket) -> None:
    """Have a handshake fail. To cancel it would leave aiofastnet's transport open when it has only begun."""
    try:
        conn.shutdown(socket.SHUT_RDWR)
    except OSError:
        logger.debug("a peer left before it was dropped")


def _mute_ends_of_handshakes(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Have the loop's exception handler hear nothing of peers that end their side during the handshake.

    aiofastnet tells it so, as if that were a fatal error, and with a class where the exception belongs, on which
    handlers fail themselves. Everybody could fill the log. Return what undoes it.
    """
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), type):
            return
        if before is None:
            loop.default_exception_handler(context)
        else:
            before(loop, context)

    def undo() -> None:
        if loop.get_exception_handler() is handle:
            loop.set_exception_handler(before)

    loop.set_exception_handler(handle)
    return undo
