"""Messages of which only the newest counts: who is not up to date misses them, or gets the newest (LINK rule 28)."""

import time
from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop
from collections.abc import Callable, Collection, Iterable
from typing import Final

from pystrands.broker.counters import Counters
from pystrands.broker.fanout.groups import BLOCKED, CLOSED, KEY_BYTES, Fresh, Group, Recipient
from pystrands.broker.fanout.pressure import outstanding
from pystrands.broker.meter import Meter

__all__ = ["FrameWriter", "Volatile"]

_INTERVAL: Final = 0.05
"""Seconds for which a look at what the kernel holds counts; and between two looks at clients that are waited for."""
_AGE: Final = 0.25
"""Seconds: a client is up to date when it takes what the kernel holds for it within that, as fast as it did last."""
_AGE_OF_KEYED: Final = 0.1
"""The same for messages with a key, for which it costs little to wait."""
_LEAST: Final = 512
"""Bytes that the kernel may hold for a client of which nothing is known."""
_BURST: Final = 2048
"""Bytes that may follow each other when the kernel holds nothing; the rest waits for a moment, if it has keys."""
_AT_ONCE: Final = 65_536
"""The same for those without, which would be lost: what one turn of a game sends must not fall short of a client."""


class FrameWriter(ABC):
    """What writes frames to recipients: an outbox. Nothing here raises."""

    __slots__ = ()

    @abstractmethod
    def fan_out(self, recipients: Collection[Recipient], frame: bytes, group: Group | None = None) -> int:
        """Queue the same frame for all recipients, and return how many took it."""

    @abstractmethod
    def catch_up(self, ws: Recipient) -> None:
        """Queue what was published to the recipient's groups, so that something else can follow."""

    @abstractmethod
    def block(self, ws: Recipient) -> None:
        """Hold a recipient's frames back."""

    @abstractmethod
    def unblock(self, ws: Recipient) -> None:
        """Let them go again."""

    @abstractmethod
    def give(self, ws: Recipient, count: int, size: int) -> None:
        """Write the first ``count`` frames, of ``size`` bytes, to a recipient that is held."""


