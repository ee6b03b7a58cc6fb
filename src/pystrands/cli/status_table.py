"""The table of ``pystrands status``: a broker's report, drawn with rich."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pystrands.cli.status_text import (
    BACKEND_COLUMNS,
    BROKER_COLUMNS,
    BROKER_NUMBERS,
    NO_BACKEND,
    backend_rows,
    broker_rows,
    cluster_headline,
    counter_columns,
    counter_rows,
    headline,
    sizes,
)

__all__ = ["ClusterPicture", "Picture"]

_LESS_NEEDED: Final = ("rooms", "queue", "backends", "up")
"""Columns of brokers that are left out where the terminal is too narrow, in this order."""


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
        head = Text.assemble((headline(report), "bold"), sizes(report, self._address))
        return Group(head, _backends(report), self._counters(report))

    def _counters(self, report: Mapping[str, Any]) -> Table:
        return _table(counter_columns(self._before), counter_rows(report, self._before), right=range(1, 3))


class ClusterPicture(Picture):
    """The same of all brokers, as one table."""

    def _draw(self, report: Mapping[str, Any]) -> Group:
        rows = broker_rows(report, self._before)
        table = _table(BROKER_COLUMNS, rows, right=BROKER_NUMBERS)
        wide = self._console.options.update(max_width=1000)
        for name in _LESS_NEEDED:
            if Measurement.get(self._console, wide, table).maximum <= self._console.width:
                break
            table.columns = [column for column in table.columns if column.header != name]
        return Group(Text(cluster_headline(report), "bold"), table)


def _backends(report: Mapping[str, Any]) -> Table | Text:
    rows = backend_rows(report)
    return _table(BACKEND_COLUMNS, rows, right=range(1, 4)) if rows else Text(f"\n{NO_BACKEND}\n", style="yellow")


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]], right: range) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for index, heading in enumerate(columns):
        table.add_column(heading, justify="right" if index in right else "left")
    for row in rows:
        table.add_row(*map(Text, row))  # no markup: names are strangers' text
    return table
