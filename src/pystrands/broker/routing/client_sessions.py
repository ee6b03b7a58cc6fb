"""Clients of `pystrands.v1`: what they say, and how they lose their connections and come back."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, cast

from mypy_extensions import trait

from pystrands.broker.admission.handshake import Handshake
from pystrands.broker.counters import Counters
from pystrands.broker.events.stream import ClientEvent, JoinEvent, Kind, NumberedEvent, Tracker
from pystrands.broker.hub.client import ConnectedClient, SessionClient, SessionEnder
from pystrands.broker.hub.replay import Replays
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.routing.client_joins import ClientJoins
from pystrands.broker.routing.client_requests import ClientRequests, failure_header
from pystrands.broker.routing.client_tokens import ClientTokens
from pystrands.broker.routing.connection_requests import ConnectionRequests
from pystrands.broker.routing.histories import Histories
from pystrands.broker.routing.signals import Signals
from pystrands.broker.ws.expiry import Expiries
from pystrands.broker.ws.frames import text_frame
from pystrands.broker.ws.incoming import IncomingFrames
from pystrands.broker.ws.websocket import Receiver, WebSocket
from pystrands.protocol.close_codes import (
    ABNORMAL_CLOSURE,
    BAD_FRAME,
    MESSAGE_TOO_BIG,
    NORMAL_CLOSURE,
    TOKEN_EXPIRED,
    TRY_AGAIN_LATER,
)
from pystrands.protocol.messages import ResponseParams
from pystrands.protocol.v1.envelope import HEARTBEAT, BadFrameError, ClientHeader, client_header, json_text, split
from pystrands.protocol.v1.offer import Resume, SessionIds
from pystrands.protocol.v1.session import Receipt, SessionState, Tombstones

__all__ = ["ClientSessions", "SessionOptions", "SessionOwner"]

logger = logging.getLogger(__name__)

_MESSAGE: Final = Kind.MESSAGE
_SUSPENDED: Final = Kind.SUSPENDED
_RESUMED: Final = Kind.RESUMED
_NEW: Final = Receipt.NEW
_OLD: Final = Receipt.OLD
_HEARTBEAT: Final = text_frame(HEARTBEAT)
_BYE: Final = text_frame('{"t":"bye","retry":[0.2,3]}')
_TOO_LATE: Final = 408
_DONE_WITHIN: Final = 0.05
"""Seconds until a client hears of its messages that are finished, if they are few."""
_DONE_AT_ONCE: Final = 32
_SWEEPS: Final = 4
_MAX_NAME: Final = 200
"""Characters of what a message was called in a session that is lost."""
_UNDELIVERABLE: Final = "undeliverable"
_DEFAULT_PING: Final = 25.0
_OF_APPLICATIONS: Final = 3000
"""Close codes from here on are nobody's but the applications'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """``window``: seconds for which a client may be away. ``ping``: those between two looks at who is silent; 0: none.

    ``key``: random bytes, of which the proofs in ids of sessions are made.
    """

    broker_id: str
    key: bytes
    window: float
    ping: float
    max_message_size: int


@trait
class SessionOwner(ABC):
    """Who has the clients, whether they are away or not. Nothing here raises."""

    @abstractmethod
    def session_message(self, ws: IncomingFrames, event: NumberedEvent | ClientEvent) -> bool:
        """A client sent a message; False if it was refused."""

    @abstractmethod
    def session_join(self, ws: IncomingFrames, event: NumberedEvent | ClientEvent) -> bool:
        """A client wants to be in a room; False if it was refused."""

    @abstractmethod
    def session_event(self, event: ClientEvent) -> None:
        """A client is away, or back."""

    @abstractmethod
    def session_closed(self, ws: WebSocket, code: int, reason: str) -> None:
        """A client is gone, and its id is free."""

    @abstractmethod
    def session_over(self, ws: WebSocket, code: int, reason: str) -> None:
        """No message follows of one that is gone."""

    @abstractmethod
    def new_event_number(self) -> int:
        """Return a number for the next event."""


