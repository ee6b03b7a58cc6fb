"""Everything that belongs to one broker, from the first attempt to connect to the last byte."""

import asyncio
import contextvars
import logging
import math
from abc import ABC, abstractmethod
from typing import NamedTuple

from pystrands.client.connection.addresses import Addresses, BrokerAddress, configured, told
from pystrands.client.connection.heartbeats import LinkHeartbeats
from pystrands.client.connection.incoming import Incoming
from pystrands.client.connection.link import BrokerLink
from pystrands.client.connection.outgoing import Outgoing
from pystrands.client.connection.supervisor import LinkSupervisor
from pystrands.client.connection.time_limits import TIME_LIMITS, TimeLimits
from pystrands.client.handlers.current import current_runner
from pystrands.client.handlers.dispatch import EAGER, Dispatcher
from pystrands.client.handlers.queue import CallQueue
from pystrands.client.options import Options
from pystrands.protocol.messages import HelloParams, PeerParams

__all__ = ["BrokerConnection", "OtherBroker", "Surroundings"]

logger = logging.getLogger(__name__)


class OtherBroker(NamedTuple):
    """A broker that another one tells of; ``address`` is None where that is not known."""

    broker_id: str
    address: BrokerAddress | None


class Surroundings(ABC):
    """Whoever has all connections of a process."""

    @abstractmethod
    def admits(self, connection: "BrokerConnection", link: BrokerLink, hello: HelloParams) -> bool:
        """Whether the broker that says hello is the one that this connection is for, or may be from now on."""

    @abstractmethod
    def changed(self, connection: "BrokerConnection") -> None:
        """Its link is up, or gone, or its broker has told of others."""

    @abstractmethod
    def ended(self, connection: "BrokerConnection") -> None:
        """No link comes any more, by itself or after :meth:`BrokerConnection.leave`."""


