"""The backends' side of the broker: links, and the choice of one for a new client."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol, cast

from pystrands.broker.rooms import Client
from pystrands.errors import MalformedLine
from pystrands.protocol import messages
from pystrands.protocol.framing import LineSplitter

__all__ = ["Backends", "Link", "LinkReceiver"]

logger = logging.getLogger(__name__)

_LOGGED_MALFORMED_LINES = 10
"""How many malformed lines of one link are logged; all are counted."""


class LinkReceiver(Protocol):
    """Who is told what happens on links. Nothing here may raise."""

    def link_ready(self, link: "Link") -> None:
        """The link takes events from now on (again, after it had left a question unanswered)."""
        ...

    def link_lost(self, link: "Link") -> None:
        """The link is gone: told once for each that was ready, after its last command."""
        ...

    def link_drained(self, link: "Link") -> None:
        """What waited for a slow link has been written; its clients may be read from again."""
        ...

    def command(self, link: "Link", command: messages.Command) -> None:
        """A backend wants something done; never a hello or a heartbeat."""
        ...


class Link(asyncio.Protocol):
    """One TCP connection of a backend.

    It is *undecided* until its first line, or a second of silence, tells which protocol it speaks (LINK rule 6); until
    then it gets no events. ``clients`` are those it owns. ``requests`` are the connection requests it has not answered,
    by request id, with whatever the router keeps for each.
    """

    __slots__ = (
        "_backends",
        "_decision",
        "_malformed",
        "_out",
        "_splitter",
        "_transport",
        "binary",
        "blocked",
        "clients",
        "name",
        "number",
        "paused",
        "ready",
        "requests",
        "unresponsive",
    )

    def __init__(self, number: int, backends: "Backends") -> None:
        self.number = number
        self.name = f"backend {number}"
        self.ready = False
        self.binary = False
        """Whether it takes binary messages."""
        self.blocked = False
        """Whether more waits for it than it should: its clients are not to be read from."""
        self.unresponsive = False
        """Whether it has left a connection request unanswered and been silent since (LINK rule 8)."""
        self.clients: set[Client] = set()
        self.paused: set[Client] = set()
        """Clients that are not read from because of ``blocked``."""
        self.requests: dict[str, Any] = {}
        self._backends = backends
        self._transport: asyncio.Transport | None = None
        self._splitter = LineSplitter(backends.max_line)
        self._out: list[bytes] = []
        self._malformed = 0
        self._decision: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Link {self.name}>"

    @property
    def load(self) -> int:
        """What the choice for a new client goes by."""
        return len(self.clients) + len(self.requests)

    @property
    def is_available(self) -> bool:
        """Whether it may get new clients."""
        return self.ready and not self.unresponsive

    # --- outgoing ---

    def write(self, line: bytes) -> None:
        """Queue a whole line; all of a loop turn go out in one write. Nothing happens on a link that is gone."""
        if self._transport is not None:
            if not self._out:
                self._backends.loop.call_soon(self._flush)
            self._out.append(line)

    def _flush(self) -> None:
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def pause_writing(self) -> None:
        """The transport holds as much as it should."""
        self.blocked = True

    def resume_writing(self) -> None:
        """The transport has room again."""
        self.blocked = False
        self._backends.receiver.link_drained(self)

    def close(self) -> None:
        """Write what waits, then end the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # --- incoming ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello, and give the backend a second to answer."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        transport.set_write_buffer_limits(high=self._backends.link_buffer, low=self._backends.link_buffer // 4)
        peer = transport.get_extra_info("peername")
        self.name = f"backend {self.number} ({peer[0]}:{peer[1]})" if peer else self.name
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._backends.opened(self)
        self.write(self._backends.hello)
        self._decision = self._backends.loop.call_later(self._backends.decision_time, self._decided)

    def connection_lost(self, exc: Exception | None) -> None:
        """Half a line at the end is discarded."""
        self._transport = None
        self._out.clear()
        if self._decision is not None:
            self._decision.cancel()
        self._backends.closed(self)
        if self.ready:
            self.ready = False
            logger.info("%s is gone%s", self.name, f": {exc}" if exc else "")
            self._backends.receiver.link_lost(self)

    def data_received(self, data: bytes) -> None:
        """Take commands, one by one; none of them can end the link."""
        overlong = self._splitter.overlong
        for line in self._splitter.feed(data):
            if self._transport is None or self._transport.is_closing():
                return
            try:
                command = messages.COMMANDS.decode(line)
            except MalformedLine as error:
                self._is_malformed(error)
                continue
            self._spoke(command)
            if command is not None and not isinstance(command, messages.Hello | messages.Heartbeat):
                self._backends.receiver.command(self, command)
            elif command is None:
                self._backends.counters["commands_unknown"] += 1
        if self._splitter.overlong != overlong:
            self._backends.counters["lines_overlong"] += self._splitter.overlong - overlong
            logger.warning(
                "%s sent a line of more than %d bytes, which was dropped: raise --max-message-size, or send less",
                self.name,
                self._splitter.max_line,
            )

    def _is_malformed(self, error: MalformedLine) -> None:
        self._malformed += 1
        self._backends.counters["lines_malformed"] += 1
        if not self.ready:
            logger.warning("%s does not speak the protocol of backends and is disconnected: %s", self.name, error)
            self.abort()
        elif self._malformed <= _LOGGED_MALFORMED_LINES:
            last = " (the last one of this link that is logged)" if self._malformed == _LOGGED_MALFORMED_LINES else ""
            logger.warning("%s sent a malformed line, which was skipped: %s%s", self.name, error, last)

    def _spoke(self, command: messages.Command | None) -> None:
        if isinstance(command, messages.Hello):
            self.binary = command.params.binary
            if command.params.name:
                self.name = f"{self.name} {command.params.name[:100]!r}"
        if not self.ready:
            self._decided()
        elif self.unresponsive:
            self.unresponsive = False
            self._backends.receiver.link_ready(self)

    def _decided(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        assert self._decision is not None
        self._decision.cancel()
        self.ready = True
        logger.info("%s is connected", self.name)
        self._backends.receiver.link_ready(self)


class Backends:
    """All links, and the choice among them.

    ``max_line`` and ``link_buffer`` are in bytes: the longest line taken, and how much may wait for one link before its
    clients are not read from any more. ``decision_time`` is how long, in seconds, a silent link stays undecided.
    """

    def __init__(
        self,
        receiver: LinkReceiver,
        hello: bytes,
        *,
        max_line: int,
        link_buffer: int,
        heartbeat_interval: float,
        counters: Counter[str],
        decision_time: float = 1.0,
    ) -> None:
        self.receiver = receiver
        self.hello = hello
        self.max_line = max_line
        self.link_buffer = link_buffer
        self.heartbeat_interval = heartbeat_interval
        self.counters = counters
        self.decision_time = decision_time
        self.loop = asyncio.get_running_loop()
        self._links: dict[int, Link] = {}
        self._next = 1
        self._all_closed: asyncio.Event = asyncio.Event()
        self._heartbeat: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many links take events."""
        return sum(link.ready for link in self._links.values())

    @property
    def link_factory(self) -> Callable[[], Link]:
        """What makes the protocol of an accepted connection."""
        return self._make_link

    def _make_link(self) -> Link:
        link = Link(self._next, self)
        self._next += 1
        return link

    def opened(self, link: Link) -> None:
        """A connection was accepted."""
        self._links[link.number] = link
        self._all_closed.clear()

    def closed(self, link: Link) -> None:
        """A connection is gone. What was chosen least recently comes first again, see :meth:`choose`."""
        del self._links[link.number]
        if not self._links:
            self._all_closed.set()

    def choose(self) -> Link | None:
        """Return the least loaded link that may get a new client, of equals the one that has waited longest."""
        chosen = min(
            (link for link in self._links.values() if link.is_available), key=lambda link: link.load, default=None
        )
        if chosen is not None and len(self._links) > 1:  # to the end of the dictionary: the next of equals comes first
            self._links[chosen.number] = self._links.pop(chosen.number)
        return chosen

    def start(self) -> None:
        """Begin to send heartbeats."""
        self._heartbeat = self.loop.call_later(self.heartbeat_interval, self._beat)

    def _beat(self) -> None:
        for link in self._links.values():
            if link.ready and not link.blocked:
                link.write(messages.HEARTBEAT)
        self.start()

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109 - bounds a wait, cancels nothing
        """Write what waits and end all links; those that have not taken it after ``timeout`` seconds are aborted."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        links = list(self._links.values())
        for link in links:
            link.close()
        if links:
            try:
                await asyncio.wait_for(self._all_closed.wait(), timeout)
            except TimeoutError:
                for link in links:
                    link.abort()
