"""What must hold, what is aimed at, and what was measured."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.results import Results, Spread

__all__ = ["ROWS", "Row", "Verdict", "verdicts"]

OURS, THEIRS, YARDSTICK = "pystrands", "fastapi", "c"
YARDSTICK_US = 0.8
"""Microseconds that the C server needed for a delivery in one room on the machine for which the targets were set."""


@dataclass(frozen=True)
class Row:
    """One row: how its figure is found, and its two bounds, which are lower ones where ``more`` is better."""

    label: str
    case: str
    must: float
    aim: float
    measured: Callable[[Results], Spread | None]
    unit: str = "x"
    more: bool = False
    remark: Callable[[Results], str] = lambda _: ""
    sides: tuple[str, ...] = (OURS, THEIRS)

    def shown(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{value:.2f}{self.unit}"

    def bound(self, value: float) -> str:
        """Return a bound with its unit."""
        return f"{'at least' if self.more else 'at most'} {value:g}{self.unit}"

    def holds(self, bound: float, value: float) -> bool:
        """Say whether a value is within a bound."""
        return value >= bound if self.more else value <= bound


@dataclass(frozen=True)
class Verdict:
    """What came out for a row. ``word``: aim, must, missed, failed (a run lost something), or not measured."""

    row: Row
    word: str
    measured: str = ""


def _ratio(case: str, *keys: str) -> Callable[[Results], Spread | None]:
    return lambda results: results.ratio(case, OURS, THEIRS, *keys)


def _broker_us(results: Results) -> Spread | None:
    rounds = results.ratios("room", (OURS, "us", "broker"), (YARDSTICK, "us", "server"))
    return Spread.of([YARDSTICK_US * each for each in rounds]) if rounds else None


def _broker_us_here(results: Results) -> str:
    ours, c = results.spread("room", OURS, "us", "broker"), results.spread("room", YARDSTICK, "us", "server")
    return f"; here {ours.median:.2f} us, and C {c.median:.2f} us" if ours and c else ""


def _kib_per_connection(results: Results) -> Spread | None:
    found = results.spread("idle", OURS, "bytes_per_connection", "broker")
    return Spread(found.median / 1024, found.low / 1024, found.high / 1024) if found else None


def _protocol(results: Results) -> Spread | None:
    return results.ratio("echo", OURS, "protocol1", "rate")


def _protocol_cpu(results: Results) -> str:
    both = [
        [results.spread("echo", side, "us", part) for part in ("broker", "backend")] for side in (OURS, "protocol1")
    ]
    sums = [sum(each.median for each in parts if each) for parts in both]
    return f"; CPU of broker and backend {sums[0]:.1f} us beside {sums[1]:.1f} us"


def _interpreted(case: str, *keys: str) -> Callable[[Results], str]:
    def remark(results: Results) -> str:
        found = results.ratio(case, "pystrands-interpreted", THEIRS, *keys)
        return f"; interpreted {found.median:.2f}x ({found.low:.2f}x to {found.high:.2f}x)" if found else ""

    return remark


def _beside(label: str, case: str, must: float, aim: float, *keys: str, more: bool = False) -> Row:
    """Return a row whose figure is a ratio to FastAPI's, with that of the interpreted code behind it."""
    return Row(label, case, must, aim, _ratio(case, *keys), more=more, remark=_interpreted(case, *keys))


ROWS = (
    _beside("echo through a backend, 100 clients", "echo", 2, 3, "rate", more=True),
    _beside("one room of 1,000, deliveries/s", "room", 12, 20, "rate", more=True),
    _beside("100 rooms of 10, deliveries/s", "rooms", 8, 12, "rate", more=True),
    Row(
        "broker CPU per delivered message in one room, where C needs 0.8 us",
        "room",
        2.0,
        1.2,
        _broker_us,
        " us",
        remark=_broker_us_here,
        sides=(OURS, YARDSTICK),
    ),
    Row("broker memory per idle connection", "idle", 11, 8, _kib_per_connection, " KiB", sides=(OURS,)),
    Row(
        "new connections per second, admission through a backend included",
        "idle",
        2.5,
        4,
        _ratio("idle", "connections_per_second"),
        more=True,
    ),
    _beside("p99 latency at half of FastAPI's saturation", "latency", 1.5, 0.5, "latency_us", "p99"),
)

PROTOCOL_ROW = Row(
    "echo, protocol 2 beside protocol 1",
    "echo",
    0.9,
    1,
    _protocol,
    more=True,
    remark=_protocol_cpu,
    sides=(OURS, "protocol1"),
)


def verdicts(results: Results) -> list[Verdict]:
    """Return the verdict on each row; on protocol 2 beside protocol 1 when both were measured."""
    rows = [*ROWS, PROTOCOL_ROW] if _protocol(results) else list(ROWS)
    return [_verdict(row, results) for row in rows]


def _verdict(row: Row, results: Results) -> Verdict:
    failed = set(results.failed(row.case)) & set(row.sides)
    if failed:
        return Verdict(row, "failed", f"runs of {', '.join(sorted(failed))} failed")
    found = row.measured(results)
    if found is None:
        return Verdict(row, "not measured")
    spread = "" if found.low == found.high else f" ({row.shown(found.low)} to {row.shown(found.high)})"
    text = row.shown(found.median) + spread + row.remark(results)
    if row.holds(row.aim, found.median):
        return Verdict(row, "aim", text)
    return Verdict(row, "must" if row.holds(row.must, found.median) else "missed", text)
