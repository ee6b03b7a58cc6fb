"""One budget for all that the broker holds for others (LINK rules 13 and 29)."""

import asyncio
import ctypes
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, Protocol

from pystrands.broker.accounts import Account
from pystrands.broker.counters import Counters
from pystrands.broker.events.assignments import CONSUMER_BYTES
from pystrands.broker.meter import Meter

__all__ = ["Budget", "MemoryHolder", "backend_bytes", "be_frugal", "give_back", "settle"]

logger = logging.getLogger(__name__)

_INTERVAL: Final = 0.5
"""Seconds between two looks, where no more comes in than the budget has left."""
_AT_ONCE: Final = 1000
"""So many buffers are looked at in one turn of the loop: about half a millisecond."""
_STEP: Final = 16
"""Of the budget, the part that may come in between two looks at least."""
_LEAST: Final = 1024
"""Who would free less than so many bytes is not closed."""
_TRIMMED: Final = 200
"""Buffers that are trimmed at a look where memory is not short, at most: each takes about 40 microseconds."""
_M_MMAP_THRESHOLD: Final = -3  # of malloc.h
_LARGE: Final = 131_072
_HUGE: Final = 8 * 1024 * 1024
"""Bytes from which on a piece of memory is given back at once: while much of the budget is used, and when it no longer
is."""
_PRESSED: Final = 4
"""Much is this part of the budget."""
_LOGGED_EVERY: Final = 10.0
"""Seconds between two lines of the log about those that were closed."""
_TRIM_AFTER: Final = 0.2
"""Seconds from closing somebody to giving memory back to the system."""


class MemoryHolder(Protocol):
    """Something that bytes are kept for."""

    @property
    def held_bytes(self) -> int:
        """How many."""
        ...


