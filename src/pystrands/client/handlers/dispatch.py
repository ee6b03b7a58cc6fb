"""Runs handlers: each client's in order, different clients' at the same time, up to a bound."""

import asyncio
import contextvars
import inspect
import itertools
import logging
import sys
from collections.abc import Callable
from types import CoroutineType
from typing import Any, Final, cast

from pystrands.client.handlers.calls import HandlerCall
from pystrands.client.handlers.clock import clock
from pystrands.client.handlers.current import NotBegun, handled_by, served
from pystrands.client.handlers.lanes import Slots
from pystrands.client.handlers.outcomes import Outcomes, uncancel
from pystrands.client.handlers.queue import CallQueue

__all__ = ["EAGER", "Dispatcher"]

logger = logging.getLogger(__name__)

SLICE_EVENTS: Final = 50
SLICE_SECONDS: Final = 0.002
"""A runner goes on for so many events and so long, then lets the loop read and write."""

BLOCKING_SECONDS: Final = 0.25
"""A plain handler that holds the event loop for longer is told of."""

EAGER: Final = sys.version_info >= (3, 12)
"""Whether a task can begin where it is made, without a turn of the loop."""

_AT_ONCE: Final[dict[str, Any]] = {"eager_start": True}

_GATHERING: Final = -1
"""In the place of the next runner's number: :meth:`Dispatcher.begin` starts what is needed."""
_LOOKING: Final = -2
"""In the same place: one starts in the loop's next turn if it is needed then."""

# Needed for every event: a constant costs no look-up.
_COROUTINE: Final = CoroutineType
_handled_by: Final = handled_by
_served: Final = served

_runner_numbers: Final = itertools.count(1)


