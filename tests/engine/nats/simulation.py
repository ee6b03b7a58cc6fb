"""NATS and brokers in one process, without sockets and without waiting: time passes when it is told to.

Each connection has its delays, and keeps the order of what it carries, as TCP does. It can be cut, and what was on its
way is lost. Two servers have a route between them, which can be cut as well, lose messages or double them, and over
which interest may come late. A server that is paused is left by its clients, and goes on later with what they had sent.
"""

import heapq
import itertools
import random
from zlib import crc32

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


class SimConnection:
    """One connection of a broker, as its server sees it: what was sent on it may come when the broker has left."""

    def __init__(self, transport, server):
        self.transport = transport
        self.server = server
        self.is_lost = False
        nats = server.nats
        self.out = Stream(nats.clock, nats.delay(0.00005, 0.0005))
        self.incoming = Stream(nats.clock, nats.delay(0.00005, 0.0005))

    def send(self, call, *args):
        """Have the server do something."""
        self.out.send(self.server.take, self, call, *args)

    def receive(self, *message):
        if not self.is_lost:
            self.incoming.send(self.transport.received, self, *message)

    def lose(self):
        """Break: what is on its way is lost, and the server knows."""
        self.is_lost = True
        self.server.forget(self)


class SimServer:
    """One server: who is connected, and who has subscribed to what. What it has to do waits while it is paused.

    What others want is told over the route, in the order of the messages there; or, where there is a ``lag``, later.
    """

    def __init__(self, nats, name):
        self.nats = nats
        self.name = name
        self.subs = {}  # subject: {connection: sid}
        self.wild = {}  # prefix: {connection: sid}
        self.routes = {}  # other server: streams to it
        self.remote = {}  # other server: what it is known to want
        self.is_up = True
        self.is_paused = False
        self.backlog = {}  # connection, or server: what it wants done

    # --- one after the other ---

    def take(self, source, call, *args):
        """Do what is asked for over a connection or a route, or keep it while paused."""
        if not self.is_up or (isinstance(source, SimConnection) and source.is_lost):
            return
        if self.is_paused:
            self.backlog.setdefault(source, []).append((call, args))
        else:
            call(*args)

    def pause(self):
        self.is_paused = True
        for transport in self.nats.transports:
            if transport.connection is not None and transport.connection.server is self:
                self.nats.clock.after(
                    self.nats.random.uniform(*self.nats.patience), transport.give_up, transport.connection
                )

    def resume(self):
        """Go on: each connection's in its order, but those of different ones in any."""
        self.is_paused = False
        backlog, self.backlog = self.backlog, {}
        while backlog:
            source = self.nats.random.choice(list(backlog))
            call, args = backlog[source].pop(0)
            if not backlog[source]:
                del backlog[source]
            if not (isinstance(source, SimConnection) and source.is_lost):
                call(*args)
        self.nats.reconnect()

    def kill(self):
        """End: nothing that is here goes anywhere."""
        self.is_up = self.is_paused = False
        self.backlog.clear()
        for other in self.routes:
            self.nats.cut_route(self, other)
        for transport in self.nats.transports:
            if transport.connection is not None and transport.connection.server is self:
                transport.flap()
        self.subs.clear()
        self.wild.clear()

    def start(self):
        """Begin; the others are found later."""
        self.is_up = True
        for other in self.routes:
            self.nats.clock.after(self.nats.random.uniform(0.01, 1.2), self.nats.join_route, self, other)
        self.nats.reconnect()

    # --- what clients want ---

    def subscribers(self, subject):
        prefix = subject.rpartition(b".")[0] + b"."
        return {**self.subs.get(subject, {}), **self.wild.get(prefix, {})}

    def subscribe(self, connection, subject, sid):
        if subject.endswith(b".*"):
            known, name = self.wild, subject[:-1]
        else:
            known, name = self.subs, subject
        is_new = name not in known
        known.setdefault(name, {})[connection] = sid
        if is_new:
            self.tell(name)

    def unsubscribe(self, connection, sid):
        for subject, found in list(self.subs.items()):
            if found.get(connection) == sid:
                del found[connection]
                if not found:
                    del self.subs[subject]
                    self.tell(subject)

    def forget(self, connection):
        for known in (self.subs, self.wild):
            for name, found in list(known.items()):
                found.pop(connection, None)
                if not found:
                    del known[name]
                    self.tell(name)

    # --- what other servers want ---

    def tell(self, name):
        """Tell the others whether a subject, or what begins with it and has a dot at the end, is wanted here."""
        for other in self.routes:
            if other in self.remote:
                lag = self.nats.lag if name in self.subs else 0.0
                is_wanted = name in self.subs or name in self.wild
                if lag:
                    self.nats.clock.after(lag, other.learn, self, name, None)
                else:
                    self.send(other, name, other.learn, self, name, is_wanted)

    def learn(self, other, name, is_wanted):
        known = self.remote.get(other)
        if known is not None:
            if is_wanted is None:
                is_wanted = name in other.subs
            (known.add if is_wanted else known.discard)(name)

    def learn_all(self, other, names):
        known = self.remote.get(other)
        if known is not None:
            known.update(names)

    def knows(self, other, subject):
        known = self.remote.get(other, ())
        return subject in known or subject.rpartition(b".")[0] + b"." in known

    def send(self, other, subject, call, *args):
        """Have another server do something: in order, where there is one route, else in the order of the subject."""
        streams = self.routes[other]
        generation = self.nats.generation
        streams[crc32(subject) % len(streams)].send(self.arrive, other, generation, call, *args)

    def arrive(self, other, generation, call, *args):
        if generation == self.nats.generation:
            other.take(self, call, *args)

    # --- messages ---

    def publish(self, connection, subject, payload, reply):
        is_taken = self.deliver(subject, payload, reply, connection)
        for other in self.routes:
            if self.knows(other, subject):
                is_taken = True
                for _ in range(self.nats.times()):
                    self.send(other, subject, other.deliver, subject, payload, reply, None)
        if reply and not is_taken:
            for each, sid in self.subscribers(reply).items():
                if each is connection:
                    each.receive(sid, reply, b"", 503, b"")

    def deliver(self, subject, payload, reply, publisher):
        is_taken = False
        for connection, sid in self.subscribers(subject).items():
            if connection is not publisher:
                is_taken = True
                connection.receive(sid, subject, reply, 0, payload)
        return is_taken

    def ping(self, connection, answered):
        connection.incoming.send(connection.transport.answered, connection, answered)


