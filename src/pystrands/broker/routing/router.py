"""Who gets what: clients and their events to backends."""

import logging
from typing import Final
from uuid import uuid4

from pystrands.broker.admission.handshake import Handshake
from pystrands.broker.backends.registry import SessionRegistry
from pystrands.broker.backends.session import Session, SessionReceiver, SessionShared, only_takes_text
from pystrands.broker.bounds import BOUNDS, Bounds
from pystrands.broker.events.assignments import Assignments
from pystrands.broker.events.queue import EventQueue, Offered
from pystrands.broker.events.stream import ClientEvent, ClientStream, Kind
from pystrands.broker.hub.client import SMALL, ConnectedClient, SessionClient
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.routing.claimed_ids import TAKEN_AGAIN, ClaimedIds
from pystrands.broker.routing.client_sessions import ClientSessions, SessionOptions, SessionOwner
from pystrands.broker.routing.connection_requests import ConnectionRequests
from pystrands.broker.routing.histories import Histories
from pystrands.broker.ws.expiry import NEVER
from pystrands.broker.ws.incoming import IncomingFrames
from pystrands.broker.ws.websocket import Receiver, WebSocket
from pystrands.errors import MalformedLine
from pystrands.protocol import wire
from pystrands.protocol.close_codes import (
    INTERNAL_ERROR,
    INVALID_PAYLOAD,
    MESSAGE_TOO_BIG,
    PROTOCOL_ERROR,
    TRY_AGAIN_LATER,
    UNSUPPORTED_DATA,
)
from pystrands.protocol.messages import Broken, Done, ResponseParams, SessionCommand, Unknown

__all__ = ["Router"]

logger = logging.getLogger(__name__)

# Looked up for every message: compiled code finds its module's constants at once, and searches for what is imported.
_MESSAGE: Final = Kind.MESSAGE
_NEVER: Final = NEVER
_RESPONSE: Final = "response"
_FAILURES: Final = frozenset(
    {PROTOCOL_ERROR, UNSUPPORTED_DATA, INVALID_PAYLOAD, MESSAGE_TOO_BIG, INTERNAL_ERROR, TRY_AGAIN_LATER}
)
"""Close codes that a client's backend hears of as an error, before the disconnect."""


