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
from pystrands.broker.meter import Meter
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
    IncomingFrames,
    IncomingShared,
    MessageReceiver,
)
from pystrands.broker.ws.parser import Parser, PicowsFrame, narrow, parse
from pystrands.broker.ws.reassembly import MAX_FRAGMENTS
from pystrands.broker.ws.turns import ReadTurns, monotonic
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

# For every frame: compiled code finds its module's constants at once, and searches for what is imported.
_parse: Final = parse
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
# A parser's buffer grows with what it had to hold at once, and never shrinks.
_BIG: Final = 4096
_MUCH: Final = 1024  # bytes that may be so many frames that they are worth a look at the time
_WIDE: Final = 32_768  # bytes in it from which on a read gives no more than 64 KiB
_NEXT_READ: Final = 65_536  # bytes of room that it has beside that, then
_SLIM_INTERVAL: Final = 1.0  # seconds between fresh parsers for one client that sends much
_HUGE: Final = 131_072  # bytes in it from which on a fresh one is worth its time at once
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
    watches: Sequence[WebSocketWatch] = ()
    counters: Counters = field(default_factory=new_counters)
    max_message_size: int = 1_048_576  # bytes of a whole message, in one frame or in many
    send_limit: int = 1_048_576  # bytes waiting for one client before it is too slow
    close_timeout: float = 5.0  # seconds between our close frame and cutting the connection
    max_controls: int = 1000  # control frames of one client before `controls` is set to 0 again
    max_fragments: int = MAX_FRAGMENTS  # of one message
    lingering: set["WebSocket"] = field(default_factory=set)  # closed, and what was sent is not out yet
    leaving: set["WebSocket"] = field(default_factory=set)  # closed, and what was read is not handled yet
    fat: dict["WebSocket", None] = field(default_factory=dict)  # those whose parser's buffer has grown
    meter: Meter = field(default_factory=Meter)
    hangups: DisconnectWatcher = field(init=False)
    turns: ReadTurns = field(init=False)
    incoming: IncomingShared = field(init=False)
    _spent: Parser | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.hangups = DisconnectWatcher(self.loop)
        self.turns = ReadTurns(self.loop)
        self.incoming = IncomingShared(
            self.loop, self.receiver, self.hangups, self.max_message_size, self.max_controls, self.max_fragments
        )

    def spend(self, parser: Parser | None) -> None:
        """Keep a parser that is done with for as long as it may be running: until the next one is, or the turn is over.

        Kept until then, those of hundreds of clients whose messages are whole in the same turn would be a budget's
        worth. One never parses within another's call.
        """
        if self._spent is None:
            self.loop.call_soon(self._forget)
        self._spent = parser

    def _forget(self) -> None:
        self._spent = None


