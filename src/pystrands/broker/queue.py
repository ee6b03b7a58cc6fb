"""The bounds on what waits for a backend, and what happens when they are reached."""

from collections import OrderedDict
from enum import Enum

from pystrands.broker.counters import Counters
from pystrands.protocol.events import Event, Kind

__all__ = ["EventQueue", "Offer"]


class Offer(Enum):
    """What becomes of a message that no backend can take now."""

    KEPT = "it waits"
    FULL = "it waits, and its sender is not to be read from until it no longer does"
    DROPPED = "it is dropped: the queue is off"
    REFUSED = "it is dropped, and its sender is to be disconnected: the queue is full"


class EventQueue:
    """Counts the messages that wait, oldest first; the lanes hold them.

    At most ``max_messages`` messages and ``max_bytes`` bytes wait for a backend. When a message finds it full the
    ``policy`` says what happens:

    - ``backpressure``: it waits, and its sender is not read from. What was taken is never refused later, so the bounds
      may be passed by what each client's socket had already been read from (LINK rule 12).
    - ``drop-oldest``: :meth:`overdue` names the oldest messages, which make room.
    - ``disconnect``: it is dropped, and its sender is to be disconnected.

    With ``max_messages`` 0 messages are dropped. One message is always kept, however big. Lifecycle events are not
    counted, nor dropped. What is dropped is counted as ``queue_dropped``.
    """

    def __init__(self, max_messages: int, max_bytes: int, policy: str, counters: Counters) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.policy = policy
        self.size = 0
        """Bytes of the messages that wait; a ``str`` counts as many as it has characters."""
        self._counters = counters
        self._events: OrderedDict[Event, None] = OrderedDict()

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._events)

    def __bool__(self) -> bool:
        """A queue is one, whether or not anything waits."""
        return True

    @property
    def is_full(self) -> bool:
        """Whether a bound is reached."""
        return len(self._events) >= self.max_messages or self.size >= self.max_bytes

    def offer(self, event: Event) -> Offer:
        """Decide on a message for which there is no backend; it is counted when it is to wait."""
        if not self.max_messages:
            self._counters["queue_dropped"] += 1
            return Offer.DROPPED
        if self.policy == "disconnect" and self.is_full:
            self._counters["queue_dropped"] += 1
            return Offer.REFUSED
        self.keep(event)
        return Offer.FULL if self.policy == "backpressure" and self.is_full else Offer.KEPT

    def overdue(self) -> Event | None:
        """Return the message to drop next to be within the bounds again; the newest is never one."""
        if self.policy != "drop-oldest" or len(self._events) < 2:
            return None
        if len(self._events) <= self.max_messages and self.size <= self.max_bytes:
            return None
        self._counters["queue_dropped"] += 1
        return next(iter(self._events))

    def keep(self, event: Event) -> None:
        """Count a message that waits whatever the policy: its sender is not read from meanwhile."""
        self._events[event] = None
        self.size += event.size

    def taken(self, event: Event) -> None:
        """A message waits no longer."""
        if event.kind is Kind.MESSAGE and event in self._events:
            del self._events[event]
            self.size -= event.size
