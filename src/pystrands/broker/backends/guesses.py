"""How long those wait who gave a wrong token, so that guessing is slow."""

from collections import OrderedDict
from typing import Final

__all__ = ["Guesses"]

FIRST_DELAY: Final = 0.1
MAX_DELAY: Final = 5.0
FORGOTTEN_AFTER: Final = 600.0
"""Seconds without another wrong token, after which an origin begins anew."""
MAX_ORIGINS: Final = 1024


class Guesses:
    """Counts wrong tokens for each origin; the longest unheard of is forgotten when there are too many."""

    __slots__ = ("_counts", "_max_origins")

    def __init__(self, max_origins: int = MAX_ORIGINS) -> None:
        self._max_origins = max_origins
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, and when the last one was

    def __len__(self) -> int:
        """How many origins are remembered."""
        return len(self._counts)

    def wrong(self, origin: str, now: float) -> float:
        """Count a wrong token; return the seconds to wait before its refusal. ``now`` in seconds, by a steady clock."""
        count, last = self._counts.pop(origin, (0, now))
        if now - last > FORGOTTEN_AFTER:
            count = 0
        self._counts[origin] = count + 1, now
        if len(self._counts) > self._max_origins:
            self._counts.popitem(last=False)
        return min(FIRST_DELAY * 2.0 ** min(count, 30), MAX_DELAY)
