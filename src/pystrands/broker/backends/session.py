"""A backend's session: what it has and may get, and the lines of its clients' events."""

import asyncio
import itertools
import logging
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import Final, cast

from mypy_extensions import trait

from pystrands.broker.counters import Counters
from pystrands.broker.events.queue import EVENT_COST
from pystrands.broker.events.stream import (
    ClientEvent,
    ClientStream,
    Consumer,
    JoinEvent,
    Kind,
    NumberedEvent,
    TokenEvent,
)
from pystrands.broker.hub.client import SMALL
from pystrands.broker.ws.expiry import NEVER, Expiries
from pystrands.protocol import wire
from pystrands.protocol.close_codes import UNSUPPORTED_DATA
from pystrands.protocol.link import LinkSession
from pystrands.protocol.messages import Broken, SessionCommand, Unknown

__all__ = ["Session", "SessionLink", "SessionReceiver", "SessionShared", "only_takes_text"]

logger = logging.getLogger(__name__)

# Looked up for every message: compiled code finds its module's constants at once, and searches for what is imported.
_MESSAGE: Final = Kind.MESSAGE
_REFRESH: Final = Kind.REFRESH
_OF_PROTOCOL_2: Final = (Kind.ADOPTED, Kind.SUSPENDED, Kind.RESUMED, Kind.REFRESH)
"""What protocol 1 does not know."""
_NEVER: Final = NEVER
_session_numbers: Final = itertools.count(1)
_MAX_REQUESTS: Final = 1000
"""Connection requests that one session may have unanswered: the credit of handshakes."""
_MAX_UNHEARD: Final = 4 * 1024 * 1024
"""Bytes of connection requests that one session may not have acknowledged, whether or not their clients still wait."""


@trait  # compiled, a class has one base that is none: a router's is Receiver
class SessionReceiver(ABC):
    """Who is told what happens to sessions. Nothing here may raise."""

    @abstractmethod
    def session_available(self, session: "Session") -> None:
        """The session takes events, from now on or again."""

    @abstractmethod
    def session_unlinked(self, session: "Session") -> None:
        """The session's link is gone; it may come back."""

    @abstractmethod
    def session_expired(self, session: "Session") -> None:
        """The session's link has been gone for the resume window, and nobody else can take its clients yet."""

    @abstractmethod
    def session_leaving(self, session: "Session") -> None:
        """The backend wants no more clients and events."""

    @abstractmethod
    def session_died(self, session: "Session") -> None:
        """The session is over: told once for each, after its last command."""

    @abstractmethod
    def session_released(self, session: "Session", ranges: list[tuple[int, int]]) -> None:
        """The session, which is leaving, has not started the events of these numbers, and will not."""

    @abstractmethod
    def failed(self, session: "Session", command: SessionCommand | Unknown | Broken, error: Exception) -> None:
        """Carrying out that command has raised."""


class SessionLink(ABC):
    """What a session has its lines written by; all of a session's are of one connection until that is gone."""

    __slots__ = ("blocked", "name", "number", "session")

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"backend {number}"
        """What the log calls it."""
        self.session: Session | None = None
        self.blocked = False
        """Whether more waits to be written than should."""

    @property
    @abstractmethod
    def unread_bytes(self) -> int:
        """How many bytes are kept of a line whose end has not come."""

    @property
    @abstractmethod
    def unsent_bytes(self) -> int:
        """How many bytes wait to be written, of what no session keeps as it is."""

    @abstractmethod
    def write(self, line: bytes) -> None:
        """Queue a whole line; all of a loop turn go out in one write. Nothing happens on a link that is gone."""

    @abstractmethod
    def close(self) -> None:
        """Write what waits, then end the connection."""

    @abstractmethod
    def abort(self) -> None:
        """End the connection at once; of what it has sent no more is carried out."""


@dataclass(slots=True, kw_only=True)
class SessionShared:
    """What all sessions of a broker have in common."""

    loop: asyncio.AbstractEventLoop
    counters: Counters
    expiries: Expiries


