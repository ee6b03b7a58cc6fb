"""One client's WebSocket, after the handshake: what RFC 6455 wants of it beyond the parsing of frames."""

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from mypy_extensions import mypyc_attr

from pystrands.broker.counters import Counters, new_counters
from pystrands.broker.fanout.groups import BLOCKED, CLOSED, FRAME_BYTES
from pystrands.broker.fanout.outbox import HIGH_WATER, LOW_WATER, Outbox
from pystrands.broker.fanout.pressure import acknowledged, outstanding
from pystrands.broker.net.disconnect_watch import DisconnectWatcher
from pystrands.broker.net.limits import ConnectionSlot
from pystrands.broker.net.lingering_close import Drain, cut, finish
from pystrands.broker.ws.frames import PONG, close_frame, pong_frame
from pystrands.broker.ws.incoming import (
    BACKLOG,
    BACKPRESSURE,
    CLOSING,
    FAILING,
    LOST,
    OPEN,
    OPENING,
    IncomingShared,
    MessageReceiver,
)
from pystrands.broker.ws.reading import IncomingBytes, ReadShared
from pystrands.broker.ws.reassembly import MAX_FRAGMENTS
from pystrands.protocol.close_codes import (
    ABNORMAL_CLOSURE,
    INTERNAL_ERROR,
    INVALID_PAYLOAD,
    MESSAGE_TOO_BIG,
    NO_STATUS,
    NORMAL_CLOSURE,
    PROTOCOL_ERROR,
    TRY_AGAIN_LATER,
    close_code_is_valid,
)

logger = logging.getLogger(__name__)

# Compiled code finds its module's constants at once, and searches for what is imported.
_OPENING: Final = OPENING
_OPEN: Final = OPEN
_FAILING: Final = FAILING
_CLOSING: Final = CLOSING
_LOST: Final = LOST

_COUNTERS: Final = {
    PROTOCOL_ERROR: "protocol_error",
    INVALID_PAYLOAD: "bad_utf8",
    MESSAGE_TOO_BIG: "message_too_big",
    INTERNAL_ERROR: "internal_error",
}
_CHANCES: Final = 60  # how often a peer may take `close_timeout` to get what is before our close frame
_JOINED: Final = 65_536  # bytes of frames that are joined for a last write; more are kept as they are, not twice
_PONGS: Final = 16_384  # bytes waiting from which on a pong replaces the one before it
_PONG_BYTE: Final = 0x80 | PONG


@mypyc_attr(allow_interpreted_subclasses=True)  # those that limit clients, and those of tests
class Receiver(MessageReceiver):
    """Who gets a WebSocket's messages, and hears of its end.

    What was read before the client was gone comes after `client_closed`; then `ws.is_open` is false.
    """

    __slots__ = ()

    @abstractmethod
    def client_closed(self, ws: "WebSocket", code: int, reason: str) -> None:
        """Hear, once per WebSocket, that the client is gone: nothing more is sent to it, nor read from it.

        `code` is the peer's, 1005 if its close frame was empty, 1006 if there was none; if we closed, it is ours.
        """

    def client_over(self, ws: "WebSocket", code: int, reason: str) -> None:
        """Hear, once per WebSocket, that no message will follow: after `client_closed`, with the same arguments.

        It is at once, unless reading was paused when the client went: what had been read by then comes first.
        """


class WebSocketWatch(Protocol):
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
    reads: ReadShared
    watches: Sequence[WebSocketWatch] = ()
    counters: Counters = field(default_factory=new_counters)
    max_message_size: int = 1_048_576  # bytes of a whole message, in one frame or in many
    send_limit: int = 1_048_576  # bytes waiting for one client before it is too slow
    close_timeout: float = 5.0  # seconds between our close frame and cutting the connection
    max_controls: int = 1000  # control frames of one client before `controls` is set to 0 again
    max_fragments: int = MAX_FRAGMENTS  # of one message
    lingering: set["WebSocket"] = field(default_factory=set)  # closed, and what was sent is not out yet
    leaving: set["WebSocket"] = field(default_factory=set)  # closed, and what was read is not handled yet
    hangups: DisconnectWatcher = field(init=False)
    incoming: IncomingShared = field(init=False)

    def __post_init__(self) -> None:
        self.hangups = DisconnectWatcher(self.loop)
        self.incoming = IncomingShared(
            self.loop, self.receiver, self.hangups, self.max_message_size, self.max_controls, self.max_fragments
        )