class BrokerConnection:
    """The links to one broker, one after the other, and what outlives them: session, queues, ownership, lease.

    Its events wait in ``calls``, a queue of its own at the ``dispatcher``, which it knows as all handlers' runner and
    nothing more. ``surroundings`` knows of other brokers. ``addresses``: where this one is; without them, where the
    options say.

    The end has steps, which whoever ends it awaits in this order, with handlers between them: :meth:`leave`,
    :meth:`left`, :meth:`sent`, :meth:`finish`, :meth:`drop`.
    """

    def __init__(
        self,
        options: Options,
        dispatcher: Dispatcher,
        context: contextvars.Context,
        *,
        persistent: bool,
        surroundings: Surroundings,
        addresses: Addresses | None = None,
        limits: TimeLimits = TIME_LIMITS,
    ) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._surroundings = surroundings
        self.addresses = addresses or Addresses(configured(options.host, options.port)[0])
        """Where the broker is."""
        self.seeds: list[BrokerAddress] = []
        """Those of them that were configured, and so are tried again when the broker is gone."""
        self.expected = ""
        """The id of the broker that others say is there; empty where nobody does."""
        self.reached: BrokerAddress | None = None
        """Where its last link led."""
        self.siblings: tuple[BrokerAddress, ...] = ()
        """The other addresses of the name that has led there."""
        self.lost_at: float | None = None
        """Since when there is no link, by the loop's clock; None while there is one, and before the first."""
        self.was_up = False
        """Whether there ever was a link."""
        self.is_draining = False
        """Whether the broker says that it is about to end."""
        self.peers: list[OtherBroker] | None = None
        """The other brokers, as this one tells; None without a link, and where it tells none."""
        self._dispatcher = dispatcher
        self._links: set[BrokerLink] = set()  # all that may receive; one, or while an old one drains two
        self._is_ending = False
        self._own_cancels = 0
        self._linger_until = 0.0
        stale: set[int] = set()
        self.outgoing = Outgoing(self._loop, current_runner, stale, limits.without_recipient)
        self.calls = CallQueue(
            dispatcher.slots,
            flow=self._set_flow,
            notify_done=self.outgoing.notify_done,
            on_lapse=self._on_lapse,
            stale=stale,
            clock=limits.clock,
        )
        dispatcher.add(self.calls)
        self._heartbeats = LinkHeartbeats(self._loop, dispatcher, self.calls, self.outgoing, limits)
        self.supervisor = LinkSupervisor(
            options,
            self.addresses,
            self._make_link,
            persistent=persistent,
            attach=self._attach,
            may_be_old=lambda: not self.expected and self.incoming.may_be_old(),  # of a cluster none is
            limits=limits,
        )
        self.incoming = Incoming(
            self._loop,
            options,
            dispatcher,
            self.calls,
            self.outgoing,
            self._heartbeats,
            self.supervisor.usable,
            self.supervisor.refused,
            lambda link, hello: surroundings.admits(self, link, hello),
            self._told,
        )
        self.incoming.delivered.add_done_callback(lambda _: self.supervisor.stop())
        self.task = asyncio.Task(self.supervisor.run(), loop=self._loop, context=context, name="pystrands-link")
        """Keeps the link up."""
        self.task.add_done_callback(lambda _: self._supervisor_ended())

    # -- receiving

    def _make_link(self) -> BrokerLink:
        receive = self.incoming.receive_and_begin if EAGER else self.incoming.receive
        return BrokerLink(self._loop, receive, opened=self._opened)

    def _opened(self, link: BrokerLink) -> None:
        self._links.add(link)
        link.closed.add_done_callback(lambda _: self._lost(link))
        if self.is_ending and not self.incoming.is_leaving:
            link.stop_receiving()

    def _attach(self, link: BrokerLink) -> None:
        self.outgoing.attach(link)
        self.reached, self.siblings = link.dialed, link.siblings
        self.was_up = True
        self.lost_at = None
        if link.dialed is not None:
            self.addresses.prefer(link.dialed)
        self._surroundings.changed(self)

    def _told(self, link: BrokerLink, address: str, is_draining: bool, peers: list[PeerParams] | None) -> None:
        """Take what the broker tells of itself, and of the others."""
        here = link.dialed or self.addresses.current
        if (own := told(address, here)) is not None:
            self.addresses.add(own)
        self.is_draining = is_draining
        if peers is not None:
            self.peers = [OtherBroker(each.broker_id, told(each.address, here)) for each in peers]
        if self.outgoing.link is link:  # else it is a hello, and counts when the link is welcome
            self._surroundings.changed(self)

    def _lost(self, link: BrokerLink) -> None:
        was_up = self.outgoing.link is link
        self._links.discard(link)
        self.incoming.link_lost(link)
        if not self._links:
            self.peers = None
        if was_up:
            self.lost_at = self._loop.time()
            self._surroundings.changed(self)
        if self.calls.is_held and self._is_ending:
            self._give_back_held()

    def _on_lapse(self) -> None:
        if self._is_ending:
            self._give_back_held()
        else:
            self._heartbeats.on_lapse()

    def _give_back_held(self) -> None:
        """At the end nobody waits for a lease: what is held goes back to the broker; the client's own goes on."""
        self.incoming.give_back()
        self._dispatcher.renew(self.calls, math.inf)

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
    def link(self) -> BrokerLink | None:
        """The link that commands go to."""
        return self.supervisor.link

    @property
    def broker_id(self) -> str:
        """Which broker process it is; empty before its hello, and where it says none."""
        return self.incoming.broker_id

    @property
    def is_up(self) -> bool:
        """Whether there is a link."""
        link = self.link
        return link is not None and link.is_open

    @property
    def lost_for(self) -> float:
        """For how many seconds there has been no link; 0 while there is one, and before the first."""
        return 0.0 if self.lost_at is None else self._loop.time() - self.lost_at

    def is_heard_since(self, time: float | None) -> bool:
        """Whether something has come over the link after that time, by the loop's clock; None is no time."""
        link = self.link
        return time is not None and link is not None and link.is_open and link.received_at > time

    @property
    def is_ending(self) -> bool:
        """Whether the end has begun."""
        return self._is_ending or self.supervisor.ended

    @property
    def was_cancelled(self) -> bool:
        """Whether somebody else has cancelled its task, as asyncio.run() does at its end."""
        return self.task.cancelling() > self._own_cancels

    def _supervisor_ended(self) -> None:
        if not self.task.cancelled() and (error := self.task.exception()) is not None:
            logger.error("the connection's supervisor failed", exc_info=error)
        self._surroundings.ended(self)

    # -- the end

    def leave(self) -> None:
        """Begin the end: want no more events; what came is still handled, and may still send."""
        if self.outgoing.session is not None:
            self.supervisor.finish(self._is_owing)
            self.incoming.leave()
        else:
            self.supervisor.stop()
            for link in self._links:
                link.stop_receiving()
        self._is_ending = True
        if self.calls.is_held:
            self._give_back_held()

    def _is_owing(self) -> bool:
        session = self.outgoing.session
        return session is not None and (session.is_owing or not self._dispatcher.idle)

    def end_attempts(self) -> None:
        """Where there is no link: try no longer to get one."""
        if self.link is None and not self._own_cancels:
            self._own_cancels = 1
            self.task.cancel()

    @property
    def is_leaving(self) -> bool:
        """Whether the broker is asked to send no more, which protocol 1 can't."""
        return self.incoming.is_leaving

    async def left(self, expired: "asyncio.Future[None]") -> None:
        """Wait until the broker has said that no more events come."""
        await self._in_time(self.incoming.left, expired)

    async def sent(self, expired: "asyncio.Future[None]") -> None:
        """Take no more messages, and wait until the broker has all that were taken."""
        ready = asyncio.ensure_future(self.outgoing.recipients_ready())
        try:
            await asyncio.wait([ready, expired], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        await self.outgoing.emptied(self._limits.linger)
        await self.outgoing.closing()
        self.outgoing.end()
        if self.incoming.is_leaving:
            await self._in_time(self.incoming.delivered, expired)

    async def finish(self) -> None:
        """Close the link, so that all that was written arrives, and make no other."""
        self.supervisor.stop()
        self.end_attempts()
        for link in list(self._links):
            if not await link.finish(self._linger()):
                logger.debug("the broker did not close the link in time")
        await asyncio.wait([self.task])
        self.incoming.notify_died()

    def abandon(self, *, is_gone: bool) -> None:
        """Get no link any more: the broker is gone for good, or does not want one. Handlers are told of its clients."""
        self.supervisor.stop()
        if not self.task.done():
            self._own_cancels += 1
            self.task.cancel()
        if is_gone:
            self.incoming.broker_gone()
        else:
            self.incoming.give_up()

    def take_unwritten(self) -> tuple[list[bytes], int]:
        """See :meth:`BackendSession.take_unwritten`; without a session nothing waits."""
        session = self.outgoing.session
        return ([], 0) if session is None else session.take_unwritten()

    def drop(self) -> None:
        """Let go of everything, at once."""
        for link in list(self._links):
            link.abort()
        self.supervisor.link = None
        self._heartbeats.close()
        self.incoming.close()
        self.outgoing.close()

    async def _in_time(self, what: "asyncio.Future[None]", expired: "asyncio.Future[None]") -> None:
        """Wait for ``what`` while there may be a link, up to the timeout; then while there is one, and not for long."""
        await asyncio.wait([what, expired, self.task], return_when=asyncio.FIRST_COMPLETED)
        if not what.done() and (link := self.link) is not None:
            await asyncio.wait([what, link.closed], timeout=self._linger(), return_when=asyncio.FIRST_COMPLETED)

    def _linger(self) -> float:
        """Return the seconds that are left to wait for the broker; the time begins with the first call."""
        now = self._loop.time()
        self._linger_until = self._linger_until or now + self._limits.linger
        return max(self._linger_until - now, 0)
