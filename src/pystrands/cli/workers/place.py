"""A worker's place: what its process has from the parent, and how the two talk."""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Final

from pystrands.broker.net.listening import GivenSockets
from pystrands.cli.workers.forking import SIGNALS

__all__ = ["DRAINING", "FAILED", "READY", "STOP", "WorkerPlace"]

READY: Final = b"ready"
"""A worker says: it serves."""
DRAINING: Final = b"draining"
"""A worker says: it was told to end, and leaves its sockets to a successor."""
FAILED: Final = b"failed "
"""A worker says: it can't start; then comes why, and the exit code, in JSON."""
STOP: Final = b"stop"
"""The parent says: all workers end, nobody comes after."""


@dataclass(slots=True, kw_only=True)
class WorkerPlace:
    """The place of one worker: its number, from 1 on, its sockets, and a channel to the parent.

    The channel ends when the parent does, however that comes.
    """

    number: int
    sockets: GivenSockets
    channel: socket.socket

    def is_ready(self) -> None:
        """Tell that it serves."""
        self._send(READY)

    def has_failed(self, problem: str, code: int) -> None:
        """Tell why it could not start; the parent says so to people."""
        self._send(FAILED + json.dumps([problem, code]).encode())

    @contextlib.contextmanager
    def stop_event(self) -> Iterator[asyncio.Event]:
        """Give an event that is set once this worker has to end, for the running event loop.

        That is when a signal comes, from the parent or from anybody, or when the parent is gone. A signal more changes
        nothing: whoever ends a whole group of processes sends it once, and the parent passes it on once more.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        def end() -> None:
            if not stop.is_set():
                loop.remove_reader(self.channel)
                self._choose_who_comes_after()
                stop.set()

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            if not loop.is_closed():  # it has ended already, and so does the process
                loop.call_soon_threadsafe(end)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, on_signal)
        self.channel.setblocking(False)
        loop.add_reader(self.channel, end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            yield stop
        finally:
            loop.remove_reader(self.channel)

    def _choose_who_comes_after(self) -> None:
        """Leave the sockets to a successor, unless all workers end: then this one answers whoever comes still.

        Where the parent is gone another may be about to start, which needs the ports.
        """
        told = b""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            told = self.channel.recv(16)
        self.sockets.are_handed_over = told != STOP
        if self.sockets.are_handed_over:
            self._send(DRAINING)

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # the parent is gone, which the channel tells as well
            self.channel.send(message)