class Budget:
    """Looks at all that is kept for others; when it is more than ``limit`` bytes, those who caused most are closed.

    It looks twice a second, and at once when ``meter`` has counted as many bytes as were left at the last look. A look
    is a sum over ``holders()``, which stays as it is, and ``others()``. It may count what several share several times:
    so when it is too much, ``accounts()`` tells exactly who has caused what, and :func:`settle` goes by that. A
    ``limit`` of 0 turns it off. Counted as ``budget_closed``. ``trim(count, size)`` gives back what at most so many
    buffers have grown by that hold nothing now, until that is ``size`` bytes.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: int,
        meter: Meter,
        *,
        holders: Callable[[], Iterable[MemoryHolder]],
        others: Callable[[], int],
        accounts: Callable[[], tuple[list[Account], int]],
        trim: Callable[[int, int], None] = lambda _count, _size: None,
        counters: Counters,
    ) -> None:
        self.limit = limit
        self._loop = loop
        self._meter = meter
        self._holders = holders
        self._others = others
        self._accounts = accounts
        self._trim_buffers = trim
        self._counters = counters
        self._timer: asyncio.Handle | None = None
        self._trimming: asyncio.TimerHandle | None = None
        self._total = 0
        self._looks = 0
        self._is_frugal = False
        self._closed = 0  # since that was logged
        self._logging: asyncio.TimerHandle | None = None

    @property
    def total(self) -> int:
        """How many bytes are kept in all: as of the last look, or of now where there is no limit to look after."""
        return self._total if self.limit else _sum(self._holders()) + self._others()

    def start(self) -> None:
        """Look from now on."""
        if self.limit:
            self._meter.watch(self.look)
            self._meter.reset(self.limit // _PRESSED)
            self._timer = self._loop.call_later(_INTERVAL, self._on_timer)

    def stop(self) -> None:
        """Look no more."""
        self._meter.reset(sys.maxsize)
        for timer in (self._timer, self._trimming, self._logging):
            if timer is not None:
                timer.cancel()
        self._log()

    def _on_timer(self) -> None:
        self._trim_buffers(_TRIMMED, sys.maxsize)
        self._looks += 1
        self._look_on(iter(self._holders()), -self._meter.grown, self._looks)

    def _look_on(self, rest: Iterator[MemoryHolder], size: int, look: int) -> None:
        """Look at the next few, and at the others in later turns of the loop: thousands take some ten milliseconds.

        What comes in between is added, unless another look has been done by then: that one is newer.
        """
        some = list(islice(rest, _AT_ONCE))
        size += _sum(some)
        if len(some) == _AT_ONCE:
            self._timer = self._loop.call_soon(self._look_on, rest, size, look)
            return
        if look == self._looks:
            self._judge(size + self._meter.grown + self._others())
        self._timer = self._loop.call_later(_INTERVAL, self._on_timer)

    def look(self) -> None:
        """Close those who caused most until what is kept is within the limit."""
        self._looks += 1
        self._judge(_sum(self._holders()) + self._others())

    def _judge(self, total: int) -> None:
        self._total = total
        if (total > self.limit // _PRESSED) != self._is_frugal:
            self._is_frugal = not self._is_frugal
            be_frugal(self._is_frugal)
        if total > self.limit:
            self._trim_buffers(sys.maxsize, total - self.limit + self.limit // _STEP)
            self._total, closed = settle(*self._accounts(), self.limit)
            if closed:
                self._counters["budget_closed"] += closed
                self._closed += closed
                if self._logging is None:
                    self._log_now_and_later()
                if self._trimming is None:
                    self._trimming = self._loop.call_later(_TRIM_AFTER, self._trim)
        left = self.limit - self._total
        if not self._is_frugal:  # what comes until then is taken as large pieces come
            left = min(left, self.limit // _PRESSED)
        self._meter.reset(max(left, self.limit // _STEP))

    def _log_now_and_later(self) -> None:
        self._logging = self._loop.call_later(_LOGGED_EVERY, self._log_now_and_later) if self._closed else None
        self._log()

    def _log(self) -> None:
        """Tell how many were closed since the last line: there may be some with every look."""
        if self._closed:
            logger.error(
                "more than %d bytes were kept for others (--memory-budget): the %d that caused most were closed",
                self.limit,
                self._closed,
            )
            self._closed = 0

    def _trim(self) -> None:
        self._trimming = None
        give_back()


def backend_bytes(limit: int) -> int:
    """Return how many bytes of messages one backend may have unfinished, with that budget; 0 is none.

    Each is kept about three times: as an event, as a line that may have to be sent again, and on its way.
    """
    return min(CONSUMER_BYTES, limit // _STEP) if limit else CONSUMER_BYTES


def _sum(holders: Iterable[MemoryHolder]) -> int:
    return sum(holder.held_bytes for holder in holders)


def settle(accounts: list[Account], others: int, limit: int) -> tuple[int, int]:
    """Give up those who caused most, until all is within ``limit``; return what is left, and how many that were.

    A frame that several keep is counted once, and each is charged with its share of it. What giving somebody up does
    not free is not taken for freed, and who would free nothing is left alone.
    """
    keepers = Counter(id(frame) for account in accounts for frame in account.frames)
    shares: list[tuple[float, int]] = []
    total = float(others)
    for index, account in enumerate(accounts):
        share = account.own + sum(len(frame) / keepers[id(frame)] for frame in account.frames)
        total += share
        shares.append((share, index))
    left = round(total)
    shares.sort(key=lambda each: (-each[0], each[1]))
    closed = 0
    for share, index in shares:
        if left <= limit or share < _LEAST:
            break
        account = accounts[index]
        freed = account.own - account.fixed
        if freed < _LEAST and not account.frames:
            continue
        for frame in account.frames:
            keepers[id(frame)] -= 1
            if not keepers[id(frame)]:
                freed += len(frame)
        account.give_up()
        left -= freed
        closed += 1
    return left, closed


def be_frugal(yes: bool) -> None:
    """Have the C library give large pieces of memory back to the system as soon as they are free, or keep most.

    By itself it learns to keep them, which makes large messages faster by half. But a buffer that grows by doubling
    leaves holes behind that nothing else fits.
    """
    if _libc is not None:
        try:
            _libc.mallopt(_M_MMAP_THRESHOLD, _LARGE if yes else _HUGE)
        except AttributeError:  # another C library
            return


def give_back() -> None:
    """Have the C library give unused memory back to the system, where it can be told to."""
    if _libc is not None:
        try:
            _libc.malloc_trim(ctypes.c_size_t(0))
        except AttributeError:  # another C library
            return


def _load_libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # another system
        return None


_libc: Final = _load_libc()
