"""Histograms, and what fills them on every message's way: compiled with what they derive from, where that is."""

from asyncio import AbstractEventLoop
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pystrands.broker.counters import Counters
from pystrands.broker.events.assignments import CONSUMER_BYTES, Assignments
from pystrands.broker.events.ending import EndingStreams
from pystrands.broker.events.queue import EventQueue
from pystrands.broker.events.stream import ClientEvent, Consumer
from pystrands.broker.fanout.groups import Encode, as_it_is
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.meter import Meter
from pystrands.broker.policies import SlowPolicy

__all__ = ["Clock", "Histogram", "TimedAssignments", "TimedOutbox"]

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


class TimedAssignments(Assignments):
    """Times some events from their sending until their session has finished them; released ones do not count."""

    def __init__(
        self,
        histogram: Histogram,
        clock: Clock,
        queue: EventQueue,
        choose_owner: Callable[[], Consumer | None],
        counters: Counters,
        consumer_bytes: int = CONSUMER_BYTES,
        ending: EndingStreams | None = None,
    ) -> None:
        super().__init__(queue, choose_owner, counters, consumer_bytes, ending)
        self._histogram = histogram
        self._clock = clock
        self._begun: dict[Consumer, dict[int, float]] = {}

    def _send(self, consumer: Consumer, event: ClientEvent) -> int:
        number = super()._send(consumer, event)
        if number and not number & _OTHERS:
            self._begun.setdefault(consumer, {})[number] = self._clock()
        return number

    def done(self, consumer: Consumer, ranges: Iterable[tuple[int, int]]) -> None:
        """Time those of these events that are timed."""
        ranges = tuple(ranges)
        now = self._clock()
        for began in self._taken(consumer, ranges):
            self._histogram.observe(now - began)
        super().done(consumer, ranges)

    def released(self, consumer: Consumer, ranges: Iterable[tuple[int, int]]) -> None:
        """Forget those of these events that are timed."""
        ranges = tuple(ranges)
        self._taken(consumer, ranges)
        super().released(consumer, ranges)

    def died(self, consumer: Consumer) -> None:
        """Forget all events of the session."""
        self._begun.pop(consumer, None)
        super().died(consumer)

    def _taken(self, consumer: Consumer, ranges: Iterable[tuple[int, int]]) -> list[float]:
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


class TimedOutbox(Outbox):
    """Times the writes of each turn."""

    __slots__ = ("_histogram", "_now")

    def __init__(
        self,
        histogram: Histogram,
        clock: Clock,
        loop: AbstractEventLoop,
        *,
        policy: SlowPolicy = "disconnect",
        limit: int = 1_048_576,
        slow_time: float = 20.0,
        counters: Counters | None = None,
        meter: Meter | None = None,
        encode: Encode = as_it_is,
    ) -> None:
        super().__init__(
            loop, policy=policy, limit=limit, slow_time=slow_time, counters=counters, meter=meter, encode=encode
        )
        self._histogram = histogram
        self._now = clock

    def _flush(self) -> None:
        began = self._now()
        super()._flush()
        self._histogram.observe(self._now() - began)
