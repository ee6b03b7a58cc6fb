"""A cluster of real processes: NATS, brokers, backends linked to all of them, and clients that come back elsewhere.

Everything waits with a bound, and ends the processes it began by their own pids.
"""

import asyncio
import contextlib
import itertools
import signal
import sys
import time
from collections import Counter, defaultdict

from pystrands.testing import Closed, Rejected
from tests.chaos.harness import PROGRAM, BrokerProcess, Child, Record, Sender
from tests.nats_server import NatsServer

HOST = "127.0.0.1"


class Broker:
    """One broker process after the other, on the same ports."""

    def __init__(self, name, directory, options):
        self.name = name
        self._directory = directory
        self._options = options
        self._ports = {}
        self._numbers = itertools.count(1)
        self.process = None

    def start(self):
        self.close()
        output = self._directory / f"{self.name}.{next(self._numbers)}.log"
        self.process = BrokerProcess(output, **self._ports, **self._options)

    async def listening(self):
        await self.process.listening()
        self._ports = {"ws_port": self.process.ws_port, "tcp_port": self.process.tcp_port}

    @property
    def address(self):
        """Where backends find it."""
        return f"{HOST}:{self.process.tcp_port}"

    def close(self):
        if self.process is not None:
            self.process.close()


class Backend:
    """One backend process after the other under one name, which begins with all brokers."""

    def __init__(self, name, world):
        self.name = name
        self._world = world
        self._generation = 0
        self.child = None
        self.records = []
        self.exits = {}

    @property
    def label(self):
        return f"{self.name}.{self._generation}"

    def start(self):
        self._generation += 1
        record = Record(self.label, self._world.directory / f"{self.label}.jsonl")
        self.records.append(record)
        self.child = Child(
            [sys.executable, str(PROGRAM)],
            self._world.directory / f"{self.label}.log",
            CHAOS_HOSTS=",".join(self._world.hosts),
            CHAOS_LABEL=self.label,
            CHAOS_RECORD=str(record.path),
            PYTHONUNBUFFERED="1",
        )

    def killed(self):
        self.child.kill()
        self.exits[self.label] = "killed"

    async def left(self):
        self.child.signal(signal.SIGTERM)
        code = await self.child.ended(20)
        self.exits[self.label] = "left"
        assert code == 0, f"{self.label} ended with {code}:\n{self.child.text()[-4000:]}"

    def close(self):
        if self.child is not None and self.child.runs:
            self.child.kill()


class Connection(Sender):
    """What a roamer has from one connect to its end: at which broker, in which room, since when and until when."""

    def __init__(self, client_id, broker, room):
        super().__init__(client_id)
        self.broker = broker
        self.process = broker.process
        self.room = room
        self.since = 0.0
        self.until = None
        """When the broker has ended it; None of those that were closed by themselves."""


class Roamer:
    """A client that sends numbered messages, and comes back at any broker when it is closed; each time with a new key.

    ``connections`` are what it had, one after the other; in the room ``control`` it also hears what backends say there.
    """

    def __init__(self, world, client_id, room, rate, broker=None):
        self._world = world
        self._client_id = client_id
        self._room = room
        self._rate = rate
        self._broker = broker
        self._random = world.random
        self.connections = []
        self.rejected = Counter()

    @property
    def now(self):
        """The connection that it has."""
        return self.connections[-1] if self.connections else None

    async def run(self):
        """Go on until the world says that it is over."""
        while not self._world.is_over:
            sender = await self._connected()
            if sender is None:
                continue
            with contextlib.suppress(Closed, TimeoutError, OSError):
                while not self._world.is_over and sender.client.closed is None:
                    await sender.send()
                    sender.take()
                    await asyncio.sleep(self._random.uniform(0.5, 1.5) / self._rate)
            if not self._world.is_over:
                await sender.ended(20)
                sender.take()
                sender.until = time.monotonic()

    async def _connected(self):
        broker = self._broker or self._random.choice(self._world.brokers)
        sender = Connection(self._client_id, broker, self._room)
        try:
            await sender.connect(broker.process, self._room)
        except Rejected as rejected:
            self.rejected[rejected.status] += 1
        except (OSError, Closed, TimeoutError):
            self.rejected["down"] += 1
        else:
            sender.since = time.monotonic()
            self.connections.append(sender)
            return sender
        await asyncio.sleep(0.05)
        return None


