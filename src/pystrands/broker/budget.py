"""One budget for all that waits in the broker (LINK rule 13)."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, Protocol

from pystrands.broker.counters import Counters

__all__ = ["Budget", "Offender"]

logger = logging.getLogger(__name__)

_INTERVAL: Final = 0.5
"""Seconds between two looks."""
_AT_ONCE: Final = 1000
"""So many buffers are looked at in one turn of the loop: about half a millisecond."""


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
    for, and what it returned stays as it is; ``others()`` is the bytes of what is nobody's fault. A ``limit`` of 0
    turns it off. Counted as ``budget_closed``.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: int,
        offenders: Callable[[], Iterable[Offender]],
        others: Callable[[], int],
        counters: Counters,
    ) -> None:
        self.limit = limit
        self._loop = loop
        self._offenders = offenders
        self._others = others
        self._counters = counters
        self._timer: asyncio.Handle | None = None
        self._total = 0

    @property
    def total(self) -> int:
        """How many bytes wait in all: as of the last look, or of now where there is no limit to look after."""
        return self._total if self.limit else self._sum(_of(self._offenders()))

    def start(self) -> None:
        """Look from now on."""
        if self.limit:
            self._timer = self._loop.call_later(_INTERVAL, self._on_timer)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _on_timer(self) -> None:
        self._look_on(iter(self._offenders()), [])

    def _look_on(self, rest: Iterator[Offender], waiting: list[tuple[int, Offender]]) -> None:
        """Look at the next few, and at the others in later turns of the loop: thousands take some ten milliseconds."""
        some = list(islice(rest, _AT_ONCE))
        waiting += _of(some)
        if len(some) == _AT_ONCE:
            self._timer = self._loop.call_soon(self._look_on, rest, waiting)
            return
        self._settle(waiting)
        self.start()

    def look(self) -> None:
        """Close the largest offenders until what waits is within the limit."""
        self._settle(_of(self._offenders()))

    def _settle(self, waiting: list[tuple[int, Offender]]) -> None:
        total = self._total = self._sum(waiting)
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

    def _sum(self, waiting: list[tuple[int, Offender]]) -> int:
        return sum(size for size, _ in waiting) + self._others()


def _of(offenders: Iterable[Offender]) -> list[tuple[int, Offender]]:
    return [(size, offender) for offender in offenders if (size := offender.waiting_bytes)]