class Volatile:
    """Offers messages to clients: those that are up to date get them, the others do not wait for them.

    Up to date is a client for which nothing waits here, and for which the kernel holds little. Others miss a message,
    but for one that has a key: that one waits, and the next of the same key takes its place. What waits like this is an
    eighth of a client's limit at most, its keys included, and never makes it too slow. Counted as `volatile_dropped`
    and `keyed_replaced`.
    """

    __slots__ = ("_clock", "_counters", "_held", "_loop", "_meter", "_outbox", "_timer")

    def __init__(
        self,
        outbox: FrameWriter,
        loop: AbstractEventLoop,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
        meter: Meter | None = None,
    ) -> None:
        self._outbox = outbox
        self._meter = meter or Meter()
        self._loop = loop
        self._counters = counters
        self._clock = clock
        self._held: dict[Recipient, None] = {}
        self._timer: object | None = None

    def offer(self, recipients: Iterable[Recipient], frame: bytes, key: str) -> int:
        """Offer the same frame to all recipients; return how many get it, or may."""
        now, size = self._clock(), len(frame)
        has_key = bool(key)
        taken = 0
        up_to_date = []
        for ws in recipients:
            if ws.flags >= CLOSED:
                continue
            waits = key and ws.fresh is not None and key in ws.fresh.places
            if not waits and self._is_up_to_date(ws, size, now, has_key):
                up_to_date.append(ws)
            elif key and self._keep(ws, frame, key):
                taken += 1
            else:
                self._counters["volatile_dropped"] += 1
        if self._meter.grown > self._meter.mark:
            self._loop.call_soon(self._meter.over)  # not here: it closes clients
        return taken + self._outbox.fan_out(up_to_date, frame)

    def _is_up_to_date(self, ws: Recipient, size: int, now: float, has_key: bool) -> bool:
        if ws.flags & BLOCKED or ws.behind is not None:
            return False
        fresh = ws.fresh
        if fresh is None:
            fresh = ws.fresh = Fresh()
        if now - fresh.looked >= _INTERVAL or (size > fresh.credit and not ws.out):  # else the kernel knows nothing new
            self._look(ws, fresh, now, has_key, _BURST)
        if size > fresh.credit and (fresh.in_kernel or fresh.pushed > (0 if has_key else _AT_ONCE)):
            return False
        fresh.credit -= size
        fresh.pushed += size
        return True

    @staticmethod
    def _look(ws: Recipient, fresh: Fresh, now: float, has_key: bool, burst: int) -> None:
        """See how much the kernel holds for a client, and so how much more it may get for now."""
        held = outstanding(ws.transport)
        elapsed = now - fresh.looked
        if elapsed >= _INTERVAL:
            fresh.rate = (fresh.in_kernel_then + fresh.pushed - held) / elapsed
            fresh.looked = now
            fresh.in_kernel_then = held
            fresh.pushed = 0
        fresh.in_kernel = held
        age = _AGE_OF_KEYED if has_key else _AGE
        least = burst if not held else 0 if has_key else _LEAST
        fresh.credit = max(int(fresh.rate * age), least) - held

    def _keep(self, ws: Recipient, frame: bytes, key: str) -> bool:
        """Have a message wait, or take the place of the one of its key that waits."""
        fresh = ws.fresh
        if fresh is None:
            fresh = ws.fresh = Fresh()
        size, place = len(frame), fresh.places.get(key)
        if place is not None:
            size -= len(ws.out[place])
        beside = KEY_BYTES + len(key) if place is None else 0
        if fresh.waiting + size + fresh.keys + beside > ws.limit >> 3:
            return False
        if place is not None:
            ws.out[place] = frame
            self._counters["keyed_replaced"] += 1
        else:
            if not ws.flags & BLOCKED:
                self._hold(ws, fresh)
            else:
                self._outbox.catch_up(ws)
            fresh.places[key] = len(ws.out)
            ws.out.append(frame)
        ws.queued += size
        fresh.waiting += size
        fresh.keys += beside
        self._meter.grown += beside
        return True

    # --- clients that the kernel holds too much for ---

    def _hold(self, ws: Recipient, fresh: Fresh) -> None:
        """Give a client's transport nothing for now."""
        self._outbox.block(ws)
        fresh.is_held = True
        self._held[ws] = None
        if self._timer is None:
            self._timer = self._loop.call_later(_INTERVAL, self._go_on)

    def _go_on(self) -> None:
        """Give those that are held what they may get."""
        now = self._clock()
        for ws in list(self._held):
            fresh = ws.fresh
            if fresh is None or not fresh.is_held or ws.flags >= CLOSED:  # it is the transport's to hold, or gone
                del self._held[ws]
                continue
            if len(ws.out) <= len(fresh.places):
                self._look(ws, fresh, now, True, 0)
                self._give(ws, fresh)
            # A message of another kind waits for nothing, nor does what is before it.
            if _is_held(fresh) and (not ws.out or len(ws.out) > len(fresh.places)):
                del self._held[ws]
                fresh.is_held = False
                self._outbox.unblock(ws)
        self._timer = self._loop.call_later(_INTERVAL, self._go_on) if self._held else None

    def _give(self, ws: Recipient, fresh: Fresh) -> None:
        count = size = 0
        while count < len(ws.out) and (size + len(ws.out[count]) <= fresh.credit or not (count or fresh.in_kernel)):
            size += len(ws.out[count])
            count += 1
        if count:
            fresh.credit -= size
            fresh.pushed += size
            self._outbox.give(ws, count, size)


def _is_held(fresh: Fresh) -> bool:
    """Whether it is still us who hold a client's frames back: writing may have filled its transport."""
    return fresh.is_held
