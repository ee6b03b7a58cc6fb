"""One TCP connection to a NATS server: what comes is handed on, and all that is sent in one turn goes out at once."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from mypy_extensions import mypyc_attr

from pystrands.engine.nats.protocol import PING, PONG, Control, NatsParser, NatsProtocolError
from pystrands.engine.nats.server_info import ServerInfo, server_info
from pystrands.engine.nats.transport import TransportOwner
from pystrands.protocol.address import is_loopback
from pystrands.protocol.printable import printable

__all__ = ["NatsLink", "NatsLinkOwner"]

logger = logging.getLogger(__name__)

_PING: Final = PING
_MISSED: Final = 2
"""PINGs after which something has to have come."""
_STAYS: Final = ("permissions violation", "invalid subject", "invalid publish", "maximum subscriptions")
"""What servers complain about, and go on; after all else they close."""
_REFUSALS: Final = ("authorization", "authentication")


@mypyc_attr(allow_interpreted_subclasses=True)  # what dials is not compiled
class NatsLinkOwner(ABC):
    """Is told of what happens on a link, once it is up. Nothing here may raise."""

    @abstractmethod
    def link_informed(self, link: "NatsLink") -> None:
        """The server says something new of itself: see ``link.info``."""

    @abstractmethod
    def link_complained(self, link: "NatsLink", problem: str) -> None:
        """The server did not do something, and goes on."""

    @abstractmethod
    def link_lost(self, link: "NatsLink") -> None:
        """The connection is gone: ``link.problem`` says why. The last thing that is told of it."""


class NatsLink(Control):
    """It is an asyncio.Protocol, if not by name. After loss it stays lost; a new connection is a new object.

    Until it is up whoever dials waits, with :meth:`expect`, and calls :meth:`begin` at the end.
    """

    __slots__ = ("_beats", "_expected", "_limit", "_loop", "_missed", "_out", "_owner", "_parser", "_ping_interval",
                 "_pings", "_size", "_transport", "closed", "info", "is_refused", "is_up",
                 "max_payload", "problem")  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, owner: NatsLinkOwner, *, write_buffer: int, ping_interval: float
    ) -> None:
        self.info: ServerInfo | None = None
        self.max_payload = 0
        """Bytes of a message with its headers, as the server has said last."""
        self.problem = ""
        """Why it is gone, in words that fit after the server's address."""
        self.is_refused = False
        """Whether it is gone because the server does not take our credentials."""
        self.is_up = False
        """Whether it is the owner's, from :meth:`begin` to its loss."""
        self.closed: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._owner = owner
        self._limit = write_buffer
        self._ping_interval = ping_interval
        self._parser = NatsParser(self)
        self._transport: asyncio.Transport | None = None
        self._expected: asyncio.Future[None] | None = None
        self._beats: asyncio.TimerHandle | None = None
        self._pings: deque[Callable[[], None] | None] = deque()
        """For each PING that has no answer, in order, what to call when that comes."""
        self._missed = 0
        """PINGs of our own accord since anything came: an answer may be late where much is on its way."""
        self._out: list[bytes] = []
        self._size = 0

    # --- its beginning ---

    def expect(self) -> "asyncio.Future[None]":
        """Return what is done when the server has said INFO, or answered :meth:`ping`, or the connection is lost."""
        self._expected = self._loop.create_future()
        return self._expected

    def _came(self) -> None:
        expected, self._expected = self._expected, None
        if expected is not None and not expected.done():
            expected.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start; called by the loop."""
        self._transport = cast("asyncio.Transport", transport)

    def secured(self, transport: asyncio.Transport) -> None:
        """Go on with a transport that speaks TLS on the one that it was."""
        self._transport = transport

    def check_silence(self) -> None:
        """Raise NatsProtocolError where something came behind INFO, when nothing is to come: it would pass for TLS'."""
        if self._parser.held_bytes:
            raise NatsProtocolError("something came in the clear where TLS begins")

    def begin(self, receiver: TransportOwner) -> None:
        """Hand messages to ``receiver`` from now on, and look whether the server is there."""
        self.is_up = True
        self._parser.receiver = receiver
        self._beats = self._loop.call_later(self._ping_interval, self._beat)

    def mute(self) -> None:
        """Hand on no more messages."""
        self._parser.receiver = None

    # --- what comes ---

    def data_received(self, data: bytes) -> None:
        """Take in bytes; called by the loop."""
        self._missed = 0
        try:
            self._parser.feed(data)
        except NatsProtocolError as error:
            self.abort(f"does not speak the protocol of NATS: {error}")
        except Exception:
            logger.exception("a message from NATS could not be handled; the connection is made again")
            self.abort("sent what could not be handled")

    def eof_received(self) -> None:
        """Close; called by the loop."""

    def on_info(self, text: bytes) -> None:
        """Take note of what the server says of itself."""
        self.info = info = server_info(text)
        self.max_payload = info.max_payload
        if self.is_up:
            self._owner.link_informed(self)
        else:
            self._came()

    def on_ping(self) -> None:
        """Answer."""
        self.write(PONG)

    def on_pong(self) -> None:
        """Call whoever has asked."""
        if self._pings:
            answered = self._pings.popleft()
            if answered is not None:
                answered()

    def on_err(self, problem: str) -> None:
        """Tell of it, and close where the server will."""
        lowered = problem.lower()
        problem = printable(problem)
        if self.is_up and lowered.startswith(_STAYS):
            self._owner.link_complained(self, problem)
        else:
            self.is_refused = any(word in lowered for word in _REFUSALS)
            self.abort(f"says: {problem}")

    # --- what goes ---

    def write(self, data: bytes) -> None:
        """Queue lines; all of a loop turn go out in one write. Nothing happens on a link that is gone."""
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        out.append(data)
        self._size += len(data)
        if self._size > self._limit:
            self._overflow()

    def _flush(self) -> None:
        out, transport = self._out, self._transport
        if out and transport is not None and not transport.is_closing():
            transport.write(out[0] if len(out) == 1 else b"".join(out))
            if transport.get_write_buffer_size() > self._limit:
                self._overflow()
        out.clear()
        self._size = 0

    def _overflow(self) -> None:
        self._out.clear()
        self._size = 0
        self.abort(f"takes too little: more than {self._limit} bytes wait to be sent")

    def pause_writing(self) -> None:
        """Nothing to do: there is a limit of our own. Called by the transport."""

    def resume_writing(self) -> None:
        """Nothing to do. Called by the transport."""

    def ping(self, answered: Callable[[], None] | None = None) -> None:
        """Ask the server for an answer: ``answered`` is called when all that was sent before has been handled."""
        self._pings.append(answered)
        self.write(_PING)

    def answer(self) -> "asyncio.Future[None]":
        """Return what is done when the server has handled all that was sent, or the connection is lost."""
        expected = self.expect()
        self.ping(self._came)
        return expected

    def _beat(self) -> None:
        if self._missed >= _MISSED:
            self.abort("does not answer")
            return
        self._missed += 1
        self.ping()
        self._beats = self._loop.call_later(self._ping_interval, self._beat)

    @property
    def held_bytes(self) -> int:
        """How many bytes wait to be written, or are part of a message that is not whole."""
        waiting = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._size + waiting + self._parser.held_bytes

    # --- its end ---

    @property
    def is_open(self) -> bool:
        """Whether lines can be written."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_tls(self) -> bool:
        """Whether what is sent is encrypted."""
        return self._transport is not None and self._transport.get_extra_info("sslcontext") is not None

    @property
    def is_exposed(self) -> bool:
        """Whether others might read what is sent."""
        return self._transport is not None and not self.is_tls and not is_loopback(self.host("peername"))

    def host(self, name: str) -> str:
        """Return the IP address of our end, ``sockname``, or of theirs, ``peername``; empty where there is none."""
        address = None if self._transport is None else self._transport.get_extra_info(name)
        return str(address[0]) if address else ""

    def close(self) -> None:
        """Write what waits, then end the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self, problem: str = "") -> None:
        """End the connection now."""
        self.problem = self.problem or problem
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Finish; called by the loop."""
        if not self.problem and exc is not None:
            self.problem = f"broke the connection: {printable(str(exc))}"
        self.problem = self.problem or "closed the connection"
        self._transport = None
        self._out.clear()
        self._size = 0
        self._pings.clear()
        if self._beats is not None:
            self._beats.cancel()
        self._came()
        if not self.closed.done():
            self.closed.set_result(None)
        if self.is_up:
            self.is_up = False
            self._owner.link_lost(self)
        self._parser.receiver = None
