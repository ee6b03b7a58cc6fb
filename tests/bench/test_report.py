"""The verdict follows the figures, and what is written for people is well-formed."""

import copy
import shutil
from xml.etree import ElementTree as ET

import pytest
from bench.cases import CASES
from bench.charts import case_charts
from bench.growth_report import cluster_tables, growth_charts, growth_tables
from bench.report import ROOT, write_docs
from bench.results import Results, Spread, machine
from bench.sides import SIDES
from bench.svg import Bar, Bars, Line, Lines, bar_chart, line_chart
from bench.verdict import ROWS, verdicts

SVG = "{http://www.w3.org/2000/svg}"


def run(**changed):
    """Figures of one run."""
    figures = {
        "rate": 1000.0,
        "us": {"broker": 1.0, "server": 1.0, "backend": 1.0},
        "bytes_per_connection": {"broker": 8000.0, "backend": 500.0},
        "connections_per_second": 100.0,
        "peak_bytes": {"broker": 1e7},
        "load_share": 0.5,
        "latency_us": {"p50": 100.0, "p99": 1000.0, "p999": 2000.0, "max": 3000.0},
        "stalled_closed": 0,
    }
    return figures | changed


@pytest.fixture
def results(tmp_path):
    found = Results(tmp_path / "results.json")
    for name in CASES:
        found.cases[name] = {side: [run(), run(), run()] for side in SIDES}
        found.about[name] = {"rounds": 3, "seconds": 3.0, "cores": 2, "cpu": "a <&> b", "kernel": "6.1.0-1"}
        found.about[name] |= {"date": "1 May 2026", "python": "3.11.2"}
    probe = {"probe": run(), "inside": {"wall": 0.004, "cpu": 0.003}}
    found.growth = {
        "connections": {"100": [run()], "15000": [run(), run()]},
        "rooms": {"1": [run()], "10000": [run()]},
        "stalled": {"0": [run()], "15": [run(stalled_closed=15)]},
        "held": {"pystrands": [probe], "fastapi": [probe | {"inside": None}]},
        "crossing": {
            "1": [{"first": 9.0, "other": None, "nats": 0.1} | run()],
            "2": [{"first": 9.0, "other": 3.0, "nats": 1.0} | run(), {"first": 9.5, "other": 4.0, "nats": 1.5} | run()],
        },
        "survey": [{"p50": 800.0, "p99": 2000.0}],
        "reconnect": [{"before": 1.0, "after": 9.0}],
    }
    return found


def word(results, label):
    (found,) = (each.word for each in verdicts(results) if label in each.row.label)
    return found


@pytest.mark.parametrize(
    ("rates", "expected"), [((1999, 2100, 1000), "missed"), ((2000, 2001, 1), "must"), ((3000, 3000, 3000), "aim")]
)
def test_more_is_better_for_throughput(results, rates, expected):
    results.cases["echo"]["pystrands"] = [run(rate=rate) for rate in rates]
    assert word(results, "echo through") == expected


@pytest.mark.parametrize(("p99", "expected"), [(1501.0, "missed"), (1500.0, "must"), (500.0, "aim")])
def test_less_is_better_for_latency(results, p99, expected):
    results.cases["latency"]["pystrands"] = [run(latency_us={"p99": p99})] * 3
    assert word(results, "p99") == expected


def test_the_brokers_cpu_is_that_of_a_machine_on_which_c_needs_what_it_needed(results):
    results.cases["room"]["c"] = [run(us={"server": 0.4})] * 3
    results.cases["room"]["pystrands"] = [run(us={"broker": 1.0})] * 3
    (verdict,) = (each for each in verdicts(results) if "CPU" in each.row.label)
    assert verdict.word == "must"
    assert verdict.measured == "2.00 us; here 1.00 us, and C 0.40 us"


def test_the_interpreted_code_is_named_behind_a_ratio(results):
    results.cases["echo"]["pystrands-interpreted"] = [run(rate=1500.0)] * 3
    (verdict,) = (each for each in verdicts(results) if "echo through" in each.row.label)
    assert verdict.measured == "1.00x; interpreted 1.50x (1.50x to 1.50x)"


def test_a_run_that_failed_fails_its_rows_and_no_others(results):
    results.cases["room"]["pystrands"][1] = None
    assert [each.row.case for each in verdicts(results) if each.word == "failed"] == ["room", "room"]


