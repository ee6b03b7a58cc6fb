"""What counts for every message."""

import pytest

from pystrands.broker.counters import new_counters
from pystrands.broker.metrics import COUNTERS


def test_all_counters_are_there_from_the_start():
    counters = new_counters()
    assert counters.keys() == COUNTERS.keys()
    assert not any(counters.values())


def test_a_misspelled_counter_counts_nothing():
    with pytest.raises(KeyError):
        new_counters()["message_received"] += 1


def test_counters_are_a_plain_dict():
    """Compiled code reads and sets the items of no other mapping without a call of its methods."""
    assert type(new_counters()) is dict
