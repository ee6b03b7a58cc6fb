"""The Grafana dashboard: it asks for nothing that the broker does not tell."""

import itertools
import json
import re
from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from pystrands.broker.metrics import COUNTERS, GAUGES, HISTOGRAMS
from pystrands.broker.ops.prometheus import Exposition
from pystrands.broker.ops.timed import Histogram
from tests.docs.blocks import ROOT

TEXT = (ROOT / "deploy" / "grafana.json").read_text("utf-8")
DASHBOARD = json.loads(TEXT)
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [target for panel in PANELS for target in panel["targets"]]
FUNCTIONS = {"sum", "by", "rate", "histogram_quantile", "le", "reason", "instance"}


async def told():
    """The samples that a broker has, each with the names of its labels."""
    shown = Exposition(Counter(), dict.fromkeys(GAUGES, lambda: 0), dict.fromkeys(HISTOGRAMS, Histogram((1,))))
    families = text_string_to_metric_families((await shown.render()).decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


async def test_every_metric_that_is_asked_for_exists_with_its_labels():
    samples = await told()
    for target in TARGETS:
        expression = re.sub(r"\{[^}]*\}|\[[^]]*\]|[0-9.]+", "", target["expr"])
        names = set(re.findall(r"\w+", expression)) - FUNCTIONS
        assert names
        assert names <= set(samples), target["expr"]
        for label in re.findall(r"\b(?:by \((\w+)\)|\{\{(\w+)\}\})", f"{target['expr']} {target['legendFormat']}"):
            assert {*label} - {""} <= {"instance"}.union(*(samples[name] for name in names)), target
    query = DASHBOARD["templating"]["list"][1]["query"]
    assert query == "label_values(pystrands_info, instance)"
    assert "pystrands_info" in samples


def test_expressions_are_whole():
    for target in TARGETS:
        for opening, closing in ("()", "[]", "{}"):
            assert target["expr"].count(opening) == target["expr"].count(closing), target["expr"]
        assert '{instance=~"$instance"}' in target["expr"]
        for counter in re.findall(r"\w+_total|\w+_bucket", target["expr"]):
            assert f"rate({counter}{{" in target["expr"]


def test_all_reasons_are_shown():
    with_reasons = {f"pystrands_{each.metric}_total" for each in COUNTERS.values() if each.reason}
    shown = {name for name in with_reasons if f"sum by (reason) (rate({name}{{" in TEXT}
    assert shown == with_reasons
    for name in HISTOGRAMS:
        assert f"pystrands_{name}_bucket" in TEXT


def test_panels_lie_beside_each_other():
    places = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        taken = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not places & taken, panel["title"]
        places |= taken
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_no_data_source_of_ours_is_in_it():
    for thing in (*PANELS, *TARGETS):
        assert thing["datasource"]["uid"] == "${datasource}"


def test_all_of_the_engine_is_shown():
    names = {f"pystrands_{name}" for name in GAUGES if name.startswith("engine_")}
    names |= {f"pystrands_{each.metric}_total" for name, each in COUNTERS.items() if name.startswith("engine_")}
    assert {name for name in names if f"{name}{{" not in TEXT} == set()
