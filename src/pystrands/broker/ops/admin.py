"""The admin port: health, readiness and metrics, for those who run the broker. Plain HTTP, one answer a connection."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, cast

from pystrands.broker.admission.origins import host_is_local
from pystrands.broker.admission.proxies import address_text
from pystrands.broker.net.http import BadRequestError, Fields, parse_request, response
from pystrands.broker.net.lingering_close import cut, finish
from pystrands.broker.net.listening import hosts, on_one_port
from pystrands.broker.net.ports import Ports
from pystrands.protocol.address import is_loopback

__all__ = ["AdminServer"]

logger = logging.getLogger(__name__)

_MAX_CONNECTIONS: Final = 64
_MAX_HEAD: Final = 16_384
_PATIENCE: Final = 10.0
"""Seconds that a connection has to send its request, and then to take the answer."""
_NOT_LOCAL: Final = (
    b"the admin port listens on loopback, and tells its metrics to who asks for them as localhost or 127.0.0.1: "
    b"let a proxy send such a Host, or choose another --admin-host\n"
)


class AdminServer:
    """Listens from :meth:`start` to :meth:`close`.

    ``is_ready()`` is what ``/readyz`` tells; ``metrics()`` gives ``/metrics`` its text, of type ``content_type``. At
    most 64 connections at a time: for one more the oldest goes, one whose request has not come if there is any. None
    has more than ten seconds for its request, nor for its answer.

    While it listens on loopback, ``/metrics`` is only for who asks for it under a name of loopback: a page in a browser
    on this machine may have a name that leads here (DNS rebinding), and would read the answer.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        is_ready: Callable[[], bool],
        metrics: Callable[[], Awaitable[bytes]],
        content_type: str,
        ports: Ports | None = None,
    ) -> None:
        self.loop = loop
        self.is_ready = is_ready
        self.metrics = metrics
        self.content_type = content_type
        self.ports = ports or Ports()
        self.connections: dict[_Connection, None] = {}  # the oldest first
        self._is_local = False
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError when the address can't be had."""
        self._is_local = is_loopback(host)
        self._server = await on_one_port(
            lambda port: self.loop.create_server(lambda: _Connection(self), hosts(host), port), port
        )

    @property
    def port(self) -> int:
        """The port, once it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def tells_metrics(self, headers: dict[str, list[str]]) -> bool:
        """Whether who sent these headers may read the metrics. All browsers send a Host, so who sends none may."""
        return not self._is_local or "Host" not in headers or host_is_local(headers)

    def enter(self, connection: "_Connection") -> None:
        """Take a new connection in. Who knows what he wants asks at once, so it is never the newest that goes."""
        if len(self.connections) >= _MAX_CONNECTIONS:
            silent = (each for each in self.connections if not each.is_answered)
            (next(silent, None) or next(iter(self.connections))).drop()
        self.connections[connection] = None

    async def close(self) -> None:
        """Stop listening, and drop the connections that there are."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self.connections):
            connection.drop()
        await self._server.wait_closed()


class _Connection(asyncio.Protocol):
    """One request and its answer."""

    def __init__(self, admin: AdminServer) -> None:
        self._admin = admin
        self._head = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answer: asyncio.Task[None] | None = None
        self.is_answered = False
        """Whether its request has come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        admin = self._admin
        admin.enter(self)
        self._timer = admin.loop.call_later(_PATIENCE, self.drop)

    def data_received(self, data: bytes) -> None:
        if self.is_answered:  # one request a connection; what follows is not read
            return
        self._head += data
        if self._head.startswith(b"{"):
            peer = self._transport.get_extra_info("peername") if self._transport is not None else None
            text = self._admin.ports.backend_at(
                "metrics and health checks", address_text(peer[:2]) if peer else "a peer"
            )
            self._respond(400, text.encode() + b"\n")
            return
        end = self._head.find(b"\r\n\r\n") + 4
        if end > _MAX_HEAD or (end == 3 and len(self._head) > _MAX_HEAD):
            self._respond(431, b"the request's head is too large\n")
        elif end > 3:
            self._on_head(bytes(self._head[:end]))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._admin.connections.pop(self, None)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if self._answer is not None:
            self._answer.cancel()

    def drop(self) -> None:
        """Close it now."""
        self._admin.connections.pop(self, None)
        if self._transport is not None:
            cut(self._transport)

    def _on_head(self, head: bytes) -> None:
        try:
            request = parse_request(head)
        except BadRequestError as error:
            self._respond(400, f"{error}\n".encode())
            return
        if request.method not in ("GET", "HEAD"):
            self._respond(405, b"only GET and HEAD\n", headers=(("Allow", "GET, HEAD"),))
            return
        without_body = request.method == "HEAD"
        match request.path:
            case "/healthz":
                self._respond(200, b"ok\n", without_body=without_body)
            case "/readyz":
                ready = self._admin.is_ready()
                body = b"ready\n" if ready else b"not ready\n"
                self._respond(200 if ready else 503, body, without_body=without_body)
            case "/metrics" if not self._admin.tells_metrics(request.headers):
                self._respond(403, _NOT_LOCAL, without_body=without_body)
            case "/metrics":
                self.is_answered = True
                self._answer = self._admin.loop.create_task(self._respond_metrics(without_body=without_body))
            case _:
                self._respond(404, b"here are /metrics, /healthz and /readyz\n", without_body=without_body)

    async def _respond_metrics(self, *, without_body: bool) -> None:
        try:
            body = await self._admin.metrics()
        except Exception:
            logger.exception("the metrics could not be told")
            self._respond(500, b"the metrics could not be told; the log says why\n", without_body=without_body)
        else:
            self._respond(200, body, self._admin.content_type, without_body=without_body)

    def _respond(
        self,
        status: int,
        body: bytes,
        content_type: str = "text/plain; charset=utf-8",
        *,
        headers: Fields = (),
        without_body: bool = False,
    ) -> None:
        self.is_answered = True
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(response(status, body, content_type, headers=headers, without_body=without_body))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._admin.loop.call_later(_PATIENCE, self.drop)
        finish(transport)
