"""One client's WebSocket, after the handshake: RFC 6455 on picows' frame parser.

All that relies on picows' internals is in this module; picows is pinned to a minor version, and the contract test in
`tests/broker/test_websocket.py` checks what is relied on:

- `WSProtocol` is picows' parser. The socket's transport has it as its protocol and feeds it; picows' own idea of the
  transport is our `WebSocket`, which is its listener as well. So whatever picows would write or close by itself comes
  to us, and leaves in order with what we send.
- The parser wants to do the handshake. It is fed a constant request, and its answer is swallowed.
- It reads one frame ahead: when frame n + 1 is broken, its close frame comes before it delivers frame n.
- It writes to the descriptor itself, unless the transport says that it is TLS and that its buffer isn't empty.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import picows
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # not exported; see above

from pystrands.broker.assembly import Assembly, BadMessageError
from pystrands.broker.fanout import Outbox
from pystrands.broker.frames import (
    ABNORMAL_CLOSURE,
    INTERNAL_ERROR,
    INVALID_PAYLOAD,
    MESSAGE_TOO_BIG,
    NO_STATUS,
    NORMAL_CLOSURE,
    POLICY_VIOLATION,
    PONG,
    PROTOCOL_ERROR,
    TRY_AGAIN_LATER,
    close_code_is_valid,
    close_frame,
    pong_frame,
)
from pystrands.broker.groups import BLOCKED, CLOSED, Group
from pystrands.broker.hangup import HangupWatcher
from pystrands.broker.limits import Place
from pystrands.broker.linger import Drain, cut, finish

logger = logging.getLogger(__name__)

HIGH_WATER: Final = 65_536  # bytes in the transport's own buffer at which we hold back
LOW_WATER: Final = 16_384

_TEXT: Final = picows.WSMsgType.TEXT
_BINARY: Final = picows.WSMsgType.BINARY
_CONTINUATION: Final = picows.WSMsgType.CONTINUATION
_CLOSE: Final = picows.WSMsgType.CLOSE
_PING: Final = picows.WSMsgType.PING

# Why a client is not read from; each reason is taken back by whoever gave it.
BACKPRESSURE: Final = 1  # what it sent has nowhere to go
TOO_FAST: Final = 2  # it has sent more than its rate allows

_OPENING, _OPEN, _FAILING, _CLOSING, _LOST = range(5)

_COUNTERS: Final = {
    PROTOCOL_ERROR: "protocol_error",
    INVALID_PAYLOAD: "bad_utf8",
    MESSAGE_TOO_BIG: "message_too_big",
    INTERNAL_ERROR: "internal_error",
}
# A parser's buffer grows with what it had to hold at once, and never shrinks.
_BIG: Final = 4096
_SLIM_INTERVAL: Final = 1.0  # seconds between fresh parsers for one client that sends much
_PONGS: Final = 16_384  # bytes waiting from which on a pong replaces the one before it
_PONG_BYTE: Final = 0x80 | PONG


class Receiver(Protocol):
    """Who gets a WebSocket's messages. What it raises is logged, and closes the WebSocket with 1011."""

    def client_message(self, ws: "WebSocket", message: str | bytes, /) -> None:
        """Take a whole message: `str` came as text, `bytes` as binary.

        It may still be called for what had already been read when reading was paused.
        """

    def client_closed(self, ws: "WebSocket", code: int, reason: str, /) -> None:
        """Hear, once per WebSocket, that no message will follow.

        `code` is the peer's, 1005 if its close frame was empty, 1006 if there was none; if we closed, it is ours.
        """


class Watch(Protocol):
    """Who looks after all WebSockets that are open."""

    def add(self, ws: "WebSocket", /) -> None:
        """Look after this one."""

    def discard(self, ws: "WebSocket", /) -> None:
        """Leave it alone; it may be one that was never added."""


@dataclass(slots=True, kw_only=True, eq=False)
class WebSocketShared:
    """What all WebSockets of a broker have in common."""

    loop: asyncio.AbstractEventLoop
    receiver: Receiver
    outbox: Outbox
    watches: Sequence[Watch] = ()
    counters: Counter[str] = field(default_factory=Counter)
    max_message_size: int = 1_048_576  # bytes of a whole message, in one frame or in many
    send_limit: int = 1_048_576  # bytes waiting for one client before it is too slow
    close_timeout: float = 5.0  # seconds between our close frame and cutting the connection
    max_controls: int = 1000  # control frames of one client before `controls` is set to 0 again
    lingering: set["WebSocket"] = field(default_factory=set)  # closed, and what was sent is not out yet
    hangups: HangupWatcher = field(init=False)

    def __post_init__(self) -> None:
        self.hangups = HangupWatcher(self.loop)


