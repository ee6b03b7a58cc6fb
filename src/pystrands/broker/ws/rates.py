"""How much a client may send: token buckets. Pure: the caller says what time it is."""

from typing import Final

__all__ = ["BURST", "Bucket", "RateLimit"]

BURST: Final = 2.0
"""Seconds' worth that may come at once."""


class Bucket:
    """A token bucket that holds ``burst`` tokens and gets ``rate`` of them per second, both above 0; full at first.

    Whatever is taken is taken: more than there is leaves a debt, which is paid off before anything else.
    """

    __slots__ = ("_burst", "_rate", "_since", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._since = now

    def take(self, count: float, now: float) -> float:
        """Take ``count`` tokens; return in how many seconds there is no debt any more, 0 if there is none."""
        if now > self._since:  # a clock that goes back gives nothing twice
            self._tokens = min(self._burst, self._tokens + (now - self._since) * self._rate)
            self._since = now
        self._tokens -= count
        return max(0.0, -self._tokens / self._rate)


class RateLimit:
    """What one client may send: ``messages`` and ``size`` bytes per second, 0 for no limit.

    Two seconds' worth may come at once, and one message of ``largest`` bytes in any case.
    """

    __slots__ = ("_messages", "_size")

    def __init__(self, messages: float, size: float, largest: int, now: float) -> None:
        self._messages = Bucket(messages, max(1.0, BURST * messages), now) if messages else None
        self._size = Bucket(size, max(float(largest), BURST * size), now) if size else None

    def take(self, size: int, now: float) -> float:
        """Count a message of ``size`` bytes; return in how many seconds the client is within its limits, 0 if it is."""
        wait = 0.0
        if self._messages is not None:
            wait = self._messages.take(1, now)
        if self._size is not None:
            wait = max(wait, self._size.take(size, now))
        return wait
