"""What backends want done, apart from answering and finishing: messages, rooms, clients."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from pystrands.broker.backends.session import Session
from pystrands.broker.backends.tools import ToolOutput, ToolSession
from pystrands.broker.counters import Counters
from pystrands.broker.fanout.groups import Group, Recipient
from pystrands.broker.hub.client import ROOM_BYTES, ConnectedClient
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.meter import Meter
from pystrands.engine.base import Delivered, Engine
from pystrands.engine.publication import Audience, Publication
from pystrands.protocol import messages, wire
from pystrands.protocol.close_codes import close_code_is_valid
from pystrands.protocol.limits import depth_problem, id_problem
from pystrands.protocol.messages import (
    Broadcast,
    BroadcastParams,
    DisconnectClient,
    JoinRoom,
    LeaveRoom,
    MessageToConnection,
    MessageToConnectionParams,
    MessageToRoom,
    MessageToRoomParams,
    RecipientParams,
    RoomMembers,
    Status,
    Unwatch,
    UpdateMetadata,
    Watch,
)

__all__ = ["Commands"]

# Looked up for every message: compiled code finds its module's constants at once, and searches for what is imported.
_CLIENT: Final = Audience.CLIENT
_ROOM: Final = Audience.ROOM
_EVERYONE: Final = Audience.EVERYONE
_Message: TypeAlias = MessageToConnection | MessageToRoom | Broadcast
_MessageParams: TypeAlias = MessageToConnectionParams | MessageToRoomParams | BroadcastParams
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Commands:
    """Carries out commands. Those that ask for an answer get a ``result``. ``status()`` says what the broker has."""

    def __init__(
        self,
        engine: Engine,
        rooms: Rooms,
        counters: Counters,
        status: Callable[[], dict[str, Any]],
        meter: Meter | None = None,
    ) -> None:
        self._engine = engine
        self._rooms = rooms
        self._pressure = rooms.pressure
        self._counters = counters
        self._status = status
        self._meter = meter or Meter()

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
        self._publish(
            session, command, params, Publication(_ROOM, params.room_id, content, params.exclude, key, params.confirm)
        )

    def on_broadcast(self, session: Session, command: Broadcast) -> None:
        """Send a message to everyone."""
        params = command.params
        key = params.key if params.volatile else None
        self._publish(
            session, command, params, Publication(_EVERYONE, "", _content(params), params.exclude, key, params.confirm)
        )

    def _publish(self, session: Session, command: _Message, params: _MessageParams, publication: Publication) -> None:
        delivered = self._engine.publish(publication)
        if self._pressure.is_felt and publication.key is None and self._is_put_off(session, command, params, delivered):
            return
        if params.confirm:
            self._confirm(session, command.request_id, delivered)

    def _is_put_off(self, session: Session, command: _Message, params: _MessageParams, delivered: Delivered) -> bool:
        """Look whether the recipient is full; return whether it is, and the confirmation waits until it takes more."""
        self._pressure.is_felt = False
        target: Recipient | Group | None
        if isinstance(params, MessageToConnectionParams):
            client = self._rooms.find(params.conn_id)
            target, named = None if client is None else client.ws, RecipientParams(client_id=params.conn_id)
        elif isinstance(params, MessageToRoomParams):
            target, named = self._rooms.room(params.room_id), RecipientParams(room_id=params.room_id)
        else:
            target, named = self._rooms.everyone, RecipientParams()
        confirm_as = (params.confirm and command.request_id) or ""
        if target is None:
            return False
        return self._pressure.heed(session, target, named, confirm_as, delivered, len(params.message))

    @staticmethod
    def _confirm(session: Session, request_id: str | None, delivered: Delivered) -> None:
        if request_id:
            matched, taken = delivered
            session.write(wire.result(request_id, {"matched": matched, "skipped": matched - taken}))

    # --- clients and rooms ---

    def on_room_members(self, session: Session, command: RoomMembers) -> None:
        """Tell who is in a room."""
        members = [ws.client for ws in self._rooms.members(command.params.room_id)]
        contexts = [msgspec.Raw(client.context) for client in members if client is not None]
        self._answer(session, command.request_id, {"members": contexts})

    def on_join_room(self, session: Session, command: JoinRoom) -> None:
        """Put a client into a room."""
        client, room_id = self._rooms.find(command.params.client_id), command.params.room_id
        problem = ""
        if client is not None and not (problem := self._rooms.join_problem(client, room_id)):
            self._rooms.join(client, room_id)
            self._meter.grown += ROOM_BYTES
        self._answer_about(session, command.request_id, client, problem)

    def on_leave_room(self, session: Session, command: LeaveRoom) -> None:
        """Take a client out of a room."""
        client = self._rooms.find(command.params.client_id)
        if client is not None:
            self._rooms.leave(client, command.params.room_id)
        self._answer_about(session, command.request_id, client)

    def on_disconnect_client(self, session: Session, command: DisconnectClient) -> None:
        """Close a client."""
        client, code = self._rooms.find(command.params.client_id), command.params.code
        problem = ""
        if client is not None:
            if close_code_is_valid(code):
                client.ws.close(code, command.params.reason)
            else:
                problem = f"{code} is no close code that can be sent (1000, 3000 to 4999)"
        self._answer_about(session, command.request_id, client, problem)

    def on_update_metadata(self, session: Session, command: UpdateMetadata) -> None:
        """Set keys of a client's metadata."""
        client = self._rooms.find(command.params.client_id)
        problem = "" if client is None else self._update(client, command.params.metadata)
        self._answer_about(session, command.request_id, client, problem)

    def _answer_about(
        self, session: Session, request_id: str | None, client: ConnectedClient | None, problem: str = ""
    ) -> None:
        result: dict[str, Any] = {"found": client is not None}
        if problem:
            result["error"] = problem
        self._answer(session, request_id, result)

    def _update(self, client: ConnectedClient, changes: dict[str, Any]) -> str:
        """Set keys of a client's metadata; return why that can't be, in words for people, or an empty text."""
        if problem := depth_problem(changes):
            return problem
        try:
            old = _members(client.metadata)  # which stay as they are, whatever they are
        except msgspec.ValidationError:
            if client.metadata != b"null":
                return "the client's metadata is no object, and has no keys to set"
            old = {}
        metadata = msgspec.json.encode({**old, **changes})
        size = client.context_size - len(client.metadata) + len(metadata)
        if len(metadata) > len(client.metadata) and (problem := self._rooms.growth_problem(size)):
            return problem
        client.metadata = metadata
        return ""

    # --- tools ---

    def on_status(self, session: Session, command: Status) -> None:
        """Tell what the broker has."""
        self._answer(session, command.request_id, self._status())

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
