"""The engine of several brokers, on NATS: drives a Core by an event loop."""

import asyncio
import logging
import time
from typing import Any, Final

from pystrands.engine.base import Engine, Sink
from pystrands.engine.cluster import Cluster
from pystrands.engine.nats.cluster import NatsCluster
from pystrands.engine.nats.connection import NatsConnection
from pystrands.engine.nats.core import TICK, Core
from pystrands.engine.nats.options import NatsOptions
from pystrands.engine.nats.transport import Transport, TransportOwner
from pystrands.engine.publication import Audience, Delivered, Publication
from pystrands.errors import ConfigError

__all__ = ["RING_BYTES", "NatsEngine"]

logger = logging.getLogger(__name__)

RING_BYTES: Final = 8 * 1024 * 1024
_CLIENT: Final = Audience.CLIENT


class NatsEngine(Engine):
    """Delivers what is published here at once, and has other brokers deliver it to theirs.

    Made on the event loop that it runs on. ``options``: where NATS is. ``cluster``: the name that the brokers have in
    common. ``broker_id``: this process's own. ``counters``: what is counted, by name. ``ring_bytes``: how many bytes of
    the newest messages are kept for brokers that have missed some.
    """

    def __init__(
        self,
        options: NatsOptions,
        *,
        cluster: str,
        broker_id: str,
        counters: dict[str, int],
        ring_bytes: int = RING_BYTES,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._is_soon = False
        self._sink: Sink | None = None
        self._options = options
        self._core = core = Core(
            self._connect,
            cluster=cluster,
            broker_id=broker_id,
            counters=counters,
            ring_bytes=ring_bytes,
            now=time.monotonic,
            wall=time.time_ns,
            soon=self._soon,
            on_ready=self._ready.set,
        )
        self._cluster = NatsCluster(core)
        self._subjects = core.subjects
        self._subscriptions = core.subscriptions
        self._publisher = core.publisher

    def _connect(self, owner: TransportOwner) -> Transport:
        self._connection = NatsConnection(self._options, self._loop, owner)
        return self._connection

    @property
    def cluster(self) -> Cluster:
        """The other brokers."""
        return self._cluster

    async def start(self, sink: Sink) -> None:
        """Connect, and return when all brokers that are there have answered; tries without end while NATS is away.

        Raises ConfigError where NATS does not take our credentials, or does not allow what we have to do.
        """
        self._sink = sink
        self._core.start(sink)
        self._tick()
        try:
            await self._connection.start(0)
            await self._answered()
        except BaseException:
            await self.stop()
            raise

    async def _answered(self) -> None:
        """Wait until all have answered. Who is not allowed to ask would believe that nobody is there: ConfigError."""
        ready = self._loop.create_task(self._ready.wait())
        either: list[asyncio.Future[Any]] = [ready, self._connection.denied]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if not self._ready.is_set():
            raise ConfigError("nats_url", self._connection.denied.result())

    async def stop(self) -> None:
        """Say goodbye to the other brokers, and close the connection to NATS."""
        runs, self._sink = self._sink is not None, None
        if runs and not (self._core.membership.is_alone or self._core.transport.is_up):
            logger.warning(
                "this broker ends while NATS is away: what it sent since that began did not reach clients of others"
            )
        self._core.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._core.transport.stop()

    def subscribe(self, room_id: str) -> None:
        """Have messages to the room come."""
        self._subscriptions.want(self._subjects.room(room_id), time.monotonic())

    def unsubscribe(self, room_id: str) -> None:
        """Have them come for some seconds more: rooms come back."""
        self._subscriptions.unwant(self._subjects.room(room_id), time.monotonic())

    def subscribe_user(self, user: str) -> None:
        """Have messages to all clients of the user come."""
        self._subscriptions.want(self._subjects.user(user), time.monotonic())

    def unsubscribe_user(self, user: str) -> None:
        """Have them come for some seconds more."""
        self._subscriptions.unwant(self._subjects.user(user), time.monotonic())

    def publish(self, publication: Publication) -> Delivered:
        """Deliver here, and send it to the others; a message for a client that is here stays here."""
        sink = self._sink
        if sink is None:
            return 0, 0
        delivered = sink.deliver(publication)
        if publication.audience is not _CLIENT or not delivered[0]:
            self._publisher.publish(publication, time.monotonic())
        return delivered

    def _soon(self) -> None:
        if not self._is_soon:
            self._is_soon = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._is_soon = False
        self._core.work()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK, self._tick)
        self._core.tick()
