"""What backends want done with a client of this broker, whichever broker they are linked to."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from pystrands.broker.hub.client import ROOM_BYTES, ConnectedClient, SessionClient
from pystrands.broker.hub.rooms import Rooms
from pystrands.broker.meter import Meter
from pystrands.broker.routing.client_requests import Answered, ClientRequests
from pystrands.protocol.close_codes import close_code_is_valid
from pystrands.protocol.limits import depth_problem
from pystrands.protocol.messages import (
    DisconnectClient,
    DisconnectUser,
    JoinRoom,
    LeaveRoom,
    RequestClient,
    SetPresence,
    UpdateMetadata,
)

__all__ = ["ClientCommand", "ClientCommands"]

ClientCommand: TypeAlias = JoinRoom | LeaveRoom | SetPresence | DisconnectClient | UpdateMetadata
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ClientCommands:
    """Carries them out. ``requests``: what clients are asked, where they can be."""

    def __init__(self, rooms: Rooms, meter: Meter | None = None, requests: ClientRequests | None = None) -> None:
        self._rooms = rooms
        self._meter = meter or Meter()
        self._requests = requests

    def request(self, command: RequestClient, answered: Answered, elsewhere: Callable[[], None] | None = None) -> None:
        """Ask a client; where it is not here, call ``elsewhere()``. Raises MalformedLine on what is no message."""
        client = self._rooms.find(command.params.client_id)
        if client is None and elsewhere is not None:
            elsewhere()
        elif self._requests is not None:
            self._requests.ask(client, command.params, answered)
        else:
            answered({"found": client is not None, "code": "not_supported", "error": "this broker asks no clients"})

    def carry_out(self, command: ClientCommand) -> dict[str, Any]:
        """Do it, and return what the ``result`` has: whether the client is here, and why it could not be done."""
        client = self._rooms.find(command.params.client_id)
        if client is None:
            return {"found": False}
        if isinstance(command, JoinRoom):
            problem = self._join(client, command.params.room_id, signals=command.params.signals)
        elif isinstance(command, LeaveRoom):
            self._rooms.leave(client, command.params.room_id, "removed")
            problem = ""
        elif isinstance(command, SetPresence):
            problem = self._set_presence(client, command.params.room_id, bytes(command.params.info))
        elif isinstance(command, DisconnectClient):
            problem = _close(client, command.params.code, command.params.reason)
        else:
            problem = self._update(client, command.params.metadata)
        return {"found": True, "error": problem} if problem else {"found": True}

    def disconnect_user(self, command: DisconnectUser) -> dict[str, Any]:
        """Close all clients of a user, and return how many these are, or why they can't be closed."""
        params = command.params
        clients = self._rooms.users.clients(params.user)
        if not close_code_is_valid(params.code):
            return {"matched": 0, "error": _bad_code(params.code)}
        for client in clients:
            client.close(params.code, params.reason)
        return {"matched": len(clients)}

    def _join(self, client: ConnectedClient, room_id: str, *, signals: bool) -> str:
        problem = self._rooms.join_problem(client, room_id)
        if not problem:
            self._rooms.join(client, room_id)
            self._meter.grown += ROOM_BYTES
            if signals and isinstance(client, SessionClient):
                client.may_signal(room_id)
        return problem

    def _set_presence(self, client: ConnectedClient, room_id: str, info: bytes) -> str:
        presence = self._rooms.presence
        if presence is None:
            return "this broker tells nobody who is present"
        if not self._rooms.is_member(client, room_id):
            return "the client is not in that room: have it join first"
        if info == b"null":
            presence.take_out(client, room_id)
            return ""
        return presence.enter(client, room_id, info)

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


def _close(client: ConnectedClient, code: int, reason: str) -> str:
    """Close a client; return why that can't be done."""
    if not close_code_is_valid(code):
        return _bad_code(code)
    client.close(code, reason)
    return ""


def _bad_code(code: int) -> str:
    return f"{code} is no close code that can be sent (1000, 3000 to 4999)"