class ClusterWorld:
    """NATS, brokers, backends and roamers; everything ends with it."""

    def __init__(self, directory, rng, *, brokers=3, backends=3, **options):
        self.directory = directory
        self.random = rng
        self.nats = NatsServer()
        self.brokers = []
        self.backends = []
        self.roamers = []
        self.is_over = False
        self.killed = set()
        """Broker processes that were killed: what they had taken may be lost with them."""
        self._counts = brokers, backends
        self._options = {
            "log_level": "info",
            "drain_time": 0.3,
            "close_timeout": 3,
            "resume_window": 1.0,
            "heartbeat_interval": 0.4,
            "hold_time": 5.0,
            "cluster": "chaos",
        } | options

    async def __aenter__(self):
        try:
            self.nats.__enter__()
            for number in range(self._counts[0]):
                broker = Broker(f"broker-{number}", self.directory, self._options | {"nats_url": self.nats.url})
                self.brokers.append(broker)
                broker.start()
            for broker in self.brokers:
                await broker.listening()
            self.hosts = [broker.address for broker in self.brokers]
            for name in "abcdefgh"[: self._counts[1]]:
                backend = Backend(name, self)
                self.backends.append(backend)
                backend.start()
            await self.well()
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(self, kind, error, trace):
        if error is not None:
            error.add_note(f"what the processes wrote and recorded is in {self.directory}")
        self._end()

    def _end(self):
        for each in (*self.backends, *self.brokers):
            each.close()
        self.nats.close()
        for roamer in self.roamers:
            for sender in roamer.connections:
                sender.client.abort()

    async def well(self, timeout=40):
        """Wait until each broker has a link of each backend, and knows each other broker."""
        end = time.monotonic() + timeout
        while missing := await asyncio.to_thread(self._missing):
            assert time.monotonic() < end, f"not well: {missing}"
            await asyncio.sleep(0.05)

    def _missing(self):
        for backend in self.backends:
            if not backend.child.runs:
                return f"{backend.label} has ended:\n{backend.child.text()[-4000:]}"
        for broker in self.brokers:
            if not broker.process.runs:
                return f"{broker.name} has ended:\n{broker.process.text()[-4000:]}"
            status = broker.process.status()
            linked = {each["name"] for each in status["backends"] if each["linked"] and not each["leaving"]}
            for backend in self.backends:
                if not any(f"'{backend.label}'" in name for name in linked):
                    return f"{broker.name} has no link of {backend.label}: {status}\n{backend.child.text()[-3000:]}"
            cluster = status["cluster"]
            if len(cluster["peers"]) != len(self.brokers) - 1 or not cluster["connected"]:
                return f"{broker.name} does not know all others: {status}"
        return ""

    def events(self):
        """All records of all processes, in the order of time; those of one process in their own."""
        records = [record for backend in self.backends for record in backend.records]
        for record in records:
            record.read()
        return sorted((line for record in records for line in record.lines), key=lambda line: line["t"])

    def senders(self):
        """All connections of all clients."""
        return [sender for roamer in self.roamers for sender in roamer.connections]

    async def answered(self, timeout=60):
        """Wait until each message of each connection that is open has a reply."""
        end = time.monotonic() + timeout
        while missing := {
            roamer.now.key: found
            for roamer in self.roamers
            if roamer.now is not None and roamer.now.client.closed is None and (found := roamer.now.unanswered())
        }:
            assert time.monotonic() < end, f"never answered: {dict(itertools.islice(missing.items(), 5))}"
            await asyncio.sleep(0.05)

    async def recorded_gone(self, timeout=40):
        """Wait until the end of each connection is recorded."""
        keys = {sender.key for sender in self.senders()}
        end = time.monotonic() + timeout
        while missing := keys - {line["key"] for line in self.events() if line["what"] == "gone"}:
            if time.monotonic() > end:
                return missing
            await asyncio.sleep(0.1)
        return set()


def replies_to_others(sender):
    """What a connection in the room ``control`` has heard, by key: the numbers, in order of arrival."""
    heard = defaultdict(list)
    for reply in sender.replies:
        if "telling" in reply:
            heard[reply["key"]].append(reply)
    return heard
