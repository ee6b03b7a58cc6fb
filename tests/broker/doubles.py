"""Stand-ins for what surrounds the router: a TCP transport, a handshake, a WebSocket."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from pystrands.broker.backends.greeting import Greeting
from pystrands.broker.backends.lifecycle import SessionLifecycle
from pystrands.broker.backends.registry import SessionRegistry
from pystrands.broker.backends.session import SessionShared
from pystrands.broker.bounds import BOUNDS, Bounds
from pystrands.broker.counters import Counters
from pystrands.broker.events.assignments import MAX_DELIVERIES, Assignments
from pystrands.broker.events.queue import EventQueue
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.client import ConnectedClient
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.routing.commands import Commands
from pystrands.broker.routing.handlers import command_table
from pystrands.broker.routing.router import Router
from pystrands.broker.ws.expiry import Expiries
from pystrands.broker.ws.incoming import IncomingFrames
from pystrands.broker.ws.reading import ReadShared
from pystrands.broker.ws.websocket import Receiver, WebSocket, WebSocketShared
from pystrands.protocol.messages import HelloParams


class FakeTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 4711)})
        self.written = b""
        self.closed = False
        self.limits: tuple[int | None, int | None] = (None, None)

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = (high, low)

    def take(self) -> list[dict[str, Any]]:
        """Return the messages written since the last call."""
        assert self.written == b"" or self.written.endswith(b"\n")
        lines, self.written = self.written.splitlines(), b""
        return [json.loads(line) for line in lines]


class FakeWebSocket(WebSocket):
    """Keeps what the router does to a client's socket; closing tells the router at once, as the real one does."""

    def __init__(self, router: Any) -> None:
        some_loop: Any = None
        shared = WebSocketShared(loop=some_loop, receiver=router, outbox=Outbox(some_loop), reads=ReadShared(some_loop))
        super().__init__(shared, FakeTransport(), "127.0.0.1:5000")
        self.router = router
        self.is_here = True
        self.reading = True
        self.close_code: int | None = None
        self.sent: list[bytes] = []
        self._last: Any = None

    @property
    def is_open(self) -> bool:
        return self.is_here

    @property
    def stream(self) -> Any:
        """The router's client, also when the router has let go of it."""
        return self.client or self._last

    def send(self, frame: bytes) -> bool:
        self.sent.append(frame)
        return self.is_here

    def pause_reading(self, reason: int = 0) -> None:
        self.reading = False

    def resume_reading(self, reason: int = 0) -> None:
        self.reading = True

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.closed_by_us = True
        self.gone(code, reason)

    def gone(self, code: int = 1001, reason: str = "") -> None:
        if self.is_here:
            self.is_here = False
            self.close_code = code
            self._last = self.client
            self.router.client_closed(self, code, reason)
            self.router.client_over(self, code, reason)


class Nobody(Receiver):
    """Gets no messages."""

    def client_message(self, ws: IncomingFrames, message: str | bytes) -> None:
        raise AssertionError(message)

    def client_closed(self, ws: WebSocket, code: int, reason: str) -> None:
        pass


def make_client(number: int, receiver: Receiver | None = None) -> ConnectedClient:
    """Return a client that is let in, and in no room."""
    return ConnectedClient(number, f"c{number}", "lobby", b"{}", FakeWebSocket(receiver or Nobody()))


def make_router(
    loop: Any,
    engine: Any,
    rooms: Rooms,
    queue: EventQueue,
    counters: Counters,
    *,
    resume_window: float,
    hold_time: float,
    answer_timeout: float,
    max_deliveries: int = MAX_DELIVERIES,
    bounds: Bounds = BOUNDS,
) -> tuple[Router, SessionLifecycle, SessionRegistry]:
    """Wire what is between WebSockets and links, as a broker does it."""
    sessions = SessionRegistry()
    shared = SessionShared(loop=loop, counters=counters, expiries=Expiries(loop, counters))
    assignments = Assignments(queue, sessions.choose_owner, counters, max_deliveries=max_deliveries)
    router = Router(
        rooms,
        queue,
        assignments,
        sessions,
        shared,
        hold_time=hold_time,
        answer_timeout=answer_timeout,
        bounds=bounds,
    )
    commands = command_table(Commands(engine, rooms, counters, dict), router)
    lifecycle = SessionLifecycle(
        sessions, router, commands, shared, resume_window=resume_window, heartbeat=15, greeting=Greeting(HelloParams())
    )
    return router, lifecycle, sessions


class FakeHandshake:
    """A client that wants to come in."""

    def __init__(self, router: Any, path: str = "/room", query_string: str = "") -> None:
        self.router = router
        self.path = path
        self.query_string = query_string
        self.headers = {"Host": ["x"]}
        self.remote_addr = "127.0.0.1:5000"
        self.subprotocols: list[str] = []
        self.offer = None
        self.resumes: str | None = None
        self.is_gone = False
        self.ws: FakeWebSocket | None = None
        self.refused: tuple[int, str, dict[str, str]] | None = None

    def accept(self, subprotocol: str | None = None, headers: Sequence[tuple[str, str]] = ()) -> FakeWebSocket | None:
        if self.is_gone:
            return None
        self.ws = FakeWebSocket(self.router)
        return self.ws

    def refuse(self, status: int, reason: str = "", headers: Sequence[tuple[str, str]] = ()) -> None:
        assert self.refused is None and self.ws is None
        self.refused = (status, reason, dict(headers))
