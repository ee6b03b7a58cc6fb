"""What every client does on its event loop: connect, keep connected, hand events to handlers, send, disconnect."""

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import Any, Final, cast

from pystrands.client.base import Options, Ownership, Peer, call_for, synthesised_disconnect
from pystrands.client.dispatch import Dispatcher
from pystrands.client.link import Link
from pystrands.client.supervisor import Supervisor
from pystrands.errors import MalformedLine
from pystrands.protocol.messages import EVENTS, ConnectionRequest, Heartbeat, Hello, HelloParams

__all__ = ["Core", "Invoke", "Outage"]

logger = logging.getLogger(__name__)

Invoke = Callable[[str, tuple[Any, ...]], Any]
"""Calls the handler of that name; gives its result, or an awaitable of it."""

DISCONNECT_TIMEOUT: Final = 5.0
CANCELLED_TIMEOUT: Final = 1.0
"""Seconds that handlers have when ``run_forever`` is cancelled."""
CANCEL_GRACE: Final = 1.0
"""Seconds for a cancelled handler to end, before it is left to itself."""
LINGER: Final = 1.0
"""Seconds for what was written to reach the broker."""


class Outage:
    """Logs messages that find no link: one warning for each outage, the rest at DEBUG."""

    __slots__ = ("_warned",)

    def __init__(self) -> None:
        self._warned = False

    def over(self) -> None:
        """Messages go out again."""
        self._warned = False

    def unsent(self) -> bool:
        """Log that a message was not sent; return False, as its ``send`` does."""
        level = logging.DEBUG if self._warned else logging.WARNING
        self._warned = True
        logger.log(level, "not connected to the broker: a message was not sent, and send returned False")
        return False


