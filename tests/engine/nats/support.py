"""What tests of the connection to NATS share."""

import asyncio
from contextlib import asynccontextmanager

from pystrands import testing
from pystrands.engine.nats.connection import NatsConnection
from pystrands.engine.nats.options import NatsOptions
from pystrands.engine.nats.transport import TransportOwner


class Owner(TransportOwner):
    """Subscribes to its subjects on each link, and keeps what happens."""

    def __init__(self, *subjects):
        self.subjects = subjects
        self.connection = None
        self.sids = {}
        self.events = []
        """`"up"`, `"down"`, and messages as the tuples of their arguments."""

    def on_connected(self):
        self.events.append("up")
        self.sids = {subject: self.connection.subscribe(subject) for subject in self.subjects}

    def on_disconnected(self):
        self.events.append("down")

    def on_message(self, sid, subject, reply, status, payload):
        self.events.append((sid, subject, reply, status, payload))

    @property
    def changes(self):
        return [each for each in self.events if isinstance(each, str)]

    @property
    def payloads(self):
        return [each[4] for each in self.events if not isinstance(each, str)]


def make(url, *subjects, **options):
    """Return a connection that is not started, and its owner; `url` may be several."""
    owner = Owner(*subjects)
    urls = (url,) if isinstance(url, str) else tuple(url)
    owner.connection = NatsConnection(NatsOptions(urls=urls, **options), asyncio.get_running_loop(), owner)
    return owner.connection, owner


@asynccontextmanager
async def connected(url, *subjects, **options):
    """Connect, and stop in the end; its subscriptions are known to the server."""
    connection, owner = make(url, *subjects, **options)
    await connection.start(20)
    try:
        await synced(connection)
        yield connection, owner
    finally:
        await connection.stop()


async def synced(connection):
    """Wait until the server has handled what was sent."""
    answered = asyncio.Event()
    connection.ping(answered.set)
    await asyncio.wait_for(answered.wait(), 20)


async def until(condition):
    await testing.until(condition, 20)
