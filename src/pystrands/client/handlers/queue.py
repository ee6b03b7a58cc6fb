"""What came over one connection and waits for its handlers."""

import math
from collections.abc import Callable
from typing import Final

from pystrands.client.handlers.calls import HandlerCall
from pystrands.client.handlers.clock import clock
from pystrands.client.handlers.lanes import Lanes, Slots

__all__ = ["CallQueue"]

MAX_WAITING: Final = 10_000
"""Events that wait for a handler before the links are paused."""
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""The same in bytes of their lines."""


class CallQueue:
    """The calls of one connection, each client's in order, and until when they may begin.

    A process may have several, whose handlers share the ``slots``; one :class:`Dispatcher` runs them all. What one
    broker says and does touches its own queue alone.

    No handler begins when the :attr:`lease` is over. What waits is *held* then, which ``on_lapse()`` is told once,
    until the dispatcher renews the lease. ``flow(full)`` is called with True when more than ``max_waiting`` calls or
    ``max_waiting_bytes`` wait, and with False when half of that is left. When the handler of a numbered event has
    ended, by itself or with an exception, its number goes to ``call.done``, and ``notify_done()`` is called if it is
    the first one there.
    """

    __slots__ = (
        "_clock",
        "flow",
        "full",
        "is_held",
        "lanes",
        "lease",
        "max_waiting",
        "max_waiting_bytes",
        "notify_done",
        "on_lapse",
        "stale",
        "waiting_bytes",
    )

    def __init__(
        self,
        slots: Slots,
        *,
        flow: Callable[[bool], None],
        notify_done: Callable[[], None] = lambda: None,
        on_lapse: Callable[[], None] = lambda: None,
        stale: set[int] | None = None,
        max_waiting: int = MAX_WAITING,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        clock: Callable[[], float] = clock,
    ) -> None:
        self.lanes: Lanes[HandlerCall] = Lanes(slots)
        self.lease = math.inf
        """Until when handlers may begin, by the ``clock``."""
        self.is_held = False
        """Whether what waits may not begin before the lease is renewed."""
        self.stale: set[int] = set() if stale is None else stale
        """Runners with a handler that began in a session that is gone since."""
        self.full = False
        """Whether too much waits."""
        self.waiting_bytes = 0
        self.flow = flow
        self.notify_done = notify_done
        self.on_lapse = on_lapse
        self.max_waiting = max_waiting
        self._clock = clock
        self.max_waiting_bytes = max_waiting_bytes

    @property
    def waiting(self) -> int:
        """How many calls wait for a handler."""
        return self.lanes.waiting

    @property
    def is_runnable(self) -> bool:
        """Whether a call may begin, or the end of the lease is to be noted."""
        return not self.is_held and self.lanes.runnable

    @property
    def lease_is_over(self) -> bool:
        """Whether others may have been given what waits."""
        return self._clock() >= self.lease

    def put(self, call: HandlerCall) -> None:
        """Append a call; the dispatcher sees to it."""
        self.lanes.put(call)
        self.waiting_bytes += call.size
        if not self.full and (self.lanes.waiting > self.max_waiting or self.waiting_bytes > self.max_waiting_bytes):
            self.full = True
            self.flow(True)

    def see_room(self) -> None:
        """Tell when there is room again."""
        if self.lanes.waiting * 2 <= self.max_waiting and self.waiting_bytes * 2 <= self.max_waiting_bytes:
            self.full = False
            self.flow(False)

    def hold(self) -> None:
        """The lease is over: hold what waits, if anything could begin."""
        if self.is_runnable:
            self.is_held = True
            self.on_lapse()

    def mark_repeats(self) -> None:
        """Mark what waits: it may have been handled elsewhere."""
        for call in self.lanes.drain():
            if call.seq:
                call.context.redelivered = True
            self.lanes.put(call)

    def release(self) -> list[HandlerCall]:
        """Take out and return what the broker sent and no handler has begun with; what is our own stays."""
        released = []
        for call in self.lanes.drain():
            if call.seq or call.request is not None:
                self.waiting_bytes -= call.size
                released.append(call)
            else:
                self.lanes.put(call)
        return released

    def clear(self) -> int:
        """Drop what waits; return how many those are."""
        self.waiting_bytes = 0
        return len(self.lanes.drain())
