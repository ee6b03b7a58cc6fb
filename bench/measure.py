"""One run: one case on one side."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.cases import Case
from bench.processes import BenchError, compiled, memory, peak_memory, pin
from bench.sides import Running, Side

__all__ = ["Load", "Run", "Timing", "drive", "finished", "measure"]

Run = dict[str, Any]
"""The figures of one run: rates by the second, memory in bytes, latency and CPU for each message in microseconds."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one run: at rest, under load, then measured; and how long nothing may come until the rest is lost."""

    settle: float = 0.5
    warmup: float = 1
    seconds: float = 3
    drain: float = 10
    pin: bool = False
    """The load runs on the last core, the system on the others."""


def measure(side: Side, case: Case, timing: Timing, log: Path) -> Run:
    """Start the side's processes and run the case; a loss, or a process that fails, raises BenchError."""
    try:
        with side.start(log) as running:
            return drive(running, case, timing)
    except BenchError as error:
        raise BenchError(f"{side.name}, {case.name}: {error}") from error


def drive(running: Running, case: Case, timing: Timing) -> Run:
    """Run the load generator against a system that is up; a loss raises BenchError."""
    before = {name: memory(pid) for name, pid in running.processes.items()}
    with Load(running, case, timing) as load:
        connected = load.line()
        held = {name: memory(pid) for name, pid in running.processes.items()}
        load.go()
        result = {} if case.idle else finished(load.line())
        peak = {name: peak_memory(pid) for name, pid in running.processes.items()}
    result["connections_per_second"] = connected["per_second"]
    result["bytes_per_connection"] = {name: (held[name] - before[name]) / case.clients for name in before}
    result["peak_bytes"] = peak
    return result


class Load:
    """A load generator: it connects everybody and says so in a line, sends when told to, and says what came of it."""

    def __init__(self, running: Running, case: Case, timing: Timing) -> None:
        given = {
            "dialect": case.dialect or running.dialect,
            "seconds": 0 if case.idle else timing.seconds,
            "settle": timing.settle,
            "warmup": timing.warmup,
            "drain": timing.drain,
        }
        command = [compiled("load"), "--hold", *case.options()]
        command += [part for port in running.ports for part in ("--port", str(port))]
        command += [part for name, value in given.items() for part in (f"--{name}", str(value))]
        command += [part for name, pid in running.processes.items() for part in ("--process", f"{name}={pid}")]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if timing.pin:
            *others, last = sorted(os.sched_getaffinity(0))
            pin(self._child.pid, {last})
            for pid in running.processes.values():
                pin(pid, set(others) or {last})

    def __enter__(self) -> Self:
        """Nothing more: it runs already."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._child.kill()
        self._child.communicate()

    def line(self) -> Run:
        """Wait for its next line; BenchError: it has ended instead."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise BenchError(f"the load generator ended with status {self._child.wait()}")
        result: Run = json.loads(line)
        return result

    def go(self) -> None:
        """Let the clients send."""
        assert self._child.stdin is not None
        self._child.stdin.write("go\n")
        self._child.stdin.flush()


def finished(result: Run) -> Run:
    """Check the counts, add what is per message, and return it; a loss raises BenchError."""
    wrong = [f"{result[name]} {name}" for name in ("lost", "repeated", "foreign", "closed") if result[name]]
    if wrong:
        raise BenchError(f"of {result['sent']} messages sent while it was measured: {', '.join(wrong)}")
    if not result["received"]:
        raise BenchError("nothing arrived while it was measured")
    result["us"] = {name: 1e6 * cpu / result["received"] for name, cpu in result["cpu"].items()}
    result["load_share"] = result["load_cpu"] / result["seconds"]
    return result
