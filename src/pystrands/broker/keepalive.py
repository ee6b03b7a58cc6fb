"""Finding dead connections: one periodic sweep over all of them, no timer for any."""

import logging
from asyncio import AbstractEventLoop, TimerHandle
from collections import Counter
from typing import Final, Protocol

from pystrands.broker.fanout import Outbox, Recipient
from pystrands.broker.frames import ping_frame

logger = logging.getLogger(__name__)

_PING: Final = ping_frame()
_BUCKETS: Final = 50  # visits per interval: at 100,000 connections 2,000 each time


class Session(Recipient, Protocol):
    """What keep-alive needs of a WebSocket."""

    silent: int  # visits since something was received; whoever receives sets it to 0
    paused: bool  # not being read: its silence is our doing

    def has_received(self) -> bool:
        """Tell whether part of a frame has come in since the last call."""


class KeepAlive:
    """Pings connections that are silent, and drops those that stay so.

    Every connection is visited once per `interval` seconds. One that was silent since its last visit is pinged; when
    `missed` pings have gone unanswered it is aborted at the next visit (`keepalive_timeout` is counted). Whatever is
    received counts as life. `interval` 0 means never.

    `tick()` does one step of the sweep: `start()` has the loop call it, a test may do so by hand.
    """

    __slots__ = ("_buckets", "_counters", "_handle", "_loop", "_missed", "_next", "_outbox", "_step", "_turn")

    def __init__(
        self, outbox: Outbox, *, interval: float = 25.0, missed: int = 2, counters: Counter[str] | None = None
    ) -> None:
        self._outbox = outbox
        self._missed = missed
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._step = interval / _BUCKETS
        self._buckets: list[set[Session]] = [set() for _ in range(_BUCKETS)]
        self._turn = 0
        self._next: float | None = None
        self._loop: AbstractEventLoop | None = None
        self._handle: TimerHandle | None = None

    def add(self, ws: Session) -> None:
        """Watch a connection. Once is enough, twice does no harm."""
        self._bucket(ws).add(ws)

    def discard(self, ws: Session) -> None:
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

    def _bucket(self, ws: Session) -> set[Session]:
        return self._buckets[(id(ws) >> 4) % _BUCKETS]

    def _on_timer(self) -> None:
        if self._loop is None or self._handle is None:
            return
        self._handle = self._loop.call_later(self._step, self._on_timer)
        try:
            self.tick(self._loop.time())
        except Exception:
            logger.exception("the keep-alive sweep failed")

    def _visit(self, bucket: set[Session]) -> None:
        silent: list[Session] = []
        dead: list[Session] = []
        for ws in bucket:
            if ws.paused:
                ws.silent = 0
            elif ws.silent == 0 or ws.has_received():
                ws.silent = 1
            elif ws.silent > self._missed:
                dead.append(ws)
            else:
                ws.silent += 1
                silent.append(ws)
        if silent:
            self._outbox.fan_out(silent, _PING)
        for ws in dead:  # now that nobody goes through the bucket that they are about to leave
            self._counters["keepalive_timeout"] += 1
            try:
                ws.abort()
            except Exception:
                logger.exception("could not drop a silent client")
