"""Reads take turns: what clients have sent takes a slice of each turn of the loop, however many send how much."""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

__all__ = ["ReadTurns", "monotonic"]

_SLICE: Final = 0.01
"""Seconds of one turn, after which reads of much are put off; the one that is being handled ends."""
_CHEAP: Final = 0.00003
"""Seconds that are not worth to be counted."""


class ReadTurns:
    """Puts reads off when a turn has had its share of them.

    A read of 2 KiB may be hundreds of frames, and one of 64 KiB ten thousand, and each of hundreds of clients may be
    read dozens of times in a turn: what others say would wait for seconds.
    """

    __slots__ = ("_loop", "_scheduled", "_waiting", "busy")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False
        self.busy = 0.0
        """Seconds that this turn's reads have taken."""

    @property
    def is_over(self) -> bool:
        """Whether a read of much is to be put off."""
        return self.busy > _SLICE

    def spend(self, began: float) -> None:
        """Count a read that began at that time, by :func:`monotonic`, and is handled now."""
        seconds = monotonic() - began
        if seconds > _CHEAP:
            self.busy += seconds
            self._schedule()

    def put_off(self, handle: Callable[[], None]) -> None:
        """Have ``handle``, which counts what it takes and must not raise, called in a later turn, after all before."""
        self._waiting.append(handle)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._scheduled = False
        self.busy = 0.0
        waiting = self._waiting
        while waiting and self.busy <= _SLICE:
            waiting.popleft()()
        if waiting:
            self._schedule()
