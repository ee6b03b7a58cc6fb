"""What is counted, and what Prometheus is told of it."""

import re
from collections import defaultdict

import pytest

from pystrands.broker.metrics import COUNTERS, FAMILIES, counters_table


@pytest.mark.parametrize(("name", "counted"), COUNTERS.items())
def test_a_counters_metric_is_named_by_the_conventions(name, counted):
    assert re.fullmatch(r'pystrands_[a-z][a-z_]*[a-z]_total(\{reason="[a-z][a-z0-9_]*[a-z0-9]"\})?', counted.sample)
    assert not counted.metric.endswith("_total")
    assert counted.text
    assert f"| `{name}` | `{counted.sample}` | {counted.text} |\n" in counters_table()


def test_counters_share_a_metric_only_when_their_reasons_differ():
    reasons = defaultdict(list)
    for counted in COUNTERS.values():
        reasons[counted.metric].append(counted.reason)
    for metric, each in reasons.items():
        assert len(set(each)) == len(each), metric
        assert ("" in each) == (metric not in FAMILIES), f"{metric}: a metric with reasons has its text in FAMILIES"
    assert set(FAMILIES) <= set(reasons)
