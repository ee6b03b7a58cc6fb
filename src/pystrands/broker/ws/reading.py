"""What a client's WebSocket reads: bytes become frames, in a parser whose buffer is kept small."""

import asyncio
import logging
from typing import Final

from mypy_extensions import mypyc_attr

from pystrands.broker.meter import Meter
from pystrands.broker.net.lingering_close import Drain
from pystrands.broker.ws.incoming import CLOSING, FAILING, OPEN, OPENING, IncomingFrames, IncomingShared
from pystrands.broker.ws.parser import Parser, PicowsFrame, narrow, parse
from pystrands.broker.ws.turns import ReadTurns, monotonic
from pystrands.protocol.close_codes import INTERNAL_ERROR, INVALID_PAYLOAD, MESSAGE_TOO_BIG, PROTOCOL_ERROR

__all__ = ["IncomingBytes", "ReadShared"]

logger = logging.getLogger(__name__)

# For every frame: compiled code finds its module's constants at once, and searches for what is imported.
_parse: Final = parse
_OPENING: Final = OPENING
_OPEN: Final = OPEN
_FAILING: Final = FAILING
_CLOSING: Final = CLOSING

_FAILURES: Final = frozenset({PROTOCOL_ERROR, INVALID_PAYLOAD, MESSAGE_TOO_BIG, INTERNAL_ERROR})
# A parser's buffer grows with what it had to hold at once, and never shrinks.
_BIG: Final = 4096
_MUCH: Final = 1024  # bytes that may be so many frames that they are worth a look at the time
_WIDE: Final = 32_768  # bytes in it from which on a read gives no more than 64 KiB
_NEXT_READ: Final = 65_536  # bytes of room that it has beside that, then
_SLIM_INTERVAL: Final = 1.0  # seconds between fresh parsers for one client that sends much
_HUGE: Final = 131_072  # bytes in it from which on a fresh one is worth its time at once


class ReadShared:
    """What reading from all WebSockets of a broker has in common."""

    __slots__ = ("_spent", "fat", "loop", "meter", "turns")

    def __init__(self, loop: asyncio.AbstractEventLoop, meter: Meter | None = None) -> None:
        self.loop = loop
        self.meter = meter or Meter()
        self.turns = ReadTurns(loop)
        self.fat: dict[IncomingBytes, None] = {}
        """Those whose parser's buffer has grown."""
        self._spent: Parser | None = None

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
class IncomingBytes(IncomingFrames):
    """What a WebSocket does with the bytes that its transport has read; a WebSocket is the only one there is.

    The parser is the transport's protocol, and has the buffer that the transport reads into. Once that has grown the
    parser is replaced, as soon as it holds nothing.
    """

    __slots__ = ("_failure", "_fat", "_feeding", "_parser", "_reading", "_reads", "_slimmed", "held")

    def __init__(self, shared: IncomingShared, reads: ReadShared, transport: asyncio.Transport, limit: int) -> None:
        super().__init__(shared, transport, limit)
        self._reads = reads
        self.held = 0  # bytes of a frame that is not whole yet
        self._parser: Parser | None = None
        self._failure: bytes | None = None  # picows' close frame, while the frame before the error is to come
        self._fat = 0  # bytes that the parser's buffer has held, where it has grown
        self._slimmed = 0.0
        self._feeding = False  # what the handshake had read
        self._reading = False  # its transport is in the middle of a read

    # What is the WebSocket's.

    def pause_writing(self) -> None:
        """Hear that the transport has more than it can send."""
        raise NotImplementedError

    def resume_writing(self) -> None:
        """Hear that the transport takes more."""
        raise NotImplementedError

    def peer_left(self) -> None:
        """Hear that the peer has closed its side without a close frame; the transport closes itself after this."""
        raise NotImplementedError

    def connection_lost(self) -> None:
        """Hear that the transport is gone."""
        raise NotImplementedError

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
        meter = self._reads.meter
        meter.grown += nbytes
        if meter.grown > meter.mark:
            self._reading = True
            meter.over()
            self._reading = False

    def _parse_much(self, nbytes: int) -> None:
        """Parse what may be hundreds of frames, or put it off: until then it stays in the parser's buffer."""
        turns, transport = self._reads.turns, self.transport
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
            self._reads.turns.spend(began)

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

    def parser_failed(self, last: bytes) -> None:
        """Take the parser's close frame. The frame before the one that is broken may come after this, no other."""
        transport = self.transport
        if self._state != _OPEN or transport is None:
            return
        self._state = _FAILING
        self._failure = last
        transport.set_protocol(Drain(self.connection_lost))
        self._reads.loop.call_soon(self._release)

    def parser_closes(self) -> None:
        """End the connection, some time after `parser_failed`, or for a reason that only the parser knows."""
        if self._state == _FAILING:
            self._release()
        else:
            self.close()

    def _release(self) -> None:
        """Let picows' close frame go: the frame before the error has been delivered."""
        last, self._failure = self._failure, None
        if self._state != _FAILING or last is None:
            return
        code = int.from_bytes(last[2:4], "big")
        self._fail(code if code in _FAILURES else PROTOCOL_ERROR, last[4:].decode(errors="replace"))

    # The parser.

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
                self._reads.spend(old)

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

    def _install_parser(self, transport: asyncio.Transport) -> None:
        self._state = _OPENING  # what the parser answers to its handshake is nobody's
        self._parser = Parser(self, self._max_frame_size())
        self._forget_grown()
        self._state = _OPEN
        transport.set_protocol(self._parser)

    def _max_frame_size(self) -> int:
        return self._incoming.max_message_size

    def _grows(self) -> None:
        """The parser holds so much that its buffer grows."""
        self._reads.fat[self] = None
        is_wide = self.held >= _WIDE
        self._fat = max(self._fat, self.held + _NEXT_READ if is_wide else self.held)
        if is_wide and self._parser is not None and self.transport is not None and narrow(self._parser):
            self.transport.set_protocol(self._parser)

    def _forget_grown(self) -> None:
        """There is no such buffer any more."""
        if self._fat:
            self._fat = 0
            self._reads.fat.pop(self, None)

    def _slim(self, frame: PicowsFrame) -> None:
        """Replace a parser whose buffer has grown, once it holds nothing."""
        transport = self.transport
        if self._state != _OPEN or transport is None or frame.tail_size or not frame.last_in_buffer:
            return
        now = self._reads.loop.time()
        if now - self._slimmed < _SLIM_INTERVAL and self._fat < _HUGE:
            return  # the next look at the memory does it, or the answer to the next ping
        self._slimmed = now
        old = self._parser
        try:
            self._install_parser(transport)
        except Exception:
            logger.exception("a client's parser could not be replaced")
            self._fail(INTERNAL_ERROR, "internal error")
        self._reads.spend(old)  # it is still running: it called us
