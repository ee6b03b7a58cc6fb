"""Event loops that the library itself runs, on whatever thread: they end before the interpreter does."""

import asyncio
import atexit
import contextlib
import threading
import time
from collections.abc import Coroutine
from typing import Any, Final

from pystrands.client.greenlets import no_threads
from pystrands.errors import NotSupported

__all__ = ["LoopRun", "LoopThread", "check_threads", "new_event_loop"]

EXIT_TIMEOUT: Final = 2.0
"""Seconds that all loops together have to end at the interpreter's exit; a task may not heed that it is cancelled."""
BEHIND_BLOCKED: Final = 0.5
"""Seconds more for the others, if one has taken all that."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop: uvloop's where there is one."""
    try:
        import uvloop  # noqa: PLC0415 - there is none on Windows, and it is slow to import
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def check_threads() -> None:
    """Raise NotSupported in a process whose threads are greenlets: an event loop on one would stop all the others."""
    if problem := no_threads():
        raise NotSupported(problem)


class LoopRun:
    """An event loop that the thread which makes this runs until a coroutine is done.

    At the interpreter's exit it is cancelled, and waited for: a loop on a daemon thread would come back from C code
    when the interpreter is gone, and the process would die of that.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.current_thread()
        self._is_cancelled = False
        self._is_over = threading.Event()

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run ``main`` on a new loop. What it raises is raised, but for what comes of :meth:`cancel`."""
        _running[self] = None
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                self._loop = runner.get_loop()
                runner.run(self._run(main))
        except BaseException:
            if not self._is_cancelled:
                raise
        finally:
            main.close()  # there was no loop for it
            _running.pop(self, None)
            self._is_over.set()

    async def _run(self, main: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.current_task()
        await main

    def cancel(self) -> None:
        """Have the coroutine cancelled, and after it all tasks of the loop. For any thread."""
        if self._task is not None and self._thread.is_alive():  # a forked child has this, and not the thread
            self._is_cancelled = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._task.cancel)

    def wait(self, timeout: float) -> None:
        """Wait until it is over, up to ``timeout`` seconds."""
        if self._thread.is_alive():
            self._is_over.wait(max(0.0, timeout))


_running: dict[LoopRun, None] = {}
"""In the order in which they began."""


def _end_all() -> None:
    runs = list(_running)
    until = time.monotonic() + EXIT_TIMEOUT
    for run in reversed(runs):  # a backend before the broker that it talks to
        run.cancel()
        run.wait(until - time.monotonic())
    until = time.monotonic() + BEHIND_BLOCKED
    for run in runs:
        run.wait(until - time.monotonic())


atexit.register(_end_all)


class LoopThread:
    """A daemon thread that runs :meth:`_main` on an event loop; it is made when that calls :meth:`_begun`.

    Raises what the system says when it has no thread or no descriptors for that: RuntimeError, OSError. Raises
    NotSupported where threads are greenlets.
    """

    def __init__(self, name: str) -> None:
        check_threads()
        self._started = threading.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()
        self._started.wait()
        if self._problem is not None:
            raise self._problem

    def _serve(self) -> None:
        try:
            LoopRun().run(self._main())
        except BaseException as error:
            if self._started.is_set():
                raise
            self._problem = error  # there is no loop, for want of descriptors for example: who waits for it hears why
            self._started.set()

    def _begun(self) -> None:
        self._started.set()

    async def _main(self) -> None:
        raise NotImplementedError

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, up to ``timeout`` seconds; None: for as long as it takes."""
        self._thread.join(timeout)
