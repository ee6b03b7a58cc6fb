"""What a client receives: events for handlers, results for those who wait."""

import logging
from functools import partial
from typing import Final, TypeAlias, cast

from pystrands.client.connection.greetings import Greetings
from pystrands.client.connection.link import BrokerLink
from pystrands.client.connection.session import BackendSession
from pystrands.client.handlers.calls import (
    HandlerCall,
    call_for,
    call_for_message,
    unreadable,
)
from pystrands.client.requests import result_error, to_recipient
from pystrands.context import FORBIDDEN
from pystrands.errors import MalformedLine, PyStrandsError
from pystrands.protocol import wire
from pystrands.protocol.address import about_http
from pystrands.protocol.link import NUMBER, LinkSession, Receipt, max_unnumbered, ranges
from pystrands.protocol.messages import (
    EVENTS,
    NOT_KNOWN,
    Broken,
    ClientAdopted,
    ClientContext,
    ClientError,
    ClientResumed,
    ClientSuspended,
    ConnectionRequest,
    Disconnected,
    Event,
    Full,
    Heartbeat,
    Hello,
    JoinRequest,
    Leaving,
    LinkRefused,
    NewConnection,
    NewMessage,
    Peers,
    PeersParams,
    Ready,
    Received,
    Result,
    TokenRequest,
    Unknown,
    Welcome,
)

__all__ = ["Incoming"]

logger = logging.getLogger(__name__)

_NEW: Final = Receipt.NEW
_MESSAGE: Final = NewMessage  # both looked up for every line: a constant is cheaper
OfClient: TypeAlias = (
    NewMessage
    | NewConnection
    | TokenRequest
    | JoinRequest
    | Disconnected
    | ClientAdopted
    | ClientSuspended
    | ClientResumed
    | ClientError
)
_OF_CLIENTS: Final = (
    NewMessage,
    NewConnection,
    TokenRequest,
    JoinRequest,
    Disconnected,
    ClientAdopted,
    ClientSuspended,
    ClientResumed,
    ClientError,
)
OfTheLink: TypeAlias = Received | Peers | Hello | Welcome | LinkRefused
_OF_THE_LINK: Final = (Received, Peers, Hello, Welcome, LinkRefused)
ACKNOWLEDGE_WITHIN: Final = 0.1
"""Seconds until lines that came are acknowledged, when nothing is written meanwhile."""


def _explain(link: BrokerLink, line: bytes) -> Event | Unknown | Broken | None:
    """Return what is known of a line that is not as it should be."""
    event = EVENTS.read(line)
    if isinstance(event, Broken):
        link.reject_line(event.problem)
    return event


