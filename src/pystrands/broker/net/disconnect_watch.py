"""Noticing that a peer has left while we don't read from it."""

import array
import logging
import select
import sys
from asyncio import AbstractEventLoop
from typing import Protocol

if sys.platform != "win32":
    import fcntl
    import termios

logger = logging.getLogger(__name__)


class Paused(Protocol):
    """A connection that is not being read."""

    def hung_up(self) -> None:
        """Hear that the peer has closed its side and left nothing to read, or that the connection is broken."""


class DisconnectWatcher:
    """A second epoll, itself watched by the loop, for the sockets that the loop itself does not watch.

    Event loops notice a disconnect by reading. A descriptor may be in several epolls at once, and EPOLLRDHUP asks for
    the hang-up alone. A peer that closed its side after sending something is not gone before that has been read: then
    only a broken connection counts. Where there is no epoll it does nothing: the disconnect is noticed once reading
    goes on.
    """

    __slots__ = ("_epoll", "_fds", "_loop", "_sessions")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll: select.epoll | None = None
        self._sessions: dict[int, Paused] = {}
        self._fds: dict[Paused, int] = {}

    def __len__(self) -> int:
        """How many sockets it watches."""
        return len(self._fds)

    def watch(self, session: Paused, fd: int) -> None:
        """Tell `session` once when the peer of its socket hangs up."""
        if fd < 0 or not hasattr(select, "EPOLLRDHUP"):
            return
        try:
            if self._epoll is None:
                self._epoll = select.epoll()
                self._loop.add_reader(self._epoll.fileno(), self._on_events)
            self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
        except (OSError, NotImplementedError):
            logger.warning("a paused connection can't be watched for its peer's leaving", exc_info=True)
            return
        self._sessions[fd] = session
        self._fds[session] = fd

    def forget(self, session: Paused) -> None:
        """Stop watching; to be called before the socket is closed, since its number may be used again."""
        fd = self._fds.pop(session, None)
        if fd is None:
            return
        del self._sessions[fd]
        if self._epoll is not None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                logger.debug("descriptor %d was closed before it was forgotten", fd)

    def close(self) -> None:
        """Give the epoll back. Nobody is told anything after this."""
        self._sessions.clear()
        self._fds.clear()
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _wait_for_less(self, fd: int) -> None:
        """Watch for errors only; those are reported whatever is asked for."""
        if self._epoll is not None:
            try:
                self._epoll.modify(fd, select.EPOLLONESHOT)
            except OSError:
                logger.debug("descriptor %d can't be watched any more", fd)

    def _on_events(self) -> None:
        if self._epoll is None:
            return
        try:
            events = self._epoll.poll(0)
        except OSError:
            logger.exception("watching paused connections failed")
            return
        for fd, what in events:
            session = self._sessions.get(fd)
            if session is None:
                continue
            if not what & (select.EPOLLERR | select.EPOLLHUP) and _has_unread(fd):
                self._wait_for_less(fd)
            else:
                self.forget(session)
                try:
                    session.hung_up()
                except Exception:
                    logger.exception("a hang-up could not be handled")


def _has_unread(fd: int) -> bool:
    """Tell whether the kernel has bytes of the peer's that nobody has read."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(fd, termios.FIONREAD, count)
    except OSError:
        return False
    return count[0] > 0
