"""A broker in a process of its own, whose memory can be read."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from pystrands import testing

MIB = 1 << 20


class BrokerProcess:
    """``async with BrokerProcess("--memory-budget=64MiB") as broker:``, for a RawBackend and for testing.connect."""

    def __init__(self, *flags: str) -> None:
        self._flags = flags
        self.ws_port = self.tcp_port = 0

    async def __aenter__(self) -> Self:
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 - closed by __aexit__
        # Not measured by coverage, which takes time and memory that are not the broker's.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYSTRAND", "COVERAGE"))}
        command = [sys.executable, "-m", "pystrands", "server", "--ws-port=0", "--tcp-port=0", *self._flags]
        self.process = subprocess.Popen(  # noqa: ASYNC220 - a moment
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, env=env
        )
        await testing.until(lambda: len(self._ports()) == 2 or self.process.poll() is not None, 30)
        ports = self._ports()
        self.ws_port, self.tcp_port = int(ports["WebSocket clients"]), int(ports["backends"])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(self.process.wait)
        self._log.close()

    @property
    def log(self) -> str:
        """What it has written."""
        return Path(self._log.name).read_text(errors="replace")

    def _ports(self) -> dict[str, str]:
        return dict(re.findall(r"^(WebSocket clients|backends): \S*:(\d+)", self.log, re.MULTILINE))

    def ws_url(self, path: str = "/") -> str:
        """Return the URL of its port for clients."""
        return f"ws://127.0.0.1:{self.ws_port}{path}"

    def memory(self, what: str = "VmRSS") -> float:
        """Return its resident memory in MiB; VmHWM is the most that it ever was."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found: Any = re.search(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) / 1024
