"""NATS and brokers in one process, without sockets and without waiting: time passes when it is told to.

Each connection has its delays, and keeps the order of what it carries, as TCP does. It can be cut, and what was on its
way is lost. Two servers have routes between them, over which interest comes late, and which can lose messages.
"""

import heapq
import itertools
import random

from pystrands.engine.base import Sink
from pystrands.engine.cluster import Node
from pystrands.engine.nats.cluster import NatsCluster
from pystrands.engine.nats.core import TICK, Core
from pystrands.engine.nats.transport import Transport
from pystrands.engine.publication import Audience, Publication


class Clock:
    """What happens when."""

    def __init__(self):
        self.now = 1000.0
        self._queue = []
        self._order = itertools.count()

    def at(self, when, call, *args):
        heapq.heappush(self._queue, (max(when, self.now), next(self._order), call, args))

    def after(self, delay, call, *args):
        self.at(self.now + delay, call, *args)

    def run(self, seconds):
        """Let time pass."""
        until = self.now + seconds
        while self._queue and self._queue[0][0] <= until:
            self.now, _, call, args = heapq.heappop(self._queue)
            call(*args)
        self.now = until


class Stream:
    """Carries calls with a delay, in order."""

    def __init__(self, clock, delay):
        self._clock = clock
        self._delay = delay
        self._last = 0.0

    def send(self, call, *args):
        self._last = max(self._last, self._clock.now + self._delay())
        self._clock.at(self._last, call, *args)


class SimServer:
    """One server: who is connected, and who has subscribed to what since when."""

    def __init__(self, nats, name):
        self.nats = nats
        self.name = name
        self.subs = {}  # subject: {transport: sid}
        self.wild = {}  # prefix: {transport: sid}
        self.since = {}  # subject: since when somebody here has subscribed
        self.routes = {}
        self.is_up = True

    def subscribers(self, subject):
        prefix = subject.rpartition(b".")[0] + b"."
        return {**self.subs.get(subject, {}), **self.wild.get(prefix, {})}

    def subscribe(self, transport, generation, subject, sid):
        if transport.generation != generation:
            return
        if subject.endswith(b".*"):
            self.wild.setdefault(subject[:-1], {})[transport] = sid
        else:
            self.subs.setdefault(subject, {})[transport] = sid
            self.since.setdefault(subject, self.nats.clock.now)

    def unsubscribe(self, transport, generation, sid):
        if transport.generation == generation:
            for subject, found in list(self.subs.items()):
                if found.get(transport) == sid:
                    del found[transport]
                    if not found:
                        del self.subs[subject], self.since[subject]

    def forget(self, transport):
        for subjects in (self.subs, self.wild):
            for subject, found in list(subjects.items()):
                found.pop(transport, None)
                if not found:
                    del subjects[subject]
                    self.since.pop(subject, None)

    def knows(self, subject):
        """Whether other servers know by now that somebody here wants it."""
        if self.wild.get(subject.rpartition(b".")[0] + b"."):
            return True
        since = self.since.get(subject)
        return since is not None and since + self.nats.lag <= self.nats.clock.now

    def publish(self, transport, generation, subject, payload, reply):
        if transport.generation != generation:
            return
        is_taken = self.deliver(subject, payload, reply, transport)
        for server in self.nats.servers:
            if server is not self and server.is_up and server.knows(subject):
                is_taken = True
                if not self.nats.loses(self, server):
                    self.routes[server].send(server.deliver, subject, payload, reply, None)
        if reply and not is_taken:
            for other, sid in self.subscribers(reply).items():
                if other is transport:
                    other.receive(sid, reply, b"", 503, b"")

    def deliver(self, subject, payload, reply, publisher):
        is_taken = False
        for transport, sid in self.subscribers(subject).items():
            if transport is not publisher:
                is_taken = True
                transport.receive(sid, subject, reply, 0, payload)
        return is_taken


