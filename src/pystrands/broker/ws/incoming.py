"""The incoming side of a client's WebSocket: frames become messages, and wait while nobody takes any."""

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import Final

from mypy_extensions import mypyc_attr

from pystrands.broker.events.stream import ClientStream
from pystrands.broker.fanout.groups import CLOSED, Recipient
from pystrands.broker.net.disconnect_watch import DisconnectWatcher
from pystrands.broker.ws.backlog import Backlog
from pystrands.broker.ws.parser import BINARY, CLOSE, CONTINUATION, PING, TEXT, PicowsFrame
from pystrands.broker.ws.reassembly import BadMessageError, Reassembly
from pystrands.protocol.close_codes import (
    INTERNAL_ERROR,
    INVALID_PAYLOAD,
    NORMAL_CLOSURE,
    POLICY_VIOLATION,
    PROTOCOL_ERROR,
)

__all__ = [
    "BACKLOG",
    "BACKPRESSURE",
    "CLOSING",
    "FAILING",
    "LOST",
    "OPEN",
    "OPENING",
    "TOO_FAST",
    "IncomingFrames",
    "IncomingShared",
    "MessageReceiver",
]

logger = logging.getLogger(__name__)

# Why a client is not read from; each reason is taken back by whoever gave it.
BACKPRESSURE: Final = 1  # what it sent has nowhere to go
TOO_FAST: Final = 2  # it has sent more than its rate allows
BACKLOG: Final = 4  # our own: some of what was read has not been handled

# The states of a WebSocket, in their order.
OPENING: Final = 0
OPEN: Final = 1
FAILING: Final = 2
CLOSING: Final = 3
LOST: Final = 4

# For every frame: compiled code finds its module's constants at once, and searches for what is imported.
_TEXT: Final = TEXT


@mypyc_attr(allow_interpreted_subclasses=True)  # those that limit clients, and those of tests
class MessageReceiver(ABC):
    """Who gets messages. What it raises is logged, and closes the WebSocket with 1011."""

    __slots__ = ()

    @abstractmethod
    def client_message(self, ws: "IncomingFrames", message: str | bytes) -> None:
        """Take a whole message: `str` came as text, `bytes` as binary. None comes while reading is paused."""


class IncomingShared:
    """What the incoming sides of all WebSockets of a broker have in common."""

    __slots__ = ("hangups", "loop", "max_controls", "max_fragments", "max_message_size", "receiver")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        receiver: MessageReceiver,
        hangups: DisconnectWatcher,
        max_message_size: int,
        max_controls: int,
        max_fragments: int,
    ) -> None:
        self.loop = loop
        self.receiver = receiver
        self.hangups = hangups
        self.max_message_size = max_message_size
        self.max_controls = max_controls
        self.max_fragments = max_fragments