def test_a_ratio_is_of_the_rounds_that_both_have(results):
    results.cases["echo"]["pystrands"] = [run(rate=8000.0), None, run(rate=2000.0)]
    results.cases["echo"]["fastapi"] = [None, run(), run()]
    assert results.ratio("echo", "pystrands", "fastapi", "rate") == Spread(2.0, 2.0, 2.0)


def test_what_was_not_measured_is_said(results):
    del results.cases["idle"]
    assert word(results, "memory") == word(results, "new connections") == "not measured"


def test_the_rows_are_of_cases_that_there_are():
    assert {row.case for row in ROWS} <= set(CASES)


def test_the_figures_come_back_from_the_file(results):
    results.save()
    again = Results(results.path)
    assert (again.cases, again.about, again.growth) == (results.cases, results.about, results.growth)


@pytest.fixture
def root(tmp_path):
    """A folder with copies of what gets figures."""
    (tmp_path / "docs/images").mkdir(parents=True)
    for name in ("README.md", "docs/performance.md", "docs/several-brokers.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_readme_and_docs_get_tables_and_charts(results, root):
    written = write_docs(results, root)
    page = (root / "docs/performance.md").read_text()
    for case in CASES.values():
        assert case.label.casefold() in page.casefold()
    for table in growth_tables(results):
        assert table.title in page
    assert "1,000" in (root / "README.md").read_text()
    assert {path.stem for path in written if path.suffix == ".svg"} == {*case_charts(results), *growth_charts(results)}
    before = copy.copy(page)
    write_docs(results, root)
    assert (root / "docs/performance.md").read_text() == before, "written twice it is the same"


def test_what_several_brokers_cost_is_on_their_page(results, root):
    write_docs(results, root)
    page = (root / "docs" / "several-brokers.md").read_text("utf-8")
    assert "| 1 | 9.0 | | 0.1 | 0.1 | 1.0 |" in page
    assert "| 2 | 9.2 (9.0 to 9.5) | 3.5 (3.0 to 4.0) | 1.2 (1.0 to 1.5) | 0.1 | 1.0 |" in page
    assert "p50, ms | 0.8 |" in page and "| 9.0 |" in page
    del results.growth["crossing"], results.growth["survey"], results.growth["reconnect"]
    assert not cluster_tables(results)


def test_what_it_was_measured_on_has_the_congestion_control(results, root):
    for about in results.about.values():
        about["congestion"] = "cubic"
    write_docs(results, root)
    assert ", Python 3.11.2, TCP congestion control cubic.\n" in (root / "docs/performance.md").read_text()
    assert "congestion" in machine()


def test_files_of_older_versions_are_read(results, root):
    """They do not say which congestion control there was, and have sides that there are no more."""
    for sides in results.cases.values():
        sides["pystrands-compiled"] = sides.pop("pystrands-interpreted")
    results.save()
    write_docs(Results(results.path), root)
    page = (root / "docs/performance.md").read_text()
    assert ", Python 3.11.2.\n" in page
    assert "| pystrands-compiled |" in page


def test_charts_are_xml_with_words_for_who_cannot_see_them(results):
    charts = {**case_charts(results), **growth_charts(results)}
    assert set(charts) == {"throughput", "latency", "connections", "growth", "neighbours"}
    for svg in charts.values():
        root = ET.fromstring(svg)
        assert [child.tag.split("}")[1] for child in root][:2] == ["title", "desc"]
        assert all(child.text for child in list(root)[:2])


def test_a_bar_is_as_long_as_its_value_and_names_are_escaped():
    svg = bar_chart("t", "d", [Bars("p", [Bar("a & b", 10, 10, 10, "10"), Bar("b", 5, 5, 5, "5", "ours")])])
    root = ET.fromstring(svg)
    bars = [each for each in root.iter(f"{SVG}rect") if each.get("class") != "ground"]
    first, second = (float(each.get("width", "")) for each in bars)
    assert first == pytest.approx(2 * second)
    assert any(each.text == "a & b" for each in root.iter(f"{SVG}text"))


def test_a_line_rises_with_its_values_on_an_axis_of_decades():
    svg = line_chart("t", "d", [Lines("p", "x", [Line("l", [(1, 1.0), (10, 2.0), (100, 4.0)])])])
    (line,) = ET.fromstring(svg).iter(f"{SVG}polyline")
    points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)
    assert points[0][1] > points[1][1] > points[2][1]
