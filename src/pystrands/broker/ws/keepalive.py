"""Finding connections that are dead, or endless: periodic sweeps over all of them, no timer for any."""

import logging
import math
from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from typing import Final

from pystrands.broker.counters import Counters, new_counters
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.fanout.pressure import acknowledged, outstanding
from pystrands.broker.ws.frames import ping_frame, text_frame
from pystrands.broker.ws.websocket import WebSocket
from pystrands.protocol.close_codes import POLICY_VIOLATION
from pystrands.protocol.v1.envelope import HEARTBEAT

logger = logging.getLogger(__name__)

_PING: Final = ping_frame()
_HEARTBEAT: Final = text_frame(HEARTBEAT)
_BUCKETS: Final = 50  # steps per interval: at 100,000 connections 2,000 visits each time
_MUCH: Final = (
    64 * 1024
)  # bytes before a ping which delay it, and what a peer may have to read once its system has them
_LOOKS: Final = 8  # visits per message time-out, at least
_LOOK: Final = 5.0  # seconds between two of them, at most


class Sweep(ABC):
    """Visits every connection once per `interval` seconds, spread over the interval; `interval` 0 means never.

    `tick()` does one step of the sweep: `start()` has the loop call it, a test may do so by hand.
    """

    __slots__ = ("_buckets", "_handle", "_loop", "_next", "_step", "_turn")

    def __init__(self, interval: float) -> None:
        self._step = interval / _BUCKETS
        self._buckets: list[set[WebSocket]] = [set() for _ in range(_BUCKETS)]
        self._turn = 0
        self._next: float | None = None
        self._loop: AbstractEventLoop | None = None
        self._handle: TimerHandle | None = None

    def add(self, ws: WebSocket) -> None:
        """Watch a connection. Once is enough, twice does no harm."""
        self._bucket(ws).add(ws)

    def discard(self, ws: WebSocket) -> None:
        """Stop watching a connection, if it is watched."""
        self._bucket(ws).discard(ws)

    def start(self, loop: AbstractEventLoop) -> None:
        """Begin the sweep on `loop`; does nothing when the interval is 0 or the sweep runs."""
        if self._step > 0 and self._handle is None:
            self._loop = loop
            self._handle = loop.call_later(self._step, self._on_timer)

    def stop(self) -> None:
        """End the sweep. It may be started again."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def tick(self, now: float) -> None:
        """Visit the connections whose turn has come by `now` (seconds, of any steady clock).

        After a gap longer than the interval every connection is visited once, not once for each interval missed: a
        process that was stopped for a while must not take its clients' silence for theirs.
        """
        if self._step <= 0:
            return
        if self._next is None:
            self._next = now
        for _ in range(_BUCKETS):
            if self._next > now:
                return
            self._next += self._step
            self._visit(self._buckets[self._turn])
            self._turn = (self._turn + 1) % _BUCKETS
        if self._next <= now:
            self._next = now + self._step

    def _bucket(self, ws: WebSocket) -> set[WebSocket]:
        return self._buckets[(id(ws) >> 4) % _BUCKETS]

    def _on_timer(self) -> None:
        if self._loop is None or self._handle is None:
            return
        self._handle = self._loop.call_later(self._step, self._on_timer)
        try:
            self.tick(self._loop.time())
        except Exception:
            logger.exception("a sweep over the connections failed")

    @abstractmethod
    def _visit(self, bucket: set[WebSocket]) -> None:
        """Look at these connections, which may leave only when all have been gone through."""


class KeepAlive(Sweep):
    """Pings connections that are silent, and drops those that stay so.

    Every connection is visited once per `interval` seconds. One that was silent since its last visit is pinged; when
    `missed` pings have gone unanswered it is aborted at the next visit (`keepalive_timeout` is counted). Whatever is
    received counts as life. So does, on Linux, that a peer takes what is on its way before the last ping.
    """

    __slots__ = ("_counters", "_last_pings", "_missed", "_outbox")

    def __init__(
        self, outbox: Outbox, *, interval: float = 25.0, missed: int = 2, counters: Counters | None = None
    ) -> None:
        super().__init__(interval)
        self._outbox = outbox
        self._missed = missed
        self._counters = new_counters() if counters is None else counters
        # For who is about to be dropped: how far the peer had acknowledged at the last ping, and how far that ping is.
        self._last_pings: dict[WebSocket, tuple[int, int]] = {}

    def discard(self, ws: WebSocket) -> None:
        """Stop watching a connection, if it is watched."""
        super().discard(ws)
        self._last_pings.pop(ws, None)

    def _visit(self, bucket: set[WebSocket]) -> None:
        silent: list[WebSocket] = []
        dead: list[WebSocket] = []
        for ws in bucket:
            if ws.paused:
                ws.silent = 0
            elif ws.silent == 0:
                ws.silent = 1
            elif ws.silent <= self._missed:
                ws.silent += 1
                silent.append(ws)
            elif self._is_reading(ws):
                silent.append(ws)
            else:
                dead.append(ws)
        if silent:
            self._send_pings(silent)
        for ws in silent:
            if ws.silent > self._missed:
                self._note_ping(ws)
        for ws in dead:  # now that nobody goes through the bucket that they are about to leave
            self._counters["keepalive_timeout"] += 1
            try:
                ws.abort()
            except Exception:
                logger.exception("could not drop a silent client")

    def _send_pings(self, silent: list[WebSocket]) -> None:
        self._outbox.fan_out(silent, _PING)

    def _note_ping(self, ws: WebSocket) -> None:
        taken = acknowledged(ws.transport)
        if taken >= 0:
            self._last_pings[ws] = (taken, taken + outstanding(ws.transport) + ws.queued)

    def _is_reading(self, ws: WebSocket) -> bool:
        """Whether much was before the last ping, and some of that has been taken since."""
        then, ping = self._last_pings.pop(ws, (0, 0))
        taken = acknowledged(ws.transport) if ping else -1
        return taken > then and (taken < ping or ping - then > _MUCH)


class Heartbeats(KeepAlive):
    """The same for clients that take a message for a ping, and answer with one: pages get to see no pings.

    ``on_ping`` is told of each that is sent.
    """

    __slots__ = ("_on_ping",)

    def __init__(
        self,
        outbox: Outbox,
        on_ping: Callable[[WebSocket], None],
        *,
        interval: float = 25.0,
        missed: int = 2,
        counters: Counters | None = None,
    ) -> None:
        super().__init__(outbox, interval=interval, missed=missed, counters=counters)
        self._on_ping = on_ping

    def _send_pings(self, silent: list[WebSocket]) -> None:
        for ws in silent:
            self._on_ping(ws)
        self._outbox.fan_out(silent, _HEARTBEAT)


class MessageWatch(Sweep):
    """Closes with 1008 who takes longer than `timeout` seconds for one message (`message_timeout` is counted).

    Keep-alive takes every byte for life, so one byte now and then would keep a message open for ever, and its memory.
    A message has its time from the first visit on that finds it unfinished; while we don't read it has all the time.
    Each visit, every five seconds or more often, lets a connection send its share of control frames anew.
    """

    __slots__ = ("_counters", "_looks")

    def __init__(self, timeout: float, counters: Counters) -> None:
        interval = min(timeout / _LOOKS, _LOOK)
        super().__init__(interval)
        self._looks = math.ceil(timeout / interval)
        self._counters = counters

    def _visit(self, bucket: set[WebSocket]) -> None:
        slow: list[WebSocket] = []
        for ws in bucket:
            ws.controls = 0
            if ws.paused or not ws.has_unfinished:
                ws.stalled = 0
            elif ws.stalled < self._looks:
                ws.stalled += 1
            else:
                slow.append(ws)
        for ws in slow:
            self._counters["message_timeout"] += 1
            try:
                ws.close(POLICY_VIOLATION, "the message took too long")
            except Exception:
                logger.exception("could not close a client that is slow with its message")
