"""What a client receives: hellos and welcomes, events for handlers, results for those who wait."""

import asyncio
import logging
import math
import secrets
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TypeAlias, cast

from pystrands.client.connection.heartbeats import Heartbeats
from pystrands.client.connection.link import BrokerLink
from pystrands.client.connection.outgoing import Outgoing
from pystrands.client.connection.ownership import Ownership
from pystrands.client.connection.session import BackendSession
from pystrands.client.handlers.calls import (
    HandlerCall,
    call_for,
    call_for_message,
    lost_messages,
    synthesised_disconnect,
    synthesised_release,
    unreadable,
)
from pystrands.client.handlers.dispatch import Dispatcher
from pystrands.client.handlers.queue import CallQueue
from pystrands.client.options import Options
from pystrands.client.requests import to_recipient
from pystrands.context import FORBIDDEN, Context
from pystrands.errors import MalformedLine, OutcomeUnknown, PyStrandsError
from pystrands.protocol import messages, wire
from pystrands.protocol.address import about_http
from pystrands.protocol.link import NUMBER, LinkSession, Receipt, max_unnumbered, ranges
from pystrands.protocol.messages import (
    EVENTS,
    NOT_KNOWN,
    Broken,
    ClientAdopted,
    ClientContext,
    ClientError,
    ConnectionRequest,
    Disconnected,
    Event,
    Full,
    Heartbeat,
    Hello,
    HelloParams,
    Leaving,
    LinkRefused,
    NewConnection,
    NewMessage,
    Ready,
    Received,
    RefusedParams,
    Result,
    ResultParams,
    Unknown,
    Welcome,
    WelcomeParams,
)
from pystrands.protocol.remains import remains_of

__all__ = ["Incoming"]

logger = logging.getLogger(__name__)

_NEW: Final = Receipt.NEW
_MESSAGE: Final = NewMessage  # both looked up for every line: a constant is cheaper
OfClient: TypeAlias = NewMessage | NewConnection | Disconnected | ClientAdopted | ClientError
_OF_CLIENTS: Final = (NewMessage, NewConnection, Disconnected, ClientAdopted, ClientError)
WELCOME_TIMEOUT: Final = 10.0
"""Seconds for the welcome to a hello that came late, on a link that is in use."""
ACKNOWLEDGE_WITHIN: Final = 0.1
"""Seconds until lines that came are acknowledged, when nothing is written meanwhile."""


def new_session_id() -> str:
    """Return a name that no other session has: 128 random bits (LINK rule 19)."""
    return secrets.token_hex(16)


def _explain(link: BrokerLink, line: bytes) -> Event | Unknown | Broken | None:
    """Return what is known of a line that is not as it should be."""
    event = EVENTS.read(line)
    if isinstance(event, Broken):
        link.reject_line(event.problem)
    return event


def _of_no_event(context: Context) -> Context:
    """Return a client's context without the event that it came with, which was another one."""
    context._event, context.redelivered = None, False  # noqa: SLF001 - the library's own
    return context


def _of_its_end(context: Context, broker_id: str, *, is_certain: bool) -> Context:
    """Return the context of a client that died with its broker, for the event of which no broker told.

    It has the same name in all backends that tell of it, none in protocol 1. It is marked where others may do so.
    """
    context._event = (broker_id, f"gone-{context.client_id}") if broker_id else None  # noqa: SLF001 - as above
    context.redelivered = not is_certain
    return context


