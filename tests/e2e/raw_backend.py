"""A backend of protocol 2 that does what a test says: every line, right or wrong, is the test's choice."""

import asyncio
import contextlib
import json
import secrets
from types import TracebackType
from typing import Any, Self

from pystrands import testing
from pystrands.testing.backends import HasBackends

from .hearing import Hearing

PATIENCE = 10.0
"""Seconds after which a wait means that the test has failed."""


class RawBackend(Hearing):
    """One session through any number of links, as far as the test keeps the rules.

    ``async with RawBackend(broker) as raw:`` has a link and a session. What is said is numbered; what is heard is
    counted, and nothing is acknowledged or finished unless the test says so.
    """

    def __init__(self, broker: Any, name: str = "raw", *, begin: bool = True) -> None:
        super().__init__()
        self.broker: HasBackends = broker
        self.name = name
        self.session_id = secrets.token_hex(16)
        self.sent = 0
        """Our last number."""
        self.hello: dict[str, Any] = {}
        self._begin = begin
        self._questions = 0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        if self._begin:
            welcome = await self.begin()
            assert not welcome["resumed"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    # --- links ---

    async def open(self) -> None:
        """Connect, and hear the broker's hello."""
        async with asyncio.timeout(PATIENCE):
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.broker.tcp_port, limit=2**24)
            self.hello = json.loads(await self._reader.readline())["params"]

    async def begin(self, **params: Any) -> dict[str, Any]:
        """Say hello, and return the params of the welcome."""
        self.greet(**params)
        return await self.welcomed()

    def greet(self, **params: Any) -> None:
        """Say hello, and wait for nothing."""
        said = {"protocol": 2, "binary": True, "name": self.name, "session_id": self.session_id} | params
        self.raw(line("hello", said))

    async def welcomed(self) -> dict[str, Any]:
        """Hear the welcome."""
        welcome = await self.next_line()
        assert welcome["action"] == "welcome", welcome
        assert "seq" not in welcome
        params: dict[str, Any] = welcome["params"]
        return params

    async def resume(self, received: int | None = None) -> dict[str, Any]:
        """Come back on a new link, having ``received`` so many, by default what was heard; return the welcome."""
        self.cut()
        if received is not None:
            self.received = received
        await self.open()
        welcome = await self.begin(resume=True, received=self.received, next_session_id=secrets.token_hex(16))
        if not welcome["resumed"]:
            self.session_id = welcome["session_id"]
            self.sent = self.received = 0
        return welcome

    def cut(self) -> None:
        """Lose the link without a word."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    async def flushed(self) -> None:
        """Wait until the kernel has all that was said; others have their turn even if that is at once."""
        assert self._writer is not None
        self._writer.transport.set_write_buffer_limits(0)
        await self._writer.drain()
        await asyncio.sleep(0)

    async def is_closed(self) -> bool:
        """Tell whether the broker ends the link, after any number of lines."""
        try:
            while True:
                await self.next_line()
        except (EOFError, ConnectionError):
            return True

    async def is_closed_saying(self) -> int:
        """Return the last acknowledgement before the broker ends the link."""
        with contextlib.suppress(EOFError):
            while True:
                await self.hear()
        return self.acknowledged[-1]

    # --- lines ---

    def raw(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    def say(
        self, action: str, params: dict[str, Any] | None = None, *, request_id: str = "", seq: int | None = None
    ) -> int:
        """Say a line with the next number, or with ``seq``; return its number."""
        if seq is None:
            self.sent += 1
            seq = self.sent
        self.raw(line(action, params, request_id=request_id, seq=seq))
        return seq

    def done(self, *events: dict[str, Any]) -> None:
        self.say("done", {"events": [(event["seq"], event["seq"]) for event in events]})

    def released(self, *events: dict[str, Any]) -> None:
        self.say("released", {"events": [(event["seq"], event["seq"]) for event in events]})

    def acknowledge(self, seq: int | None = None) -> None:
        self.raw(line("received", {"seq": self.received if seq is None else seq}))

    async def next_line(self) -> dict[str, Any]:
        """Return the next line of any kind but ``peers``, which a broker of a cluster may say at any time."""
        while (heard := await self.next_of_all())["action"] == "peers":
            pass
        return heard

    async def next_of_all(self) -> dict[str, Any]:
        """Return the next line; EOFError at the end. Half a line fails the test."""
        async with asyncio.timeout(PATIENCE):
            data = await self._reader.readline()
        if not data:
            raise EOFError
        decoded: dict[str, Any] = json.loads(data)
        return decoded

    async def hear_message(self, message: str) -> dict[str, Any]:
        event = await self.hear("new_message")
        assert event["params"]["message"] == message
        return event

    async def finish(self, count: int) -> list[dict[str, Any]]:
        """Hear so many events, and say of each that it is finished: a repeat comes after what is before it."""
        heard = []
        for _ in range(count):
            heard.append(await self.hear())
            self.done(heard[-1])
        return heard

    async def so_far(self) -> list[dict[str, Any]]:
        """Return the numbered lines until now: a question is answered after all that the broker has written."""
        self._questions += 1
        request_id = f"so far {self._questions}"
        self.say("room_members", {"room_id": "no such room"}, request_id=request_id)
        heard = []
        while (one := await self.hear()).get("request_id") != request_id:
            heard.append(one)
        return heard

    async def messages_so_far(self) -> list[str]:
        """Return what the next lines say: the message, or the action; with a star when it was redelivered."""
        return [told(one) for one in await self.so_far()]

    # --- clients ---

    async def admit(self, client_id: str, path: str = "/room", *, done: bool = True) -> testing.Client:
        """Let a new WebSocket client in; this has to be the backend that is asked."""
        connecting = asyncio.ensure_future(_connect(self.broker, path))
        asked = await self.hear("connection_request")
        self.accept(asked, client_id)
        event = await self.hear("new_connection")
        if done:
            self.done(event)
        return await connecting

    def accept(self, asked: dict[str, Any], client_id: str) -> None:
        """Let the client in about whom the broker asked."""
        self.say("response", {"accepted": True, "client_id": client_id}, request_id=asked["request_id"])


async def _connect(broker: Any, path: str) -> testing.Client:
    return await testing.connect(broker, path)


def line(action: str, params: dict[str, Any] | None = None, *, request_id: str = "", seq: int = 0) -> bytes:
    """Encode a line as another make of backend might."""
    head = {"seq": seq} if seq else {}
    return json.dumps(head | {"action": action, "request_id": request_id, "params": params or {}}).encode() + b"\n"


def told(event: dict[str, Any]) -> str:
    """Return the message of an event, or its action; with a star when it was redelivered."""
    text = str(event["params"].get("message", event["action"]))
    return text + "*" if event.get("redelivered") else text
