"""What backends want done, apart from answering and finishing: messages, rooms, clients."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from pystrands.broker.backends.session import Session
from pystrands.broker.backends.tools import ToolSession
from pystrands.broker.counters import Counters
from pystrands.broker.fanout.groups import Group, Recipient
from pystrands.broker.hub.client import ROOM_BYTES, ConnectedClient
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.meter import Meter
from pystrands.engine.base import Audience, Delivered, Engine
from pystrands.protocol import messages, wire
from pystrands.protocol.close_codes import close_code_is_valid
from pystrands.protocol.limits import depth_problem, id_problem
from pystrands.protocol.messages import (
    Broadcast,
    BroadcastParams,
    Command,
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
_TO_ONE: Final = MessageToConnection
_TO_ROOM: Final = MessageToRoom
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

    def carry_out(self, session: Session, command: Command) -> None:
        """Do what a backend wants. Raises MalformedLine on a message that is none."""
        if isinstance(command, _TO_ONE):
            one = command.params
            if one.volatile:
                self._send_volatile(session, command, one)
                return
            delivered = self._engine.publish(_CLIENT, one.conn_id, _content(one) if one.binary else one.message)
            if self._pressure.is_felt and self._is_put_off(session, command, one, delivered):
                return
            if one.confirm:
                self._confirm(session, command.request_id, delivered)
        elif isinstance(command, _TO_ROOM):
            room = command.params
            if room.volatile:
                self._send_volatile(session, command, room)
                return
            content = _content(room) if room.binary else room.message
            delivered = self._engine.publish(_ROOM, room.room_id, content, room.exclude)
            if self._pressure.is_felt and self._is_put_off(session, command, room, delivered):
                return
            if room.confirm:
                self._confirm(session, command.request_id, delivered)
        elif isinstance(command, Broadcast):
            everyone = command.params
            if everyone.volatile:
                self._send_volatile(session, command, everyone)
                return
            delivered = self._engine.publish(_EVERYONE, "", _content(everyone), everyone.exclude)
            if self._pressure.is_felt and self._is_put_off(session, command, everyone, delivered):
                return
            if everyone.confirm:
                self._confirm(session, command.request_id, delivered)
        else:
            result = self._look(session, command)
            if result is None:
                result = self._manage(command)
            request_id = getattr(command, "request_id", None)
            if result is not None and request_id:
                self._answer(session, request_id, result)

    def _answer(self, session: Session, request_id: str, result: dict[str, Any]) -> None:
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

    def _send_volatile(self, session: Session, command: _Message, params: _MessageParams) -> None:
        exclude: tuple[str, ...] = ()
        if isinstance(params, MessageToConnectionParams):
            audience, address = _CLIENT, params.conn_id
        elif isinstance(params, MessageToRoomParams):
            audience, address, exclude = _ROOM, params.room_id, params.exclude
        else:
            audience, address, exclude = _EVERYONE, "", params.exclude
        delivered = self._engine.publish(audience, address, _content(params), exclude, params.key)
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

    def _manage(self, command: Command) -> dict[str, Any] | None:
        """Return the result of a command about a client or a room; None when it is none of those."""
        if isinstance(command, RoomMembers):
            members = [ws.client for ws in self._rooms.members(command.params.room_id)]
            return {"members": [msgspec.Raw(client.context) for client in members if client is not None]}
        if not isinstance(command, JoinRoom | LeaveRoom | DisconnectClient | UpdateMetadata):
            return None
        client = self._rooms.find(command.params.client_id)
        if client is None:
            return {"found": False}
        if isinstance(command, JoinRoom):
            if problem := self._rooms.why_not(client, command.params.room_id):
                return {"found": True, "error": problem}
            self._rooms.join(client, command.params.room_id)
            self._meter.grown += ROOM_BYTES
        elif isinstance(command, LeaveRoom):
            self._rooms.leave(client, command.params.room_id)
        elif isinstance(command, UpdateMetadata):
            if problem := self._update(client, command.params.metadata):
                return {"found": True, "error": problem}
        else:
            code = command.params.code
            if not close_code_is_valid(code):
                return {"found": True, "error": f"{code} is no close code that can be sent (1000, 3000 to 4999)"}
            client.ws.close(code, command.params.reason)
        return {"found": True}

    def _look(self, session: Session, command: Command) -> dict[str, Any] | None:
        """Return the result of a tool's command; None when it is none of those."""
        if isinstance(command, Status):
            return self._status()
        if not isinstance(command, Watch | Unwatch):
            return None
        if not isinstance(session, ToolSession):
            return {"watching": False, "error": "only a link whose hello has the role of a tool may watch"}
        taps, room_id = self._rooms.taps, command.params.room_id
        if room_id is not None and (problem := id_problem("room_id", room_id)):
            return {"watching": session.output in taps.watchers, "error": problem}
        if isinstance(command, Unwatch):
            taps.unwatch(session.output, room_id)
            return {"watching": session.output in taps.watchers}
        if not taps.watch(session.output, room_id):
            return {"watching": True, "error": "a tool can't watch so many rooms: watch all of them"}
        return {"watching": True}

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
        if len(metadata) > len(client.metadata) and (problem := self._rooms.limits.context_problem(size)):
            return problem
        client.metadata = metadata
        return ""


def _content(params: _MessageParams) -> str | bytes:
    return messages.message_content(params.message, True) if params.binary else params.message
