"""Stamps, by which brokers agree on which of two claims is the newer one. Pure."""

from collections.abc import Callable
from typing import Final, final

__all__ = ["Stamps"]

_MOST_AHEAD: Final = 24 * 3600 * 10**9
"""Nanoseconds by which another broker's clock may be ahead: one that says more is not believed."""


@final
class Stamps:
    """A clock that never goes back, and goes with that of the others which is ahead of all, as far as they were heard.

    ``wall`` is the machine's own, in nanoseconds.
    """

    __slots__ = ("_ahead", "_newest", "_wall")

    def __init__(self, wall: Callable[[], int]) -> None:
        self._wall = wall
        self._ahead = 0
        self._newest = 0

    @property
    def clock(self) -> int:
        """What this broker's clock says, for the others."""
        return max(self._wall() + self._ahead, self._newest)

    def see(self, clock: int) -> None:
        """Take note of another broker's."""
        ahead = clock - self._wall()
        if self._ahead < ahead <= _MOST_AHEAD:
            self._ahead = ahead

    def make(self) -> int:
        """Return a new one."""
        self._newest = max(self._wall() + self._ahead, self._newest + 1)
        return self._newest
