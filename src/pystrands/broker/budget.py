"""One budget for all that waits in the broker (LINK rule 13)."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, Protocol

__all__ = ["Budget", "Offender"]

logger = logging.getLogger(__name__)

_INTERVAL: Final = 0.5
"""Seconds between two looks."""


class Offender(Protocol):
    """Something that bytes wait for, and that can be closed to be rid of them."""

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait."""
        ...

    def give_up(self) -> None:
        """Close it, and drop what waits."""
        ...


class Budget:
    """Looks twice a second at all that waits; when it is more than ``limit`` bytes, the largest offenders are closed.

    Each buffer has a bound of its own; this is for when there are many. ``offenders()`` names all that bytes may wait
    for, ``others()`` the bytes of what is nobody's fault. A ``limit`` of 0 turns it off. Counted as ``budget_closed``.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: int,
        offenders: Callable[[], Iterable[Offender]],
        others: Callable[[], int],
        counters: Counter[str],
    ) -> None:
        self.limit = limit
        self._loop = loop
        self._offenders = offenders
        self._others = others
        self._counters = counters
        self._timer: asyncio.TimerHandle | None = None
        self._total = 0

    @property
    def total(self) -> int:
        """How many bytes wait in all: as of the last look, or of now where there is no limit to look after."""
        if not self.limit:
            self._measure()
        return self._total

    def start(self) -> None:
        """Look from now on."""
        if self.limit:
            self._timer = self._loop.call_later(_INTERVAL, self._on_timer)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _on_timer(self) -> None:
        self.look()
        self.start()

    def look(self) -> None:
        """Close the largest offenders until what waits is within the limit."""
        waiting = self._measure()
        total = self._total
        if total <= self.limit:
            return
        waiting.sort(key=lambda each: each[0], reverse=True)
        closed = 0
        for size, offender in waiting:
            if total <= self.limit:
                break
            offender.give_up()
            total -= size
            closed += 1
        self._counters["budget_closed"] += closed
        logger.error(
            "more than %d bytes waited in all buffers (--memory-budget): the %d that had most were closed",
            self.limit,
            closed,
        )

    def _measure(self) -> list[tuple[int, Offender]]:
        waiting = [(size, offender) for offender in self._offenders() if (size := offender.waiting_bytes)]
        self._total = sum(size for size, _ in waiting) + self._others()
        return waiting
