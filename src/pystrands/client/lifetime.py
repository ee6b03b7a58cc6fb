"""A client from its connect to its disconnect, on one event loop."""

import asyncio
import contextvars
import logging
import math
from collections.abc import Callable
from typing import Any, Final

from pystrands.client.connection.heartbeats import Heartbeats
from pystrands.client.connection.incoming import Incoming
from pystrands.client.connection.link import BrokerLink
from pystrands.client.connection.outgoing import Outgoing
from pystrands.client.connection.supervisor import Supervisor
from pystrands.client.handlers.calls import lost_messages
from pystrands.client.handlers.dispatch import EAGER, Dispatcher, current_runner
from pystrands.client.options import Options

__all__ = ["CANCELLED_TIMEOUT", "DISCONNECT_TIMEOUT", "ClientLifetime", "Invoke"]

logger = logging.getLogger(__name__)

Invoke = Callable[[str, tuple[Any, ...]], Any]
"""Calls the handler of that name; gives its result, or an awaitable of it."""

DISCONNECT_TIMEOUT: Final = 5.0
CANCELLED_TIMEOUT: Final = 1.0
"""Seconds that handlers have when ``run_forever`` is cancelled."""
CANCEL_GRACE: Final = 1.0
"""Seconds for a cancelled handler to end, before it is left to itself."""
LINGER: Final = 1.0
"""Seconds for what was written to reach the broker, after the timeout."""
NOT_DELIVERED: Final = "disconnected; %d of the messages were not delivered, as far as is known%s"
TOO_EARLY: Final = ": the event loop has ended before disconnect() was awaited"


