"""Which clients there are, and who is in which room."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final, cast

import msgspec

from pystrands.broker.events.assignments import ClientStream
from pystrands.broker.fanout.groups import Group
from pystrands.broker.fanout.outbox import Outbox
from pystrands.broker.hub.taps import Taps
from pystrands.broker.ws.expiry import NEVER
from pystrands.protocol import wire
from pystrands.protocol.limits import Limits, id_problem

if TYPE_CHECKING:
    from pystrands.broker.ws.websocket import WebSocket

__all__ = ["ROOM_BYTES", "ConnectedClient", "Rooms"]

ROOM_BYTES: Final = 800
"""What a room takes beside its name, with one client in it."""
SMALL: Final = 1024
"""Bytes of a context that is kept encoded, and repeated in each event."""

_json: Final = msgspec.json.Encoder().encode


class ConnectedClient(ClientStream):
    """One WebSocket peer that was let in, with the lane of its events.

    ``number`` is the broker's own, never used twice (LINK rule 24). ``room_id`` is the room it was let into.
    """

    __slots__ = (
        "_left",
        "_metadata",
        "_rooms_size",
        "client_id",
        "expires_at",
        "number",
        "room_id",
        "small",
        "told",
        "ws",
    )

    def __init__(self, number: int, client_id: str, room_id: str, metadata: bytes, ws: "WebSocket") -> None:
        super().__init__()
        self.number = number
        self.client_id = client_id
        self.room_id = room_id
        self.ws = ws
        self.expires_at = NEVER
        """Seconds since 1970 from which on none of its messages is delivered."""
        self._metadata = metadata
        self._left: tuple[str, ...] | None = None  # of a client that is gone: the rooms that it was in
        self._rooms_size = 0  # bytes of their names as JSON, with the commas
        self.small = b""
        """Its context as JSON, if that is small, and an event has needed it since its last change."""
        self.told = 0
        """The number of the session that was told of the present context, which is not small; 0: none was."""

    def __repr__(self) -> str:
        return f"<Client {self.number} {self.client_id!r}>"

    @property
    def rooms(self) -> tuple[str, ...]:
        """All rooms that it is in, in the order in which it joined them; of one that is gone, those that it was in."""
        if self._left is not None:
            return self._left
        return tuple([group.name for group in self.ws.groups if group.name is not None])

    @property
    def context(self) -> bytes:
        """The JSON of its context: the constant part of all of its events."""
        return self.small or self._encode()

    @property
    def context_size(self) -> int:
        """How many bytes the context has as JSON, at most."""
        beside = len(wire.context_json(self.client_id, self.room_id, b"", ()))
        return beside + self._rooms_size + len(self._metadata)

    @property
    def held_bytes(self) -> int:
        """About how many bytes are kept for its rooms and its metadata; a single room with a short name is free."""
        others = len(self.ws.groups) - 2  # all are in the group of everyone; one room is a part of each connection
        return max(others, 0) * ROOM_BYTES + self._rooms_size + len(self._metadata) + len(self.small)

    @property
    def told_bytes(self) -> int:
        """How many of these bytes its last event tells: they are kept until that is finished."""
        return self._rooms_size + len(self._metadata)

    @property
    def metadata(self) -> bytes:
        """JSON, as the backend gave it."""
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: bytes) -> None:
        self._metadata = metadata
        self._changed()

    def joined(self, room_id: str) -> None:
        """Note that it is in one more room."""
        self._rooms_size += json_size(room_id)
        self._changed()

    def left(self, room_id: str) -> None:
        """Note that it is in a room no more."""
        self._rooms_size -= json_size(room_id)
        self._changed()

    def gone(self, rooms: tuple[str, ...]) -> None:
        """Note that it is in no room any more, and was in these."""
        self._left = rooms

    def _changed(self) -> None:
        self.small = b""
        self.told = 0

    def _encode(self) -> bytes:
        rooms = self.rooms
        others = rooms if rooms != (self.room_id,) else None
        context = wire.context_json(self.client_id, self.room_id, self._metadata, others)
        if len(context) <= SMALL:
            self.small = context
        return context


def json_size(room_id: str) -> int:
    """Return how many bytes a room takes in a list of JSON."""
    return len(_json(room_id)) + 1


class Rooms:
    """The clients of this broker by id and by room; a client may be in any number of rooms.

    Each room is a group of ``outbox``, and so are all clients. ``on_first`` and ``on_last`` are told of rooms that come
    and go with their first and last client, ``taps`` of all who join and leave. ``limits`` is for who asks
    :meth:`why_not` before.
    """

    def __init__(
        self,
        outbox: Outbox,
        on_first: Callable[[str], None],
        on_last: Callable[[str], None],
        taps: Taps | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.taps = taps or Taps()
        self.everyone = Group()
        self.pressure = outbox.pressure
        self._outbox = outbox
        self._on_first = on_first
        self._on_last = on_last
        self._by_id: dict[str, ConnectedClient] = {}
        self._rooms: dict[str, Group] = {}

    def __len__(self) -> int:
        """How many clients there are."""
        return len(self._by_id)

    @property
    def room_count(self) -> int:
        """How many rooms have at least one client."""
        return len(self._rooms)

    @property
    def clients(self) -> Collection[ConnectedClient]:
        """All clients."""
        return self._by_id.values()

    @property
    def sockets(self) -> Collection["WebSocket"]:
        """The sockets of all clients."""
        return cast("set[WebSocket]", self.everyone.members)

    def find(self, client_id: str) -> ConnectedClient | None:
        """Return the client of that id, if there is one."""
        return self._by_id.get(client_id)

    def room(self, room_id: str) -> Group | None:
        """Return the clients in a room, if there are any."""
        return self._rooms.get(room_id)

    def members(self, room_id: str) -> Collection["WebSocket"]:
        """Return the sockets of the clients in a room."""
        group = self._rooms.get(room_id)
        return () if group is None else cast("set[WebSocket]", group.members)

    def add(self, client: ConnectedClient) -> None:
        """Take in a client whose id is not in use; it is in no room yet."""
        assert client.client_id not in self._by_id
        self._by_id[client.client_id] = client
        self._outbox.join(client.ws, self.everyone)

    def remove(self, client: ConnectedClient) -> None:
        """Forget a client and take it out of all of its rooms; ``client.rooms`` still says which those were."""
        del self._by_id[client.client_id]
        client.gone(client.rooms)
        for group in self._outbox.leave_all(client.ws):
            if group.name is not None:
                self._was_left(client, group.name, group)

    def why_not(self, client: ConnectedClient, room_id: str) -> str:
        """Return why a client may not join a room, in words for people; an empty text when it may, or is in it."""
        limits = self.limits
        if problem := id_problem("room_id", room_id):
            return problem
        group = self._rooms.get(room_id)
        if group is not None and client.ws in group.members:
            return ""
        if len(client.ws.groups) > limits.max_rooms:  # one of them is that of everyone
            return (
                f"the client is in {limits.max_rooms} rooms, and may be in no more: have it leave others first, "
                "or raise the broker's --max-rooms-per-client"
            )
        return limits.context_problem(client.context_size + json_size(room_id))

    def join(self, client: ConnectedClient, room_id: str) -> bool:
        """Put a client into a room; return False when it was in it."""
        group = self._rooms.get(room_id)
        if group is None:
            group = self._rooms[room_id] = Group(room_id)
            self._on_first(room_id)
        elif client.ws in group.members:
            return False
        self._outbox.join(client.ws, group)
        client.joined(room_id)
        if self.taps.watchers:
            self.taps.moved("joined", client, room_id)
        return True

    def leave(self, client: ConnectedClient, room_id: str) -> bool:
        """Take a client out of a room; return False when it was not in it."""
        group = self._rooms.get(room_id)
        if group is None or client.ws not in group.members:
            return False
        self._outbox.leave(client.ws, group)
        client.left(room_id)
        self._was_left(client, room_id, group)
        return True

    def _was_left(self, client: ConnectedClient, room_id: str, group: Group) -> None:
        if not group.members:
            del self._rooms[room_id]
            self._on_last(room_id)
        if self.taps.watchers:
            self.taps.moved("left", client, room_id)