@mypyc_attr(allow_interpreted_subclasses=True)  # those of tests
class IncomingFrames(Recipient):
    """What a WebSocket does with the frames that its parser has found; a WebSocket is the only one there is.

    A message goes to the receiver, unless reading is paused: then it waits, as the frames that it came in.
    """

    __slots__ = (
        "_backlog",
        "_handling",
        "_incoming",
        "_partial",
        "_state",
        "client",
        "controls",
        "paused",
        "put_off",
        "silent",
        "stalled",
    )

    def __init__(self, shared: IncomingShared, transport: asyncio.Transport, limit: int) -> None:
        super().__init__(transport, limit)
        self._incoming = shared
        self.client: ClientStream | None = None
        """Whose it is, from when that is let in until nothing follows any more: the receiver's to set."""
        self._state = OPENING
        self._partial: Reassembly | None = None  # a message whose last fragment is to come
        self._backlog: Backlog | None = None  # data frames that came while it is paused
        self._handling = False  # one of those
        self.silent = 0  # visits of the keep-alive since a byte was received
        self.stalled = 0  # visits of the message watch that found the same message unfinished
        self.controls = 0  # control frames since its last visit
        self.paused = 0  # the reasons
        self.put_off = 0  # bytes that were read and are parsed in a later turn, when it is read on

    @property
    def is_open(self) -> bool:
        """Whether `send()` would take a frame, were there room for it."""
        return self.flags < CLOSED

    @property
    def has_backlog(self) -> bool:
        """Whether something was read that is not handled yet."""
        return self._backlog is not None

    # What is the WebSocket's.

    def send(self, frame: bytes) -> bool:
        """Send a whole frame in the next loop turn, after all that was sent before. False if it will not leave."""
        raise NotImplementedError

    def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        """Send what is queued and a close frame, and end the connection."""
        raise NotImplementedError

    def hung_up(self) -> None:
        """Hear that the peer left while reading was paused."""
        raise NotImplementedError

    def _fail(self, code: int, reason: str, counter: str = "") -> None:
        """Close for what the peer did; if it is gone, drop the rest of what waits."""
        raise NotImplementedError

    def _on_close_frame(self, payload: bytes) -> None:
        raise NotImplementedError

    def _pong(self, payload: bytes) -> None:
        raise NotImplementedError

    def _notify_over(self) -> None:
        """Tell the receiver of one who is gone that no message follows."""
        raise NotImplementedError

    def _is_leaving(self) -> bool:
        """Whether it is gone, and that was not told yet."""
        raise NotImplementedError

    # Pausing.

    def pause_reading(self, reason: int = BACKPRESSURE) -> None:
        """Stop reading from the peer, and keep what has been read already, but for control frames.

        Its leaving is still noticed, its silence is not held against it.
        """
        transport = self.transport
        if self.paused:
            self.paused |= reason
            return
        if transport is None or self._state >= FAILING or transport.is_closing():
            return
        self.paused = reason
        transport.pause_reading()
        self._incoming.hangups.watch(self, _fileno(transport))

    def resume_reading(self, reason: int = BACKPRESSURE) -> None:
        """Read from the peer again, unless it is paused for another reason as well.

        What was kept is handled first, from the loop's next turn on.
        """
        if not self.paused & reason:
            return
        self.paused &= ~reason
        if self.paused == BACKLOG:
            self._incoming.loop.call_soon(self._handle_backlog)
        elif not self.paused:
            self._read_on()

    def drop_backlog(self) -> None:
        """Forget what was read and is not handled."""
        if self._backlog is not None:
            self._backlog = None
            self._backlog_is_over()

    # Frames.

    def _handle(self, frame: PicowsFrame) -> None:
        """Handle a frame. What is raised must not reach picows: it would go on with the next frame."""
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
                self._incoming.receiver.client_message(self, message)
            else:
                self._on_other_frame(frame)
                if self._partial is None:
                    self.stalled = 0
        except Exception:
            logger.exception("a client's message could not be handled")
            self._fail(INTERNAL_ERROR, "internal error")

    def _keep(self, frame: PicowsFrame) -> None:
        """Keep a frame until its turn comes; a control frame's is now."""
        kind = frame.msg_type
        if kind is not TEXT and kind is not BINARY and kind is not CONTINUATION:
            self._handle(frame)
            return
        if self._backlog is None:
            self._backlog = Backlog()
            self.paused |= BACKLOG
        self._backlog.add(frame)

    def _handle_backlog(self) -> None:
        """Handle what was kept, until reading is paused again."""
        backlog = self._backlog
        if backlog is None or self.paused != BACKLOG:
            return
        self._handling = True
        while self.paused == BACKLOG and self._backlog is not None and not backlog.is_empty:
            self._handle(backlog.take())
        self._handling = False
        if self._backlog is not None and backlog.is_empty:
            self._backlog = None
            self._backlog_is_over()

    def _backlog_is_over(self) -> None:
        self.paused &= ~BACKLOG
        if self._is_leaving():
            self._notify_over()
        elif not self.paused:
            self._read_on()

    def _read_on(self) -> None:
        transport = self.transport
        if transport is None:
            return
        self.silent = 0
        self._incoming.hangups.forget(self)
        if not transport.is_closing() and not self.put_off:
            transport.resume_reading()

    def _on_other_frame(self, frame: PicowsFrame) -> None:
        """Handle all but a whole text."""
        kind = frame.msg_type
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._fail(PROTOCOL_ERROR, "reserved bit")
        elif kind is CONTINUATION:
            if self._partial is None:
                self._fail(PROTOCOL_ERROR, "nothing to continue")
            else:
                self._add_fragment(self._partial, frame)
        elif kind is TEXT or kind is BINARY:
            if self._partial is not None:
                self._fail(PROTOCOL_ERROR, "message inside a message")
            elif frame.fin:
                self._incoming.receiver.client_message(self, frame.get_payload_as_bytes())
            else:
                shared = self._incoming
                self._partial = Reassembly(
                    text=kind is TEXT, limit=shared.max_message_size, fragments=shared.max_fragments
                )
                self._add_fragment(self._partial, frame)
        elif kind is CLOSE:
            self._on_close_frame(frame.get_payload_as_bytes())
        elif self.controls >= self._incoming.max_controls:
            self._fail(POLICY_VIOLATION, "too many pings", "control_flood")
        else:
            self.controls += 1
            if kind is PING:
                self._pong(frame.get_payload_as_bytes())

    def _add_fragment(self, partial: Reassembly, frame: PicowsFrame) -> None:
        try:
            message = partial.add(frame.get_payload_as_bytes(), last=frame.fin != 0)
        except BadMessageError as error:
            self._fail(error.code, error.reason, error.counter)
            return
        if message is not None:
            self._partial = None
            self._incoming.receiver.client_message(self, message)


def _fileno(transport: asyncio.Transport) -> int:
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else int(sock.fileno())
