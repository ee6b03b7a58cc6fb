"""Connections that are broken while something of theirs is still unread."""

import asyncio
import logging
import select
import weakref
from typing import Final

__all__ = ["ResetWatcher"]

logger = logging.getLogger(__name__)

_PAUSED: Final = 0.05
"""Seconds until the next look at a broken connection that is not being read."""


class ResetWatcher:
    """Has transports of aiofastnet's hear that their connection was reset.

    They read once when the loop says that there is something to read. When the peer has sent something and then reset
    the connection before that, uvloop says so once more and never again: they would read what was sent, and learn that
    the peer is gone when they write, which may be a keep-alive's time later. So a second epoll, which the loop watches,
    has their descriptors, for errors alone; those that are broken are read until they know. Where there is no epoll it
    does nothing.
    """

    __slots__ = ("_epoll", "_loop", "_transports")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll: select.epoll | None = None
        self._transports: dict[int, weakref.ref[asyncio.Transport]] = {}
        """By descriptor, the last one that had it: what is closed leaves the epoll by itself."""
        if hasattr(select, "epoll"):
            self._epoll = select.epoll()
            loop.add_reader(self._epoll.fileno(), self._on_events)

    def watch(self, transport: asyncio.Transport) -> None:
        """Watch the transport's socket until it is closed."""
        sock = transport.get_extra_info("socket")
        if self._epoll is None or sock is None or sock.fileno() < 0:
            return
        try:
            self._epoll.register(sock.fileno(), select.EPOLLONESHOT)
        except OSError as error:
            logger.warning("a TLS connection can't be watched for resets: %s", error)
            return
        self._transports[sock.fileno()] = weakref.ref(transport)

    def close(self) -> None:
        """Give the epoll back, and watch nothing more."""
        self._transports.clear()
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _on_events(self) -> None:
        if self._epoll is None:
            return
        for fd, _ in self._epoll.poll(0):
            reference = self._transports.pop(fd, None)
            transport = None if reference is None else reference()
            if transport is not None:
                self._read_on(transport)

    def _read_on(self, transport: asyncio.Transport) -> None:
        """Have it read once more; each time that reading begins it does."""
        if transport.is_closing():
            return
        if transport.is_reading():
            transport.pause_reading()
            transport.resume_reading()
            self._loop.call_soon(self._read_on, transport)
        else:
            self._loop.call_later(_PAUSED, self._read_on, transport)
