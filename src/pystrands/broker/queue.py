"""What waits while no backend is connected."""

from collections import Counter, deque
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

__all__ = ["EventQueue", "Put", "Waiting"]

T = TypeVar("T")


class Waiting(NamedTuple, Generic[T]):
    """One event in the queue: whose it is, and either a ``message`` or the whole ``line`` of a lifecycle event."""

    owner: T
    message: str | bytes | None
    line: bytes = b""


class Put(Enum):
    """What became of a message that was put into the queue."""

    KEPT = "kept"
    FULL = "kept, and now its sender should not be read from until the queue has been drained"
    DROPPED = "dropped: the queue is off"
    REFUSED = "not kept: the queue is full, and its sender is to be disconnected"


class EventQueue(Generic[T]):
    """Events in the order in which they came, with at most ``max_messages`` and ``max_bytes`` of messages.

    What happens when a message finds it full is the ``policy``:

    - ``backpressure``: it is kept, and its sender is not read from any more. What was taken is never refused later, so
      the bounds may be passed by what each client's socket had already been read from.
    - ``drop-oldest``: the oldest messages make room.
    - ``disconnect``: it is not kept, and its sender is to be disconnected.

    With ``max_messages`` 0 messages are dropped. One message is always kept, however big. Lifecycle events are neither
    counted nor dropped: there are at most two for each client. ``T`` is whatever says whose event it is.
    What is dropped or refused is counted as ``queue_dropped``.
    """

    def __init__(self, max_messages: int, max_bytes: int, policy: str, *, counters: Counter[str] | None = None) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.policy = policy
        self.size = 0
        """Bytes of the messages that wait."""
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._events: dict[int, Waiting[T]] = {}  # by a running number: dropping from the middle keeps the order
        self._messages: deque[int] = deque()  # the numbers of those that are messages, oldest first
        self._next = 0

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._messages)

    @property
    def is_full(self) -> bool:
        """Whether a bound is reached."""
        return len(self._messages) >= self.max_messages or self.size >= self.max_bytes

    def put_lifecycle(self, owner: T, line: bytes) -> None:
        """Append an event that must not get lost."""
        self._append(Waiting(owner, None, line))

    def put_message(self, owner: T, message: str | bytes) -> Put:
        """Append a message, as the policy says. A ``str`` counts as many bytes as it has characters."""
        if not self.max_messages:
            self._counters["queue_dropped"] += 1
            return Put.DROPPED
        if self.policy == "disconnect" and self.is_full:
            self._counters["queue_dropped"] += 1
            return Put.REFUSED
        size = len(message)
        if self.policy == "drop-oldest":
            while self._messages and (len(self) >= self.max_messages or self.size + size > self.max_bytes):
                self._drop_oldest()
        self._messages.append(self._append(Waiting(owner, message)))
        self.size += size
        return Put.FULL if self.policy == "backpressure" and self.is_full else Put.KEPT

    def drain(self) -> list[Waiting[T]]:
        """Take everything out, in order."""
        events = list(self._events.values())
        self._events.clear()
        self._messages.clear()
        self.size = 0
        return events

    def _append(self, event: Waiting[T]) -> int:
        number = self._next
        self._next += 1
        self._events[number] = event
        return number

    def _drop_oldest(self) -> None:
        message = self._events.pop(self._messages.popleft()).message
        assert message is not None
        self.size -= len(message)
        self._counters["queue_dropped"] += 1
