"""The order of each client's events, with concurrency between clients."""

from collections import deque
from typing import Generic, TypeVar

__all__ = ["Laned", "Lanes", "Slots"]


class Laned:
    """What can be put into a lane."""

    __slots__ = ("lane",)

    def __init__(self, lane: str | None) -> None:
        self.lane = lane
        """Those of one lane run one after the other; None: no order."""


class Slots:
    """How many items may run at once, and how many do: in all the lanes that share this."""

    __slots__ = ("limit", "running")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0


T = TypeVar("T", bound=Laned)


class Lanes(Generic[T]):
    """First in, first out in each lane; different lanes are independent.

    A lane is the sequence of the items that name it. At most one item of a lane is *running*: between the :meth:`take`
    that returned it and its :meth:`finish`. Items whose lane is None have none: nothing orders them.
    While an item runs it has one of the ``slots``; what can't run yet waits, oldest first. The driver bounds how many
    wait: it stops reading when :attr:`waiting` is past its limit.
    """

    __slots__ = ("_append", "_lanes", "_pop", "_ready", "_slots", "waiting")

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.waiting = 0
        self._ready: deque[T] = deque()
        self._append, self._pop = self._ready.append, self._ready.popleft  # for each item: looked up once
        # A lane is here while an item of it is ready or running; its value holds what comes after that item,
        # or None: most lanes are never more than one long, and need no deque.
        self._lanes: dict[str, deque[T] | None] = {}

    def put(self, item: T) -> None:
        """Append ``item`` to its lane."""
        self.waiting += 1
        lane = item.lane
        if lane is None:
            self._append(item)
        elif lane not in self._lanes:
            self._lanes[lane] = None
            self._append(item)
        elif (behind := self._lanes[lane]) is None:
            self._lanes[lane] = deque((item,))
        else:
            behind.append(item)

    def put_back(self, item: T) -> None:
        """Have ``item``, which runs and was not begun after all, come first in its lane after :meth:`finish`."""
        self.waiting += 1
        lane = item.lane
        if lane is None:
            self._ready.appendleft(item)
        elif (behind := self._lanes[lane]) is None:
            self._lanes[lane] = deque((item,))
        else:
            behind.appendleft(item)

    @property
    def runnable(self) -> bool:
        """Whether :meth:`take` would return an item."""
        return bool(self._ready) and self._slots.running < self._slots.limit

    def take(self) -> T | None:
        """Return the next item to run, or None when nothing may run now."""
        slots = self._slots
        if not self._ready or slots.running >= slots.limit:
            return None
        slots.running += 1
        self.waiting -= 1
        return self._pop()

    def finish(self, item: T) -> None:
        """``item``, which ran, is finished: the next one of its lane may run."""
        self._slots.running -= 1
        lane = item.lane
        if lane is None:
            return
        behind = self._lanes[lane]
        if behind:
            self._append(behind.popleft())
        else:
            del self._lanes[lane]

    def drain(self) -> list[T]:
        """Take out everything that is not running, each lane in order, and return it."""
        drained = list(self._ready)
        for item in self._ready:
            behind = None if item.lane is None else self._lanes.pop(item.lane, None)
            drained.extend(behind or ())
        self._ready.clear()
        for lane, behind in self._lanes.items():
            drained.extend(behind or ())
            self._lanes[lane] = None
        self.waiting = 0
        return drained