class Incoming(Greetings):
    """Handles the lines of all links to one broker, and with them the session of protocol 2."""

    # --- lines ---

    def receive(self, link: BrokerLink, lines: list[bytes]) -> None:
        """Take the lines of one read."""
        if not link.has_received and not self._begins_well(link, lines):
            return
        session: BackendSession | None = self._outgoing.session
        decode = EVENTS.known
        event: Event | Unknown | Broken | None
        for line in lines:
            try:
                event = decode(line)
            except NOT_KNOWN:
                event = _explain(link, line)
            kind = type(event)
            if kind is _MESSAGE and session is not None and session.is_up:  # the ordinary case, before all others
                stream = session.session
                if (seq := cast("NewMessage", event).seq) == stream.received + 1:  # as accept() says, without a call
                    stream.received = seq
                    self._receive_message(link, session, cast("NewMessage", event), seq, line)
                    continue
            if event is None:
                continue
            if isinstance(event, Heartbeat):
                if event.params:
                    self._heartbeats.on_heartbeat(event)
                continue
            if isinstance(event, _OF_THE_LINK):
                self._receive_of_link(link, event)
                session = self._outgoing.session
            elif link.awaits_welcome:
                link.reject_line("it came before the welcome")
                if self._outgoing.link is link:  # our hello was too late: to the broker this is protocol 1
                    link.abort()
            elif session is None or (kind is Broken and not cast("Broken", event).seq):
                if kind is not Unknown:
                    self._on_event(link, session, cast("Event | Broken", event), line)
            elif self._is_next(link, session, number := getattr(event, "seq", 0)):
                if kind is Unknown:
                    self._skip(link, number)
                else:
                    self._on_event(link, session, cast("Event | Broken", event), line)
            if not link.is_open:
                return
        if not link.awaits_welcome:
            self._usable(link)
            # Behind the runner that put() has scheduled: what its handlers send goes out in the same turn as they run.
            link.schedule_flush()
            if session is not None and session.session.unannounced:
                self._acknowledge_soon()
        if self._calls.full and self._outgoing.session is None:
            link.pause_reading()  # a link that is newer than the last change of flow, too

    def _receive_of_link(self, link: BrokerLink, line: OfTheLink) -> None:
        """Take a line that is about the link, and so has no number."""
        if isinstance(line, Received):
            self._on_received(link, line.params.seq)
        elif isinstance(line, Peers):
            self._on_peers(link, line.params)
        elif isinstance(line, Hello):
            self._on_hello(link, line.params)
        elif isinstance(line, Welcome):
            self._on_welcome(link, line.params)
        else:
            self._on_refused(link, line.params)

    def _begins_well(self, link: BrokerLink, lines: list[bytes]) -> bool:
        """Whether it may be a broker that says this first; else close the link."""
        link.has_received = True
        line = lines[0]
        first = EVENTS.read(line)
        if line.startswith(b"HTTP/"):
            link.problem = about_http(lines[-1])
        elif isinstance(first, Broken) and not first.action:  # a greeting of something else, such as SSH or SMTP
            link.problem = "does not speak as a broker does: is it the port of something else?"
        elif not self.may_be_old() and type(first) is not Hello:
            link.problem = "says something else than a broker's hello"
        else:
            return True
        link.abort()
        return False

    def receive_and_begin(self, link: BrokerLink, lines: list[bytes]) -> None:
        """Take the lines of one read, and run their handlers; what these send goes out then. Only with EAGER tasks."""
        dispatcher = self._dispatcher
        dispatcher.gather()
        link.defer_flush()
        try:
            self.receive(link, lines)
        finally:
            dispatcher.begin()
            link.flush()

    def _is_next(self, link: BrokerLink, session: BackendSession, seq: int) -> bool:
        """Whether a line is the next of the stream, and so to be handled (LINK rule 2)."""
        receipt = session.session.accept(seq)
        if receipt is Receipt.GAP:
            link.reject_line("a line before it is missing; the link is closed")
            link.abort()
        return receipt is _NEW

    def _acknowledge_soon(self) -> None:
        if self._acknowledging is None:
            self._acknowledging = self._loop.call_later(ACKNOWLEDGE_WITHIN, self._acknowledge)

    def _acknowledge(self) -> None:
        self._acknowledging = None
        link = self._outgoing.link
        if link is not None and (line := self._outgoing.acknowledgement()):
            link.write(line)

    def _skip(self, link: BrokerLink, seq: int) -> None:
        """Finish an event that can't be handled: or else it would keep its credit, and come again at other backends."""
        if self._outgoing.session is not None and seq:
            self._outgoing.session.finished(seq)
            link.schedule_flush()

    def _fill_in(self, link: BrokerLink, session: BackendSession | None, event: OfClient, action: str) -> int:
        """Give an event a context that came before it; return the bytes of that one's line. 0: it can't be handled."""
        size = self._ownership.fill_in(event.params)
        if not size:
            problem = "it refers to a context that has not come"
            link.reject_line(problem)
            self._receive_broken(link, session, Broken(problem, action, seq=event.seq))
        return size

    def _receive_message(
        self, link: BrokerLink, session: BackendSession, event: NewMessage, seq: int, line: bytes
    ) -> None:
        size, params = len(line), event.params
        if params.known:
            if not (kept := self._fill_in(link, session, event, "new_message")):
                return
            size += kept
        try:
            call = call_for_message(event, link.broker, size, seq, session.done)
        except MalformedLine as error:
            link.reject_line(error)
            self._receive_broken(link, session, Broken(str(error), "new_message", seq=seq))
            return
        if not params.known:
            self._ownership.owns(cast("str", call.lane), params.context, line)
        if params.reply:
            call.broker, call.reply = link.broker, partial(self._reply, session.session)
        if self.is_leaving:
            self._release([call])
        else:
            self._dispatcher.put(self._calls, call)

    def _receive_broken(self, link: BrokerLink, session: BackendSession | None, line: Broken) -> None:
        """What the broker wanted can't be read: who waits for it hears so, or the broker, or else ``on_error``."""
        if line.action == "result":
            waiter = self.results.get(line.request_id)
            if waiter is not None and not waiter.done():
                waiter.set_exception(PyStrandsError(f"the broker's answer could not be read: {line.problem}"))
        elif line.action == "connection_request":
            refusal = wire.response(line.request_id, False, status=500, reason="the backend could not read the request")
            self._outgoing.write(refusal)
        elif line.seq and not self.is_leaving:
            call = unreadable(line.action, line.problem)
            call.seq, call.done = line.seq, None if session is None else session.done
            self._dispatcher.put(self._calls, call)
        else:
            self._skip(link, line.seq)

    def _on_event(self, link: BrokerLink, session: BackendSession | None, event: Event | Broken, line: bytes) -> None:
        kind = type(event)
        if isinstance(event, Broken):
            self._receive_broken(link, session, event)
            return
        if kind is Result:
            result = cast("Result", event)
            waiter = self.results.get(result.request_id)
            if waiter is not None and not waiter.done():
                if result.params.error:
                    waiter.set_exception(result_error(result.params))
                else:
                    waiter.set_result(result.params)
            return
        if kind is Leaving:
            if not self.left.done():
                self.left.set_result(None)
            return
        if kind is Full:
            self._outgoing.on_full(to_recipient(cast("Full", event).params))
            return
        if kind is Ready:
            self._outgoing.on_ready(to_recipient(cast("Ready", event).params))
            return
        if kind is ClientContext:
            self._ownership.keep(cast("ClientContext", event), line)
            return
        size = len(line)
        if isinstance(event, _OF_CLIENTS) and event.params.known:
            if not (kept := self._fill_in(link, session, event, str(event.__struct_config__.tag))):
                return
            size += kept
        try:
            call = call_for(event, link.broker)
        except MalformedLine as error:
            link.reject_line(error)
            self._receive_broken(link, session, Broken(str(error), "new_message", seq=getattr(event, "seq", 0)))
            return
        if call is None:
            return
        link.exchanged = link.has_events = True
        call.size = size
        if kind is ConnectionRequest:
            call.max_line, call.broker = max_unnumbered(link.broker.max_line, NUMBER), link.broker
            call.reply = link.write if session is None else partial(self._reply, session.session)
            if not link.broker.said_hello:
                call.reply = partial(self._reply_to_original, link, call)
        else:
            if session is not None:
                call.seq, call.done = getattr(event, "seq", 0), session.done
                if kind is TokenRequest or kind is JoinRequest:
                    call.reply = partial(self._reply, session.session)
            if link.broker.said_hello:
                self._ownership.on_event(event, line)
        if self.is_leaving:
            self._release([call])
        else:
            self._dispatcher.put(self._calls, call)

    def _reply_to_original(self, link: BrokerLink, call: HandlerCall, line: bytes) -> None:
        """Answer the original broker, which knows less of answers than we do."""
        link.write(line)
        asked = call.request
        if self._has_warned or asked is None:
            return
        is_more = asked.response_headers or asked.reason or asked.user is not None or asked.rooms
        if asked.expires_at is not None or asked.status != FORBIDDEN or is_more:
            self._has_warned = True
            logger.warning(
                "the broker is the original one: it knows no expires_at and closes nobody whose time is over, "
                "and no status, reason or headers of an answer, no user and one room only"
            )

    def _reply(self, asked: LinkSession, line: bytes) -> None:
        """Answer a connection request in the session that asked: another broker gives the same numbers to others."""
        session = self._outgoing.session
        if session is not None and session.session is asked:
            self._outgoing.write(line)

    # --- acknowledgements, and other brokers ---

    def _on_peers(self, link: BrokerLink, params: PeersParams) -> None:
        if self._outgoing.link is link:
            self._told(link, params.address, params.draining, params.peers)

    def _on_received(self, link: BrokerLink, seq: int) -> None:
        session = self._outgoing.session
        if session is None or link.awaits_welcome:
            return
        if not session.session.acknowledge(seq):
            logger.warning("the broker acknowledged what was never sent; the link is closed")
            link.abort()
        self._outgoing.refill()
        self._see_delivered(session)

    # --- the end ---

    def leave(self) -> None:
        """Tell the broker to send no more events, and give back those that no handler has begun with (rule 16)."""
        self.is_leaving = True
        self._outgoing.leave()
        self.give_back()

    def give_back(self) -> None:
        """Leave those events to other backends that no handler has begun with."""
        self._release(self._dispatcher.release(self._calls))

    def _release(self, calls: list[HandlerCall]) -> None:
        session = self._outgoing.session
        if session is not None:
            numbers = [call.seq for call in calls if call.seq and call.done is session.done]
            if numbers:
                self._outgoing.write(wire.released(ranges(numbers)))

    def link_lost(self, link: BrokerLink) -> None:
        """A link is gone; in protocol 1, so are the answers that were to come on it."""
        self._outgoing.detach(link)
        if self._outgoing.session is None:
            self._fail_results()

    def close(self) -> None:
        """Let go of everything."""
        if self._acknowledging is not None:
            self._acknowledging.cancel()
            self._acknowledging = None
        self._fail_results()
        if not self.left.done():
            self.left.set_result(None)