class Incoming:
    """Handles the lines of all links to one broker, and with them the session of protocol 2.

    ``usable(link)`` is called when commands can go out on a link, ``refused(link, reason, final)`` when the broker does
    not let this backend in, for now or for good.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: Options,
        dispatcher: Dispatcher,
        calls: CallQueue,
        outgoing: Outgoing,
        heartbeats: Heartbeats,
        usable: Callable[[BrokerLink], None],
        refused: Callable[[BrokerLink, str, bool], None],
    ) -> None:
        self._loop = loop
        self._options = options
        self._dispatcher = dispatcher
        self._calls = calls
        self._outgoing = outgoing
        self._usable = usable
        self._refused = refused
        self._has_warned = False
        self._ownership = Ownership()
        self._broker_id = ""
        self._died: list[Context] = []
        """Clients that are gone with their broker, and of which nobody was told yet."""
        self._resuming = ""
        """With a resume under way: the session to begin should it fail."""
        self._heartbeats = heartbeats
        self._acknowledging: asyncio.TimerHandle | None = None
        self.results: dict[str, asyncio.Future[ResultParams]] = {}
        """Who waits for the answer to a command, by its request id."""
        self.is_leaving = False
        self.left: asyncio.Future[None] = loop.create_future()
        """Done when the broker has said that no more events come."""
        self.delivered: asyncio.Future[None] = loop.create_future()
        """Done when the broker has all that was sent, the bye included."""

    def may_be_old(self) -> bool:
        """Whether the broker may be one that says no hello; not once it has said one, nor with a token (rule 7)."""
        return not (self._broker_id or self._options.send_only or self._options.token)

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
            if event is None or kind is Heartbeat:
                if event is not None and event.params:  # type: ignore[union-attr]  # by its kind
                    self._heartbeats.on_heartbeat(cast("Heartbeat", event))
                continue
            if kind is Hello:
                self._on_hello(link, cast("Hello", event).params)
                session = self._outgoing.session
            elif kind is Welcome:
                self._on_welcome(link, cast("Welcome", event).params)
            elif kind is Received:
                self._on_received(link, cast("Received", event).params.seq)
            elif kind is LinkRefused:
                self._on_refused(link, cast("LinkRefused", event).params)
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
            self._ownership.owns(cast("str", call.lane), call.context, line)
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
                    waiter.set_exception(PyStrandsError(result.params.error))
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
                call.seq, call.done = event.seq, session.done  # type: ignore[union-attr]  # events have one
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
        if asked.expires_at is not None or asked.response_headers or asked.status != FORBIDDEN or asked.reason:
            self._has_warned = True
            logger.warning(
                "the broker is the original one: it knows no expires_at and closes nobody whose time is over, "
                "and no status, reason or headers of an answer"
            )

    def _reply(self, asked: LinkSession, line: bytes) -> None:
        """Answer a connection request in the session that asked: another broker gives the same numbers to others."""
        session = self._outgoing.session
        if session is not None and session.session is asked:
            self._outgoing.write(line)

    # --- hello and welcome ---

    def _on_hello(self, link: BrokerLink, params: HelloParams) -> None:
        speaks_2 = min(messages.PROTOCOL, params.protocol) >= 2
        # Lines that were written meanwhile don't matter to protocol 2: the broker takes them, and then the hello.
        if link.has_events or link.broker.said_hello or (link.exchanged and not speaks_2):
            logger.debug("the broker's hello came too late and was ignored")
            return
        link.on_hello(params)
        only_sends = self._options.send_only or self.is_leaving
        if only_sends and not speaks_2:
            if not self.is_leaving:
                logger.error("this broker gives clients to everybody who connects: send_only needs one of protocol 2")
            link.abort()
            return
        if self._options.token and not speaks_2:
            logger.error("this broker speaks protocol 1 only, which knows no tokens: it is not told this backend's")
            link.abort()
            return
        is_same = params.broker_id == self._broker_id
        if not is_same:
            self._fail_results()
        # Its clients were no other backend's as long as the lease lasted; after that nobody here can know.
        is_certain = not self._calls.lease_is_over
        died = self._ownership.hello(params.broker_id, keeps_sessions=speaks_2)
        older = "" if self._outgoing.session is None else self._broker_id  # in protocol 1 events have no names
        self._died += [_of_its_end(context, older, is_certain=is_certain) for context in died]
        self._broker_id = params.broker_id
        role = messages.SENDER if only_sends else ""  # which a session that goes on does not mind
        answer = HelloParams(protocol=messages.PROTOCOL, name=self._options.name or "", role=role)
        answer.token = self._options.token or ""
        answer.flow = speaks_2
        if answer.token and link.is_exposed and not self._has_warned:
            self._has_warned = True
            logger.warning("the token travels in the clear to %s: use TLS (ssl=), or a private network", link.address)
        if speaks_2:
            link.awaits_welcome = True
            if self._outgoing.link is link:  # a late one: nobody else waits for the welcome
                self._loop.call_later(WELCOME_TIMEOUT, self._miss_welcome, link)
            self._name_session(answer, is_same=is_same)
        else:
            self._forget_session()
        if not (is_same and speaks_2):
            if not is_certain:
                self._calls.mark_repeats()
            self._dispatcher.renew(
                self._calls, math.inf
            )  # what waits is a broker's that is gone: nobody gets it any more
        self._heartbeats.greet(params)
        link.say_hello(answer)
        if died:
            logger.warning("the broker was replaced; %d clients of this backend are gone with it", len(died))
        if not speaks_2:  # the link is ready, as far as there are such links
            self.notify_died()

    def notify_died(self) -> None:
        """Tell handlers of clients that are gone with their broker: now that they can send, or never will."""
        died, self._died = self._died, []
        for context in died:
            self._dispatcher.put(self._calls, synthesised_disconnect(context))

    def _name_session(self, answer: HelloParams, *, is_same: bool) -> None:
        """Fill in which session the backend wants: the one that it has, or a new one (LINK rules 19, 22, 23)."""
        session = self._outgoing.session
        self._resuming = ""
        if session is None:
            session = self._outgoing.session = BackendSession(new_session_id())
        elif is_same:
            self._resuming = new_session_id()
            answer.resume = True
            answer.next_session_id = self._resuming
            answer.received = session.session.received
        else:
            self._outgoing.forget_full(are_clients_gone=True)
            self._notify_lost(session.new_broker(new_session_id()))
        answer.session_id = session.session.session_id

    def _forget_session(self) -> None:
        """The broker was replaced by one that only speaks protocol 1, in which nothing is kept."""
        session, self._outgoing.session = self._outgoing.session, None
        self._outgoing.forget_full(are_clients_gone=True)
        if session is not None:
            self._notify_lost(session.undelivered)

    def _notify_lost(self, count: int) -> None:
        if count:
            self._dispatcher.put(self._calls, lost_messages(count))

    def _on_welcome(self, link: BrokerLink, params: WelcomeParams) -> None:
        session = self._outgoing.session
        if session is None or not link.awaits_welcome:
            link.reject_line("a welcome that nobody waits for")
            return
        if params.resumed:
            lines = session.resumed(params.received or 0)
            if lines is None:
                logger.warning("the broker resumed a session that is not this one's; the link is closed")
                link.abort()
                return
        elif self._resuming:
            lines = self._was_given_up(session, params.received)
        else:
            lines, lost = session.started(max_unnumbered(link.broker.max_line, NUMBER))
            self._notify_lost(lost)
        link.awaits_welcome = False
        self._usable(link)
        for line in lines:
            link.write(line)
        link.schedule_flush()
        self._outgoing.refill()
        self._see_delivered(session)
        self._heartbeats.begin(link)
        link.is_ready()
        self.notify_died()

    def _was_given_up(self, session: BackendSession, received: int | None) -> list[bytes]:
        """The broker has given this backend's clients to others meanwhile (LINK rule 18)."""
        dropped = self._dispatcher.forget(self._calls)
        self._outgoing.forget_full()
        released = self._ownership.release_all()
        released += [call.context for call in dropped if call.name == "on_disconnect"]  # theirs to be told of, too
        lines, lost = session.replaced(self._resuming, received)
        self._fail_results(sent_again=lines)
        self._notify_lost(lost)
        if self.is_leaving:  # its clients were to be others' anyway, and may be so since it said bye
            return lines
        logger.warning(
            "the broker had given up on this backend: %d clients and %d events are other backends' now",
            len(released),
            len(dropped),
        )
        for context in released:
            self._dispatcher.put(self._calls, synthesised_release(_of_no_event(context)))
        return lines

    @staticmethod
    def _miss_welcome(link: BrokerLink) -> None:
        if link.awaits_welcome and link.is_open:
            logger.warning("the broker did not answer the hello; the link is closed")
            link.abort()

    def _on_refused(self, link: BrokerLink, params: RefusedParams) -> None:
        if link.awaits_welcome or not (link.broker.said_hello or link.has_events):
            # A broker that does not say whether it is final has judged our hello, if it has heard one.
            final = link.awaits_welcome if params.final is None else params.final
            self._refused(link, params.reason, final)
        else:
            link.reject_line("a refusal of a link that is welcome")

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

    def _see_delivered(self, session: BackendSession) -> None:
        if session.ended and session.is_delivered and not self.delivered.done():
            self.delivered.set_result(None)

    def _release(self, calls: list[HandlerCall]) -> None:
        session = self._outgoing.session
        if session is not None:
            numbers = [call.seq for call in calls if call.seq and call.done is session.done]
            if numbers:
                self._outgoing.write(wire.released(ranges(numbers)))

    def _fail_results(self, sent_again: Iterable[bytes] = ()) -> None:
        """Have all who wait for an answer hear that none comes, but for those whose command is sent again."""
        if not self.results:
            return
        again = {remains_of(line).request_id for line in sent_again}
        for request_id, waiter in self.results.items():
            if request_id not in again and not waiter.done():
                waiter.set_exception(OutcomeUnknown("the broker, or its session with it, ended before the answer came"))

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
