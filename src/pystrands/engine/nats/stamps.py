"""Stamps, by which brokers agree on which of two claims is the newer one. Pure."""

from typing import final

__all__ = ["Stamps"]


@final
class Stamps:
    """A clock that never goes back, and is never behind another broker's, as far as that one was heard."""

    __slots__ = ("newest",)

    def __init__(self) -> None:
        self.newest = 0

    def see(self, stamp: int) -> None:
        """Take note of another broker's."""
        self.newest = max(self.newest, stamp)

    def make(self, nanoseconds: int) -> int:
        """Return a new one. ``nanoseconds``: what the machine's clock says."""
        self.newest = max(nanoseconds, self.newest + 1)
        return self.newest
