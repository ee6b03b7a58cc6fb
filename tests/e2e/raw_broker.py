"""A broker of protocol 2 that does what a test says, and backends that note what they are told."""

import asyncio
import json
from collections import deque
from typing import Any

from pystrands import AsyncPyStrandsClient
from tests.client.fake_broker import Connection, FakeBroker, context, line, soon, until
from tests.inside import core_of

from .hearing import Hearing


class RawBroker(FakeBroker):
    """Speaks protocol 2. Each link waits for the test's welcome."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**({"protocol": 2} | more))

    async def linked(self) -> "RawLink":
        """Return the next link, on which the backend has said hello."""
        return RawLink(await self.link())

    async def begin(self) -> "RawLink":
        """Return the next link, with a new session."""
        link = await self.linked()
        await link.welcome()
        return link

    async def connected(self, client: AsyncPyStrandsClient) -> "RawLink":
        """Connect a backend to this broker; return its link, with a new session."""
        client.host, client.port = self.address
        connecting = asyncio.ensure_future(client.connect())
        link = await self.begin()
        assert await soon(connecting)
        return link


class RawLink(Hearing):
    """The broker's end of one link. ``sent`` and ``received`` are the last numbers; a resume takes them over."""

    def __init__(self, connection: Connection) -> None:
        assert connection.hello is not None
        super().__init__()
        self.connection = connection
        self.hello: dict[str, Any] = connection.hello["params"]
        self.sent = 0
        self._heard: deque[dict[str, Any]] = deque()

    async def welcome(self, **params: Any) -> None:
        """Welcome the session that the backend names."""
        said = {"session_id": self.hello["session_id"], "resumed": False, "received": 0} | params
        await self.raw(line("welcome", said))

    async def give_up(self, received: int | None) -> None:
        """Say that the session is gone, of which ``received`` so many lines were carried out."""
        await self.welcome(session_id=self.hello["next_session_id"], received=received)

    async def go_on(self, older: "RawLink", *, received: int | None = None, sent: int | None = None) -> None:
        """Resume the session of an older link."""
        assert self.hello["resume"]
        self.received = older.received if received is None else received
        self.sent = older.sent if sent is None else sent
        await self.welcome(resumed=True, received=self.received)

    def cut(self) -> None:
        self.connection.cut()

    async def raw(self, data: bytes) -> None:
        await self.connection.send(data)

    async def say(
        self, action: str, params: dict[str, Any] | None = None, *, seq: int | None = None, **more: Any
    ) -> int:
        """Say a line with the next number, or with ``seq``; return its number."""
        if seq is None:
            self.sent += 1
            seq = self.sent
        await self.raw(line_with({"seq": seq} | more, action, params))
        return seq

    async def message(self, text: str, client_id: str = "c1", **more: Any) -> int:
        return await self.say("new_message", {"message": text, "context": context(client_id)}, **more)

    async def happens(self, action: str, client_id: str = "c1", **more: Any) -> int:
        """Say what happened to a client."""
        return await self.say(action, {"context": context(client_id)}, **more)

    async def acknowledge(self, seq: int | None = None) -> None:
        await self.raw(line("received", {"seq": self.received if seq is None else seq}))

    async def next_line(self) -> dict[str, Any]:
        return await self.connection.receive()

    async def hear_text(self) -> str:
        """Return the message of the next numbered line."""
        return str((await self.hear("broadcast", "message_to_room", "message_to_connection"))["params"]["message"])

    async def hear_done(self, *seqs: int) -> None:
        """Hear that these events are finished, in one line or more."""
        missing = set(seqs)
        while missing:
            for first, last in (await self.hear("done"))["params"]["events"]:
                numbers = set(range(first, last + 1))
                assert numbers <= missing
                missing -= numbers

    async def so_far(self, client: AsyncPyStrandsClient) -> list[dict[str, Any]]:
        """Return the numbered lines until now: a broadcast of the client's goes out after all that it has written."""
        assert await client.broadcast_message("so far")
        heard = []
        while (one := await self.hear())["params"].get("message") != "so far":
            heard.append(one)
        return heard

    async def is_closed(self) -> bool:
        """Tell whether the backend ends the link, after any number of lines."""
        try:
            while True:
                await self.next_line()
        except (EOFError, ConnectionError):
            return True


def line_with(head: dict[str, Any], action: str, params: dict[str, Any] | None) -> bytes:
    """Encode a line with more members, or others."""
    return json.dumps(head | {"action": action, "params": params or {}}).encode() + b"\n"


async def unlinked(client: AsyncPyStrandsClient) -> None:
    """Wait until a backend has noticed that its link is gone."""
    await until(lambda: core_of(client).lifetime.connection.outgoing.link is None)


class Noting(AsyncPyStrandsClient):
    """Notes its callbacks as (what, client_id); a message as (message, client_id), with a star when redelivered.

    A handler of a message waits while the message is in ``held``, and calls ``during[message]`` first.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"reconnect_delay": 0.01} | options))
        self.notes: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.held: dict[str, asyncio.Event] = {}
        self.errors: list[str] = []
        self.contexts: list[Any] = []

    def hold(self, message: str) -> asyncio.Event:
        """Have the handler of a message wait for the event that this returns."""
        event = self.held[message] = asyncio.Event()
        return event

    def note(self, what: str, context: Any) -> None:
        self.notes.append((what + "*" if context.redelivered else what, context.client_id))
        self.ids.append(context.event_id)
        self.contexts.append(context)

    async def on_new_connection(self, context):
        self.note("new", context)

    async def on_message(self, message, context):
        self.note(message, context)
        if message in self.held:
            await self.held[message].wait()

    async def on_disconnect(self, context):
        self.note("gone", context)

    async def on_client_adopted(self, context):
        self.note("adopted", context)

    async def on_client_released(self, context):
        self.note("released", context)

    async def on_error(self, error, context):
        assert context is not None
        self.errors.append(error)
