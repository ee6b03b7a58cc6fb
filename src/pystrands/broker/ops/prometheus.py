"""What Prometheus reads: the broker's counters, gauges and histograms, and its process. Needs ``prometheus-client``."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from pystrands.broker.counters import Counters
from pystrands.broker.metrics import COUNTERS, FAMILIES, GAUGES, HISTOGRAMS, PREFIX
from pystrands.broker.ops.timed import Histogram
from pystrands.build import VERSION

__all__ = ["CONTENT_TYPE", "Exposition"]

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Exposition(Collector):
    """Renders one broker's metrics. ``gauges`` and ``histograms`` have the names of the tables in ``metrics``."""

    def __init__(
        self,
        counters: Counters,
        gauges: Mapping[str, Callable[[], float]],
        histograms: Mapping[str, Histogram],
    ) -> None:
        self._counters = counters
        self._gauges = gauges
        self._histograms = histograms
        self._broker = CollectorRegistry()
        self._broker.register(self)
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)

    async def render(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        # Counting a process's open files means to list them, which takes long when there are many.
        process = await asyncio.to_thread(generate_latest, self._process)
        return generate_latest(self._broker) + process

    def collect(self) -> Iterator[Metric]:
        """Give the broker's own; called by its registry."""
        info = GaugeMetricFamily(PREFIX + "info", "1; its label is what this broker is", labels=("version",))
        info.add_metric((VERSION,), 1)
        yield info
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(PREFIX + name, _plain(text), value=self._gauges[name]())
        yield from self._counts()
        for name, text in HISTOGRAMS.items():
            yield _histogram(PREFIX + name, _plain(text), self._histograms[name])

    def _counts(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily] = {}
        for name, counted in COUNTERS.items():
            family = families.get(counted.metric)
            if family is None:
                text = FAMILIES.get(counted.metric, counted.text)
                labels = ("reason",) if counted.reason else ()
                family = CounterMetricFamily(PREFIX + counted.metric, _plain(text), labels=labels)
                families[counted.metric] = family
            family.add_metric((counted.reason,) if counted.reason else (), self._counters[name])
        yield from families.values()


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    bounds = (*(str(float(bound)) for bound in histogram.bounds), "+Inf")
    buckets = list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=histogram.total)


def _plain(text: str) -> str:
    return text.replace("`", "")
