"""A count of what has come in since the memory was looked at last."""

import sys
from collections.abc import Callable

__all__ = ["Meter"]


class Meter:
    """Whoever keeps what others send adds its bytes to ``grown``, and calls :meth:`over` when that is above ``mark``.

    So the next look at the memory comes in time however fast bytes come, and costs an addition until then.
    """

    __slots__ = ("_look", "grown", "mark")

    def __init__(self) -> None:
        self.grown = 0
        self.mark = sys.maxsize
        self._look: Callable[[], None] | None = None

    def watch(self, look: Callable[[], None]) -> None:
        """Have :meth:`over` call ``look``."""
        self._look = look

    def reset(self, mark: int) -> None:
        """Begin to count anew; so many bytes may come."""
        self.grown = 0
        self.mark = mark

    def over(self) -> None:
        """Look: so much has come that a limit may be passed."""
        self.grown = 0  # what follows from the look must not bring another one
        if self._look is not None:
            self._look()
