"""Which connection of a client is home: what is sent outside of handlers goes there (CLUSTER rule 2)."""

import asyncio
import logging

from pystrands.client.connection.broker_connection import BrokerConnection
from pystrands.client.connection.choice import LinkChoice
from pystrands.client.connection.roster import Roster
from pystrands.client.connection.time_limits import TIME_LIMITS, TimeLimits

__all__ = ["Home"]

logger = logging.getLogger(__name__)


class Home:
    """One connection of the roster, preferably one with a link, at a broker that stays."""

    def __init__(self, connection: BrokerConnection, roster: Roster, limits: TimeLimits = TIME_LIMITS) -> None:
        self.connection = connection
        self.choice = LinkChoice(connection.outgoing)
        """Which connection a line goes to."""
        self._roster = roster
        self._limits = limits
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def is_awaited(self) -> bool:
        """Whether there is no home link, and another one could take its place."""
        return not self.connection.is_up and self._roster.is_up

    async def settled(self) -> None:
        """Wait until the home link is up, or another one is home, or what may be said of it has changed."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def notify(self) -> None:
        """Have those who wait look again."""
        waiters, self._waiters = self._waiters, []
        for each in waiters:
            if not each.done():
                each.set_result(None)

    def see(self) -> None:
        """Have the home link be one that is up, at a broker that stays; but give a link that is lost a moment."""
        home, connections = self.connection, self._roster.connections
        is_known = home in connections
        is_leaving = self._roster.is_leaving(home)
        if not (is_known and home.is_up and not is_leaving):
            others = [each for each in connections if each is not home and each.is_up]
            better = [each for each in others if not self._roster.is_leaving(each)]
            choices = better or others
            if not is_known:
                choices = choices or connections
            elif home.is_up:
                choices = better
            elif home.was_up and not is_leaving and home.lost_for < self._limits.home_link:
                choices = []
            if choices:
                self._move(choices[0])
        if not self.is_awaited:  # else those who wait may have what they wait for soon
            self.notify()

    def _move(self, connection: BrokerConnection) -> None:
        if self.connection.was_up:
            logger.info("what is sent outside of handlers goes to the broker at %s now", connection.addresses.current)
        self.connection = connection
        self.choice.home = connection.outgoing
