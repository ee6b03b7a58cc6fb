"""TCP connections of backends: lines in, lines out. What a connection means is its session's business."""

import asyncio
import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from pystrands.broker.backends.authenticator import FIRST_LINE, LATE, TOO_LONG, LinkAuthenticator
from pystrands.broker.backends.greeting import Greeting
from pystrands.broker.backends.session import SessionLink
from pystrands.broker.counters import Counters, new_counters
from pystrands.broker.meter import Meter
from pystrands.broker.net.http import HttpResponse
from pystrands.broker.net.ports import Ports, is_http
from pystrands.broker.net.tls import Tls, TlsStart
from pystrands.protocol import wire
from pystrands.protocol.framing import LineSplitter
from pystrands.protocol.messages import (
    COMMANDS,
    NOT_KNOWN,
    Broken,
    Command,
    Heartbeat,
    Hello,
    HelloParams,
    Received,
    SessionCommand,
    Unknown,
)
from pystrands.protocol.printable import printable

__all__ = ["BackendLink", "LinkOwner", "LinkShared"]

logger = logging.getLogger(__name__)

# What runs for every line uses constants of this module: compiled code looks imported names up each time.
_HELLO: Final = Hello
_HEARTBEAT: Final = Heartbeat
_RECEIVED: Final = Received
_decode: Final = COMMANDS.known
_LOGGED_MALFORMED_LINES: Final = 10
"""How many malformed lines of one link are logged; all are counted."""
_AT_ONCE: Final = 32
"""Commands that are carried out without a look at the time."""
_SLICE: Final = 0.01
"""Seconds for which commands of one link are carried out in one turn of the loop."""
_MUCH: Final = 131_072
"""Bytes of a read after which there probably is more."""
_JOINED: Final = 65_536
"""Bytes of lines that are joined for one write; more are kept as they are, not twice."""
_LINGER: Final = 1.0
"""Seconds for a peer that is refused to read why."""


class LinkOwner(ABC):
    """Who gives links their sessions, and hears of what happens on them. Nothing here may raise."""

    @abstractmethod
    def link_opened(self, link: "BackendLink") -> None:
        """A connection was accepted; nothing is known of it yet."""

    @abstractmethod
    def link_decided(self, link: "BackendLink", hello: HelloParams | None) -> None:
        """The first line, or silence, has shown what the backend speaks: give the link its session, or close it."""

    @abstractmethod
    def link_hello(self, link: "BackendLink", hello: HelloParams) -> None:
        """A hello came late, on a link that has its session."""

    @abstractmethod
    def link_acknowledged(self, link: "BackendLink", number: int) -> None:
        """The backend has received all lines up to that number."""

    @abstractmethod
    def link_received(self, link: "BackendLink", commands: list[SessionCommand | Unknown | Broken]) -> None:
        """These commands came in one read: all but the link's own, and broken lines that nobody waits for."""

    @abstractmethod
    def link_flow(self, link: "BackendLink") -> None:
        """The link's ``blocked`` has changed."""

    @abstractmethod
    def link_closed(self, link: "BackendLink") -> None:
        """The connection is gone: the last thing that is told of it."""


@dataclass(slots=True, kw_only=True)
class LinkShared:
    """What all links have in common. Sizes in bytes, times in seconds."""

    loop: asyncio.AbstractEventLoop
    owner: LinkOwner
    authenticator: LinkAuthenticator
    greeting: Greeting
    max_line: int
    link_buffer: int
    tls: Tls | None = None
    decision_time: float = 1.0
    """How long a first line is waited for; who is silent then speaks protocol 1."""
    hello_time: float = 10.0
    """The same where nobody may pass without a hello."""
    counters: Counters = field(default_factory=new_counters)
    meter: Meter = field(default_factory=Meter)
    ports: Ports = field(default_factory=Ports)


