"""Sessions come and go: which link carries which, how long one is waited for, and when it is over."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from pystrands.broker.backends.command_table import CommandTable
from pystrands.broker.backends.greeting import Greeting
from pystrands.broker.backends.link import BackendLink, LinkOwner
from pystrands.broker.backends.registry import SessionRegistry
from pystrands.broker.backends.session import Session, SessionReceiver, SessionShared
from pystrands.broker.backends.tools import ToolSession
from pystrands.engine.cluster import Peer
from pystrands.protocol import messages, wire
from pystrands.protocol.link import (
    BROKER_ACKNOWLEDGES_AFTER,
    EVENT_NUMBERS,
    LinkSession,
    Receipt,
    is_silent,
    max_unnumbered,
)
from pystrands.protocol.messages import Broken, HelloParams, SessionCommand, Unknown

__all__ = ["SessionLifecycle"]

logger = logging.getLogger(__name__)

# Looked up for every line: compiled code finds its module's constants at once.
_NEW: Final = Receipt.NEW
_GAP: Final = Receipt.GAP
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


class SessionLifecycle(LinkOwner):
    """Gives links their sessions, has their commands carried out, and ends sessions.

    ``commands`` has who carries them out. ``resume_window`` and ``heartbeat`` in seconds. ``greeting``: what links
    are told of the cluster.
    """

    def __init__(
        self,
        registry: SessionRegistry,
        receiver: SessionReceiver,
        commands: CommandTable,
        shared: SessionShared,
        *,
        resume_window: float,
        heartbeat: float,
        greeting: Greeting,
    ) -> None:
        self._registry = registry
        self._greeting = greeting
        self._receiver = receiver
        self._handlers_of_protocol_1 = commands.handlers
        own = CommandTable()
        own.on(messages.Leave, self._on_leave)
        own.on(messages.Released, self._on_released)
        own.on(messages.Bye, self._on_bye)
        own.on(Unknown, self._on_unknown)
        self._handlers = commands.handlers | own.handlers
        self._shared = shared
        self._loop = shared.loop
        self._counters = shared.counters
        self._resume_window = resume_window
        self._heartbeat = heartbeat
        self._links: set[BackendLink] = set()
        self._dead: OrderedDict[str, int] = OrderedDict()  # id to the last number that was carried out (LINK rule 18)
        self._no_links = asyncio.Event()
        self._beat: asyncio.TimerHandle | None = None

    @property
    def links(self) -> Collection[BackendLink]:
        """All links, those too that have not said who they are."""
        return self._links

    @property
    def tools(self) -> Iterable[Session]:
        """The links of tools."""
        return [link.session for link in self._links if isinstance(link.session, ToolSession)]

    def give_up(self, session: Session) -> None:
        """End a session for the memory that it takes itself: it reads no results, or ends no line."""
        link = session.link
        if self._registry.find(session.session_id) is not None:
            self._die(session)
        if link is not None:
            link.abort()

    # --- the cluster (CLUSTER rule 15) ---

    def advertised(self, address: str) -> None:
        """Tell backends where this broker is reached by others: ``host:port``."""
        if self._greeting.set_address(address):
            self._tell_all()

    def peers_changed(self, peers: Sequence[Peer]) -> None:
        """Tell backends which other brokers there are now, so that they link to all of them."""
        if self._greeting.set_peers(peers):
            self._tell_all()

    def drains(self) -> None:
        """Tell backends that this broker is about to end: what belongs to no client had better go by another one."""
        if self._greeting.set_draining():
            self._tell_all()

    def _tell_all(self) -> None:
        for link in self._links:
            session = link.session
            if session is not None and (session.link_session is not None or isinstance(session, ToolSession)):
                self._tell_peers(link)

    def _tell_peers(self, link: BackendLink) -> None:
        """Tell who there is now, on a new link too: it may have changed since that one's hello."""
        if self._greeting.peers:
            link.write(self._greeting.peers)

    # --- links: what LinkOwner asks for ---

    def link_opened(self, link: BackendLink) -> None:
        """A connection was accepted."""
        self._links.add(link)
        self._no_links.clear()

    def link_decided(self, link: BackendLink, hello: HelloParams | None) -> None:
        """Give the link a session: a new one, or the one that it resumes."""
        if hello is not None and hello.role == messages.TOOL:
            link.session = ToolSession(link, self._shared)
            self._tell_peers(link)
            logger.info("%s is a tool", link.name)
            return
        if hello is None or min(hello.protocol, messages.PROTOCOL) < 2 or not hello.session_id:
            session = Session(link.name, f"protocol 1, link {link.number}", None, self._shared)
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
            or session.link_session is not None
            or session.streams
            or (session.requests and not session.is_mute)
        ):
            self._counters["hellos_late"] += 1
            return
        self._die(session)  # what it was asked others are asked
        link.introduce(hello)
        self.link_decided(link, hello)

    def link_acknowledged(self, link: BackendLink, number: int) -> None:
        """Keep these lines no longer."""
        session = link.session
        if session is None or session.link_session is None:
            return
        if not session.link_session.acknowledge(number):
            self._break(link, "acknowledged a line that it was never sent")

    def link_received(self, link: BackendLink, commands: list[SessionCommand | Unknown | Broken]) -> None:
        """Carry out commands in order, each once. What one of them raises ends that one."""
        session = link.session
        if session is None:
            return
        if session.unresponsive or session.is_mute:
            session.unresponsive = session.is_mute = False
            self._become_available(session)
        link_session = session.link_session
        if link_session is None:
            self._carry_out_unnumbered(link, session, commands)
            return
        handlers = self._handlers
        for command in commands:
            receipt = link_session.accept(command.seq)
            if receipt is _NEW:
                try:
                    handlers[type(command)](session, command)
                except Exception as error:  # noqa: BLE001 - whatever it is
                    self._receiver.failed(session, command, error)
                if link.session is not session:  # it has ended: what follows is for the next one
                    return
            elif receipt is _GAP:
                if not isinstance(command, Broken) or command.seq:
                    self._break(link, "left out a line")
                    return
                if command.request_id:  # somebody waits for it
                    handlers[Broken](session, command)
        if link_session.unannounced >= _ACKNOWLEDGE_AFTER:
            self._acknowledge(session)
        elif link_session.unannounced and session.timer is None:
            session.timer = self._loop.call_later(_ACKNOWLEDGE_WITHIN, self._acknowledge, session)

    def _carry_out_unnumbered(
        self, link: BackendLink, session: Session, commands: list[SessionCommand | Unknown | Broken]
    ) -> None:
        """Do it in protocol 1, which knows nothing of sessions."""
        for command in commands:
            handler = self._handlers_of_protocol_1.get(type(command))
            if handler is None:
                continue
            try:
                handler(session, command)
            except Exception as error:  # noqa: BLE001 - whatever it is
                self._receiver.failed(session, command, error)
            if link.session is not session:
                return

    def link_flow(self, link: BackendLink) -> None:
        """A slow link of protocol 1 takes no events, or does again. Protocol 2 goes by credit (LINK rule 11)."""
        session = link.session
        if isinstance(session, ToolSession):
            session.output.flow()
        elif session is not None and session.link_session is None:
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
        if session.link_session is None or self._registry.is_stopping:
            logger.info("%s is gone", link.name)
            self._die(session)
            return
        logger.info("%s lost its link; its session may be resumed for %g s", link.name, self._resume_window)
        self._set_timer(session, self._loop.call_later(self._resume_window, self._expire, session))
        self._receiver.session_unlinked(session)

    # --- sessions ---

    def _begin_protocol_2(self, link: BackendLink, hello: HelloParams) -> None:
        known = self._registry.find(hello.session_id)
        if hello.resume and known is not None and known.link_session is not None:
            missed = known.link_session.resume(hello.received)
            if missed is None:
                self._break(link, "resumes a session with a number that was never sent")
                return
            self._attach(known, link)
            link.write(wire.welcome(known.session_id, True, known.link_session.received))
            for line in missed:
                link.write(line)
            self._tell_peers(link)
            self._counters["sessions_resumed"] += 1
            logger.info("%s has resumed its session; %d lines are sent again", link.name, len(missed))
            self._become_available(known)
            return
        session_id = hello.next_session_id if hello.resume else hello.session_id
        if not session_id or self._registry.find(session_id) is not None:
            self._break(link, "named no session of its own")
            return
        if 0 < hello.max_line < _LEAST_LINE:
            self._break(link, f"takes lines of {hello.max_line} bytes only, and needs to take {_LEAST_LINE} at least")
            return
        self._registry.has_met_protocol_2 = True
        session = Session(link.name, session_id, LinkSession(session_id), self._shared)
        session.max_line = max_unnumbered(hello.max_line, EVENT_NUMBERS)
        session.sends_only = hello.role == messages.SENDER
        session.keeps_contexts = hello.contexts
        session.flow = hello.flow
        session.answers = hello.requests
        self._attach(session, link)
        link.write(wire.welcome(session_id, False, self._dead.get(hello.session_id) if hello.resume else 0))
        self._tell_peers(link)
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
        self._registry.add(session)

    def _become_available(self, session: Session) -> None:
        """Let events flow to a session, and end those that only lived because nobody could take their clients."""
        link = session.link
        if link is None:
            return
        session.is_up = session.link_session is not None or not link.blocked
        if session.is_leaving or not session.is_up:
            return
        self._receiver.session_available(session)
        if session.is_available and not self._registry.may_be_nobody(session):
            for other in [other for other in self._registry.sessions if other.is_expired]:
                self._die(other)

    def _expire(self, session: Session) -> None:
        """The resume window is over: the session ends as soon as another backend can take its clients (rule 14)."""
        session.timer = None
        session.is_expired = True
        if session.sends_only or self._registry.choose_owner() is not None:
            self._die(session)
        else:
            self._receiver.session_expired(session)

    # --- commands that are about the session ---

    def _on_leave(self, session: Session, _command: messages.Leave) -> None:
        self._begin_leaving(session)

    def _on_released(self, session: Session, command: messages.Released) -> None:
        self._begin_leaving(session)  # who gives events back wants no more: they would come again, and again
        self._receiver.session_released(session, command.params.events)

    def _begin_leaving(self, session: Session) -> None:
        if not session.is_leaving:
            session.is_leaving = True
            self._receiver.session_leaving(session)
            session.write(wire.LEAVING)
            logger.info("%s is leaving", session.name)

    def _on_bye(self, session: Session, _command: messages.Bye) -> None:
        logger.info("%s has left", session.name)
        link = session.link
        self._acknowledge(session)
        self._die(session)
        if link is not None:
            link.close()

    def _on_unknown(self, session: Session, command: Unknown) -> None:
        """Only its number counts."""

    # --- how ---

    def _acknowledge(self, session: Session) -> None:
        self._set_timer(session, None)
        assert session.link_session is not None
        number = session.link_session.acknowledgement()
        if number is not None and session.link is not None:
            session.link.write(wire.received(number))

    def _die(self, session: Session) -> None:
        """End a session for good, and remember it."""
        self._set_timer(session, None)
        self._registry.remove(session)
        session.is_up = False
        link, session.link = session.link, None
        if link is not None:
            link.session = None
        if session.link_session is not None:
            self._dead[session.session_id] = session.link_session.received
            while len(self._dead) > _REMEMBERED_DEAD:
                self._dead.popitem(last=False)
            if self._registry.is_stopping:
                if session.unfinished:
                    logger.warning(
                        "stopping: %s has not finished %d events in time", session.name, len(session.unfinished)
                    )
            elif session.unfinished or session.streams:
                logger.warning("the session of %s is given up: %d clients, %d events go to other backends",
                               session.name, len(session.streams), len(session.unfinished))  # fmt: skip
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
            if session.link_session is not None and is_silent(link.heard, now, self._heartbeat):
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
        self._registry.is_stopping = True
        if self._beat is not None:
            self._beat.cancel()
        for session in list(self._registry.sessions):
            if session.link is None:
                self._die(session)
            elif session.link_session is not None:
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
        return any(each.link is not None and each.unfinished for each in self._registry.sessions)
