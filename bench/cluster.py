"""Several brokers: ``python -m bench.cluster``.

What a message costs that goes to other brokers, with more and more of them; how long it takes; how long a question to
all of them takes; and what a broker with 100,000 rooms does to its clients while it subscribes to all of them again.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress

from bench.cases import Case
from bench.growth_report import cluster_tables
from bench.measure import Run, Timing, measure
from bench.processes import BUILD, free_ports, process, wait_until_answers
from bench.report import table, write_docs
from bench.results import Results, machine
from bench.sides import COMPILED, Side, cluster, nats_server
from pystrands import AsyncPyStrandsClient, testing

BROKERS = (1, 2, 4, 8)
RATE = 10_000
"""Messages a second, all sent by one client to a room that has one member at each broker."""
IDLE_RATE = 200
SURVEYED = 4
MEMBERS = 100
"""Members at each broker of the room that is asked about."""
ROOMS = 100_000
ROOMS_OF_A_CLIENT = 1000


def crossing(brokers: int, rate: int) -> Case:
    """Return the case of a room with a member at each broker, the first of whom sends."""
    return Case("crossing", f"{brokers} brokers, {rate:,}/s", "", "/chat", "room", brokers, brokers, rate=rate)


def crossings(progress: Progress, rounds: int, timing: Timing) -> dict[str, list[Run]]:
    """Measure what a message costs at its publisher's broker, at each other one, and at NATS."""
    found: dict[str, list[Run]] = {str(count): [] for count in BROKERS}
    task = progress.add_task("brokers", total=rounds * len(BROKERS))
    for _ in range(rounds):
        for count in BROKERS:
            case = crossing(count, RATE)
            progress.update(task, description=case.label)
            side = Side("crossing", "", "", cluster(count, 1))
            run = measure(side, case, timing, BUILD / "cluster.log")
            messages = run["received"] / count
            us = {name: 1e6 * cpu / messages for name, cpu in run["cpu"].items()}
            others = [us[f"broker{number}"] for number in range(2, count + 1)]
            idle = measure(side, crossing(count, IDLE_RATE), timing, BUILD / "cluster.log")
            found[str(count)].append(
                {
                    "first": us["broker1"],
                    "other": statistics.mean(others) if others else None,
                    "nats": us["nats"],
                    "latency_us": idle["latency_us"],
                }
            )
            progress.advance(task)
    progress.remove_task(task)
    return found


class Asking(AsyncPyStrandsClient):
    """Lets everybody in, answers everybody."""

    async def on_message(self, message: str | bytes, context: Any) -> None:
        """Echo."""
        await self.send_private_message(context.client_id, message)


@contextlib.asynccontextmanager
async def linked(ports: list[int]) -> Any:
    """Run a backend in this process, linked to these brokers."""
    client = Asking([f"127.0.0.1:{port}" for port in ports])
    running = asyncio.create_task(client.run_forever())
    try:
        await testing.until(lambda: sum(link.connected for link in client.links) == len(ports), 20)
        yield client
    finally:
        await client.disconnect()
        await running


@contextmanager
def brokers(count: int, url: str, *flags: str) -> Iterator[tuple[list[int], list[int]]]:
    """Run brokers; yield their ports for clients, and those for backends."""
    ports = free_ports(2 * count)
    env = {"PYTHONPATH": str(COMPILED)}
    with ExitStack() as stack:
        for ws, tcp in zip(ports[:count], ports[count:], strict=True):
            command = [sys.executable, "-m", "pystrands", "server", "--ws-port", str(ws), "--tcp-port", str(tcp)]
            command += ["--nats-url", url, "--log-level", "warning", *flags]
            stack.enter_context(process(command, env, BUILD / "cluster.log"))
        for ws in ports[:count]:
            wait_until_answers(ws, "/healthz")
        yield ports[:count], ports[count:]


