"""Engines that join brokers of one process and one event loop, without NATS: for what brokers do with a cluster.

What is said arrives in the loop's next turn, in order. An engine can be cut off from all others, and be mute: then it
takes part, and answers nothing.
"""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from pystrands.broker.bounds import BOUNDS
from pystrands.engine.base import Engine
from pystrands.engine.cluster import Cluster, Peer
from pystrands.engine.publication import Audience
from tests.bounded import BoundedBroker

APART = "the double's brokers are apart"


class Together:
    """The brokers that there are; ``engine()`` makes one more's."""

    def __init__(self):
        self.engines = []
        self.commands = []
        """What was sent on to the broker of a client: the client's id, and the command."""
        self.surveys = []

    def engine(self):
        return TogetherEngine(self)

    def others(self, engine):
        """Who an engine reaches, mute ones as well."""
        return [each for each in self.engines if each is not engine and not each.is_cut and not engine.is_cut]

    def cut(self):
        """Have nobody reach anybody, as without NATS: all go on with what they knew."""
        for engine in self.engines:
            engine.is_cut = True

    def mend(self):
        for engine in self.engines:
            engine.is_cut = False
        self.changed()

    def changed(self):
        """Tell all who the others are; who is cut off goes on with what it knew."""
        for engine in self.engines:
            if not engine.is_cut:
                engine.peers = [each.peer for each in self.others(engine) if each.peer.address]
                engine.node.on_peers(engine.peers)


@asynccontextmanager
async def brokers(count, together=None, **options):
    """Run brokers that are one cluster; each has its ``engine``."""
    together = together or Together()
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(one_broker(together, **options)) for _ in range(count)]
        yield running


@asynccontextmanager
async def one_broker(together, local_host="", bounds=BOUNDS, **options):
    """Run one more."""
    engine = together.engine()
    engine.local_host = local_host
    async with BoundedBroker(bounds, engine=engine, **options) as running:
        running.__dict__["engine"] = engine
        yield running


class TogetherEngine(Engine):
    """What a broker is given as its engine."""

    def __init__(self, together):
        self.together = together
        self.is_cut = False
        self.is_mute = False
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.node = None
        self.peers = []
        self.peer = Peer("", "")
        self.local_host = ""
        self.claims = []
        """The ids that this broker's clients have, each as often as it was claimed."""
        self.waiting = {}
        """Claims that are not granted: the last of each id."""
        self.last: tuple[Any, ...] = ()
        """What became elsewhere of the publication that was published last."""
        self._cluster = TogetherCluster(self)

    @property
    def cluster(self):
        return self._cluster

    async def start(self, sink):
        self.loop = asyncio.get_running_loop()
        self.sink = sink
        await self.may_start.wait()
        self.together.engines.append(self)
        self.together.changed()

    async def stop(self):
        self.together.engines.remove(self)
        self.together.changed()

    def subscribe(self, room_id): ...

    def unsubscribe(self, room_id): ...

    def publish(self, publication):
        delivered = self.sink.deliver(publication)
        self.last = ()
        if publication.audience is not Audience.CLIENT or not delivered[0]:
            self.last = tuple([_Elsewhere(other, publication) for other in self.together.others(self)])
        return delivered

    def granted(self, client_id):
        """Let a claim have its way."""
        self.waiting.pop(client_id)()

    def cut(self):
        """Be reached by nobody, and reach nobody."""
        self.is_cut = True
        self.together.changed()

    def mend(self):
        self.is_cut = False
        self.together.changed()


class _Elsewhere:
    """A publication on its way to another broker."""

    def __init__(self, engine, publication):
        self.delivered = None
        self._engine = engine
        self._publication = publication
        if not engine.is_mute:
            engine.loop.call_soon(self._deliver)

    def _deliver(self):
        self.delivered = self._engine.sink.deliver(self._publication)


class TogetherCluster(Cluster):
    def __init__(self, engine):
        self._engine = engine
        self._together = engine.together

    @property
    def peers(self):
        return self._engine.peers

    @property
    def is_connected(self):
        return not self._engine.is_cut

    @property
    def held_bytes(self):
        return 4711

    @property
    def heartbeat_lag(self):
        return 0.25

    @property
    def local_host(self):
        return self._engine.local_host

    def join(self, node):
        assert self._engine.node is None
        self._engine.node = node

    def advertise(self, address):
        self._engine.peer = Peer(self._engine.node.broker_id, address)
        self._together.changed()

    def drain(self):
        self._engine.peer = Peer(self._engine.peer.broker_id, self._engine.peer.address, is_draining=True)
        self._together.changed()

    def claim(self, client_id, claimed):
        mine = self._engine
        mine.claims.append(client_id)
        holders = [each for each in self._together.others(mine) if client_id in each.claims]
        if not holders:
            claimed()
            return
        waiting = set(holders)
        mine.waiting[client_id] = claimed

        def released(holder):
            waiting.remove(holder)
            if not waiting:
                mine.loop.call_soon(mine.granted, client_id)

        for each in holders:
            if not each.is_mute:
                each.loop.call_soon(each.node.on_claim, client_id, lambda each=each: released(each))

    def release(self, client_id):
        self._engine.claims.remove(client_id)

    def command(self, client_id, command, timeout, replied):
        mine = self._engine
        self._together.commands.append((client_id, command))
        if mine.is_cut:
            replied(None, APART)
            return
        holder = next((each for each in self._together.others(mine) if client_id in each.claims), None)
        if holder is None:
            replied(None, "")
        elif holder.is_mute:
            mine.loop.call_later(timeout, replied, None, "the client's broker has not answered in time")
        else:
            mine.loop.call_soon(holder.node.on_command, client_id, command, lambda answer: replied(answer, ""))

    def survey(self, question, timeout, surveyed):
        mine = self._engine
        self._together.surveys.append(question)
        others = self._together.others(mine)
        answers = {}
        told = []

        def tell():
            if told:
                return
            told.append(True)
            silent = [each.peer.broker_id for each in others if each.peer.broker_id not in answers]
            surveyed(list(answers.items()), silent)

        def ask(other):
            def reply(answer):
                answers[other.peer.broker_id] = answer
                if len(answers) == len(others):
                    tell()

            other.node.on_question(question, reply)

        if not others:
            tell()
            return
        for other in others:
            if not other.is_mute:
                mine.loop.call_soon(ask, other)
        mine.loop.call_later(timeout, tell)

    def tell(self, room_id, told):
        mine = self._engine
        for other in mine.together.others(mine):
            mine.loop.call_soon(other.node.on_told, room_id, told)

    def confirm(self, timeout, confirmed):
        mine, elsewhere = self._engine, self._engine.last
        if mine.is_cut:
            confirmed((0, 0), False)
            return

        def total():
            told = [each.delivered for each in elsewhere if each.delivered is not None]
            confirmed((sum(each[0] for each in told), sum(each[1] for each in told)), len(told) == len(elsewhere))

        if not elsewhere:
            total()
        elif any(each._engine.is_mute for each in elsewhere):
            mine.loop.call_later(timeout, total)
        else:
            mine.loop.call_soon(total)
