"""An event loop on a thread of its own, for tests that have none."""

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pystrands.client.threads import check_threads, new_event_loop

__all__ = ["LoopThread", "borrow", "give_back"]

T = TypeVar("T")


class LoopThread:
    """A daemon thread that runs an event loop until :meth:`stop`. Its methods are for other threads.

    Raises NotSupported where threads are greenlets.
    """

    def __init__(self, name: str) -> None:
        check_threads()
        self._ready = threading.Event()
        self._problem: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._problem is not None:
            raise self._problem

    def _serve(self) -> None:
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(self._main())
        except BaseException as error:
            if self._ready.is_set():
                raise
            self._problem = error
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._ready.set()
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
            self._thread.join()


_lock = threading.Lock()
_shared: LoopThread | None = None
_users = 0


def borrow() -> LoopThread:
    """Return the thread that all who need one share; it is there until the last :func:`give_back`."""
    global _shared, _users  # noqa: PLW0603 - one thread for the process
    with _lock:
        if _shared is None:
            _shared = LoopThread("pystrands-testing")
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


def _stop_at_exit() -> None:
    if _shared is not None:
        _shared.stop()


atexit.register(_stop_at_exit)
