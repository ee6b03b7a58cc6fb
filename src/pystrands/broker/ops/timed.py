"""Histograms, and what fills them while there is somebody to show them to: compiled, since messages go through it."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pystrands.broker.observer import Observer

__all__ = ["Clock", "Histogram", "Timings"]

Clock = Callable[[], float]

_ONE_IN: Final = 16
"""Of so many events of a backend one is timed; a power of two."""
_OTHERS: Final = _ONE_IN - 1


class Histogram:
    """Counts of values by size: ``counts[i]`` are those up to ``bounds[i]``, the last one those above all bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0
        """The sum of all values."""

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Timings(Observer):
    """The histograms of one broker, in seconds, by a ``clock`` in seconds.

    Of events some are timed, from their sending until their session has finished them; released ones do not count.
    """

    __slots__ = ("_begun", "_clock", "flush", "handling", "handshake")

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self.handshake = Histogram((0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10))
        self.handling = Histogram((0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))
        self.flush = Histogram((0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1))
        self._clock = clock
        self._begun: dict[object, dict[int, float]] = {}  # by consumer

    def now(self) -> float:
        """Return the clock's time."""
        return self._clock()

    def on_sent(self, consumer: object, event: object, number: int) -> None:  # noqa: ARG002 - an observer's
        """Begin to time some events."""
        if not number & _OTHERS:
            self._begun.setdefault(consumer, {})[number] = self._clock()

    def on_done(self, consumer: object, ranges: Sequence[tuple[int, int]]) -> None:
        """Time those of these events that are timed."""
        now = self._clock()
        for began in self._taken(consumer, ranges):
            self.handling.observe(now - began)

    def on_released(self, consumer: object, ranges: Sequence[tuple[int, int]]) -> None:
        """Forget those of these events that are timed."""
        self._taken(consumer, ranges)

    def on_died(self, consumer: object) -> None:
        """Forget all events of the session."""
        self._begun.pop(consumer, None)

    def on_flush(self, seconds: float) -> None:
        """Count a flush."""
        self.flush.observe(seconds)

    def on_admitted(self, seconds: float) -> None:
        """Count a handshake."""
        self.handshake.observe(seconds)

    def _taken(self, consumer: object, ranges: Sequence[tuple[int, int]]) -> list[float]:
        """Forget the events in these ranges; return when those that are timed were sent."""
        begun = self._begun.get(consumer)
        if not begun:
            return []
        taken = []
        for first, last in ranges:
            multiple = (first + _OTHERS) & ~_OTHERS
            if last - multiple > _ONE_IN * len(begun):  # a range may be as long as its sender likes
                numbers: Iterable[int] = [number for number in begun if first <= number <= last]
            else:
                numbers = range(multiple, last + 1, _ONE_IN)
            taken += [began for number in numbers if (began := begun.pop(number, None)) is not None]
        return taken
