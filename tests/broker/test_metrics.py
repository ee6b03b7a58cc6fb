"""What is counted, and what Prometheus is told of it."""

import re
from collections import Counter, defaultdict

import pytest
from prometheus_client.parser import text_string_to_metric_families

import pystrands
from pystrands.broker.metrics import COUNTERS, FAMILIES, GAUGES, HISTOGRAMS, counters_table, gauges_table
from pystrands.broker.ops.prometheus import Exposition
from pystrands.broker.ops.timed import Histogram


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


# ---- what Prometheus reads


def exposition(counters=(), gauges=(), histogram=None):
    return Exposition(
        Counter(dict(counters)),
        {name: lambda: 0 for name in GAUGES} | dict(gauges),
        {name: histogram or Histogram((1, 2.5)) for name in HISTOGRAMS},
    )


async def parsed(shown):
    """The samples by name and labels, as Prometheus' own parser reads them."""
    families = list(text_string_to_metric_families((await shown.render()).decode()))
    names = [family.name for family in families]
    assert len(set(names)) == len(names), "each family is there once"
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


async def test_every_counter_is_there_from_the_beginning():
    samples = await parsed(exposition())
    for counted in COUNTERS.values():
        labels = (("reason", counted.reason),) if counted.reason else ()
        assert samples[f"pystrands_{counted.metric}_total", *labels] == 0


async def test_counters_have_their_values():
    values = {name: number for number, name in enumerate(COUNTERS, 1)}
    samples = await parsed(exposition(values))
    for name, counted in COUNTERS.items():
        labels = (("reason", counted.reason),) if counted.reason else ()
        assert samples[f"pystrands_{counted.metric}_total", *labels] == values[name]


async def test_gauges_are_read_when_they_are_asked_for():
    values = {name: number for number, name in enumerate(GAUGES, 1)}
    samples = await parsed(exposition(gauges={name: lambda name=name: values[name] for name in GAUGES}))
    for name, value in values.items():
        assert samples[f"pystrands_{name}",] == value
    assert samples["pystrands_info", ("version", pystrands.__version__)] == 1


async def test_histograms_are_cumulative():
    histogram = Histogram((1, 2.5))
    for value in (0.5, 1, 2, 3, 4):
        histogram.observe(value)
    samples = await parsed(exposition(histogram=histogram))
    for name in HISTOGRAMS:
        buckets = [samples[f"pystrands_{name}_bucket", ("le", bound)] for bound in ("1.0", "2.5", "+Inf")]
        assert buckets == [2, 3, 5]
        assert samples[f"pystrands_{name}_count",] == 5
        assert samples[f"pystrands_{name}_sum",] == 10.5


async def test_the_process_is_told_of_too():
    samples = await parsed(exposition())
    assert samples["process_resident_memory_bytes",] > 1 << 20
    assert samples["process_open_fds",] > 2
    assert any(name == "python_info" for name, *_ in samples)


async def test_help_has_no_markdown():
    text = (await exposition().render()).decode()
    assert "--slow-client-policy drop" in text
    assert "`" not in text


@pytest.mark.parametrize("name", [*GAUGES, *HISTOGRAMS])
def test_the_other_metrics_are_named_by_the_conventions(name):
    assert re.fullmatch(r"[a-z][a-z_]*[a-z]", name)
    assert not name.endswith(("_total", "_count", "_sum", "_bucket"))
    assert name not in HISTOGRAMS or name.endswith("_seconds")
    assert f"| `pystrands_{name}` | " in gauges_table()
