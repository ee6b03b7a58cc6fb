"""The order of each client's events, with concurrency between clients."""

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Lanes"]

T = TypeVar("T")


class Lanes(Generic[T]):
    """First in, first out for each key; different keys are independent.

    A lane is the sequence of one key's items. At most one item of a lane is *running*: between the :meth:`take` that
    returned it and :meth:`finish` of its key. Items whose key is None have no lane: nothing orders them.
    At most ``concurrency`` items run at once; what can't run yet waits, oldest first. The driver bounds how many wait:
    it stops reading when :attr:`waiting` is past its limit.
    """

    __slots__ = ("_lanes", "_ready", "concurrency", "running", "waiting")

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.running = 0
        self.waiting = 0
        self._ready: deque[tuple[Hashable, T]] = deque()
        # A key is here while an item of its lane is ready or running; its value holds what comes after that item,
        # or None: most lanes are never more than one long, and need no deque.
        self._lanes: dict[Hashable, deque[T] | None] = {}

    def __len__(self) -> int:
        """How many items were put and not yet finished."""
        return self.waiting + self.running

    def put(self, key: Hashable, item: T) -> None:
        """Append ``item`` to the lane of ``key``."""
        self.waiting += 1
        if key is None:
            self._ready.append((key, item))
        elif key not in self._lanes:
            self._lanes[key] = None
            self._ready.append((key, item))
        elif (behind := self._lanes[key]) is None:
            self._lanes[key] = deque((item,))
        else:
            behind.append(item)

    def put_back(self, key: Hashable, item: T) -> None:
        """Have ``item``, which runs and was not begun after all, come first in its lane after :meth:`finish`."""
        self.waiting += 1
        if key is None:
            self._ready.appendleft((key, item))
        elif (behind := self._lanes[key]) is None:
            self._lanes[key] = deque((item,))
        else:
            behind.appendleft(item)

    @property
    def runnable(self) -> bool:
        """Whether :meth:`take` would return an item."""
        return bool(self._ready) and self.running < self.concurrency

    def take(self) -> tuple[Hashable, T] | None:
        """Return the next ``(key, item)`` to run, or None when nothing may run now."""
        if not self._ready or self.running >= self.concurrency:
            return None
        self.running += 1
        self.waiting -= 1
        return self._ready.popleft()

    def finish(self, key: Hashable) -> None:
        """The running item of ``key`` is finished: the next one of its lane may run."""
        self.running -= 1
        if key is None:
            return
        behind = self._lanes[key]
        if behind:
            self._ready.append((key, behind.popleft()))
        else:
            del self._lanes[key]

    def drain(self) -> list[tuple[Hashable, T]]:
        """Take out everything that is not running, each lane in order, and return it with its keys."""
        drained = list(self._ready)
        for key, _ in self._ready:
            behind = self._lanes.pop(key, None) if key is not None else None
            drained.extend((key, later) for later in behind or ())
        self._ready.clear()
        for key, behind in self._lanes.items():
            drained.extend((key, later) for later in behind or ())
            self._lanes[key] = None
        self.waiting = 0
        return drained
