"""Between threads and an event loop: handlers that run on threads, and threads that send."""

import asyncio
import concurrent.futures
import contextvars
import inspect
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from pystrands.client.connection.forking import forgets_in_children
from pystrands.client.connection.outgoing import Outgoing
from pystrands.client.core import BackendCore
from pystrands.client.handlers.current import NotBegun
from pystrands.client.loops import LoopThread, check_threads
from pystrands.client.requests import AT_ONCE

__all__ = ["Bridge", "ClientThread", "Gone", "loop_runs_here"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

POSTED_LIMIT: Final = 256 * 1024
"""Bytes that threads have sent and the loop has not taken yet, before ``send`` waits."""


NO_THREAD_PAUSE: Final = 0.1
"""Seconds until the next try to start a thread, where there is none."""
_CANT_WAIT: Final = frozenset({"on_connection_request", "on_error"})


class NoThread(RuntimeError):  # noqa: N818 - what happened
    """There is no thread for a handler, and none can be started."""


class Gone(Exception):  # noqa: N818 - what happened; it never leaves the library
    """The event loop has ended or is about to."""


def loop_runs_here() -> bool:
    """Return whether an event loop runs on this thread, which must not block then."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Mailbox:
    """Calls that other threads post to a loop; they run in order, and a batch of them wakes the loop once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._scheduled = False

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have ``function(*args)`` run on the loop. A loop that is closed drops it."""
        self._calls.append((function, args))
        # No lock: at worst two threads both wake the loop. The call is there before the flag is read, and run() clears
        # the flag before it looks for calls, so none is forgotten.
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self.run)
            except RuntimeError:
                self._calls.clear()
                logger.debug("a call came after the event loop was closed and was dropped")

    def run(self) -> None:
        """Run what was posted so far."""
        self._scheduled = False
        for _ in range(len(self._calls)):
            function, args = self._calls.popleft()
            try:
                function(*args)
            except Exception:
                logger.exception("a call from another thread failed; this is a bug in PyStrands")


class Workers:
    """Daemon threads, started as needed up to ``max_workers``, that run functions for the loop.

    Not a ThreadPoolExecutor: the interpreter would wait for its threads at exit, however long a handler takes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, mailbox: Mailbox, max_workers: int) -> None:
        self._loop = loop
        self._mailbox = mailbox
        self._max_workers = max_workers
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = 0
        self._short = False
        self._unfinished = 0

    def run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Run ``function(*args)`` on a thread, in a copy of the caller's context. Called on the loop.

        Raises NoThread when there is none and none can be started; then it is not run. With fewer threads than it
        could have it makes do.
        """
        if self._unfinished >= self._threads and self._threads < self._max_workers:
            self._start_thread()
        future = self._loop.create_future()
        context = contextvars.copy_context()
        self._unfinished += 1
        self._jobs.put(lambda: self._work(future, context, function, args))
        return future

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._serve, name=f"pystrands-worker-{self._threads + 1}", daemon=True).start()
        except (RuntimeError, MemoryError) as error:  # the system has no more for now
            if not self._short:
                self._short = True
                logger.warning(
                    "no thread for handlers can be started, beside the %d there are: %s", self._threads, error
                )
            if not self._threads:
                raise NoThread(f"no thread for a handler can be started: {error}") from None
        else:
            self._threads += 1
            self._short = False

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # it holds the arguments of the handler until the next one comes

    def _work(
        self,
        future: asyncio.Future[Any],
        context: contextvars.Context,
        function: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> None:
        result, error = None, None
        try:
            result = context.run(function, *args)
        except Exception as raised:  # noqa: BLE001 - it is the loop's to handle
            error = raised
        except BaseException as raised:  # noqa: BLE001 - sys.exit() on a worker thread can't end the program
            error = RuntimeError(f"a handler on a worker thread raised {type(raised).__name__}")
            error.__cause__ = raised
        if isinstance(error, StopIteration):  # no future takes one
            stopped, error = error, RuntimeError("a handler raised StopIteration")
            error.__cause__ = stopped
        self._mailbox.post(self._done, future, result, error)

    def _done(self, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        self._unfinished -= 1
        if future.done():  # cancelled: disconnect() did not wait any longer
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def close(self) -> None:
        """Let each thread end after the function that it runs now."""
        for _ in range(self._threads):
            self._jobs.put(None)


class Bridge:
    """Lets threads use a BackendCore, and that use threads. Made on its running loop, and closed there."""

    def __init__(self, core: BackendCore, max_workers: int, *, may_await: bool = True) -> None:
        check_threads()
        self._core = core
        self._may_await = may_await
        self._told_async = False
        self._loop = asyncio.get_running_loop()
        self._mailbox = Mailbox(self._loop)
        self._workers = Workers(self._loop, self._mailbox, max_workers)
        self._lock = threading.Lock()
        self._over = False
        self._pending: set[concurrent.futures.Future[Any]] = set()
        forgets_in_children(self)

    def forget(self) -> object:
        """Be in a forked child: there is no loop, and whoever held the lock is not here."""
        self._lock = threading.Lock()
        self._over = True
        self._pending = set()
        return self._loop

    @property
    def is_over(self) -> bool:
        """Whether it takes no more calls."""
        return self._over

    async def run_plain(self, name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run the handler of that name, a plain function, on a thread; what it returns is awaited where that can be.

        Without ``may_await`` a coroutine is run on that thread instead: on the loop it could not wait for the loop.

        Raises NotBegun when no thread was free before the client's lease was over. ``on_error`` is always run: it may
        tell of a handler that had begun. While not one thread can be had it waits for one, so that no event is lost;
        but for a client that wants to come in, and for on_error: those raise NoThread.
        """
        if name != "on_error":
            function, args = self._begin, (function, *args)
        if not self._may_await:
            function, args = self._to_its_end, (name, function, *args)
        result = await (await self._on_thread(name, function, args))
        return await result if self._may_await and inspect.isawaitable(result) else result

    def _to_its_end(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a handler on this thread; where it turns out to be async, run it here as well, where it may block."""
        result = function(*args)
        if not inspect.isawaitable(result):
            return result
        if not inspect.iscoroutine(result):
            raise TypeError(f"{name} returned a {type(result).__name__}, which nothing awaits: write a plain function")
        if not self._told_async:
            self._told_async = True
            logger.warning(
                "%s is async def under a decorator; PyStrandsClient calls plain functions on threads, and gives each "
                "call of this one an event loop of its own, which is slow: write def, or use AsyncPyStrandsClient",
                name,
            )
        return asyncio.run(result)

    async def _on_thread(self, name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Future[Any]:
        while True:
            try:
                return self._workers.run(function, args)
            except NoThread:
                if name in _CANT_WAIT:
                    raise
            await asyncio.sleep(NO_THREAD_PAUSE)

    def _begin(self, function: Callable[..., Any], *args: Any) -> Any:
        lifetime = self._core.lifetime
        if lifetime is not None and not lifetime.dispatcher.may_begin:
            raise NotBegun
        return function(*args)

    def send(self, line: bytes, to: str = "", timeout: float | None = None) -> bool:
        """Hand ``line`` to the link, from any thread but the loop's; return whether it was.

        Blocks under back-pressure, and while ``to``, its recipient, is full: up to ``timeout`` seconds. The lines of
        one thread keep their order, and no line is ever mixed with another.
        """
        lifetime = self._core.lifetime
        if lifetime is None or self._over:
            return self._core.outage.unsent()
        outgoing = lifetime.brokers.choice.choose()
        if not outgoing.is_possible:
            return self._core.outage.unsent()
        if to == AT_ONCE:
            if not outgoing.is_up:
                return self._core.outage.unsent()
            if outgoing.congested or outgoing.posted > POSTED_LIMIT:
                return False
        elif outgoing.congested or outgoing.posted > POSTED_LIMIT or to in outgoing.full:
            try:
                return self.call(self._core.send, line, to, timeout)
            except Gone:
                return self._core.outage.unsent()
        outgoing.check(line)
        if outgoing.is_stale():
            return False
        with outgoing.lock:
            if outgoing.is_closing:
                return self._core.outage.unsent()
            outgoing.posted += len(line)
        self._core.outage.over()
        self._mailbox.post(self._write, outgoing, line, to)
        return True

    def _write(self, outgoing: Outgoing, line: bytes, to: str) -> None:
        with outgoing.lock:
            outgoing.posted -= len(line)
        if not outgoing.write_posted(line, to):
            outgoing.dropped += 1
            logger.debug("the link was lost before a message was written; the message is dropped")

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine function on the loop and return its result; from any thread but the loop's.

        An exception in the waiting, such as KeyboardInterrupt, leaves it running. Raises Gone when the loop has ended.
        """
        return wait_for(self.start(function, *args))

    def start(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> concurrent.futures.Future[T]:
        """Start a coroutine function on the loop, in a copy of the caller's context. Raises Gone at its end.

        Raises RuntimeError on the loop itself: who waits there waits for ever.
        """
        if loop_runs_here() and asyncio.get_running_loop() is self._loop:
            raise RuntimeError("this would wait for its own event loop: call it from a thread, such as a handler's")
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._lock:
            if self._over:
                raise Gone
            self._pending.add(future)
        self._mailbox.post(self._start, future, contextvars.copy_context(), function, args)
        return future

    def _start(
        self,
        future: concurrent.futures.Future[T],
        context: contextvars.Context,
        function: Callable[..., Coroutine[Any, Any, T]],
        args: tuple[Any, ...],
    ) -> None:
        def done(task: asyncio.Task[T]) -> None:
            self._pending.discard(future)
            if future.done():
                return
            if task.cancelled():
                future.set_exception(Gone())
            elif (error := task.exception()) is not None:
                future.set_exception(error)
            else:
                future.set_result(task.result())

        task = asyncio.Task(function(*args), loop=self._loop, context=context, name="pystrands-call")
        task.add_done_callback(done)

    def close(self, *, unless_pending: bool = False) -> bool:
        """Take no more calls, and tell those that wait; return False when calls are pending that must not be."""
        with self._lock:
            if unless_pending and self._pending:
                return False
            self._over = True
            pending, self._pending = self._pending, set()
        for future in pending:
            if not future.done():
                future.set_exception(Gone())
        self._workers.close()
        return True


def wait_for(future: concurrent.futures.Future[T]) -> T:
    """Return the result of ``future``; Ctrl-C interrupts the wait."""
    while not future.done():
        concurrent.futures.wait([future], timeout=1.0)  # a wait without end can't be interrupted on Windows
    return future.result()


class ClientThread(LoopThread):
    """A thread with an event loop, a BackendCore and its Bridge; it ends with the lifetime of the core."""

    def __init__(self, make_core: Callable[["ClientThread"], BackendCore], max_workers: int) -> None:
        self.core: BackendCore
        self.bridge: Bridge
        self._make_core = make_core
        self._max_workers = max_workers
        self._nudge: asyncio.Event
        super().__init__("pystrands-loop")

    async def _main(self) -> None:
        self._nudge = asyncio.Event()
        self.core = self._make_core(self)
        self.bridge = Bridge(self.core, self._max_workers, may_await=False)
        self._begun()
        try:
            while True:
                await self._nudge.wait()
                self._nudge.clear()
                lifetime = self.core.lifetime
                if lifetime is not None:
                    lifetime.closed.add_done_callback(lambda _: self._nudge.set())
                elif self.bridge.close(unless_pending=True):
                    return
        finally:
            self.bridge.close()

    async def _nudging(self, function: Callable[..., Coroutine[Any, Any, T]], args: tuple[Any, ...]) -> T:
        try:
            return await function(*args)
        finally:
            # Two turns from now, when this call is no longer pending.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._nudge.set)

    def start(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> concurrent.futures.Future[T]:
        """Start a method of the BackendCore. Raises Gone when the thread is at its end."""
        return self.bridge.start(self._nudging, function, args)