class WebSocket(picows.WSListener):
    """A client's connection from the 101 on: whole messages in, whole frames out. Nothing here blocks or raises.

    `send()` works at once, messages come from the loop's next turn on. After `client_closed`, in which `closed_by_us`
    tells whose the code is, the connection lingers by itself until the peer has got our close frame or `close_timeout`
    is over. `client` belongs to the router.
    """

    __slots__ = (
        "_fat",
        "_held",
        "_partial",
        "_proto",
        "_shared",
        "_slimmed",
        "_state",
        "_timer",
        "client",
        "closed_by_us",
        "controls",
        "flags",
        "groups",
        "held",
        "limit",
        "out",
        "paused",
        "place",
        "queued",
        "remote_addr",
        "seen",
        "silent",
        "stalled",
        "transport",
    )

    window_bits: int = 0
    """How far back in a compressed frame to this client may refer, as a power of two; 0: it takes none."""

    def __init__(
        self,
        shared: WebSocketShared,
        transport: asyncio.Transport,
        remote_addr: str,
        place: Place | None = None,
    ) -> None:
        self.client: Any = None
        self.remote_addr = remote_addr
        self.transport: asyncio.Transport | None = transport
        self.out: list[bytes] = []
        self.queued = 0
        self.flags = 0
        self.groups: tuple[Group, ...] = ()
        self.seen = 0
        self.limit = shared.send_limit
        self.silent = 0
        self.stalled = 0
        self.controls = 0
        self.held = 0  # bytes of a frame that is not whole yet
        self.paused = 0  # the reasons
        self.place = place
        self.closed_by_us = False
        self._shared = shared
        self._state = _OPENING
        self._proto: _Parser | None = None
        self._partial: Assembly | None = None  # a message whose last fragment is to come
        self._held: bytes | None = None  # picows' close frame, while the frame before the error is to come
        self._timer: asyncio.TimerHandle | None = None
        self._fat = False
        self._slimmed = 0.0
        transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)

    # What the router calls.

    @property
    def is_open(self) -> bool:
        """Whether `send()` would take a frame, were there room for it."""
        return self.flags < CLOSED

    def send(self, frame: bytes) -> bool:
        """Send a whole frame in the next loop turn, after all that was sent before. False if it will not leave."""
        return self._shared.outbox.send(self, frame)

    def close(self, code: int | None = None, reason: str = "") -> None:
        """Send what is queued and a close frame, and end the connection. Does nothing when it is already ending.

        `client_closed` is called before this returns. Without a code it is 1000; one that must not be on the wire
        becomes 1011.
        """
        if code is None:
            if self._state == _FAILING:  # picows calls this, as its transport's close(), some time after a parser error
                self._release()
                return
            code = NORMAL_CLOSURE
        if not close_code_is_valid(code):
            logger.warning("close code %d must not be sent: 1011 instead", code)
            code = INTERNAL_ERROR
        self._close(code, reason)

    def abort(self) -> None:
        """Drop the connection; nothing more is sent. `client_closed` is called with 1006 before this returns."""
        transport = self.transport
        telling = self._state < _CLOSING
        if telling:
            self._seal()
        if transport is not None:
            cut(transport, reset=True)
        if telling:
            self._tell(ABNORMAL_CLOSURE, "")

    def pause_reading(self, reason: int = BACKPRESSURE) -> None:
        """Stop reading from the peer. Its leaving is still noticed, its silence is not held against it."""
        transport = self.transport
        if self.paused:
            self.paused |= reason
            return
        if transport is None or self._state >= _FAILING or transport.is_closing():
            return
        self.paused = reason
        transport.pause_reading()
        self._shared.hangups.watch(self, _fileno(transport))

    def resume_reading(self, reason: int = BACKPRESSURE) -> None:
        """Read from the peer again, unless it is paused for another reason as well."""
        transport = self.transport
        if not self.paused & reason or transport is None:
            return
        self.paused &= ~reason
        if self.paused:
            return
        self.silent = 0
        self._shared.hangups.forget(self)
        if not transport.is_closing():
            transport.resume_reading()

    @property
    def has_unfinished(self) -> bool:
        """Whether a part of a message has come, and its end has not."""
        return self.held > 0 or self._partial is not None

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait for the peer to read, or for the rest of a message."""
        size = self.queued + self.held
        if self._partial is not None:
            size += self._partial.size
        transport = self.transport
        if transport is not None and self.flags >= BLOCKED:
            size += transport.get_write_buffer_size()
        return size

    def give_up(self) -> None:
        """Drop what waits, and close with 1013."""
        if self._state >= _CLOSING:  # all that waits is the transport's
            self.abort()
            return
        self.out.clear()
        self.queued = 0
        self.close(TRY_AGAIN_LATER, "the server is short of memory")

    # What the handshake calls, before the parser is the transport's protocol.

    def attach(self, early: bytes) -> None:
        """Take the transport over, and handle what the peer sent before it had our 101.

        Not to be called within the `data_received` of the transport's present protocol: changing its kind there breaks.
        """
        transport = self.transport
        if transport is None:
            return
        if self._state >= _CLOSING:
            self._drain(transport)
            return
        try:
            transport.set_protocol(_NOBODY)  # uvloop keeps the last one that was no BufferedProtocol: the handshake
            self._install_parser(transport)
            for watch in self._shared.watches:
                watch.add(self)
            if not self.paused:
                transport.resume_reading()
            self._feed(early)
        except Exception:
            logger.exception("a WebSocket could not be started")
            self.abort()

    def connection_lost(self) -> None:
        """Hear that the transport is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        telling = self._state < _CLOSING
        if telling:
            self._seal()
        self._state = _LOST
        self._shared.lingering.discard(self)
        self.transport = None
        self._proto = None
        if self.place is not None:
            self.place.leave()
        if telling:
            self._tell(ABNORMAL_CLOSURE, "")

    def hung_up(self) -> None:
        """Hear that the peer left while reading was paused: what it sent and we didn't read is lost with it."""
        self.abort()

    # The transport that picows sees.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Claim TLS, and a socket on which everything succeeds: picows then never writes to the descriptor itself."""
        return _QUIET_SOCKET if name in ("socket", "ssl_object") else default

    def get_write_buffer_size(self) -> int:
        """Claim that something is waiting, for the same reason."""
        return 1

    def write(self, data: bytes) -> None:
        """Take what picows writes by itself: its answer to our upgrade request, or a close frame after an error."""
        transport = self.transport
        if self._state != _OPEN or transport is None:
            return
        # Frame n + 1 is broken, frame n comes after this. Nothing may be parsed after them.
        self._state = _FAILING
        self._held = bytes(data)
        transport.set_protocol(Drain(self.connection_lost))
        self._shared.loop.call_soon(self._release)

    def writelines(self, lines: list[bytes]) -> None:
        """Take what picows writes in parts."""
        self.write(b"".join(lines))

    # What picows calls.

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Begin: the parser is past its handshake."""
        self._state = _OPEN
        # Always the same and never looked at: 1 KB per connection.
        transport.request.headers = _NO_HEADERS

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:  # noqa: ARG002 - picows' signature
        """Hear that the transport is gone."""
        self.connection_lost()

    def pause_writing(self) -> None:
        """Hear that the transport has more than it can send."""
        self._shared.outbox.block(self)

    def resume_writing(self) -> None:
        """Hear that the transport takes more."""
        self._shared.outbox.unblock(self)

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:  # noqa: ARG002 - picows'
        """Handle a frame. What is raised must not reach picows: it would go on with the next frame."""
        if self._state >= _CLOSING:
            return
        self.held = frame.tail_size
        try:
            if (
                frame.msg_type is _TEXT
                and frame.fin
                and self._partial is None
                and not (frame.rsv1 or frame.rsv2 or frame.rsv3)
            ):
                try:
                    message = frame.get_payload_as_utf8_text()
                except UnicodeDecodeError:
                    self._fail(INVALID_PAYLOAD, "invalid UTF-8")
                    return
                self.stalled = 0
                self._shared.receiver.client_message(self, message)
            else:
                self._on_other_frame(frame)
                if self._partial is None:
                    self.stalled = 0
            if self._fat or frame.payload_size + frame.tail_size >= _BIG:
                self._slim(frame)
        except Exception:
            logger.exception("a client's message could not be handled")
            self._fail(INTERNAL_ERROR, "internal error")

    # Incoming.

    def _on_other_frame(self, frame: picows.WSFrame) -> None:
        """Handle all but a whole text."""
        kind = frame.msg_type
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._fail(PROTOCOL_ERROR, "reserved bit")
        elif kind is _CONTINUATION:
            if self._partial is None:
                self._fail(PROTOCOL_ERROR, "nothing to continue")
            else:
                self._add_fragment(self._partial, frame)
        elif kind is _TEXT or kind is _BINARY:
            if self._partial is not None:
                self._fail(PROTOCOL_ERROR, "message inside a message")
            elif frame.fin:
                self._shared.receiver.client_message(self, frame.get_payload_as_bytes())
            else:
                self._partial = Assembly(text=kind is _TEXT, limit=self._shared.max_message_size)
                self._add_fragment(self._partial, frame)
        elif kind is _CLOSE:
            self._on_close_frame(frame.get_payload_as_bytes())
        elif self.controls >= self._shared.max_controls:
            self._fail(POLICY_VIOLATION, "too many pings", "control_flood")
        else:
            self.controls += 1
            if kind is _PING:
                self._pong(frame.get_payload_as_bytes())

    def _add_fragment(self, partial: Assembly, frame: picows.WSFrame) -> None:
        try:
            message = partial.add(frame.get_payload_as_bytes(), last=bool(frame.fin))
        except BadMessageError as error:
            self._fail(error.code, error.reason, error.counter)
            return
        if message is not None:
            self._partial = None
            self._shared.receiver.client_message(self, message)

    def _on_close_frame(self, payload: bytes) -> None:
        """Answer the peer's close; picows has refused a payload of one byte and a reason that is no UTF-8."""
        if not payload:
            self._finish(close_frame(), NO_STATUS, "")
            return
        code = int.from_bytes(payload[:2], "big")
        if close_code_is_valid(code):
            self._finish(close_frame(code), code, payload[2:].decode(errors="replace"))
        else:
            self._fail(PROTOCOL_ERROR, "invalid close code")

    def _pong(self, payload: bytes) -> None:
        frame = pong_frame(payload)
        out = self.out
        if out and out[-1][0] == _PONG_BYTE and (self.flags & BLOCKED or self.queued > _PONGS):
            # RFC 6455, 5.5.3: the latest is enough. A peer that only pings and never reads grows nothing.
            self.queued += len(frame) - len(out[-1])
            out[-1] = frame
        else:
            self.send(frame)

    def _feed(self, data: bytes) -> None:
        """Put `data` through the parser's own buffer, which may be smaller."""
        rest = memoryview(data)
        while rest and self._proto is not None and self._state < _FAILING:
            buffer = self._proto.get_buffer(-1)
            size = min(len(buffer), len(rest))
            buffer[:size] = rest[:size]
            del buffer  # the parser may move its memory now
            self._proto.buffer_updated(size)
            rest = rest[size:]

    # The parser.

    def _install_parser(self, transport: asyncio.Transport) -> None:
        self._state = _OPENING
        proto = self._proto = _Parser(
            host_port=None,
            ws_path=None,
            is_client_side=False,
            ws_listener_factory=self._listener,
            logger=_QUIET_LOGGER,
            disconnect_on_exception=True,
            websocket_handshake_timeout=None,
            enable_auto_ping=False,
            auto_ping_idle_timeout=0,
            auto_ping_reply_timeout=0,
            auto_ping_strategy=picows.WSAutoPingStrategy.PING_WHEN_IDLE,
            enable_auto_pong=False,
            max_frame_size=self._max_frame_size(),
            extra_headers=None,
            read_buffer_init_size=2048,
        )
        transport.set_protocol(proto)
        proto.connection_made(self)
        size = len(_UPGRADE_REQUEST)
        proto.get_buffer(-1)[:size] = _UPGRADE_REQUEST
        _updated(proto, size)  # none of it is the peer's

    def _listener(self, request: picows.WSUpgradeRequest) -> picows.WSUpgradeResponseWithListener:  # noqa: ARG002 - ours
        return picows.WSUpgradeResponseWithListener(_UPGRADE_RESPONSE, self)

    def _max_frame_size(self) -> int:
        return self._shared.max_message_size

    def _slim(self, frame: picows.WSFrame) -> None:
        """Replace a parser whose buffer has grown, once it holds nothing."""
        self._fat = True
        transport = self.transport
        if self._state != _OPEN or transport is None or frame.tail_size or not frame.last_in_buffer:
            return
        now = self._shared.loop.time()
        if now - self._slimmed < _SLIM_INTERVAL:
            return  # at the latest the answer to the next ping brings us here again
        self._fat = False
        self._slimmed = now
        old = self._proto
        self._install_parser(transport)
        self._shared.loop.call_soon(_forget, old)  # it is still running: it called us

    # The end.

    def _release(self) -> None:
        """Let picows' close frame go: the frame before the error has been delivered."""
        held, self._held = self._held, None
        if self._state != _FAILING or held is None:
            return
        code = int.from_bytes(held[2:4], "big")
        self._fail(code if code in _COUNTERS else PROTOCOL_ERROR, held[4:].decode(errors="replace"))

    def _fail(self, code: int, reason: str, counter: str = "") -> None:
        if self._state < _CLOSING:
            self._shared.counters[counter or _COUNTERS[code]] += 1
            self._close(code, reason)

    def _close(self, code: int, reason: str) -> None:
        if self._state < _CLOSING:
            self.closed_by_us = True
            self._finish(close_frame(code, reason), code, reason)

    def _finish(self, last: bytes, code: int, reason: str) -> None:
        """Send what is queued and then the close frame `last`, and give the peer time to take it."""
        transport = self.transport
        if self._state >= _CLOSING or transport is None:
            return
        attached = self._state != _OPENING  # if not, attach() will drain
        self._shared.outbox.catch_up(self)
        data = b"".join((*self.out, last))
        self._seal()
        try:
            if not transport.is_closing():
                transport.write(data)
        except Exception:
            logger.exception("a close frame could not be written")
        if attached:
            self._drain(transport)
        self._tell(code, reason)

    def _seal(self) -> None:
        """Let nothing more in or out."""
        self._state = _CLOSING
        self.flags |= CLOSED
        self.out.clear()
        self.queued = 0
        self._partial = self._held = None
        self._shared.hangups.forget(self)
        self.held = 0
        for watch in self._shared.watches:
            watch.discard(self)

    def _tell(self, code: int, reason: str) -> None:
        try:
            self._shared.receiver.client_closed(self, code, reason)
        except Exception:
            logger.exception("a client's leaving could not be handled")

    def _drain(self, transport: asyncio.Transport) -> None:
        """End our side, and throw away what still comes until the peer ends its own."""
        transport.set_protocol(Drain(self.connection_lost))  # one that closes already has to tell us, too
        if self._proto is not None:
            self._shared.loop.call_soon(_forget, self._proto)  # it may be what called us
            self._proto = None
        self._start_timer()
        finish(transport)

    def _peer_left(self) -> None:
        """Hear that the peer has closed its side without a close frame; the transport closes itself after this."""
        if self._state < _CLOSING:
            self._seal()
            self._start_timer()  # it would wait for ever for a peer that doesn't read
            self._tell(ABNORMAL_CLOSURE, "")

    def _start_timer(self) -> None:
        if self._timer is None and self.transport is not None:
            self._timer = self._shared.loop.call_later(self._shared.close_timeout, self._on_timer)
            self._shared.lingering.add(self)

    def _on_timer(self) -> None:
        self._timer = None
        if self.transport is not None:
            cut(self.transport)


