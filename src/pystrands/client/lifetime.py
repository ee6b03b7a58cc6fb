"""A client from its connect to its disconnect, on one event loop."""

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import Any, Final

from pystrands.client.brokers import Brokers
from pystrands.client.connection.broker_connection import BrokerConnection
from pystrands.client.connection.choice import LinkChoice
from pystrands.client.connection.outgoing import Outgoing
from pystrands.client.connection.time_limits import TIME_LIMITS, TimeLimits
from pystrands.client.handlers.calls import lost_messages
from pystrands.client.handlers.dispatch import Dispatcher
from pystrands.client.options import Options

__all__ = ["CANCELLED_TIMEOUT", "DISCONNECT_TIMEOUT", "ClientLifetime", "Invoke"]

logger = logging.getLogger(__name__)

Invoke = Callable[[str, tuple[Any, ...]], Any]
"""Calls the handler of that name; gives its result, or an awaitable of it."""

DISCONNECT_TIMEOUT: Final = 5.0
CANCELLED_TIMEOUT: Final = 1.0
"""Seconds that handlers have when ``run_forever`` is cancelled."""
NOT_DELIVERED: Final = "disconnected; %d of the messages were not delivered, as far as is known%s"
TOO_EARLY: Final = ": the event loop has ended before disconnect() was awaited"


class ClientLifetime:
    """A client from ``connect()`` to ``disconnect()``: its handlers, and the brokers that they are for.

    The next ``connect()`` makes a new one. ``closed`` is done when everything of it has ended. ``use(outgoing)`` is
    told where lines go, at first and whenever that changes.
    """

    def __init__(
        self,
        options: Options,
        invoke: Invoke,
        *,
        persistent: bool,
        use: Callable[[Outgoing | LinkChoice], None],
        limits: TimeLimits = TIME_LIMITS,
    ) -> None:
        self._limits = limits
        self.loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self.loop.create_future()
        self.is_over = False
        """Whether ``closed`` is done."""
        self._is_dropped = False
        self._context = contextvars.copy_context()
        self._closer: asyncio.Task[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._expired: asyncio.Future[None] = self.loop.create_future()
        self._gave_up: asyncio.Future[None] = self.loop.create_future()
        self.dispatcher = Dispatcher(
            invoke,
            concurrency=options.max_concurrency,
            context=self._context,
            abandoned=self._is_abandoned,
            timeout=options.handler_timeout,
            clock=limits.clock,
        )
        self.brokers = Brokers(
            options,
            self.dispatcher,
            self._context,
            persistent=persistent,
            use=use,
            ended=self._brokers_ended,
            limits=limits,
        )

    # -- state

    @property
    def connection(self) -> BrokerConnection:
        """The one that is home."""
        return self.brokers.home.connection

    @property
    def stopping(self) -> bool:
        """Whether the end has begun."""
        return self._closer is not None or self.brokers.is_ending

    def _is_abandoned(self) -> bool:
        # asyncio.run cancels every task at its end, these too; a handler's own cancellation is only its own.
        if self.brokers.was_cancelled or self.closed.done() or self.loop.is_closed():
            return True
        return self._closer is not None and self._closer.cancelling() > 0

    def _brokers_ended(self) -> None:
        if not self._is_abandoned():
            if self._closer is None:
                self.begin_closing(DISCONNECT_TIMEOUT)
        elif not self._is_dropped:
            if lost := self.brokers.undelivered:
                logger.warning(NOT_DELIVERED, lost, TOO_EARLY)
            self._drop()

    def _drop(self) -> None:
        self._is_dropped = True
        for timer in self._timers:
            timer.cancel()
        self.brokers.drop()
        closer = self._closer
        if closer is None or closer.done() or closer is asyncio.current_task(self.loop):
            self._is_closed()
        else:  # the program ends: whoever waits for this must keep the loop until that task has ended, too
            closer.add_done_callback(lambda _: self._is_closed())
            closer.cancel()

    def _is_closed(self) -> None:
        self.is_over = True
        if not self.closed.done():
            self.closed.set_result(None)

    # -- the end

    async def close(self, timeout: float) -> None:
        """End: what was received is still handled and may still send; past ``timeout`` seconds it is cancelled.

        Inside a handler it does not wait for that handler, after which the link is closed. Cancelling it, or calling
        it again, does not stop the closing; the earliest timeout counts.
        """
        caller = self.dispatcher.caller()
        self.begin_closing(timeout)
        if not caller:
            await asyncio.wait([self.closed])
            return
        self.dispatcher.leave(caller)
        others = asyncio.ensure_future(self.dispatcher.others_finished())
        try:
            await asyncio.wait([others, self.closed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            others.cancel()

    def begin_closing(self, timeout: float) -> None:
        """Start what :meth:`close` waits for."""
        if self.closed.done():
            return
        self._timers.append(self.loop.call_later(timeout, self._expire))
        if self._closer is None:
            self.brokers.leave()
            self._closer = asyncio.Task(self._close(), loop=self.loop, context=self._context, name="pystrands-closer")

    def _expire(self) -> None:
        if not self._expired.done():
            self._expired.set_result(None)
        self.brokers.stop()
        count = self.dispatcher.stop()
        if count:
            logger.warning("disconnecting: %d events were not handled in time and are dropped", count)
        self._timers.append(self.loop.call_later(self._limits.cancelled, self._give_up))
        if self.dispatcher.only_leavers:
            self._give_up()

    def _give_up(self) -> None:
        if not self._gave_up.done():
            self._gave_up.set_result(None)
            if not self.dispatcher.only_leavers:
                logger.warning("disconnecting: some handlers did not end; they are left to themselves")

    async def _close(self) -> None:
        brokers = self.brokers
        try:
            brokers.end_attempts()
            await self._handlers_finished()
            if await brokers.left(self._expired):
                await self._handlers_finished()  # those that the loss of a broker called, too
            await brokers.sent(self._expired)
            await brokers.finish()
            await self._handlers_finished()
            if lost := brokers.undelivered:
                await self._notify_lost(lost)
        finally:
            self._drop()

    async def _handlers_finished(self) -> None:
        finished = asyncio.ensure_future(self._all_finished())
        try:
            await asyncio.wait([finished, self._gave_up], return_when=asyncio.FIRST_COMPLETED)
        finally:
            finished.cancel()

    async def _all_finished(self) -> None:
        await self.brokers.retired()
        await self.dispatcher.finished()

    async def _notify_lost(self, count: int) -> None:
        logger.warning(NOT_DELIVERED, count, "")
        why = "the client was disconnected, and the link to the broker was not back in time"
        self.dispatcher.put(self.connection.calls, lost_messages(count, why), late=True)
        told = asyncio.ensure_future(self.dispatcher.finished())
        await asyncio.wait([told], timeout=self._limits.cancelled)
        told.cancel()
