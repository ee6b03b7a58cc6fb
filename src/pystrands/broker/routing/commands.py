"""What backends want done, apart from answering and finishing: messages, rooms, clients."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

from msgspec import Raw

from pystrands.broker.backends.session import Session
from pystrands.broker.backends.tools import ToolOutput, ToolSession
from pystrands.broker.counters import Counters
from pystrands.broker.fanout.groups import Confirm, Group, Recipient
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.meter import Meter
from pystrands.broker.routing.client_commands import ClientCommand, ClientCommands
from pystrands.broker.routing.client_requests import Answered
from pystrands.broker.routing.confirming import Confirming
from pystrands.broker.routing.histories import Histories
from pystrands.broker.routing.other_brokers import OtherBrokers, present
from pystrands.broker.routing.questions import KeptRoom
from pystrands.engine.base import Delivered, Engine
from pystrands.engine.publication import Audience, Publication
from pystrands.protocol import messages, wire
from pystrands.protocol.limits import id_problem
from pystrands.protocol.messages import (
    Broadcast,
    BroadcastParams,
    DisconnectUser,
    GetPresence,
    KeepHistory,
    MessageToConnection,
    MessageToConnectionParams,
    MessageToRoom,
    MessageToRoomParams,
    MessageToUser,
    MessageToUserParams,
    RecipientParams,
    RequestClient,
    RoomHistory,
    RoomMembers,
    Status,
    Unwatch,
    Watch,
)

__all__ = ["Commands"]

# Looked up for every message: compiled code finds its module's constants at once, and searches for what is imported.
_CLIENT: Final = Audience.CLIENT
_ROOM: Final = Audience.ROOM
_EVERYONE: Final = Audience.EVERYONE
_USER: Final = Audience.USER
_Message: TypeAlias = MessageToConnection | MessageToRoom | MessageToUser | Broadcast
_MessageParams: TypeAlias = MessageToConnectionParams | MessageToRoomParams | MessageToUserParams | BroadcastParams


class Commands:
    """Carries out commands. Those that ask for an answer get a ``result``. ``status()`` says what the broker has.

    ``others``: the brokers that are asked besides, where there may be any.
    """

    def __init__(
        self,
        engine: Engine,
        rooms: Rooms,
        counters: Counters,
        status: Callable[[], dict[str, Any]],
        meter: Meter | None = None,
        clients: ClientCommands | None = None,
        others: OtherBrokers | None = None,
        histories: Histories | None = None,
    ) -> None:
        self._engine = engine
        self._rooms = rooms
        self._pressure = rooms.pressure
        self._counters = counters
        self._status = status
        self._meter = meter or Meter()
        self._clients = clients or ClientCommands(rooms, self._meter)
        self._others = others
        self._histories = histories or Histories(rooms, "", others)

    # --- messages ---

    def on_message_to_connection(self, session: Session, command: MessageToConnection) -> None:
        """Send a message to one client. Raises MalformedLine when it is none, as the other two do."""
        params = command.params
        content = _content(params) if params.binary else params.message
        key = params.key if params.volatile else None
        self._publish(session, command, params, Publication(_CLIENT, params.conn_id, content, (), key, params.confirm))

    def on_message_to_room(self, session: Session, command: MessageToRoom) -> None:
        """Send a message to all in a room."""
        params = command.params
        content = _content(params) if params.binary else params.message
        key = params.key if params.volatile else None
        publication = Publication(
            _ROOM, params.room_id, content, params.exclude, key, params.confirm, not params.history
        )
        self._publish(session, command, params, publication)

    def on_message_to_user(self, session: Session, command: MessageToUser) -> None:
        """Send a message to all clients of a user."""
        params = command.params
        key = params.key if params.volatile else None
        self._publish(
            session,
            command,
            params,
            Publication(_USER, params.user, _content(params), params.exclude, key, params.confirm),
        )

    def on_broadcast(self, session: Session, command: Broadcast) -> None:
        """Send a message to everyone."""
        params = command.params
        key = params.key if params.volatile else None
        self._publish(
            session, command, params, Publication(_EVERYONE, "", _content(params), params.exclude, key, params.confirm)
        )

    def _publish(self, session: Session, command: _Message, params: _MessageParams, publication: Publication) -> None:
        if publication.confirm or (self._others is not None and self._rooms.taps.watchers):
            self._publish_and_tell(session, command, params, publication)
            return
        delivered = self._engine.publish(publication)
        if self._pressure.is_felt and publication.key is None:
            self._is_put_off(session, params, delivered, None)

    def _publish_and_tell(
        self, session: Session, command: _Message, params: _MessageParams, publication: Publication
    ) -> None:
        """Do it for who wants to know what becomes of the message: its sender, or tools that watch several brokers."""
        wanted, others = publication.confirm and bool(command.request_id), self._others
        is_watched = others is not None and bool(self._rooms.taps.watchers)
        if is_watched and publication.audience is _CLIENT:
            publication.confirm = True
        delivered = self._engine.publish(publication)
        answered: Answered | None = partial(self._answer, session, command.request_id) if wanted else None
        if others is not None and is_watched:
            if publication.audience is not _CLIENT:
                rooms = self._rooms.rooms_of_user(publication.address) if publication.audience is _USER else ()
                self._rooms.taps.message_out(publication, delivered[0], None, rooms, elsewhere=not others.is_alone)
            elif not delivered[0]:  # who has the client tells of it; here it is known only later whether anybody has
                answered = partial(self._tell_if_nobody, publication, answered)
        confirm = None if answered is None else self._confirming(answered, publication, delivered)
        if self._pressure.is_felt and publication.key is None and self._is_put_off(session, params, delivered, confirm):
            return
        if confirm is not None:
            confirm(*delivered)

    def _tell_if_nobody(self, publication: Publication, answered: Answered | None, result: dict[str, Any]) -> None:
        if not result["matched"] and result.get("complete", True):
            self._rooms.taps.message_out(publication, 0, None)
        if answered is not None:
            answered(result)

    def _confirming(self, answered: Answered, publication: Publication, delivered: Delivered) -> Confirm:
        """Ask the other brokers what became of a message; return what takes the same of this one, and answers."""
        others = self._others
        if others is not None and publication.audience is _CLIENT and delivered[0]:
            others = None  # nobody else has that client
        confirming = Confirming(answered, elsewhere=others is not None)
        if others is not None:
            others.confirm(confirming)
        return confirming.here

    def _is_put_off(
        self, session: Session, params: _MessageParams, delivered: Delivered, confirm: Confirm | None
    ) -> bool:
        """Look whether the recipient is full; return whether it is, and the confirmation waits until it takes more."""
        self._pressure.is_felt = False
        target: Recipient | Group | None
        if isinstance(params, MessageToConnectionParams):
            client = self._rooms.find(params.conn_id)
            target, named = None if client is None else client.ws, RecipientParams(client_id=params.conn_id)
        elif isinstance(params, MessageToRoomParams):
            target, named = self._rooms.room(params.room_id), RecipientParams(room_id=params.room_id)
        elif isinstance(params, MessageToUserParams):
            return self._is_user_full(session, params, delivered, confirm)
        else:
            target, named = self._rooms.everyone, RecipientParams()
        if target is None:
            return False
        return self._pressure.heed(session, target, named, confirm, delivered, len(params.message))

    def _is_user_full(
        self, session: Session, params: MessageToUserParams, delivered: Delivered, confirm: Confirm | None
    ) -> bool:
        """Whether a user is full, as he is when most of his clients are: until one of these takes more."""
        sockets = [client.ws for client in self._rooms.users.clients(params.user)]
        full = [ws for ws in sockets if ws.behind is not None]
        named, size = RecipientParams(user=params.user), len(params.message)
        if session.flow:
            full = full[:1] if len(full) * 2 > len(sockets) else []
        is_put_off = False
        for ws in full:
            is_put_off = self._pressure.heed(session, ws, named, confirm, delivered, size)
        return is_put_off

    # --- clients and rooms ---

    def on_room_members(self, session: Session, command: RoomMembers) -> None:
        """Tell who is in a room."""
        params, request_id, others = command.params, command.request_id, self._others
        here = [Raw(context) for context in self._rooms.contexts(params.room_id)]
        if others is None or others.is_alone:
            self._answer(session, request_id, {"members": here})
        elif request_id:
            answered = partial(self._answer, session, request_id)
            others.members(params.room_id, session.max_line, here, params.partial, answered)

    def on_presence(self, session: Session, command: GetPresence) -> None:
        """Tell who is present in a room."""
        params, request_id, others = command.params, command.request_id, self._others
        here = [] if self._rooms.presence is None else self._rooms.presence.own(params.room_id)
        if others is None or others.is_alone:
            self._answer(session, request_id, present(here))
        elif request_id:
            answered = partial(self._answer, session, request_id)
            others.present(params.room_id, session.max_line, here, params.partial, answered)

    def on_client_command(self, session: Session, command: ClientCommand) -> None:
        """Do something with a client, whichever broker has it."""
        result = self._clients.carry_out(command)
        if self._others is not None and not result["found"]:
            self._others.about_client(command, partial(self._answer, session, command.request_id))
        else:
            self._answer(session, command.request_id, result)

    def on_disconnect_user(self, session: Session, command: DisconnectUser) -> None:
        """Close all clients of a user, at whichever brokers they are."""
        result = self._clients.disconnect_user(command)
        if self._others is None or self._others.is_alone or "error" in result:
            self._answer(session, command.request_id, result)
        else:
            self._others.disconnect_user(command, result["matched"], partial(self._answer, session, command.request_id))

    def on_request_client(self, session: Session, command: RequestClient) -> None:
        """Ask a client, whichever broker has it. Raises MalformedLine when the question is no message."""
        answered = partial(self._answer, session, command.request_id)
        others = self._others
        elsewhere = None if others is None else partial(others.request, command, answered)
        self._clients.request(command, answered, elsewhere)

    # --- histories ---

    def on_keep_history(self, session: Session, command: KeepHistory) -> None:
        """Keep a room's history at all brokers, or no more."""
        params, others = command.params, self._others
        problem = self._histories.keep(params.room_id, params.limit, params.ttl)
        if problem or others is None or others.is_alone:
            self._answer(session, command.request_id, {"error": problem} if problem else {"found": True})
        else:
            answered = partial(self._answer, session, command.request_id)
            others.keep_history(KeptRoom(params.room_id, params.limit, params.ttl), answered)

    def on_room_history(self, session: Session, command: RoomHistory) -> None:
        """Tell what was sent to a room lately, as this broker has it."""
        params = command.params
        self._answer(session, command.request_id, self._histories.read(params.room_id, params.limit, params.before))

    # --- tools ---

    def on_status(self, session: Session, command: Status) -> None:
        """Tell what the broker has, or all of them."""
        if not command.is_about_all:
            self._answer(session, command.request_id, self._status())
        elif self._others is None:
            self._answer(session, command.request_id, {"brokers": [self._status()], "silent": [], "connected": True})
        else:
            self._others.status(self._status(), partial(self._answer, session, command.request_id))

    def on_watch(self, session: Session, command: Watch) -> None:
        """Have a tool see what flows."""
        output, room_id = self._output(session, command.request_id, command.params.room_id), command.params.room_id
        if output is None:
            return
        result: dict[str, Any] = {"watching": True}
        if not self._rooms.taps.watch(output, room_id):
            result["error"] = "a tool can't watch so many rooms: watch all of them"
        self._answer(session, command.request_id, result)

    def on_unwatch(self, session: Session, command: Unwatch) -> None:
        """Have a tool see no more."""
        output = self._output(session, command.request_id, command.params.room_id)
        if output is not None:
            self._rooms.taps.unwatch(output, command.params.room_id)
            self._answer(session, command.request_id, {"watching": output in self._rooms.taps.watchers})

    def _output(self, session: Session, request_id: str | None, room_id: str | None) -> ToolOutput | None:
        """Return where a tool that may watch that room writes; None, when it is told why it may not."""
        if not isinstance(session, ToolSession):
            problem, watching = "only a link whose hello has the role of a tool may watch", False
        elif room_id is not None and (text := id_problem("room_id", room_id)):
            problem, watching = text, session.output in self._rooms.taps.watchers
        else:
            return session.output
        self._answer(session, request_id, {"watching": watching, "error": problem})
        return None

    def _answer(self, session: Session, request_id: str | None, result: dict[str, Any]) -> None:
        if not request_id:
            return
        line = wire.result(request_id, result)
        if session.max_line and len(line) > session.max_line:  # it would never get through, nor what comes after it
            self._counters["results_too_long"] += 1
            error = f"the answer has {len(line)} bytes, and this backend takes {session.max_line}"
            line = wire.result(request_id, {"error": error})
        session.write(line)
        meter = self._meter
        meter.grown += len(line)
        if meter.grown > meter.mark:  # a command of a hundred bytes may be answered with megabytes
            meter.over()


def _content(params: _MessageParams) -> str | bytes:
    return messages.message_content(params.message, True) if params.binary else params.message