class ClientSessions(Receiver, Tracker, SessionEnder):
    """Receives what these clients send, decides who may come back, and tells clients what became of their messages.

    All other clients that want to come in are ``connection_requests``' to decide.
    """

    def __init__(
        self,
        owner: SessionOwner,
        rooms: Rooms,
        connection_requests: ConnectionRequests,
        expiries: Expiries,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
        options: SessionOptions,
        histories: Histories,
    ) -> None:
        self._owner = owner
        self._histories = histories
        self._rooms = rooms
        self._numbered = rooms.numbered
        self._outbox = rooms.outbox
        self.signals = Signals(rooms)
        self._requests = connection_requests
        self._expiries = expiries
        self._loop = loop
        self._counters = counters
        self._options = options
        self._ids = SessionIds(options.broker_id[:8], options.key)
        self._tombstones = Tombstones(options.window)
        self._replays = Replays(rooms.outbox, rooms.numbered, loop, self._tell_done_soon)
        self.requests = ClientRequests(rooms.numbered, loop)
        self.tokens = ClientTokens(rooms.outbox, expiries, owner.session_event, owner.new_event_number)
        self.joins = ClientJoins(rooms, self._fail, self._finish)
        self._by_number: dict[int, SessionClient] = {}
        self._away: OrderedDict[SessionClient, float] = OrderedDict()  # until when, the first to end first
        self._away_timer: asyncio.TimerHandle | None = None
        self._finished: dict[SessionClient, None] = {}  # who is to hear what is finished
        self._done_timer: asyncio.TimerHandle | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._stopping = False

    @property
    def away(self) -> int:
        """How many clients are away."""
        return len(self._away)

    def stop(self) -> None:
        """End the sessions of all who are away, take nobody back, and tell the others when to come back."""
        self._stopping = True
        self._histories.stop()
        for client in self._by_number.values():
            if client.is_live:
                self._outbox.send(client.ws, _BYE)
        for client in list(self._away):
            self._end_away(client, ABNORMAL_CLOSURE, "")
        if self._rooms.presence is not None:
            self._rooms.presence.stop()
        for timer in (self._away_timer, self._done_timer, self._sweep_timer):
            if timer is not None:
                timer.cancel()

    # --- who comes in ---

    def is_ready(self) -> bool:
        """Whether a new client would find a backend."""
        return self._requests.is_ready()

    def connection_gone(self, handshake: Handshake) -> None:
        """The client did not wait for the decision."""
        self._requests.connection_gone(handshake)

    def connection_request(self, handshake: Handshake) -> None:
        """A client wants to come in, or to come back."""
        offer = handshake.offer
        if offer is None or offer.resume is None or self._stopping or not self._comes_back(handshake, offer.resume):
            self._requests.connection_request(handshake)

    def _comes_back(self, handshake: Handshake, resume: Resume) -> bool:
        """Take a client back, or tell it why it may not come; False if that is not known, and a backend is to say."""
        number = self._ids.number(resume.session)
        if number is None:
            return False
        client = self._by_number.get(number)
        if client is None:
            if (found := self._tombstones.find(number, self._loop.time())) is not None:
                handshake.end(*found)
                return True
            return False
        if not client.state.attempt_is_newer(resume.attempt):
            handshake.refuse(_TOO_LATE, "a later attempt has come before")
            return True
        if self._expiries.is_over(client.expires_at):
            handshake.resumes = client.client_id
            return False
        self._take_back(handshake, client, resume)
        return True

    def resumes(self, handshake: Handshake, answer: ResponseParams) -> bool:
        """Whether a backend has let in who comes back to a session whose permission was over: it is taken back."""
        offer = handshake.offer
        if handshake.resumes is None or offer is None or offer.resume is None:
            return False
        client = self._by_number.get(self._ids.number(offer.resume.session) or 0)
        if (
            client is None
            or answer.client_id != client.client_id
            or answer.user != client.user
            or not client.state.attempt_is_newer(offer.resume.attempt)
        ):
            return False
        self.tokens.extend(client, answer.expires_at)
        self._take_back(handshake, client, offer.resume)
        return True

    def new_client(self, ws: WebSocket, number: int, client_id: str, room_id: str, metadata: bytes) -> SessionClient:
        """Begin a session."""
        state = SessionState(self._ids.make(number), number)
        client = SessionClient(number, client_id, room_id, metadata, ws, state, self)
        client.tracker = self
        self._by_number[number] = client
        if self._sweep_timer is None:
            self._sweep_timer = self._loop.call_later(self._options.window / _SWEEPS + 1, self._sweep)
        return client

    def welcome(self, client: SessionClient, resumed: bool = False) -> None:
        """Greet a client, which is in its rooms."""
        state, options = client.state, self._options
        client.is_welcome = True
        state.told_done = state.done
        expires = client.expires_at
        header = {
            "t": "welcome",
            "session": state.session,
            "client": client.client_id,
            "resumed": resumed,
            "n": self._numbered.numbers.last,
            "epoch": options.broker_id,
            "received": state.received,
            "done": state.done,
            "rooms": client.rooms,
            "ping": options.ping or _DEFAULT_PING,
            "window": options.window,
            "max": options.max_message_size,
        }
        if expires != float("inf"):
            header["expires"] = expires
        self._outbox.send(client.connection, text_frame(json_text(header)))

    # --- who goes ---

    def client_closed(self, ws: WebSocket, code: int, reason: str) -> None:
        """A WebSocket is closed: its client may come back, or the session ends with it."""
        client = _client_of(ws)
        if client is None or client.connection is not ws:
            return
        if self._may_come_back(client, ws, code):
            self._suspend(client)
        else:
            if ws.closed_by_us and _is_told_again(code):  # the close may not arrive: it hears it when it comes back
                self._tombstones.add(client.number, code, reason, self._loop.time())
            self._forget(client)
            self._owner.session_closed(client.ws, code, reason)

    def client_over(self, ws: WebSocket, code: int, reason: str) -> None:
        """No message follows of a WebSocket that is closed."""
        client = _client_of(ws)
        if client is None:
            return
        if client.is_gone and client.connection is ws:
            self._owner.session_over(client.ws, *(client.end or (code, reason)))
            ws.client = None
        elif client.ws is not ws:
            ws.client = None

    def _may_come_back(self, client: SessionClient, ws: WebSocket, code: int) -> bool:
        if self._stopping or not client.state.is_confirmed or client.has_said_bye or not self._options.window:
            return False
        return code == TRY_AGAIN_LATER if ws.closed_by_us else code != NORMAL_CLOSURE

    def _suspend(self, client: SessionClient) -> None:
        """Keep all of a client but its WebSocket."""
        if client.connection is not client.ws:  # while it was sent what it had missed
            client.connection.client = None
            client.connection = client.ws
        self._outbox.suspend(client.ws)
        self._counters["clients_suspended"] += 1
        client.state.is_suspended = True
        self._away[client] = self._loop.time() + self._options.window
        if self._rooms.presence is not None:
            self._rooms.presence.suspended(client)
        if self._away_timer is None:
            self._away_timer = self._loop.call_later(self._options.window, self._look_at_away)
        self._tell_backend(client)

    def _look_at_away(self) -> None:
        """End the sessions of those who have not come back in time."""
        self._away_timer = None
        now = self._loop.time()
        while self._away:
            client, until = next(iter(self._away.items()))
            if until > now:
                self._away_timer = self._loop.call_later(until - now, self._look_at_away)
                break
            self._end_away(client, ABNORMAL_CLOSURE, "")

    def end(self, client: SessionClient, code: int, reason: str) -> None:
        """End a session whose client is away: it hears why when it comes back."""
        self._tombstones.add(client.number, code, reason, self._loop.time())
        self._end_away(client, code, reason)

    def _end_away(self, client: SessionClient, code: int, reason: str) -> None:
        del self._away[client]
        client.state.is_suspended = False
        self._forget(client)
        client.end = (code, reason)
        self._owner.session_closed(client.ws, code, reason)
        if not client.ws.has_backlog:  # else it is over when that is handled
            self._owner.session_over(client.ws, code, reason)

    def give_up(self, client: SessionClient) -> None:
        """Let a client's session end with its WebSocket, or at once: it takes too much memory."""
        client.has_said_bye = True
        if client.state.is_suspended:
            self._end_away(client, ABNORMAL_CLOSURE, "")

    def _forget(self, client: SessionClient) -> None:
        client.is_gone = True
        self._by_number.pop(client.number, None)
        self._finished.pop(client, None)
        self.requests.gone(client)
        self.tokens.gone(client)

    # --- who comes back ---

    def _take_back(self, handshake: Handshake, client: SessionClient, resume: Resume) -> None:
        """Give a session its new connection, and send what was missed."""
        ws = handshake.accept()
        if ws is None:
            self._counters["handshakes_abandoned"] += 1
            return
        state, old = client.state, client.connection
        state.attempt = resume.attempt
        state.seen(resume.seen)
        ws.client = client
        client.connection = ws
        client.is_pinged = False
        self._away.pop(client, None)
        state.is_suspended = False
        if self._rooms.presence is not None:
            self._rooms.presence.resumed(client)
        self._counters["clients_resumed"] += 1
        old.drop_backlog()
        old.abort()  # it may be half-open
        if old is client.ws:
            self._outbox.suspend(old)
        self.welcome(client, resumed=True)
        self._tell_backend(client)
        if client.joining is not None:
            ws.pause_reading()
        self._replays.begin(client, ws, resume.seen)

    def _tell_backend(self, client: SessionClient) -> None:
        """Tell a client's backend that it is away, or back; the next such event waits until this one is finished."""
        is_suspended = client.state.is_suspended
        if client.is_telling or client.is_gone or client.told_suspended == is_suspended:
            return
        client.told_suspended, client.is_telling = is_suspended, True
        kind = _SUSPENDED if is_suspended else _RESUMED
        self._owner.session_event(ClientEvent(client, kind, self._owner.new_event_number()))

    # --- what clients say ---

    def client_message(self, ws: IncomingFrames, message: str | bytes) -> None:
        """A client sent a frame."""
        client = _client_of(ws)
        if client is None or client.connection is not ws:  # it has another one by now
            return
        client.state.is_confirmed = True
        if message == HEARTBEAT:
            if client.is_pinged:
                client.is_pinged = False
            else:
                ws.send(_HEARTBEAT)
            return
        try:
            header, body = split(message)
            read = client_header(header)
            self._take(client, ws, read, body)
        except BadFrameError as error:
            ws.close(BAD_FRAME, str(error))

    def _take(self, client: SessionClient, ws: IncomingFrames, read: ClientHeader, body: str | bytes | None) -> None:
        if body is not None and len(body) > self._options.max_message_size:
            ws.close(MESSAGE_TOO_BIG, "message too big")
        elif read.k:
            self._take_numbered(client, ws, read, body)
        elif read.seen >= 0:
            client.state.seen(min(read.seen, self._numbered.numbers.last))
        elif read.t == "auth":
            self.tokens.show(client, read.id, body)
        elif read.t == "history":
            self._histories.on_read(client, read)
        elif read.t == "bye":
            client.has_said_bye = True
        elif read.t == "presence":
            if self._rooms.presence is not None and read.r is not None and self._is_member(client, read.r):
                self._rooms.presence.watch(client, read.r, read.v)
        elif read.t == "signal":
            if read.r is not None and body is not None:
                self.signals.take(client, read.r, read.e, body)
        elif read.v and not read.t and body is not None and self._is_member(client, read.r):
            event = NumberedEvent(client, self._owner.new_event_number(), body, len(body), 0, "", read.r)
            self._owner.session_message(ws, event)

    def _take_numbered(
        self, client: SessionClient, ws: IncomingFrames, read: ClientHeader, body: str | bytes | None
    ) -> None:
        state, k = client.state, read.k
        receipt = state.receipt(k)
        if receipt is _OLD:
            return
        if receipt is not _NEW:
            ws.close(BAD_FRAME, f"message {state.received + 1} is missing")
        elif read.t == "leave" and read.r is not None:
            state.take(k)
            self._rooms.leave(client, read.r)
            self._finish(client, k)
        elif read.re:
            state.take(k)
            self.requests.on_answer(client, read.re, body, read.err)
            self._finish(client, k)
        elif read.t == "join" and read.r is not None:
            self._take_join(client, ws, read, read.r, body)
        elif read.t:
            state.take(k)
            self._fail(client, k, "refused", "this server does not take it")
        elif body is None:
            raise BadFrameError("a message has a body")
        elif not self._is_member(client, read.r):
            state.take(k)
            self._fail(client, k, "not_in_room", "the client is not in that room")
        else:
            message_id = _message_id(state, read)
            event = NumberedEvent(client, self._owner.new_event_number(), body, len(body), k, message_id, read.r)
            event.redelivered = bool(read.id)
            event.asks = bool(read.q)
            if self._owner.session_message(ws, event):
                state.take(k)

    def _take_join(
        self, client: SessionClient, ws: IncomingFrames, read: ClientHeader, room_id: str, data: str | bytes | None
    ) -> None:
        """Ask the client's backend; until it has decided nothing more is read."""
        state, k = client.state, read.k
        message_id = _message_id(state, read)
        code, text = self.joins.problem(client, room_id)
        if code:
            state.take(k)
            self._fail(client, k, code, text)
            return
        event = JoinEvent(client, self._owner.new_event_number(), data, k, message_id, room_id)
        event.redelivered = bool(read.id)
        client.joining = event
        if self._owner.session_join(ws, event):
            state.take(k)
            if client.joining is event:
                ws.pause_reading()
        else:
            client.joining = None

    def _is_member(self, client: ConnectedClient, room_id: str | None) -> bool:
        if room_id is None:
            return True
        return self._rooms.is_member(client, room_id)

    # --- what becomes of it ---

    def on_finished(self, event: ClientEvent) -> None:
        """A backend has finished with an event."""
        client = cast("SessionClient", event.stream)
        if event.kind is _MESSAGE:
            numbered = cast("NumberedEvent", event)
            k = numbered.k
            if isinstance(numbered, JoinEvent):
                self.joins.finished(client, numbered)
            elif k and numbered.asks and not numbered.is_answered:
                self._fail_request(client, k)
            elif k:
                self._finish(client, k)
        elif event.kind is _SUSPENDED or event.kind is _RESUMED:
            client.is_telling = False
            self._tell_backend(client)
        else:
            self.tokens.finished(event)

    def on_dropped(self, event: ClientEvent, code: str, text: str) -> None:
        """No backend will handle a message: its client hears so."""
        numbered = cast("NumberedEvent", event)
        k, client = numbered.k, cast("SessionClient", event.stream)
        if isinstance(numbered, JoinEvent):
            self.joins.dropped(client, numbered, code, text)
        elif k and numbered.asks and code == _UNDELIVERABLE:
            self._fail_request(client, k)
        elif k and numbered.is_answered:  # by a backend that has died before it had finished
            self._finish(client, k)
        elif k:
            self._fail(client, k, code, text)

    def _fail_request(self, client: SessionClient, k: int) -> None:
        """Tell a client that there is no reply to its request, which its backend has had, or can't have."""
        consumer = client.consumer
        if consumer is not None and not consumer.answers:
            self._fail(client, k, "not_supported", "the backend answers no requests")
        else:
            self._fail(client, k, "no_reply", "the backend has given no reply")

    def _finish(self, client: SessionClient, k: int) -> None:
        state = client.state
        state.finish(k)
        if state.untold >= _DONE_AT_ONCE and not client.is_gone:
            self._finished.pop(client, None)
            self._tell_done(client)
        else:
            self._tell_done_soon(client)

    def _tell_done_soon(self, client: SessionClient) -> None:
        """Tell a client what is finished, if anything is that it was not told of."""
        if client.state.untold and not client.is_gone:
            self._finished[client] = None
            if self._done_timer is None:
                self._done_timer = self._loop.call_later(_DONE_WITHIN, self._tell_all_done)

    def _fail(self, client: SessionClient, k: int, code: str, text: str) -> None:
        """Tell a client that nothing comes of its message, whenever it is there (promise 11)."""
        if not client.is_gone:
            self._numbered.tell(client, failure_header(k, code, text))
        self._finish(client, k)

    def _tell_all_done(self) -> None:
        self._done_timer = None
        finished, self._finished = self._finished, {}
        for client in finished:
            self._tell_done(client)

    def _tell_done(self, client: SessionClient) -> None:
        state = client.state
        if not client.is_live:  # its next welcome tells it, or it hears so when all that it has missed is sent
            return
        state.told_done = state.done
        self._outbox.send(client.ws, text_frame(f'{{"done":{state.done}}}'))

    # --- time ---

    def pinged(self, ws: WebSocket) -> None:
        """A heartbeat is sent to a client."""
        client = _client_of(ws)
        if client is not None:
            client.is_pinged = True

    def _sweep(self) -> None:
        self._numbered.expire()
        self._sweep_timer = None
        if self._by_number and not self._stopping:
            self._sweep_timer = self._loop.call_later(self._options.window / _SWEEPS + 1, self._sweep)


def _is_told_again(code: int) -> bool:
    """Whether a client that comes back hears again why it was closed; with another token it may come in anew."""
    return code == NORMAL_CLOSURE or (code >= _OF_APPLICATIONS and code != TOKEN_EXPIRED)


def _message_id(state: SessionState, read: ClientHeader) -> str:
    """Return what a message is called. Raises BadFrameError on what it can't be."""
    if len(read.id) > _MAX_NAME or not read.id.isprintable():
        raise BadFrameError("an id is no message's")
    return read.id or f"{state.name}-{read.k}"


def _client_of(ws: IncomingFrames) -> SessionClient | None:
    return cast("SessionClient | None", ws.client)
