"""What counts for every message."""

from collections import Counter

import pytest

from pystrands.broker.counters import Counters


def test_it_counts_as_any_counter_does():
    counters = Counters()
    counters["seen"] += 1
    counters["seen"] += 1
    assert counters == Counter(seen=2)
    assert counters["never"] == 0
    assert "never" not in counters
    assert counters.most_common() == [("seen", 2)]


def test_items_are_set_and_deleted_without_a_detour():
    assert Counters.__setitem__ is dict.__setitem__
    counters = Counters(seen=2)
    del counters["seen"]
    assert not counters
    with pytest.raises(KeyError):
        del counters["seen"]
