"""How links begin: the broker's hello, this backend's, the welcome; and what ends with a broker, or with a session."""

import asyncio
import logging
import math
import secrets
from collections.abc import Callable, Iterable
from typing import Final

from pystrands.client.connection.heartbeats import LinkHeartbeats
from pystrands.client.connection.link import BrokerLink
from pystrands.client.connection.outgoing import Outgoing
from pystrands.client.connection.ownership import Ownership
from pystrands.client.connection.session import BackendSession
from pystrands.client.handlers.calls import HandlerCall, lost_messages, synthesised_disconnect, synthesised_release
from pystrands.client.handlers.dispatch import Dispatcher
from pystrands.client.handlers.queue import CallQueue
from pystrands.client.options import Options
from pystrands.context import Context
from pystrands.errors import OutcomeUnknown
from pystrands.protocol import messages
from pystrands.protocol.link import NUMBER, max_unnumbered
from pystrands.protocol.messages import HelloParams, PeerParams, RefusedParams, ResultParams, WelcomeParams
from pystrands.protocol.remains import remains_of

__all__ = ["Greetings"]

logger = logging.getLogger(__name__)

WELCOME_TIMEOUT: Final = 10.0
"""Seconds for the welcome to a hello that came late, on a link that is in use."""


def new_session_id() -> str:
    """Return a name that no other session has: 128 random bits (LINK rule 19)."""
    return secrets.token_hex(16)


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


class Greetings:
    """Has each link of one broker begin in the same session, as far as that lives; what comes later is for Incoming.

    ``usable(link)`` is called when commands can go out on a link, ``refused(link, reason, final)`` when the broker does
    not let this backend in, for now or for good. ``admit(link, hello)`` tells whether the broker that has said hello is
    the one that this is for; ``told(link, address, draining, peers)`` takes what a broker of a cluster tells of itself
    and of the others.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: Options,
        dispatcher: Dispatcher,
        calls: CallQueue,
        outgoing: Outgoing,
        heartbeats: LinkHeartbeats,
        usable: Callable[[BrokerLink], None],
        refused: Callable[[BrokerLink, str, bool], None],
        admit: Callable[[BrokerLink, HelloParams], bool],
        told: Callable[[BrokerLink, str, bool, list[PeerParams] | None], None],
    ) -> None:
        self._loop = loop
        self._options = options
        self._dispatcher = dispatcher
        self._calls = calls
        self._outgoing = outgoing
        self._usable = usable
        self._refused = refused
        self._admit = admit
        self._told = told
        self._has_warned = False
        self._ownership = Ownership()
        self.broker_id = ""
        """Of the broker process that this is for; empty before its hello, and where it has said none."""
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
        return not (self.broker_id or self._options.send_only or self._options.token)

    def _on_hello(self, link: BrokerLink, params: HelloParams) -> None:
        speaks_2 = min(messages.PROTOCOL, params.protocol) >= 2
        # Lines that were written meanwhile don't matter to protocol 2: the broker takes them, and then the hello.
        if link.has_events or link.broker.said_hello or (link.exchanged and not speaks_2):
            logger.debug("the broker's hello came too late and was ignored")
            return
        if not self._admit(link, params):
            link.is_other = True
            link.abort()
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
        is_same = params.broker_id == self.broker_id
        if not is_same:
            self._fail_results()
        # Its clients were no other backend's as long as the lease lasted; after that nobody here can know.
        is_certain = not self._calls.lease_is_over
        died = self._ownership.hello(params.broker_id, keeps_sessions=speaks_2)
        older = "" if self._outgoing.session is None else self.broker_id  # in protocol 1 events have no names
        self._died += [_of_its_end(context, older, is_certain=is_certain) for context in died]
        self.broker_id = params.broker_id
        role = messages.SENDER if only_sends else ""  # which a session that goes on does not mind
        answer = HelloParams(protocol=messages.PROTOCOL, name=self._options.name or "", role=role)
        answer.token = self._options.token or ""
        answer.flow = answer.requests = speaks_2
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
        self._told(link, params.address, params.draining, params.peers)

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
        released = self._released(dropped)
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
        self._notify_released(released)
        return lines

    def _released(self, dropped: list[HandlerCall]) -> list[Context]:
        """Return the clients that are other backends' now; ``dropped`` is what was not handled of their events."""
        released = self._ownership.release_all()
        return released + [
            call.context for call in dropped if call.name == "on_disconnect"
        ]  # theirs to be told of, too

    def _notify_released(self, released: list[Context]) -> None:
        for context in released:
            self._dispatcher.put(self._calls, synthesised_release(_of_no_event(context)))

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

    # --- without a link ---

    def broker_gone(self) -> None:
        """The broker is gone for good, and its clients with it (LINK rules 22, 23): tell of them now."""
        self._fail_results()
        is_certain = not self._calls.lease_is_over
        died = self._ownership.release_all()
        session = self._outgoing.session
        older = "" if session is None else self.broker_id
        self._died += [_of_its_end(context, older, is_certain=is_certain) for context in died]
        self._outgoing.forget_full(are_clients_gone=True)
        if session is not None:
            self._notify_lost(session.new_broker(new_session_id()))
        if not is_certain:
            self._calls.mark_repeats()
        self._dispatcher.renew(self._calls, math.inf)
        if died:
            logger.warning("a broker is gone; %d clients of this backend are gone with it", len(died))
        self.notify_died()

    def give_up(self) -> None:
        """There will be no link to this broker any more, which may live: its clients are other backends' (rule 18)."""
        dropped = self._dispatcher.forget(self._calls)
        self._outgoing.forget_full()
        self._dispatcher.renew(self._calls, math.inf)
        self._fail_results()
        if (session := self._outgoing.session) is not None:
            self._notify_lost(session.new_broker(new_session_id()))
        self._notify_released(self._released(dropped))

    def _see_delivered(self, session: BackendSession) -> None:
        if session.ended and session.is_delivered and not self.delivered.done():
            self.delivered.set_result(None)

    def _fail_results(self, sent_again: Iterable[bytes] = ()) -> None:
        """Have all who wait for an answer hear that none comes, but for those whose command is sent again."""
        if not self.results:
            return
        again = {remains_of(line).request_id for line in sent_again}
        for request_id, waiter in self.results.items():
            if request_id not in again and not waiter.done():
                waiter.set_exception(OutcomeUnknown("the broker, or its session with it, ended before the answer came"))