class Session(Consumer):
    """A backend as its clients' owner. In protocol 1 it lives as long as its link, and ``link_session`` is None."""

    __slots__ = (
        "_shared",
        "_unheard",
        "_unheard_bytes",
        "flow",
        "is_expired",
        "is_mute",
        "link",
        "link_session",
        "max_line",
        "name",
        "number",
        "requests",
        "sends_only",
        "session_id",
        "timer",
        "unresponsive",
        "was_asked",
    )

    def __init__(self, name: str, session_id: str, link_session: LinkSession | None, shared: SessionShared) -> None:
        super().__init__()
        self._shared = shared
        self.name = name
        self.session_id = session_id
        self.link_session = link_session
        self.link: SessionLink | None = None
        self.binary = self.finishes = link_session is not None
        self.flow = False
        """Whether it understands who is full (LINK rule 25)."""
        self.max_line = 0
        """The longest line that it takes, in bytes; 0 where it does not say."""
        self.number = next(_session_numbers)
        """Its own, never used twice, whatever ``session_id`` its backend names."""
        self.sends_only = False
        """Whether it is a program that only sends: no backend for clients."""
        self.unresponsive = False
        """Whether it has left a connection request unanswered and been silent since (LINK rule 8)."""
        self.is_expired = False
        """Whether its link has been gone for the resume window."""
        self.is_mute = False
        """Whether silence alone makes it a backend, of protocol 1; nothing has come from it yet."""
        self.was_asked = False
        """Whether it has been put a question: one that is mute is put a second one only where nobody else is there."""
        self.requests: dict[str, None] = {}
        """The ids of the connection requests that it has not answered, in the order in which it was asked."""
        self._unheard: deque[tuple[int, int]] = deque()  # number and size of connection requests, oldest first
        self._unheard_bytes = 0
        self.timer: asyncio.TimerHandle | None = None
        """When there is a link: to acknowledge. When there is none: the resume window."""

    def __repr__(self) -> str:
        return f"<Session {self.name}>"

    @property
    def load(self) -> int:
        """What the choice for a new client goes by."""
        return len(self.streams) + len(self.requests)

    @property
    def is_available(self) -> bool:
        """Whether it may get new clients."""
        return (
            self.link is not None
            and not self.sends_only
            and not self.is_leaving
            and not self.unresponsive
            and len(self.requests) < _MAX_REQUESTS
            and (not self._unheard or self.unheard_bytes < _MAX_UNHEARD)
        )

    @property
    def unheard_bytes(self) -> int:
        """How many bytes are kept of connection requests that it has not acknowledged: they are not its own doing."""
        unheard, link_session = self._unheard, self.link_session
        while unheard and (link_session is None or unheard[0][0] <= link_session.acknowledged):
            self._unheard_bytes -= unheard.popleft()[1]
        return self._unheard_bytes

    def ask(self, line: bytes) -> None:
        """Write a connection request."""
        number = self.write(line)
        if self.link_session is not None:
            size = self.link_session.kept_size(number)
            self._unheard.append((number, size))
            self._unheard_bytes += size

    @property
    def is_absent(self) -> bool:
        """Whether its link has been gone for so long that it need not be waited for."""
        return self.link is None and self.is_expired

    @property
    def held_bytes(self) -> int:
        """About how many bytes are kept until the backend has them, has finished with them, or has sent the rest."""
        size = self.bytes_in_flight + EVENT_COST * len(self.unfinished)
        if self.link_session is not None:
            size += self.link_session.kept_bytes
        if self.link is not None:
            size += self.link.unread_bytes + self.link.unsent_bytes
        return size

    def write(self, line: bytes) -> int:
        """Write a line; return its number, 0 in protocol 1. Without a link it is kept for the next one."""
        link_session, link = self.link_session, self.link
        if link_session is not None:
            line = link_session.number(line)
        if link is not None:
            link.write(line)
        return 0 if link_session is None else link_session.sent

    def context_bytes(self, stream: ClientStream) -> int:
        """Return how many bytes of a big context are told with a client's next event; 0 where that one is known."""
        if stream.small or stream.told == self.number:
            return 0
        size = stream.context_size
        return size if size > SMALL else 0

    def send(self, event: ClientEvent) -> int:
        """Write an event of a client; return the number of its line, or 0 where nothing will say that it is done."""
        client = event.stream
        kind = event.kind
        shared = self._shared
        if kind is _MESSAGE:
            if client.expires_at < _NEVER and shared.expiries.is_over(client.expires_at):
                shared.counters["expired_dropped"] += 1
                return 0
            if not self.binary and isinstance(event.content, bytes):
                if not isinstance(event, JoinEvent):
                    shared.loop.call_soon(only_takes_text, client)
                return 0
            context = client.small or self._context(client)
            if client.tracker is None:
                line = wire.new_message(context, event.content)
            else:
                numbered = cast("NumberedEvent", event)
                if numbered.asks and not self.answers:
                    return 0
                line = _numbered(numbered, context)
        elif (self.link_session is None and kind in _OF_PROTOCOL_2) or (kind is _REFRESH and not self.answers):
            return 0
        else:
            line = _of_life(event, client.small or self._context(client))
        if self.max_line and len(line) > self.max_line:
            self._is_too_long(client, len(line))
            if kind is _MESSAGE:
                return 0
            line = _of_life(event, wire.context_json(client.client_id, client.room_id, b"{}", None, client.user))
        if event.redelivered:
            shared.counters["events_redelivered"] += 1
        return self._write_event(line, event.number, event.redelivered)

    def _context(self, client: ClientStream) -> bytes:
        """Return what stands for a client's context in an event, where that is big, or was not encoded yet.

        A session that keeps contexts is told of a big one in a line of its own, when it is new or has changed.
        """
        if client.told == self.number:
            return wire.known_context(client.client_id)
        context = client.context
        if len(context) <= SMALL or not self.keeps_contexts:
            return context
        line = wire.context(context)
        if self.max_line and len(line) > self.max_line:
            return context
        self.write(line)
        client.told = self.number
        return wire.known_context(client.client_id)

    def _is_too_long(self, client: ClientStream, size: int) -> None:  # LINK rule 5
        """Count and tell: a message is dropped, any other event goes out without rooms and metadata."""
        self._shared.counters["events_too_long"] += 1
        logger.error(
            "an event of %r with its metadata has a line of %d bytes, and %s takes %d: a message is dropped, and of "
            "any other event the metadata; have the backend take longer lines, or keep less in metadata",
            client.client_id,
            size,
            self.name,
            self.max_line,
        )

    def _write_event(self, line: bytes, event: int, redelivered: bool) -> int:
        """Write an event, which has a number of its own in all its deliveries, beside that of its line."""
        link_session, link = self.link_session, self.link
        if link_session is None:
            if link is not None:
                link.write(line)
            return 0
        line = link_session.number_event(line, event, redelivered)
        if link is not None:
            link.write(line)
        return link_session.sent


def only_takes_text(client: ClientStream) -> None:  # LINK rule 9
    """Close a client that has sent what its backend does not take."""
    client.close(UNSUPPORTED_DATA, "the backend only takes text")


def _numbered(event: NumberedEvent, context: bytes) -> bytes:
    """Return the line of what a client of `pystrands.v1` wants to be handled."""
    if isinstance(event, JoinEvent):
        data = event.content if event.has_data else None
        return wire.join_request(context, event.room_id or "", data, event.message_id)
    return wire.numbered_message(context, event.content, event.message_id, event.room_id, event.asks)


def _of_life(event: ClientEvent, context: bytes) -> bytes:
    """Return the line of an event that is no message."""
    kind = event.kind
    if kind is Kind.NEW:
        return wire.new_connection(context)
    if kind is Kind.GONE:
        return wire.disconnected(context, event.code, str(event.content))
    if kind is Kind.ERROR:
        return wire.error(context, str(event.content))
    if isinstance(event, TokenEvent):
        return wire.token_request(context, event.token)
    if kind is Kind.ADOPTED:
        return wire.client_adopted(context)
    return wire.client_suspended(context) if kind is Kind.SUSPENDED else wire.client_resumed(context)