class SimNats:
    """The servers. ``lag``: seconds until another server knows of a subscription."""

    def __init__(self, clock, servers=1, lag=0.0, seed=0):
        self.clock = clock
        self.lag = lag
        self.random = random.Random(seed)
        self.servers = [SimServer(self, str(number)) for number in range(servers)]
        for server in self.servers:
            server.routes = {
                other: Stream(clock, self.delay(0.0002, 0.002)) for other in self.servers if other is not server
            }
        self.transports = []
        self.lossy_route = 0.0
        self.max_payload = 1 << 20

    def delay(self, low, high):
        return lambda: self.random.uniform(low, high)

    def loses(self, server, other):
        return self.random.random() < self.lossy_route

    def down(self):
        """All servers end: what was on its way is lost."""
        for server in self.servers:
            server.is_up = False
        for transport in self.transports:
            transport.cut()

    def up(self):
        for server in self.servers:
            server.is_up = True
        for transport in self.transports:
            transport.reconnect_later()


class SimTransport(Transport):
    """The connection of one broker, to one server."""

    def __init__(self, nats, owner, server=0):
        self.nats = nats
        self.owner = owner
        self.server = nats.servers[server]
        self.generation = 0
        self.connected = False
        self.is_held = False  # a proxy lets nothing through
        self.sids = itertools.count(1)
        self.sent = []
        self.subscribed = 0
        nats.transports.append(self)

    @property
    def is_up(self):
        return self.connected

    @property
    def max_payload(self):
        return self.nats.max_payload

    @property
    def local_host(self):
        return "127.0.0.1"

    @property
    def held_bytes(self):
        return 0

    async def start(self, timeout):
        self.connect()

    async def stop(self):
        self.cut()

    def connect(self):
        if self.connected or not self.server.is_up or self.is_held:
            return
        self.generation += 1
        self.connected = True
        clock, nats = self.nats.clock, self.nats
        self.out = Stream(clock, nats.delay(0.00005, 0.0005))
        self.incoming = Stream(clock, nats.delay(0.00005, 0.0005))
        self.owner.on_connected()

    def reconnect_later(self):
        self.nats.clock.after(self.nats.random.uniform(0.01, 0.3), self.connect)

    def cut(self):
        """Lose the connection, and all that is on its way."""
        if self.connected:
            self.connected = False
            self.generation += 1
            self.server.forget(self)
            self.owner.on_disconnected()

    def flap(self):
        self.cut()
        self.reconnect_later()

    def publish(self, subject, payload, reply=b""):
        if self.connected:
            assert len(payload) <= self.max_payload
            self.sent.append((subject, payload))
            self.out.send(self.server.publish, self, self.generation, subject, payload, reply)

    def subscribe(self, subject):
        sid = next(self.sids)
        if self.connected:
            self.subscribed += 1
            self.out.send(self.server.subscribe, self, self.generation, subject, sid)
        return sid

    def unsubscribe(self, sid):
        if self.connected:
            self.out.send(self.server.unsubscribe, self, self.generation, sid)

    def ping(self, answered):
        if self.connected:
            self.out.send(self._pong, self.generation, answered)

    def _pong(self, generation, answered):
        if generation == self.generation:
            self.incoming.send(self._answered, generation, answered)

    def _answered(self, generation, answered):
        if generation == self.generation:
            answered()

    def receive(self, sid, subject, reply, status, payload):
        if self.connected:
            self.incoming.send(self._received, self.generation, sid, subject, reply, status, payload)

    def _received(self, generation, *message):
        if generation == self.generation:
            self.owner.on_message(*message)


class _Answers(Node):
    """A broker as the others see it: an object beside it, since what is compiled can't be a second base."""

    def __init__(self, broker):
        self._broker = broker

    def on_question(self, question, reply):
        self._broker.on_question(question, reply)

    def on_command(self, client_id, command, reply):
        self._broker.on_command(client_id, command, reply)

    def on_claim(self, client_id, released):
        self._broker.on_claim(client_id, released)

    def on_peers(self, peers):
        self._broker.on_peers(peers)

    def on_gap(self, broker_id, lost):
        self._broker.on_gap(broker_id, lost)


