"""What is timed while there is somebody to show it to: handshakes, handling, flushes.

The parts of a broker that are timed are subclasses of those that are not, chosen when the broker is wired: a broker
without an admin port runs none of this.
"""

import time
from asyncio import BaseTransport
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from pystrands.broker.admission.handshake import Handshake
from pystrands.broker.events.assignments import Assignments
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.ops.timed import Clock, Histogram, TimedAssignments, TimedOutbox
from pystrands.broker.ws.websocket import WebSocket

__all__ = ["Parts", "Timings", "timed_parts"]


class Timings:
    """The histograms of one broker, in seconds."""

    def __init__(self) -> None:
        self.handshake = Histogram((0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10))
        self.handling = Histogram((0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))
        self.flush = Histogram((0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1))


class Parts(NamedTuple):
    """What makes those parts of a broker that are timed, or not."""

    handshake: Callable[..., Handshake] = Handshake
    assignments: Callable[..., Assignments] = Assignments
    outbox: Callable[..., Outbox] = Outbox


def timed_parts(timings: Timings, clock: Clock = time.perf_counter) -> Parts:
    """Return the parts that are timed, by a ``clock`` in seconds."""
    return Parts(
        handshake=partial(_TimedHandshake, timings.handshake, clock),
        assignments=partial(TimedAssignments, timings.handling, clock),
        outbox=partial(TimedOutbox, timings.flush, clock),
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