@mypyc_attr(allow_interpreted_subclasses=True)  # those of tests
class WebSocket(IncomingBytes):
    """A client's connection from the 101 on: whole messages in, whole frames out. Nothing here blocks or raises.

    `send()` works at once, messages come from the loop's next turn on. After `client_closed`, in which `closed_by_us`
    tells whose the code is, the connection lingers by itself until the peer has got our close frame or `close_timeout`
    is over, which begins anew while the kernel (Linux) says that the peer takes what was before it.
    """

    __slots__ = (
        "_chances",
        "_end",
        "_shared",
        "_taken",
        "_timer",
        "_unsent_size",
        "closed_by_us",
        "remote_addr",
        "slot",
        "unsent",
    )

    def __init__(
        self,
        shared: WebSocketShared,
        transport: asyncio.Transport,
        remote_addr: str,
        slot: ConnectionSlot | None = None,
    ) -> None:
        super().__init__(shared.incoming, shared.reads, transport, shared.send_limit)
        self._shared = shared
        self.remote_addr = remote_addr
        self.slot = slot
        self.closed_by_us = False
        self.unsent: list[bytes] = []
        """What waited when it was closed, and its transport keeps until the last byte of it is out."""
        self._unsent_size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._taken = 0  # bytes that the peer had acknowledged when that was started
        self._chances = _CHANCES
        self._end = (ABNORMAL_CLOSURE, "")  # what `client_closed` was told
        transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)

    # What the router calls.

    def send(self, frame: bytes) -> bool:
        """Send a whole frame in the next loop turn, after all that was sent before. False if it will not leave."""
        return self._shared.outbox.send(self, frame)

    def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        """Send what is queued and a close frame, and end the connection. Does nothing when it is already ending.

        `client_closed` is called before this returns. A code that must not be on the wire becomes 1011.
        """
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
            self._notify_closed(ABNORMAL_CLOSURE, "")

    @property
    def has_unfinished(self) -> bool:
        """Whether a part of a message has come, and its end has not."""
        return self.held > 0 or self._partial is not None

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept: for the peer to read, for the rest of a message, until they can be handled.

        A parser's buffer counts once it has grown.
        """
        size = self.queued + FRAME_BYTES * len(self.out) + max(self.held, self._fat)
        if self.fresh is not None:
            size += self.fresh.keys
        if self._partial is not None:
            size += self._partial.size
        if self._backlog is not None:
            size += len(self._backlog)
        transport = self.transport
        if transport is not None:
            waiting = transport.get_write_buffer_size()
            size += max(waiting, self._unsent_size if self.stuck is None else len(self.stuck))
        return size

    def give_up(self) -> None:
        """Drop what waits, and close with 1013. Not while its parser parses."""
        self.drop_backlog()
        if self._state >= _CLOSING:  # all that waits is the transport's
            self.abort()
            return
        self.out.clear()
        self.queued = 0
        is_stuck = self.flags & BLOCKED
        if not self._reading:
            self._parser = None  # at once: more is read before the loop's next turn
        self.close(TRY_AGAIN_LATER, "the server is short of memory")
        if is_stuck:  # it would keep what its transport has for as long as it does not read
            self.abort()

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
        self.transport = self.stuck = None
        self.unsent.clear()
        self._unsent_size = 0
        self._parser = None
        if self.slot is not None:
            self.slot.release()
        if telling:
            self._notify_closed(ABNORMAL_CLOSURE, "")

    def hung_up(self) -> None:
        """Hear that the peer left while reading was paused: what we didn't read of it is lost, if there was any."""
        self._parse_put_off()
        self.abort()

    # What the parser and its transport call.

    def pause_writing(self) -> None:
        """Hear that the transport has more than it can send."""
        self._shared.outbox.block(self)

    def resume_writing(self) -> None:
        """Hear that the transport takes more."""
        self._shared.outbox.unblock(self)

    def peer_left(self) -> None:
        """Hear that the peer has closed its side without a close frame; the transport closes itself after this."""
        if self._state < _CLOSING:
            self._seal()
            self._start_timer()  # it would wait for ever for a peer that doesn't read
            self._notify_closed(ABNORMAL_CLOSURE, "")

    # Incoming.

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

    # The end.

    def _fail(self, code: int, reason: str, counter: str = "") -> None:
        if self._state < _CLOSING:
            self._shared.counters[counter or _COUNTERS[code]] += 1
            self._close(code, reason)
        else:  # it is in the backlog of one who is gone
            self.drop_backlog()

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
        frames = [*self.out, last]
        self._seal()
        try:
            if not transport.is_closing():
                self._write_last(transport, frames)
        except Exception:
            logger.exception("a close frame could not be written")
        if attached:
            self._drain(transport)
        self._notify_closed(code, reason)

    def _write_last(self, transport: asyncio.Transport, frames: list[bytes]) -> None:
        """Hand all that waits to the transport. Much of it others may have as well: it is kept as it is, not copied."""
        size = sum([len(frame) for frame in frames])
        if size <= _JOINED or transport.get_extra_info("sslcontext") is not None:  # TLS makes its own of each
            data = b"".join(frames)
            transport.write(data)
            if self.flags & BLOCKED:
                self.stuck = data
            return
        transport.writelines(frames)
        if transport.get_write_buffer_size():
            if self.stuck is not None:
                frames.append(self.stuck)
            self.unsent, self._unsent_size, self.stuck = frames, sum([len(frame) for frame in frames]), None

    def _seal(self) -> None:
        """Let nothing more in or out."""
        self._state = _CLOSING
        self.flags |= CLOSED
        self.out.clear()
        self.queued = 0
        self._failure = None
        if self._handling:  # what comes after a frame that ended it
            self._backlog = None
        self._shared.hangups.forget(self)
        self.held = 0
        self._forget_grown()
        for watch in self._shared.watches:
            watch.discard(self)

    def _notify_closed(self, code: int, reason: str) -> None:
        try:
            self._shared.receiver.client_closed(self, code, reason)
        except Exception:
            logger.exception("a client's leaving could not be handled")
        self._end = (code, reason)
        self._shared.leaving.add(self)
        self.paused &= BACKPRESSURE | BACKLOG  # the other reasons are about reading
        if self._backlog is None:
            self._notify_over()
        elif self.paused == BACKLOG:
            self._shared.loop.call_soon(self._handle_backlog)

    def _is_leaving(self) -> bool:
        return self in self._shared.leaving

    def _notify_over(self) -> None:
        self._shared.leaving.discard(self)
        self._partial = None
        try:
            self._shared.receiver.client_over(self, *self._end)
        except Exception:
            logger.exception("a client's end could not be handled")

    def _drain(self, transport: asyncio.Transport) -> None:
        """End our side, and throw away what still comes until the peer ends its own."""
        transport.set_protocol(Drain(self.connection_lost))  # one that closes already has to tell us, too
        if self._parser is not None:
            self._reads.spend(self._parser)  # it may be what called us
            self._parser = None
        self._start_timer()
        finish(transport)

    def _start_timer(self) -> None:
        transport = self.transport
        if self._timer is None and transport is not None:
            self._taken = acknowledged(transport)
            self._timer = self._shared.loop.call_later(self._shared.close_timeout, self._on_timer)
            self._shared.lingering.add(self)

    def _on_timer(self) -> None:
        """Cut the connection, unless the peer is taking what is before our close frame: it can't have answered yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        transport = self.transport
        if transport is None:
            return
        self._chances -= 1
        if self._chances > 0 and outstanding(transport) and acknowledged(transport) > self._taken:
            self._start_timer()
        else:
            cut(transport)


class _Nobody(asyncio.Protocol):
    """A protocol that costs a transport nothing to keep."""

    @staticmethod
    def data_received(_: bytes) -> None:
        """Ignore it."""


_NOBODY: Final = _Nobody()