class ClientLifetime:
    """A client from ``connect()`` to ``disconnect()``: its link, its handlers. The next ``connect()`` makes a new one.

    ``closed`` is done when everything of it has ended.
    """

    def __init__(self, options: Options, invoke: Invoke, *, persistent: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self.loop.create_future()
        self.is_over = False
        """Whether ``closed`` is done."""
        self._options = options
        self._context = contextvars.copy_context()
        self._own_cancels = 0
        self._links: set[BrokerLink] = set()  # all that may receive; one, or while an old one drains two
        self._closer: asyncio.Task[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._expired: asyncio.Future[None] = self.loop.create_future()
        self._gave_up: asyncio.Future[None] = self.loop.create_future()
        self._linger_until = 0.0
        self.dispatcher = Dispatcher(
            invoke,
            concurrency=options.max_concurrency,
            context=self._context,
            flow=self._set_flow,
            abandoned=self._is_abandoned,
            notify_done=self._notify_done,
            lapsed=self._lapsed,
            timeout=options.handler_timeout,
        )
        self.outgoing = Outgoing(self.loop, current_runner, self.dispatcher.stale)
        self._heartbeats = Heartbeats(self.loop, self.dispatcher, self.outgoing)
        self.incoming = Incoming(
            self.loop, options, self.dispatcher, self.outgoing, self._heartbeats, self._usable, self._refused
        )
        self.incoming.delivered.add_done_callback(lambda _: self.supervisor.stop())
        self.supervisor = Supervisor(
            options,
            self._make_link,
            persistent=persistent,
            attach=self.outgoing.attach,
            may_be_old=self.incoming.may_be_old,
        )
        self._task = asyncio.Task(self.supervisor.run(), loop=self.loop, context=self._context, name="pystrands-link")
        self._task.add_done_callback(lambda _: self._supervisor_ended())

    # -- receiving

    def _make_link(self) -> BrokerLink:
        receive = self.incoming.receive_and_begin if EAGER else self.incoming.receive
        return BrokerLink(self.loop, receive, opened=self._opened)

    def _opened(self, link: BrokerLink) -> None:
        self._links.add(link)
        link.closed.add_done_callback(lambda _: self._lost(link))
        if self.stopping and not self.incoming.is_leaving:
            link.stop_receiving()

    def _usable(self, link: BrokerLink) -> None:
        self.supervisor.usable(link)

    def _refused(self, link: BrokerLink, reason: str, final: bool) -> None:
        self.supervisor.refused(link, reason, final)

    def _lost(self, link: BrokerLink) -> None:
        self._links.discard(link)
        self.incoming.link_lost(link)
        if self.dispatcher.is_held:
            self._lapsed_at_the_end()

    def _notify_done(self) -> None:
        self.incoming.notify_done()

    def _lapsed(self) -> None:
        if not self._lapsed_at_the_end():
            self._heartbeats.lapsed()

    def _lapsed_at_the_end(self) -> bool:
        """Give back what is held, if it is a broker's; the rest is the client's own and goes on."""
        if self._closer is None:
            return False
        self.incoming.give_back()
        self.dispatcher.renew(math.inf)
        return True

    def _set_flow(self, full: bool) -> None:
        if self.outgoing.session is not None:
            return  # credit bounds what comes, and acknowledgements must always get through (LINK rule 11)
        logger.debug("reading is %s: %s", "paused" if full else "resumed", "too many events wait" if full else "room")
        for link in self._links:
            if full:
                link.pause_reading()
            else:
                link.resume_reading()

    # -- state

    @property
    def stopping(self) -> bool:
        """Whether the end has begun."""
        return self._closer is not None or self.supervisor.ended

    @property
    def link(self) -> BrokerLink | None:
        """The link that commands go to."""
        return self.supervisor.link

    def _is_abandoned(self) -> bool:
        # asyncio.run cancels every task at its end, these too; a handler's own cancellation is only its own.
        if self._task.cancelling() > self._own_cancels or self.closed.done() or self.loop.is_closed():
            return True
        return self._closer is not None and self._closer.cancelling() > 0

    def _supervisor_ended(self) -> None:
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            logger.error("the connection's supervisor failed", exc_info=error)
        if self._is_abandoned():
            if lost := self.outgoing.undelivered:
                logger.warning(NOT_DELIVERED, lost, TOO_EARLY)
            self._drop()
            return
        if self._closer is None:
            self.begin_closing(DISCONNECT_TIMEOUT)
        self.outgoing.end()

    def _drop(self) -> None:
        for link in list(self._links):
            link.abort()
        self.supervisor.link = None
        for timer in self._timers:
            timer.cancel()
        self._heartbeats.close()
        self.incoming.close()
        self.outgoing.close()
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
            if self.outgoing.session is not None:
                self.supervisor.finish(self._is_owing)
                self.incoming.leave()
            else:
                self.supervisor.stop()
                for link in self._links:
                    link.stop_receiving()
            self._closer = asyncio.Task(self._close(), loop=self.loop, context=self._context, name="pystrands-closer")
            if self.dispatcher.is_held:
                self._lapsed_at_the_end()

    def _is_owing(self) -> bool:
        session = self.outgoing.session
        return session is not None and (session.is_owing or not self.dispatcher.idle)

    def _expire(self) -> None:
        if not self._expired.done():
            self._expired.set_result(None)
        self.supervisor.stop()
        count = self.dispatcher.stop()
        if count:
            logger.warning("disconnecting: %d events were not handled in time and are dropped", count)
        self._timers.append(self.loop.call_later(CANCEL_GRACE, self._give_up))
        if self.dispatcher.only_leavers:
            self._give_up()

    def _give_up(self) -> None:
        if not self._gave_up.done():
            self._gave_up.set_result(None)
            if not self.dispatcher.only_leavers:
                logger.warning("disconnecting: some handlers did not end; they are left to themselves")

    async def _close(self) -> None:
        try:
            if self.supervisor.is_stopping:
                self._end_attempts()
            await self._handlers_finished()
            if self.incoming.is_leaving:
                await self._in_time(self.incoming.left)
                await self._handlers_finished()  # those that the loss of a broker called, too
            await self._recipients_ready()
            await self.outgoing.emptied(LINGER)
            await self.outgoing.closing()
            self.outgoing.end()
            if self.incoming.is_leaving:
                await self._in_time(self.incoming.delivered)
            self.supervisor.stop()
            self._end_attempts()
            for link in list(self._links):
                if not await link.finish(self._linger()):
                    logger.debug("the broker did not close the link in time")
            await asyncio.wait([self._task])
            self.incoming.notify_died()
            await self._handlers_finished()
            if lost := self.outgoing.undelivered:
                await self._notify_lost(lost)
        finally:
            self._drop()

    def _end_attempts(self) -> None:
        if self.link is None and not self._own_cancels:
            self._own_cancels = 1
            self._task.cancel()

    async def _handlers_finished(self) -> None:
        finished = asyncio.ensure_future(self.dispatcher.finished())
        try:
            await asyncio.wait([finished, self._gave_up], return_when=asyncio.FIRST_COMPLETED)
        finally:
            finished.cancel()

    async def _recipients_ready(self) -> None:
        """Wait up to the timeout for what waits for recipients that are full."""
        ready = asyncio.ensure_future(self.outgoing.recipients_ready())
        try:
            await asyncio.wait([ready, self._expired], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()

    async def _in_time(self, what: "asyncio.Future[None]") -> None:
        """Wait for ``what`` while there may be a link, up to the timeout; then while there is one, and not for long."""
        await asyncio.wait([what, self._expired, self._task], return_when=asyncio.FIRST_COMPLETED)
        if not what.done() and (link := self.link) is not None:
            await asyncio.wait([what, link.closed], timeout=self._linger(), return_when=asyncio.FIRST_COMPLETED)

    def _linger(self) -> float:
        """Return the seconds that are left to wait for the broker; the time begins with the first call."""
        now = self.loop.time()
        self._linger_until = self._linger_until or now + LINGER
        return max(self._linger_until - now, 0)

    async def _notify_lost(self, count: int) -> None:
        logger.warning(NOT_DELIVERED, count, "")
        why = "the client was disconnected, and the link to the broker was not back in time"
        self.dispatcher.put(lost_messages(count, why), late=True)
        told = asyncio.ensure_future(self.dispatcher.finished())
        await asyncio.wait([told], timeout=CANCEL_GRACE)
        told.cancel()
