"""Who gets what: clients and their events to backends."""

import asyncio
import logging
import sys
from collections.abc import Callable, Collection
from typing import Final, cast
from uuid import uuid4

from pystrands.broker.admission.handshake import Handshake
from pystrands.broker.backends.registry import Session, SessionReceiver, SessionRegistry
from pystrands.broker.counters import Counters
from pystrands.broker.events.assignments import (
    HOLDER_BYTES,
    MAX_DELIVERIES,
    Assignments,
    ClientEvent,
    ClientStream,
    Consumer,
    Keeper,
    Kind,
)
from pystrands.broker.events.queue import EventQueue, Offer
from pystrands.broker.hub.rooms import SMALL, ConnectedClient, Rooms
from pystrands.broker.routing.commands import Commands
from pystrands.broker.routing.connection_requests import ConnectionRequests
from pystrands.broker.ws.expiry import NEVER, Expiries
from pystrands.broker.ws.websocket import Receiver, WebSocket
from pystrands.errors import MalformedLine
from pystrands.protocol import wire
from pystrands.protocol.close_codes import (
    INTERNAL_ERROR,
    INVALID_PAYLOAD,
    MESSAGE_TOO_BIG,
    POLICY_VIOLATION,
    PROTOCOL_ERROR,
    TRY_AGAIN_LATER,
    UNSUPPORTED_DATA,
)
from pystrands.protocol.messages import (
    Broken,
    Command,
    Done,
    MessageToConnection,
    MessageToRoom,
    Released,
    Response,
    ResponseParams,
    Unknown,
)

__all__ = ["Router"]

logger = logging.getLogger(__name__)

# Looked up for every message: compiled code finds its module's constants at once, and searches for what is imported.
_MESSAGE: Final = Kind.MESSAGE
_NEVER: Final = NEVER
_TO_ONE: Final = MessageToConnection
_TO_ROOM: Final = MessageToRoom
_RESPONSE: Final = "response"
_ENDING_BYTES: Final = 1000
"""What a client that is gone takes beside its rooms and metadata, until its backend has finished with it."""
_FAILURES: Final = frozenset(
    {PROTOCOL_ERROR, UNSUPPORTED_DATA, INVALID_PAYLOAD, MESSAGE_TOO_BIG, INTERNAL_ERROR, TRY_AGAIN_LATER}
)
"""Close codes that a client's backend hears of as an error, before the disconnect."""


