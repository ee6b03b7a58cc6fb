"""Who may look at what a broker does: to time it, to count it, to trace it."""

import time
from collections.abc import Sequence

from mypy_extensions import mypyc_attr

__all__ = ["Observer"]


@mypyc_attr(allow_interpreted_subclasses=True)  # those of tests
class Observer:
    """Is told what happens, and does nothing about it: override what is of interest. Nothing here may raise.

    Parts of a broker have one only where somebody looks; else they have None, and tell nobody.
    """

    __slots__ = ()

    def now(self) -> float:
        """Return the time that durations are measured by, in seconds, by a steady clock."""
        return time.perf_counter()

    def on_sent(self, consumer: object, event: object, number: int) -> None:
        """An event of a client was written to a session, as its line of that number."""

    def on_done(self, consumer: object, ranges: Sequence[tuple[int, int]]) -> None:
        """A session says that it has finished the events of these numbers, some of which may not be there."""

    def on_released(self, consumer: object, ranges: Sequence[tuple[int, int]]) -> None:
        """A session that is leaving gives the events of these numbers back."""

    def on_died(self, consumer: object) -> None:
        """A session is over."""

    def on_flush(self, seconds: float) -> None:
        """What waited for clients was written, in one turn of the loop."""

    def on_admitted(self, seconds: float) -> None:
        """A client got its 101, so long after its connection, or after the end of its TLS handshake."""
