"""``pystrands server --workers N`` as real processes, of which each can be found and killed."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, Self

import psutil

from pystrands import testing

WITHIN = 30.0
"""Seconds for whatever has to happen, on a machine that is busy."""


class WorkersProcess:
    """``async with WorkersProcess(3, "--drain-time=0") as system:``; clients connect to it as to a broker."""

    def __init__(self, count: int, *flags: str, env: dict[str, str] | None = None) -> None:
        self.count = count
        self._flags = flags
        self._env = env or {}
        self._seen: set[psutil.Process] = set()

    async def __aenter__(self) -> Self:
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 - closed by __aexit__
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYSTRAND")}
        ports = ("--ws-port=0", "--tcp-port=0", "--admin-port=0", f"--workers={self.count}")
        self.process = subprocess.Popen(  # noqa: ASYNC220 - a moment
            [sys.executable, "-m", "pystrands", "server", *ports, *self._flags],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=env | self._env,
        )
        self.parent = psutil.Process(self.process.pid)
        try:
            await testing.until(lambda: "metrics: " in self.log or self.process.poll() is not None, WITHIN)
            assert self.process.poll() is None, self.log
            self.all_processes()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.all_processes()
        for each in self._seen:
            if each.is_running():
                each.kill()
        await asyncio.to_thread(self.process.wait)
        print(self.log)
        self._log.close()

    # ---- what it says

    @property
    def log(self) -> str:
        """What it has written."""
        return Path(self._log.name).read_text(errors="replace")

    def ports(self, what: str) -> list[int]:
        """Return the ports that it tells: of `WebSocket clients`, `backends`, `metrics`."""
        (line,) = re.findall(rf"^{what}: (?:\w+://)?127\.0\.0\.1:([\d, to]+)", self.log, re.MULTILINE)
        if " to " in line:
            first, last = map(int, line.split(" to "))
            return list(range(first, last + 1))
        return [int(port) for port in line.split(", ")]

    @property
    def scheme(self) -> str:
        """Whether clients speak TLS."""
        return "wss" if "WebSocket clients: wss" in self.log else "ws"

    def ws_url(self, path: str = "/") -> str:
        """Return the URL of its port for clients."""
        return f"{self.scheme}://127.0.0.1:{self.ports('WebSocket clients')[0]}{path}"

    def metric(self, worker: int, name: str) -> float:
        """Return a metric of a worker, from 1 on."""
        port = self.ports("metrics")[worker - 1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WITHIN) as answer:
            text = answer.read().decode()
        return float(re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)[0])

    # ---- its processes

    def all_processes(self) -> list[psutil.Process]:
        """Return the parent and all that descends from it, or did."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._seen |= {self.parent, *self.parent.children(recursive=True)}
        return [each for each in self._seen if _lives(each)]

    @property
    def nats(self) -> psutil.Process:
        """The NATS server."""
        (found,) = [each for each in self.all_processes() if each.name() == "nats-server"]
        return found

    @property
    def keeper(self) -> psutil.Process:
        """The process between the parent and the NATS server."""
        found = self.nats.parent()
        assert found is not None
        return found

    @property
    def workers(self) -> list[psutil.Process]:
        """The workers that live, the oldest first."""
        keeper = self.keeper
        found = [each for each in self.parent.children() if each != keeper and _lives(each)]
        return sorted(found, key=lambda each: each.create_time())

    async def all_are_gone(self) -> None:
        """Wait until none of its processes is left."""
        await testing.until(lambda: self.process.poll() is not None and not self.all_processes(), WITHIN)

    async def is_whole(self, *, without: int = 0) -> None:
        """Wait until there are all workers, and a NATS server; the process of that number is none of them."""
        await testing.until(lambda: self._is_whole(without), WITHIN)

    def _is_whole(self, without: int) -> bool:
        try:
            processes = [*self.workers, self.nats, self.keeper]
        except (ValueError, psutil.NoSuchProcess):
            return False
        return len(processes) == self.count + 2 and without not in [each.pid for each in processes]

    async def end(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; return its exit code."""
        self.all_processes()
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, WITHIN)


def _lives(process: psutil.Process) -> Any:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
