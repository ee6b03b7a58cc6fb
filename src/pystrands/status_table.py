"""The table of ``pystrands status``: a broker's report, drawn with rich."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

__all__ = ["Picture", "duration", "rates"]


class Picture:
    """Shows reports of one broker: on a terminal in one place, each over the one before, or else once.

    The rates of the first report are those since the broker's start, of the others since the report before.
    """

    def __init__(self, address: str, *, live: bool, console: Console | None = None) -> None:
        self._address = address
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False) if live else None
        self._before: Mapping[str, Any] | None = None

    def __enter__(self) -> Self:
        """Take the terminal."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back; the last picture stays."""
        if self._live is not None:
            self._live.stop()

    def show(self, report: dict[str, Any]) -> None:
        """Draw a report."""
        picture = self._draw(report)
        if self._live is None:
            self._console.print(picture)
        else:
            self._live.update(picture, refresh=True)
        self._before = report

    def _draw(self, report: Mapping[str, Any]) -> Group:
        queue = report["queue"]
        head = Text.assemble(
            (f"PyStrands {report['version']}", "bold"),
            f" at {self._address}, up {duration(report['uptime'])}\n",
            f"clients {report['clients']:,}   rooms {report['rooms']:,}   ",
            f"queue {queue['messages']:,} messages, {queue['bytes']:,} bytes",
        )
        return Group(head, _backends(report["backends"]), self._counters(report))

    def _counters(self, report: Mapping[str, Any]) -> Table:
        table = Table("counter", box=SIMPLE_HEAD)
        table.add_column("total", justify="right")
        table.add_column("per second" if self._before else "per second since the start", justify="right")
        speed = rates(report, self._before)
        for name, count in report["counters"].items():
            table.add_row(Text(name), f"{count:,}", f"{speed[name]:,.1f}")
        return table


def _backends(backends: list[Mapping[str, Any]]) -> Table | Text:
    if not backends:
        return Text("\nNo backend is connected: clients wait.\n", style="yellow")
    table = Table("backend", box=SIMPLE_HEAD)
    for heading in ("clients", "in flight", "protocol"):
        table.add_column(heading, justify="right")
    table.add_column("state")
    for each in backends:
        state = "leaving" if each["leaving"] else "connected" if each["linked"] else "away"
        in_flight = "-" if each["in_flight"] is None else f"{each['in_flight']:,}"
        table.add_row(Text(each["name"]), f"{each['clients']:,}", in_flight, str(each["protocol"]), state)
    return table


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
