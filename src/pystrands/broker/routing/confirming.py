"""A message whose sender wants to know what became of it: here, and at other brokers."""

from collections.abc import Callable
from typing import Any

from pystrands.engine.publication import Delivered

__all__ = ["Confirming"]


class Confirming:
    """Gathers how many clients it was for, and tells once all is known.

    ``answered`` takes the params of the ``result``. It waits for :meth:`here`, which may be put off until the
    recipients take more, and, where ``elsewhere`` says so, for :meth:`elsewhere` as well; each is called once.
    """

    __slots__ = ("_answered", "_complete", "_matched", "_taken", "_waits_for")

    def __init__(self, answered: Callable[[dict[str, Any]], None], *, elsewhere: bool) -> None:
        self._answered = answered
        self._matched = 0
        self._taken = 0
        self._complete = True
        self._waits_for = 2 if elsewhere else 1

    def here(self, matched: int, taken: int) -> None:
        """Take what became of it at this broker."""
        self._add(matched, taken)

    def elsewhere(self, delivered: Delivered, complete: bool) -> None:
        """Take what became of it at all others, and whether all of them have told."""
        self._complete = complete
        self._add(*delivered)

    def _add(self, matched: int, taken: int) -> None:
        self._matched += matched
        self._taken += taken
        self._waits_for -= 1
        if self._waits_for:
            return
        result: dict[str, Any] = {"matched": self._matched, "skipped": self._matched - self._taken}
        if not self._complete:
            result["complete"] = False
        self._answered(result)