@mypyc_attr(allow_interpreted_subclasses=True)  # those of tests
class WebSocket(IncomingFrames):
    """A client's connection from the 101 on: whole messages in, whole frames out. Nothing here blocks or raises.

    `send()` works at once, messages come from the loop's next turn on. After `client_closed`, in which `closed_by_us`
    tells whose the code is, the connection lingers by itself until the peer has got our close frame or `close_timeout`
    is over, which begins anew while the kernel (Linux) says that the peer takes what was before it.
    """

    __slots__ = (
        "_chances",
        "_end",
        "_fat",
        "_feeding",
        "_held",
        "_parser",
        "_reading",
        "_shared",
        "_slimmed",
        "_taken",
        "_timer",
        "_unsent_size",
        "closed_by_us",
        "held",
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
        super().__init__(shared.incoming, transport, shared.send_limit)
        self._shared = shared
        self.remote_addr = remote_addr
        self.held = 0  # bytes of a frame that is not whole yet
        self.slot = slot
        self.closed_by_us = False
        self.unsent: list[bytes] = []
        """What waited when it was closed, and its transport keeps until the last byte of it is out."""
        self._unsent_size = 0
        self._parser: Parser | None = None
        self._held: bytes | None = None  # picows' close frame, while the frame before the error is to come
        self._timer: asyncio.TimerHandle | None = None
        self._taken = 0  # bytes that the peer had acknowledged when that was started
        self._chances = _CHANCES
        self._fat = 0  # bytes that the parser's buffer has held, where it has grown
        self._slimmed = 0.0
        self._feeding = False  # what the handshake had read
        self._reading = False  # its transport is in the middle of a read
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

    @property
    def grown(self) -> int:
        """Bytes that the parser's buffer has grown to hold; 0 where it has not."""
        return self._fat

    def trim(self) -> None:
        """Give back what the parser's buffer has grown by, if nothing is in it. Not while it parses."""
        transport = self.transport
        if self._state == _OPEN and transport is not None and not self.held and not transport.is_closing():
            old = self._parser
            self._install_parser(transport)
            if self._reading:
                self._shared.spend(old)

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

    def buffer_updated(self, nbytes: int) -> None:
        """Have the parser take what the transport has put into its buffer."""
        self.silent = 0
        self.held += nbytes  # if a frame is whole with them, it sets this to what is left
        if self.held >= _MUCH:
            if self.held >= _BIG:
                self._grows()
            self._parse_much(nbytes)
        elif self._parser is not None:
            _parse(self._parser, nbytes)
        meter = self._shared.meter
        meter.grown += nbytes
        if meter.grown > meter.mark:
            self._reading = True
            meter.over()
            self._reading = False

    def _parse_much(self, nbytes: int) -> None:
        """Parse what may be hundreds of frames, or put it off: until then it stays in the parser's buffer."""
        turns, transport = self._shared.turns, self.transport
        if turns.is_over and transport is not None and not self._feeding and self._can_wait(transport):
            self.put_off = nbytes
            transport.pause_reading()
            turns.put_off(self._parse_put_off)
        else:
            self._parse_timed(nbytes)

    def _parse_timed(self, nbytes: int) -> None:
        """Parse what is in the parser's buffer, and count the time for this turn."""
        if self._parser is not None:
            began = monotonic()
            _parse(self._parser, nbytes)
            self._shared.turns.spend(began)

    @staticmethod
    def _can_wait(transport: asyncio.Transport) -> bool:
        """Whether no more comes once reading is paused; from TLS it may, and would overwrite what is not parsed."""
        return not transport.is_closing() and transport.get_extra_info("sslcontext") is None

    def _parse_put_off(self) -> None:
        """Parse what was put off, and read on."""
        nbytes, self.put_off = self.put_off, 0
        if nbytes and self._parser is not None:
            self._parse_timed(nbytes)
            transport = self.transport
            if transport is not None and not self.paused and self._state == _OPEN and not transport.is_closing():
                transport.resume_reading()

    def pause_writing(self) -> None:
        """Hear that the transport has more than it can send."""
        self._shared.outbox.block(self)

    def resume_writing(self) -> None:
        """Hear that the transport takes more."""
        self._shared.outbox.unblock(self)

    def parser_failed(self, last: bytes) -> None:
        """Take the parser's close frame. The frame before the one that is broken may come after this, no other."""
        transport = self.transport
        if self._state != _OPEN or transport is None:
            return
        self._state = _FAILING
        self._held = last
        transport.set_protocol(Drain(self.connection_lost))
        self._shared.loop.call_soon(self._release)

    def parser_closes(self) -> None:
        """End the connection, some time after `parser_failed`, or for a reason that only the parser knows."""
        if self._state == _FAILING:
            self._release()
        else:
            self.close()

    def peer_left(self) -> None:
        """Hear that the peer has closed its side without a close frame; the transport closes itself after this."""
        if self._state < _CLOSING:
            self._seal()
            self._start_timer()  # it would wait for ever for a peer that doesn't read
            self._notify_closed(ABNORMAL_CLOSURE, "")

    def on_ws_frame(self, transport: object, frame: PicowsFrame) -> None:  # noqa: ARG002 - picows'
        """Take a frame from the parser."""
        if self._state >= _CLOSING:
            return
        self.held = frame.tail_size
        if self.paused:
            self._keep(frame)
        else:
            self._handle(frame)
        if self._fat:
            self._slim(frame)

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

    def _feed(self, data: bytes) -> None:
        """Put `data` through the parser's own buffer, which may be smaller."""
        rest = memoryview(data)
        self._feeding = True
        while rest and self._parser is not None and self._state < _FAILING:
            buffer = self._parser.get_buffer(-1)
            size = min(len(buffer), len(rest))
            buffer[:size] = rest[:size]
            del buffer  # the parser may move its memory now
            self.buffer_updated(size)
            rest = rest[size:]
        self._feeding = False

    # The parser.

    def _install_parser(self, transport: asyncio.Transport) -> None:
        self._state = _OPENING  # what the parser answers to its handshake is nobody's
        self._parser = Parser(self, self._max_frame_size())
        if self._fat:
            self._fat = 0
            self._shared.fat.pop(self, None)
        self._state = _OPEN
        transport.set_protocol(self._parser)

    def _max_frame_size(self) -> int:
        return self._shared.max_message_size

    def _grows(self) -> None:
        """The parser holds so much that its buffer grows."""
        self._shared.fat[self] = None
        is_wide = self.held >= _WIDE
        self._fat = max(self._fat, self.held + _NEXT_READ if is_wide else self.held)
        if is_wide and self._parser is not None and self.transport is not None and narrow(self._parser):
            self.transport.set_protocol(self._parser)

    def _slim(self, frame: PicowsFrame) -> None:
        """Replace a parser whose buffer has grown, once it holds nothing."""
        transport = self.transport
        if self._state != _OPEN or transport is None or frame.tail_size or not frame.last_in_buffer:
            return
        now = self._shared.loop.time()
        if now - self._slimmed < _SLIM_INTERVAL and self._fat < _HUGE:
            return  # the next look at the memory does it, or the answer to the next ping
        self._slimmed = now
        old = self._parser
        try:
            self._install_parser(transport)
        except Exception:
            logger.exception("a client's parser could not be replaced")
            self._fail(INTERNAL_ERROR, "internal error")
        self._shared.spend(old)  # it is still running: it called us

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
        self._held = None
        if self._handling:  # what comes after a frame that ended it
            self._backlog = None
        self._shared.hangups.forget(self)
        self.held = 0
        if self._fat:
            self._fat = 0
            self._shared.fat.pop(self, None)
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
            self._shared.spend(self._parser)  # it may be what called us
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
