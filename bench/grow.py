"""How the broker grows: ``python -m bench.grow``.

Cost per message with more connections and more rooms, always at the same offered rate; how long the event loop is held
during a broadcast; and what clients that have stopped reading cost the others.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import Progress

from bench.cases import Case
from bench.growth_report import growth_tables
from bench.measure import Load, Run, Timing, finished, measure
from bench.processes import BUILD, BenchError
from bench.report import table, write_docs
from bench.results import Results, machine
from bench.sides import SIDES, Side, pystrands

CONNECTIONS = (100, 300, 1000, 3000, 10000, 15000)
ROOMS = (1, 10, 100, 1000, 10000)
STALLED = (0, 1, 5, 15)
RATE = 10000
"""Messages a second in the first two curves: a part of what the broker can do, so that no point works in bulk."""
CROWD = 15000
Curve = dict[str, list[Run]]
"""Runs by point of the curve."""


def connections(count: int) -> Case:
    """Return the case of so many clients, who take turns to say something to themselves."""
    return Case("connections", f"{count:,} connections", "", "/echo", "own", count, 10 if count > 10 else 1, rate=RATE)


def rooms(count: int) -> Case:
    """Return the case of so many rooms, of one member each."""
    return Case("rooms", f"{count:,} rooms", "", "/chat", "room", count, rate=RATE)


def stalled(count: int) -> Case:
    """Return the case of a room of 50 with so many who do not read; each reader gets 600 messages of 4 KiB a second."""
    return Case("stalled", f"{count} stalled", "", "/chat", "room", 50, 50, 10, rate=600, size=4096, stalled=count)


def held(side: Side, watch: Path, seconds: float) -> Run:
    """Broadcast to everybody twice a second; return the pings' latency, and what the broker saw from inside."""
    timing = Timing(warmup=0.5, seconds=seconds)
    crowd = Case("crowd", "", "", "/all", "all", CROWD, CROWD, rate=2)
    probe = Case("probe", "", "", "/echo", "own", 1, rate=100, dialect="pings")  # the broker allows 200
    with side.start(BUILD / f"{side.name}.log") as running, ExitStack() as stack:
        loads = []
        for case in (crowd, probe):
            loads.append(stack.enter_context(Load(running, case, timing)))
            loads[-1].line()
        for load in loads:
            load.go()
        if side.name == "watched":
            time.sleep(timing.settle + timing.warmup / 2)
            _told(running.processes["broker"], watch)
        runs = [finished(load.line()) for load in loads]
        inside = _told(running.processes["broker"], watch) if side.name == "watched" else None
    return {"crowd": runs[0], "probe": runs[1], "inside": inside}


def _told(broker: int, watch: Path) -> Any:
    watch.unlink(missing_ok=True)
    os.kill(broker, signal.SIGUSR1)
    end = time.monotonic() + 5
    while not watch.exists():
        if time.monotonic() > end:
            raise BenchError("the broker did not say how long its loop was held")
        time.sleep(0.01)
    return json.loads(watch.read_text())


def curve(
    progress: Progress, rounds: int, points: tuple[int, ...], case: Callable[[int], Case], timing: Timing
) -> Curve:
    """Measure a curve's points, interleaved, in rounds."""
    found: Curve = {str(point): [] for point in points}
    task = progress.add_task(case.__name__, total=rounds * len(points))
    for _ in range(rounds):
        for point in points:
            progress.update(task, description=case(point).label)
            found[str(point)].append(measure(SIDES["pystrands"], case(point), timing, BUILD / "grow.log"))
            progress.advance(task)
    progress.remove_task(task)
    return found


def holds(progress: Progress, rounds: int, seconds: float) -> dict[str, list[Run]]:
    """Measure how long the loop is held, ours and FastAPI's."""
    found: dict[str, list[Run]] = {"pystrands": [], "fastapi": []}
    task = progress.add_task(f"broadcast to {CROWD:,}", total=2 * rounds)
    with TemporaryDirectory() as folder:
        watch = Path(folder) / "held.json"
        watched = Side("watched", "", "", pystrands(watch=watch))
        for _ in range(rounds):
            for name, side in (("pystrands", watched), ("fastapi", SIDES["fastapi"])):
                found[name].append(held(side, watch, seconds))
                progress.advance(task)
    progress.remove_task(task)
    return found


def show(console: Console, results: Results) -> None:
    """Print what was measured."""
    for each in growth_tables(results):
        console.print(table(each.heads, each.rows, each.title))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.grow", description="How the broker grows.")
    parser.add_argument("--curve", choices=["connections", "rooms", "stalled", "held"], action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--write", action="store_true", help="write tables and charts into README and docs")
    options = parser.parse_args()
    chosen = options.curve or ["connections", "rooms", "stalled", "held"]
    console = Console(width=None if sys.stdout.isatty() else 160)
    BUILD.mkdir(exist_ok=True)
    results = Results()
    timing = Timing(seconds=options.seconds)
    with Progress(console=console, transient=True) as progress:
        for name, points, case in (
            ("connections", CONNECTIONS, connections),
            ("rooms", ROOMS, rooms),
            ("stalled", STALLED, stalled),
        ):
            if name in chosen:
                longer = Timing(seconds=3 * options.seconds) if name == "stalled" else timing
                results.growth[name] = curve(progress, options.rounds, points, case, longer)
        if "held" in chosen:
            results.growth["held"] = holds(progress, options.rounds, 3 * options.seconds)
    results.about["growth"] = {**machine(), "rounds": options.rounds, "seconds": options.seconds}
    results.save()
    show(console, results)
    if options.write:
        for path in write_docs(results):
            console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
