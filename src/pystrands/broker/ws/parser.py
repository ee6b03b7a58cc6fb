"""picows' frame parser, between a socket's transport and the WebSocket that gets the frames.

All that relies on picows' internals is in this module; picows is pinned to a minor version, and the contract test in
`tests/broker/ws/test_websocket.py` checks what is relied on:

- `WSProtocol` is picows' parser. The socket's transport has it as its protocol and feeds it; picows' own idea of the
  transport is our listener. So whatever picows would write or close by itself comes to the WebSocket, and leaves in
  order with what that sends.
- The parser wants to do the handshake. It is fed a constant request, and its answer is swallowed.
- It reads one frame ahead: when frame n + 1 is broken, its close frame comes before it delivers frame n.
- It writes to the descriptor itself, unless the transport says that it is TLS and that its buffer isn't empty.
- Its buffer grows when a read fills it. Once it has grown, `narrow` makes it a class that gives the transport no more
  than 64 KiB of it at a time: the transport has to be told, since it may have looked `get_buffer` up already.
- What it and uvloop call for every read and frame they look up on the instance: a slot is enough, and costs no frame of
  the interpreter.
- A frame's kind is an enumeration's member, which picows looks up on the class that its module knows by that name.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol

import picows
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # not exported; see above

__all__ = ["BINARY", "CLOSE", "CONTINUATION", "PING", "TEXT", "Parser", "ParserUser", "PicowsFrame", "narrow", "parse"]

logger = logging.getLogger(__name__)

_READ: Final = 65_536  # bytes

TEXT: Final = picows.WSMsgType.TEXT
BINARY: Final = picows.WSMsgType.BINARY
CONTINUATION: Final = picows.WSMsgType.CONTINUATION
CLOSE: Final = picows.WSMsgType.CLOSE
PING: Final = picows.WSMsgType.PING


def _hasten_kinds() -> None:
    """Have picows look the members up on a plain class: on that of an enumeration it costs Python 3.11 a detour.

    They stay the same, for everybody. An echo costs the broker 0.12 microseconds less.
    """
    members = {**picows.WSMsgType.__members__, "__new__": lambda _, value: picows.WSMsgType(value)}
    plain = type("WSMsgType", (), members)
    setattr(picows.picows, "WSMsgType", plain)  # noqa: B010 - not in picows' stubs


if sys.version_info < (3, 12):  # which has no EnumType.__getattr__
    _hasten_kinds()


class PicowsFrame(Protocol):
    """What picows tells of a frame, for as long as `on_ws_frame` runs. What its stubs call bool is an int."""

    msg_type: picows.WSMsgType
    fin: int
    rsv1: int
    rsv2: int
    rsv3: int
    payload_size: int
    tail_size: int
    """Bytes in the buffer after this frame."""
    last_in_buffer: int
    """Whether no other whole frame is."""

    def get_payload_as_bytes(self) -> bytes:
        """Copy the payload."""

    def get_payload_as_memoryview(self) -> memoryview:
        """Show the payload where it is, for as long as that is valid."""

    def get_payload_as_utf8_text(self) -> str:
        """Decode the payload. Raises UnicodeDecodeError."""


class ParserUser(Protocol):
    """Whose frames a parser finds."""

    def buffer_updated(self, nbytes: int) -> None:
        """Have the parser take what the transport has put into its buffer."""

    def on_ws_frame(self, transport: object, frame: PicowsFrame) -> None:
        """Take a frame."""

    def pause_writing(self) -> None:
        """Hear that the transport has more than it can send."""

    def resume_writing(self) -> None:
        """Hear that the transport takes more."""

    def parser_failed(self, last: bytes) -> None:
        """Take the close frame that the parser answers an error with."""

    def parser_closes(self) -> None:
        """End the connection."""

    def peer_left(self) -> None:
        """Hear that the peer has closed its side without a close frame."""

    def connection_lost(self) -> None:
        """Hear that the transport is gone."""


parse: Final[Callable[["Parser", int], None]] = WSProtocol.buffer_updated
"""Parse so many bytes that are new in the parser's buffer, and deliver the frames that are whole with them."""


class Parser(WSProtocol):  # type: ignore[misc]  # not in picows' stubs
    """A parser whose next bytes are a client's first frame.

    Its transport, which may have it as protocol from now on, tells `ws.buffer_updated` of bytes in the buffer that
    `get_buffer` gave, which may be smaller than asked for; `ws` has them parsed. Raises nothing.
    """

    __slots__ = ("_ws", "buffer_updated")

    def __init__(self, ws: ParserUser, max_frame_size: int) -> None:
        super().__init__(
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
            max_frame_size=max_frame_size,
            extra_headers=None,
            read_buffer_init_size=2048,
        )
        self._ws = ws
        self.buffer_updated = ws.buffer_updated
        self.connection_made(_Listener(ws))
        size = len(_UPGRADE_REQUEST)
        self.get_buffer(-1)[:size] = _UPGRADE_REQUEST
        parse(self, size)

    def _listener(self, request: picows.WSUpgradeRequest) -> picows.WSUpgradeResponseWithListener:  # noqa: ARG002 - ours
        return picows.WSUpgradeResponseWithListener(_UPGRADE_RESPONSE, self.transport.underlying_transport)

    def eof_received(self) -> bool:
        """Pass on what picows tells nobody: the peer has closed its side."""
        self._ws.peer_left()
        return False


class _NarrowParser(Parser):
    """One whose buffer has grown. A read of all of it could bring 150,000 small messages at once."""

    __slots__ = ()

    def get_buffer(self, size_hint: int) -> memoryview:
        buffer: memoryview = super().get_buffer(size_hint)
        return buffer if len(buffer) <= _READ else buffer[:_READ]


def narrow(parser: Parser) -> bool:
    """Have a parser take at most 64 KiB in one read from now on; False if it does so already."""
    if type(parser) is not Parser:
        return False
    parser.__class__ = _NarrowParser
    return True


class _Listener(picows.WSListener):
    """What picows tells of, and, since `Parser` says so, what it takes for the transport."""

    __slots__ = ("_ws", "on_ws_frame")

    def __init__(self, ws: ParserUser) -> None:
        self._ws = ws
        self.on_ws_frame = ws.on_ws_frame  # type: ignore[assignment, method-assign]  # see above

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        # Always the same and never looked at: 1 KB per connection.
        transport.request.headers = _NO_HEADERS

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:  # noqa: ARG002 - picows' signature
        self._ws.connection_lost()

    def pause_writing(self) -> None:
        self._ws.pause_writing()

    def resume_writing(self) -> None:
        self._ws.resume_writing()

    # The transport.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Claim TLS, and a socket on which everything succeeds: picows then never writes to the descriptor itself."""
        return _QUIET_SOCKET if name in ("socket", "ssl_object") else default

    def get_write_buffer_size(self) -> int:
        """Claim that something is waiting, for the same reason."""
        return 1

    def write(self, data: bytes) -> None:
        """Take what picows writes by itself: its answer to our upgrade request, or a close frame after an error."""
        self._ws.parser_failed(bytes(data))

    def writelines(self, lines: list[bytes]) -> None:
        """Take what picows writes in parts."""
        self.write(b"".join(lines))

    def close(self) -> None:
        """End the connection."""
        self._ws.parser_closes()

    abort = close


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


_QUIET_SOCKET: Final = _QuietSocket()
_QUIET_LOGGER: Final = _QuietLogger()
_NO_HEADERS: Final[Any] = {}
_UPGRADE_RESPONSE: Final = picows.WSUpgradeResponse.create_101_response()
_UPGRADE_REQUEST: Final = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