class _Parser(WSProtocol):  # type: ignore[misc]  # not in picows' stubs
    """picows' protocol, and word of what it tells nobody: the peer's end of stream, and that bytes have come."""

    __slots__ = ()

    def buffer_updated(self, nbytes: int) -> None:
        ws = self.listener
        ws.silent = 0
        ws.held += nbytes  # if a frame is whole with them, it sets this to what is left
        _updated(self, nbytes)

    def eof_received(self) -> bool:
        if self.listener is not None:
            self.listener._peer_left()  # noqa: SLF001 - one thing in two classes
        return False


class _Nobody(asyncio.Protocol):
    """A protocol that costs a transport nothing to keep."""

    @staticmethod
    def data_received(_: bytes) -> None:
        """Ignore it."""


class _QuietSocket:
    """The socket that picows may tune: the real one was tuned when it was accepted."""

    def fileno(self) -> int:
        return -1

    def setsockopt(self, *_: object) -> None:
        """Ignore it."""

    def getsockopt(self, *_: object) -> int:
        return 0


class _QuietLogger:
    """picows' logger: a peer's errors are counted, not logged; what is wrong on our side is."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802, ARG002 - logging's name
        return False

    def log(self, *_: object) -> None:
        """Ignore it."""

    debug = info = warning = error = log

    def exception(self, message: str, *args: object) -> None:
        logger.exception(message, *args)  # noqa: LOG004 - picows calls it in an exception handler


def _fileno(transport: asyncio.Transport) -> int:
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else int(sock.fileno())


def _forget(_: object) -> None:
    """Hold a reference for one loop turn."""


_updated: Final = WSProtocol.buffer_updated
_NOBODY: Final = _Nobody()
_QUIET_SOCKET: Final = _QuietSocket()
_QUIET_LOGGER: Final = _QuietLogger()
_NO_HEADERS: Final[Any] = {}
_UPGRADE_RESPONSE: Final = picows.WSUpgradeResponse.create_101_response()
_UPGRADE_REQUEST: Final = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
