"""``pystrands server`` with a look at its event loop from inside; takes a file and then the server's own options.

A timer of one millisecond notes how long each turn of the loop kept it waiting, in time on the wall and in CPU of the
loop's thread: the second leaves out what the machine did with other processes meanwhile. At SIGUSR1 the longest ones
since the last SIGUSR1 go into the file, in seconds.
"""

import asyncio
import json
import signal
import sys
import time
from pathlib import Path

from pystrands.broker import server
from pystrands.cli import main

FILE = Path(sys.argv[1])
PERIOD = 0.001


class Watch:
    """Measures the loop that it is started on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.wall = self.cpu = 0.0
        self.last = time.monotonic(), time.thread_time()
        loop.add_signal_handler(signal.SIGUSR1, self.tell)
        self.tick()

    def tick(self) -> None:
        """Note how late this is."""
        self.note()
        self.loop.call_later(PERIOD, self.tick)

    def note(self) -> None:
        """Keep the longest times."""
        wall, cpu = time.monotonic(), time.thread_time()
        self.wall = max(self.wall, wall - self.last[0] - PERIOD)
        self.cpu = max(self.cpu, cpu - self.last[1])
        self.last = wall, cpu

    def tell(self) -> None:
        """Write the longest ones down and begin anew."""
        self.note()
        FILE.with_suffix(".new").write_text(json.dumps({"wall": self.wall, "cpu": self.cpu}))
        FILE.with_suffix(".new").replace(FILE)
        self.wall = self.cpu = 0.0


class WatchedBroker(server.Broker):
    """A broker that is watched from its start on."""

    async def start(self) -> None:
        """Start, and the watch with it."""
        await super().start()
        self.watch = Watch(asyncio.get_running_loop())


server.Broker = WatchedBroker  # type: ignore[misc]
main.main(["server", *sys.argv[2:]])
