"""Heartbeats of protocol 2: they tell of a broker that is gone, and renew the lease under which handlers begin."""

import asyncio
import logging

from pystrands.client.connection.link import BrokerLink
from pystrands.client.connection.outgoing import Outgoing
from pystrands.client.connection.time_limits import TIME_LIMITS, TimeLimits
from pystrands.client.handlers.dispatch import Dispatcher
from pystrands.client.handlers.queue import CallQueue
from pystrands.protocol import wire
from pystrands.protocol.link import ask_interval, is_silent, lease_end
from pystrands.protocol.messages import Heartbeat, HelloParams

__all__ = ["LinkHeartbeats"]

logger = logging.getLogger(__name__)


class LinkHeartbeats:
    """Sends heartbeats on a welcome link, closes it if the broker is silent, and keeps the lease (LINK rules 8, 18)."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dispatcher: Dispatcher,
        calls: CallQueue,
        outgoing: Outgoing,
        limits: TimeLimits = TIME_LIMITS,
    ) -> None:
        self._stood_still = limits.stood_still
        self._clock = limits.clock
        self._loop = loop
        self._dispatcher = dispatcher
        self._calls = calls
        self._outgoing = outgoing
        self._interval = 15.0
        self._window = 0.0
        self._greeted = self._sent = 0.0
        """When the last hello, and the last heartbeat, was sent."""
        self._late = 0.0
        """How late the last heartbeat was: for so long nothing ran here."""
        self._told_late = False
        self._timer: asyncio.TimerHandle | None = None

    def greet(self, hello: HelloParams) -> None:
        """The broker said hello; ours goes out now, and asks for the lease as a heartbeat does."""
        self._interval = hello.heartbeat
        self._window = hello.resume_window
        self._greeted = self._clock()

    def begin(self, link: BrokerLink) -> None:
        """The broker has welcomed this backend: it had the session when it read our hello."""
        self.close()  # an older link's
        self._sent = self._clock()  # while there was no link none was due
        self._beat(link)
        self._dispatcher.renew(self._calls, lease_end(self._greeted, self._window))

    def _beat(self, link: BrokerLink) -> None:
        """Send a heartbeat, and look for the broker's."""
        if not link.is_open:
            return
        if is_silent(link.received_at, self._loop.time(), self._interval):
            logger.warning("the broker has been silent for %.0f s; the link is closed", 2.5 * self._interval)
            link.abort()
            return
        self._late = self._overdue()
        if self._late > self._stood_still and not self._told_late:
            self._told_late = True
            logger.warning(
                "nothing ran here for %.1f s, so that all clients of this backend waited: a handler has blocked the "
                "event loop (time.sleep, a request without await, a long computation), or the machine had no time for "
                "this process; await asyncio.to_thread(...) is for what blocks; this is said once",
                self._late,
            )
        self._sent = self._clock()
        link.write(wire.heartbeat_ask(self._sent) if self._window else wire.HEARTBEAT)
        self._timer = self._loop.call_later(ask_interval(self._interval, self._window), self._beat, link)

    def on_heartbeat(self, heartbeat: Heartbeat) -> None:
        """The broker had the session when it answered: nobody else has its events for the resume window from then."""
        asked = heartbeat.number("answer")
        if asked is not None and (until := lease_end(asked, self._window)) > self._calls.lease:
            self._dispatcher.renew(self._calls, until)

    def on_lapse(self) -> None:
        """Handlers wait: others may have got their events meanwhile. Ask the broker, where there is a link."""
        link = self._outgoing.link
        late = max(self._late, self._overdue())
        if link is None:
            why = "the link has been gone for too long"
        elif late > self._window / 2:
            why = f"this process stood still for {late:.1f} s: it was paused, or a handler blocked the event loop"
        else:
            why = "the broker has not answered for too long"
        logger.warning(
            "%s; %d events wait until the broker tells whether they are still this backend's",
            why,
            self._calls.waiting,
        )
        if link is not None:
            link.write(wire.heartbeat_ask(self._clock()))

    def _overdue(self) -> float:
        return self._clock() - self._sent - ask_interval(self._interval, self._window)

    def close(self) -> None:
        """Send no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
