"""How long to wait before the next attempt to connect."""

import random
from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """Delays in seconds that grow by ``factor`` from ``initial`` to ``maximum``.

    Each is shortened at random by up to ``jitter`` of itself, so that backends that lost the broker together do not all
    come back in the same instant. ``uniform`` gives a random number between 0 and 1.
    """

    __slots__ = ("_delay", "_uniform", "factor", "initial", "jitter", "maximum")

    def __init__(
        self,
        initial: float,
        maximum: float,
        factor: float,
        *,
        jitter: float = 0.25,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self.initial = initial
        self.maximum = maximum
        self.factor = factor
        self.jitter = jitter
        self._uniform = uniform
        self._delay = initial

    def next(self) -> float:
        """Return the delay before the next attempt."""
        delay = min(self._delay, self.maximum)
        self._delay = min(delay * self.factor, self.maximum)
        return delay * (1 - self.jitter * self._uniform())

    def reset(self) -> None:
        """Start over, after an attempt that succeeded."""
        self._delay = self.initial
