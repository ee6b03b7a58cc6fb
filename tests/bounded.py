"""Brokers that wait for less, or have room for less, than those of users."""

from typing import Any

from pystrands.broker.bounds import Bounds
from pystrands.testing.brokers import LocalBroker


class BoundedBroker(LocalBroker):
    """One with these bounds: ``async with BoundedBroker(Bounds(mute=0.001), hold_time=1.0) as broker:``."""

    def __init__(self, bounds: Bounds, **options: Any) -> None:
        super().__init__(**options)
        self.bounds = bounds
