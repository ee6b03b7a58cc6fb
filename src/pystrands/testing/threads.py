"""An event loop on a thread of its own, for tests that have none."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pystrands.client.loops import LoopThread

__all__ = ["BackgroundLoop", "borrow", "give_back"]

T = TypeVar("T")


class BackgroundLoop(LoopThread):
    """An event loop that runs on a thread of its own until :meth:`stop`. Its methods are for other threads."""

    def __init__(self, name: str) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        super().__init__(name)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._begun()
        await self._end.wait()

    def run(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **options: Any) -> T:
        """Run a coroutine function on the loop, and block until it is done."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("this would wait for its own thread; use the async form here")
        future = asyncio.run_coroutine_threadsafe(function(*args, **options), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a KeyboardInterrupt, or no effect
            raise

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a plain function on the loop's thread, and block until it is done."""

        async def calling() -> T:
            return function(*args)

        return self.run(calling)

    def stop(self) -> None:
        """End the loop and the thread; what still runs there is cancelled."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self.join()


_lock = threading.Lock()
_shared: BackgroundLoop | None = None
_users = 0


def borrow() -> BackgroundLoop:
    """Return the thread that all who need one share; it is there until the last :func:`give_back`."""
    global _shared, _users  # noqa: PLW0603 - one thread for the process
    with _lock:
        if _shared is None:
            _shared = BackgroundLoop("pystrands-testing")
        _users += 1
        return _shared


def give_back() -> None:
    """Stop the shared thread when nobody else has it."""
    global _shared, _users  # noqa: PLW0603 - one thread for the process
    with _lock:
        _users -= 1
        if _users == 0 and _shared is not None:
            _shared.stop()
            _shared = None