class Router(Receiver, SessionReceiver, Keeper):
    """Joins the WebSocket side and the sessions. Everything here is a callback; nothing waits.

    It is the receiver of WebSockets and of sessions, and the keeper of the ledger; its ``connection_requests`` decide
    on clients.
    ``backends`` is set before the first client can come: the two know each other, so one is made first.
    ``ledger`` makes its ledger.
    """

    backends: SessionRegistry

    def __init__(
        self,
        rooms: Rooms,
        queue: EventQueue,
        commands: Commands,
        loop: asyncio.AbstractEventLoop,
        *,
        hold_time: float,
        answer_timeout: float,
        counters: Counters,
        ledger: Callable[[Keeper], Assignments] = Assignments,
        backend_bytes: int = HOLDER_BYTES,
        ending_limit: int = sys.maxsize,
    ) -> None:
        self._rooms = rooms
        self._taps = rooms.taps
        self._queue = queue
        self._commands = commands
        self._loop = loop
        self._counters = counters
        self._expiries = Expiries(loop, counters)
        self._ending: dict[
            str, ConnectedClient
        ] = {}  # clients that are gone, and whose backend has not finished with them
        self.ending_bytes = 0
        """What is kept for these."""
        self._ending_limit = ending_limit
        self._is_behind = False
        self._clients = 0
        self._events = 0
        self._ledger = ledger(self)
        self._ledger.holder_bytes = backend_bytes
        self.connection_requests = ConnectionRequests(
            self._choose,
            self._has_backend,
            self._admit,
            loop,
            hold_time=hold_time,
            answer_timeout=answer_timeout,
            counters=counters,
            limits=rooms.limits,
        )

    def _choose(self, besides: Collection[Session] = ()) -> Session | None:
        if self.ending_bytes > self._ending_limit:  # nobody can be closed for them, so no more may come, and go
            if not self._is_behind:
                self._is_behind = True
                logger.error(
                    "%d bytes are kept for clients that are gone, since backends have not finished with them (does "
                    "on_disconnect return?): no more are let in until it is an eighth of --memory-budget",
                    self.ending_bytes,
                )
            return None
        return self.backends.choose(besides)

    def _has_backend(self) -> bool:
        return self.backends.choose_owner() is not None

    # --- clients ---

    def _admit(self, session: Session, handshake: Handshake, answer: ResponseParams) -> None:
        ws = handshake.accept(answer.subprotocol, tuple(answer.headers.items()))
        if ws is None:
            self._counters["handshakes_abandoned"] += 1
            return
        client_id = answer.client_id or str(uuid4())
        room_id = handshake.path if answer.room_id is None else answer.room_id
        older = self._rooms.find(client_id)
        if older is not None:
            older.ws.close(POLICY_VIOLATION, "this client_id has connected again")
        self._clients += 1
        client = ws.client = ConnectedClient(self._clients, client_id, room_id, bytes(answer.metadata), ws)
        self._rooms.add(client)
        self._rooms.join(client, room_id)
        self._counters["clients_admitted"] += 1
        self._ledger.own(client, session)
        if (ending := self._ending.get(client_id)) is not None:
            self._ledger.succeed(client, ending)
        self._put(ClientEvent(client, Kind.NEW, self.new_number()))
        if answer.expires_at is not None:
            client.expires_at = answer.expires_at
            if self._is_over(client):
                self._expiries.close(ws)
            else:
                self._expiries.add(ws, answer.expires_at)

    def _is_over(self, client: ConnectedClient) -> bool:
        return client.expires_at < _NEVER and self._expiries.is_over(client.expires_at)

    def client_message(self, ws: WebSocket, message: str | bytes) -> None:
        """A client sent a message: it goes to its owner, or waits for credit, or for a backend."""
        self._counters["messages_received"] += 1
        client: ConnectedClient = ws.client
        if self._taps.watchers:
            self._taps.message_in(client, message)
        if isinstance(message, bytes):
            owner = cast("Session | None", client.holder)
            if owner is not None and not owner.binary:
                self._only_takes_text(client)
                return
        self._events += 1
        size = len(message) if client.small else len(message) + _beside(client)
        event = ClientEvent(client, _MESSAGE, self._events, message, size)
        if self._ledger.submit(event):
            return
        holder = cast("Session | None", client.holder)
        if holder is not None and not holder.is_absent:  # for credit, its link, or what a leaving backend still has
            self._queue.keep(event)
            self._ledger.wait(event)
            ws.pause_reading()
        else:
            self._wait_for_backend(ws, event)

    def _wait_for_backend(self, ws: WebSocket, event: ClientEvent) -> None:
        offer = self._queue.offer(event)
        if offer is Offer.REFUSED:
            ws.close(TRY_AGAIN_LATER, "no backend is connected, and the queue is full")
        elif offer is not Offer.DROPPED:
            self._ledger.wait(event)
            if offer is Offer.FULL:
                ws.pause_reading()
            while (oldest := self._queue.overdue()) is not None:
                self._ledger.drop_waiting(oldest)

    def client_closed(self, ws: WebSocket, code: int, reason: str) -> None:  # noqa: ARG002 - Receiver's
        """A client is gone, and its id is free: who takes it waits until the older one's last event is finished."""
        client: ConnectedClient = ws.client
        self._rooms.remove(client)
        self._expiries.discard(ws)
        self._counters["clients_gone"] += 1
        self._ending[client.client_id] = client
        self.ending_bytes += client.told_bytes + _ENDING_BYTES
        if self._is_over(client):
            self._counters["expired_dropped"] += self._ledger.drop_messages(client)
            ws.drop_backlog()

    def client_over(self, ws: WebSocket, code: int, reason: str) -> None:
        """All that was read from a client that is gone has been taken: now its owner is told."""
        client: ConnectedClient = ws.client
        if code in _FAILURES:
            # The client's own words are for on_disconnect alone: errors get into logs.
            text = f"the connection failed with {code}" + (f": {reason}" if ws.closed_by_us else "")
            self._put(ClientEvent(client, Kind.ERROR, self.new_number(), text))
        self._put(ClientEvent(client, Kind.GONE, self.new_number(), reason, code=code))
        ws.client = None  # the two refer to each other: the collector would have to find them

    def give_up(self, client: ConnectedClient) -> None:
        """Close a client, which may be gone already, for the memory that it takes: what waits of it goes, too."""
        ws = client.ws
        ws.drop_backlog()
        self._counters["budget_dropped"] += self._ledger.drop_messages(client)
        ws.give_up()

    @property
    def orphans(self) -> Collection[ClientStream]:
        """Clients whose events wait, and who have no session."""
        return self._ledger.orphans

    def _put(self, event: ClientEvent) -> None:
        """Send a lifecycle event, or have it wait: it is never dropped."""
        if not self._ledger.submit(event):
            self._ledger.wait(event)

    def _only_takes_text(self, client: ConnectedClient) -> None:  # LINK rule 9
        client.ws.close(UNSUPPORTED_DATA, "the backend only takes text")

    # --- what the ledger asks for ---

    def choose_owner(self) -> Session | None:
        """Return the session that a client without one goes to."""
        return self.backends.choose_owner()

    def new_number(self) -> int:
        """Return the next event's number."""
        self._events += 1
        return self._events

    def send(self, holder: Consumer, event: ClientEvent) -> int:
        """Write an event to its session; return its number there."""
        session: Session = holder  # type: ignore[assignment]  # all holders are, and cast() costs a call
        client: ConnectedClient = event.lane  # type: ignore[assignment]
        kind = event.kind
        if kind is _MESSAGE:
            if client.expires_at < _NEVER and self._expiries.is_over(client.expires_at):
                self._counters["expired_dropped"] += 1
                return 0
            if not session.binary and isinstance(event.content, bytes):
                self._loop.call_soon(self._only_takes_text, client)
                return 0
            line = wire.new_message(client.small or self._context(session, client), event.content)
        elif kind is Kind.ADOPTED and session.stream is None:  # protocol 1 knows none
            return 0
        else:
            line = _of_life(event, client.small or self._context(session, client))
        if session.max_line and len(line) > session.max_line:
            self._is_too_long(session, client, len(line))
            if kind is _MESSAGE:
                return 0
            line = _of_life(event, wire.context_json(client.client_id, client.room_id, b"{}"))
        if event.redelivered:
            self._counters["events_redelivered"] += 1
        return session.write_event(line, event.number, event.redelivered)

    def _context(self, session: Session, client: ConnectedClient) -> bytes:
        """Return what stands for a client's context in an event, where that is big, or was not encoded yet.

        A session that keeps contexts is told of a big one in a line of its own, when it is new or has changed.
        """
        if client.told == session.number:
            return wire.known_context(client.client_id)
        context = client.context
        if len(context) <= SMALL or not session.keeps_contexts:
            return context
        line = wire.context(context)
        if session.max_line and len(line) > session.max_line:
            return context
        session.write(line)
        client.told = session.number
        return wire.known_context(client.client_id)

    def _is_too_long(self, session: Session, client: ConnectedClient, size: int) -> None:  # LINK rule 5
        """Count and tell: a message is dropped, any other event goes out without rooms and metadata."""
        self._counters["events_too_long"] += 1
        logger.error(
            "an event of %r with its metadata has a line of %d bytes, and %s takes %d: a message is dropped, and of "
            "any other event the metadata; have the backend take longer lines, or keep less in metadata",
            client.client_id,
            size,
            session.name,
            session.max_line,
        )

    def taken(self, event: ClientEvent) -> None:
        """A message does not wait any more."""
        self._queue.taken(event)

    def waits_again(self, event: ClientEvent) -> None:
        """A message has come back from a session; it was taken once, so that no policy drops it."""
        self._queue.keep(event)

    def caught_up(self, lane: ClientStream) -> None:
        """Nothing of a client waits any more."""
        cast("ConnectedClient", lane).ws.resume_reading()

    def over(self, lane: ClientStream) -> None:
        """A client's last event is finished: the next one of that id may begin (LINK rule 24)."""
        client = cast("ConnectedClient", lane)
        if self._ending.get(client.client_id) is client:
            del self._ending[client.client_id]
        self.ending_bytes -= client.told_bytes + _ENDING_BYTES
        if self._is_behind and self.ending_bytes <= self._ending_limit >> 1:
            self._is_behind = False
            self._loop.call_soon(self.connection_requests.available)

    def gave_up(self, event: ClientEvent) -> None:
        """A message was in too many sessions that died (LINK rule 21)."""
        self._counters["events_given_up"] += 1
        logger.error(
            "a message of %r was dropped: %d backends died while they were handling it",
            cast("ConnectedClient", event.lane).client_id,
            MAX_DELIVERIES,
        )

    # --- sessions ---

    def session_available(self, session: Session) -> None:
        """A backend takes events: it, and others, get what waited."""
        self._ledger.available(session)
        self.connection_requests.available()

    def session_unlinked(self, session: Session) -> None:
        """A backend has no link for now: its clients' events wait for it."""
        self.connection_requests.unlinked(session)

    def session_expired(self, session: Session) -> None:
        """A backend has not come back, and no other is there: its clients go by the queue's bounds now."""
        if self._queue.wants_more:
            for lane in session.lanes:
                cast("ConnectedClient", lane).ws.resume_reading()

    def session_leaving(self, session: Session) -> None:
        """A backend wants no more clients: they go elsewhere as it finishes what it has."""
        self._ledger.leave(session)
        self.connection_requests.leaving(session)

    def session_died(self, session: Session) -> None:
        """A backend is gone for good: its clients, and what it had not finished, go elsewhere."""
        lanes = list(session.lanes)
        self._ledger.died(session)
        if self._queue.wants_more:  # who was not read from for want of credit goes by the queue's bounds now
            for lane in lanes:
                if lane.holder is None:
                    cast("ConnectedClient", lane).ws.resume_reading()
        self.connection_requests.died(session)

    def command(self, session: Session, command: Command | Broken) -> None:
        """Carry out what a backend wants; tell it of what can't be read."""
        kind = type(command)
        if kind is _TO_ONE or kind is _TO_ROOM:  # before all that is rarer
            self._commands.carry_out(session, command)  # type: ignore[arg-type]  # by its kind
        elif isinstance(command, Done):
            self._ledger.done(session, command.params.events)
        elif isinstance(command, Response):
            self.connection_requests.answered(session, command.request_id, command.params)
        elif isinstance(command, Released):
            self._ledger.released(session, command.params.events)
        elif not isinstance(command, Broken):
            self._commands.carry_out(session, command)
        else:
            self._is_lost(session, command, f"a line could not be read: {command.problem}")

    def failed(self, session: Session, command: Command | Unknown | Broken, error: Exception) -> None:
        """A command has raised: the backend hears that nothing came of it. Unless its message is none, that is ours."""
        action = command.action if isinstance(command, Broken) else str(command.__struct_config__.tag)
        if isinstance(error, MalformedLine):
            self._counters["lines_malformed"] += 1
            logger.warning("%s sent a malformed message, which was skipped: %s", session.name, error)
            text = f"a message was skipped: {error}"
        else:
            self._counters["commands_failed"] += 1
            logger.error("the command %r of %s failed", action, session.name, exc_info=error)
            text = f"the broker failed at the command {action} ({type(error).__name__}): its log tells more"
        self._is_lost(session, Broken(text, action, getattr(command, "request_id", "") or ""), text)

    def _is_lost(self, session: Session, command: Broken, text: str) -> None:
        """Tell a backend that nothing came of what it has sent."""
        if command.action == _RESPONSE:  # an answer has no answer
            self.connection_requests.could_not_be_read(session, command.request_id)
        elif command.request_id:
            session.write(wire.result(command.request_id, {"error": text}))
            return
        session.write(wire.error(wire.NOBODY, text))


def _beside(client: ConnectedClient) -> int:
    """Return how many bytes a message has beside it for a big context, where that is in each event."""
    holder = cast("Session | None", client.holder)
    size = 0 if holder is not None and holder.keeps_contexts else client.context_size
    return size if size > SMALL else 0


def _of_life(event: ClientEvent, context: bytes) -> bytes:
    """Return the line of an event that is no message."""
    kind = event.kind
    if kind is Kind.NEW:
        return wire.new_connection(context)
    if kind is Kind.GONE:
        return wire.disconnected(context, event.code, str(event.content))
    if kind is Kind.ERROR:
        return wire.error(context, str(event.content))
    return wire.client_adopted(context)
