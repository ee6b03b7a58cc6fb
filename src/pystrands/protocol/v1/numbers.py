"""The broker's one line of numbers: each is later than the last, and tells about when it was."""

__all__ = ["Numbers"]


class Numbers:
    """Gives out ascending numbers: microseconds since 1970, or one more than the last if that is later (promise 1)."""

    __slots__ = ("last",)

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def next(self, now: float) -> int:
        """Return the next number; ``now`` is in seconds since 1970."""
        number = int(now * 1_000_000)
        if number <= self.last:
            number = self.last + 1
        self.last = number
        return number