class Router(Receiver, SessionReceiver, SessionOwner):
    """Joins the WebSocket side and the sessions. Everything here is a callback; nothing waits.

    It is the receiver of WebSockets and of sessions; its ``connection_requests`` decide on clients. ``claimed_ids``:
    where other brokers may have clients of the same ids.
    """

    def __init__(
        self,
        rooms: Rooms,
        queue: EventQueue,
        assignments: Assignments,
        sessions: SessionRegistry,
        shared: SessionShared,
        *,
        hold_time: float,
        answer_timeout: float,
        claimed_ids: ClaimedIds | None = None,
        client_sessions: SessionOptions | None = None,
        bounds: Bounds = BOUNDS,
        histories: Histories | None = None,
    ) -> None:
        self._rooms = rooms
        self._taps = rooms.taps
        self._queue = queue
        self._assignments = assignments
        self._sessions = sessions
        self._claimed_ids = claimed_ids
        self._counters = shared.counters
        self._expiries = shared.expiries
        self._clients = 0
        self.connection_requests = ConnectionRequests(
            sessions,
            assignments.ending,
            self._admit,
            shared.loop,
            hold_time=hold_time,
            answer_timeout=answer_timeout,
            counters=shared.counters,
            limits=rooms.limits,
            claimed_ids=claimed_ids,
            bounds=bounds,
        )
        self.client_sessions = ClientSessions(
            self,
            rooms,
            self.connection_requests,
            self._expiries,
            shared.loop,
            shared.counters,
            client_sessions or SessionOptions(broker_id="", key=b"", window=0.0, ping=0.0, max_message_size=1_048_576),
            histories or Histories(rooms, "", None),
        )

    # --- clients ---

    def _admit(self, session: Session, handshake: Handshake, answer: ResponseParams) -> bool:
        """Let a client in; return whether it is still there."""
        if handshake.resumes is not None and self.client_sessions.resumes(handshake, answer):
            return True
        ws = handshake.accept(answer.subprotocol, tuple(answer.headers.items()))
        if ws is None:
            self._counters["handshakes_abandoned"] += 1
            return False
        client_id = answer.client_id or str(uuid4())
        room_id = handshake.path if answer.room_id is None else answer.room_id
        older = self._rooms.find(client_id)
        if older is not None:
            older.replaced(TAKEN_AGAIN)
        self._clients += 1
        metadata = bytes(answer.metadata)
        if handshake.offer is None:
            client = ConnectedClient(self._clients, client_id, room_id, metadata, ws)
        else:
            client = self.client_sessions.new_client(ws, self._clients, client_id, room_id, metadata)
        client.user = answer.user or None
        ws.client = client
        self._rooms.add(client)
        self._rooms.join(client, room_id)
        for other in answer.rooms:
            self._rooms.join(client, other)
        self._counters["clients_admitted"] += 1
        # With claims a while has passed since its answer: what is over, or leaving, would never get the first event.
        is_there = self._claimed_ids is None or (
            not session.is_leaving and self._sessions.find(session.session_id) is session
        )
        self._assignments.own(client, session if is_there else None)
        self._put(ClientEvent(client, Kind.NEW, self._assignments.new_number()))
        if answer.expires_at is not None:
            client.expires_at = answer.expires_at
        if isinstance(client, SessionClient):
            self.client_sessions.welcome(client)
        if answer.expires_at is not None:
            if self._is_over(client):
                self._expiries.close(client)
            else:
                self._expiries.add(client, answer.expires_at)
        return True

    def _is_over(self, client: ClientStream) -> bool:
        return client.expires_at < _NEVER and self._expiries.is_over(client.expires_at)

    def client_message(self, ws: IncomingFrames, message: str | bytes) -> None:
        """A client sent a message: it goes to its owner, or waits for credit, or for a backend."""
        self._counters["messages_received"] += 1
        client = ws.client
        assert client is not None
        if self._taps.watchers:
            self._taps.message_in(client, message)
        if isinstance(message, bytes):
            owner = client.consumer
            if owner is not None and not owner.binary:
                only_takes_text(client)
                return
        size = len(message) if client.small else len(message) + _beside(client)
        event = ClientEvent(client, _MESSAGE, self._assignments.new_number(), message, size)
        if self._assignments.submit(event):
            return
        self._keep(ws, client, event)

    def _keep(self, ws: IncomingFrames, client: ClientStream, event: ClientEvent) -> bool:
        """Have a message wait that can't go now; False if it was refused."""
        consumer = client.consumer
        if consumer is not None and not consumer.is_absent:  # for credit, its link, or what a leaving backend still has
            self._queue.keep(event)
            self._assignments.wait(event)
            ws.pause_reading()
            return True
        return self._wait_for_backend(ws, event)

    def _wait_for_backend(self, ws: IncomingFrames, event: ClientEvent) -> bool:
        offer = self._queue.offer(event)
        if offer is Offered.REFUSED:
            ws.close(TRY_AGAIN_LATER, "no backend is connected, and the queue is full")
            return False
        if offer is Offered.DROPPED:
            if event.stream.tracker is not None:
                event.stream.tracker.on_dropped(event, "no_backend", "no backend is connected")
        else:
            self._assignments.wait(event)
            if offer is Offered.FULL:
                ws.pause_reading()
            while (oldest := self._queue.overdue()) is not None:
                self._assignments.drop_waiting(oldest)
        return True

    # --- clients that may be away ---

    def session_message(self, ws: IncomingFrames, event: ClientEvent) -> bool:
        """A client of `pystrands.v1` sent a message; False if it was refused."""
        self._counters["messages_received"] += 1
        client = event.stream
        if self._taps.watchers:
            self._taps.message_in(client, event.content)
        owner = client.consumer
        if isinstance(event.content, bytes) and owner is not None and not owner.binary:
            only_takes_text(client)
            return False
        return self.session_join(ws, event)

    def session_join(self, ws: IncomingFrames, event: ClientEvent) -> bool:
        """A client of `pystrands.v1` wants something handled, perhaps to be in a room; False if it was refused."""
        client = event.stream
        if not client.small:
            event.size += _beside(client)
        return self._assignments.submit(event) or self._keep(ws, client, event)

    def session_event(self, event: ClientEvent) -> None:
        """A client is away, or back."""
        self._put(event)

    def session_closed(self, ws: WebSocket, code: int, reason: str) -> None:
        """A client is gone, and its id is free."""
        self.client_closed(ws, code, reason)

    def session_over(self, ws: WebSocket, code: int, reason: str) -> None:
        """No message follows of one that is gone."""
        self.client_over(ws, code, reason)

    def new_event_number(self) -> int:
        """Return a number for the next event."""
        return self._assignments.new_number()

    def client_closed(self, ws: WebSocket, code: int, reason: str) -> None:  # noqa: ARG002 - Receiver's
        """A client is gone, and its id is free: who takes it waits until the older one's last event is finished."""
        client = ws.client
        assert isinstance(client, ConnectedClient)
        self._rooms.remove(client)
        self._expiries.discard(client)
        self._counters["clients_gone"] += 1
        if self._claimed_ids is not None:
            self._claimed_ids.closed(client)
        self._assignments.ends(client)
        if self._is_over(client):
            self._counters["expired_dropped"] += self._assignments.drop_messages(client)
            ws.drop_backlog()

    def client_over(self, ws: WebSocket, code: int, reason: str) -> None:
        """All that was read from a client that is gone has been taken: now its owner is told."""
        client = ws.client
        assert isinstance(client, ConnectedClient)
        if code in _FAILURES:
            # The client's own words are for on_disconnect alone: errors get into logs.
            text = f"the connection failed with {code}" + (f": {reason}" if ws.closed_by_us else "")
            self._put(ClientEvent(client, Kind.ERROR, self._assignments.new_number(), text))
        self._put(ClientEvent(client, Kind.GONE, self._assignments.new_number(), reason, code=code))
        if self._claimed_ids is not None:
            self._claimed_ids.over(client)
        ws.client = None  # the two refer to each other: the collector would have to find them

    def give_up(self, client: ConnectedClient) -> None:
        """Close a client, which may be gone already, for the memory that it takes: what waits of it goes, too."""
        ws = client.connection if isinstance(client, SessionClient) else client.ws
        ws.drop_backlog()
        self._counters["budget_dropped"] += self._assignments.drop_messages(client)
        if isinstance(client, SessionClient):
            self.client_sessions.give_up(client)
        ws.give_up()

    def _put(self, event: ClientEvent) -> None:
        """Send a lifecycle event, or have it wait: it is never dropped."""
        if not self._assignments.submit(event):
            self._assignments.wait(event)

    # --- sessions ---

    def session_available(self, session: Session) -> None:
        """A backend takes events: it, and others, get what waited."""
        self._assignments.available(session)
        self.connection_requests.available()

    def session_unlinked(self, session: Session) -> None:
        """A backend has no link for now: its clients' events wait for it."""
        self.connection_requests.unlinked(session)

    def session_expired(self, session: Session) -> None:
        """A backend has not come back, and no other is there: its clients go by the queue's bounds now."""
        if self._queue.wants_more:
            for stream in session.streams:
                stream.read_on()

    def session_leaving(self, session: Session) -> None:
        """A backend wants no more clients: they go elsewhere as it finishes what it has."""
        self._assignments.leave(session)
        self.connection_requests.leaving(session)

    def session_died(self, session: Session) -> None:
        """A backend is gone for good: its clients, and what it had not finished, go elsewhere."""
        streams = list(session.streams)
        self._assignments.died(session)
        if self._queue.wants_more:  # who was not read from for want of credit goes by the queue's bounds now
            for stream in streams:
                if stream.consumer is None:
                    stream.read_on()
        self.connection_requests.died(session)

    def session_released(self, session: Session, ranges: list[tuple[int, int]]) -> None:
        """A backend that is leaving has not started these: they go elsewhere."""
        self._assignments.released(session, ranges)

    def on_done(self, session: Session, command: Done) -> None:
        """A backend has finished events."""
        self._assignments.done(session, command.params.events)

    def on_broken(self, session: Session, command: Broken) -> None:
        """Tell a backend of what can't be read."""
        self._is_lost(session, command, f"a line could not be read: {command.problem}")

    def failed(self, session: Session, command: SessionCommand | Unknown | Broken, error: Exception) -> None:
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


def _beside(client: ClientStream) -> int:
    """Return how many bytes a message has beside it for a big context, where that is in each event."""
    consumer = client.consumer
    size = 0 if consumer is not None and consumer.keeps_contexts else client.context_size
    return size if size > SMALL else 0
