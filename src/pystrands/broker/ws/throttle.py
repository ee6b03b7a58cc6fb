"""Receivers that stand before the router when an option asks for it: clients that send too much, or nothing at all."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from pystrands.broker.counters import Counters
from pystrands.broker.policies import RatePolicy
from pystrands.broker.ws.incoming import TOO_FAST, IncomingFrames
from pystrands.broker.ws.rates import RateLimit
from pystrands.broker.ws.websocket import Receiver, WebSocket
from pystrands.protocol.close_codes import GOING_AWAY, POLICY_VIOLATION

__all__ = ["IdleLimited", "RateLimited"]

logger = logging.getLogger(__name__)

_SHORTEST: Final = 0.05
"""Seconds for which a client that is too fast is not read from, at least: each time costs a few system calls."""
_LOOKS: Final = 20
"""Looks for idle clients per time-out."""


class RateLimited(Receiver):
    """Passes messages on, and holds their senders to ``messages`` and ``size`` bytes per second; 0 is no limit.

    ``delay``: who is past its limit is not read from until it is within it again. ``close``: it is closed with 1008,
    and the message that was too much is dropped. Counted as ``rate_delayed`` and ``rate_closed``. ``is_free`` says
    which messages don't count.
    """

    __slots__ = (
        "_counters",
        "_is_free",
        "_largest",
        "_limits",
        "_loop",
        "_messages",
        "_policy",
        "_receiver",
        "_size",
        "_timers",
    )

    def __init__(
        self,
        receiver: Receiver,
        loop: asyncio.AbstractEventLoop,
        *,
        messages: float,
        size: float,
        largest: int,
        policy: RatePolicy,
        counters: Counters,
        is_free: Callable[[str | bytes], bool] | None = None,
    ) -> None:
        self._receiver = receiver
        self._is_free = is_free
        self._loop = loop
        self._messages = messages
        self._size = size
        self._largest = largest
        self._policy = policy
        self._counters = counters
        self._limits: dict[IncomingFrames, RateLimit] = {}
        self._timers: dict[IncomingFrames, asyncio.TimerHandle] = {}

    def client_message(self, ws: IncomingFrames, message: str | bytes) -> None:
        """Count it, and pass it on."""
        if not ws.is_open or (self._is_free is not None and self._is_free(message)):  # or read before it went
            self._receiver.client_message(ws, message)
            return
        now = self._loop.time()
        limit = self._limits.get(ws)
        if limit is None:
            limit = self._limits[ws] = RateLimit(self._messages, self._size, self._largest, now)
        wait = limit.take(_size(message), now)
        if wait and self._policy == "close":
            self._counters["rate_closed"] += 1
            ws.close(POLICY_VIOLATION, "too many messages")
            return
        self._receiver.client_message(ws, message)
        if wait and ws in self._limits:  # it may have been closed for what it said
            self._delay(ws, wait)

    def client_closed(self, ws: WebSocket, code: int, reason: str) -> None:
        """Forget the client, and pass it on."""
        self._limits.pop(ws, None)
        timer = self._timers.pop(ws, None)
        if timer is not None:
            timer.cancel()
        self._receiver.client_closed(ws, code, reason)

    def client_over(self, ws: WebSocket, code: int, reason: str) -> None:
        """Pass it on."""
        self._receiver.client_over(ws, code, reason)

    def _delay(self, ws: IncomingFrames, wait: float) -> None:
        timer = self._timers.pop(ws, None)
        if timer is None:
            self._counters["rate_delayed"] += 1
            ws.pause_reading(TOO_FAST)
        else:  # reading could not be paused
            timer.cancel()
        self._timers[ws] = self._loop.call_later(max(wait, _SHORTEST), self._go_on, ws)

    def _go_on(self, ws: IncomingFrames) -> None:
        del self._timers[ws]
        ws.resume_reading(TOO_FAST)


class IdleLimited(Receiver):
    """Passes messages on, and closes with 1001 who has sent none for ``timeout`` seconds; pings and pongs don't count.

    It is a watch, too: a client's time begins when it is added. Who is not read from is not idle. Looks at those that
    have been silent for longest only. Counted as ``idle_closed``.
    """

    __slots__ = ("_counters", "_heard", "_is_free", "_loop", "_receiver", "_timeout", "_timer")

    def __init__(
        self,
        receiver: Receiver,
        loop: asyncio.AbstractEventLoop,
        *,
        timeout: float,
        counters: Counters,
        is_free: Callable[[str | bytes], bool] | None = None,
    ) -> None:
        self._receiver = receiver
        self._is_free = is_free
        self._loop = loop
        self._timeout = timeout
        self._counters = counters
        self._heard: OrderedDict[IncomingFrames, float] = OrderedDict()  # when last, the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look for idle clients from now on."""
        self._timer = self._loop.call_later(self._timeout / _LOOKS, self._on_timer)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def add(self, ws: IncomingFrames) -> None:
        """Give a client its time."""
        self._restart(ws)

    def discard(self, ws: IncomingFrames) -> None:
        """Leave a client alone."""
        self._heard.pop(ws, None)

    def client_message(self, ws: IncomingFrames, message: str | bytes) -> None:
        """Give its sender its time again, and pass it on."""
        if ws.is_open and not (self._is_free is not None and self._is_free(message)):
            self._restart(ws)
        self._receiver.client_message(ws, message)

    def client_closed(self, ws: WebSocket, code: int, reason: str) -> None:
        """Pass it on."""
        self._receiver.client_closed(ws, code, reason)

    def client_over(self, ws: WebSocket, code: int, reason: str) -> None:
        """Pass it on."""
        self._receiver.client_over(ws, code, reason)

    def _restart(self, ws: IncomingFrames) -> None:
        self._heard[ws] = self._loop.time()
        self._heard.move_to_end(ws)

    def _on_timer(self) -> None:
        self.start()
        self.look()

    def look(self) -> None:
        """Close those that have been idle for too long."""
        end = self._loop.time() - self._timeout
        while self._heard:
            ws, heard = next(iter(self._heard.items()))
            if heard > end:
                break
            if ws.paused:
                self._restart(ws)
                continue
            self.discard(ws)
            self._counters["idle_closed"] += 1
            try:
                ws.close(GOING_AWAY, "no message for too long")
            except Exception:
                logger.exception("could not close an idle client")


def _size(message: str | bytes) -> int:
    """Return how many bytes a message had on the wire."""
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())
