"""Signals of the process: SIGINT and SIGTERM end it, SIGHUP has a server's files read again and ends all else."""

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Final, Self

from pystrands.errors import ConfigError

if TYPE_CHECKING:
    from pystrands.broker.server import Broker

__all__ = ["Hangups", "stop_event"]

log = logging.getLogger(__name__)

_SIGHUP: Final[signal.Signals | None] = getattr(signal, "SIGHUP", None)  # Windows has none


class Hangups:
    """While it is open SIGHUP has a broker's files read again, and never ends the process.

    Open it as early as can be: the signal's default is the end of the process. One that comes before there is a broker
    counts as soon as there is: it may have read its files before they changed. One that comes while the broker stops
    changes nothing. For the main thread only.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._broker: Broker | None = None
        self._came_early = False

    def __enter__(self) -> Self:
        """Take the signal."""
        if _SIGHUP is not None:
            self._before = signal.signal(_SIGHUP, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ignore it until the process has ended, which takes a moment; after a failure, give it back."""
        if _SIGHUP is not None:
            before = signal.SIG_DFL if self._before is None else self._before
            signal.signal(_SIGHUP, signal.SIG_IGN if kind is None else before)

    @contextmanager
    def serving(self, broker: "Broker") -> Iterator[None]:
        """Have the signal reload this broker, on the running event loop."""
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        if self._came_early:
            self._loop.call_soon(self._reload)
        try:
            yield
        finally:
            self._loop = self._broker = None

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._came_early = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._reload)

    def _reload(self) -> None:
        try:
            if self._broker is not None:
                self._broker.reload()
        except ConfigError as error:
            log.error(  # noqa: TRY400 - the message says it all
                "SIGHUP: --%s: %s; what was read before stays in force", error.option.replace("_", "-"), error.problem
            )


def stop_event(*, with_hangup: bool) -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set, and SIGHUP if asked; the second signal ends the process at once."""
    signals = [signal.SIGINT, signal.SIGTERM]
    if with_hangup and _SIGHUP is not None:
        signals.append(_SIGHUP)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    # The system's own way ends a process whatever it is doing, but not the first one of a container.
    second = _exit if os.getpid() == 1 else signal.SIG_DFL

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, second)
        if not loop.is_closed():  # it has ended already, and so does the process
            loop.call_soon_threadsafe(stop.set)

    for each in signals:
        signal.signal(each, on_signal)
    return stop


def _exit(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