class SimNats:
    """The servers. ``lag``: seconds until another server knows of a subscription. ``routes``: so many each has to each
    other, between which messages overtake each other."""

    def __init__(self, clock, servers=1, lag=0.0, seed=0, routes=1):
        self.clock = clock
        self.lag = lag
        self.random = random.Random(seed)
        self.transports = []
        self.lossy_route = 0.0
        self.doubling_route = 0.0
        self.max_payload = 1 << 20
        self.patience = (0.6, 0.9)
        self.is_scattered = False
        """Whether messages come between what a server tells another one, when they have a route again."""
        self.generation = 0
        """Of the routes: what was sent over those before is lost."""
        self.servers = [SimServer(self, str(number)) for number in range(servers)]
        for server in self.servers:
            for other in self.servers:
                if other is not server:
                    server.routes[other] = [Stream(clock, self.delay(0.0002, 0.002)) for _ in range(routes)]
                    server.remote[other] = set()

    def delay(self, low, high):
        return lambda: self.random.uniform(low, high)

    def times(self):
        """How often a message comes over a route."""
        if self.random.random() < self.lossy_route:
            return 0
        return 2 if self.random.random() < self.doubling_route else 1

    def cut_route(self, server, other):
        """Lose what is between two servers."""
        self.generation += 1
        for one, two in ((server, other), (other, server)):
            one.remote.pop(two, None)
            one.backlog.pop(two, None)

    def join_route(self, server, other):
        """Make it again: each tells the other what is wanted."""
        if not server.is_up or not other.is_up or other in server.remote:
            return
        if server.is_paused or other.is_paused:
            self.clock.after(0.1, self.join_route, server, other)
            return
        for one, two in ((server, other), (other, server)):
            one.remote[two] = set()
            names = [*one.subs, *one.wild]
            self.random.shuffle(names)
            if self.is_scattered:
                for name in names:
                    one.send(two, name, two.learn, one, name, True)
            else:
                one.send(two, b"", two.learn_all, one, names)

    def down(self):
        """All servers end: what was on its way is lost."""
        for server in self.servers:
            server.kill()

    def up(self):
        for server in self.servers:
            server.is_up = True
            for other in self.servers:
                if other is not server:
                    self.join_route(server, other)
        self.reconnect()

    def reconnect(self):
        """Have all who are at no server look for one."""
        for transport in self.transports:
            transport.reconnect_later()