class BackendLink(SessionLink):
    """One TCP connection of a backend: an asyncio.Protocol, if not by name, since what inherits can't be compiled.

    It is *undecided* until its first line, or a second of silence, tells which protocol it speaks (LINK rule 6), and
    the authenticator whether it may. Until then nothing is told to it but the broker's hello. Where a hello is wanted,
    silence tells nothing: a backend may be slow, and is not refused for that before the time for its hello is over.
    """

    __slots__ = ("_address", "_copied", "_decision", "_end", "_held", "_malformed", "_out", "_rest", "_shared", "_size",
                 "_splitter", "_transport", "heard", "peer")  # fmt: skip

    def __init__(self, number: int, shared: LinkShared) -> None:
        super().__init__(number)
        self._address = self.name
        self.heard = 0.0
        """When the last bytes came, by the loop's clock."""
        self.peer = ""
        """The IP address at the other end."""
        self._shared = shared
        self._transport: asyncio.Transport | None = None
        self._splitter = LineSplitter(shared.max_line)
        self._out: list[bytes] = []
        self._size = 0  # bytes in `_out`
        self._copied = 0  # bytes that were written and that nobody else keeps, those that are out included
        self._rest: list[SessionCommand | Unknown | Broken] = []  # read, and to be carried out in a later turn
        self._malformed = 0
        self._held: bytearray | None = bytearray()
        """What came before it is decided; None once it is."""
        self._decision: asyncio.TimerHandle | None = None
        """There while a first line is waited for."""
        self._end: asyncio.TimerHandle | None = None
        """There once it is refused."""

    def __repr__(self) -> str:
        return f"<Link {self.name}>"

    @property
    def unread_bytes(self) -> int:
        """How many bytes are kept of a line whose end has not come."""
        return self._splitter.held_bytes

    @property
    def unsent_bytes(self) -> int:
        """How many bytes wait in the transport to be written, of what no session keeps as it is."""
        transport = self._transport
        self._copied = 0 if transport is None else min(self._copied, transport.get_write_buffer_size())
        return self._copied

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
            self._size += len(line)

    def _flush(self) -> None:
        out, transport = self._out, self._transport
        if out and transport is not None and not transport.is_closing():
            if self._size <= _JOINED:
                self._copied += self._size
                transport.write(b"".join(out))
            else:
                if self.session is None or self.session.link_session is None:
                    self._copied += self._size
                transport.writelines(out)
        out.clear()
        self._size = 0

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
        """End the connection at once; of what it has sent no more is carried out."""
        self._rest.clear()
        if self._transport is not None:
            self._transport.abort()

    # --- incoming ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello, and give the backend a second to answer."""
        shared = self._shared
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        if peer := transport.get_extra_info("peername"):
            self.peer = peer[0]
            self.name = self._address = f"backend {self.number} ({peer[0]}:{peer[1]})"
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        transport.set_write_buffer_limits(high=shared.link_buffer, low=shared.link_buffer // 4)
        self.heard = shared.loop.time()
        shared.owner.link_opened(self)
        shared.authenticator.enter(self, self.peer)
        self.write(shared.greeting.hello)
        wait = shared.decision_time if shared.authenticator.is_open else shared.hello_time
        self._decision = shared.loop.call_later(wait, self._is_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """Half a line at the end is discarded."""
        if exc is not None:
            logger.info("%s: %s", self.name, printable(str(exc)))
        self._transport = None
        self._out.clear()
        if self._rest:  # it had been read
            rest, self._rest = self._rest, []
            self._shared.owner.link_received(self, rest)
        for timer in (self._decision, self._end):
            if timer is not None:
                timer.cancel()
        self._decision = self._end = None
        self._shared.authenticator.leave(self)
        self._shared.owner.link_closed(self)

    def eof_received(self) -> None:
        """Have the transport write what waits and close: a peer that has ended its side, as a check does, is done."""

    def data_received(self, data: bytes) -> None:
        """Take commands; none of them can end the link."""
        shared = self._shared
        self.heard = shared.loop.time()
        meter = shared.meter
        meter.grown += len(data)
        if meter.grown > meter.mark:
            meter.over()
            if self._transport is None:
                return
        if self._held is not None:
            self._receive_first(self._held, data)
            return
        overlong = self._splitter.overlong
        commands: list[SessionCommand | Unknown | Broken] = []
        for line in self._splitter.feed(data):
            try:
                command: Command | Unknown | Broken | None = _decode(line)
            except NOT_KNOWN:
                command = COMMANDS.read(line)
                if isinstance(command, Broken):
                    if self._is_malformed(command):
                        commands.append(command)
                    continue
                shared.counters["commands_unknown"] += 1
            # What has no number is the link's own.
            if type(command) is _RECEIVED:
                if self.is_open:
                    shared.owner.link_acknowledged(self, command.params.seq)
            elif type(command) is _HEARTBEAT:
                if command.params:
                    self._on_heartbeat(command)
            elif type(command) is _HELLO:
                shared.owner.link_hello(self, command.params)
            elif command is not None:
                commands.append(cast("SessionCommand | Unknown", command))  # as nothing else is left
        if not self.is_open:
            return
        if self._splitter.overlong != overlong:
            self._is_overlong(self._splitter.overlong - overlong)
        if len(commands) <= _AT_ONCE and not self._rest and len(data) < _MUCH:
            shared.owner.link_received(self, commands)
        else:
            self._rest += commands
            self._carry_out_some()

    def _carry_out_some(self) -> None:
        """Carry out commands for a while, and go on in the loop's next turn: others have a right to it, too."""
        rest, shared = self._rest, self._shared
        end = shared.loop.time() + _SLICE
        done = 0
        while done < len(rest) and shared.loop.time() < end:
            some = rest[done : done + _AT_ONCE]
            done += len(some)
            shared.owner.link_received(self, some)
        del rest[:done]
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.pause_reading()  # without that the loop reads on for as long as there is something
            shared.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._rest:
            self._carry_out_some()
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _on_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Answer a backend that asks whether its session lives: while it has this link it does."""
        number = heartbeat.number("ask")
        if number is not None and self.session is not None and self.session.link_session is not None:
            self.write(wire.heartbeat_answer(number))

    def _receive_first(self, held: bytearray, data: bytes) -> None:
        """Take what comes until the first line is whole, which decides. ``held`` is what came before."""
        while data and self._decision is not None and self._held is held:  # else it is refused, or decided on
            if not held:
                data = data.lstrip(b"\n")
            held += data
            end = held.find(b"\n") if b"\n" in data else -1
            data = b""
            if (len(held) if end < 0 else end) > FIRST_LINE:
                self._refuse(TOO_LONG)
            elif end >= 0:
                command = COMMANDS.read(bytes(held[:end]))
                if isinstance(command, Heartbeat) and command.is_waiting:
                    data = bytes(held[end + 1 :])
                    held.clear()
                else:
                    self._receive_first_line(command, bytes(held[: end + 1]), bytes(held))

    def _receive_first_line(self, command: Command | Unknown | Broken | None, line: bytes, held: bytes) -> None:
        if isinstance(command, Broken):
            self._shared.counters["lines_malformed"] += 1
            if is_http(line):
                text = self._shared.ports.client_at_tcp(self.name)
                self._turn_away(HttpResponse.text(400, text).render())
                return
            logger.warning(
                "%s does not speak the protocol of backends and is disconnected: %s", self.name, command.problem
            )
            if command.action == "hello":
                self._turn_away(wire.refused(f"the hello could not be read: {command.problem}", True))
            else:
                self.abort()
            return
        if type(command) is Hello:
            held = held[len(line) :]
            self.introduce(command.params)
            self._decide(command.params)
        else:
            self._decide(None)
        if held and self._held is None and self.is_open:
            self.data_received(held)

    def _is_silent(self) -> None:
        held = self._held
        if not self._shared.authenticator.is_open:
            self._refuse(LATE)
            return
        self._decide(None)
        if held and self._held is None:
            self._splitter.feed(bytes(held))  # half a line, whose rest may come

    def _decide(self, hello: HelloParams | None) -> None:
        """The first line, or silence, has told what the peer speaks."""
        if not self.is_open:
            return
        shared = self._shared
        if reason := shared.authenticator.hello_problem(hello):
            self._refuse(reason, final=hello is not None)
            return
        assert self._decision is not None
        self._decision.cancel()
        self._decision = self._held = None
        shared.authenticator.leave(self)
        shared.owner.link_decided(self, hello)

    def _refuse(self, reason: str, *, final: bool = False) -> None:
        """Say why, after a while, and close. Until it is closed it counts as undecided.

        Only what a hello says is ``final``: who is late, or sends something else, may be the right one all the same.
        """
        delay = self._shared.authenticator.refuse(self, self.peer, reason)
        self._turn_away(wire.refused(reason, final), delay)

    def _turn_away(self, words: bytes, delay: float = 0.0) -> None:
        assert self._decision is not None
        assert self._transport is not None
        self._decision.cancel()
        self._decision = None
        self._held = bytearray()
        self._transport.pause_reading()
        self._end = self._shared.loop.call_later(delay, self._say_last, words)

    def _say_last(self, words: bytes) -> None:
        transport = self._transport
        assert transport is not None
        self._end = self._shared.loop.call_later(_LINGER, self.abort)
        self.write(words)
        self._flush()
        transport.resume_reading()  # and throw it away: closing with unread input would reset what was written
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def introduce(self, hello: HelloParams) -> None:
        """Take the name that the backend gives itself in its hello, which may have come late."""
        if hello.name:
            self.name = f"{self._address} {hello.name[:100]!r}"

    def _is_malformed(self, line: Broken) -> bool:
        """Count and log it; return whether the one who sent it is to hear of it."""
        self._malformed += 1
        self._shared.counters["lines_malformed"] += 1
        if self._malformed <= _LOGGED_MALFORMED_LINES:
            last = " (the last one of this link that is logged)" if self._malformed == _LOGGED_MALFORMED_LINES else ""
            logger.warning("%s sent a malformed line, which was skipped: %s%s", self.name, line.problem, last)
            return True
        return bool(line.seq or line.request_id)

    def _is_overlong(self, count: int) -> None:
        self._shared.counters["lines_overlong"] += count
        logger.warning(
            "%s sent a line of more than %d bytes, which was dropped: raise --max-message-size, or send less",
            self.name,
            self._splitter.max_line,
        )


def link_factory(shared: LinkShared) -> Callable[[], asyncio.Protocol]:
    """Return what makes the protocol of an accepted connection; links are numbered from 1."""
    count = 0

    def make() -> asyncio.Protocol:
        nonlocal count
        count += 1
        link = BackendLink(count, shared)
        protocol = cast("asyncio.Protocol", link)
        if shared.tls is None:
            return protocol
        return TlsStart(protocol, link.name, shared.tls, shared.authenticator, shared.loop)

    return make
