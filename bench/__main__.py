"""The command: ``python -m bench``."""

import argparse
import dataclasses
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from bench.cases import CASES, Case
from bench.measure import Timing, measure
from bench.processes import BUILD, BenchError
from bench.report import print_case, print_verdicts, write_docs
from bench.results import Results, Rounds, machine
from bench.sides import SIDES, Side, pystrands
from bench.verdict import verdicts

ROUNDS = 3
MORE_ROUNDS = {"echo": 9, "latency": 5}  # the runs of these differ most
QUICK_ROUNDS = {"latency": 3}
USUALLY_ONLY_IN = {"protocol1": ("echo",), "pystrands-interpreted": ("echo", "room", "rooms", "latency")}
QUICK_SIDES = ["pystrands", "fastapi", "websockets", "nats", "c"]
QUICK_CASES = ["echo", "room", "rooms", "idle", "latency"]


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="PyStrands beside others: each case on each side, in interleaved rounds, every process on loopback."
        " PyStrands is what pip install . makes, compiled, with a backend on uvloop; pystrands-interpreted is src as it"
        " is, with a backend on asyncio's loop. Run nothing else meanwhile. Figures of cases that are not run again are"
        " kept, unless sides were chosen.",
    )
    parser.add_argument("--case", choices=list(CASES), action="append", help="may be repeated; all when left out")
    parser.add_argument("--side", choices=list(SIDES), action="append", help="may be repeated; the first is compared")
    parser.add_argument("--against", choices=list(SIDES), help="pystrands and this side alone")
    parser.add_argument(
        "--src",
        type=Path,
        help="pystrands and another tree of ours: its src, interpreted, or its build/compiled; the backends of both are"
        " on uvloop. With --side pystrands-interpreted: beside that, the backends of both on asyncio's loop",
    )
    parser.add_argument("--python", default=sys.executable, help="the Python that runs the code of --src")
    more = ", ".join(f"{count} of {name}" for name, count in MORE_ROUNDS.items())
    parser.add_argument("--rounds", type=int, help=f"of each case, {ROUNDS} if not given; {more}")
    parser.add_argument("--seconds", type=float, default=3, help="measured in each run")
    parser.add_argument("--warmup", type=float, default=1, help="seconds under load before that")
    parser.add_argument("--quick", action="store_true", help="one short round of the verdict's cases, in two minutes")
    parser.add_argument("--pin", action="store_true", help="the load on the last core, everything else on the others")
    parser.add_argument("--write", action="store_true", help="write tables and charts into README and docs (all sides)")
    return parser.parse_args()


def sides_of(options: argparse.Namespace) -> list[Side]:
    """Return the sides that are compared."""
    alone = options.against or options.src
    usual = QUICK_SIDES if options.quick else list(SIDES)
    sides = [SIDES[name] for name in options.side or (["pystrands"] if alone else usual)]
    if options.against:
        sides.append(SIDES[options.against])
    if options.src:
        loop = "asyncio" if "pystrands-interpreted" in (options.side or ()) else "uvloop"
        other = pystrands(loop=loop, python=options.python, src=options.src)
        sides.append(Side("other", f"PyStrands of {options.src}", "PyStrands, other tree", other))
    return sides


class Bench:
    """Runs cases and keeps what came out."""

    def __init__(self, options: argparse.Namespace, console: Console, progress: Progress) -> None:
        self.console = console
        self.progress = progress
        self.usual = not (options.quick or options.side or options.against or options.src)
        self.results = Results() if self.usual else Results.fresh(BUILD / "other.json")
        self.sides = sides_of(options)
        self.rounds: int | None = options.rounds
        self.timing = Timing(warmup=options.warmup, seconds=options.seconds, pin=options.pin)
        self.quick: bool = options.quick
        self.failed = False

    def run(self, names: list[str]) -> None:
        """Run the cases, print each, and keep the figures."""
        total = self.progress.add_task("", total=100)
        for name in names:
            case = self.prepared(CASES[name])
            self.progress.update(total, description=case.label)
            rounds = self.rounds_of(case)
            self.results.cases[name] = self.run_case(case, rounds, total, 100 / len(names))
            self.results.about[name] = {
                **machine(),
                "rounds": rounds,
                "seconds": self.timing.seconds,
                "rate": case.rate,
            }
            self.results.save()
            print_case(self.console, self.results, case)

    def rounds_of(self, case: Case) -> int:
        """Return how many rounds a case has."""
        if self.quick:
            return QUICK_ROUNDS.get(case.name, 1)
        return self.rounds or MORE_ROUNDS.get(case.name, ROUNDS)

    def prepared(self, case: Case) -> Case:
        """Return the case as it is run: smaller when it must be quick, at the rate that FastAPI's most gives."""
        if self.quick and case.idle:
            case = dataclasses.replace(case, label="3,000 idle connections", clients=3000)
        if case.name == "latency":
            run = measure(SIDES["fastapi"], CASES["echo"], self.timing, BUILD / "fastapi.log")
            case = dataclasses.replace(case, rate=round(run["rate"] / 2))
        return case

    def run_case(self, case: Case, rounds: int, total: TaskID, share: float) -> dict[str, Rounds]:
        """Run one case on all sides, interleaved."""
        sides = [side for side in self.sides if case.name not in side.without]
        if self.usual:
            sides = [side for side in sides if case.name in USUALLY_ONLY_IN.get(side.name, (case.name,))]
        runs: dict[str, Rounds] = {side.name: [] for side in sides}
        for number in range(rounds):
            for side in sides:
                self.progress.update(total, description=f"{case.label}, round {number + 1} of {rounds}: {side.short}")
                try:
                    runs[side.name].append(measure(side, case, self.timing, BUILD / f"{side.name}.log"))
                except BenchError as error:
                    self.console.print(f"[red]{error}[/red]")
                    runs[side.name].append(None)
                    self.failed = True
                self.progress.advance(total, share / (rounds * len(sides)))
        return runs


def main() -> int:
    """Measure, print, and return 1 when a message was lost anywhere."""
    options = parse()
    if options.quick:
        options.seconds, options.warmup = 1, 0.5
    console = Console(width=None if sys.stdout.isatty() else 160)
    BUILD.mkdir(exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bench = Bench(options, console, progress)
        bench.run(options.case or (QUICK_CASES if options.quick else list(CASES)))
    print_verdicts(console, bench.results)
    if options.write and bench.usual:
        for path in write_docs(bench.results):
            console.print(f"wrote {path}")
    return int(bench.failed or any(each.word == "failed" for each in verdicts(bench.results)))


if __name__ == "__main__":
    sys.exit(main())
