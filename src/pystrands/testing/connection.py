"""One WebSocket connection of a test: the handshake, the frames, and what has come."""

import asyncio
import socket
import struct
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from os import urandom
from typing import Any, cast

from pystrands.errors import PyStrandsError, Reduced
from pystrands.headers import Headers
from pystrands.protocol.close_codes import ABNORMAL_CLOSURE, NO_STATUS, PROTOCOL_ERROR
from pystrands.testing import frames
from pystrands.testing.frames import Frame, FrameReader, ProtocolError

__all__ = ["Closed", "Connection", "Rejected"]


class Rejected(PyStrandsError):  # noqa: N818 - what happened
    """The handshake got another answer than 101.

    ``status``: the HTTP status. ``headers``: those of the answer, with a look-up that ignores case, each a list.
    ``body``: the bytes that came with it.
    """

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(f"the handshake was answered with {status}: {body.decode(errors='replace').strip()}")
        self.status = status
        self.headers = headers
        self.body = body

    def __reduce__(self) -> Reduced:
        """Return how to make it again."""
        return type(self), (self.status, self.headers, self.body), self.__dict__


class Closed(PyStrandsError):  # noqa: N818 - what happened
    """The WebSocket is closed: ``code`` and ``reason`` as the broker gave them; 1006 when it gave none."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the WebSocket is closed: {code}" + (f" ({reason})" if reason else ""))
        self.code = code
        self.reason = reason

    def __reduce__(self) -> Reduced:
        """Return how to make it again."""
        return type(self), (self.code, self.reason), self.__dict__


class Connection(asyncio.Protocol):
    """The transport's protocol. ``inbox`` has what came and nobody has taken, in order; pings are answered."""

    def __init__(self) -> None:
        self.key = b64encode(urandom(16)).decode()
        self.status: int | None = None
        self.headers = Headers()
        self.body = b""
        self.inbox: deque[str | bytes] = deque()
        self.pongs: set[bytes] = set()
        self.closed: Closed | None = None
        """Set by the broker's close frame, or the connection's end."""
        self.is_lost = False
        self.is_reading = True
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._head = bytearray()
        self._reader = FrameReader()
        self._parts: list[Frame] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._is_writable = True
        self._has_sent_close = False

    # --- waiting ---

    async def wait(self, ready: Callable[[], object]) -> None:
        """Wait until something is so that only what comes from the broker changes."""
        while not ready():
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def _changed(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # --- writing ---

    async def write(self, data: bytes) -> None:
        """Write bytes as they are, and wait while the broker does not read. Raises Closed."""
        if self.closed is not None or self._transport is None:
            raise self.closed or Closed(ABNORMAL_CLOSURE, "")
        self._transport.write(data)
        await self.wait(lambda: self._is_writable or self.is_lost)

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame if none was sent, and wait for the connection's end."""
        if not self.is_lost and not self._has_sent_close:
            self._send_close(struct.pack("!H", code) + reason.encode())
        await self.wait(lambda: self.is_lost)

    def _send_close(self, payload: bytes) -> None:
        self._has_sent_close = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frames.frame(frames.CLOSE, payload))

    def abort(self) -> None:
        """End the connection with a TCP reset."""
        transport = self._transport
        if transport is None or self.is_lost:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and not transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    # --- flow ---

    def pause(self) -> None:
        """Read no more: the kernel's buffers fill, and then the broker's."""
        if self.is_reading and self._transport is not None and not self.is_lost:
            self._transport.pause_reading()
            self.is_reading = False

    def resume(self) -> None:
        """Read again."""
        if not self.is_reading and self._transport is not None and not self.is_lost:
            self._transport.resume_reading()
            self.is_reading = True

    # --- the transport's calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """Take what the broker sends."""
        try:
            if self.status is None:
                self._read_head(data)
            elif self.status == 101:
                self._read_frames(data)
            else:
                self.body += data
        except ProtocolError as error:
            self._end(PROTOCOL_ERROR, str(error))
            self.abort()
        self._changed()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self.is_lost = True
        self._end(ABNORMAL_CLOSURE, str(exc or "the connection ended without a close frame"))
        self._changed()

    def pause_writing(self) -> None:
        """The broker does not read."""
        self._is_writable = False

    def resume_writing(self) -> None:
        """The broker reads."""
        self._is_writable = True
        self._changed()

    def _read_head(self, data: bytes) -> None:
        self._head += data
        head, end, rest = bytes(self._head).partition(b"\r\n\r\n")
        if not end:
            return
        status, self.headers = frames.parse_head(head)
        if status == 101 and self.headers.get("Sec-WebSocket-Accept") != [frames.accept_for(self.key)]:
            raise ProtocolError("the 101 does not answer the key that was sent")
        self.status = status
        if status == 101:
            self._read_frames(rest)
        else:
            self.body = rest

    def _read_frames(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            if self.closed is not None:
                return
            if frame.opcode == frames.PING:
                if self._transport is not None:
                    self._transport.write(frames.frame(frames.PONG, frame.payload))
            elif frame.opcode == frames.PONG:
                self.pongs.add(frame.payload)
            elif frame.opcode == frames.CLOSE:
                self._read_close(frame.payload)
            else:
                self._read_part(frame)

    def _read_close(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if payload else NO_STATUS
        self._end(code, payload[2:].decode(errors="replace"))
        if not self._has_sent_close:
            self._send_close(payload)

    def _read_part(self, frame: Frame) -> None:
        if (frame.opcode == frames.CONTINUATION) != bool(self._parts):
            raise ProtocolError("the broker sent the parts of a message in a wrong order")
        self._parts.append(frame)
        if not frame.fin:
            return
        opcode, content = self._parts[0].opcode, b"".join(part.payload for part in self._parts)
        self._parts.clear()
        try:
            self.inbox.append(content.decode() if opcode == frames.TEXT else content)
        except UnicodeDecodeError:
            raise ProtocolError("the broker sent text that is not UTF-8") from None

    def _end(self, code: int, reason: str) -> None:
        if self.closed is None:
            self.closed = Closed(code, reason)

    def is_answered(self) -> bool:
        """Whether the whole answer to the handshake is there."""
        if self.is_lost or self.closed is not None:
            return True
        if self.status is None or self.status == 101:
            return self.status is not None
        length: list[Any] = self.headers.get("Content-Length", [])
        return bool(length) and len(self.body) >= int(length[0])
