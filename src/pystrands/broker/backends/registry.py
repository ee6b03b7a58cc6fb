"""The backends' sessions: which link carries which, how long one is waited for, and who gets a new client."""

import asyncio
import itertools
import logging
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Final

from mypy_extensions import trait

from pystrands.broker.backends.link import BackendLink, LinkOwner
from pystrands.broker.counters import Counters
from pystrands.broker.events.assignments import Consumer
from pystrands.broker.events.queue import EVENT_COST
from pystrands.broker.hub.taps import ToolOutput
from pystrands.protocol import messages, wire
from pystrands.protocol.link import (
    BROKER_ACKNOWLEDGES_AFTER,
    EVENT_NUMBERS,
    LinkSession,
    Receipt,
    is_silent,
    max_unnumbered,
)
from pystrands.protocol.messages import Broken, Command, HelloParams, Unknown

__all__ = ["Session", "SessionReceiver", "SessionRegistry", "ToolSession"]

logger = logging.getLogger(__name__)

# Looked up for every line: compiled code finds its module's constants at once.
_NEW: Final = Receipt.NEW
_GAP: Final = Receipt.GAP
_RECEIVED: Final = messages.Received
_BROKEN: Final = Broken
_OF_SESSIONS: Final = frozenset({messages.Leave, messages.Released, messages.Bye, Unknown})
_REMEMBERED_DEAD: Final = 10_000
_ACKNOWLEDGE_AFTER: Final = BROKER_ACKNOWLEDGES_AFTER
_ACKNOWLEDGE_WITHIN: Final = 0.1
"""Seconds for which fewer lines may wait to be acknowledged."""
_POLL: Final = 0.02
"""Seconds between two looks at what backends have not finished, at the end."""
_LAST_WRITE: Final = 0.2
"""Seconds that links have at least to take what waits for them, at the end."""
_LEAST_LINE: Final = 16_384
"""Bytes of the shortest line that a backend may announce: any event but a message fits, if without metadata."""
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
    def command(self, session: "Session", command: Command | Broken) -> None:
        """A backend wants something done, or has sent what can't be read. This one may raise: it ends the command."""

    @abstractmethod
    def failed(self, session: "Session", command: Command | Unknown | Broken, error: Exception) -> None:
        """Carrying out that command has raised."""


class Session(Consumer):
    """A backend as its clients' owner. In protocol 1 it lives as long as its link, and ``stream`` is None.

    ``requests`` are the connection requests it has not answered, by request id, with what the router keeps for each.
    """

    __slots__ = (
        "_unheard",
        "_unheard_bytes",
        "binary",
        "flow",
        "is_expired",
        "is_mute",
        "keeps_contexts",
        "link",
        "max_line",
        "name",
        "number",
        "requests",
        "sends_only",
        "session_id",
        "stream",
        "timer",
        "unresponsive",
        "was_asked",
    )

    def __init__(self, name: str, session_id: str, stream: LinkSession | None) -> None:
        super().__init__()
        self.name = name
        self.session_id = session_id
        self.stream = stream
        self.link: BackendLink | None = None
        self.binary = stream is not None
        self.flow = False
        """Whether it understands who is full (LINK rule 25)."""
        self.max_line = 0
        """The longest line that it takes, in bytes; 0 where it does not say."""
        self.keeps_contexts = False
        """Whether it takes the context of a client in a line of its own, and keeps it for the events that follow."""
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
        self.requests: dict[str, Any] = {}
        self._unheard: deque[tuple[int, int]] = deque()  # number and size of connection requests, oldest first
        self._unheard_bytes = 0
        self.timer: asyncio.TimerHandle | None = None
        """When there is a link: to acknowledge. When there is none: the resume window."""

    def __repr__(self) -> str:
        return f"<Session {self.name}>"

    @property
    def load(self) -> int:
        """What the choice for a new client goes by."""
        return len(self.lanes) + len(self.requests)

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
        unheard, stream = self._unheard, self.stream
        while unheard and (stream is None or unheard[0][0] <= stream.acknowledged):
            self._unheard_bytes -= unheard.popleft()[1]
        return self._unheard_bytes

    def ask(self, line: bytes) -> None:
        """Write a connection request."""
        number = self.write(line)
        if self.stream is not None:
            size = self.stream.kept_size(number)
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
        if self.stream is not None:
            size += self.stream.kept_bytes
        if self.link is not None:
            size += self.link.unread_bytes + self.link.unsent_bytes
        return size

    def write(self, line: bytes) -> int:
        """Write a line of the stream; return its number, 0 in protocol 1. Without a link the stream keeps it."""
        stream, link = self.stream, self.link
        if stream is not None:
            line = stream.number(line)
        if link is not None:
            link.write(line)
        return 0 if stream is None else stream.sent

    def write_event(self, line: bytes, event: int, redelivered: bool) -> int:
        """Do the same with an event, which has a number of its own in all its deliveries."""
        stream, link = self.stream, self.link
        if stream is None:
            if link is not None:
                link.write(line)
            return 0
        line = stream.number_event(line, event, redelivered)
        if link is not None:
            link.write(line)
        return stream.sent