async def survey(seconds: float) -> dict[str, float]:
    """Ask again and again who is in a room; return how long it takes, in microseconds."""
    with nats_server(BUILD / "cluster.log") as (url, _), brokers(SURVEYED, url) as (ws, tcp):
        async with linked(tcp) as client, contextlib.AsyncExitStack() as stack:
            for port in ws:
                wait_until_answers(port, "/readyz")
                for _ in range(MEMBERS):
                    await stack.enter_async_context(testing.connect(f"ws://127.0.0.1:{port}", "/hall"))
            took = []
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                begun = time.perf_counter()
                members = await client.room_members("/hall")
                took.append(1e6 * (time.perf_counter() - begun))
                assert len(members) == SURVEYED * MEMBERS
            return {"p50": statistics.median(took), "p99": statistics.quantiles(took, n=100)[98]}


async def reconnect() -> dict[str, float]:
    """Have NATS end and come back; return the longest that anybody waited for an echo before, and after it."""
    (port,) = free_ports(1)
    flags = ("--max-rooms-per-client", "2000")
    with ExitStack() as servers:
        url, _ = servers.enter_context(nats_server(BUILD / "cluster.log", port=port))
        with brokers(1, url, *flags) as (ws, tcp):
            async with linked(tcp) as client, contextlib.AsyncExitStack() as stack:
                ours = f"ws://127.0.0.1:{ws[0]}"
                owners = [
                    await stack.enter_async_context(testing.connect(ours, "/many"))
                    for _ in range(ROOMS // ROOMS_OF_A_CLIENT)
                ]
                members = await client.room_members("/many")
                assert len(members) == len(owners)
                for number, member in enumerate(members):
                    first = number * ROOMS_OF_A_CLIENT
                    rooms = range(first, first + ROOMS_OF_A_CLIENT)
                    await asyncio.gather(*(client.join_room(member.client_id, f"room {n}") for n in rooms))
                probe = await stack.enter_async_context(testing.connect(ours, "/probe"))
                before = await _longest(probe, 3)
                servers.close()
                servers.enter_context(nats_server(BUILD / "cluster.log", port=port))
                return {"before": before, "after": await _longest(probe, 6)}


async def _longest(probe: Any, seconds: float) -> float:
    """Return the longest of many echoes, in milliseconds."""
    longest = 0.0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.perf_counter()
        await probe.send("x")
        await probe.receive()
        longest = max(longest, 1000 * (time.perf_counter() - begun))
        await asyncio.sleep(0.001)
    return longest


def show(console: Console, results: Results) -> None:
    """Print what was measured."""
    for each in cluster_tables(results):
        console.print(table(each.heads, each.rows, each.title))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster", description="Several brokers.")
    parser.add_argument("--part", choices=["crossing", "survey", "reconnect"], action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--write", action="store_true", help="write tables into README and docs")
    options = parser.parse_args()
    chosen = options.part or ["crossing", "survey", "reconnect"]
    console = Console(width=None if sys.stdout.isatty() else 160)
    BUILD.mkdir(exist_ok=True)
    results = Results()
    with Progress(console=console, transient=True) as progress:
        if "crossing" in chosen:
            results.growth["crossing"] = crossings(progress, options.rounds, Timing(seconds=options.seconds))
        task = progress.add_task("questions, and a NATS server that comes back", total=2 * options.rounds)
        if "survey" in chosen:
            results.growth["survey"] = []
            for _ in range(options.rounds):
                results.growth["survey"].append(asyncio.run(survey(options.seconds)))
                progress.advance(task)
        if "reconnect" in chosen:
            results.growth["reconnect"] = []
            for _ in range(options.rounds):
                results.growth["reconnect"].append(asyncio.run(reconnect()))
                progress.advance(task)
    results.about["cluster"] = {**machine(), "rounds": options.rounds, "seconds": options.seconds}
    results.save()
    show(console, results)
    if options.write:
        for path in write_docs(results):
            console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