class Life:
    """A client from ``connect()`` to ``disconnect()``: its link, its handlers. The next ``connect()`` makes a new one.

    ``closed`` is done when everything of it has ended.
    """

    def __init__(self, options: Options, invoke: Invoke, *, persistent: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self.loop.create_future()
        self._options = options
        self._context = contextvars.copy_context()
        self._ownership = Ownership()
        self._own_cancels = 0
        self._links: set[Link] = set()  # all that may receive; one, or while an old one drains two
        self._closer: asyncio.Task[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._gave_up: asyncio.Future[None] = self.loop.create_future()
        self.dispatcher = Dispatcher(
            invoke,
            concurrency=options.max_concurrency,
            context=self._context,
            flow=self._set_flow,
            abandoned=self._is_abandoned,
        )
        self.supervisor = Supervisor(options, self._make_link, persistent=persistent)
        self._task = asyncio.Task(self.supervisor.run(), loop=self.loop, context=self._context, name="pystrands-link")
        self._task.add_done_callback(lambda _: self._supervisor_ended())

    # -- receiving

    def _make_link(self) -> Link:
        return Link(self.loop, self._receive, opened=self._opened)

    def _opened(self, link: Link) -> None:
        self._links.add(link)
        link.closed.add_done_callback(lambda _: self._links.discard(link))
        if self.stopping:
            link.deafen()

    def _receive(self, link: Link, lines: list[bytes]) -> None:
        if not link.heard:
            link.heard = True
            self.supervisor.first_line(link)
        decode, put, peer = EVENTS.decode, self.dispatcher.put, link.peer
        for line in lines:
            try:
                event = decode(line)
                kind = type(event)
                if event is None or kind is Heartbeat:
                    continue
                if kind is Hello:
                    self._hear_hello(link, cast("Hello", event).params)
                    continue
                call = call_for(event, peer)
            except MalformedLine as error:
                link.reject_line(error)
                continue
            if call is None:
                continue
            link.exchanged = True
            call.size = len(line)
            if kind is ConnectionRequest:
                call.link = link
            elif peer.said_hello:
                self._ownership.saw(event)
            put(call)
        if self.dispatcher.full:
            link.pause_reading()  # a link that is newer than the last change of flow, too

    def _hear_hello(self, link: Link, params: HelloParams) -> None:
        if link.exchanged:
            logger.debug("the broker's hello came too late and was ignored")
            return
        link.answer_hello(params, self._options.name)
        died = self._ownership.hello(params.broker_id)
        if died:
            logger.warning("the broker was replaced; %d clients of this backend are gone with it", len(died))
        for context in died:
            self.dispatcher.put(synthesised_disconnect(context))

    def _set_flow(self, full: bool) -> None:
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
    def link(self) -> Link | None:
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
            self._drop()
        elif self._closer is None:
            self.begin_closing(DISCONNECT_TIMEOUT)

    def _drop(self) -> None:
        for link in list(self._links):
            link.abort()
        self.supervisor.link = None
        for timer in self._timers:
            timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    # -- the end

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - a bound on others, not on this call
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
            self.supervisor.stop()
            for link in self._links:
                link.deafen()
            self._closer = asyncio.Task(self._close(), loop=self.loop, context=self._context, name="pystrands-closer")

    def _expire(self) -> None:
        count = self.dispatcher.stop()
        if count:
            logger.warning("disconnecting: %d events were not handled in time and are dropped", count)
        self._timers.append(self.loop.call_later(CANCEL_GRACE, self._give_up))
        if self.dispatcher.only_leavers:
            self._give_up()

    def _give_up(self) -> None:
        if not self._gave_up.done():
            self._gave_up.set_result(None)

    async def _close(self) -> None:
        try:
            if self.link is None:
                self._own_cancels = 1
                self._task.cancel()
            finished = asyncio.ensure_future(self.dispatcher.finished())
            try:
                await asyncio.wait([finished, self._gave_up], return_when=asyncio.FIRST_COMPLETED)
            finally:
                finished.cancel()
            if not self.dispatcher.only_leavers:
                logger.warning("disconnecting: some handlers did not end; they are left to themselves")
            for link in list(self._links):
                if not await link.finish(LINGER):
                    logger.debug("the broker did not close the link in time")
            await asyncio.wait([self._task])
        finally:
            self._drop()


class Core:
    """The methods of a client, on one event loop at a time; ``options()`` is asked at each connect."""

    def __init__(self, options: Callable[[], Options], invoke: Invoke, outage: Outage | None = None) -> None:
        self.outage = outage or Outage()
        self._options = options
        self._invoke = invoke
        self._life: Life | None = None

    @property
    def life(self) -> Life | None:
        """The life that goes on, on whatever loop; None after its end."""
        life = self._life
        if life is not None and (life.closed.done() or life.loop.is_closed()):
            return None
        return life

    @property
    def link(self) -> Link | None:
        """The link that commands go to now; None when not connected."""
        life = self.life
        if life is None:
            return None
        link = life.link
        return link if link is not None and link.is_open else None

    @property
    def peer(self) -> Peer | None:
        """What is known of the broker; None when not connected."""
        link = self.link
        return None if link is None else link.peer

    @property
    def connected(self) -> bool:
        """Whether a link is up and not about to be closed."""
        life = self.life
        return life is not None and not life.stopping and self.link is not None

    @property
    def stopping(self) -> bool:
        """Whether a life goes on that is about to end, so that :meth:`connect` would begin a new one."""
        life = self.life
        return life is not None and life.stopping

    def _begin(self, *, persistent: bool) -> Life:
        life = self.life
        if life is not None and life.loop is not asyncio.get_running_loop():
            raise RuntimeError("this client is connected on another event loop; disconnect() it there first")
        if life is None or life.stopping:
            life = self._life = Life(self._options(), self._invoke, persistent=persistent)
        elif persistent:
            life.supervisor.persistent = True
        return life

    async def connect(self) -> bool:
        """See :meth:`pystrands.AsyncPyStrandsClient.connect`."""
        life = self._begin(persistent=False)
        try:
            connected = await life.supervisor.attempt()
        except asyncio.CancelledError:
            if not life.supervisor.persistent:
                life.begin_closing(0)
            raise
        if not connected and life.stopping:
            await asyncio.wait([life.closed])
        return connected

    async def run_forever(self) -> None:
        """See :meth:`pystrands.AsyncPyStrandsClient.run_forever`."""
        life = self._begin(persistent=True)
        try:
            await asyncio.wait([life.closed])
        except asyncio.CancelledError:
            await life.close(CANCELLED_TIMEOUT)
            raise

    async def disconnect(self, timeout: float = DISCONNECT_TIMEOUT) -> None:  # noqa: ASYNC109 - the specified name
        """See :meth:`pystrands.AsyncPyStrandsClient.disconnect`."""
        life = self.life
        if life is not None:
            await life.close(timeout)

    async def send(self, line: bytes) -> bool:
        """Hand ``line`` to the link; return whether it was taken. Waits only under back-pressure."""
        link = self.link
        if link is not None:
            self.outage.over()
            return await link.send(line)
        return self.outage.unsent()