class ToolSession(Session):
    """The link of a tool, such as ``pystrands tail``: it may send commands, and is no backend.

    It is in no list of sessions: it is never chosen, counted, waited for or resumed, and nothing is owed to it.
    """

    __slots__ = ("output",)

    def __init__(self, link: BackendLink, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(link.name, f"tool, link {link.number}", None)
        self.link = link
        self.output = ToolOutput(link, loop)

    @property
    def is_available(self) -> bool:
        """It gets no clients."""
        return False

    def write(self, line: bytes) -> int:
        """Write an answer."""
        self.output.answer(line)
        return 0


class SessionRegistry(LinkOwner):
    """All sessions, and the choice among them. ``resume_window`` and ``heartbeat`` in seconds."""

    def __init__(
        self,
        receiver: SessionReceiver,
        loop: asyncio.AbstractEventLoop,
        *,
        resume_window: float,
        heartbeat: float,
        counters: Counters,
    ) -> None:
        self._receiver = receiver
        self._loop = loop
        self._resume_window = resume_window
        self._heartbeat = heartbeat
        self._counters = counters
        self._links: set[BackendLink] = set()
        self._sessions: dict[str, Session] = {}
        self._has_met_protocol_2 = False
        self._dead: OrderedDict[str, int] = OrderedDict()  # id to the last number that was carried out (LINK rule 18)
        self._no_links = asyncio.Event()
        self._beat: asyncio.TimerHandle | None = None
        self._stopping = False

    def __len__(self) -> int:
        """How many backends are connected."""
        return sum(session.link is not None and not session.sends_only for session in self._sessions.values())

    @property
    def sessions(self) -> Iterable[Session]:
        """All sessions that live."""
        return self._sessions.values()

    @property
    def tools(self) -> Iterable[Session]:
        """The links of tools."""
        return [link.session for link in self._links if isinstance(link.session, ToolSession)]

    def choose(self, besides: Iterable[Session] = ()) -> Session | None:
        """Return the least loaded session that may get a new client, of equals the one that has waited longest.

        What is mute may be a probe, but also a backend of protocol 1, which says nothing before it is asked. So it is
        chosen once, to see; and for a second time, or where backends speak protocol 2, only if there is no other.
        """
        if self._stopping:  # who is cut off now tells of its clients itself when it meets the next broker
            return None
        able = [session for session in self._sessions.values() if session.is_available and session not in besides]
        known = [each for each in able if not each.is_mute or not (each.was_asked or self._has_met_protocol_2)]
        chosen = min(known or able, key=lambda session: session.load, default=None)
        if chosen is not None and len(self._sessions) > 1:  # to the end: of equals the next one comes first
            self._sessions[chosen.session_id] = self._sessions.pop(chosen.session_id)
        return chosen

    def choose_owner(self) -> Session | None:
        """Return the one of those that may get a client which is in already, with its messages.

        One that is mute only if there is no other, and none at all where backends speak protocol 2: it may be one of
        theirs that is cut off or paused, or no backend at all, and of what it is sent nobody would ever know that it
        was lost. A question is asked again.
        """
        chosen = self.choose([session for session in self._sessions.values() if session.is_mute])
        return chosen if chosen is not None or self._has_met_protocol_2 else self.choose()

    def _may_be_nobody(self, session: Session) -> bool:
        return session.is_mute and self._has_met_protocol_2

    def give_up(self, session: Session) -> None:
        """End a session for the memory that it takes itself: it reads no results, or ends no line."""
        link = session.link
        if session.session_id in self._sessions:
            self._die(session)
        if link is not None:
            link.abort()

    # --- links: what LinkOwner asks for ---

    def link_opened(self, link: BackendLink) -> None:
        """A connection was accepted."""
        self._links.add(link)
        self._no_links.clear()

    def link_decided(self, link: BackendLink, hello: HelloParams | None) -> None:
        """Give the link a session: a new one, or the one that it resumes."""
        if hello is not None and hello.role == messages.TOOL:
            link.session = ToolSession(link, self._loop)
            logger.info("%s is a tool", link.name)
            return
        if hello is None or min(hello.protocol, messages.PROTOCOL) < 2 or not hello.session_id:
            session = Session(link.name, f"protocol 1, link {link.number}", None)
            if hello is not None:
                session.binary, session.max_line = hello.binary, hello.max_line
            session.is_mute = hello is None
            self._attach(session, link)
            logger.info("%s is connected (protocol 1)", link.name)
            self._become_available(session)
        else:
            self._begin_protocol_2(link, hello)

    def link_hello(self, link: BackendLink, hello: HelloParams) -> None:
        """Take a late hello where nothing was exchanged yet (LINK rule 7)."""
        session = link.session
        if (
            session is None
            or isinstance(session, ToolSession)
            or session.stream is not None
            or session.lanes
            or (session.requests and not session.is_mute)
        ):
            self._counters["hellos_late"] += 1
            return
        self._die(session)  # what it was asked others are asked
        link.introduce(hello)
        self.link_decided(link, hello)

    def link_received(self, link: BackendLink, commands: list[Command | Unknown | Broken]) -> None:
        """Carry out commands in order, each once. What one of them raises ends that one."""
        session = link.session
        if session is None:
            return
        if session.unresponsive or session.is_mute:
            session.unresponsive = session.is_mute = False
            self._become_available(session)
        stream = session.stream
        receiver = self._receiver
        if stream is None:
            for command in commands:
                if not isinstance(command, Unknown):
                    try:
                        receiver.command(session, command)
                    except Exception as error:  # noqa: BLE001 - whatever it is
                        receiver.failed(session, command, error)
                    if link.session is not session:
                        return
            return
        carry_out = receiver.command
        for command in commands:
            kind = type(command)
            if kind is _RECEIVED:
                if not stream.acknowledge(command.params.seq):  # type: ignore[union-attr]  # by its kind
                    self._break(link, "acknowledged a line that it was never sent")
                    return
                continue
            if kind is _BROKEN and not command.seq:  # type: ignore[union-attr]  # by its kind
                if command.request_id:  # type: ignore[union-attr]
                    receiver.command(session, command)  # type: ignore[arg-type]
                continue
            receipt = stream.accept(command.seq)  # type: ignore[union-attr]  # only hello and heartbeat have none
            if receipt is _NEW:
                try:
                    if kind in _OF_SESSIONS:
                        self._carry_out(session, command)
                    else:
                        carry_out(session, command)  # type: ignore[arg-type]  # Unknown is of sessions
                except Exception as error:  # noqa: BLE001 - whatever it is
                    receiver.failed(session, command, error)
                if link.session is not session:  # it has ended: what follows is for the next one
                    return
            elif receipt is _GAP:
                self._break(link, "left out a line")
                return
        if stream.unannounced >= _ACKNOWLEDGE_AFTER:
            self._acknowledge(session)
        elif stream.unannounced and session.timer is None:
            session.timer = self._loop.call_later(_ACKNOWLEDGE_WITHIN, self._acknowledge, session)

    def link_flow(self, link: BackendLink) -> None:
        """A slow link of protocol 1 takes no events, or does again. Protocol 2 goes by credit (LINK rule 11)."""
        session = link.session
        if isinstance(session, ToolSession):
            session.output.flow()
        elif session is not None and session.stream is None:
            session.is_up = False
            if not link.blocked:
                self._become_available(session)

    def link_closed(self, link: BackendLink) -> None:
        """Wait for the session's next link, where its protocol knows one."""
        self._links.discard(link)
        if not self._links:
            self._no_links.set()
        session, link.session = link.session, None
        if isinstance(session, ToolSession):
            session.output.close()
            return
        if session is None or session.link is not link:
            return
        session.link = None
        session.is_up = False
        if session.stream is None or self._stopping:
            logger.info("%s is gone", link.name)
            self._die(session)
            return
        logger.info("%s lost its link; its session may be resumed for %g s", link.name, self._resume_window)
        self._set_timer(session, self._loop.call_later(self._resume_window, self._expire, session))
        self._receiver.session_unlinked(session)

    # --- sessions ---

    def _begin_protocol_2(self, link: BackendLink, hello: HelloParams) -> None:
        known = self._sessions.get(hello.session_id)
        if hello.resume and known is not None and known.stream is not None:
            missed = known.stream.resume(hello.received)
            if missed is None:
                self._break(link, "resumes a session with a number that was never sent")
                return
            self._attach(known, link)
            link.write(wire.welcome(known.session_id, True, known.stream.received))
            for line in missed:
                link.write(line)
            self._counters["sessions_resumed"] += 1
            logger.info("%s has resumed its session; %d lines are sent again", link.name, len(missed))
            self._become_available(known)
            return
        session_id = hello.next_session_id if hello.resume else hello.session_id
        if not session_id or session_id in self._sessions:
            self._break(link, "named no session of its own")
            return
        if 0 < hello.max_line < _LEAST_LINE:
            self._break(link, f"takes lines of {hello.max_line} bytes only, and needs to take {_LEAST_LINE} at least")
            return
        self._has_met_protocol_2 = True
        session = Session(link.name, session_id, LinkSession(session_id))
        session.max_line = max_unnumbered(hello.max_line, EVENT_NUMBERS)
        session.sends_only = hello.role == messages.SENDER
        session.keeps_contexts = hello.contexts
        session.flow = hello.flow
        self._attach(session, link)
        link.write(wire.welcome(session_id, False, self._dead.get(hello.session_id) if hello.resume else 0))
        logger.info("%s is connected%s", link.name, "; its session was given up" if hello.resume else "")
        self._become_available(session)

    def _attach(self, session: Session, link: BackendLink) -> None:
        """Make ``link`` the session's; an older one is dropped (LINK rule 19)."""
        older = session.link
        if older is not None:
            older.session = None
            older.abort()
        self._set_timer(session, None)
        session.link = link
        session.name = link.name
        session.is_expired = False
        link.session = session
        self._sessions[session.session_id] = session

    def _become_available(self, session: Session) -> None:
        """Let events flow to a session, and end those that only lived because nobody could take their clients."""
        link = session.link
        if link is None:
            return
        session.is_up = session.stream is not None or not link.blocked
        if session.is_leaving or not session.is_up:
            return
        self._receiver.session_available(session)
        if session.is_available and not self._may_be_nobody(session):
            for other in [other for other in self._sessions.values() if other.is_expired]:
                self._die(other)

    def _expire(self, session: Session) -> None:
        """The resume window is over: the session ends as soon as another backend can take its clients (rule 14)."""
        session.timer = None
        session.is_expired = True
        if session.sends_only or self.choose_owner() is not None:
            self._die(session)
        else:
            self._receiver.session_expired(session)

    def _carry_out(self, session: Session, command: Command | Unknown | Broken) -> None:
        if isinstance(command, messages.Leave | messages.Released):
            if not session.is_leaving:  # who gives events back wants no more: they would come again, and again
                session.is_leaving = True
                self._receiver.session_leaving(session)
                session.write(wire.LEAVING)
                logger.info("%s is leaving", session.name)
            if isinstance(command, messages.Released):
                self._receiver.command(session, command)
        elif isinstance(command, messages.Bye):
            logger.info("%s has left", session.name)
            link = session.link
            self._acknowledge(session)
            self._die(session)
            if link is not None:
                link.close()

    def _acknowledge(self, session: Session) -> None:
        self._set_timer(session, None)
        assert session.stream is not None
        number = session.stream.acknowledgement()
        if number is not None and session.link is not None:
            session.link.write(wire.received(number))

    def _die(self, session: Session) -> None:
        """End a session for good, and remember it."""
        self._set_timer(session, None)
        del self._sessions[session.session_id]
        session.is_up = False
        link, session.link = session.link, None
        if link is not None:
            link.session = None
        if session.stream is not None:
            self._dead[session.session_id] = session.stream.received
            while len(self._dead) > _REMEMBERED_DEAD:
                self._dead.popitem(last=False)
            if self._stopping:
                if session.unfinished:
                    logger.warning(
                        "stopping: %s has not finished %d events in time", session.name, len(session.unfinished)
                    )
            elif session.unfinished or session.lanes:
                logger.warning("the session of %s is given up: %d clients, %d events go to other backends",
                               session.name, len(session.lanes), len(session.unfinished))  # fmt: skip
        self._receiver.session_died(session)

    def _break(self, link: BackendLink, what: str) -> None:
        self._counters["links_broken"] += 1
        logger.warning("%s %s; the link is closed", link.name, what)
        link.abort()

    @staticmethod
    def _set_timer(session: Session, timer: asyncio.TimerHandle | None) -> None:
        if session.timer is not None:
            session.timer.cancel()
        session.timer = timer

    # --- time ---

    def start(self) -> None:
        """Begin to send heartbeats, and to look for links that have fallen silent."""
        self._beat = self._loop.call_later(self._heartbeat, self._on_beat)

    def _on_beat(self) -> None:
        self.start()  # first: whatever happens, there is another beat
        now = self._loop.time()
        for link in list(self._links):
            session = link.session
            if session is None:
                continue
            if session.stream is not None and is_silent(link.heard, now, self._heartbeat):
                self._break(link, f"has been silent for {now - link.heard:.0f} s")
            elif not link.blocked:
                link.write(wire.HEARTBEAT)

    async def stop(self, timeout: float) -> None:
        """Let backends finish what they have, and end all links, within ``timeout`` seconds.

        No handler is waited for whose link is gone. Links that have not taken what waits for them by then are aborted.
        """
        end = self._loop.time() + timeout
        while self._is_waited_for() and self._loop.time() < end:  # noqa: ASYNC110 - an event would cost work before
            await asyncio.sleep(_POLL)
        self._stopping = True
        if self._beat is not None:
            self._beat.cancel()
        for session in list(self._sessions.values()):
            if session.link is None:
                self._die(session)
            elif session.stream is not None:
                self._acknowledge(session)
        for link in list(self._links):
            link.close()
        if self._links:
            try:
                await asyncio.wait_for(self._no_links.wait(), max(end - self._loop.time(), _LAST_WRITE))
            except TimeoutError:
                for link in list(self._links):
                    link.abort()

    def _is_waited_for(self) -> bool:
        return any(each.link is not None and each.unfinished for each in self._sessions.values())
