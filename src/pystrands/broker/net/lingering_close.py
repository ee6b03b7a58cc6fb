"""Ending a connection so that the peer gets the last bytes, and so that it does end."""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

_LINGER_0: Final = struct.pack("ii", 1, 0)
_SCRATCH: Final = memoryview(bytearray(65_536))  # all that drain share it: nobody reads it


class Drain(asyncio.BufferedProtocol):
    """Reads and throws away: closing a socket with unread input resets it, and costs the peer what was sent last.

    It is a buffered protocol, as the frame parser is: changing the kind while reading breaks aiofastnet.
    """

    __slots__ = ("_on_lost",)

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Give room for what nobody wants."""
        return _SCRATCH

    def buffer_updated(self, nbytes: int) -> None:
        """Ignore it."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Pass it on."""
        self._on_lost()


def finish(transport: asyncio.Transport) -> None:
    """End our side once all that was written is out. Whatever still comes must be read and thrown away.

    The peer's end of stream then closes the connection. A timer has to `cut()` it if that never comes. Never raises.
    """
    try:
        if not transport.is_closing():
            transport.resume_reading()
            if transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()
    except Exception:  # the peer may be gone already: shutdown() says so by OSError
        logger.debug("a connection could not be ended in order", exc_info=True)
        cut(transport)


def cut(transport: asyncio.Transport, *, reset: bool = False) -> None:
    """Drop a connection now. With `reset`, or when it is stuck, the kernel drops what is unsent, too. Never raises."""
    try:
        sock = transport.get_extra_info("socket")
        if sock is not None and (reset or transport.get_write_buffer_size()):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    except (OSError, RuntimeError):
        logger.debug("a dead connection can't be set to reset", exc_info=True)
    try:
        transport.abort()
    except Exception:
        logger.exception("a connection could not be dropped")