class SimBroker(Sink):
    """A broker: what it delivers is written down, and it does what tests tell it to when it is asked."""

    def __init__(self, nats, name, server=0, *, ring_bytes=8 << 20, starts=True, wall_offset=0):
        self.nats, self.name = nats, name
        self.clock = nats.clock
        self._server = server
        self.counters = {}
        self.delivered = []
        self.rooms = set()
        self.clients = set()
        self.gaps = []
        self.peers = []
        self.peer_changes = 0
        self.questions = []
        self.commands = []
        self.claimed_away = []
        self.answer = lambda question: question + b" of " + name.encode()
        self.holds_answers = False
        self.is_ready = False
        self.is_alive = True
        self._soon = False
        self.core = Core(
            self._connect,
            cluster="test",
            broker_id=name,
            counters=self.counters,
            ring_bytes=ring_bytes,
            now=lambda: self.clock.now,
            wall=lambda: int((self.clock.now + wall_offset) * 1e9),
            soon=self.soon,
            on_ready=self.ready,
        )
        self.cluster = NatsCluster(self.core)
        self.cluster.join(_Answers(self))
        if starts:
            self.start()

    def _connect(self, owner):
        self.transport = SimTransport(self.nats, owner, self._server)
        return self.transport

    def start(self):
        self.core.start(self)
        self.transport.connect()
        self.clock.after(self.nats.random.uniform(0, TICK), self.tick)

    def ready(self):
        self.is_ready = True
        self.cluster.advertise(f"{self.name}:8081")

    def soon(self):
        if not self._soon:
            self._soon = True
            self.clock.after(0, self.work)

    def work(self):
        self._soon = False
        if self.is_alive:
            self.core.work()

    def tick(self):
        if self.is_alive:
            self.core.tick()
            self.clock.after(TICK, self.tick)

    def stop(self):
        self.core.stop()
        self.clock.after(0.01, self.kill)

    def kill(self):
        self.is_alive = False
        self.transport.cut()
        self.transport.is_held = True

    # --- what tests do ---

    def join(self, room_id):
        self.rooms.add(room_id)
        self.core.subscriptions.want(self.core.subjects.room(room_id), self.clock.now)

    def leave(self, room_id):
        self.rooms.discard(room_id)
        self.core.subscriptions.unwant(self.core.subjects.room(room_id), self.clock.now)

    def admit(self, client_id):
        """Claim an id; the client is in once that is done."""
        self.cluster.claim(client_id, lambda: self.clients.add(client_id))

    def publish(self, publication):
        delivered = self.deliver(publication)
        if publication.audience is not Audience.CLIENT or not delivered[0]:
            self.core.publisher.publish(publication, self.clock.now)
        return delivered

    def send(self, room_id, message, **options):
        return self.publish(Publication(Audience.ROOM, room_id, message, **options))

    def send_private(self, client_id, message, **options):
        return self.publish(Publication(Audience.CLIENT, client_id, message, **options))

    def broadcast(self, message, **options):
        return self.publish(Publication(Audience.EVERYONE, "", message, **options))

    def messages(self, audience=None, address=None):
        """Return what came, of all, or to one audience and address."""
        return [
            each.message
            for each in self.delivered
            if audience is None or (each.audience is audience and address in (None, each.address))
        ]

    # --- Sink, Node ---

    def deliver(self, publication):
        audience, address = publication.audience, publication.address
        is_here = (
            audience is Audience.EVERYONE
            or (audience is Audience.ROOM and address in self.rooms)
            or (audience is Audience.CLIENT and address in self.clients)
        )
        if not is_here:
            return 0, 0
        self.delivered.append(publication)
        return 1, 1

    def on_question(self, question, reply):
        self.questions.append((question, reply))
        if not self.holds_answers:
            reply(self.answer(question))

    def on_command(self, client_id, command, reply):
        self.commands.append((client_id, command))
        reply(self.answer(command))

    def on_claim(self, client_id, released):
        self.claimed_away.append(client_id)
        if client_id in self.clients:
            self.clients.discard(client_id)
            self.cluster.release(client_id)
        released()

    def on_peers(self, peers):
        self.peers = sorted(peer.broker_id for peer in peers)
        self.peer_changes += 1

    def on_gap(self, broker_id, lost):
        self.gaps.append((broker_id, lost))


def brokers(nats, *names, **options):
    """Start brokers, one after the other, each ready before the next one."""
    started = []
    for number, name in enumerate(names):
        broker = SimBroker(nats, name, number % len(nats.servers), **options)
        nats.clock.run(1.0)
        assert broker.is_ready
        started.append(broker)
    return started
