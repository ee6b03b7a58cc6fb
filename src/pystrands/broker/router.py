"""Who gets what: clients to backends, events to owners, commands to the engine."""

import asyncio
import logging
from collections import Counter
from uuid import uuid4

from pystrands.broker.admission import Handshake
from pystrands.broker.backends import Backends, Link
from pystrands.broker.queue import EventQueue, Put
from pystrands.broker.rooms import Client, Rooms
from pystrands.broker.websocket import WebSocket
from pystrands.engine.base import Audience, Engine
from pystrands.errors import MalformedLine
from pystrands.protocol import messages

__all__ = ["Router"]

logger = logging.getLogger(__name__)

_RETRY_AFTER = ("Retry-After", "2")
_FAILURES = frozenset({1002, 1003, 1007, 1009, 1011, 1013})
"""Close codes that a client's backend hears of as an error, before the disconnect."""


class _Pending:
    """A client that wants to come in, and no backend has decided on yet."""

    __slots__ = ("handshake", "link", "request_id", "timer", "was_asked")

    def __init__(self, handshake: Handshake, request_id: str, timer: asyncio.TimerHandle) -> None:
        self.handshake = handshake
        self.request_id = request_id
        self.timer = timer
        self.link: Link | None = None
        self.was_asked = False


class Router:
    """Joins the WebSocket side, the links and the engine. Everything here is a callback; nothing waits.

    ``hold_time``: seconds that a new client waits for a backend to be there. ``answer_timeout``: seconds that a backend
    has for its answer, however many are asked.
    """

    def __init__(
        self,
        engine: Engine,
        rooms: Rooms,
        queue: EventQueue[Client],
        *,
        hold_time: float,
        answer_timeout: float,
        counters: Counter[str],
    ) -> None:
        self._engine = engine
        self._rooms = rooms
        self._queue = queue
        self._hold_time = hold_time
        self._answer_timeout = answer_timeout
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._backends: Backends | None = None
        self._pending: dict[Handshake, _Pending] = {}
        self._paused_by_queue: set[Client] = set()
        self._next_client = 1
        self._next_request = 1
        self._stopping = False

    def use(self, backends: Backends) -> None:
        """Route to these; the two know each other, so one has to come first."""
        self._backends = backends

    def stop(self) -> None:
        """Let nobody in any more."""
        self._stopping = True
        for pending in list(self._pending.values()):
            self._refuse(pending, 503, "the server is going down", "refused_stopping")

    @property
    def waiting_handshakes(self) -> int:
        """How many clients wait for a backend's decision."""
        return len(self._pending)

    def _choose(self) -> Link | None:
        assert self._backends is not None
        return self._backends.choose()

    # --- admission ---

    def is_ready(self) -> bool:
        """Whether a new client would find a backend."""
        return not self._stopping and self._choose() is not None

    def connection_request(self, handshake: Handshake) -> None:
        """A client wants to come in: ask a backend, or hold it until there is one."""
        if self._stopping:
            handshake.refuse(503, "the server is going down", (_RETRY_AFTER,))
            return
        request_id = str(self._next_request)
        self._next_request += 1
        timer = self._loop.call_later(self._hold_time, self._timed_out, handshake)
        pending = self._pending[handshake] = _Pending(handshake, request_id, timer)
        self._ask(pending)

    def connection_gone(self, handshake: Handshake) -> None:
        """The client did not wait for the decision."""
        pending = self._pending.get(handshake)
        if pending is not None:
            self._forget(pending)
            self._counters["handshakes_abandoned"] += 1

    def _ask(self, pending: _Pending) -> None:
        """Put the question to the least loaded backend, under a request id that is used on one link only."""
        link = self._choose()
        if link is None:
            return
        if not pending.was_asked:  # one deadline over all backends that get to hear it
            pending.was_asked = True
            pending.timer.cancel()
            pending.timer = self._loop.call_later(self._answer_timeout, self._timed_out, pending.handshake)
        pending.link = link
        link.requests[pending.request_id] = pending
        shake = pending.handshake
        link.write(
            messages.connection_request(
                pending.request_id, shake.path, shake.query_string, shake.headers, shake.remote_addr
            )
        )

    def _forget(self, pending: _Pending) -> None:
        pending.timer.cancel()
        del self._pending[pending.handshake]
        if pending.link is not None:
            pending.link.requests.pop(pending.request_id, None)

    def _refuse(self, pending: _Pending, status: int, reason: str, counter: str) -> None:
        self._forget(pending)
        self._counters[counter] += 1
        pending.handshake.refuse(status, reason, (_RETRY_AFTER,) if status == 503 else ())

    def _timed_out(self, handshake: Handshake) -> None:
        pending = self._pending[handshake]
        link = pending.link
        if link is None:
            self._refuse(pending, 503, "no backend is connected; try again soon", "refused_no_backend")
            return
        self._refuse(pending, 504, "the backend did not answer in time", "refused_no_answer")
        if not link.unresponsive:
            link.unresponsive = True
            logger.warning(
                "%s left a connection request unanswered for %g s (--answer-timeout): "
                "it gets no new clients until it speaks",
                link.name,
                self._answer_timeout,
            )

    def _answered(self, link: Link, answer: messages.Response) -> None:
        pending = link.requests.get(answer.request_id)
        if pending is None:  # the client left, or it came too late
            self._counters["responses_unexpected"] += 1
        elif not answer.params.accepted:
            self._refuse(pending, 403, "the connection was rejected", "refused_by_backend")
        else:
            self._admit(link, pending, answer.params)

    def _admit(self, link: Link, pending: _Pending, params: messages.ResponseParams) -> None:
        handshake = pending.handshake
        client_id = params.client_id or str(uuid4())
        room_id = handshake.path if params.room_id is None else params.room_id
        metadata = bytes(params.metadata)
        try:
            metadata.decode()
        except UnicodeDecodeError:
            self._refuse(pending, 502, "the backend's answer is not UTF-8", "lines_malformed")
            return
        self._forget(pending)
        ws = handshake.accept()
        if ws is None:
            self._counters["handshakes_abandoned"] += 1
            return
        older = self._rooms.find(client_id)
        if older is not None:  # LINK rule 24: its disconnect comes before the new one's connection
            older.ws.close(1008, "this client_id has connected again")
        client = Client(self._next_client, client_id, messages.context_json(client_id, room_id, metadata), ws)
        self._next_client += 1
        ws.client = client
        self._rooms.add(client)
        self._rooms.join(client, room_id)
        self._own(link, client)
        link.write(messages.new_connection(client.context))
        self._counters["clients_admitted"] += 1

    # --- events ---

    @staticmethod
    def _own(link: Link, client: Client) -> None:
        client.link = link
        link.clients.add(client)

    def _owner(self, client: Client) -> Link | None:
        """Return the client's owner; one that has none is given to the least loaded backend now."""
        if client.link is None:
            link = self._choose()
            if link is not None:
                self._own(link, client)
        return client.link

    def client_message(self, ws: WebSocket, message: str | bytes) -> None:
        """A client sent a message: it goes to its owner, or waits for one."""
        client: Client = ws.client
        self._counters["messages_received"] += 1
        link = self._owner(client)
        if link is not None:
            self._forward(link, client, message)
            return
        put = self._queue.put_message(client, message)
        if put is Put.FULL:
            self._paused_by_queue.add(client)
            ws.pause_reading()
        elif put is Put.REFUSED:
            ws.close(1013, "no backend is connected, and the queue is full")

    def _forward(self, link: Link, client: Client, message: str | bytes) -> None:
        if not link.binary and isinstance(message, bytes):  # LINK rule 9
            client.ws.close(1003, "the backend only takes text")
            return
        link.write(messages.new_message(client.context, message))
        if link.blocked:
            link.paused.add(client)
            client.ws.pause_reading()

    def client_closed(self, ws: WebSocket, code: int, reason: str) -> None:
        """A client is gone; its owner is told after its last message."""
        client: Client = ws.client
        self._rooms.remove(client)
        self._paused_by_queue.discard(client)
        self._counters["clients_gone"] += 1
        lines = [messages.disconnected(client.context)]
        if code in _FAILURES:
            lines.insert(0, messages.error(client.context, f"the connection failed with {code}: {reason}"))
        link = self._owner(client)
        if link is None:
            for line in lines:
                self._queue.put_lifecycle(client, line)
            return
        for line in lines:
            link.write(line)
        link.clients.discard(client)
        link.paused.discard(client)

    # --- links ---

    def link_ready(self, link: Link) -> None:
        """A backend is there: it gets what waited."""
        for client, message, line in self._queue.drain():
            owner = self._owner(client)
            assert owner is not None
            if message is None:
                owner.write(line)
            else:
                self._forward(owner, client, message)
            if not client.ws.is_open:  # it left while its events waited: nothing more will come of it
                owner.clients.discard(client)
                owner.paused.discard(client)
        for client in self._paused_by_queue:
            client.ws.resume_reading()
        self._paused_by_queue.clear()
        for pending in list(self._pending.values()):
            if pending.link is None:
                self._ask(pending)
        del link  # whoever has the least to do gets it, which may be another

    def link_lost(self, link: Link) -> None:
        """A backend is gone: its clients have no owner, until their next event finds them one."""
        for client in link.clients:
            client.link = None
        self.link_drained(link)
        if link.clients:
            logger.warning("%d clients of %s go to other backends", len(link.clients), link.name)
        link.clients.clear()
        pending_requests = list(link.requests.values())
        link.requests.clear()
        for pending in pending_requests:
            pending.link = None
            self._ask(pending)

    def link_drained(self, link: Link) -> None:
        """The link takes more: read from the clients again that had to wait for it."""
        for client in link.paused:
            client.ws.resume_reading()
        link.paused.clear()

    # --- commands ---

    def command(self, link: Link, command: messages.Command) -> None:
        """Carry out what a backend wants."""
        try:
            if isinstance(command, messages.MessageToRoom):
                room = command.params
                self._engine.publish(Audience.ROOM, room.room_id, messages.message_content(room.message, room.binary))
            elif isinstance(command, messages.MessageToConnection):
                one = command.params
                self._engine.publish(Audience.CLIENT, one.conn_id, messages.message_content(one.message, one.binary))
            elif isinstance(command, messages.Broadcast):
                everyone = command.params
                self._engine.publish(Audience.EVERYONE, "", messages.message_content(everyone.message, everyone.binary))
            elif isinstance(command, messages.Response):
                self._answered(link, command)
        except MalformedLine as error:
            self._counters["lines_malformed"] += 1
            logger.warning("%s sent a malformed message, which was skipped: %s", link.name, error)
