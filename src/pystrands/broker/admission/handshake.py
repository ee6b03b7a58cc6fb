"""From an accepted connection to a WebSocket: the HTTP request, the verdict, the answer."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from pystrands.broker.admission.origins import AllowedOrigins
from pystrands.broker.admission.policy import AdmissionPolicy
from pystrands.broker.admission.upgrade import check_upgrade, switching_protocols
from pystrands.broker.bounds import BOUNDS
from pystrands.broker.fanout.groups import NUMBERED
from pystrands.broker.net.http import BadRequestError, HttpResponse, Request
from pystrands.broker.net.http_server import HttpConnection, HttpSettings, Route, health, no_remark
from pystrands.broker.net.limits import ConnectionSlot
from pystrands.broker.net.lingering_close import cut
from pystrands.broker.net.peers import address_text
from pystrands.broker.net.pending import PendingConnections
from pystrands.broker.net.ports import Ports
from pystrands.broker.observer import Observer
from pystrands.broker.ws.compressed import CompressedWebSocket
from pystrands.broker.ws.deflate import Agreement, negotiate
from pystrands.broker.ws.frames import close_frame
from pystrands.broker.ws.websocket import WebSocket, WebSocketShared
from pystrands.protocol.v1.offer import SUBPROTOCOL, Offer, parse_offer, without_secrets

logger = logging.getLogger(__name__)

JAVASCRIPT: Final = "text/javascript; charset=utf-8"
_MAX_EARLY: Final = 16_384  # bytes kept that a client sends before it has its answer
_HEADER_BYTES: Final = 300  # what a header takes beside its text: a list, two strings and a place for them
_REFUSED: Final = 4000  # and a status of HTTP: the close code of who is not let in
_READING, _DECIDING, _ACCEPTED, _DONE = range(4)

_COUNTERS: Final = {
    400: "handshake_bad_request",
    405: "handshake_bad_request",
    408: "handshake_timeout",
    426: "handshake_not_websocket",
    431: "handshake_head_too_large",
    503: "handshake_stopping",
}
_GOING_DOWN: Final = HttpResponse.text(503, "the server is going down")
_NOT_A_WEBSOCKET: Final = HttpResponse.text(
    426, "this is a WebSocket endpoint: connect with a WebSocket client", (("Sec-WebSocket-Version", "13"),)
)


class AdmissionDecider(Protocol):
    """Who decides on clients. What it raises is logged, and refuses the client with 500."""

    def connection_request(self, handshake: "Handshake", /) -> None:
        """A client wants to come in: call `handshake.accept()` or `handshake.refuse()`, now or later."""

    def connection_gone(self, handshake: "Handshake", /) -> None:
        """Hear that a client left, or had to, before the verdict on it."""

    def is_ready(self) -> bool:
        """Tell whether clients can be served."""


class Admission:
    """Makes a `Handshake` of every connection; `protocol_factory` is for `loop.create_server()`.

    `max_head_size`: bytes of a request's head (431). `handshake_timeout`: seconds until it must be whole (408).
    `pages`: content type and body by path, for plain GET and HEAD requests. `policy`: what needs no decider; by
    default the origin alone. `compression`: whether to agree to it with clients that offer it. `handshakes` are those
    without an answer, `lingering` those that are taking theirs. `observer` is told how long it took to let a client in.
    `remark()`: what `/readyz` says besides, mostly nothing.
    `numbered`: what the WebSockets of clients that speak `pystrands.v1` have in common; without it none does.
    """

    __slots__ = (
        "closed",
        "compression",
        "decider",
        "handshake_timeout",
        "handshakes",
        "http",
        "lingering",
        "numbered",
        "observer",
        "policy",
        "reading",
        "remark",
        "routes",
        "shared",
    )

    def __init__(
        self,
        decider: AdmissionDecider,
        shared: WebSocketShared,
        *,
        max_head_size: int = 16_384,
        handshake_timeout: float = 10.0,
        pages: Mapping[str, tuple[str, bytes]] | None = None,
        policy: AdmissionPolicy | None = None,
        compression: bool = False,
        ports: Ports | None = None,
        observer: Observer | None = None,
        remark: Callable[[], str] = no_remark,
        numbered: WebSocketShared | None = None,
        silence: float = BOUNDS.silent,
    ) -> None:
        self.decider = decider
        self.remark = remark
        self.numbered = numbered
        self.compression = compression
        self.shared = shared
        self.http = HttpSettings(
            loop=shared.loop,
            purpose="WebSocket clients",
            ports=ports or Ports(),
            max_head_size=max_head_size,
            answer_time=shared.close_timeout,
        )
        self.handshake_timeout = handshake_timeout
        self.routes: dict[str, Route] = {path: _page(*page) for path, page in (pages or {}).items()}
        self.routes |= health(self.is_ready, remark)
        self.policy = policy or AdmissionPolicy(AllowedOrigins(), counters=shared.counters)
        self.handshakes: set[Handshake] = set()
        self.lingering: set[Handshake] = set()
        self.reading: PendingConnections[Handshake] = PendingConnections(
            self.policy.max_handshakes, handshake_timeout, silence
        )
        self.closed = False
        self.observer = observer

    def __len__(self) -> int:
        """How many connections are no WebSocket, or not yet."""
        return len(self.handshakes) + len(self.lingering)

    def protocol_factory(self) -> "Handshake":
        """Return the protocol of a new connection."""
        return Handshake(self)

    def after_tls(self, slot: ConnectionSlot | None, began: float) -> "Handshake":
        """Return the protocol of one that has its slot among those of its address, and was accepted at that time."""
        handshake = Handshake(self)
        handshake.take_over(slot, began)
        return handshake

    def is_ready(self) -> bool:
        """Tell whether a client would be let in now, as far as it is not about the client. Never raises."""
        try:
            return not self.closed and self.decider.is_ready()
        except Exception:
            logger.exception("readiness could not be told")
            return False

    def make_room(self, host: str) -> None:
        """If as many connections as may be are without a verdict, drop one that makes room for one of that address.

        See :class:`PendingConnections` for which. Counted as `handshake_displaced`.
        """
        if self.policy.is_crowded(len(self.handshakes)):
            one = self.reading.who_gives_way(self.policy.key(host), self.shared.loop.time(), is_full=True)
            if one is not None:
                self.shared.counters["handshake_displaced"] += 1
                one.give_up()

    def close(self) -> None:
        """Answer 503 to all that wait, and to all that still come. The decider hears that those it had are gone."""
        self.closed = True
        for handshake in list(self.handshakes):
            handshake.stop()


class Handshake(HttpConnection):
    """One connection until it is a WebSocket, or has had its answer.

    The decider may read `path` (as sent, without the query), `query_string` (as sent), `headers` (canonical names),
    `remote_addr` (`ip:port`) and `subprotocols` (as offered, in order of preference). The first call of `accept()`,
    `refuse()` or `end()` counts; later ones, and those after the client has left, do nothing.

    `offer` is what a client that speaks `pystrands.v1` says there; its secrets are in nothing else that may be read.
    `resumes`: the id of the client whose session it may go on with, if it is let in as that one.
    """

    __slots__ = (
        "_admission",
        "_agreement",
        "_headers_size",
        "_key",
        "_made",
        "_slot",
        "_state",
        "_ws",
        "began",
        "headers",
        "offer",
        "path",
        "query_string",
        "remote_addr",
        "resumes",
        "subprotocols",
    )

    def __init__(self, admission: Admission) -> None:
        super().__init__(admission.http)
        self.path = ""
        self.query_string = ""
        self.headers: dict[str, list[str]] = {}
        self.remote_addr = ""
        self.subprotocols: list[str] = []
        self.offer: Offer | None = None
        self.resumes: str | None = None
        self._admission = admission
        self._made = 0.0  # when, by an observer's clock
        self.began = admission.shared.loop.time()
        self._state = _READING
        self._agreement: Agreement | None = None  # on compression
        self._headers_size = 0  # bytes of memory, while no verdict is there
        self._key = ""
        self._slot: ConnectionSlot | None = None
        self._ws: WebSocket | None = None

    def take_over(self, slot: ConnectionSlot | None, began: float) -> None:
        """Take what a connection had before its TLS handshake was done."""
        self._slot = slot
        self.began = began

    # What the budget asks, and `PendingConnections`.

    @property
    def is_silent(self) -> bool:
        """Whether nothing has come of a request."""
        return not self._buffer

    @property
    def held_bytes(self) -> int:
        """About how many bytes of a request, or sent before its answer, are kept."""
        return len(self._buffer) + self._headers_size

    def give_up(self) -> None:
        """Drop the connection, and what it has sent."""
        self._buffer.clear()
        self.headers = {}  # now: others are given up in the same turn of the loop
        self._headers_size = 0
        if self._state == _READING:
            self._state = _DONE
            self._leave()
        if self._transport is not None:
            cut(self._transport, reset=True)

    # The verdict.

    def accept(self, subprotocol: str | None = None, headers: Sequence[tuple[str, str]] = ()) -> WebSocket | None:
        """Answer 101 and return the WebSocket, or None if the client has left.

        The WebSocket sends at once; it receives, or hears of its end, from the loop's next turn on. A `subprotocol`
        that the client did not offer is not named in the answer, nor is a header that is not valid or not for others to
        set.
        """
        transport = self._transport
        if self._state != _DECIDING or transport is None:
            return None
        if transport.is_closing():
            self._state = _DONE
            return None
        self._state = _ACCEPTED
        if subprotocol not in self.subprotocols:
            subprotocol = None
        shared, agreement, extensions = self._admission.shared, self._agreement, None
        if self.offer is not None and self._admission.numbered is not None:
            shared, subprotocol = self._admission.numbered, SUBPROTOCOL
        if agreement is None:
            ws = WebSocket(shared, transport, self.remote_addr, self._slot)
        else:
            ws = CompressedWebSocket(shared, transport, self.remote_addr, self._slot, agreement.window_bits)
            extensions = agreement.answer
        if self.offer is not None:
            ws.encoding += NUMBERED
        self._ws = ws
        transport.write(switching_protocols(self._key, subprotocol, headers, extensions))
        # Not here: this may be within data_received(), where a protocol of another kind can't be put in.
        shared.loop.call_soon(self._hand_over)
        if (observer := self._admission.observer) is not None:
            observer.on_admitted(observer.now() - self._made)
        return ws

    def refuse(self, status: int, reason: str = "", headers: Sequence[tuple[str, str]] = ()) -> None:
        """Answer with an HTTP status (300 to 599, or else it is 403) and close. `reason` becomes the body."""
        if self._state != _DECIDING:
            return
        self._admission.shared.counters["handshake_refused"] += 1
        if self.offer is None:
            self._respond(HttpResponse.text(status if 300 <= status <= 599 else 403, reason, headers))
        else:  # pages get to see no statuses, but close codes
            self._open_and_close(_REFUSED + (status if 400 <= status <= 599 else 403), reason)

    def end(self, code: int, reason: str) -> None:
        """Let a client that speaks `pystrands.v1` know with which code its session has ended."""
        if self._state == _DECIDING:
            self._open_and_close(code, reason)

    def _open_and_close(self, code: int, reason: str) -> None:
        self._finish(switching_protocols(self._key, SUBPROTOCOL) + close_frame(code, reason))

    def stop(self) -> None:
        """Answer 503 if there has been no answer yet."""
        waiting = self._state == _DECIDING
        if waiting or self._state == _READING:
            self._refuse(_GOING_DOWN)
        if waiting:
            self._notify_gone()

    # The transport's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read the request."""
        if (observer := self._admission.observer) is not None:
            self._made = observer.now()
        super().connection_made(transport)
        if self._peer[0]:
            self.remote_addr = address_text(self._peer)
        admission = self._admission
        if self._slot is None:
            self._slot = admission.policy.slot()
        admission.make_room(self._peer[0])
        answer = admission.policy.turn_away(self._peer[0], len(admission.handshakes), self._slot)
        if answer is not None:
            self._respond(answer)
            return
        admission.handshakes.add(self)
        admission.reading.enter(self, admission.policy.key(self._peer[0]))
        self._timer = admission.shared.loop.call_at(self.began + admission.handshake_timeout, self._timed_out)

    def data_received(self, data: bytes) -> None:
        """Take a part of the request, or what a client sends before it has its answer."""
        try:
            if self._state == _READING:
                request = self._read_request(data)
                if request is not None:
                    self._on_request(request)
            elif self._state != _DONE:
                self._buffer += data
                self._count(len(data))
                if len(self._buffer) > _MAX_EARLY and self._transport is not None:
                    self._transport.pause_reading()
        except Exception:
            logger.exception("a request could not be handled")
            if self._transport is not None:
                cut(self._transport, reset=True)

    def _count(self, size: int) -> None:
        meter = self._admission.shared.reads.meter
        meter.grown += size
        if meter.grown > meter.mark:
            meter.over()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up; the decider is told if it was about to decide."""
        state, self._state = self._state, _DONE
        self._leave()
        super().connection_lost(exc)
        if state == _DECIDING:
            self._notify_gone()
        elif state == _ACCEPTED and self._ws is not None:
            self._ws.connection_lost()
        if self._slot is not None:
            self._slot.release()
        self._ws = None

    def pause_writing(self) -> None:
        """Pass it on, in the loop turn before the WebSocket is the transport's protocol."""
        if self._ws is not None:
            self._ws.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        if self._ws is not None:
            self._ws.resume_writing()

    # The request.

    def _on_tls(self) -> None:
        self._admission.shared.counters["handshake_bad_request"] += 1
        super()._on_tls()

    def _on_bad_request(self, status: int, reason: str) -> None:
        self._refuse(HttpResponse.text(status, reason))

    def _on_request(self, request: Request) -> None:
        if not request.wants_websocket:
            if not self._serve(request, self._admission.routes):
                self._refuse(_NOT_A_WEBSOCKET, without_body=request.method == "HEAD")
            return
        refusal = check_upgrade(request) or self._agree(request)
        if refusal is not None:
            self._refuse(refusal)
        elif self._admission.closed:
            self._refuse(_GOING_DOWN)
        elif self._may_ask(request):
            # Short ones take many times what was sent of them, and are kept until the verdict.
            self._headers_size = request.size + _HEADER_BYTES * sum(map(len, request.headers.values()))
            self._ask(request)
            self._count(self._headers_size)

    def _agree(self, request: Request) -> HttpResponse | None:
        """Choose from the extensions that the client offers."""
        if self._admission.compression:
            try:
                self._agreement = negotiate(request.headers.get("Sec-Websocket-Extensions", ()))
            except BadRequestError as error:
                return HttpResponse.text(400, str(error))
        return None

    def _may_ask(self, request: Request) -> bool:
        policy = self._admission.policy
        client = policy.client(self._peer, request)
        if client is not self._peer:
            self.remote_addr = address_text(client)
        refusal = policy.refusal(request, self._peer, client, self._slot)
        if refusal is None:
            return True
        self._respond(refusal)
        return False

    def _ask(self, request: Request) -> None:
        self.path = request.path
        self.query_string = request.query_string
        self.headers = request.headers
        self.subprotocols = request.tokens("Sec-Websocket-Protocol")
        if SUBPROTOCOL in self.subprotocols and self._admission.numbered is not None:
            self.offer = parse_offer(self.subprotocols)
            self.subprotocols = without_secrets(self.subprotocols)
            self.headers = {**request.headers, "Sec-Websocket-Protocol": [", ".join(self.subprotocols)]}
        self._key = request.headers["Sec-Websocket-Key"][0]
        self._state = _DECIDING
        self._admission.reading.leave(self)
        self._cancel_timer()
        try:
            self._admission.decider.connection_request(self)
        except Exception:
            logger.exception("a client could not be decided on")
            self.refuse(500)

    def _serve(self, request: Request, routes: Mapping[str, Route]) -> bool:
        """Answer what is no WebSocket: health checks, pages for people who look at what this port is."""
        if not super()._serve(request, routes):
            return False
        self._state = _DONE
        return True

    # The end.

    def _hand_over(self) -> None:
        """Make the WebSocket the transport's protocol."""
        ws = self._ws
        if ws is None:  # the connection was lost within the turn
            return
        early = bytes(self._buffer)
        self._state = _DONE
        self._leave()
        self._ws = self._transport = None
        ws.attach(early)

    def _refuse(self, response: HttpResponse, *, without_body: bool = False) -> None:
        self._admission.shared.counters[_COUNTERS[response.status]] += 1
        self._respond(response, without_body=without_body)

    def _finish(self, answer: bytes, *, in_haste: bool = False) -> None:
        """Do so; when many are taking their answers, they have to be quick."""
        self._state = _DONE
        admission = self._admission
        if self._transport is not None:
            admission.handshakes.discard(self)
            admission.reading.leave(self)
            admission.lingering.add(self)
        super()._finish(answer, in_haste=in_haste or admission.policy.is_crowded(len(admission.lingering)))

    def _timed_out(self) -> None:
        self._timer = None
        if self._state == _READING:
            self._refuse(HttpResponse.text(408, "the request took too long"))

    def _leave(self) -> None:
        self._cancel_timer()
        self._buffer.clear()
        self._admission.handshakes.discard(self)
        self._admission.reading.leave(self)
        self._admission.lingering.discard(self)

    def _notify_gone(self) -> None:
        try:
            self._admission.decider.connection_gone(self)
        except Exception:
            logger.exception("a client's leaving before its verdict could not be handled")


def _page(content_type: str, body: bytes) -> Route:
    """Return the route of what is always the same. A script may be imported by pages of any host."""
    headers = (("Access-Control-Allow-Origin", "*"),) if content_type == JAVASCRIPT else ()
    response = HttpResponse(200, body, content_type, headers)
    return lambda _: response
