"""Stand-ins for what surrounds the router: a TCP transport, a handshake, a WebSocket."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any


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


class FakeWebSocket:
    """Keeps what the router does to a client's socket; closing tells the router at once, as the real one does."""

    def __init__(self, router: Any) -> None:
        self.router = router
        self.lane: Any = None
        """The router's client, which stays here when the router has let go of it."""
        self._client: Any = None
        self.groups: tuple[Any, ...] = ()
        self.flags = self.seen = 0
        self.is_open = True
        self.closed_by_us = False
        self.reading = True
        self.close_code: int | None = None
        self.sent: list[bytes] = []

    @property
    def client(self) -> Any:
        return self._client

    @client.setter
    def client(self, client: Any) -> None:
        self._client = client
        self.lane = client or self.lane

    def send(self, frame: bytes) -> bool:
        self.sent.append(frame)
        return self.is_open

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.closed_by_us = True
        self.gone(code, reason)

    def gone(self, code: int = 1001, reason: str = "") -> None:
        if self.is_open:
            self.is_open = False
            self.close_code = code
            self.router.client_closed(self, code, reason)


class FakeHandshake:
    """A client that wants to come in."""

    def __init__(self, router: Any, path: str = "/room", query_string: str = "") -> None:
        self.router = router
        self.path = path
        self.query_string = query_string
        self.headers = {"Host": ["x"]}
        self.remote_addr = "127.0.0.1:5000"
        self.subprotocols: list[str] = []
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
