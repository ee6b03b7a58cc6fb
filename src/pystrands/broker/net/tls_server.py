"""A port that speaks TLS: its handshakes are bounded in number and in time."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, Protocol

import aiofastnet

from pystrands.broker.bounds import BOUNDS
from pystrands.broker.counters import Counters
from pystrands.broker.net.limits import ConnectionSlot
from pystrands.broker.net.pending import PendingConnections
from pystrands.broker.net.resets import ResetWatcher
from pystrands.broker.net.tls import Tls
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


class AddressPolicy(Protocol):
    """What one address may have."""

    def key(self, host: str) -> Hashable:
        """Return what an address counts as; None for a trusted proxy."""

    def slot(self) -> ConnectionSlot | None:
        """Return what a new connection counts with; None where there are no limits."""

    def crowded_out(self, host: str) -> None:
        """Hear that a connection was closed as it came: those of its address had too much of the room already."""


class TlsServer:
    """Accepts connections and makes protocols of those whose TLS handshake is done within ``handshake_timeout``.

    It is what an ``asyncio.Server`` is, in so far as the broker uses one. Those of the event loops and of aiofastnet
    tell nobody of a connection before its TLS handshake is done, and let anybody have as many of those as there are
    descriptors. Here there are ``max_handshakes``, and a connection counts for its address from the moment it is
    accepted: ``policy`` knows its limit, and :class:`PendingConnections` who has to go when there are too many. More of
    many addresses wait in the kernel. ``factory`` gets the slot among those of its address, and when it was accepted.
    Times are in seconds. Counted as ``tls_handshake_failed`` and ``tls_handshake_displaced``.
    """

    def __init__(
        self,
        factory: Callable[[ConnectionSlot | None, float], asyncio.BaseProtocol],
        tls: Tls,
        policy: AddressPolicy,
        *,
        handshake_timeout: float,
        shutdown_timeout: float,
        max_handshakes: int,
        counters: Counters,
        silence: float = BOUNDS.silent,
    ) -> None:
        self._factory = factory
        self._tls = tls
        self._policy = policy
        self._handshake_timeout = handshake_timeout
        self._shutdown_timeout = shutdown_timeout
        self._counters = counters
        self._sockets: list[socket.socket] = []
        self._unmute: Callable[[], None] | None = None
        self._resets: ResetWatcher | None = None
        self._acceptors: list[asyncio.Task[None]] = []
        self._pending: PendingConnections[_Arrival] = PendingConnections(max_handshakes, handshake_timeout, silence)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """What it listens on."""
        return tuple(self._sockets)

    @property
    def handshakes(self) -> int:
        """How many TLS handshakes are in flight."""
        return len(self._pending)

    async def listen(self, hosts: Sequence[str], port: int, backlog: int) -> None:
        """Listen on all addresses of the hosts. Raises OSError, and then listens on none."""
        loop = asyncio.get_running_loop()
        found = [
            each
            for host in hosts
            for each in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ]
        try:
            for family, address in dict.fromkeys((each[0], each[4]) for each in found):
                sock = socket.create_server(address, family=family, backlog=backlog)
                sock.setblocking(False)
                self._sockets.append(sock)
        except BaseException:
            for sock in self._sockets:
                sock.close()
            raise
        self._begin_to_accept(loop)

    def listen_on(self, sockets: Sequence[socket.socket], backlog: int) -> None:
        """Listen on sockets that are bound, which are closed with this server."""
        for sock in sockets:
            sock.listen(backlog)
            sock.setblocking(False)
        self._sockets = list(sockets)
        self._begin_to_accept(asyncio.get_running_loop())

    def _begin_to_accept(self, loop: asyncio.AbstractEventLoop) -> None:
        self._unmute = _mute_ends_of_handshakes(loop)
        self._resets = ResetWatcher(loop)
        self._acceptors = [loop.create_task(self._accept(loop, sock)) for sock in self._sockets]

    def stop_accepting(self) -> None:
        """Accept nothing more; the handshakes that have begun may end."""
        for task in self._acceptors:
            task.cancel()

    def close(self) -> None:
        """Accept nothing more, and drop the connections whose TLS handshake is not done."""
        self.stop_accepting()
        for arrival in list(self._pending):
            self._drop(arrival)

    async def wait_closed(self) -> None:
        """Wait until that is done."""
        await asyncio.gather(*self._acceptors, *self._tasks, return_exceptions=True)
        for sock in self._sockets:  # an acceptor that was cancelled before it began has not closed its own
            sock.close()
        if self._unmute is not None:
            self._unmute()
            self._unmute = None
        if self._resets is not None:
            self._resets.close()
            self._resets = None

    async def _accept(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        is_failing = False
        with listener:
            while True:
                try:
                    conn, address = await _accepted(loop, listener)
                    is_failing = False
                    await self._begin(loop, conn, address[0])
                    for _ in range(_ACCEPTED_AT_ONCE):  # the loop gives one in a turn
                        conn, address = listener.accept()
                        await self._begin(loop, conn, address[0])
                except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                    continue
                except OSError as error:
                    if not is_failing:
                        logger.error("no TLS connection can be accepted: %s", printable(str(error)))  # noqa: TRY400 - that says it all
                    is_failing = True
                    await asyncio.sleep(_RETRY)

    async def _begin(self, loop: asyncio.AbstractEventLoop, conn: socket.socket, host: str) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(conn.close)
            conn.setblocking(False)  # accept() does not pass it on
            key = self._policy.key(host)
            while not self._make_room(key, loop.time()):
                if self._pending.is_overrun_by(key):
                    self._policy.crowded_out(host)
                    return
                await asyncio.sleep(_FULL)
            stack.pop_all()
        arrival = _Arrival(conn, loop.time(), self._acquire_slot(host, key, loop.time()))
        self._pending.enter(arrival, key)
        self._look(loop, arrival)

    def _make_room(self, key: Hashable, now: float) -> bool:
        """Tell whether there is room for one of that address, for which another one may have to go."""
        is_full = 0 < self._pending.size <= len(self._pending)
        one = self._pending.who_gives_way(key, now, is_full=is_full)
        if one is not None:
            self._displace(one)
        return one is not None or not is_full

    def _acquire_slot(self, host: str, key: Hashable, now: float) -> ConnectionSlot | None:
        """Count a connection among those of its address.

        Where they are as many as may be one that says nothing goes for it. If there is none it is not counted, and
        hears so once it can be told, which is after the TLS handshake.
        """
        slot = self._policy.slot()
        if slot is None or key is None or slot.acquire_from(host):
            return slot
        one = self._pending.old_and_silent(key, now)
        if one is not None:
            self._displace(one)
            slot.acquire_from(host)
        return slot

    def _look(self, loop: asyncio.AbstractEventLoop, arrival: "_Arrival") -> None:
        """Begin the TLS handshake once the peer has begun it: what is silent costs a descriptor and little more."""
        conn = arrival.conn
        try:
            begins = conn.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            if arrival.timer is not None or self._wait_for_first_byte(loop, arrival):
                return
            begins = b"?"
        except OSError:
            begins = b""
        if not begins:  # it has gone, as checks do
            self._fail(arrival)
            return
        arrival.stop_waiting(loop)
        arrival.is_silent = False
        task = loop.create_task(self._shake_hands(loop, arrival))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _wait_for_first_byte(self, loop: asyncio.AbstractEventLoop, arrival: "_Arrival") -> bool:
        """Return False where the loop can't, as Windows' own."""
        try:
            loop.add_reader(arrival.conn, self._look, loop, arrival)
        except NotImplementedError:
            return False
        left = arrival.began + self._handshake_timeout - loop.time()
        arrival.timer = loop.call_later(left, self._fail, arrival)
        return True

    async def _shake_hands(self, loop: asyncio.AbstractEventLoop, arrival: "_Arrival") -> None:
        try:
            transport, _ = await aiofastnet.connect_accepted_socket(
                loop,
                lambda: self._factory(arrival.slot, arrival.began),
                arrival.conn,
                ssl=self._tls.context,
                ssl_handshake_timeout=max(0.001, arrival.began + self._handshake_timeout - loop.time()),
                ssl_shutdown_timeout=self._shutdown_timeout,
                ssl_incoming_bio_size=_BIO,
                ssl_outgoing_bio_size=_BIO,
            )
            if self._resets is not None:
                self._resets.watch(transport)
        except OSError as error:  # the peer speaks no TLS, does not trust us, has gone, or took too long
            # Its traceback holds the future that holds it. What such a circle holds, TLS' buffers among it, would be
            # there until a full collection, which in a server hardly ever comes.
            error.__traceback__ = None
            self._fail(arrival)
        finally:
            self._pending.leave(arrival)

    def _fail(self, arrival: "_Arrival") -> None:
        """Count and close one that came to nothing."""
        if arrival in self._pending:
            self._counters["tls_handshake_failed"] += 1
            self._pending.leave(arrival)
        arrival.close()

    def _displace(self, arrival: "_Arrival") -> None:
        self._counters["tls_handshake_displaced"] += 1
        self._drop(arrival)

    def _drop(self, arrival: "_Arrival") -> None:
        self._pending.leave(arrival)
        if arrival.is_silent:
            arrival.close()
        else:
            arrival.release_slot()
            _shut_down(arrival.conn)


class _Arrival:
    """A connection whose TLS handshake is not done, or has not even begun."""

    __slots__ = ("began", "conn", "is_silent", "slot", "timer")

    def __init__(self, conn: socket.socket, began: float, slot: ConnectionSlot | None) -> None:
        self.conn = conn
        self.began = began
        self.slot = slot
        self.is_silent = True
        self.timer: asyncio.TimerHandle | None = None

    def stop_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait no longer for its first byte."""
        if self.timer is not None:
            self.timer.cancel()
            loop.remove_reader(self.conn)

    def release_slot(self) -> None:
        """Count no more among those of its address."""
        if self.slot is not None:
            self.slot.release()

    def close(self) -> None:
        """End it."""
        if self.is_silent:
            self.stop_waiting(asyncio.get_running_loop())
        self.release_slot()
        self.conn.close()


async def _accepted(loop: asyncio.AbstractEventLoop, listener: socket.socket) -> tuple[socket.socket, Any]:
    """Return the next connection with its peer's address; or raise BlockingIOError, as another process has taken it.

    When this is cancelled none is lost that was accepted, as of the loop's own ``sock_accept`` one may be.
    """
    there_is_one = loop.create_future()
    try:
        loop.add_reader(listener, _wake, there_is_one)
    except NotImplementedError:  # Windows' own loop can't
        return await loop.sock_accept(listener)
    try:
        await there_is_one
    finally:
        loop.remove_reader(listener)
    return listener.accept()


def _wake(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)


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
