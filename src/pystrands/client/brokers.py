"""All the brokers of a client: a connection to each, one of which is home (CLUSTER rules 1, 2, 15 to 17)."""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from pystrands.client.connection.addresses import Addresses, BrokerAddress, configured
from pystrands.client.connection.broker_connection import BrokerConnection, Surroundings
from pystrands.client.connection.choice import LinkChoice
from pystrands.client.connection.link import BrokerLink
from pystrands.client.connection.link_info import LinkInfo
from pystrands.client.connection.outgoing import Outgoing
from pystrands.client.connection.roster import Roster
from pystrands.client.connection.time_limits import TIME_LIMITS, TimeLimits
from pystrands.client.handlers.calls import lost_messages
from pystrands.client.handlers.current import served_queue
from pystrands.client.handlers.dispatch import Dispatcher
from pystrands.client.home import Home
from pystrands.client.options import Options
from pystrands.protocol.messages import HelloParams

__all__ = ["Brokers"]

logger = logging.getLogger(__name__)

_LOOK_AGAIN: Final = 0.1
_LOOK_AT_LAST: Final = 2.0
"""Seconds until the next look at who is gone, soon after the loss of a link, and later."""
_LOST: Final = "they were for a broker that is gone, or too long for another one"


class Brokers(Surroundings):
    """Has a connection to each broker that is configured, found behind a name, or told by another broker.

    A broker is known by its id: where two addresses lead to the same one, the second link is closed. ``use(outgoing)``
    is told where lines go, at first and whenever that changes. ``ended()`` is called when no connection is left that
    could get a link.
    """

    def __init__(
        self,
        options: Options,
        dispatcher: Dispatcher,
        context: contextvars.Context,
        *,
        persistent: bool,
        use: Callable[[Outgoing | LinkChoice], None],
        ended: Callable[[], None],
        limits: TimeLimits = TIME_LIMITS,
    ) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._options = options
        self._dispatcher = dispatcher
        self._context = context
        self._persistent = persistent
        self._use = use
        self._ended = ended
        self._is_closing = False
        self._refused: dict[str, asyncio.TimerHandle] = {}
        """Brokers that don't let this backend in, which would be the same the next time; each with what ends that."""
        self._retiring: dict[BrokerConnection, asyncio.Task[None]] = {}
        """Connections that no link comes to any more, while handlers hear of the end of their clients."""
        self._timer: asyncio.TimerHandle | None = None
        self.refusal = ""
        """Why no broker lets this backend in; empty where one does."""
        seeds = configured(options.host, options.port)
        self._is_single = len(seeds) == 1
        """Whether one address was configured: then its connection may end by itself, and with it everything."""
        first = self._make(seeds[0], persistent=persistent or not self._is_single)
        self.roster = Roster()
        """All connections: one for each broker, and for each address of which it is not known yet where it leads."""
        self.home = Home(first, self.roster, limits)
        """What is sent outside of handlers goes there."""
        self.choice = self.home.choice
        """Which connection a line goes to."""
        self._know(first, is_seed=True)
        for seed in seeds[1:]:
            self._know(self._make(seed, persistent=True), is_seed=True)

    def _make(self, address: BrokerAddress, *, persistent: bool) -> BrokerConnection:
        return BrokerConnection(
            self._options,
            self._dispatcher,
            self._context,
            persistent=persistent,
            surroundings=self,
            addresses=Addresses(address),
            limits=self._limits,
        )

    def _know(self, connection: BrokerConnection, *, is_seed: bool = False) -> None:
        if is_seed:
            connection.seeds.append(connection.addresses.current)
        self.roster.connections.append(connection)
        self.choice.add(connection.calls, connection.outgoing)
        self._choose()

    def _choose(self) -> None:
        self._use(self.roster.connections[0].outgoing if len(self.roster.connections) == 1 else self.choice)

    # -- state

    @property
    def is_up(self) -> bool:
        """Whether there is a link."""
        return self.roster.is_up

    @property
    def is_ending(self) -> bool:
        """Whether the end has begun."""
        return self._is_closing or all(each.is_ending for each in self.roster.connections)

    @property
    def is_persistent(self) -> bool:
        """Whether first attempts that fail are followed by others."""
        if self._is_single and len(self.roster.connections) == 1:
            return self._persistent or self.roster.connections[0].supervisor.persistent
        return self._persistent or any(each.was_up for each in self.roster.connections)

    @property
    def was_cancelled(self) -> bool:
        """Whether somebody else has cancelled one of the tasks, as asyncio.run() does at its end."""
        return any(each.was_cancelled for each in self.roster.connections)

    @property
    def links(self) -> tuple[LinkInfo, ...]:
        """Return what there is to tell of each."""
        return tuple(
            LinkInfo(
                address=str(each.addresses.current),
                broker_id=each.broker_id or each.expected,
                connected=each.is_up,
                is_home=each is self.home.connection,
                is_draining=each.is_draining,
            )
            for each in list(self.roster.connections)
        )

    @property
    def undelivered(self) -> int:
        """How many messages were taken and may not be delivered."""
        return sum(each.outgoing.undelivered for each in self.roster.connections)

    def chosen(self) -> BrokerConnection:
        """Return the connection for what the code that calls this sends or asks."""
        queue = served_queue()
        if queue is not None:
            for each in self.roster.connections:
                if each.calls is queue:
                    return each
        return self.home.connection

    async def at_home(self, connection: BrokerConnection) -> BrokerConnection:
        """Wait for the home link, where that is meant and another one could take its place; return what is home then.

        Whoever asks a question waits for it, so that it is not answered with an error while there is a link.
        """
        while connection is self.home.connection and self.home.is_awaited and not self.is_ending:
            await self.home.settled()
            connection = self.home.connection
        return connection

    async def attempt(self) -> bool:
        """Return True when a link is up, else try now to get one, and return whether that succeeded."""
        if len(self.roster.connections) == 1:
            return await self.roster.connections[0].supervisor.attempt()
        if self.is_up:
            return True
        waiting = {asyncio.ensure_future(each.supervisor.attempt()) for each in self.roster.connections}
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if any(each.result() for each in done):
                    return True
        finally:
            for each in waiting:
                each.cancel()
        if not self.is_persistent:
            self._give_up()
        return False

    def _give_up(self) -> None:
        self._is_closing = True
        for each in self.roster.connections:
            each.supervisor.stop()
            each.end_attempts()

    def persist(self) -> None:
        """Go on where first attempts fail."""
        self._persistent = True
        for each in self.roster.connections:
            each.supervisor.persistent = True

    # -- what connections tell: see Surroundings

    def admits(self, connection: BrokerConnection, link: BrokerLink, hello: HelloParams) -> bool:
        """Whether this broker is the connection's: not that of another one, and not one beside its own, which lives."""
        broker_id, known = hello.broker_id, connection.broker_id
        if not broker_id or broker_id == known or self._is_closing:
            return True
        other = self.roster.of(broker_id, but=connection)
        if other is not None and not other.broker_id and not known:  # it was only told of, and is still on its way
            self._merge(other, connection)
            other = None
        if not known:
            if other is None:
                connection.expected = ""
                return True
            link.problem = "has another link to this client"
            if link.dialed is not None and not other.is_up:
                other.addresses.prefer(link.dialed)
                other.supervisor.hurry()
            self._merge(connection, other)
            return False
        if any(each.broker_id == known for each in hello.peers or ()) or self.roster.is_told(known):
            link.problem = "is another one than before, which lives on"
            if other is None and link.dialed is not None:
                self._add(link.dialed, broker_id)
            return False
        if other is None:  # it has taken the place of the one before (LINK rule 22)
            connection.expected = ""
            return True
        link.problem = "has another link to this client"
        if hello.peers is not None or link.dialed == connection.reached:
            self._retire(connection, is_gone=True)
        return False

    def _merge(self, connection: BrokerConnection, other: BrokerConnection) -> None:
        """A connection that never had a link leads to the broker of another one, which gets its addresses."""
        for address in connection.addresses:
            other.addresses.add(address)
        other.seeds += [each for each in connection.seeds if each not in other.seeds]
        connection.seeds.clear()
        self._retire(connection, is_gone=False)

    def changed(self, connection: BrokerConnection) -> None:
        """See what the link that is up, or gone, or what its broker tells, means for all."""
        if self._is_closing:
            return
        siblings, connection.siblings = connection.siblings, ()
        for address in siblings if connection.broker_id else ():
            if not self.roster.has(address):
                self._know(self._make(address, persistent=False))
        for peer in connection.peers or ():
            self._see_peer(peer.broker_id, peer.address)
        self._look()

    def _see_peer(self, broker_id: str, address: BrokerAddress | None) -> None:
        """Link to a broker that another one tells of."""
        if address is None or broker_id in self._refused:
            return
        connection = self.roster.of(broker_id)
        if connection is not None:
            connection.addresses.add(address)
            return
        for each in self.roster.connections:
            if not each.is_up and each.addresses.has(address):  # it will find out which broker is there now
                each.addresses.prefer(address)
                each.supervisor.hurry()
                return
        self._add(address, broker_id)

    def _add(self, address: BrokerAddress, broker_id: str) -> None:
        connection = self._make(address, persistent=True)
        connection.expected = broker_id
        self._know(connection)

    def ended(self, connection: BrokerConnection) -> None:
        """Go on with the others, or end with the last one."""
        if connection not in self.roster.connections:
            return
        is_last = all(each.supervisor.ended for each in self.roster.connections)
        if is_last or self._is_closing or self.was_cancelled:
            if is_last:
                self.refusal = connection.supervisor.refusal
            if is_last or self.was_cancelled:
                self._ended()
            connection.outgoing.end()
            return
        seeds, connection.seeds = connection.seeds, []
        if connection.supervisor.refusal:
            broker_id = connection.broker_id or connection.expected
            self._refused[broker_id] = self._loop.call_later(self._limits.refused, self._try_again, broker_id, seeds)
        self._retire(connection, is_gone=False)

    def _try_again(self, broker_id: str, seeds: list[BrokerAddress]) -> None:
        """A broker that has refused this backend may have other tokens now."""
        del self._refused[broker_id]
        self._know_seeds(seeds)
        for each in self.roster.connections:
            for peer in each.peers or ():
                self._see_peer(peer.broker_id, peer.address)

    def _know_seeds(self, seeds: list[BrokerAddress]) -> None:
        for seed in seeds:
            if not self.roster.has(seed):
                self._know(self._make(seed, persistent=True), is_seed=True)

    # -- who is gone

    def _look(self) -> None:
        """See who is gone, and where home is; and look again soon while a broker that there was has no link."""
        if self._is_closing:
            return
        self._see_gone()
        self.home.see()
        lost = [each.lost_for for each in self.roster.connections if each.was_up and not each.is_up]
        if lost and len(self.roster.connections) > 1 and self._timer is None:
            delay = min(max(min(lost) / 10, _LOOK_AGAIN), _LOOK_AT_LAST)
            self._timer = self._loop.call_later(delay, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._look()

    def _see_gone(self) -> None:
        """End the connections of brokers that others know no more, and that can't be reached (CLUSTER rule 17).

        The loss of a link is no evidence, and what others tell counts when they were heard of after it: this process
        may have been paused, or be the one that is cut off.
        """
        for each in list(self.roster.connections):
            broker_id = each.broker_id or each.expected
            told = self.roster.others_told(each)
            if each.is_up or not broker_id or not told or self.roster.is_told(broker_id):
                continue
            if not each.was_up:
                if not each.seeds:  # it was only told of
                    self._retire(each, is_gone=False)
                continue
            is_missed = each.lost_for >= self._limits.gone and each.supervisor.is_unreachable
            if is_missed and any(other.is_heard_since(each.lost_at) for other in told):
                self._retire(each, is_gone=True)

    def _retire(self, connection: BrokerConnection, *, is_gone: bool) -> None:
        """End one connection, while others go on."""
        self.roster.connections.remove(connection)
        self.choice.remove(connection.calls)
        self._know_seeds(connection.seeds)
        self._choose()
        self.home.see()
        connection.abandon(is_gone=is_gone)
        self._move_lines(connection)
        task = asyncio.Task(self._end(connection), loop=self._loop, context=self._context, name="pystrands-retiring")
        self._retiring[connection] = task
        task.add_done_callback(lambda _: self._retiring.pop(connection, None))

    def _move_lines(self, connection: BrokerConnection) -> None:
        lines, lost = connection.take_unwritten()
        lost += self.home.connection.outgoing.take_over(lines)
        if lost:
            self._dispatcher.put(connection.calls, lost_messages(lost, _LOST))

    async def _end(self, connection: BrokerConnection) -> None:
        try:
            await connection.outgoing.closing()
            self._move_lines(connection)  # what came from threads
            connection.outgoing.end()
            connection.outgoing.close()
            await self._dispatcher.finished(connection.calls)
            await connection.finish()
        finally:
            connection.drop()
            self._dispatcher.remove(connection.calls)

    # -- the end

    def leave(self) -> None:
        """Begin the end of all connections."""
        self._is_closing = True
        self._cancel_timers()
        self.home.notify()
        for each in self.roster.connections:
            each.leave()

    def end_attempts(self) -> None:
        """Where nothing is to be waited for: try no longer to get a link."""
        for each in self.roster.connections:
            if each.supervisor.is_stopping:
                each.end_attempts()

    def stop(self) -> None:
        """Make no more links."""
        for each in self.roster.connections:
            each.supervisor.stop()

    async def retired(self) -> None:
        """Wait until handlers have heard of all that is gone."""
        while self._retiring:
            await asyncio.wait(list(self._retiring.values()))
            await asyncio.sleep(0)  # those that are done are struck off in this turn

    async def left(self, expired: "asyncio.Future[None]") -> bool:
        """Wait until all brokers have said that no more events come; return whether that could be waited for."""
        leaving = [each for each in self.roster.connections if each.is_leaving]
        await _all([each.left(expired) for each in leaving])
        return bool(leaving)

    async def sent(self, expired: "asyncio.Future[None]") -> None:
        """Take no more messages, and wait until the brokers have all that were taken."""
        await _all([each.sent(expired) for each in self.roster.connections])

    async def finish(self) -> None:
        """Close all links, so that all that was written arrives."""
        await _all([each.finish() for each in self.roster.connections])

    def drop(self) -> None:
        """Let go of everything, at once."""
        self._is_closing = True
        self._cancel_timers()
        self.home.notify()
        for task in list(self._retiring.values()):
            task.cancel()
        for each in (*self.roster.connections, *self._retiring):
            each.drop()

    def _cancel_timers(self) -> None:
        for timer in self._refused.values():
            timer.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _all(steps: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Take one step of the end at all connections, side by side."""
    several = list(steps)
    if len(several) == 1:
        await several[0]
    else:
        await asyncio.gather(*several)
