"""The bounds on what waits for a backend, and what happens when they are reached."""

from collections import OrderedDict
from enum import Enum
from sys import getsizeof
from typing import Final

from pystrands.broker.counters import Counters
from pystrands.broker.events.stream import ClientEvent, Kind
from pystrands.broker.meter import Meter
from pystrands.broker.policies import QueuePolicy

__all__ = ["EVENT_COST", "EventQueue", "Offered", "cost"]

EVENT_COST: Final = 300
"""Bytes that an event takes beside its content: the object, its number, and its places in a stream and in the queue."""


def cost(event: ClientEvent) -> int:
    """Return how many bytes of memory an event takes while it waits."""
    return EVENT_COST + getsizeof(event.content)


class Offered(Enum):
    """What becomes of a message that no backend can take now."""

    KEPT = "it waits"
    FULL = "it waits, and its sender is not to be read from until it no longer does"
    DROPPED = "it is dropped: the queue is off"
    REFUSED = "it is dropped, and its sender is to be disconnected: the queue is full"


class EventQueue:
    """Counts the messages that wait; the streams hold them.

    Those for which no backend is there are bounded: ``max_messages``, and ``max_bytes`` of memory. When such a message
    finds the queue full the ``policy`` says what happens:

    - ``backpressure``: it waits, and its sender is not read from. What was taken is never refused later (LINK rule 12).
    - ``drop-oldest``: :meth:`overdue` names the oldest messages, which make room.
    - ``disconnect``: it is dropped, and its sender is to be disconnected.

    With ``max_messages`` 0 messages are dropped. One message is always kept, however big. What is dropped is counted as
    ``queue_dropped``. A message whose backend is there, or may still come back, waits beside that (:meth:`keep`): its
    sender is not read from meanwhile, and no policy touches it. Lifecycle events are not counted, nor dropped.
    """

    def __init__(
        self, max_messages: int, max_bytes: int, policy: QueuePolicy, counters: Counters, meter: Meter | None = None
    ) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.policy = policy
        self.size = 0
        """Bytes of memory of all messages that wait, each with what it costs beside its content."""
        self._counters = counters
        self._meter = meter or Meter()
        self._homeless: OrderedDict[ClientEvent, int] = (
            OrderedDict()
        )  # those without a backend, oldest first; what each costs
        self._homeless_size = 0
        self._kept: dict[ClientEvent, int] = {}

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._homeless) + len(self._kept)

    def __bool__(self) -> bool:
        """A queue is one, whether or not anything waits."""
        return True

    @property
    def is_full(self) -> bool:
        """Whether a bound is reached."""
        return len(self._homeless) >= self.max_messages or self._homeless_size >= self.max_bytes

    @property
    def wants_more(self) -> bool:
        """Whether clients without a backend are to be read from: what they send is kept, or goes as the policy says."""
        return self.policy != "backpressure" or not self.max_messages or not self.is_full

    def offer(self, event: ClientEvent) -> Offered:
        """Decide on a message for which there is no backend; it is counted when it is to wait."""
        if not self.max_messages:
            self._counters["queue_dropped"] += 1
            return Offered.DROPPED
        if self.policy == "disconnect" and self.is_full:
            self._counters["queue_dropped"] += 1
            return Offered.REFUSED
        size = self._homeless[event] = cost(event)
        self._homeless_size += size
        self._add(size)
        return Offered.FULL if self.policy == "backpressure" and self.is_full else Offered.KEPT

    def overdue(self) -> ClientEvent | None:
        """Return the message to drop next to be within the bounds again; the newest is never one."""
        if self.policy != "drop-oldest" or len(self._homeless) < 2:
            return None
        if len(self._homeless) <= self.max_messages and self._homeless_size <= self.max_bytes:
            return None
        self._counters["queue_dropped"] += 1
        return next(iter(self._homeless))

    def keep(self, event: ClientEvent) -> None:
        """Count a message that waits whatever the policy: its sender is not read from meanwhile."""
        size = self._kept[event] = cost(event)
        self._add(size)

    def _add(self, size: int) -> None:
        self.size += size
        self._meter.grown += size  # whoever read it, looks

    def taken(self, event: ClientEvent) -> None:
        """A message waits no longer."""
        if event.kind is not Kind.MESSAGE:
            return
        if event in self._kept:
            self.size -= self._kept.pop(event)
        elif event in self._homeless:
            size = self._homeless.pop(event)
            self._homeless_size -= size
            self.size -= size
