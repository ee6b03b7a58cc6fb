"""What is timed while there is somebody to show it to: handshakes, handling, flushes.

The parts of a broker that are timed are subclasses of those that are not, chosen when the broker is wired: a broker
without an admin port runs none of this.
"""

import time
from asyncio import BaseTransport
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pystrands.broker.admission import Handshake
from pystrands.broker.fanout import Outbox
from pystrands.broker.websocket import WebSocket
from pystrands.protocol.events import Event, Holder, Ledger

__all__ = ["Histogram", "Parts", "Timings", "timed_parts"]

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


class Timings:
    """The histograms of one broker, in seconds."""

    def __init__(self) -> None:
        self.handshake = Histogram((0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10))
        self.handling = Histogram((0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))
        self.flush = Histogram((0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1))


@dataclass(frozen=True, slots=True)
class Parts:
    """What makes those parts of a broker that are timed, or not."""

    handshake: Callable[..., Handshake] = Handshake
    ledger: Callable[..., Ledger] = Ledger
    outbox: Callable[..., Outbox] = Outbox


def timed_parts(timings: Timings, clock: Clock = time.perf_counter) -> Parts:
    """Return the parts that are timed, by a ``clock`` in seconds."""
    return Parts(
        handshake=partial(_TimedHandshake, timings.handshake, clock),
        ledger=partial(_TimedLedger, timings.handling, clock),
        outbox=partial(_TimedOutbox, timings.flush, clock),
    )


class _TimedHandshake(Handshake):
    """Times what gets a 101, from the connection on; with TLS from the end of its handshake on."""

    __slots__ = ("_began", "_clock", "_histogram")

    def __init__(self, histogram: Histogram, clock: Clock, *args: Any) -> None:
        super().__init__(*args)
        self._histogram = histogram
        self._clock = clock
        self._began = 0.0

    def connection_made(self, transport: BaseTransport) -> None:
        self._began = self._clock()
        super().connection_made(transport)

    def accept(self, *args: Any, **options: Any) -> WebSocket | None:
        ws = super().accept(*args, **options)
        if ws is not None:
            self._histogram.observe(self._clock() - self._began)
        return ws


class _TimedLedger(Ledger):
    """Times some events from their sending until their session has finished them; released ones do not count."""

    def __init__(
        self, histogram: Histogram, clock: Clock, choose: Any, send: Callable[[Holder, Event], int], *others: Any
    ) -> None:
        super().__init__(choose, self._timed_send, *others)
        self._send_event = send
        self._histogram = histogram
        self._clock = clock
        self._begun: dict[Holder, dict[int, float]] = {}

    def _timed_send(self, holder: Holder, event: Event) -> int:
        number = self._send_event(holder, event)
        if number and not number & _OTHERS:
            self._begun.setdefault(holder, {})[number] = self._clock()
        return number

    def done(self, holder: Holder, ranges: Iterable[tuple[int, int]]) -> None:
        ranges = tuple(ranges)
        now = self._clock()
        for began in self._taken(holder, ranges):
            self._histogram.observe(now - began)
        super().done(holder, ranges)

    def released(self, holder: Holder, ranges: Iterable[tuple[int, int]]) -> None:
        ranges = tuple(ranges)
        self._taken(holder, ranges)
        super().released(holder, ranges)

    def died(self, holder: Holder) -> None:
        self._begun.pop(holder, None)
        super().died(holder)

    def _taken(self, holder: Holder, ranges: Iterable[tuple[int, int]]) -> list[float]:
        """Forget the events in these ranges; return when those that are timed were sent."""
        begun = self._begun.get(holder)
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


class _TimedOutbox(Outbox):
    """Times the writes of each turn."""

    __slots__ = ("_histogram", "_now")

    def __init__(self, histogram: Histogram, clock: Clock, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._histogram = histogram
        self._now = clock

    def _flush(self) -> None:
        began = self._now()
        super()._flush()
        self._histogram.observe(self._now() - began)
