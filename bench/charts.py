"""The charts that docs show, made from the figures."""

from collections.abc import Callable

from bench.results import Results, Spread
from bench.sides import SIDES
from bench.svg import Bar, Bars, bar_chart

__all__ = ["case_charts"]

SHOWN = SIDES.keys() - {"protocol1", "pystrands-interpreted"}
KEEPS_UP = 0.95
"""Who delivers less than this share of the offered rate has no latency: the queue grows as long as one measures."""
TOO_MUCH = Spread(0, 0, 0)
Figure = Callable[[str], Spread | None]


def case_charts(results: Results) -> dict[str, str]:
    """Return the charts of what was measured, by name of file."""
    found = {
        "throughput": _throughput(results),
        "latency": _latency(results),
        "connections": _connections(results),
    }
    return {name: svg for name, svg in found.items() if svg}


def _panel(results: Results, case: str, title: str, figure: Figure, form: str, unit: str = "") -> list[Bars]:
    bars = []
    for side in results.cases.get(case, {}):
        each = figure(side) if side in SHOWN else None
        if each:
            kind = "ours" if side.startswith("pystrands") else "yardstick" if side == "c" else "other"
            label = SIDES[side].short
            shown = "more than it can do" if each is TOO_MUCH else format(each.median, form) + unit
            bars.append(Bar(label, each.median, each.low, each.high, shown, kind))
    return [Bars(title, bars)] if bars else []


def _throughput(results: Results) -> str:
    panels: list[Bars] = []
    for case, title in (
        ("echo", "Echo through a backend, 100 clients: messages per second"),
        ("room", "One room of 1,000 clients: deliveries per second"),
        ("rooms", "100 rooms of 10 clients: deliveries per second"),
        ("broadcast", "Broadcast to 10,000 clients: deliveries per second"),
    ):

        def figure(side: str, case: str = case) -> Spread | None:
            return results.spread(case, side, "rate")

        panels += _panel(results, case, title, figure, ",.0f")
    words = "Bars of the messages that each system delivers per second, with the range of the rounds."
    return bar_chart("Messages per second", words, panels) if panels else ""


def _latency(results: Results) -> str:
    panels: list[Bars] = []
    offered = results.about.get("latency", {}).get("rate", 0)
    for part, title in (("p50", "half of the messages within"), ("p99", "99 of 100"), ("p999", "999 of 1,000")):

        def figure(side: str, part: str = part) -> Spread | None:
            rate = results.spread("latency", side, "rate")
            if rate and rate.median < KEEPS_UP * offered:
                return TOO_MUCH
            return _scaled(results.spread("latency", side, "latency_us", part), 0.001)

        panels += _panel(results, "latency", f"Echo at half of FastAPI's most: {title}", figure, ",.2f", " ms")
    words = "Bars of the time in which echoes come back at a fixed offered rate; the table has the figures."
    return bar_chart("Latency at a fixed rate", words, panels) if panels else ""


def _connections(results: Results) -> str:
    def memory(side: str) -> Spread | None:
        runs = [run for run in results.cases["idle"][side] if run]
        return Spread.of([sum(run["bytes_per_connection"].values()) / 1024 for run in runs]) if runs else None

    def speed(side: str) -> Spread | None:
        return results.spread("idle", side, "connections_per_second")

    panels = _panel(results, "idle", "Memory for each idle connection, all processes", memory, ".1f", " KiB")
    panels += _panel(results, "idle", "New connections per second", speed, ",.0f")
    words = "Bars of the memory of an idle connection, of 15,000, and of how fast they were let in."
    return bar_chart("Idle connections", words, panels) if panels else ""


def _scaled(found: Spread | None, by: float) -> Spread | None:
    return Spread(found.median * by, found.low * by, found.high * by) if found else None
