"""What a sender hears with ``confirm=True``."""

from typing import NamedTuple, Self

__all__ = ["Confirmation"]


class _Counts(NamedTuple):
    matched: int
    skipped: int


class Confirmation(_Counts):
    """What became of a message: how many clients it was for, how many missed it for being too slow.

    A tuple of the two. ``complete``: whether that is known of all brokers; else there may have been more.
    """

    complete: bool = True

    def __new__(cls, matched: int, skipped: int, complete: bool = True) -> Self:
        """Make one; ``complete`` is beside the tuple."""
        self = super().__new__(cls, matched, skipped)
        if not complete:
            self.complete = complete
        return self

    def __repr__(self) -> str:
        """Return all three."""
        return f"Confirmation(matched={self.matched}, skipped={self.skipped}, complete={self.complete})"
