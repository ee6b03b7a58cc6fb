"""What happened how often."""

from typing import TypeAlias

from pystrands.broker.metrics import COUNTERS

__all__ = ["Counters", "new_counters"]

Counters: TypeAlias = dict[str, int]
"""By the names in ``metrics``. A plain ``dict``: two are for every message, and no other mapping costs so little."""


def new_counters() -> Counters:
    """Return all counters, at 0."""
    return dict.fromkeys(COUNTERS, 0)
