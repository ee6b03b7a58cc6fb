"""What ``pystrands status`` shows of a broker's report, and its plain form, for where there is no rich."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import click

from pystrands.protocol.printable import printable

__all__ = [
    "BACKEND_COLUMNS",
    "BROKER_COLUMNS",
    "BROKER_NUMBERS",
    "NO_BACKEND",
    "PlainClusterPicture",
    "PlainPicture",
    "backend_rows",
    "broker_rows",
    "cluster_headline",
    "counter_columns",
    "counter_rows",
    "duration",
    "headline",
    "rates",
    "sizes",
]

BACKEND_COLUMNS: Final = ("backend", "clients", "in flight", "protocol", "state")
BROKER_COLUMNS: Final = (
    "broker", "address", "up", "clients", "rooms", "backends", "queue", "in/s", "out/s", "state",
)  # fmt: skip
BROKER_NUMBERS: Final = range(3, 9)
"""Which of these are numbers."""
_SHOWN_ID: Final = 8
"""Characters of a broker's id: no two of a cluster will have them in common."""
NO_BACKEND: Final = "No backend is connected: clients wait."

Row = tuple[str, ...]


def headline(report: Mapping[str, Any]) -> str:
    """Return what is shown first: which version. What the broker says can be shown, here and below."""
    return f"PyStrands {printable(report['version'])}"


def sizes(report: Mapping[str, Any], address: str) -> str:
    """Return what follows it: where, for how long, and how much of what there is."""
    queue = report["queue"]
    return (
        f" at {address}, up {duration(report['uptime'])}\n"
        f"clients {report['clients']:,}   rooms {report['rooms']:,}   "
        f"queue {queue['messages']:,} messages, {queue['bytes']:,} bytes"
    )


def backend_rows(report: Mapping[str, Any]) -> list[Row]:
    """Return a row for each backend, of the columns BACKEND_COLUMNS; its name, a stranger's text, can be shown."""
    rows: list[Row] = []
    for each in report["backends"]:
        state = "leaving" if each["leaving"] else "connected" if each["linked"] else "away"
        in_flight = "-" if each["in_flight"] is None else f"{each['in_flight']:,}"
        rows.append((printable(each["name"]), f"{each['clients']:,}", in_flight, str(each["protocol"]), state))
    return rows


def cluster_headline(report: Mapping[str, Any]) -> str:
    """Return what is shown above the brokers: how many there are, and of whom is not known."""
    brokers, silent = report["brokers"], report["silent"]
    clients = sum(each["clients"] for each in brokers)
    text = f"{len(brokers)} broker{'s' if len(brokers) != 1 else ''}, clients {clients:,}"
    if not report["connected"]:
        text += "; NATS can't be reached, and with it no other broker"
    elif silent:
        text += f"; {len(silent)} did not answer"
    return text


def broker_rows(report: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[Row]:
    """Return a row for each broker, of the columns BROKER_COLUMNS, and for each that is silent.

    Rates are those since the report ``before``, of brokers that are not in it those since their start.
    """
    old = {each["broker_id"]: each for each in before["brokers"]} if before else {}
    rows: list[Row] = []
    for each in report["brokers"]:
        speed = rates(each, old.get(each["broker_id"]))
        cluster = each.get("cluster", {})
        rows.append((
            _short(each["broker_id"]),
            printable(cluster.get("address", "")),
            duration(each["uptime"]),
            f"{each['clients']:,}",
            f"{each['rooms']:,}",
            f"{sum(backend['linked'] for backend in each['backends']):,}",
            f"{each['queue']['messages']:,}",
            f"{speed.get('messages_received', 0):,.1f}",
            f"{speed.get('messages_delivered', 0):,.1f}",
            _state(each),
        ))  # fmt: skip
    empty = [""] * (len(BROKER_COLUMNS) - 2)
    return rows + [(_short(each), *empty, "silent") for each in report["silent"]]


def _short(broker_id: str) -> str:
    return printable(broker_id[:_SHOWN_ID])


def _state(report: Mapping[str, Any]) -> str:
    cluster = report.get("cluster")
    if cluster is None:
        return "alone"
    if not cluster["connected"]:
        return "cut off"
    return "draining" if cluster["draining"] else "ready"


def counter_columns(before: Mapping[str, Any] | None) -> Row:
    """Return the headings of :func:`counter_rows`."""
    return ("counter", "total", "per second" if before else "per second since the start")


def counter_rows(report: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[Row]:
    """Return a row for each counter, with its rate since the report ``before``, or since the broker's start."""
    speed = rates(report, before)
    return [(printable(name), f"{count:,}", f"{speed[name]:,.1f}") for name, count in report["counters"].items()]


def rates(report: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, float]:
    """Return each counter's growth per second since ``before``, a report of the same broker, or since its start."""
    seconds = report["uptime"] - (before["uptime"] if before else 0)
    old: Mapping[str, int] = before["counters"] if before else {}
    return {
        name: (count - old.get(name, 0)) / seconds if seconds > 0 else 0.0 for name, count in report["counters"].items()
    }


def duration(seconds: float) -> str:
    """Return how long that is, in its two largest units: ``3 h 12 min``."""
    rest = int(seconds)
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


class PlainPicture:
    """Prints reports of one broker one below the other, as plain lines.

    The rates of the first report are those since the broker's start, of the others since the report before.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._before: Mapping[str, Any] | None = None

    def __enter__(self) -> Self:
        """Do nothing: the terminal stays as it is."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing, either."""

    def show(self, report: dict[str, Any]) -> None:
        """Print a report."""
        if self._before is not None:
            click.echo()
        click.echo(headline(report) + sizes(report, self._address))
        rows = backend_rows(report)
        click.echo("\n" + (_table(BACKEND_COLUMNS, rows, right=range(1, 4)) if rows else NO_BACKEND))
        click.echo("\n" + _table(counter_columns(self._before), counter_rows(report, self._before), right=range(1, 3)))
        self._before = report


class PlainClusterPicture(PlainPicture):
    """The same of all brokers, as one table."""

    def show(self, report: dict[str, Any]) -> None:
        """Print a report."""
        if self._before is not None:
            click.echo()
        click.echo(cluster_headline(report))
        click.echo("\n" + _table(BROKER_COLUMNS, broker_rows(report, self._before), right=BROKER_NUMBERS))
        self._before = report


def _table(columns: Row, rows: list[Row], right: range) -> str:
    lines = (columns, *rows)
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "   ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
