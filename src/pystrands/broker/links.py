"""TCP connections of backends: lines in, lines out. What a connection means is its session's business."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, cast

from pystrands.errors import MalformedLine
from pystrands.protocol import wire
from pystrands.protocol.framing import LineSplitter
from pystrands.protocol.messages import COMMANDS, NOT_KNOWN, Command, Heartbeat, Hello, HelloParams, Unknown

if TYPE_CHECKING:
    from pystrands.broker.backends import Session

__all__ = ["Link", "LinkOwner", "LinkShared"]

logger = logging.getLogger(__name__)

_LOGGED_MALFORMED_LINES: Final = 10
"""How many malformed lines of one link are logged; all are counted."""


class LinkOwner(Protocol):
    """Who gives links their sessions, and hears of what happens on them. Nothing here may raise."""

    def link_opened(self, link: "Link") -> None:
        """A connection was accepted; nothing is known of it yet."""
        ...

    def link_decided(self, link: "Link", hello: HelloParams | None) -> None:
        """The first line, or silence, has shown what the backend speaks: give the link its session, or close it."""
        ...

    def link_hello(self, link: "Link", hello: HelloParams) -> None:
        """A hello came late, on a link that has its session."""
        ...

    def link_received(self, link: "Link", commands: list[Command | Unknown]) -> None:
        """These commands came in one read: all but hellos and heartbeats."""
        ...

    def link_flow(self, link: "Link") -> None:
        """The link's ``blocked`` has changed."""
        ...

    def link_closed(self, link: "Link") -> None:
        """The connection is gone: the last thing that is told of it."""
        ...


@dataclass(slots=True, kw_only=True)
class LinkShared:
    """What all links have in common. Sizes in bytes, times in seconds."""

    loop: asyncio.AbstractEventLoop
    owner: LinkOwner
    hello: bytes
    max_line: int
    link_buffer: int
    decision_time: float = 1.0
    counters: Counter[str] = field(default_factory=Counter)


class Link(asyncio.Protocol):
    """One TCP connection of a backend.

    It is *undecided* until its first line, or a second of silence, tells which protocol it speaks (LINK rule 6).
    """

    __slots__ = ("_address", "_decision", "_malformed", "_out", "_shared", "_splitter", "_transport", "blocked",
                 "heard", "name", "number", "session")  # fmt: skip

    def __init__(self, number: int, shared: LinkShared) -> None:
        self.number = number
        self.name = self._address = f"backend {number}"
        self.session: Session | None = None
        self.blocked = False
        """Whether more waits to be written than should."""
        self.heard = 0.0
        """When the last bytes came, by the loop's clock."""
        self._shared = shared
        self._transport: asyncio.Transport | None = None
        self._splitter = LineSplitter(shared.max_line)
        self._out: list[bytes] = []
        self._malformed = 0
        self._decision: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Link {self.name}>"

    @property
    def is_open(self) -> bool:
        """Whether lines can be written."""
        return self._transport is not None and not self._transport.is_closing()

    # --- outgoing ---

    def write(self, line: bytes) -> None:
        """Queue a whole line; all of a loop turn go out in one write. Nothing happens on a link that is gone."""
        if self._transport is not None:
            if not self._out:
                self._shared.loop.call_soon(self._flush)
            self._out.append(line)

    def _flush(self) -> None:
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def pause_writing(self) -> None:
        """The transport holds as much as it should."""
        self.blocked = True
        self._shared.owner.link_flow(self)

    def resume_writing(self) -> None:
        """The transport has room again."""
        self.blocked = False
        self._shared.owner.link_flow(self)

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
        shared = self._shared
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        transport.set_write_buffer_limits(high=shared.link_buffer, low=shared.link_buffer // 4)
        peer = transport.get_extra_info("peername")
        self.name = self._address = f"backend {self.number} ({peer[0]}:{peer[1]})" if peer else self.name
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.heard = shared.loop.time()
        shared.owner.link_opened(self)
        self.write(shared.hello)
        self._decision = shared.loop.call_later(shared.decision_time, self._decide, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Half a line at the end is discarded."""
        if exc is not None:
            logger.info("%s: %s", self.name, exc)
        self._transport = None
        self._out.clear()
        if self._decision is not None:
            self._decision.cancel()
            self._decision = None
        self._shared.owner.link_closed(self)

    def data_received(self, data: bytes) -> None:
        """Take commands; none of them can end the link."""
        shared = self._shared
        self.heard = shared.loop.time()
        overlong = self._splitter.overlong
        commands: list[Command | Unknown] = []
        decode = COMMANDS.known
        for line in self._splitter.feed(data):
            try:
                command: Command | Unknown | None = decode(line)
            except NOT_KNOWN:
                try:
                    command = COMMANDS.decode(line)
                except MalformedLine as error:
                    self._is_malformed(error)
                    if self._decision is not None:
                        return
                    if error.seq:
                        commands.append(Unknown(error.seq))
                    continue
                shared.counters["commands_unknown"] += 1
            kind = type(command)
            if self._decision is not None:
                self._decide(command.params if isinstance(command, Hello) else None)
            elif kind is Hello:
                shared.owner.link_hello(self, cast("Hello", command).params)
            if command is not None and kind is not Hello:
                if kind is not Heartbeat:
                    commands.append(command)
                elif cast("Heartbeat", command).params:
                    self._hear_heartbeat(cast("Heartbeat", command))
        if not self.is_open:
            return
        if self._splitter.overlong != overlong:
            self._is_overlong(self._splitter.overlong - overlong)
        shared.owner.link_received(self, commands)

    def _hear_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Answer a backend that asks whether its session lives: while it has this link it does."""
        number = heartbeat.number("ask")
        if number is not None and self.session is not None and self.session.stream is not None:
            self.write(wire.heartbeat_answer(number))

    def _decide(self, hello: HelloParams | None) -> None:
        assert self._decision is not None
        self._decision.cancel()
        self._decision = None
        if self.is_open:
            if hello is not None:
                self.introduce(hello)
            self._shared.owner.link_decided(self, hello)

    def introduce(self, hello: HelloParams) -> None:
        """Take the name that the backend gives itself in its hello, which may have come late."""
        if hello.name:
            self.name = f"{self._address} {hello.name[:100]!r}"

    def _is_malformed(self, error: MalformedLine) -> None:
        self._malformed += 1
        self._shared.counters["lines_malformed"] += 1
        if self._decision is not None:
            logger.warning("%s does not speak the protocol of backends and is disconnected: %s", self.name, error)
            self.abort()
        elif self._malformed <= _LOGGED_MALFORMED_LINES:
            last = " (the last one of this link that is logged)" if self._malformed == _LOGGED_MALFORMED_LINES else ""
            logger.warning("%s sent a malformed line, which was skipped: %s%s", self.name, error, last)

    def _is_overlong(self, count: int) -> None:
        self._shared.counters["lines_overlong"] += count
        logger.warning(
            "%s sent a line of more than %d bytes, which was dropped: raise --max-message-size, or send less",
            self.name,
            self._splitter.max_line,
        )


def link_factory(shared: LinkShared) -> Callable[[], Link]:
    """Return what makes the protocol of an accepted connection; links are numbered from 1."""
    count = 0

    def make() -> Link:
        nonlocal count
        count += 1
        return Link(count, shared)

    return make
