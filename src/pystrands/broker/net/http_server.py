"""HTTP with one request and one answer a connection: for probes, for people who look, for programs that ask."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from pystrands.broker.net.http import BadRequestError, HttpResponse, NotHttpError, Request, read_request
from pystrands.broker.net.lingering_close import cut, finish
from pystrands.broker.net.listening import ServerGroup, hosts, listen_on, on_one_port
from pystrands.broker.net.peers import PeerAddress, address_text, peer_of
from pystrands.broker.net.ports import Ports

__all__ = ["HttpConnection", "HttpServer", "HttpSettings", "Route", "health", "no_remark"]

logger = logging.getLogger(__name__)

_TLS_HANDSHAKE: Final = 0x16
_JSON: Final = 0x7B  # an opening brace
_METHODS: Final = ("GET", "HEAD")
_SHOWN: Final = 100
_FAILED: Final = HttpResponse.text(500, "this could not be answered; the log says why")

Route: TypeAlias = Callable[[Request], "HttpResponse | Coroutine[Any, Any, HttpResponse]"]
"""Answers a request for one path, at once or later. What it raises is logged, and answered with 500."""


@dataclass(slots=True, frozen=True, kw_only=True)
class HttpSettings:
    """What all connections to a port have in common.

    ``purpose``: what the port is for, in words. ``max_head_size``: bytes of a request's head (431). ``answer_time``:
    seconds that a peer has to take its answer.
    """

    loop: asyncio.AbstractEventLoop
    purpose: str
    ports: Ports
    max_head_size: int = 16_384
    answer_time: float = 10.0


def no_remark() -> str:
    """Return that there is nothing to say."""
    return ""


def health(is_ready: Callable[[], bool], remark: Callable[[], str] = no_remark) -> dict[str, Route]:
    """Return the routes for those who watch the broker: whether it lives, and whether clients can be served.

    ``remark()`` is what is to be said to that; mostly it is empty.
    """

    def ready(_: Request) -> HttpResponse:
        text = remark()
        if is_ready():
            return HttpResponse(200, f"{text or 'ready'}\n".encode())
        return HttpResponse(503, f"not ready{text and '; '}{text}\n".encode())

    return {"/healthz": lambda _: HttpResponse(200, b"ok\n"), "/readyz": ready}


class HttpConnection(asyncio.Protocol):
    """One request and its answer. What derives from this says what is done with a request; it may be more than this.

    ``is_answered`` is whether an answer was written, or is being made.
    """

    __slots__ = ("_answering", "_buffer", "_http", "_peer", "_timer", "_transport", "is_answered")

    def __init__(self, http: HttpSettings) -> None:
        self._http = http
        self._buffer = bytearray()
        self._peer: PeerAddress = ("", 0)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answering: asyncio.Task[None] | None = None
        self.is_answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and note who it is."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._peer = peer_of(transport) or self._peer

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Let go of everything."""
        self._transport = None
        self._cancel_timer()
        if self._answering is not None:
            self._answering.cancel()

    # The request.

    def _read_request(self, data: bytes) -> Request | None:
        """Take a part of the request; return it once its head is whole. What is none is answered here."""
        try:
            return read_request(self._buffer, data, self._http.max_head_size)
        except NotHttpError as error:
            if error.first == _TLS_HANDSHAKE:
                self._on_tls()
            elif error.first == _JSON:
                self._on_bad_request(400, self._http.ports.backend_at(self._http.purpose, address_text(self._peer)))
            else:
                self._on_bad_request(400, str(error))
        except BadRequestError as error:
            self._on_bad_request(error.status, str(error))
        return None

    def _on_tls(self) -> None:
        """Drop a peer that would not understand an answer."""
        self.is_answered = True
        if self._transport is not None:
            cut(self._transport)

    def _on_bad_request(self, status: int, reason: str) -> None:
        """Answer what is no request that can be read."""
        self._respond(HttpResponse.text(status, reason))

    # The answer.

    def _serve(self, request: Request, routes: Mapping[str, Route]) -> bool:
        """Answer a GET or HEAD for a path that there is. False for all else, which is not answered."""
        route = routes.get(request.path) if request.method in _METHODS else None
        if route is None:
            return False
        self.is_answered = True
        without_body = request.method == "HEAD"
        try:
            answer = route(request)
        except Exception:
            logger.exception("%s could not be answered", ascii(request.path[:_SHOWN]))
            answer = _FAILED
        if isinstance(answer, HttpResponse):
            self._respond(answer, without_body=without_body)
        else:
            self._answering = self._http.loop.create_task(self._respond_later(request, answer, without_body))
        return True

    async def _respond_later(self, request: Request, answer: Awaitable[HttpResponse], without_body: bool) -> None:
        try:
            response = await answer
        except Exception:
            logger.exception("%s could not be answered", ascii(request.path[:_SHOWN]))
            response = _FAILED
        self._respond(response, without_body=without_body)

    def _respond(self, response: HttpResponse, *, without_body: bool = False) -> None:
        self._finish(response.render(without_body=without_body))

    def _finish(self, answer: bytes, *, in_haste: bool = False) -> None:
        """Write the answer, and see to it that the peer gets it; ``in_haste`` means only if it takes it at once."""
        self.is_answered = True
        self._cancel_timer()
        transport = self._transport
        if transport is None:
            return
        if not transport.is_closing():
            transport.write(answer)
        self._timer = self._http.loop.call_later(self._http.answer_time, cut, transport)
        if in_haste:
            transport.close()
        else:
            finish(transport)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class HttpServer:
    """Listens from :meth:`start` to :meth:`close`, and answers GET and HEAD by path.

    ``routes``: by path. At most ``max_connections`` at a time: for one more the oldest goes, one whose request has not
    come if there is any. None has more than ``request_time`` seconds for its request.
    """

    def __init__(
        self,
        settings: HttpSettings,
        routes: Mapping[str, Route],
        *,
        max_connections: int = 64,
        request_time: float = 10.0,
    ) -> None:
        self.settings = settings
        self.routes = routes
        self.request_time = request_time
        self.connections: dict[_ServerConnection, None] = {}  # the oldest first
        self._max_connections = max_connections
        self._server: asyncio.Server | ServerGroup | None = None

    async def start(self, host: str, port: int, sockets: Sequence[socket.socket] = ()) -> None:
        """Listen; on these sockets if there are any. Raises OSError when the address can't be had."""

        def factory() -> "_ServerConnection":
            return _ServerConnection(self)

        if sockets:
            self._server = await listen_on(sockets, factory)
        else:
            self._server = await on_one_port(
                lambda port: self.settings.loop.create_server(factory, hosts(host), port), port
            )

    @property
    def port(self) -> int:
        """The port, once it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def enter(self, connection: "_ServerConnection") -> None:
        """Take a new connection in. Who knows what he wants asks at once, so it is never the newest that goes."""
        if len(self.connections) >= self._max_connections:
            silent = (each for each in self.connections if not each.is_answered)
            (next(silent, None) or next(iter(self.connections))).drop()
        self.connections[connection] = None

    def stop_listening(self) -> None:
        """Take no more connections; those that there are get their answers."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Stop listening, and drop the connections that there are."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self.connections):
            connection.drop()
        await self._server.wait_closed()


class _ServerConnection(HttpConnection):
    __slots__ = ("_server",)

    def __init__(self, server: HttpServer) -> None:
        super().__init__(server.settings)
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.enter(self)
        self._timer = self._http.loop.call_later(self._server.request_time, self.drop)

    def data_received(self, data: bytes) -> None:
        if self.is_answered:  # one request a connection; what follows is not read
            return
        request = self._read_request(data)
        if request is None or self._serve(request, self._server.routes):
            return
        without_body = request.method == "HEAD"
        if request.method in _METHODS:
            self._respond(HttpResponse.text(404, f"here are {_listed(self._server.routes)}"), without_body=without_body)
        else:
            self._respond(HttpResponse.text(405, "only GET and HEAD", (("Allow", "GET, HEAD"),)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.pop(self, None)
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close it now."""
        self._server.connections.pop(self, None)
        if self._transport is not None:
            cut(self._transport)


def _listed(paths: Mapping[str, object]) -> str:
    """Write paths as people list them."""
    *others, last = paths
    return f"{', '.join(others)} and {last}" if others else last
