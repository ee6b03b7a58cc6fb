"""What a PyStrandsClient runs on: an event loop on a thread, with a BackendCore, from its connect to its disconnect."""

import atexit
import concurrent.futures
import contextlib
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from pystrands.client.base import BaseClient
from pystrands.client.connection.broker_info import BrokerInfo
from pystrands.client.connection.forking import forgets_in_children
from pystrands.client.connection.time_limits import TIME_LIMITS
from pystrands.client.core import BackendCore, Outage
from pystrands.client.handlers.current import in_handler
from pystrands.client.options import Options, options_of
from pystrands.client.threads import ClientThread, Gone, wait_for

__all__ = ["Runs"]

T = TypeVar("T")

JOIN_TIMEOUT: Final = 2.0
EXIT_TIMEOUT: Final = 0.5
"""Seconds that handlers have at the interpreter's exit."""

Method = Callable[[BackendCore], Callable[..., Coroutine[Any, Any, T]]]
"""Names a method of the BackendCore, of whichever is there then."""


class Runs:
    """The loop thread of one client, or the last one, or none yet. For any thread.

    It stands for the client where many are kept: users' classes, such as dataclasses, may have no hash.
    """

    def __init__(self, client: BaseClient, max_workers: Callable[[], int]) -> None:
        self._client = client
        self._max_workers = max_workers
        self._lock = threading.Lock()
        self.running: ClientThread | None = None
        self._outage = Outage()
        self.limits = TIME_LIMITS
        """Of the threads that begin from now on."""
        _all.add(self)
        forgets_in_children(self)

    def options(self) -> Options:
        """Return what the client's attributes say now. Raises ConfigError on a value that can't work."""
        return options_of(self._client)

    def forget(self) -> object:
        """Be in a forked child: the parent's thread, which is returned, does not run here."""
        self._lock = threading.Lock()
        running, self.running = self.running, None
        return running

    def _make_core(self, thread: ClientThread) -> BackendCore:
        client = self._client

        def invoke(name: str, args: tuple[Any, ...]) -> Coroutine[Any, Any, Any]:
            return thread.bridge.run_plain(name, getattr(client, name), args)

        return BackendCore(self.options, invoke, self._outage, self.limits)

    def start(self, method: Method[T]) -> Any:
        """Start a method of the BackendCore, on the thread there is or on a new one."""
        with self._lock:
            running = self.running
            if running is not None and not running.core.stopping:
                with contextlib.suppress(Gone):
                    return running.start(method(running.core))
            running = self.running = ClientThread(self._make_core, self._max_workers())
            return running.start(method(running.core))

    @property
    def broker(self) -> BrokerInfo | None:
        """What is known of the broker; None before the first link."""
        running = self.running
        return None if running is None else running.core.broker

    def send(self, line: bytes, to: str, timeout: float | None) -> bool:
        """Hand a line on; return whether it was. See :meth:`Bridge.send`."""
        running = self.running
        return self._outage.unsent() if running is None else running.bridge.send(line, to, timeout)

    def ask(self, method: Method[T], *args: Any) -> T:
        """Call a method of the BackendCore that waits for the broker, and return what it returns."""
        running = self.running
        if running is not None:
            with contextlib.suppress(Gone):
                return running.bridge.call(method(running.core), *args)
        raise self._outage.unasked()

    def disconnect(self, timeout: float) -> None:
        """See :meth:`pystrands.PyStrandsClient.disconnect`."""
        running = self.running
        if running is None:
            return
        with contextlib.suppress(Gone):
            wait_for(running.start(running.core.disconnect, timeout))
        if not in_handler():
            running.join(JOIN_TIMEOUT)


_all: "weakref.WeakSet[Runs]" = weakref.WeakSet()


def _disconnect_all() -> None:
    ending = [run for runs in list(_all) if (run := runs.running) is not None]
    futures = []
    for run in ending:
        with contextlib.suppress(Gone):
            futures.append(run.start(run.core.disconnect, EXIT_TIMEOUT))
    concurrent.futures.wait(futures, EXIT_TIMEOUT + JOIN_TIMEOUT)
    # Their threads end now, or are ended by what loops.py does at the exit.


atexit.register(_disconnect_all)