class SimTransport(Transport):
    """The connection of one broker: to one server, or to the first of several that is there."""

    def __init__(self, nats, owner, servers=(0,)):
        self.nats = nats
        self.owner = owner
        self.servers = [nats.servers[each] for each in servers]
        self.connection = None
        self.is_held = False  # a proxy lets nothing through
        self.sids = itertools.count(1)
        self.sent = []
        self.subscribed = 0
        nats.transports.append(self)

    @property
    def is_up(self):
        return self.connection is not None

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
        if self.connection is not None or self.is_held:
            return
        found = [server for server in self.servers if server.is_up and not server.is_paused]
        if not found:
            return  # until a server begins, or goes on
        self.connection = SimConnection(self, found[0])
        self.owner.on_connected()

    def reconnect_later(self):
        self.nats.clock.after(self.nats.random.uniform(0.01, 0.3), self.connect)

    def cut(self):
        """Lose the connection, and all that is on its way."""
        if self.connection is not None:
            connection, self.connection = self.connection, None
            connection.lose()
            self.owner.on_disconnected()

    def flap(self):
        self.cut()
        self.reconnect_later()

    def give_up(self, connection):
        """Leave a server that hangs: what it has not read yet it reads when it goes on."""
        if connection is self.connection and connection.server.is_paused:
            self.connection = None
            connection.send(connection.server.forget, connection)
            self.owner.on_disconnected()
            self.reconnect_later()

    def publish(self, subject, payload, reply=b""):
        if self.connection is not None:
            assert len(payload) <= self.max_payload
            self.sent.append((subject, payload))
            self._send("publish", subject, payload, reply)

    def subscribe(self, subject):
        sid = next(self.sids)
        if self.connection is not None:
            self.subscribed += 1
            self._send("subscribe", subject, sid)
        return sid

    def unsubscribe(self, sid):
        if self.connection is not None:
            self._send("unsubscribe", sid)

    def ping(self, answered):
        if self.connection is not None:
            self._send("ping", answered)

    def _send(self, what, *args):
        connection = self.connection
        connection.send(getattr(connection.server, what), connection, *args)

    def answered(self, connection, answered):
        if connection is self.connection:
            answered()

    def received(self, connection, *message):
        if connection is self.connection:
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

    def __init__(self, nats, name, *servers, ring_bytes=8 << 20, starts=True, wall_offset=0):
        self.nats, self.name = nats, name
        self.clock = nats.clock
        self._servers = servers or (0,)
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
        self.transport = SimTransport(self.nats, owner, self._servers)
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


def brokers(nats, *names, moves=False, **options):
    """Start brokers, one after the other, each ready before the next one, and at another server, from which it may go
    to others if it ``moves``."""
    started = []
    for number, name in enumerate(names):
        first, count = number % len(nats.servers), len(nats.servers)
        servers = [(first + each) % count for each in range(count if moves else 1)]
        broker = SimBroker(nats, name, *servers, **options)
        nats.clock.run(1.0)
        assert broker.is_ready
        started.append(broker)
    return started
