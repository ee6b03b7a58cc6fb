"""How it grows, as tables and charts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.measure import Run
from bench.results import Results, Spread
from bench.svg import Bar, Bars, Line, Lines, bar_chart, line_chart

__all__ = ["GrowthTable", "cluster_tables", "growth_charts", "growth_tables", "session_tables"]

CURVES = (
    ("connections", "connections", "Cost per message with more connections"),
    ("rooms", "rooms", "Cost per message with more rooms"),
)
SIDES = {"pystrands": "PyStrands", "fastapi": "FastAPI"}


@dataclass(frozen=True)
class GrowthTable:
    """A table and what it is of."""

    title: str
    heads: list[str]
    rows: list[list[str]]


def growth_tables(results: Results) -> list[GrowthTable]:
    """Return a table of each curve that was measured."""
    tables = []
    for name, word, title in CURVES:
        curve = results.growth.get(name, {})
        heads = [word, "broker, us per message", "backend, us per message", "p50, ms", "p99, ms"]
        rows = []
        for point, runs in curve.items():
            cells = [_cell(runs, "us", part) for part in ("broker", "backend")]
            rows.append([f"{int(point):,}", *cells, *_latency(runs)])
        tables.append(GrowthTable(title, heads, rows))
    curve = results.growth.get("stalled", {})
    heads = ["do not read, of 50", "closed by the broker", "broker, us per message", "the others: p50, ms", "p99, ms"]
    rows = []
    for point, runs in curve.items():
        closed = max(run["stalled_closed"] for run in runs)
        rows.append([point, str(closed), _cell(runs, "us", "broker"), *_latency(runs)])
    tables.append(GrowthTable("Clients that stop reading, and the others", heads, rows))
    tables.append(_held(results.growth.get("held", {})))
    return [table for table in tables if table.rows]


def cluster_tables(results: Results) -> list[GrowthTable]:
    """Return the tables of several brokers, as far as that was measured."""
    tables = [_crossing(results.growth.get("crossing", {})), _of_brokers(results.growth)]
    return [table for table in tables if table.rows]


def session_tables(results: Results) -> list[GrowthTable]:
    """Return the table of clients that come back, if that was measured."""
    runs: Any = results.growth.get("sessions")
    if not runs:
        return []
    rows = [
        ["a resume with 100 messages to be replayed, p50, ms", _cell(runs, "resumes", "p50")],
        ["the same, p99, ms", _cell(runs, "resumes", "p99")],
        ["10,000 clients resume at once, seconds", _cell(runs, "away", "seconds")],
        ["memory of the broker for a client that is here and idle, KiB", _cell(runs, "here", "bytes", scale=1 / 1024)],
        ["for one that is away, KiB", _cell(runs, "away", "bytes", scale=1 / 1024)],
    ]
    return [GrowthTable("Clients that come back", ["", "median (range)"], rows)]


def _crossing(points: dict[str, list[Run]]) -> GrowthTable:
    heads = ["brokers", "the sender's, us per message", "each other, us", "NATS, us", "idle: p50, ms", "p99, ms"]
    rows = []
    for point, runs in points.items():
        others = _cell(runs, "other") if runs[0]["other"] is not None else ""
        rows.append([point, _cell(runs, "first"), others, _cell(runs, "nats"), *_latency(runs)])
    return GrowthTable("A room with a member at each of several brokers", heads, rows)


def _of_brokers(growth: dict[str, Any]) -> GrowthTable:
    rows = []
    if runs := growth.get("survey"):
        asked = "who is in a room, asked of 4 brokers with 100 members each"
        rows += [[f"{asked}; {name}, ms", _cell(runs, name, scale=0.001)] for name in ("p50", "p99")]
    if runs := growth.get("reconnect"):
        longest = "a broker of 100,000 rooms: the longest echo"
        rows += [
            [f"{longest} {when}, ms", _cell(runs, name)]
            for name, when in (("before", "before"), ("after", "while NATS ends and comes back"))
        ]
    return GrowthTable("Questions and reconnects, several brokers", ["", "median (range)"], rows)


def _held(sides: dict[str, Any]) -> GrowthTable:
    heads = ["", "pings: p50, ms", "p99, ms", "longest, ms", "longest turn of the loop, ms", "CPU of it, ms"]
    rows = []
    for side, runs in sides.items():
        probes = [run["probe"] for run in runs]
        inside = [run["inside"] for run in runs if run["inside"]]
        held = [_cell(inside, part, scale=1000) if inside else "" for part in ("wall", "cpu")]
        rows.append([SIDES[side], *_latency(probes, ("p50", "p99", "max")), *held])
    return GrowthTable("Beside broadcasts to 15,000 clients", heads, rows)


def _spread(runs: Iterable[Run], *keys: str, scale: float = 1) -> Spread:
    values = []
    for run in runs:
        value: Any = run
        for key in keys:
            value = value[key]
        values.append(value * scale)
    return Spread.of(values)


def _cell(runs: Iterable[Run], *keys: str, scale: float = 1) -> str:
    found = _spread(runs, *keys, scale=scale)
    if found.low == found.high:
        return f"{found.median:.1f}"
    return f"{found.median:.1f} ({found.low:.1f} to {found.high:.1f})"


def _latency(runs: list[Run], parts: Iterable[str] = ("p50", "p99")) -> list[str]:
    return [_cell(runs, "latency_us", part, scale=0.001) for part in parts]


def growth_charts(results: Results) -> dict[str, str]:
    """Return the charts, by name of file."""
    return {name: svg for name, svg in (("growth", _curves(results)), ("neighbours", _neighbours(results))) if svg}


def _curves(results: Results) -> str:
    panels = []
    for name, word, title in CURVES:
        curve = results.growth.get(name, {})
        lines = [
            Line(part, [(int(point), _spread(runs, "us", part).median) for point, runs in curve.items()], kind)
            for part, kind in (("broker", "a"), ("backend", "b"))
        ]
        if curve:
            panels.append(Lines(f"{title}, us", word, lines))
    words = "Lines: CPU per message of broker and backend, from 100 to 15,000 connections and from 1 to 10,000 rooms."
    return line_chart("How the cost of a message grows", words, panels) if panels else ""


def _neighbours(results: Results) -> str:
    panels = []
    held = results.growth.get("held", {})
    for part, title in (("p99", "99 of 100 pings answered within"), ("max", "all of them within")):
        bars = [
            _bar(SIDES[side], [run["probe"] for run in runs], part, "ours" if side == "pystrands" else "other")
            for side, runs in held.items()
        ]
        if bars:
            panels.append(Bars(f"Beside broadcasts to 15,000 clients: {title}", bars))
    curve = results.growth.get("stalled", {})
    if curve:
        bars = [_bar(f"{point} of 50" if int(point) else "none", runs, "p99", "ours") for point, runs in curve.items()]
        panels.append(Bars("Beside clients that do not read: 99 of 100 messages arrive at the others within", bars))
    words = "Bars of latency: pings during broadcasts, and room messages beside clients that have stopped reading."
    return bar_chart("What others notice", words, panels) if panels else ""


def _bar(label: str, runs: list[Run], part: str, kind: str) -> Bar:
    found = _spread(runs, "latency_us", part, scale=0.001)
    return Bar(label, found.median, found.low, found.high, f"{found.median:,.1f} ms", kind)
