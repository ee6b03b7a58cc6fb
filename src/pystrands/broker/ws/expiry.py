"""Closing clients whose permission has run out: one heap and one timer for all of them."""

import asyncio
import math
import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, Protocol

from pystrands.broker.counters import Counters
from pystrands.protocol.close_codes import TOKEN_EXPIRED

__all__ = ["NEVER", "Expiries"]

NEVER: Final = math.inf
"""When a client is over that has no such time."""
_LONGEST_SLEEP: Final = 60.0
"""Seconds after which the clock is looked at again: somebody may have set it."""
_SHORTEST_SLEEP: Final = 0.01
_AT_ONCE: Final = 200
"""So many are closed in one turn of the loop."""
_MUCH: Final = 64
"""From so many on it matters how many in the heap have left."""


class _Closable(Protocol):
    def close(self, code: int, reason: str) -> None: ...


class _Entry:
    """One client in the heap; ``ws`` is None once it has left."""

    __slots__ = ("number", "when", "ws")

    def __init__(self, when: float, number: int, ws: _Closable) -> None:
        self.when = when
        self.number = number
        self.ws: _Closable | None = ws

    def __lt__(self, other: "_Entry") -> bool:
        return (self.when, self.number) < (other.when, other.number)


class Expiries:
    """Closes each client with 4401 when its time has come by ``clock``, in seconds since 1970.

    Clients that leave earlier have to be discarded; what is kept is never more than about twice what is watched.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, counters: Counters, clock: Callable[[], float] = time.time
    ) -> None:
        self._loop = loop
        self._counters = counters
        self._clock = clock
        self._entries: dict[_Closable, _Entry] = {}
        self._heap: list[_Entry] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many clients are watched."""
        return len(self._entries)

    def is_over(self, expires_at: float) -> bool:
        """Tell whether that time has come. The timer is a little late, so who takes a client's messages asks first."""
        return self._clock() >= expires_at

    def close(self, ws: _Closable) -> None:
        """Close a client whose time is over."""
        self._counters["expired_closed"] += 1
        ws.close(TOKEN_EXPIRED, "token expired")

    def add(self, ws: _Closable, expires_at: float) -> None:
        """Watch a client, which is closed in a later turn of the loop even if its time has come already."""
        entry = self._entries[ws] = _Entry(expires_at, next(self._numbers), ws)
        heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._sleep()

    def discard(self, ws: _Closable) -> None:
        """Watch a client no more, if it is watched."""
        entry = self._entries.pop(ws, None)
        if entry is None:
            return
        entry.ws = None
        if not self._entries:
            self._sleep()
        elif len(self._heap) > _MUCH and len(self._heap) > 2 * len(self._entries):
            self._heap = list(self._entries.values())
            heapify(self._heap)

    def _sleep(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._entries:
            self._heap.clear()
        else:
            delay = min(max(self._heap[0].when - self._clock(), _SHORTEST_SLEEP), _LONGEST_SLEEP)
            self._timer = self._loop.call_later(delay, self._wake)

    def _wake(self) -> None:
        now = self._clock()
        for _ in range(_AT_ONCE):
            if not self._heap or self._heap[0].when > now:
                break
            ws = heappop(self._heap).ws
            if ws is not None:
                del self._entries[ws]
                self.close(ws)
        self._sleep()
