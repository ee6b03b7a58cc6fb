"""The command: ``python -m bench``."""

import argparse
import dataclasses
import functools
import json
import operator
import statistics
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.cases import CASES, Case
from bench.measure import Run, Timing, measure
from bench.processes import BUILD, BenchError
from bench.sides import SIDES, Side, pystrands

Runs = dict[str, list[Run]]


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="PyStrands beside others, interleaved.")
    parser.add_argument("--case", choices=list(CASES), action="append", help="may be repeated; all when left out")
    parser.add_argument("--side", choices=list(SIDES), action="append", help="may be repeated; the first is compared")
    parser.add_argument("--against", choices=list(SIDES), help="compare with this side alone")
    parser.add_argument("--src", help="compare with our code of another source tree: the path of its src folder")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs the code of --src")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--warmup", type=float, default=1)
    parser.add_argument("--quick", action="store_true", help="one short round, in less than two minutes")
    return parser.parse_args()


def sides_of(options: argparse.Namespace) -> list[Side]:
    """Return the sides that are compared."""
    names = options.side or (["pystrands"] if options.against or options.src else list(SIDES)[:-1])
    sides = [SIDES[name] for name in names]
    if options.against:
        sides.append(SIDES[options.against])
    if options.src:
        sides.append(Side("other", f"PyStrands of {options.src}", pystrands(python=options.python, src=options.src)))
    return sides


def run_case(case: Case, sides: list[Side], options: argparse.Namespace, progress: Progress) -> Runs:
    """Run one case on all sides, interleaved, in rounds."""
    sides = [side for side in sides if case.name not in side.without]
    runs: Runs = {side.name: [] for side in sides}
    timing = Timing(warmup=options.warmup, seconds=options.seconds)
    task = progress.add_task(case.label, total=options.rounds * len(sides), side="")
    for _ in range(options.rounds):
        for side in sides:
            progress.update(task, side=side.name)
            try:
                runs[side.name].append(measure(side, case, timing, BUILD / f"{side.name}.log"))
            except BenchError as error:
                progress.console.print(f"[red]{error}[/red]")
            progress.advance(task)
    progress.remove_task(task)
    return runs


def median_of(runs: list[Run], *keys: str) -> float:
    """Return the median of a figure."""
    values: list[float] = [functools.reduce(operator.getitem, keys, run) for run in runs]  # type: ignore[misc]
    return statistics.median(values)


def show(case: Case, runs: Runs, console: Console) -> None:
    """Print one case."""
    console.print(f"[bold]{case.label}[/bold]")
    (first, *_) = runs
    for name, results in runs.items():
        if not results:
            console.print(f"  {name:15} failed")
            continue
        key = "connections_per_second" if case.idle else "rate"
        rates = sorted(run[key] for run in results)
        line = f"  {name:15} {statistics.median(rates):10,.0f}/s ({rates[0]:,.0f} to {rates[-1]:,.0f})  "
        if case.idle:
            line += ", ".join(
                f"{part} {median_of(results, 'bytes_per_connection', part) / 1024:.1f} KiB per connection"
                for part in results[0]["bytes_per_connection"]
            )
        else:
            line += ", ".join(f"{part} {median_of(results, 'us', part):.2f} us" for part in results[0]["us"])
            line += (
                f", load {median_of(results, 'load_share'):.2f} of a core; p50/p99/p99.9 "
                + "/".join(f"{median_of(results, 'latency_us', part) / 1000:.2f}" for part in ("p50", "p99", "p999"))
                + " ms"
            )
        if name != first and runs[first] and len(runs[first]) == len(results):
            ratios = sorted(ours[key] / theirs[key] for ours, theirs in zip(runs[first], results, strict=True))
            line += f"  ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        console.print(line, soft_wrap=True, highlight=False)


def main() -> None:
    """Measure and print."""
    options = parse()
    if options.quick:
        options.rounds, options.seconds, options.warmup = 1, 1, 0.3
    console = Console()
    sides = sides_of(options)
    everything: dict[str, Runs] = {}
    BUILD.mkdir(exist_ok=True)
    columns = (TextColumn("{task.description}: {task.fields[side]}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        for name in options.case or CASES:
            case = CASES[name]
            if name == "latency":
                half = statistics.median(run["rate"] for run in everything["echo"]["fastapi"]) / 2
                case = dataclasses.replace(case, rate=half)
            everything[name] = run_case(case, sides, options, progress)
            show(case, everything[name], console)
    (BUILD / "results.json").write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
