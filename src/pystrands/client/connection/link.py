"""One TCP connection to a broker: lines in, lines out."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Final, cast

from pystrands.client.connection.addresses import BrokerAddress
from pystrands.client.connection.broker_info import BrokerInfo
from pystrands.protocol import wire
from pystrands.protocol.address import is_loopback
from pystrands.protocol.framing import LineSplitter
from pystrands.protocol.messages import HelloParams, line_limit
from pystrands.protocol.printable import printable

__all__ = ["BrokerLink"]

logger = logging.getLogger(__name__)

DEFAULT_MAX_MESSAGE_SIZE: Final = 4 * 1024 * 1024
"""Bytes; decides the longest line taken from a broker that announces no size."""
WRITE_LIMIT: Final = 256 * 1024
"""Bytes that wait to be written before senders wait."""


class BrokerLink:
    """One connection, from its first byte to its last; a new connection is a new object.

    It is an asyncio.Protocol, if not by name: what inherits can't be compiled.

    ``opened(link)`` is called when it is connected; a loop may make objects for attempts that fail.
    ``receive(link, lines)`` is called once for each read, with the whole lines it completed. What is written in one
    turn of the loop goes out in one write. ``ready`` is done when the first line was there, ``closed`` when the
    connection is gone; nothing is received after that.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        receive: Callable[["BrokerLink", list[bytes]], None],
        *,
        opened: Callable[["BrokerLink"], None] = lambda _: None,
        max_line: int = line_limit(DEFAULT_MAX_MESSAGE_SIZE),
        write_limit: int = WRITE_LIMIT,
    ) -> None:
        self.broker = BrokerInfo()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.malformed = 0
        self.exchanged = False
        """Whether a line was written, or an event was received."""
        self.has_events = False
        """Whether an event was received, so that it is too late for a hello."""
        self.problem = ""
        """Why the broker does not take this link, where that is known, in words that fit after its name."""
        self.dialed: BrokerAddress | None = None
        """What it was dialed as: of a name with several addresses, the one that answered; None where nobody says."""
        self.siblings: tuple[BrokerAddress, ...] = ()
        """The other addresses of that name."""
        self.is_other = False
        """Whether it leads to a broker that has another connection, so that this one has no use for it."""
        self.has_received = False
        """Whether a line was received; the receiver sets it."""
        self.received_at = loop.time()
        """When the last bytes came, by the loop's clock."""
        self.awaits_welcome = False
        """Whether it is not ready before the broker's welcome."""
        self.collect: Callable[[], bytes] | None = None
        """Gives what goes out after the lines of a loop turn."""
        self.drained: Callable[[], None] | None = None
        """Called when there may be room again."""
        self._loop = loop
        self._receive = receive
        self._opened = opened
        self._splitter = LineSplitter(max_line)
        self._overlong = 0
        self._write_limit = write_limit
        self._transport: asyncio.Transport | None = None
        self._is_ignoring = False
        self._finished = False
        self.congested = False
        """Whether more than the write limit is on its way, so that senders should wait until it is :attr:`drained`."""
        self._read_paused = False
        self._write_paused = False
        self._out: list[bytes] = []
        self._out_size = 0
        self._flush_scheduled = False

    # -- reading

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start; called by the loop."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._write_limit)
        connection = transport.get_extra_info("socket")
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # Protocol 1 has no way to ask whether the broker is still there.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; called by the loop."""
        self.received_at = self._loop.time()
        if self._is_ignoring:
            return
        lines = self._splitter.feed(data)
        if self._splitter.overlong != self._overlong:
            self._overlong = self._splitter.overlong
            logger.warning(
                "the broker sent a line of more than %d bytes; it was skipped (%d so far)",
                self._splitter.max_line,
                self._overlong,
            )
        if lines:
            self._receive(self, lines)
            if not self.awaits_welcome:
                self.is_ready()

    def is_ready(self) -> None:
        """Have :attr:`ready` done."""
        if not self.ready.done():
            self.ready.set_result(None)

    def eof_received(self) -> None:
        """Close: a broker that sends no more takes no more. Called by the loop."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish; called by the loop."""
        logger.debug("the link is closed: %s", printable(str(exc or "end of stream")))
        self._is_ignoring = True
        self._finished = True
        self._transport = None
        self._out.clear()
        self._out_size = 0
        for future in (self.ready, self.closed):
            if not future.done():
                future.set_result(None)

    def reject_line(self, reason: object) -> None:
        """Count and log a line that is not of the protocol."""
        self.malformed += 1
        count = self.malformed
        level = logging.WARNING if count & (count - 1) == 0 else logging.DEBUG  # 1, 2, 4, 8 ...
        logger.log(level, "the broker sent a malformed line; it was skipped (%d so far): %s", count, reason)

    def on_hello(self, params: HelloParams) -> None:
        """Take in what the broker says of itself."""
        self.broker.on_hello(params)
        self._splitter.max_line = max(self._splitter.max_line, line_limit(params.max_message_size))

    def ask(self) -> None:
        """Say that the broker's hello has not come. To a broker it tells nothing; other servers answer to it."""
        if self.is_open:
            self.append(wire.WAITING)

    def say_hello(self, params: HelloParams) -> None:
        """Answer the broker's hello at once."""
        params.binary = True
        params.contexts = True
        params.max_line = self._splitter.max_line
        self.write(wire.hello(params))
        self.flush()

    def stop_receiving(self) -> None:
        """Receive no more lines, for good. Bytes are still read: closing a socket with unread bytes would reset it."""
        self._is_ignoring = True
        self.resume_reading()

    def pause_reading(self) -> None:
        """Leave what comes to the kernel, and in the end to the broker."""
        if self._transport is not None and not self._read_paused and not self._is_ignoring:
            self._read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self._read_paused:
            self._read_paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    # -- writing

    @property
    def address(self) -> str:
        """The IP address at the other end; empty where there is none."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    @property
    def is_exposed(self) -> bool:
        """Whether others might read what is sent: without TLS, and not to this machine."""
        transport = self._transport
        return (
            transport is not None and transport.get_extra_info("sslcontext") is None and not is_loopback(self.address)
        )

    @property
    def is_open(self) -> bool:
        """Whether lines can be written."""
        return self._transport is not None and not self._finished and not self._transport.is_closing()

    def write(self, line: bytes) -> bool:
        """Append ``line`` to what goes out, past every limit; return False when the link is closed."""
        if not self.is_open:
            return False
        self.exchanged = True
        self.append(line)
        return True

    def append(self, line: bytes) -> None:
        """Append a line that a session keeps: where the link has just gone, the next one carries it."""
        self._out.append(line)
        self._out_size = size = self._out_size + len(line)
        if size >= self._write_limit:
            self.congested = True
        if not self._flush_scheduled:
            self.schedule_flush()

    def schedule_flush(self) -> None:
        """Write at the end of this loop turn what there is, and what :attr:`collect` gives then."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self.flush)

    def defer_flush(self) -> None:
        """Write nothing before :meth:`flush`, which the caller calls in this turn."""
        self._flush_scheduled = True

    def flush(self) -> None:
        """Write what there is, and what :attr:`collect` gives now."""
        self._flush_scheduled = False
        if self.collect is not None and self.is_open and (more := self.collect()):
            self._out.append(more)
        if self._out and self._transport is not None and not self._transport.is_closing():
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._out_size = 0
            self.congested = self._write_paused
            self._transport.write(data)  # may call pause_writing
        if self.drained is not None and not self._write_paused:
            self.drained()

    def pause_writing(self) -> None:
        """Make senders wait; called by the transport."""
        self._write_paused = self.congested = True

    def resume_writing(self) -> None:
        """Let senders go on; called by the transport."""
        self._write_paused = False
        self.congested = self._out_size >= self._write_limit
        if self.drained is not None:
            self.drained()

    # -- the end

    async def finish(self, within: float) -> bool:
        """Close so that everything written arrives; return False when that took more than ``within`` seconds.

        Half-closes, then waits for the broker to close its side: until then it may still be reading.
        """
        self.stop_receiving()
        self.flush()
        self._finished = True
        if self._transport is not None:
            if self._transport.is_closing():  # the broker has closed it, and connection_lost() is about to be called
                pass
            elif self._transport.can_write_eof():
                try:
                    self._transport.write_eof()
                except RuntimeError:  # uvloop closes without a word what is cancelled while it connects
                    self.connection_lost(None)
            else:
                self._transport.close()
            await asyncio.wait([self.closed], timeout=within)
        return not self.abort()

    def abort(self) -> bool:
        """Drop the connection and what was not yet written; return False when it was gone already."""
        if self._transport is None:
            return False
        self._transport.abort()
        return True
