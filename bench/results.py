"""The raw figures of all cases in a file, and what is made of several rounds: the median and the range."""

import functools
import json
import operator
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import Run
from bench.processes import BUILD

__all__ = ["RESULTS", "Results", "Rounds", "Spread", "machine"]

RESULTS = BUILD / "results.json"
CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")

Rounds = list[Run | None]
"""One side's runs of a case by round; None: the run failed."""


@dataclass(frozen=True)
class Spread:
    """Median and range of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
    return {
        "date": time.strftime("%d %B %Y").lstrip("0"),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "congestion": CONGESTION.read_text().strip() if CONGESTION.exists() else "",
    }


class Results:
    """Every case's runs by side; cases that were not run again keep their figures of an earlier run."""

    def __init__(self, path: Path = RESULTS) -> None:
        self.path = path
        self.cases: dict[str, dict[str, Rounds]] = {}
        self.about: dict[str, dict[str, Any]] = {}
        self.growth: dict[str, Any] = {}
        if path.exists():
            stored = json.loads(path.read_text())
            self.cases, self.about, self.growth = stored["cases"], stored["about"], stored["growth"]

    @classmethod
    def fresh(cls, path: Path) -> "Results":
        """Return results without those of an earlier run."""
        path.unlink(missing_ok=True)
        return cls(path)

    def save(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(
            json.dumps({"about": self.about, "cases": self.cases, "growth": self.growth}, indent=1) + "\n"
        )

    def spread(self, case: str, side: str, *keys: str) -> Spread | None:
        """Return the spread of a figure, which lies under ``keys`` in each run; None: there is none."""
        values = [_figure(run, keys) for run in self.cases.get(case, {}).get(side, []) if run]
        return Spread.of(values) if values else None

    def ratios(self, case: str, ours: tuple[str, ...], theirs: tuple[str, ...]) -> list[float]:
        """Return ours / theirs by round, where both succeeded; each is a side and where in a run its figure is."""
        sides = self.cases.get(case, {})
        pairs = zip(sides.get(ours[0], []), sides.get(theirs[0], []), strict=False)
        return [_figure(one, ours[1:]) / _figure(other, theirs[1:]) for one, other in pairs if one and other]

    def ratio(self, case: str, ours: str, theirs: str, *keys: str) -> Spread | None:
        """Return the spread of the ratio of one figure; None: no round has it of both sides."""
        found = self.ratios(case, (ours, *keys), (theirs, *keys))
        return Spread.of(found) if found else None

    def failed(self, case: str) -> list[str]:
        """Return the sides of which a run of this case failed."""
        return [side for side, rounds in self.cases.get(case, {}).items() if not all(rounds)]


def _figure(run: Run, keys: tuple[str, ...]) -> float:
    return float(functools.reduce(operator.getitem, keys, run))  # type: ignore[arg-type]