class Dispatcher:
    """Runs the calls of its queues through ``invoke(name, args)``, which returns a result or an awaitable of one.

    Each connection has a queue, with what is about its broker: its lease, and which handlers are stale. Here is what
    they share: the runners, how many handlers run at once, the end.

    A task for each event would cost more than most handlers. So *runner* tasks take calls one after the other: a
    handler that never suspends costs no task. Before a runner starts a handler while more is ready, it makes sure that
    one successor goes on with the rest if the handler suspends. While no handler is suspended, the loop looks in its
    next turn whether one is needed, which costs less than a task. Where some are, others will be: then it is scheduled
    at once, and may find nothing to do. Between :meth:`gather` and :meth:`begin` nothing is scheduled.

    ``abandoned()`` tells whether a cancellation means the end of the program. A handler is cancelled after ``timeout``
    seconds; None: never. An ``invoke`` that begins later looks at :attr:`may_begin` then, and raises NotBegun, after
    which the call waits again. ``clock``: the one that leases are counted by.
    """

    def __init__(
        self,
        invoke: Callable[[str, tuple[Any, ...]], Any],
        *,
        concurrency: int,
        context: contextvars.Context,
        abandoned: Callable[[], bool],
        timeout: float | None = None,
        slice_seconds: float = SLICE_SECONDS,
        clock: Callable[[], float] = clock,
    ) -> None:
        self._clock = clock
        self.slots = Slots(concurrency)
        """For the handlers that run, of whatever queue."""
        self._queues: list[CallQueue] = []
        self._invoke = invoke
        self._context = context
        self._abandoned = abandoned
        self._timeout = timeout
        self._slice_seconds = slice_seconds
        self._loop = asyncio.get_running_loop()
        self._runners: dict[int, asyncio.Task[None]] = {}
        self._serves: dict[int, CallQueue] = {}  # by the number of a runner that has begun
        self._successor = 0  # the runner that is scheduled and has not started; 0: none; or one of the above
        self._leaving: set[int] = set()
        self._stopped = False
        self._told_blocking: set[str] = set()
        self._outcomes = Outcomes(invoke, self._is_ending)
        self._waiters: list[asyncio.Future[None]] = []

    # -- what comes in

    def add(self, queue: CallQueue) -> None:
        """Run the calls of one more queue, which has these :attr:`slots`."""
        self._queues.append(queue)

    def remove(self, queue: CallQueue) -> None:
        """Know no more of a queue, which is :meth:`finished`."""
        self._queues.remove(queue)

    def put(self, queue: CallQueue, call: HandlerCall, *, late: bool = False) -> None:
        """Have ``call`` run when its turn comes; after :meth:`stop` only where it is ``late``."""
        if self._stopped and not late:
            return
        queue.put(call)
        if not self._successor and queue.is_runnable:
            self._schedule()

    def _is_runnable(self) -> bool:
        for queue in self._queues:  # noqa: SIM110 - any() is slower, and this is for every message
            if queue.is_runnable:
                return True
        return False

    def _next_queue(self) -> CallQueue | None:
        """Return a queue of which something may run, each in its turn."""
        for index, queue in enumerate(self._queues):
            if queue.is_runnable:
                if index or len(self._queues) > 1:
                    self._queues.append(self._queues.pop(index))
                return queue
        return None

    def gather(self) -> None:
        """Let what is put wait for :meth:`begin`, which the caller calls before anybody else's turn comes."""
        if not self._successor:
            self._successor = _GATHERING

    def begin(self) -> None:
        """Run what was gathered before this returns, for one slice; the loop has the rest. Only where :data:`EAGER`."""
        if self._successor != _GATHERING:
            return
        try:
            read_clock = self._clock
            until = read_clock() + self._slice_seconds
            for _ in range(SLICE_EVENTS):
                if not (self._is_runnable() and self._begin_one() and read_clock() < until):
                    break
        finally:
            if self._successor == _GATHERING:
                self._successor = 0
                if self._is_runnable():
                    self._schedule()

    def _begin_one(self) -> bool:
        """Start a runner at once; return whether another one may follow: its handler suspended."""
        number, context = self._next()
        runner = self._run_at_once(number, context)
        task = asyncio.Task(runner, loop=self._loop, context=context, name=_name(number), **_AT_ONCE)
        return not task.done() and self._successor == _GATHERING

    async def _run_at_once(self, number: int, context: contextvars.Context) -> None:
        self._runners[number] = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            await self._run(number, context)
        except (KeyboardInterrupt, SystemExit) as error:
            self._loop.call_soon(_raise, error)  # uvloop would take it for a failure of the connection

    # -- runners

    def _next(self) -> tuple[int, contextvars.Context]:
        number = next(_runner_numbers)
        context = self._context.copy()
        context.run(_handled_by.set, number)
        return number, context

    def _schedule(self) -> None:
        number, context = self._next()
        # Not through the loop's task factory: an eager one would start it inside of its predecessor.
        task = asyncio.Task(self._run(number, context), loop=self._loop, context=context, name=_name(number))
        self._runners[number] = task
        self._successor = number
        task.add_done_callback(self._never_started, context=self._context)

    async def _run(self, number: int, context: contextvars.Context) -> None:
        task = self._runners[number]
        task.remove_done_callback(self._never_started)  # each such call costs a turn of the loop
        try:
            if self._successor == number:
                self._successor = 0
            queue = self._next_queue()
            if queue is not None:
                self._serves[number] = queue
                if len(self._queues) > 1:
                    _served.set(queue)
                await self._run_some(number, queue, task, context)
        except Exception:
            logger.exception("a runner of handlers failed; this is a bug in PyStrands")
        finally:
            self._ended(number)

    def _prepare_successor(self) -> None:
        if len(self._runners) == 1:
            self._successor = _LOOKING
            self._loop.call_soon(self._look)
        else:
            self._schedule()

    def _look(self) -> None:
        if self._successor == _LOOKING:
            self._successor = 0
            if self._is_runnable() and not self._abandoned():
                self._schedule()

    async def _run_some(
        self, number: int, queue: CallQueue, task: "asyncio.Task[None]", context: contextvars.Context
    ) -> None:
        clean = context.copy()
        lanes, invoke, read_clock = queue.lanes, self._invoke, self._clock
        count, started = 0, (now := read_clock())
        while now < queue.lease and (call := lanes.take()) is not None:
            queue.waiting_bytes -= call.size
            if queue.full:
                queue.see_room()
            if not self._successor and self._is_runnable():
                self._prepare_successor()
            successor = self._successor
            begun, is_async = True, False
            try:
                try:
                    result = invoke(call.name, call.args)
                    if is_async := type(result) is _COROUTINE or inspect.isawaitable(result):
                        result = await (result if self._timeout is None else self._in_time(result))
                    if call.reply is not None:
                        self._outcomes.answer(call, result)
                except BaseException as error:  # noqa: BLE001 - whatever a handler raises, the link and the others go on
                    begun = not await self._went_wrong(number, queue, call, error)
                done = call.done
                if begun and done is not None:
                    if not done:
                        queue.notify_done()
                    done.append(call.seq)
            finally:
                lanes.finish(call)
                if self._leaving:
                    self._leaving.discard(number)
                if queue.stale:
                    queue.stale.discard(number)
            if not begun:
                break
            # The next handler must not inherit what this one left in its context, or its cancellation.
            try:
                if context != clean or task.cancelling():
                    break
            except Exception:  # noqa: BLE001 - it compares values of the user's, whose == may do anything
                break
            count += 1
            now = read_clock()
            if successor and not self._successor:  # it has started: the handler suspended, and this is a new turn
                count, started = 0, now
            elif count >= SLICE_EVENTS or now - started > self._slice_seconds:
                self._warn_blocking(call.name, 0.0 if is_async else now - started)
                break
        if now >= queue.lease:
            queue.hold()

    def _warn_blocking(self, name: str, seconds: float) -> None:
        if seconds > BLOCKING_SECONDS and name not in self._told_blocking:
            self._told_blocking.add(name)
            logger.warning(
                "%s, a plain def, held the event loop for %.1f s, and with it all clients: make it async def and await "
                "what takes long, or use PyStrandsClient, which calls it on a thread; this is said once",
                name,
                seconds,
            )

    def renew(self, queue: CallQueue, until: float) -> None:
        """Handlers of a queue's calls may begin until then, which may be over already."""
        queue.lease = until
        if queue.is_held and self._clock() < until:
            queue.is_held = False
            if not self._successor and queue.is_runnable:
                self._schedule()

    @property
    def may_begin(self) -> bool:
        """Whether the handler on whose behalf this code runs, on whatever thread, may begin now: its lease goes on."""
        queue = self._serves.get(_handled_by.get())
        return queue is None or self._clock() < queue.lease

    def _never_started(self, task: asyncio.Task[None]) -> None:
        number = next(number for number, runner in self._runners.items() if runner is task)
        if self._successor == number:
            self._successor = 0
        self._ended(number)

    def _ended(self, number: int) -> None:
        del self._runners[number]
        self._serves.pop(number, None)
        self._leaving.discard(number)
        if not self._successor and self._is_runnable() and not self._abandoned():
            self._schedule()
        self._notify_change()

    async def _went_wrong(self, number: int, queue: CallQueue, call: HandlerCall, error: BaseException) -> bool:
        """Tell of what a handler raised; raise again what is not its own: the end of the program, or of the client.

        Return True where it had not begun: then it waits again, if its session lives.
        """
        if isinstance(error, NotBegun):
            if number not in queue.stale and not self._stopped:
                queue.lanes.put_back(call)
                queue.waiting_bytes += call.size
            return True
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error
        if isinstance(error, asyncio.CancelledError):
            if self._is_ending():
                raise error
            uncancel()
        await self._outcomes.failed(call, error)
        return False

    def _is_ending(self) -> bool:
        """Whether a cancellation is no handler's own: it means the end of the program, or of the client."""
        return self._stopped or self._abandoned()

    async def _in_time(self, result: Any) -> Any:
        async with asyncio.timeout(self._timeout) as limit:
            try:
                return await result
            except asyncio.CancelledError:
                if limit.expired():
                    raise TimeoutError(f"it took more than {self._timeout:g} s (handler_timeout)") from None
                raise

    # -- the end

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._runners and not any(queue.waiting for queue in self._queues)

    @property
    def only_leavers(self) -> bool:
        """Whether the only handlers left are those that asked for the end."""
        return all(number in self._leaving for number in self._runners)

    def caller(self) -> int:
        """Return the number of the runner whose handler this code runs in, or 0."""
        number = _handled_by.get()
        return number if number in self._runners else 0

    def leave(self, number: int) -> None:
        """The handler of runner ``number`` is the one that asked for the end: nobody waits for it or cancels it."""
        self._leaving.add(number)
        self._notify_change()

    async def others_finished(self) -> None:
        """Wait until no handler runs but those that asked for the end."""
        while not self.only_leavers:
            await self._change()

    async def finished(self, queue: CallQueue | None = None) -> None:
        """Wait until nothing runs or waits; of one queue, where that is given."""
        while not (self.idle if queue is None else self._is_idle(queue)):
            await self._change()

    def _is_idle(self, queue: CallQueue) -> bool:
        return not queue.waiting and not any(each is queue for each in self._serves.values())

    async def _change(self) -> None:
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)

    def _notify_change(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def release(self, queue: CallQueue) -> list[HandlerCall]:
        """Take out of a queue what the broker sent and no handler has begun with, and return it."""
        released = queue.release()
        self._notify_change()
        return released

    def forget(self, queue: CallQueue) -> list[HandlerCall]:
        """Take out what :meth:`release` does; the handlers of that queue that run now are stale until they end."""
        queue.stale.update(number for number, served in self._serves.items() if served is queue)
        return self.release(queue)

    def stop(self) -> int:
        """Cancel what runs, but for who asked for the end, drop what waits, take no more; return how many those are."""
        self._stopped = True
        running = [task for number, task in self._runners.items() if number not in self._leaving]
        handlers = self.slots.running - len(self._leaving)
        dropped = sum(queue.clear() for queue in self._queues)
        for task in running:
            task.cancel()
        return max(handlers, 0) + dropped


def _name(number: int) -> str:
    return f"pystrands-runner-{number}"


def _raise(error: BaseException) -> None:
    raise error
